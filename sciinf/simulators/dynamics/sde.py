r"""Stochastic differential equations, solved with fixed steps for a whole batch at once.

    dz = f(theta, z, t) dt + g(theta, z, t) dW,

where z is (row, S), W are Brownian motions, and g is (row, S) or (row, S, W). With g of shape (row, S), each component
of z has its own motion (diagonal noise). A step of length h has the increments dW ~ N(0, h):

    Euler-Maruyama:  z + f h + g dW                                   (Ito)
    Milstein:        z + f h + g dW + 1/2 g g' (dW^2 - h)             (Ito; g_i depends on z_i alone)
    Heun:            p = z + f h + g dW,                              (Stratonovich)
                     z + 1/2 (f(z) + f(p)) h + 1/2 (g(z) + g(p)) dW

If g depends on z, the meaning of g dW is a part of the model: the Stratonovich equation with drift f is the Ito
equation with drift f + 1/2 g g'. `EulerMaruyama` and `Milstein` read the equation in Ito's sense, and `StochasticHeun`
reads it in Stratonovich's. If g is constant, the two equations are the same.

Paths differ from the true paths of the same W by O(h^(1/2)) with Euler-Maruyama and by O(h) with Milstein. With Heun
they differ by O(h) if the noise is diagonal. Distributions differ by O(h) with all three schemes. If g does not depend
on z, Euler-Maruyama is Milstein.

Each row takes the same number of steps between its own start and stop, so that no row depends on other rows of the
batch. Gradients flow to theta.

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
    """Integration scheme: one time step of an equation, read in either Ito's or Stratonovich's sense."""

    @abstractmethod
    def step(self, equation: SDE, theta: Theta, state: Tensor, time: Tensor, length: Tensor, dw: Tensor) -> Tensor:
        """State at the end of one time step.

        Args:
            equation: Equation to be solved.
            theta: Parameters, each (row,).
            state: State at the start of the step, (row, S).
            time: Start time of the step, (row,), float64.
            length: Length of the step, (row, 1), in the state's dtype.
            dw: Increments of the motions in the step, (row, W).
        """

    def look(self, equation: SDE, theta: Theta, state: Tensor, time: Tensor) -> None:
        """Raise ValueError if the scheme cannot solve this equation. Called once, before the first step."""
        return None


class SDE:
    """A stochastic differential equation and the scheme that solves it.

    Args:
        drift: Drift f, (row, S): `drift(theta, state, time)`, where theta is a mapping name -> (row,), and time is
            (row,).
        diffusion: Diffusion g: `diffusion(theta, state, time)`, either (row, S), one motion for each component of the
            state, or (row, S, W).
        scheme: Integration scheme; Euler-Maruyama by default.

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
        """State at the stop time.

        Args:
            theta: Parameters, each (row,).
            state: State at the start, (row, S), floating point.
            start: Start time, one number for all rows or (row,).
            stop: Stop time, not before the start; one number for all rows or (row,).
            steps: Number of equal steps between each row's start and stop.
            generator: Source of randomness. Give either a generator or `noise`.
            noise: Increments of the motions in each step, (step, row, W), instead of a generator. Given noise serves to
                solve twice with the same noise, or with fractional noise (`noise.fractional`). Fractional noise has no
                Ito sense, so use it only if g does not depend on z. With g = z and H < 1/2, the error of
                Euler-Maruyama grows as steps get shorter.

        Raises:
            TypeError: If the state is not floating point.
            ValueError: If there is no step, times run backwards, there is not exactly one source of noise, shapes do
                not match, or the scheme cannot treat this noise.
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
        """States at each of several increasing times.

        Args:
            theta: Parameters, each (row,).
            state: State at `times[0]`, which the result repeats.
            times: Increasing times, the same for all rows.
            steps: Number of steps between consecutive times.
            generator: Source of randomness.
        """
        states = [state]
        for start, stop in itertools.pairwise(float(time) for time in times):
            states.append(self.solve(theta, states[-1], start, stop, steps=steps, generator=generator))
        return torch.stack(states, 1)

    def _motions(self, theta: Theta, state: Tensor, time: Tensor) -> int:
        """Number of Brownian motions W, after a check of the shapes of drift and diffusion."""
        f, g = self.drift(theta, state, time), self.diffusion(theta, state, time)
        if f.shape != state.shape or g.shape[:2] != state.shape or g.ndim > 3:
            raise ValueError(
                f"for a state {tuple(state.shape)} the drift is {tuple(f.shape)} and the diffusion {tuple(g.shape)}, "
                "expected (row, S), and (row, S) or (row, S, motion); parameters are (row,): theta['a'][:, None]"
            )
        return g.shape[-1]


class EulerMaruyama(Scheme):
    """Euler-Maruyama scheme, the simplest one, for any noise. The equation is read in Ito's sense."""

    def step(self, equation: SDE, theta: Theta, state: Tensor, time: Tensor, length: Tensor, dw: Tensor) -> Tensor:
        drift, diffusion = equation.drift(theta, state, time), equation.diffusion(theta, state, time)
        return state + drift * length + _times(diffusion, dw)


class Milstein(Scheme):
    """Milstein scheme, for diagonal noise only. The equation is read in Ito's sense.

    The computed path is nearer to the true path of the same noise than with Euler-Maruyama.
    """

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
        # If g_i depends on z_i alone, the weights c multiply the derivative in component i by exactly c_i.
        c = torch.arange(1, state.shape[1] + 1, dtype=state.dtype, device=state.device)
        weighted = _slope(equation, theta, state, time, diffusion, c)
        alone = c * _slope(equation, theta, state, time, diffusion)
        if bool(((weighted - alone).abs() > 1e-3 * alone.abs() + 1e-5 * diffusion.abs()).any()):
            raise ValueError(
                "the diffusion of one number depends on another; Milstein's step is for diagonal noise, where it "
                "depends on that number alone: take EulerMaruyama()"
            )


class StochasticHeun(Scheme):
    """Stochastic Heun scheme, for any noise. The equation is read in Stratonovich's sense.

    Drift and diffusion are averages over the start of the step and a predicted end of the step.
    """

    def step(self, equation: SDE, theta: Theta, state: Tensor, time: Tensor, length: Tensor, dw: Tensor) -> Tensor:
        drift, diffusion = equation.drift(theta, state, time), equation.diffusion(theta, state, time)
        ahead, later = state + drift * length + _times(diffusion, dw), time + length[:, 0].to(time)
        drift = drift + equation.drift(theta, ahead, later)
        return state + drift * length / 2 + _times(diffusion + equation.diffusion(theta, ahead, later), dw) / 2


def _times(diffusion: Tensor, dw: Tensor) -> Tensor:
    """Noise term g dW of one step, (row, S)."""
    return diffusion * dw if diffusion.ndim == 2 else torch.einsum("rsw,rw->rs", diffusion, dw)


def _slope(
    equation: SDE, theta: Theta, state: Tensor, time: Tensor, diffusion: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Derivative of the diffusion, sum_i c_i dg_i / dz_j, (row, S).

    If g_i depends on z_i alone, component j is c_j dg_j / dz_j.

    Args:
        equation: Equation with the diffusion g.
        theta: Parameters, each (row,).
        state: State z, (row, S).
        time: Time of the state, (row,).
        diffusion: Value of g at the state. If no gradients flow through this tensor, none flow through the result.
        weights: Weights c, (S,); all 1 by default.
    """
    with torch.enable_grad():
        z = state if state.requires_grad else state.detach().requires_grad_()
        again = equation.diffusion(theta, z, time)
        if not again.requires_grad:
            return torch.zeros_like(state)
        total = again.sum() if weights is None else (again * weights).sum()
        (slope,) = torch.autograd.grad(total, z, create_graph=diffusion.requires_grad, allow_unused=True)
    return torch.zeros_like(state) if slope is None else slope
