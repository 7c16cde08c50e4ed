r"""Simulators of equations with terms from a library, where discrete parameters say which terms are in the equation.

    library = polynomials({"x": "m"}, 3, time="s")
    simulator = wrappers.equations(library, Rates(states), sd=2.0, noise={"x": HalfNormal(1.0)})

For every state z_i and term T_j, the parameter "d(x) has x^2" is "yes" or "no". If it is "yes", the coefficient c_ij
exists as the parameter "d(x) x^2". The parameter "d(x) noise" is sigma_i. Given these parameters, the data are

    rates seen at given states:   r_i = sum_j c_ij T_j(z) + sigma_i g_i(z) e,
    paths:                        dz_i = sum_j c_ij T_j(z) dt + sigma_i g_i(z) dW_i        (Ito),

where e ~ N(0, 1), and g_i is 1 or a term of the library. The prior is c_ij ~ N(0, sd_ij^2). Each term is in the
equation with its own probability, and all parameters are independent. The likelihood of rates is exact. The likelihood
of paths is the Euler approximation for increments

    z_i(t + h) - z_i(t) ~ N(h sum_j c_ij T_j(z(t)), h sigma_i^2 g_i(z(t))^2),

given the first states. It converges to the likelihood of the equation for h -> 0. Both likelihoods assume that states
are measured without noise. With noise in the states, both are wrong: coefficients are biased towards 0, or towards a
decay that does not exist. `posteriors.equations` has checks of both.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Choice, Normal, Observable, Only, Prior, Simulator, X
from sciinf.core.checks import check_positive, check_whole
from sciinf.core.files import sha256_of
from sciinf.core.laws import never_negative
from sciinf.simulators.dynamics.term_library import Library

OUT, IN = "no", "yes"
Drawn = Callable[[int, torch.Generator], Tensor]
"""A number of rows and a generator -> states of each row."""


class TermRegression(NamedTuple):
    """Rows of a linear regression, response = design coefficients + sigma scale e, for each state.

    The response consists of the data or their differences. It is not rescaled, so that its density is the density of
    the data.

    Args:
        design: Values of the terms, (batch, row, term), float64.
        response: Values to be explained, (batch, row, state).
        scale: Factor of the noise, (batch, row, state).
    """

    design: Tensor
    response: Tensor
    scale: Tensor


class MeasuredOf(ABC):
    """Kind of measurement of an equation: rates or paths."""

    power: float  # Power of time in the unit of sigma.

    @abstractmethod
    def observable(self, library: Library) -> Observable:
        """Specification of the measured data, which are one array."""

    @abstractmethod
    def simulate(self, model: TermEquations, theta: Tensor, generator: torch.Generator) -> Tensor:
        """Simulate the data of each row of theta."""

    @abstractmethod
    def told(self) -> str:
        """Text that identifies the measurement among others of the same shape."""

    @abstractmethod
    def regression(self, model: TermEquations, x: Tensor, every: int = 1) -> TermRegression:
        """Regression of data (batch, *event); paths are used at every `every`-th time only."""


@final
class Rates(MeasuredOf):
    """Measured rates at known states: data (row, 2 S), states first.

    Args:
        states: States at which rates are measured, (row, S), or a function that draws states for each simulation,
            (rows, generator) -> (rows, row, S). The distribution of states is not a part of the likelihood.
        rows: Number of states, if they are drawn.

    Raises:
        ValueError: If states are not an array with two axes.
    """

    power = 1.0

    def __init__(self, states: Tensor | Drawn, rows: int = 0) -> None:
        self.states, self.rows = states, rows
        if isinstance(states, Tensor):
            if states.ndim != 2:
                raise ValueError(f"states are (row, state), got shape {tuple(states.shape)}")
            self.rows = len(states)
        check_whole("rows", self.rows, 1)

    def observable(self, library: Library) -> Observable:
        columns = [_said(n, u) for n, u in library.states.items()]
        columns += [_said(f"d({n})", library.unit(n)) for n in library.states]
        shape = (self.rows, 2 * len(library.states))
        return Observable(shape, "", ("item", "column"), "float64", coords={"column": columns})

    def simulate(self, model: TermEquations, theta: Tensor, generator: torch.Generator) -> Tensor:
        z = self.states if isinstance(self.states, Tensor) else self.states(len(theta), generator)
        z = z.double().expand(len(theta), self.rows, -1)
        noise = torch.randn(z.shape, generator=generator, dtype=torch.float64)
        return torch.cat([z, model.rate(theta, z) + model.noise(theta, z) * noise], -1)

    def told(self) -> str:
        return f"rates at {_drawn(self.states)}"

    def regression(self, model: TermEquations, x: Tensor, every: int = 1) -> TermRegression:
        z, rate = x.double().chunk(2, -1)
        return TermRegression(model.library(z), rate, model.growth(z))


@final
class Paths(MeasuredOf):
    """Stochastic paths of one equation, observed at common times: data (series, time, S).

    Args:
        start: First states, (series, S), or a function that draws them, (rows, generator) -> (rows, series, S).
        times: Observation times, two or more, increasing.
        series: Number of paths, if the first states are drawn.
        substeps: Number of Euler steps between two times in a simulation. The likelihood always uses one step.

    Raises:
        ValueError: If times do not increase, or first states are not an array with two axes.
    """

    power = 0.5

    def __init__(
        self, start: Tensor | Drawn, times: Sequence[float] | Tensor, series: int = 0, substeps: int = 10
    ) -> None:
        self.start, self.series, self.substeps = start, series, substeps
        self.times = torch.as_tensor(times, dtype=torch.float64)
        if self.times.ndim != 1 or len(self.times) < 2 or not bool((self.times.diff() > 0).all()):
            raise ValueError(f"times are two or more numbers that increase, got {times}")
        if isinstance(start, Tensor):
            if start.ndim != 2:
                raise ValueError(f"first states are (series, state), got shape {tuple(start.shape)}")
            self.series = len(start)
        check_positive(series=self.series, substeps=substeps)

    def observable(self, library: Library) -> Observable:
        columns = [_said(n, u) for n, u in library.states.items()]
        shape = (self.series, len(self.times), len(library.states))
        coords, units = {"time": self.times.tolist(), "column": columns}, {"time": library.time}
        return Observable(
            shape, "", ("item", "time", "column"), "float64", coords=coords, coord_units=units if library.time else {}
        )

    def simulate(self, model: TermEquations, theta: Tensor, generator: torch.Generator) -> Tensor:
        z = self.start if isinstance(self.start, Tensor) else self.start(len(theta), generator)
        z = z.double().expand(len(theta), self.series, -1)
        seen = [z]
        for step in (self.times.diff() / self.substeps).tolist():
            for _ in range(self.substeps):
                noise = torch.randn(z.shape, generator=generator, dtype=torch.float64) * math.sqrt(step)
                z = z + step * model.rate(theta, z) + model.noise(theta, z) * noise
            seen.append(z)
        return torch.stack(seen, 2)

    def told(self) -> str:
        return f"paths from {_drawn(self.start)}, {self.substeps} steps between times"

    def regression(self, model: TermEquations, x: Tensor, every: int = 1) -> TermRegression:
        x, times = x.double()[:, :, ::every], self.times[::every]
        before, step = x[:, :, :-1], times.diff()[:, None]
        # The rows of the regression are increments between consecutive times.
        parts = model.library(before) * step, x.diff(dim=2), model.growth(before) * step.sqrt()
        return TermRegression(*(part.flatten(1, 2) for part in parts))


def equations(
    library: Library,
    record: MeasuredOf,
    *,
    sd: float | Mapping[str, float],
    noise: Mapping[str, Any],
    include: float | Mapping[str, float] = 0.5,
    grows: Mapping[str, str] | None = None,
    name: str = "equations",
    block: int | None = None,
) -> TermEquations:
    """Make a simulator of equations whose terms are parameters.

    The likelihood of rates is exact, and the likelihood of paths is the Euler approximation.

    Args:
        library: Library of candidate terms.
        record: Kind of measurement: `Rates` or `Paths`.
        sd: Prior sd of coefficients: one number, or term -> sd, in the coefficient's unit. A wide prior makes a term
            less probable (Occam's razor), so give the range that you expect of a coefficient.
        noise: State -> prior distribution of sigma, which is not negative.
        include: Prior probability that a term is in the equation: one for all terms, or term -> probability.
        grows: State -> the term that multiplies the noise of this state. The noise of other states is constant.
        name: Name of the simulator.
        block: Number of rows per block of a store. By default, a block holds about a million numbers, and at most 4,096
            rows.

    Raises:
        ValueError: If a state has no noise, its noise may be negative, a term is unknown, or a number is out of its
            range.

    Examples:
        >>> from sciinf import HalfNormal
        >>> from sciinf.simulators.dynamics.term_library import polynomials
        >>> states = torch.linspace(-1.0, 1.0, 30)[:, None]
        >>> simulator = equations(polynomials({"x": ""}, 2), Rates(states), sd=1.0, noise={"x": HalfNormal(1.0)})
        >>> simulator.prior.names[:4]
        ('d(x) has 1', 'd(x) has x', 'd(x) has x^2', 'd(x) 1')
    """
    for what, given, known in (
        ("noise is given for", noise, library.states),
        ("noise that grows is given for", grows or {}, library.states),
        ("noise grows by", dict.fromkeys((grows or {}).values()), library.names),
        ("prior sds are given for", sd if isinstance(sd, Mapping) else {}, library.names),
        ("prior probabilities are given for", include if isinstance(include, Mapping) else {}, library.names),
    ):
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"{what} {unknown}; there are {list(known)}")
    if missing := sorted(set(library.states) - set(noise)):
        raise ValueError(f"no noise is given for {missing}: noise={{{missing[0]!r}: HalfNormal(1.0)}}")
    return TermEquations(
        library, record, (_each(sd, library, "sd"), _each(include, library, "include")), noise, grows or {}, name, block
    )


@final
class TermEquations(Simulator):
    """The simulator that `equations` makes.

    Attributes:
        library: Library of candidate terms.
        record: Kind of measurement.
        has: Columns of theta that say which terms are in the equation, (state, term).
        coefficient: Columns of theta that hold coefficients, (state, term).
        sigma: Columns of theta that hold sigma, (state,).
    """

    def __init__(
        self,
        library: Library,
        record: MeasuredOf,
        laws: tuple[Mapping[str, float], Mapping[str, float]],
        noise: Mapping[str, Any],
        grows: Mapping[str, str],
        name: str = "equations",
        block: int | None = None,
    ) -> None:
        self.library, self.record, self.grows, self.name = library, record, dict(grows), name
        sd, include = laws
        self.sd = torch.tensor([sd[term] for term in library.names], dtype=torch.float64)
        self.include = torch.tensor([include[term] for term in library.names], dtype=torch.float64)
        has, coefficients, sigmas = dict[str, Any](), dict[str, Any](), dict[str, Any]()
        for state in library.states:
            for term in library.names:
                key, p = f"d({state}) has {term}", include[term]
                has[key] = Choice(**{OUT: 1 - p, IN: p})
                unit = library.unit(state, term)
                coefficients[f"d({state}) {term}"] = Only(Normal(0.0, sd[term]), unit, **{key: IN})
            sigmas[f"d({state}) noise"] = (noise[state], library.unit(state, grows.get(state, ""), record.power))
        self.prior = Prior(**has, **coefficients, **sigmas)
        for key, (law, _) in zip(sigmas, list(self.prior.places())[-len(sigmas) :], strict=True):
            if not never_negative(law):
                raise ValueError(f"{key!r} may be negative by its law {law}: take HalfNormal or LogUniform, say")
        shape, count = (len(library.states), len(library)), len(has)
        self.has = torch.arange(count).view(shape)
        self.coefficient, self.sigma = self.has + count, torch.arange(2 * count, 2 * count + shape[0])
        self.observables = {"record": record.observable(library)}
        self.block = block or min(4096, max(1, 2**20 // math.prod(self.observables["record"].shape)))
        self.log_likelihood = self.log_p
        self.settings = self._settings

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return {"record": self.record.simulate(self, theta, generator)}

    def rate(self, theta: Float[Tensor, "batch theta"], state: Float[Tensor, "batch *more state"]) -> Tensor:
        """Rate of change sum_j c_ij T_j(z), in the shape of the state."""
        c = theta.double()[:, self.coefficient].nan_to_num(0.0)
        return torch.einsum("b...t,bst->b...s", self.library(state), c)

    def noise(self, theta: Float[Tensor, "batch theta"], state: Float[Tensor, "batch *more state"]) -> Tensor:
        """Amplitude of the noise, sigma_i |g_i(z)|, in the shape of the state."""
        sigma = theta.double()[:, self.sigma]
        return sigma.view(len(theta), *[1] * (state.ndim - 2), -1) * self.growth(state)

    def growth(self, state: Float[Tensor, "*batch state"]) -> Tensor:
        """State-dependent factor of the noise, |g_i(z)|, in the shape of the state; float64."""
        if not self.grows:
            return torch.ones_like(state, dtype=torch.float64)
        terms, one = self.library(state), torch.ones(state.shape[:-1], dtype=torch.float64)
        names = self.library.names
        each = [terms[..., names.index(self.grows[s])].abs() if s in self.grows else one for s in self.library.states]
        return torch.stack(each, -1)

    def regression(self, x: X, every: int = 1) -> TermRegression:
        """Regression of data, name -> (batch, *event); paths are used at every `every`-th time only."""
        return self.record.regression(self, x["record"], every)

    def log_p(self, theta: Float[Tensor, "batch theta"], x: X) -> Float[Tensor, " batch"]:
        """Log likelihood log p(x | theta): exact for rates, the Euler approximation for paths."""
        design, response, scale = self.regression(x)
        c = theta.double()[:, self.coefficient].nan_to_num(0.0)
        sd = theta.double()[:, None, self.sigma] * scale
        z = (response - torch.einsum("brt,bst->brs", design.expand(len(theta), -1, -1), c)) / sd
        return (-0.5 * z.square() - sd.log() - 0.5 * math.log(2 * math.pi)).sum((1, 2))

    def _settings(self) -> dict[str, str]:
        """Settings that identify the simulator.

        A name alone does not identify a term, so the settings hold a digest of the terms' values at some states. They
        also hold a digest of the measured states or first states.
        """
        record, source = self.record, torch.Generator().manual_seed(0)
        some = torch.randn(16, len(self.library.states), generator=source, dtype=torch.float64)
        times = record.times.tolist() if isinstance(record, Paths) else ""
        return {
            "terms": ", ".join(self.library.names),
            "grows": str(self.grows),
            "times": str(times),
            "values": _digest(self.library(torch.cat([some, some.abs()]))),
            "record": record.told(),
        }


def _digest(values: Tensor) -> str:
    """Hash of numbers rounded to six digits, the same on every machine."""
    said = ",".join(f"{value:.6g}" for value in values.double().flatten().tolist())
    return sha256_of(f"{tuple(values.shape)} {said}")[:16]


def _drawn(given: Tensor | Drawn) -> str:
    """Hash of given states, or of two draws if states are drawn by a function."""
    return _digest(given if isinstance(given, Tensor) else given(2, torch.Generator().manual_seed(0)))


def _each(given: float | Mapping[str, float], library: Library, what: str) -> dict[str, float]:
    """Number for each term, from one number for all terms or a mapping.

    Raises:
        ValueError: If a number is missing or out of its range.
    """
    found = dict(given) if isinstance(given, Mapping) else dict.fromkeys(library.names, given)
    for term in library.names:
        value, most = found.get(term), 1.0 if what == "include" else math.inf
        if value is None or not 0 < value < most:
            raise ValueError(f"{what} of the term {term!r} is {value}: give a number above 0 and below {most:g}")
    return {term: float(found[term]) for term in library.names}


def _said(name: str, unit: str) -> str:
    return f"{name} [{unit}]" if unit else name
