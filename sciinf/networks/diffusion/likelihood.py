r"""The log density of a diffusion model's samples, computed along the probability flow of its denoiser.

Along dy/du = D(y, s) - y, u = -log s, from data (u_1 = -log s_N) back to noise (u_0 = -log s_0)

    log q(y(u_1)) = log N(y(u_0); 0, (s_0^2 + 1) I) - int_{u_0}^{u_1} tr(dD/dy - I) du,

At the highest level the noise is far larger than the data, so data of unit sd are assumed there. The trace is computed
exactly by D products with the Jacobian, or estimated. Hutchinson's unbiased estimate is n^T (dD/dy) n, with one random
n for the whole solve, E[n n^T] = I.

References:
    | Score-Based Generative Modeling through Stochastic Differential Equations (Song et al., 2021), appendix D.2,
      https://arxiv.org/abs/2011.13456
    | FFJORD (Grathwohl et al., 2019), https://arxiv.org/abs/1810.01367
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.networks.diffusion.schedule import NoiseSchedule
from sciinf.networks.diffusion.solver import Denoiser
from sciinf.networks.ode import rk4

EXACT = 32
"""Largest D whose trace is found exactly where nothing is said."""


def log_density(
    denoise: Denoiser,
    y: Float[Tensor, "*rows dim"],
    schedule: NoiseSchedule,
    *,
    steps: int = 40,
    ending: Callable[[Tensor], Tensor] | None = None,
    generator: torch.Generator | None = None,
    exact: int = EXACT,
) -> Float[Tensor, "*rows"]:
    """Log density log q of points y at the path's lowest noise level.

    Args:
        denoise: Denoiser D, differentiable.
        y: Points.
        schedule: Path from data to noise.
        steps: Number of steps of the classical Runge-Kutta method, with four evaluations each. Steps are equal in u and
            the same for every row, so a row does not depend on the other rows.
        ending: Log density at the highest level, (*rows, D) to (*rows). None uses N(0, (s_0^2 + 1) I).
        generator: Source of noise for Hutchinson's estimate of the trace. None uses the exact trace.
        exact: Largest D for which the exact trace is allowed.

    Raises:
        ValueError: If D is above `exact` without a generator, or if `steps` is not an int of at least 1.
    """
    check_whole("steps", steps, 1)
    if generator is None and y.shape[-1] > exact:
        raise ValueError(
            f"the exact trace takes {y.shape[-1]} derivatives at each step (above {exact}); pass a generator for an "
            "unbiased estimate of it"
        )
    if generator is None:
        probes = [direction.expand_as(y) for direction in torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)]
    else:
        signs = torch.randint(0, 2, y.shape, generator=generator, device=generator.device)
        probes = [(2 * signs - 1).to(y)]

    def field(u: float, state: Tensor) -> Tensor:
        level = state.new_tensor(math.exp(-u))
        with torch.enable_grad():
            place = state[..., :-1].detach().requires_grad_()
            value = denoise(place, level)
            last, trace = len(probes) - 1, torch.zeros_like(state[..., -1])
            for number, probe in enumerate(probes):
                (slope,) = torch.autograd.grad(value, place, probe, retain_graph=number < last)
                trace = trace + (slope * probe).sum(-1)
        return torch.cat([value.detach() - place.detach(), (trace - y.shape[-1]).detach()[..., None]], dim=-1)

    start = torch.cat([y, torch.zeros_like(y[..., :1])], dim=-1)
    ends = [-math.log(schedule.least), -math.log(schedule.most)]
    found = rk4(field, start, ends, steps_per_interval=steps)[-1]
    noise, integral = found[..., :-1], found[..., -1]  # The integral runs backwards: -int_{u_0}^{u_1}.
    return (ending or _centred(schedule))(noise) + integral


def _centred(schedule: NoiseSchedule) -> Callable[[Tensor], Tensor]:
    """The log density of N(0, (s_0^2 + 1) I), as a function of y."""
    variance = schedule.most**2 + 1
    return lambda y: -0.5 * (y.square().sum(-1) / variance + y.shape[-1] * math.log(2 * math.pi * variance))
