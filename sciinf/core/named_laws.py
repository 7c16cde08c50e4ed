"""Distributions for priors, with the usual names and arguments: `Prior(rate=(LogNormal(0.0, 0.5), "1/h"))`.

Arguments are plain numbers in the order of `torch.distributions`. The functions return distributions of
`torch.distributions` with float64 arguments, so no digit of a Julian date is lost. `LogUniform` is a class of
`core.log_uniform`. `core.laws.Truncated` restricts a distribution to bounds.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core.law_arguments import Number, finite, positive
from sciinf.core.log_uniform import LogUniform

__all__ = [
    "Beta",
    "Cauchy",
    "Exponential",
    "Gamma",
    "HalfCauchy",
    "HalfNormal",
    "Laplace",
    "LogNormal",
    "LogUniform",
    "Normal",
    "StudentT",
    "Uniform",
]


def Normal(mean: Number, sd: Number) -> td.Normal:
    """The normal distribution, a bell curve.

    About 95 % of the mass lies within two standard deviations of the mean.

    Args:
        mean: Centre of the distribution. In the parameter's unit.
        sd: Standard deviation of the distribution, above 0. In the parameter's unit.

    Raises:
        TypeError: If an argument is not one number.
        ValueError: If an argument is not finite, or `sd` is not above 0.

    Examples:
        >>> Normal(mean=20.0, sd=0.5)
        Normal(loc: 20.0, scale: 0.5)
    """
    return td.Normal(_number("Normal(mean, sd)", "mean", mean), _above_zero("Normal(mean, sd)", "sd", sd))


def Uniform(low: Number, high: Number) -> td.Uniform:
    """The uniform distribution: all values between two bounds are equally likely, and no others occur.

    Args:
        low: Smallest value. In the parameter's unit.
        high: Largest value, above `low`. In the parameter's unit.

    Raises:
        TypeError: If an argument is not one number.
        ValueError: If a bound is not finite, or `low` is not below `high`.

    Examples:
        >>> Uniform(low=-1.0, high=1.0)
        Uniform(low: -1.0, high: 1.0)
    """
    call = "Uniform(low, high)"
    below, above = finite(call, "low", low), finite(call, "high", high)
    if above < below:
        raise ValueError(f"{call}: low = {below:g} must be below high = {above:g}. Did you swap them?")
    if above == below:
        raise ValueError(
            f"{call}: low = {below:g} must be below high = {above:g}. If the value is known, write it into "
            "the simulator, as a constant"
        )
    return td.Uniform(_double(below), _double(above))


def LogNormal(mean_log: Number, sd_log: Number) -> td.LogNormal:
    """The log-normal distribution of positive values: their natural logarithm is normal.

    The median is exp(mean_log).

    Args:
        mean_log: Mean of log(value), where the value is in the parameter's unit: for a median of 3 mV, log(3).
        sd_log: Standard deviation of log(value), above 0, without a unit: 0.1 is a spread of about 10 %.

    Raises:
        TypeError: If an argument is not one number.
        ValueError: If an argument is not finite, or `sd_log` is not above 0.

    Examples:
        >>> law = LogNormal(mean_log=0.0, sd_log=0.5)
        >>> [round(float(law.icdf(torch.tensor(p))), 2) for p in (0.025, 0.5, 0.975)]
        [0.38, 1.0, 2.66]
    """
    call = "LogNormal(mean_log, sd_log)"
    return td.LogNormal(_number(call, "mean_log", mean_log), _above_zero(call, "sd_log", sd_log))


def HalfNormal(scale: Number) -> td.HalfNormal:
    """The half-normal distribution: the upper half of a normal distribution with mean 0.

    Its values are positive, and most likely near 0.

    Args:
        scale: Standard deviation of the whole normal distribution, above 0. In the parameter's unit. About 68
            % of the values are smaller.

    Raises:
        TypeError: If the argument is not one number.
        ValueError: If the argument is not finite and above 0.

    Examples:
        >>> round(float(HalfNormal(scale=2.0).cdf(torch.tensor(2.0))), 3)
        0.683
    """
    return td.HalfNormal(_above_zero("HalfNormal(scale)", "scale", scale))


def HalfCauchy(scale: Number) -> td.HalfCauchy:
    """The half-Cauchy distribution: the upper half of a Cauchy distribution around 0.

    Its values are positive, and a few of them are very large.

    Args:
        scale: Median of the distribution, above 0. In the parameter's unit.

    Raises:
        TypeError: If the argument is not one number.
        ValueError: If the argument is not finite and above 0.

    Examples:
        >>> float(HalfCauchy(scale=2.0).cdf(torch.tensor(2.0)))
        0.5
    """
    return td.HalfCauchy(_above_zero("HalfCauchy(scale)", "scale", scale))


def Exponential(rate: Number) -> td.Exponential:
    """The exponential distribution of positive values, with mean 1 / rate.

    Values near 0 are the most likely. Waiting times are an example.

    Args:
        rate: 1 / mean, above 0. In 1 / the parameter's unit.

    Raises:
        TypeError: If the argument is not one number.
        ValueError: If the argument is not finite and above 0.

    Examples:
        >>> float(Exponential(rate=0.5).mean)
        2.0
    """
    return td.Exponential(_above_zero("Exponential(rate)", "rate", rate))


def Gamma(shape: Number, rate: Number) -> td.Gamma:
    """The gamma distribution of positive values.

    The mean is shape / rate, and the standard deviation is sqrt(shape) / rate.

    Args:
        shape: Shape parameter, above 0, without a unit. From 1 on, the density has its peak at (shape - 1) /
            rate.
        rate: 1 / scale, above 0. In 1 / the parameter's unit.

    Raises:
        TypeError: If an argument is not one number.
        ValueError: If an argument is not finite and above 0.

    Examples:
        >>> law = Gamma(shape=4.0, rate=2.0)
        >>> float(law.mean), float(law.stddev)
        (2.0, 1.0)
    """
    call = "Gamma(shape, rate)"
    return td.Gamma(_above_zero(call, "shape", shape), _above_zero(call, "rate", rate))


def Beta(a: Number, b: Number) -> td.Beta:
    """The beta distribution of values between 0 and 1, such as fractions, with mean a / (a + b).

    Args:
        a: First shape parameter, above 0, without a unit. Large values move the mass towards 1.
        b: Second shape parameter, above 0, without a unit. Large values move the mass towards 0. If a and b
            are both 1, all fractions are equally likely.

    Raises:
        TypeError: If an argument is not one number.
        ValueError: If an argument is not finite and above 0.

    Examples:
        >>> float(Beta(a=3.0, b=1.0).mean)
        0.75
    """
    return td.Beta(_above_zero("Beta(a, b)", "a", a), _above_zero("Beta(a, b)", "b", b))


def Cauchy(loc: Number, scale: Number) -> td.Cauchy:
    """The Cauchy distribution, whose tails are so heavy that it has no mean.

    Half of the values lie further than `scale` from `loc`.

    Args:
        loc: Centre and median of the distribution. In the parameter's unit.
        scale: Half the width of the peak at half its height, above 0. In the parameter's unit.

    Raises:
        TypeError: If an argument is not one number.
        ValueError: If an argument is not finite, or `scale` is not above 0.

    Examples:
        >>> float(Cauchy(loc=0.0, scale=2.0).cdf(torch.tensor(2.0)))
        0.75
    """
    call = "Cauchy(loc, scale)"
    return td.Cauchy(_number(call, "loc", loc), _above_zero(call, "scale", scale))


def Laplace(loc: Number, scale: Number) -> td.Laplace:
    """The Laplace distribution, a sharp peak with exponential tails on both sides.

    Args:
        loc: Centre of the distribution, its mean and median. In the parameter's unit.
        scale: Mean distance of the values from the centre, above 0. In the parameter's unit.

    Raises:
        TypeError: If an argument is not one number.
        ValueError: If an argument is not finite, or `scale` is not above 0.

    Examples:
        >>> Laplace(loc=1.0, scale=2.0)
        Laplace(loc: 1.0, scale: 2.0)
    """
    call = "Laplace(loc, scale)"
    return td.Laplace(_number(call, "loc", loc), _above_zero(call, "scale", scale))


def StudentT(df: Number, loc: Number = 0.0, scale: Number = 1.0) -> td.StudentT:
    """Student's t distribution, a bell curve with heavier tails than the normal distribution.

    Args:
        df: Degrees of freedom, above 0, without a unit. 1 gives the Cauchy distribution, 30 nearly the normal
            one.
        loc: Centre of the distribution. In the parameter's unit.
        scale: Width of the distribution, above 0. For large `df` the distribution becomes normal, with this
            standard deviation. In the parameter's unit.

    Raises:
        TypeError: If an argument is not one number.
        ValueError: If an argument is not finite, or `df` or `scale` is not above 0.

    Examples:
        >>> StudentT(df=4.0, loc=20.0, scale=0.5).mean.item()
        20.0
    """
    call = "StudentT(df, loc, scale)"
    return td.StudentT(_above_zero(call, "df", df), _number(call, "loc", loc), _above_zero(call, "scale", scale))


def _double(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


def _number(call: str, argument: str, value: Number) -> Tensor:
    return _double(finite(call, argument, value))


def _above_zero(call: str, argument: str, value: Number) -> Tensor:
    number = finite(call, argument, value)
    positive(call, argument, number)
    return _double(number)
