r"""Solvers that draw data from noise along a linear diffusion with auxiliary variables.

In u = (data, auxiliaries) of `auxiliary`, with the distribution N(a x_0, S) of u_t given x_0, the reverse
process and its probability flow are

    du = (A u - Q score) dt + B dW    (backwards in time),    du/dt = A u - Q score / 2,    score = -S^{-1} (u - a D).

| solver | step from t to t' < t | order | evaluations for N steps |
|---|---|---|---|
| `JointAncestral` | draws u' from its distribution given u and x_0 = D | 1 | N |
| `JointExponential` | solves the flow exactly for D a polynomial through its last values | 1, 2 or 3 | N |

With G = S' F^T S^{-1} and F = e^{A (t - t')}, the distribution of a step of `JointAncestral` is

    u' ~ N(a' D + G (u - a D), (1 - G F) S' (1 - G F)^T + G S_0(t - t') G^T),

which tends to that of Euler-Maruyama for short steps, and is stable for steps of any length.
`JointExponential` solves

    u' = R(t', t) u + int_t^{t'} R(t', v) c(v) D(v) dv,    dR/dt = (A + Q S^{-1} / 2) R,    c = -Q S^{-1} a / 2,

where R, and the integrals of c times powers of -log s, are computed by Runge-Kutta steps on K x K matrices
before any evaluation of D. For constant D the step is u' = a' D + R (u - a D). Without auxiliaries the solver
is the same as `Exponential`, which is DDIM for order 1.

Both are used like any other solver: they map y to y with an ordinary denoiser D(y, s). They first draw
auxiliaries given y, then follow the reverse process (`walk`), and finally project u to y. `walk` alone maps u
to u with a denoiser of u, such as the one that `hybrid.HybridMatching` trains.

References:
    | gDDIM: Generalized Denoising Diffusion Implicit Models (Zhang, Tao & Chen, 2023), https://arxiv.org/abs/2206.05564
    | Score-Based Generative Modeling with Critically-Damped Langevin Diffusion (Dockhorn et al., 2022),
      https://arxiv.org/abs/2112.07068
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.lab.auxiliary import JointDenoiser, LinearDiffusion, critically_damped
from sciinf.networks.diffusion.grid import Geometric, Grid
from sciinf.networks.diffusion.schedule import NoiseSchedule
from sciinf.networks.diffusion.solver import Denoiser, Rows, Solver, noise_like

_SUBSTEPS = 32


class JointSolver(Solver, ABC):
    """A solver of the reverse process of data and auxiliaries.

    Args:
        process: The diffusion. By default, critically damped Langevin dynamics.
        steps: Number of steps N.
        grid: Noise levels between the steps. By default, evenly spaced in log s.

    Raises:
        ValueError: If steps is no int of at least 1.
    """

    def __init__(self, process: LinearDiffusion | None, steps: int, grid: Grid | None) -> None:
        check_whole("steps", steps, 1)
        self.process, self.steps, self.grid = process or critically_damped(), steps, grid or Geometric()

    @abstractmethod
    def walk(
        self,
        denoise: JointDenoiser,
        u: Float[Tensor, "*rows K dim"],
        times: Float[Tensor, " times"],
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, "*rows K dim"]:
        """The data and auxiliaries u at the last time, given those at the first time.

        Args:
            denoise: Denoiser that returns E[x_0 | u_t].
            u: Data and auxiliaries at the first time.
            times: Times at which steps begin and end, decreasing.
            generator: Source of noise, for stochastic solvers.
        """

    def evaluations(self) -> int:
        return self.steps

    def solve(self, denoise: Denoiser, y: Rows, schedule: NoiseSchedule, *, generator: torch.Generator) -> Rows:
        times = self.process.time(self.grid.levels(schedule, self.steps))
        u = self.process.kernel(times[0]).lift(y, generator)
        u = self.walk(self.process.joint(denoise), u, times, generator=generator)
        return self.process.kernel(times[-1]).project(u)


class JointAncestral(JointSolver):
    """Stochastic solver that draws u' from its distribution given u and x_0 = D.

    Args:
        process: See `JointSolver`.
        steps: Number of steps N.
        grid: See `JointSolver`.

    Raises:
        ValueError: If steps is no int of at least 1.
    """

    order = 1

    def __init__(self, process: LinearDiffusion | None = None, steps: int = 100, grid: Grid | None = None) -> None:
        super().__init__(process, steps, grid)

    def walk(
        self,
        denoise: JointDenoiser,
        u: Float[Tensor, "*rows K dim"],
        times: Float[Tensor, " times"],
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, "*rows K dim"]:
        late, early = self.process.kernel(times[:-1]), self.process.kernel(times[1:])
        forward, added = self.process.transition(times[:-1] - times[1:])
        gain = torch.linalg.solve(late.covariance, forward @ early.covariance).mT
        kept = torch.eye(self.process.size, dtype=torch.float64) - gain @ forward
        spread = kept @ early.covariance @ kept.mT + gain @ added @ gain.mT
        factor = torch.linalg.cholesky(spread).to(u)
        gain, before, after = gain.to(u), late.mean.to(u)[..., None], early.mean.to(u)[..., None]
        for step in range(len(times) - 1):
            value = denoise(u, times[step])[..., None, :]
            u = after[step] * value + gain[step] @ (u - before[step] * value) + factor[step] @ noise_like(u, generator)
        return u


class JointExponential(JointSolver):
    """Deterministic solver: an exponential multistep integrator (Adams) of the probability flow.

    Args:
        process: See `JointSolver`.
        steps: Number of steps N.
        order: Number of values of D that a step uses: 1, 2 or 3. The first steps use fewer.
        grid: See `JointSolver`.

    Raises:
        ValueError: If steps is no int of at least 1, or the order is not 1, 2 or 3.
    """

    def __init__(
        self, process: LinearDiffusion | None = None, steps: int = 20, order: int = 2, grid: Grid | None = None
    ) -> None:
        super().__init__(process, steps, grid)
        if order not in (1, 2, 3):
            raise ValueError(f"the order of JointExponential must be 1, 2 or 3, got {order}")
        self.order = order

    def walk(
        self,
        denoise: JointDenoiser,
        u: Float[Tensor, "*rows K dim"],
        times: Float[Tensor, " times"],
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, "*rows K dim"]:
        del generator
        rotation, moments = self._integrals(times)
        places = -self.process.level(times).log()
        values: list[Tensor] = []  # Values of D, the latest first.
        for step in range(len(times) - 1):
            values = [denoise(u, times[step]), *values[: self.order - 1]]
            count = len(values)
            back = torch.stack([places[step - past] - places[step] for past in range(count)])
            powers = torch.stack([back**k for k in range(count)])
            weights = torch.linalg.solve(powers, moments[step, :, :count].mT).to(u)  # (count, K)
            u = rotation[step].to(u) @ u
            for weight, value in zip(weights, values, strict=True):
                u = u + weight[:, None] * value[..., None, :]
        return u

    def _integrals(self, times: Float[Tensor, " times"]) -> tuple[Float[Tensor, "N K K"], Float[Tensor, "N K order"]]:
        """The matrix R and integrals int R c (log s_n - log s)^k dv of each step n, for k below the order.

        They are computed by the classical Runge-Kutta method in log t.
        """
        process, size = self.process, self.process.size
        parts = torch.linspace(0, 1, 2 * _SUBSTEPS + 1, dtype=torch.float64)
        start, width = times[:-1].log(), times[1:].log() - times[:-1].log()
        nodes = (start + width * parts[:, None]).exp()  # (points, N)
        kernel = process.kernel(nodes)
        noise = process.noise @ process.noise.T
        matrix = process.drift + 0.5 * noise @ torch.linalg.inv(kernel.covariance)
        past = -kernel.level.log() + kernel.level[0].log()
        powers = torch.stack([past**k for k in range(self.order)], dim=-1)
        source = (-0.5 * noise @ kernel.pull[..., None]) * powers[..., None, :]
        rate = nodes * width / _SUBSTEPS  # This is dt of one substep.

        def slope(point: int, state: Tensor) -> Tensor:
            inner = matrix[point] @ state
            inner[..., size:] += source[point]
            return rate[point][:, None, None] * inner

        state = torch.cat([torch.eye(size, dtype=torch.float64), torch.zeros(size, self.order, dtype=torch.float64)], 1)
        state = state.expand(len(start), -1, -1)
        for point in range(0, 2 * _SUBSTEPS, 2):
            first = slope(point, state)
            second = slope(point + 1, state + 0.5 * first)
            third = slope(point + 1, state + 0.5 * second)
            fourth = slope(point + 2, state + third)
            state = state + (first + 2 * second + 2 * third + fourth) / 6
        return state[..., :size], state[..., size:]
