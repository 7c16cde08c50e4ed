r"""A lower bound on the log density of draws by a diffusion with auxiliaries, for all linear diffusions.

Draws start at the stationary distribution, u_T ~ N(0, P), and follow the reverse process of `joint_solver`
with a learned D. They end as N(y, s_0^2 I), where y is the statistic of u at the lowest level s_0
(`auxiliary`). Given x_0, the noised u_t form a path of latent variables. With T the time of the highest level
s_1, therefore

    log q(x_0) >= E log N(x_0; y, s_0^2) - KL(N(a x_0, S) at T || N(0, P)) - int 1/2 |B^T S^{-1} a|^2 E|D - x_0|^2 dt.

The auxiliaries at time 0 are integrated out and leave no term. By (s^{-2})' = -|B^T S^{-1} a|^2 the integral
is int E|D(u_t) - x_0|^2 s^{-3} ds from s_0 to s_1. It depends on the diffusion only through the inputs of the
network beside y, which carry no information on x_0. **With an exact D all linear diffusions therefore have
the same bound, up to the KL term.**

A part of the integral is known. For D_0 = y / (1 + s^2), where x_0 has D numbers,

    int E|D_0 - x_0|^2 s^{-3} ds = [ -|x_0|^2 / (1 + s^2) + D log(s^2 / (1 + s^2)) + D / (1 + s^2) ]_{s_0}^{s_1} / 2,

so that levels are drawn only for the remainder |D - x_0|^2 - |D_0 - x_0|^2, which is the gain over the bound
of a standard normal. The other two terms are, for each number x of x_0 with its u in R^K,

    -log(2 pi e s_0^2) / 2,    (tr P^{-1} S + x^2 a^T P^{-1} a - K + log det P - log det S) / 2.

References:
    | Where to Diffuse, How to Diffuse, and How to Get Back: Automated Learning for Multivariate Diffusions
      (Singhal et al., 2023), https://arxiv.org/abs/2302.07261 (which keeps the stationary distribution
      fixed, too)
    | Variational Diffusion Models (Kingma et al., 2021), https://arxiv.org/abs/2107.00630
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.lab.auxiliary import Kernel, LinearDiffusion
from sciinf.lab.hybrid import denoised
from sciinf.lab.learned import FreeDiffusion
from sciinf.networks.diffusion.objective import EvenLogs, Network, NoiseLevels
from sciinf.networks.diffusion.schedule import NoiseSchedule

Noising = LinearDiffusion | FreeDiffusion


def log_bound(
    network: Network,
    data: Float[Tensor, "*rows dim"],
    noising: Noising,
    path: NoiseSchedule,
    *,
    generator: torch.Generator,
    levels: NoiseLevels | None = None,
) -> Float[Tensor, "*rows"]:
    """An unbiased estimate of the bound for each row of data, in nats.

    Each row has one level. The levels of all rows are spread evenly, along the later axes of rows first.

    Args:
        network: Network F of `hybrid`. Its inputs are y and auxiliaries, scaled, (*rows, K D), and log s,
            (*rows); its output is (*rows, D).
        data: Data x_0.
        noising: The diffusion, fixed or being learned.
        path: Path whose `least` and `most` are the levels s_0 and s_1.
        generator: Source of noise and levels.
        levels: Distribution of the levels; evenly in log s by default.
    """
    rows, count, dim = data.shape[:-1], data.shape[:-1].numel(), data.shape[-1]
    uniform = (torch.arange(count, device=data.device, dtype=torch.float64) + 0.5) / count
    shift = torch.rand(1, generator=generator, device=generator.device, dtype=torch.float64).to(data.device)
    level, density = (levels or EvenLogs()).draw(path, (shift + uniform) % 1.0)
    mean, covariance = noising.moments(torch.cat([level, level.new_tensor([path.most])]))
    every = torch.ones(mean.shape[-1], dtype=torch.bool)
    kernel = Kernel(mean[:-1].unflatten(0, rows), covariance[:-1].unflatten(0, rows), every)
    u = kernel.draw(data, generator)
    known, s = kernel.project(u) / (1 + level.reshape(rows)[..., None] ** 2).to(data), level.reshape(rows)
    more = (denoised(network, u, kernel) - data).square().sum(-1) - (known - data).square().sum(-1)
    square = data.double().square().sum(-1)
    least, most = path.least**2, path.most**2
    path_known = 0.5 * square * (1 / (1 + least) - 1 / (1 + most)) + dim * (_spent(most) - _spent(least))
    end = _divergence(mean[-1], covariance[-1], noising.rest(), square, dim)
    total = -0.5 * dim * math.log(2 * math.pi * math.e * least) - path_known - end
    return (total - more.double() / (s**2 * density.reshape(rows))).to(data)


def _spent(square: float) -> float:
    """The part of the known integral per number of x_0: 1/2 (log(s^2 / (1 + s^2)) + 1 / (1 + s^2)).

    Args:
        square: Squared level s^2.
    """
    return 0.5 * (math.log(square / (1 + square)) + 1 / (1 + square))


def _divergence(mean: Tensor, covariance: Tensor, rest: Tensor, square: Tensor, dim: int) -> Tensor:
    """The divergence KL(N(a x_0, S) || N(0, P)) at the highest level, for each row of data.

    Args:
        mean: Factor a of x_0, (K).
        covariance: Covariance S of u, (K, K).
        rest: Stationary covariance P, (K, K).
        square: Squared norm |x_0|^2 of each row of data.
        dim: Number D of numbers in x_0.
    """
    rest = rest.to(mean.device)
    trace = torch.linalg.solve(rest, covariance).diagonal().sum()
    along = mean @ torch.linalg.solve(rest, mean)
    logs = torch.linalg.slogdet(rest)[1] - torch.linalg.slogdet(covariance)[1]
    return 0.5 * (square * along + dim * (trace - len(mean) + logs))
