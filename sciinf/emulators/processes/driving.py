r"""The noise that drives a hidden path: Brownian motion, or fractional motion as a few processes with one source.

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
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_whole
from sciinf.core.component import Component
from sciinf.emulators.processes.process import Linear
from sciinf.simulators.dynamics.noise import MarkovFractional

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
