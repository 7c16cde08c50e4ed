r"""A neural stochastic differential equation: a path that a learned drift moves, and noise drives.

    z(t_1) ~ N(m(c), diag s(c)^2),     dz = f(z, c, u) dt + g(c) dB,

c what is known of a row, u what is known along time, B Brownian or fractional motions (`driving`), one for each number
of z. f is learned, or known, or known with a learned residual: a scientist's own equation, and what it lacks. g is
learned, and does not depend on z, so that Ito's and Stratonovich's equations are one.

**Steps.** Between two times there are `steps` of equal length h. A step goes from z to where the drift alone would take
it, by Runge and Kutta's rule of order 4, which is to be exact enough, and adds the noise of the step,

    F = z + int_0^h f dt + g pull,      z' = F + G e,      G = g s,      e ~ N(0, I).

This chain is the prior. What follows is exact for it at any number of steps; more steps bring it to the equation.

**The posterior** adds a drift that knows of later values (`bayes_steps`): each step is the prior's times what they say
of z', by Bayes' rule, and its KL becomes Girsanov's as h goes to 0. The first value is drawn the same way, with F = m
and G = s. Where nothing later was seen, the posterior is the prior: so are forecasts.

**Cheap drifts.** With `penalty`, training adds what the drift costs a solver (`networks.solver_cost`): local errors or
stiffness of one step from each time, as the rms or mean over rows and times, with slopes through the path. A drift that
is taken out, to be solved by itself, then takes fewer evaluations. The bound that is told has no penalty in it.

Where drift and decoder are linear and the noise is Brownian, the exact posterior has this form. In general it is an
approximation: the bound is below the log likelihood, and what is learned of drift and noise is drawn to where the
posterior fits well.

The noise that drives a hidden path: Brownian motion, or fractional motion as a few processes with one source.

In a step of length h the motion of one number of the path moves by

    dB = pull + s e,     e ~ N(0, 1),

pull what it remembers of its past, s the sd of what is new. A Brownian motion remembers nothing, s = sqrt(h).

Fractional motion of Hurst index H is the sum of K processes, B_H ~ sum_k w_k Y_k, dY_k = -gamma_k Y_k dt + dW, all
driven by one and the same W (`simulators.dynamics.noise.MarkovFractional`). Over a step, exactly,

    Y_k <- e^{-gamma_k h} Y_k + n_k,     n ~ N(0, C),     C_ij = (1 - e^{-(gamma_i + gamma_j) h}) / (gamma_i + gamma_j),

so with R R = C, n = R xi, xi ~ N(0, I_K), and with v = R w

    pull = sum_k w_k (e^{-gamma_k h} - 1) Y_k,     s = |v|,     e = v . xi / |v|.

Where a posterior moves and narrows e alone, the rest of xi keeps its prior: xi' = xi + (v / |v|) (e' - e). This is no
approximation of the prior, and the exact KL of such a posterior.

The weights w depend smoothly on H. They are computed at Chebyshev's points of H, and are the polynomial through these
in between, so that H can be learned by descent. It is kept from 0.1 to 0.95: rougher motions need faster processes
than six (`MarkovFractional.error`). The motion is Riemann and Liouville's: at the first time of a row it remembers
nothing.

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
    """A path of a stochastic differential equation.

    Args:
        states: S, how many numbers the path has at a time.
        known: A drift that is known, `known(theta, z, t)` -> (row, S), a function of a module: theta name -> (row,)
            in the prior's units, z (row, S), t (row,) and the result in the simulator's units. A learned drift is added
            to it. Give `LatentDynamics(columns=...)` too: which numbers of z are seen. Without `TARGET_times` the unit
            of time is the step.
        scales: How large each number of the path is, about, in its unit; 1 where left out.
        unknown: Numbers of the path whose drift has a learned part; all where left out, () for none.
        noise: What drives it; `Brownian()` where left out.
        steps: Between one time and the next.
        hidden: Width of the drift's two hidden layers, beside a linear part; 0 for a linear drift.
        width: Of the hidden layers of the posterior's networks.
        penalty: Weight of what the drift costs a solver, in nats a row.
        penalised: "sum" (local errors) or "stiffness".

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
                f"unknown is {list(unknown)}: expected some of 0..{states - 1}, and all of them where no drift is known"
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
    """The equation with its networks.

    Args:
        made: Its recipe.
        sizes: Of what it is given.
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
        """f at states, in `scales` a mean step.

        Args:
            z: States, in `scales`.
            series: Of the same rows.
            k: The number of the time before, for controls.
            time: In mean steps, (row or 1,).
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
                f"the known drift of states {tuple(z.shape)} is {tuple(rate.shape)}; it is to be of the same shape: a "
                "parameter is (row,), theta['a'][:, None] goes with states, z[:, 0] is one number of them"
            )
        return found + rate * unit[:, None] / self.scales

    def diffusion(self, context: Float[Tensor, "row context"]) -> Float[Tensor, "row state"]:
        """g: sd of the noise of a mean step, of Brownian motion, in `scales`."""
        return 0.5 * self.scale(context).exp()

    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        return self._path(series, self.later.read_of(series), generator)

    def prior(self, series: Series, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        return self._path(series, None, generator).z

    def cost(self, series: Series, z: Float[Tensor, "row time state"]) -> Float[Tensor, ""]:
        """The penalty of one step from each time but the last, of as many rows as there are such steps."""
        count = series.length - 1
        if not self.penalty or not count:
            return z.new_zeros(())
        known = {name: getattr(series, name) for name in ("theta", "unit", "origin", "context")}
        told = {name: value.repeat_interleave(count, 0) for name, value in known.items() if value is not None}
        controls = None if series.controls is None else series.controls[:, :-1].flatten(0, 1)[:, None]
        rows = replace(series, controls=controls, **told)  # all that a drift reads
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
        """z a step later, without noise, by Runge and Kutta's rule of order 4."""
        length, middle = h[:, None], time + 0.5 * h
        first = self.drift(z, series, k, time)
        second = self.drift(z + 0.5 * length * first, series, k, middle)
        third = self.drift(z + 0.5 * length * second, series, k, middle)
        fourth = self.drift(z + length * third, series, k, time + h)
        return z + length / 6 * (first + 2 * second + 2 * third + fourth)

    def _told(self, later: Heard | None, k: int, time: Tensor, weights: Tensor, g: Tensor) -> Told | None:
        """What is said at a time before the k-th, or at it."""
        if later is None:
            return None
        left = (later.next[:, k] - time).clamp_min(0.0)
        return Told(later.read[k], left[:, None], g * self.driver.spread(weights, left), later.any[:, k])


_LOW, _HIGH, _POINTS = 0.1, 0.95, 24  # of H, and how many points the weights are computed at
_BEYOND = 1.05  # of the horizon, from which on a row is told to be too long
_NONE = 1e-20  # variance of a step of no time: its slope is finite


@dataclass(frozen=True)
class MotionStep:
    """One step of the motions of all rows; of Brownian motion K is 0.

    Args:
        sd: s, (row or 1, 1).
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
        """What memory moves the motions by."""
        return (self.back[:, None] * memory).sum(-1).float()

    def first(self, white: Float[Tensor, "row state noise"]) -> Float[Tensor, "row state"]:
        """e of white noise xi."""
        if not self.along.shape[-1]:
            return white[..., 0]
        return (self.along[:, None] * white.double()).sum(-1).float()

    def remember(
        self,
        memory: Float[Tensor, "row state term"],
        white: Float[Tensor, "row state noise"],
        new: Float[Tensor, "row state"],
    ) -> Float[Tensor, "row state term"]:
        """Memory after the step, of noise xi whose e is replaced by `new`."""
        if not self.along.shape[-1]:
            return memory
        along, white = self.along[:, None], white.double()
        moved = white + along * (new.double()[..., None] - (along * white).sum(-1, keepdim=True))
        return memory * self.decay[:, None] + moved @ self.root


class Driver(nn.Module, ABC):
    """Motions, one for each number of the path, with what is learned of them.

    Attributes:
        terms: K, how many numbers a motion remembers.
    """

    terms: int

    @abstractmethod
    def weights(self, context: Float[Tensor, "row context"]) -> Float[Tensor, "row term"]:
        """w of each row, float64."""

    @abstractmethod
    def step(self, weights: Float[Tensor, "row term"], length: Float[Tensor, "#row"]) -> MotionStep:
        """A step of lengths (row or 1,)."""

    @abstractmethod
    def spread(self, weights: Float[Tensor, "row term"], length: Float[Tensor, " row"]) -> Float[Tensor, "row one"]:
        """s of a step of lengths (row,)."""

    @abstractmethod
    def seen(self, memory: Float[Tensor, "row state term"]) -> Float[Tensor, "row number"]:
        """What a network sees of memory, about 1 large."""

    def check(self, span: float) -> None:
        """Warn where a row is longer, in mean steps, than the motion is made for."""
        return None


class Noise(Component, ABC):
    """What drives a path."""

    @abstractmethod
    def build(self, context: int) -> Driver:
        """The motions, for so many numbers that are known of a row."""


@final
class Brownian(Noise):
    """Without memory."""

    def build(self, context: int) -> Driver:
        return _Brownian()


@final
class Fractional(Noise):
    """With a memory: roughness that is learned, or given.

    Args:
        horizon: The longest time from the first value of a row to the last, in mean steps: of n values, n - 1, and more
            where times are irregular or rows are forecast. Later than that the motion is no longer near a fractional
            one: at ten times the horizon its sd may be three times too large. Who asks about such a row is warned.
        hurst: H, from 0.1 to 0.95; where left out it is learned, as a function of what is known of the row.
        terms: K, 6 at most.
        fastest: The largest speed, in 1 / horizon; 10 for each mean step where left out.

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
        """H of each row, float64."""
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
                f"beyond that it is another, too wide or too narrow. Train with Fractional(horizon={math.ceil(span)})",
                stacklevel=4,
            )

    def _covariance(self, length: Tensor) -> Tensor:
        total = self.speeds[:, None] + self.speeds
        return -torch.expm1(-total * length.double()[:, None, None]) / total

    def seen(self, memory: Tensor) -> Tensor:
        return (memory * (2 * self.speeds).sqrt()).float().flatten(1)
