r"""A neural stochastic differential equation: a path with a learned drift, driven by noise.

    z(t_1) ~ N(m(c), diag s(c)^2),     dz = f(z, c, u) dt + g(c) dB.

c is the context of a row, and u are the controls along time. B are Brownian or fractional motions (`Driver`), one for
each component of z. f is learned, or known, or a known drift with a learned residual: a scientist's own equation plus
what it lacks. g is learned, and does not depend on z, so Ito's and Stratonovich's equations are the same.

**Steps.** Between two times there are `steps` of equal length h. A step first moves z by the drift alone, with the
Runge-Kutta rule of order 4, whose error is taken to be negligible. Then it adds the noise of the step,

    F = z + int_0^h f dt + g pull,      z' = F + G e,      G = g s,      e ~ N(0, I).

This discrete chain is the prior. All statements below are exact for this chain with any number of steps; more steps
bring it closer to the equation.

**The posterior** adds a drift that depends on later values (`bayes_steps`). Each step is the prior's step times the
likelihood of later values as a function of z', by Bayes' rule. Its KL becomes Girsanov's as h goes to 0. The first
value is drawn the same way, with F = m and G = s. Where no later value was observed, the posterior is the prior:
forecasts are such draws.

**Cheap drifts.** With `penalty`, training adds the cost of the drift for a solver (`networks.solver_cost`): local
errors or stiffness of one step from each time, as the rms or mean over rows and times, with gradients through the path.
A drift that is solved by itself later then takes fewer evaluations. The reported bound does not contain the penalty.

Where drift and decoder are linear and the noise is Brownian, the exact posterior has this form. In general q is an
approximation: the bound is below the log likelihood, and the learned drift and noise are biased to where the posterior
fits well.

**The noise** of a hidden path is Brownian motion, or fractional motion as a few processes with one source.

In a step of length h the motion of one component of the path moves by

    dB = pull + s e,     e ~ N(0, 1).

pull is the part that the motion's memory of its past determines, and s is the sd of the new part. A Brownian motion has
no memory, and s = sqrt(h).

Fractional motion of Hurst index H is the sum of K processes, B_H ~ sum_k w_k Y_k, dY_k = -gamma_k Y_k dt + dW, all
driven by one and the same W (`simulators.dynamics.noise.MarkovFractional`). Over a step, exactly,

    Y_k <- e^{-gamma_k h} Y_k + n_k,     n ~ N(0, C),     C_ij = (1 - e^{-(gamma_i + gamma_j) h}) / (gamma_i + gamma_j),

so with R R = C, n = R xi, xi ~ N(0, I_K), and with v = R w

    pull = sum_k w_k (e^{-gamma_k h} - 1) Y_k,     s = |v|,     e = v . xi / |v|.

A posterior changes the mean and the sd of e alone. The components of xi orthogonal to v keep their prior: xi' = xi + (v
/ |v|) (e' - e). The prior needs no approximation for this, and the KL of such a posterior is exact.

The weights w depend smoothly on H. They are computed at Chebyshev's points of H and interpolated by a polynomial, so
that H can be learned by gradient descent. H stays between 0.1 and 0.95: rougher motions need faster processes than six
(`MarkovFractional.error`). The motion is of the Riemann-Liouville type: at the first time of a row it has no memory.

Reference:
    | Variational inference for SDEs driven by fractional noise (Daems et al., 2024), https://arxiv.org/abs/2310.12975

References:
    | On Neural Differential Equations (Kidger, 2022), https://arxiv.org/abs/2202.02435
    | Scalable gradients for stochastic differential equations (Li et al., 2020), https://arxiv.org/abs/2001.01328
    | Opening the Blackbox: Accelerating Neural Differential Equations by Regularizing Internal Solver Heuristics
      (Pal et al., 2021), https://arxiv.org/abs/2105.03918
    | Variational inference for SDEs driven by fractional noise (Daems et al., 2024), https://arxiv.org/abs/2310.12975
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_from_zero, check_positive, check_whole
from sciinf.core.component import Component, called_without
from sciinf.core.prior import global_seed
from sciinf.emulators.processes.bayes_steps import Heard, LaterValues, Told
from sciinf.emulators.processes.process import Latent, LearnedProcess, Linear, Process, Series, Sizes
from sciinf.networks.solver_cost import COSTS
from sciinf.simulators.dynamics.noise import MarkovFractional

Known = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]


@final
class NeuralSDE(Process):
    """A path of a stochastic differential equation with a learned, known or partly known drift.

    Args:
        states: S, the number of components of the path at a time.
        known: A known drift, `known(theta, z, t)` -> (row, S), a function of a module. theta maps name -> (row,) in the
            prior's units; z is (row, S) and t is (row,). z, t and the result are in the simulator's units. A learned
            drift is added to it. Give `LatentDynamics(columns=...)` too: the components of z that are observed. Without
            `TARGET_times` the unit of time is the step.
        scales: Approximate size of each component of the path, in its unit; 1 if None.
        unknown: Components of the path whose drift has a learned part; all if None, () for none.
        noise: The noise that drives the path; `Brownian()` if None.
        steps: Integration steps between one time and the next.
        hidden: Width of the drift's two hidden layers, beside a linear part; 0 for a linear drift.
        width: Width of the hidden layers of the posterior's networks.
        penalty: Weight of the drift's cost for a solver, in nats per row.
        penalised: Kind of cost: "sum" (local errors) or "stiffness".

    Raises:
        ValueError: If a number is out of its range.

    Examples:
        >>> process = NeuralSDE(2, steps=3).build(Sizes(4, 1, 0), seed=0)
        >>> series = Series(torch.ones(5, 8, 4), torch.ones(5, 8, dtype=torch.bool), torch.zeros(5, 1))
        >>> process.posterior(series, generator=torch.Generator()).z.shape
        torch.Size([5, 8, 2])
    """

    def __init__(
        self,
        states: int = 2,
        *,
        known: Known | None = None,
        scales: Sequence[float] | None = None,
        unknown: Sequence[int] | None = None,
        noise: Noise | None = None,
        steps: int = 2,
        hidden: int = 32,
        width: int = 32,
        penalty: float = 0.0,
        penalised: str = "sum",
    ) -> None:
        check_from_zero("penalty", penalty, math.inf)
        if penalised not in COSTS:
            raise ValueError(f"NeuralSDE(penalised=...) is one of {list(COSTS)}, got {penalised!r}")
        if not penalty and penalised != "sum":
            raise ValueError(f"penalised={penalised!r} is for a penalty above 0: give NeuralSDE(penalty=...) too")
        check_positive(states=states, steps=steps, width=width)
        check_whole("hidden", hidden, 0)
        scales = [1.0] * states if scales is None else scales
        if len(scales) != states or not all(0 < scale < math.inf for scale in scales):
            raise ValueError(f"scales is {list(scales)}, expected a positive number for each of {states} numbers")
        unknown = range(states) if unknown is None else unknown
        if not all(0 <= k < states for k in unknown) or (known is None and len(unknown) < states):
            raise ValueError(
                f"unknown is {list(unknown)}: expected some of 0..{states - 1}, and all of them without a known drift"
            )
        self.known, self.scales, self.unknown = known, scales, unknown
        self.states, self.noise, self.steps = states, noise or Brownian(), steps
        self.hidden, self.width = hidden, width
        self.penalty, self.penalised = penalty, penalised
        if not penalty:
            called_without(self, "penalty", "penalised")

    def build(self, sizes: Sizes, *, seed: int) -> LearnedProcess:
        with global_seed(torch.Generator().manual_seed(seed)):
            return LearnedSDE(self, sizes)


@final
class LearnedSDE(LearnedProcess):
    """The stochastic differential equation with its networks.

    Args:
        made: The recipe of the process.
        sizes: Sizes of the process's inputs.
    """

    scales: Tensor
    places: Tensor

    def __init__(self, made: NeuralSDE, sizes: Sizes) -> None:
        super().__init__()
        self.states, self.steps, count = made.states, made.steps, made.states
        self.penalty, self.penalised = made.penalty, made.penalised
        self.known, self.names, self.acts = made.known, sizes.names, tuple(made.unknown)
        self.register_buffer("scales", torch.tensor(list(made.scales)))
        self.register_buffer("places", torch.eye(count)[list(self.acts)])
        self.driver = made.noise.build(sizes.context)
        reads = count + sizes.context + sizes.controls
        scale = 0.1 if made.known is None else 0.0
        self.flow = Linear(reads, len(self.acts), made.hidden, scale=scale) if self.acts else None
        self.start = Linear(sizes.context, 2 * count, scale=0.0)
        self.scale = Linear(sizes.context, count, scale=0.0)
        self.later = LaterValues(sizes, count, made.width, memory=count * self.driver.terms)

    def drift(self, z: Float[Tensor, "row state"], series: Series, k: int, time: Tensor) -> Float[Tensor, "row state"]:
        """The drift f at states, in `scales` per mean step.

        Args:
            z: States, in units of `scales`.
            series: Inputs of the same rows.
            k: Index of the time before `time`, whose controls act.
            time: Time in mean steps, (row or 1,).
        """
        parts = [z, series.context] if series.controls is None else [z, series.context, series.controls[:, k]]
        found = torch.zeros_like(z) if self.flow is None else self.flow(torch.cat(parts, -1)) @ self.places
        if self.known is None:
            return found
        unit = torch.ones_like(z[:, 0]) if series.unit is None else series.unit
        origin = torch.zeros_like(unit) if series.origin is None else series.origin
        theta = {} if series.theta is None else dict(zip(self.names, series.theta.unbind(1), strict=True))
        rate = self.known(theta, z * self.scales, origin + unit * time)
        if rate.shape != z.shape:
            raise ValueError(
                f"the known drift of states {tuple(z.shape)} is {tuple(rate.shape)}; it must have the same shape: a "
                "parameter is (row,), theta['a'][:, None] multiplies states, and z[:, 0] is one component"
            )
        return found + rate * unit[:, None] / self.scales

    def diffusion(self, context: Float[Tensor, "row context"]) -> Float[Tensor, "row state"]:
        """The diffusion g: sd of the noise of one mean step of Brownian motion, in units of `scales`."""
        return 0.5 * self.scale(context).exp()

    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        return self._path(series, self.later.read_of(series), generator)

    def prior(self, series: Series, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        return self._path(series, None, generator).z

    def cost(self, series: Series, z: Float[Tensor, "row time state"]) -> Float[Tensor, ""]:
        """The penalty of one step from each time but the last, as an average over all such steps of all rows."""
        count = series.length - 1
        if not self.penalty or not count:
            return z.new_zeros(())
        known = {name: getattr(series, name) for name in ("theta", "unit", "origin", "context")}
        told = {name: value.repeat_interleave(count, 0) for name, value in known.items() if value is not None}
        controls = None if series.controls is None else series.controls[:, :-1].flatten(0, 1)[:, None]
        rows = replace(series, controls=controls, **told)  # A drift reads no other fields.
        start = series.clock()[:, :-1].flatten()[:, None]
        length = (series.steps() / self.steps).expand(len(series), -1).flatten()[:, None]
        paid = COSTS[self.penalised](
            lambda t, y: self.drift(y, rows, 0, t[:, 0]),
            (start, start + length),
            [(z[:, :-1] / self.scales).flatten(0, 1)],
        )
        return self.penalty * paid

    def check(self, series: Series) -> None:
        self.driver.check(float((series.clock()[:, -1] - series.clock()[:, 0]).max()))

    def _path(self, series: Series, later: Heard | None, generator: torch.Generator) -> Latent:
        rows, count, clock, gaps = len(series), self.states, series.clock(), series.steps()
        shape = (1 + (series.length - 1) * self.steps, rows, count, max(1, self.driver.terms))
        noise = iter(torch.randn(shape, generator=generator, device=generator.device).to(clock))
        weights, g = self.driver.weights(series.context), self.diffusion(series.context)
        mean, log_sd = self.start(series.context).chunk(2, -1)
        memory = mean.new_zeros(rows, count, self.driver.terms, dtype=weights.dtype)
        told = self._told(later, 0, clock[:, 0], weights, g)
        new = self.later.noise(mean, log_sd.exp(), next(noise)[..., 0], self.driver.seen(memory), told)
        z, kl, ratio = mean + log_sd.exp() * new.e, new.kl, new.ratio
        states, step = [z], None
        for k in range(series.length - 1):
            h = gaps[:, k] / self.steps
            if step is None or series.times is not None:
                step = self.driver.step(weights, h)
            for i in range(self.steps):
                white, sd = next(noise), g * step.sd
                ahead = self._ahead(z, series, k, clock[:, k] + i * h, h) + g * step.pull(memory)
                told = self._told(later, k + 1, clock[:, k] + (i + 1) * h, weights, g)
                new = self.later.noise(ahead, sd, step.first(white), self.driver.seen(memory), told)
                z, memory = ahead + sd * new.e, step.remember(memory, white, new.e)
                kl, ratio = kl + new.kl, ratio + new.ratio
            states.append(z)
        return Latent(self.scales * torch.stack(states, 1), kl, ratio)

    def _ahead(self, z: Tensor, series: Series, k: int, time: Tensor, h: Tensor) -> Tensor:
        """z after one step without noise, by the Runge-Kutta rule of order 4."""
        length, middle = h[:, None], time + 0.5 * h
        first = self.drift(z, series, k, time)
        second = self.drift(z + 0.5 * length * first, series, k, middle)
        third = self.drift(z + 0.5 * length * second, series, k, middle)
        fourth = self.drift(z + length * third, series, k, time + h)
        return z + length / 6 * (first + 2 * second + 2 * third + fourth)

    def _told(self, later: Heard | None, k: int, time: Tensor, weights: Tensor, g: Tensor) -> Told | None:
        """Information of later values for a time after the (k-1)-th and up to the k-th; None for the prior."""
        if later is None:
            return None
        left = (later.next[:, k] - time).clamp_min(0.0)
        return Told(later.read[k], left[:, None], g * self.driver.spread(weights, left), later.any[:, k])


_LOW, _HIGH, _POINTS = 0.1, 0.95, 24  # Range of H, and the number of points where the weights are computed.
_BEYOND = 1.05  # Rows longer than so many horizons cause a warning.
_NONE = 1e-20  # Variance of a step of length 0, so that the gradient of its sd is finite.


@dataclass(frozen=True)
class MotionStep:
    """One step of the motions of all rows; for Brownian motion K is 0.

    Args:
        sd: s, the sd of the new noise, (row or 1, 1).
        along: v / |v|, (row, K), float64.
        back: w_k (e^{-gamma_k h} - 1), (row, K), float64.
        decay: e^{-gamma_k h}, (row or 1, K), float64.
        root: R, (row or 1, K, K), float64.
    """

    sd: Tensor
    along: Tensor
    back: Tensor
    decay: Tensor
    root: Tensor

    def pull(self, memory: Float[Tensor, "row state term"]) -> Float[Tensor, "row state"]:
        """Part of the motions' step that their memory determines."""
        return (self.back[:, None] * memory).sum(-1).float()

    def first(self, white: Float[Tensor, "row state noise"]) -> Float[Tensor, "row state"]:
        """The component e of white noise xi that moves the path."""
        if not self.along.shape[-1]:
            return white[..., 0]
        return (self.along[:, None] * white.double()).sum(-1).float()

    def remember(
        self,
        memory: Float[Tensor, "row state term"],
        white: Float[Tensor, "row state noise"],
        new: Float[Tensor, "row state"],
    ) -> Float[Tensor, "row state term"]:
        """Memory after the step, for noise xi whose component e is replaced by `new`."""
        if not self.along.shape[-1]:
            return memory
        along, white = self.along[:, None], white.double()
        moved = white + along * (new.double()[..., None] - (along * white).sum(-1, keepdim=True))
        return memory * self.decay[:, None] + moved @ self.root


class Driver(nn.Module, ABC):
    """Motions that drive a path, one for each component, with their learned parameters.

    Attributes:
        terms: K, the number of values that a motion remembers.
    """

    terms: int

    @abstractmethod
    def weights(self, context: Float[Tensor, "row context"]) -> Float[Tensor, "row term"]:
        """The weights w of each row, float64."""

    @abstractmethod
    def step(self, weights: Float[Tensor, "row term"], length: Float[Tensor, "#row"]) -> MotionStep:
        """One step of the motions, with lengths (row or 1,)."""

    @abstractmethod
    def spread(self, weights: Float[Tensor, "row term"], length: Float[Tensor, " row"]) -> Float[Tensor, "row one"]:
        """The sd s of a step with lengths (row,)."""

    @abstractmethod
    def seen(self, memory: Float[Tensor, "row state term"]) -> Float[Tensor, "row number"]:
        """Memory as an input of a network, scaled to be of order 1."""

    def check(self, span: float) -> None:
        """Warn if a row is longer, in mean steps, than the motion is valid for."""
        return None


class Noise(Component, ABC):
    """Recipe of the noise that drives a path."""

    @abstractmethod
    def build(self, context: int) -> Driver:
        """The motions of a process.

        Args:
            context: Number of conditioning values of a row.
        """


@final
class Brownian(Noise):
    """Brownian motion: noise without memory."""

    def build(self, context: int) -> Driver:
        return _Brownian()


@final
class Fractional(Noise):
    """Fractional Brownian motion: noise with memory, whose roughness is learned or given.

    Args:
        horizon: The longest time from the first value of a row to the last, in mean steps. For n values this is n - 1,
            and more where times are irregular or rows are forecast. After the horizon the motion no longer approximates
            a fractional one: at ten times the horizon its sd may be three times too large. A query for a longer row
            causes a warning.
        hurst: The Hurst index H, from 0.1 to 0.95; if None, it is learned as a function of the context of the row.
        terms: Number K of processes whose sum is the motion, 6 at most.
        fastest: The largest rate gamma, in 1 / horizon; if None, 10 for each mean step.

    Raises:
        ValueError: If H or the horizon is out of its range.
    """

    def __init__(
        self, horizon: float, hurst: float | None = None, *, terms: int = 6, fastest: float | None = None
    ) -> None:
        if not 0 < horizon < math.inf:
            raise ValueError(f"the horizon is {horizon}; it is the longest time of a row in mean steps, above 0")
        if hurst is not None and not _LOW <= hurst <= _HIGH:
            raise ValueError(f"Hurst's index is {hurst}, expected {_LOW} to {_HIGH}")
        check_whole("terms", terms, 1)
        self.horizon, self.hurst, self.terms = horizon, hurst, terms
        self.fastest = max(100.0, 10 * horizon) if fastest is None else fastest

    def build(self, context: int) -> Driver:
        return _Fractional(self, context)


@final
class _Brownian(Driver):
    terms = 0

    def weights(self, context: Tensor) -> Tensor:
        return context.new_zeros(len(context), 0, dtype=torch.float64)

    def step(self, weights: Tensor, length: Tensor) -> MotionStep:
        none = weights[: len(length)]
        return MotionStep(length.sqrt()[:, None], weights, weights, none, none[..., None])

    def spread(self, weights: Tensor, length: Tensor) -> Tensor:
        return length.sqrt()[:, None]

    def seen(self, memory: Tensor) -> Tensor:
        return memory.float().flatten(1)


@final
class _Fractional(Driver):
    speeds: Tensor
    table: Tensor

    def __init__(self, made: Fractional, context: int) -> None:
        super().__init__()
        self.horizon, self.hurst, self.terms = made.horizon, made.hurst, made.terms
        angle = math.pi * (torch.arange(_POINTS, dtype=torch.float64) + 0.5) / _POINTS
        at = _LOW + (_HIGH - _LOW) * (angle.cos() + 1) / 2
        exact = MarkovFractional(at, made.horizon, terms=made.terms, fastest=made.fastest)
        wave = (torch.arange(_POINTS, dtype=torch.float64)[:, None] * angle).cos()
        wave[0] /= 2
        self.register_buffer("speeds", exact.speeds)
        self.register_buffer("table", 2 / _POINTS * wave @ exact.weights)
        self.head = Linear(context, 1, scale=0.0) if made.hurst is None else None

    def index(self, context: Float[Tensor, "row context"]) -> Float[Tensor, " row"]:
        """The Hurst index H of each row, float64."""
        if self.head is None:
            return torch.full((len(context),), self.hurst or 0.5, dtype=torch.float64, device=context.device)
        return _LOW + (_HIGH - _LOW) * self.head(context)[:, 0].double().sigmoid()

    def weights(self, context: Tensor) -> Tensor:
        x = (2 * (self.index(context) - _LOW) / (_HIGH - _LOW) - 1).clamp(-1 + 1e-12, 1 - 1e-12)
        order = torch.arange(_POINTS, dtype=torch.float64, device=x.device)
        return (order * x.acos()[:, None]).cos() @ self.table

    def step(self, weights: Tensor, length: Tensor) -> MotionStep:
        values, vectors = torch.linalg.eigh(self._covariance(length))
        root = (vectors * values.clamp_min(0.0).sqrt()[:, None, :]) @ vectors.mT
        along = (root @ weights[..., None])[..., 0]
        sd = (along.square().sum(-1, keepdim=True) + _NONE).sqrt()
        gone = -self.speeds * length.double()[:, None]
        return MotionStep(sd.float(), along / sd, weights * torch.expm1(gone), gone.exp(), root)

    def spread(self, weights: Tensor, length: Tensor) -> Tensor:
        variance = (weights[:, None] @ self._covariance(length) @ weights[..., None])[..., 0]
        return (variance.clamp_min(0.0) + _NONE).sqrt().float()

    def check(self, span: float) -> None:
        if span > _BEYOND * self.horizon:
            warnings.warn(
                f"a row spans {span:.3g} mean steps, and the motion is near a fractional one for {self.horizon:g}: "
                f"after that its sd is too large or too small. Train with Fractional(horizon={math.ceil(span)})",
                stacklevel=4,
            )

    def _covariance(self, length: Tensor) -> Tensor:
        total = self.speeds[:, None] + self.speeds
        return -torch.expm1(-total * length.double()[:, None, None]) / total

    def seen(self, memory: Tensor) -> Tensor:
        return (memory * (2 * self.speeds).sqrt()).float().flatten(1)
