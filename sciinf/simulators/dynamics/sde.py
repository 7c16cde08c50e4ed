r"""Stochastic differential equations with fixed steps, for a whole batch at once.

    dz = f(theta, z, t) dt + g(theta, z, t) dW,

z (row, S), W Brownian motions, g either (row, S), one motion for each number (diagonal noise), or (row, S, W). A step
of length h has the increments dW ~ N(0, h):

    Euler-Maruyama:  z + f h + g dW                                   (Ito)
    Milstein:        z + f h + g dW + 1/2 g g' (dW^2 - h)             (Ito; g_i depends on z_i alone)
    Heun:            p = z + f h + g dW,                              (Stratonovich)
                     z + 1/2 (f(z) + f(p)) h + 1/2 (g(z) + g(p)) dW

What g dW means where g depends on z is a part of the model: the Stratonovich equation with drift f is the Ito equation
with drift f + 1/2 g g'. `EulerMaruyama` and `Milstein` read the equation in Ito's sense, `StochasticHeun` in
Stratonovich's. Where g is constant they are the same equation.

Paths differ from true ones of the same W by O(h^(1/2)) with Euler-Maruyama, by O(h) with Milstein, and with Heun where
the noise is diagonal. Laws differ by O(h) with all three. Where g does not depend on z, Euler-Maruyama is Milstein.

Each row takes the same number of steps between its own start and stop, so that nothing depends on what else is in the
batch, and gradients flow to theta.

References:
    | Numerical Solution of Stochastic Differential Equations (Kloeden & Platen, 1992),
      https://doi.org/10.1007/978-3-662-12616-5
    | On Neural Differential Equations (Kidger, 2022), https://arxiv.org/abs/2202.02435
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.simulators.dynamics.state_space import Theta, Time, moments

Field = Callable[[Tensor], Tensor]


class Scheme(ABC):
    """One step, and the sense in which it reads the equation."""

    @abstractmethod
    def step(self, equation: SDE, theta: Theta, state: Tensor, time: Tensor, length: Tensor, dw: Tensor) -> Tensor:
        """The state a step later.

        Args:
            equation: The equation.
            theta: Parameters, each (row,).
            state: (row, S).
            time: Where the step starts, (row,), float64.
            length: Of the step, (row, 1), of the state's dtype.
            dw: Increments of the motions, (row, W).
        """

    def look(self, equation: SDE, theta: Theta, state: Tensor, time: Tensor) -> None:
        """Raise ValueError where the scheme is not for this equation; asked once, before the first step."""
        return None


class SDE:
    """An equation that noise drives, and how it is solved.

    Args:
        drift: `drift(theta, state, time)`, (row, S): theta is a mapping name -> (row,), time (row,).
        diffusion: `diffusion(theta, state, time)`: (row, S), a motion of its own for each number, or (row, S, W).
        scheme: Its steps; Euler-Maruyama where left out.

    Examples:
        >>> decay = SDE(lambda theta, z, t: -theta["rate"][:, None] * z, lambda theta, z, t: 0.1 * torch.ones_like(z))
        >>> theta, g = {"rate": torch.tensor([1.0, 2.0])}, torch.Generator().manual_seed(0)
        >>> decay.solve(theta, torch.ones(2, 1), 0.0, torch.tensor([1.0, 3.0]), steps=100, generator=g).shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        drift: Callable[[Theta, Tensor, Tensor], Tensor],
        diffusion: Callable[[Theta, Tensor, Tensor], Tensor],
        scheme: Scheme | None = None,
    ) -> None:
        self.drift, self.diffusion, self.scheme = drift, diffusion, scheme or EulerMaruyama()

    def solve(
        self,
        theta: Theta,
        state: Tensor,
        start: Time,
        stop: Time,
        *,
        steps: int,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Float[Tensor, "row state"]:
        """The state at the stop.

        Args:
            theta: Parameters, each (row,).
            state: At the start, (row, S), floating point.
            start: For all rows, or (row,).
            stop: Not before the start.
            steps: Of equal length, between each row's start and its stop.
            generator: Source of randomness.
            noise: Instead of it, increments of the motions in each step, (step, row, W): to solve twice by the same
                noise, or by fractional noise (`noise.fractional`), only where g does not depend on z: fractional
                noise has no Ito sense. With g = z and H < 1/2, shorter steps of Euler-Maruyama are further off.

        Raises:
            TypeError: If the state is not floating point.
            ValueError: If there is no step, times run backwards, there is not exactly one source of noise, shapes do
                not fit, or the scheme is not for this noise.
        """
        begin, end = moments(state, start, stop)
        motions = self._motions(theta, state, begin)
        if not state.is_floating_point():
            raise TypeError(f"the state has dtype {state.dtype}, expected floating point: pass state.float()")
        if steps < 1:
            raise ValueError(f"steps is {steps}, expected 1 or more")
        if (generator is None) == (noise is None):
            raise ValueError("give either a generator or the noise itself")
        if noise is not None and noise.shape != (steps, len(state), motions):
            raise ValueError(
                f"the noise is {tuple(noise.shape)}, expected (step, row, motion) {(steps, len(state), motions)}"
            )
        self.scheme.look(self, theta, state, begin)
        length = ((end - begin) / steps)[:, None]
        h, scale = length.to(state), length.sqrt().to(state)
        for k in range(steps):
            if generator is not None:
                shape, device = (len(state), motions), generator.device
                dw = scale * torch.randn(shape, generator=generator, dtype=state.dtype, device=device).to(state.device)
            else:
                dw = noise[k].to(state)  # type: ignore[index]
            state = self.scheme.step(self, theta, state, begin + k * length[:, 0], h, dw)
        return state

    def at(
        self,
        theta: Theta,
        state: Float[Tensor, "row state"],
        times: Sequence[float] | Tensor,
        *,
        steps: int,
        generator: torch.Generator,
    ) -> Float[Tensor, "row time state"]:
        """The states at times in order, of which the first is that of the state.

        Args:
            theta: Parameters, each (row,).
            state: At `times[0]`.
            times: For all rows.
            steps: Between one time and the next.
            generator: Source of randomness.
        """
        states = [state]
        for start, stop in itertools.pairwise(float(time) for time in times):
            states.append(self.solve(theta, states[-1], start, stop, steps=steps, generator=generator))
        return torch.stack(states, 1)

    def _motions(self, theta: Theta, state: Tensor, time: Tensor) -> int:
        """How many Brownian motions there are."""
        f, g = self.drift(theta, state, time), self.diffusion(theta, state, time)
        if f.shape != state.shape or g.shape[:2] != state.shape or g.ndim > 3:
            raise ValueError(
                f"of a state {tuple(state.shape)} the drift is {tuple(f.shape)} and the diffusion {tuple(g.shape)}, "
                "expected (row, S), and (row, S) or (row, S, motion); parameters are (row,): theta['a'][:, None]"
            )
        return g.shape[-1]


class EulerMaruyama(Scheme):
    """The simplest step, of any noise; in Ito's sense."""

    def step(self, equation: SDE, theta: Theta, state: Tensor, time: Tensor, length: Tensor, dw: Tensor) -> Tensor:
        drift, diffusion = equation.drift(theta, state, time), equation.diffusion(theta, state, time)
        return state + drift * length + _times(diffusion, dw)


class Milstein(Scheme):
    """Nearer to the true path of the same noise, where the noise is diagonal; in Ito's sense."""

    def step(self, equation: SDE, theta: Theta, state: Tensor, time: Tensor, length: Tensor, dw: Tensor) -> Tensor:
        drift, diffusion = equation.drift(theta, state, time), equation.diffusion(theta, state, time)
        slope = _slope(equation, theta, state, time, diffusion)
        return state + drift * length + diffusion * dw + diffusion * slope * (dw.square() - length) / 2

    def look(self, equation: SDE, theta: Theta, state: Tensor, time: Tensor) -> None:
        diffusion = equation.diffusion(theta, state, time)
        if diffusion.ndim != 2:
            raise ValueError(
                f"the diffusion is {tuple(diffusion.shape)}; Milstein's step is for diagonal noise, (row, S): take "
                "EulerMaruyama()"
            )
        # with weights c each number's slope is c times as large if it depends on nothing but itself
        c = torch.arange(1, state.shape[1] + 1, dtype=state.dtype, device=state.device)
        weighted = _slope(equation, theta, state, time, diffusion, c)
        alone = c * _slope(equation, theta, state, time, diffusion)
        if bool(((weighted - alone).abs() > 1e-3 * alone.abs() + 1e-5 * diffusion.abs()).any()):
            raise ValueError(
                "the diffusion of one number depends on another; Milstein's step is for diagonal noise, where it "
                "depends on that number alone: take EulerMaruyama()"
            )


class StochasticHeun(Scheme):
    """The mean of two steps, of any noise; in Stratonovich's sense."""

    def step(self, equation: SDE, theta: Theta, state: Tensor, time: Tensor, length: Tensor, dw: Tensor) -> Tensor:
        drift, diffusion = equation.drift(theta, state, time), equation.diffusion(theta, state, time)
        ahead, later = state + drift * length + _times(diffusion, dw), time + length[:, 0].to(time)
        drift = drift + equation.drift(theta, ahead, later)
        return state + drift * length / 2 + _times(diffusion + equation.diffusion(theta, ahead, later), dw) / 2


def _times(diffusion: Tensor, dw: Tensor) -> Tensor:
    """g dW."""
    return diffusion * dw if diffusion.ndim == 2 else torch.einsum("rsw,rw->rs", diffusion, dw)


def _slope(
    equation: SDE, theta: Theta, state: Tensor, time: Tensor, diffusion: Tensor, weights: Tensor | None = None
) -> Tensor:
    """sum_i c_i dg_i / dz_j, (row, S), c all 1 where left out: each number's own slope, if g_i depends on z_i alone.

    `diffusion` is g as the caller sees it: where gradients are not followed through it, they are not through its slope.
    """
    with torch.enable_grad():
        z = state if state.requires_grad else state.detach().requires_grad_()
        again = equation.diffusion(theta, z, time)
        if not again.requires_grad:
            return torch.zeros_like(state)
        total = again.sum() if weights is None else (again * weights).sum()
        (slope,) = torch.autograd.grad(total, z, create_graph=diffusion.requires_grad, allow_unused=True)
    return torch.zeros_like(state) if slope is None else slope
