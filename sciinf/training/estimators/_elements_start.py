r"""Start of the likelihood one number at a time (`elements`): least squares of each number on the parameters.

    y_e = b_e + A_e (z, z z') + r_e,     log r_e^2 ~ 2 (log s_e + d_e z) - 1.27,     r_e ~ sum_l k_{el} r_{e-l},

-1.27 being the mean of log chi^2 of one degree of freedom. The same regression tells how many numbers before e count,
with terms k_l and k_l z, of residuals scaled by s. Wald's statistic of each lag's coefficients, of all e together, is
compared with that of numbers that are far apart.

With few rows, products z z' are left out, and fewer lags are looked at: at least 5 rows for each coefficient.

For counts n, y = log(n + 1/2), and b + A (z, z z') is the logarithm of their mean, by Newton's steps of Poisson
regression from there. s is the spread of that mean, s^2 the mean of ((n - mean)^2 - mean) / mean^2 as far as it is
positive.

**Shrinkage.** E coefficients of one kind (for example of one parameter, one for each number) were found with errors
of variances v_e, and vary by t^2 beyond them. Each is drawn to their mean, by v_e / (t^2 + v_e) of the way (empirical
Bayes). In the mean it counts by 1 / (t^2 + v_e). The coefficients of a stationary series, or of items, are then one;
those of a regression keep their own values. A number that does not vary has no coefficients, and the spreads s of
counts are not drawn to their mean.

Shapes: z (rows, D), y (rows, E).

References:
    | Generalized Linear Models (Nelder & Wedderburn, 1972), https://doi.org/10.2307/2344614
    | Data analysis using Stein's estimator and its generalizations (Efron & Morris, 1975),
      https://doi.org/10.1080/01621459.1975.10479864: by how much to draw estimates to their mean
    | Meta-analysis in clinical trials (DerSimonian & Laird, 1986), https://doi.org/10.1016/0197-2456(86)90046-2: t^2
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

_DEPENDENCE, _SURE = 5e-4, 3.0  # Least dependence that counts, and how many sds beyond chance it must be.
_LOG_CHI, _LOG_CHI_VARIANCE = 1.27, 4.93
_CLAMP = 5.0
_RIDGE = 1e-6
# Newton's method: most steps, gain in nats at which it stops, most rows, and largest logarithm of a mean.
_STEPS, _ENOUGH, _FEW, _LARGE = 8, 1e-6, 16_384, 20.0
# For counts, the squared spread of the mean is at least the first number, or the second over the mean if that is less.
_LEAST_SPREAD, _POISSON = 0.0025, 0.1
_EACH = 5  # There are at least this many rows for each coefficient.


class ShrunkCoefficients(NamedTuple):
    """Coefficients of all numbers, shrunk towards their mean: common + share * own.

    Args:
        common: Their mean, (K,).
        own: Difference of each from the mean, (K, E).
        share: Share of the difference that is no error, 0 to 1, (K, E).
    """

    common: Tensor
    own: Tensor
    share: Tensor


class LeastSquares(NamedTuple):
    """Results of least squares.

    Args:
        middle: b and A, F + 1 coefficients, where F is the size of a quadratic without its constant.
        log_sd: log s of what the numbers before leave, one coefficient.
        log_sd_slopes: d, (D,), the mean over e.
        before: k, `most` coefficients, zero beyond `lags`.
        lags: Number of preceding numbers on which a number depends.
    """

    middle: ShrunkCoefficients
    log_sd: ShrunkCoefficients
    log_sd_slopes: Tensor
    before: ShrunkCoefficients
    lags: int


def quadratic(z: Float[Tensor, "rows theta"]) -> Float[Tensor, "rows square"]:
    """z joined with its squares and products."""
    first, second = torch.triu_indices(z.shape[1], z.shape[1], device=z.device)
    return torch.cat([z, z[:, first] * z[:, second]], dim=1)


def start_of(z: Tensor, y: Tensor, most: int, counts: Tensor | None = None) -> LeastSquares:
    """Least squares over the rows, with at most `most` lags; `counts` (E,) tells which numbers are log(n + 1/2)."""
    counted = [] if counts is None else counts.nonzero()[:, 0].tolist()
    z, y = z.double().cpu(), y.double().cpu()
    line, square = torch.cat([torch.ones_like(z[:, :1]), z], dim=1), quadratic(z)
    few = len(z) < _EACH * square.shape[1]
    if few:
        square[:, z.shape[1] :] = 0.0
    used = 1 + (z.shape[1] if few else square.shape[1])
    given = torch.cat([line[:, :1], square], dim=1)
    slopes, inverse = _solved(given, y), _inverse(given)
    varies = y.amin(0) < y.amax(0)
    for e in counted:
        slopes[:, e] = _poisson(given[:_FEW], (y[:_FEW, e].exp() - 0.5).round(), slopes[:, e])
    left = first = y - given @ slopes
    variance = inverse[:, None] * left.square().sum(0) / max(1, len(z) - used)
    for e in counted:
        log_mean = (given[:_FEW] @ slopes[:, e]).clamp(-_LARGE, _LARGE)
        variance[:, e] = _inverse(given[:_FEW] * (log_mean / 2).exp()[:, None])
    middle = _drawn(slopes, variance, varies.expand_as(slopes))
    log_sd = _log_sd(line, left)
    scaled = (left / (line @ log_sd).exp()).clamp(-_CLAMP, _CLAMP)
    lags = _lags(line, scaled, varies.tolist(), min(most, y.shape[1] - 1, len(z) // (_EACH * line.shape[1])))
    before = torch.zeros(most, y.shape[1], dtype=torch.float64)
    errors = torch.zeros_like(before)
    weight = (-(line @ log_sd)).exp()
    for e in range(1, y.shape[1] if lags else 0):
        n = min(e, lags)
        earlier = torch.stack([left[:, e - lag] for lag in range(1, n + 1)], dim=1)
        earlier, own = earlier * weight[:, e : e + 1], left[:, e] * weight[:, e]
        before[:n, e] = _solved(earlier, own[:, None])[:, 0]
        errors[:n, e] = _inverse(earlier) * (own - earlier @ before[:n, e]).square().mean()
    for lag in range(1, lags + 1):
        left = left - before[lag - 1] * pad(first, (lag, 0))[:, : y.shape[1]]
    log_sd = _log_sd(line, left)
    spread, error = log_sd[:1].clone(), (_inverse(line)[:1, None] * _LOG_CHI_VARIANCE / 4).expand(1, y.shape[1])
    for e in counted:
        n, mean = (y[:, e].exp() - 0.5).round(), (y[:, e] - left[:, e]).clamp(-_LARGE, _LARGE).exp()
        least = min(_LEAST_SPREAD, _POISSON / float(mean.mean().clamp_min(1e-12)))
        spread[0, e] = (((n - mean).square() - mean).mean() / mean.square().mean()).clamp_min(least).log() / 2
    rest = [e for e in range(y.shape[1]) if e not in counted]
    tilt = log_sd[1:, rest].mean(1) if rest else torch.zeros_like(log_sd[1:, 0])
    error = error.clone()
    error[:, counted] = 0.0
    told = torch.stack([pad(varies, (lag, 0))[: y.shape[1]] & varies for lag in range(1, most + 1)])
    width = _drawn(spread, error, varies[None])
    return LeastSquares(middle, width, tilt.float(), _drawn(before, errors, told), lags)


def _drawn(found: Tensor, variance: Tensor, there: Tensor) -> ShrunkCoefficients:
    """Shrink coefficients (K, E), given the variances of their errors; `there` tells which of them exist."""
    known = torch.where(there, 1 / variance.clamp_min(1e-12), 0.0)  # These are the weights for t = 0.
    middle = _weighed(found, known)
    # By chance alone, `square` has the mean `free` and twice this variance.
    square = (known * (found - middle[:, None]).square()).sum(1)
    free = (there.sum(1) - 1).clamp_min(1)
    size = known.sum(1) - known.square().sum(1) / known.sum(1).clamp_min(1e-300)
    vary = square > free + _SURE * (2 * free).sqrt()
    t = torch.where(vary, (square - free) / size.clamp_min(1e-300), 0.0)[:, None]  # This is t^2, by moments.
    common = _weighed(found, torch.where(there, 1 / (t + variance).clamp_min(1e-12), 0.0))
    share = torch.where(there, t / (t + variance).clamp_min(1e-300), 0.0)
    own = torch.where(there, found - common[:, None], 0.0)
    return ShrunkCoefficients(common.float(), own.float(), share.float())


def _weighed(found: Tensor, weight: Tensor) -> Tensor:
    return (weight * found).sum(1) / weight.sum(1).clamp_min(1e-300)


def _poisson(given: Tensor, n: Tensor, slopes: Tensor) -> Float[Tensor, " square"]:
    """Coefficients of Poisson regression, by Newton's steps as long as the likelihood grows."""

    def likelihood(at: Tensor) -> Tensor:
        log_mean = (given @ at).clamp(-_LARGE, _LARGE)
        return (n * log_mean - log_mean.exp()).mean()

    best = likelihood(slopes)
    for _ in range(_STEPS):
        log_mean = (given @ slopes).clamp(-_LARGE, _LARGE)
        mean = log_mean.exp()
        root = mean.sqrt()[:, None]
        found = _solved(given * root, ((log_mean + (n - mean) / mean) * root[:, 0])[:, None])[:, 0]
        now = likelihood(found)
        if not now > best:
            break
        slopes, gain, best = found, now - best, now
        if gain < _ENOUGH:
            break
    return slopes


def _log_sd(line: Tensor, left: Tensor) -> Float[Tensor, "line number"]:
    """Log sd of each number as a line in z."""
    return _solved(line, (left.square() + 1e-12).log() + _LOG_CHI) / 2


def _lags(line: Tensor, scaled: Tensor, varies: list[bool], most: int) -> int:
    """The last lag at which numbers depend on each other by more than numbers far apart seem to.

    What the quadratic leaves of the middles looks like weak dependence, which is the same at any distance.
    """
    numbers = scaled.shape[1]
    near, far = [list[float]() for _ in range(most)], list[float]()
    generator = torch.Generator().manual_seed(0)
    for e in (e for e in range(1, numbers) if varies[e]):
        before = [e - lag for lag in range(1, min(e, most) + 1) if varies[e - lag]]
        for i, found in zip(before, _dependence(line, scaled, e, before), strict=True):
            near[e - i - 1].append(found)
        order = torch.randperm(numbers, generator=generator).tolist()
        apart = [i for i in order if abs(i - e) > most and varies[i]][: len(before)]
        far += _dependence(line, scaled, e, apart)
    floor = max(0.0, sum(far) / len(far)) if far else 0.0
    least, last = max(_DEPENDENCE, 2 * floor), 0
    for lag, found in enumerate(near, 1):
        chance = _SURE * math.sqrt(2 / (line.shape[1] * max(1, len(found)))) / len(scaled)
        if found and sum(found) / len(found) - floor > max(least, chance):
            last = lag
    return last


def _dependence(line: Tensor, scaled: Tensor, e: int, others: list[int]) -> list[float]:
    """Wald's statistic of each of some other numbers for number e, minus its chance value, per degree and row."""
    if not others:
        return []
    rows, width = line.shape
    given = torch.cat([scaled[:, i, None] * line for i in others], dim=1)
    gram = _gram(given)
    found = torch.linalg.solve(gram, given.T @ scaled[:, e])
    noise = (scaled[:, e] - given @ found).square().sum() / max(1, rows - len(found))
    covariance = torch.linalg.inv(gram) * noise.clamp_min(1e-12)
    parts = [slice(i * width, (i + 1) * width) for i in range(len(others))]
    wald = [float(found[p] @ torch.linalg.solve(covariance[p, p], found[p])) for p in parts]
    return [(value / width - 1) / rows for value in wald]


def _solved(given: Tensor, wanted: Tensor) -> Tensor:
    """Least-squares coefficients by normal equations."""
    return torch.linalg.solve(_gram(given), given.T @ wanted)


def _inverse(given: Tensor) -> Tensor:
    """Variances of the least-squares coefficients, for noise of variance 1."""
    return torch.linalg.inv(_gram(given)).diagonal()


def _gram(given: Tensor) -> Tensor:
    """Matrix of the normal equations, with a small ridge against rounding errors."""
    gram = given.T @ given
    return gram + _RIDGE * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram), dtype=gram.dtype)
