r"""Residual of the Fokker-Planck equation for the scores of a diffusion model, to measure or to use as a penalty.

In y = x_t / alpha, every path of `schedule` is dy = sqrt(d s^2 / dt) dW. Its density obeys the heat equation in s^2. So
the score S = grad log p_s(y) obeys

    dS / d(s^2) = 1/2 grad (div S + |S|^2).

The scores of a network need not obey this equation, because training treats each level separately. The residual

    r(y, s) = dS / d(s^2) - 1/2 grad (div S + |S|^2)

measures how far the network's scores are from the scores of any single density with noise. In y, the paper's equation
has no drift terms and does not contain the path's alpha.

The exact div S takes D products with the Jacobian. Hutchinson's estimate n^T (dS/dy) n takes one product, with random
signs n, and gives an unbiased r. The penalty is |s^3 r|^2 / D. s S is, except for its sign, the noise that networks
approximate. So s^3 r is half the error of this noise per unit of log s. With random n, the product of two independent
estimates replaces the square. This product is unbiased too, so values of single rows can be negative.

The penalty costs some ten times as much as the loss. It makes scores consistent with each other, not with the data: the
exact scores of a wrong density have no residual either.

References:
    | FP-Diffusion: Improving Score-based Diffusion Models by Enforcing the Underlying Score Fokker-Planck Equation
      (Lai et al., 2023), https://arxiv.org/abs/2210.04296
    | Closing the ODE-SDE gap in score-based diffusion models through the Fokker-Planck equation (Deveney et al.,
      2023), https://arxiv.org/abs/2311.15996: its network is a potential u for log p, with the residual of
      du / d(s^2) = (div grad u + |grad u|^2) / 2. The gradient of this residual in y is r. The residual bounds the
      distance between samples with and without noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.networks.diffusion.likelihood import EXACT
from sciinf.networks.diffusion.objective import Diffusion, Network
from sciinf.networks.diffusion.solver import Denoiser

FEW = 4  # Largest number of dimensions for which training uses the exact divergence.

Scores = Callable[[Tensor, Tensor], Tensor]
"""S: y (rows, D) and a level for each (rows), to (rows, D); each row for itself."""


def score_of(denoise: Denoiser) -> Scores:
    """The score function (D - y) / s^2 of a denoiser D."""
    return lambda y, level: (denoise(y, level) - y) / (level**2)[..., None]


def residual(
    score: Scores,
    y: Float[Tensor, "*rows dim"],
    level: Float[Tensor, "*levels"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "rows dim"]:
    """The residual r, which is differentiable with respect to the network's weights.

    Args:
        score: Score function S, twice differentiable.
        y: Points, (rows, D).
        level: Noise level s of each point, (rows).
        generator: Source of noise for Hutchinson's estimate of the divergence. None uses the exact divergence.

    Raises:
        ValueError: If shapes do not agree, or D is above 32 and no generator is given.
    """
    if y.ndim != 2 or level.shape != y.shape[:1]:
        raise ValueError(
            f"the residual takes y (rows, dim) and a level for each row, got {tuple(y.shape)} and {tuple(level.shape)}"
        )
    if generator is None and y.shape[1] > EXACT:
        raise ValueError(
            f"the exact divergence takes {y.shape[1]} derivatives (above {EXACT}); pass a generator for an unbiased "
            "estimate of it"
        )
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        place, square = y.detach().requires_grad_(), (level.detach() ** 2).requires_grad_()
        value = score(place, square.sqrt())
        inner = value.square().sum()  # Rows are independent, so the gradient of the sum contains each row's gradient.
        for probe in _probes(y, generator):
            (slope,) = torch.autograd.grad(value, place, probe, create_graph=True)
            inner = inner + (slope * probe).sum()
        (bend,) = torch.autograd.grad(inner, place, create_graph=wanted, retain_graph=True)
        # `along` is linear in `unit`, so its derivative in `unit` is a Jacobian-vector product.
        unit = torch.zeros_like(value, requires_grad=True)
        (along,) = torch.autograd.grad(value, square, unit, create_graph=True)
        (rise,) = torch.autograd.grad(along.sum(), unit, create_graph=wanted)
    return rise - 0.5 * bend


def penalty(
    score: Scores,
    y: Float[Tensor, "rows dim"],
    level: Float[Tensor, " rows"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, " rows"]:
    """The penalty |s^3 r|^2 / D of each row, or an unbiased estimate of it if a generator is given.

    The arguments are those of `residual`.
    """
    first = residual(score, y, level, generator)
    second = first if generator is None else residual(score, y, level, generator)
    return level**6 * (first * second).mean(-1)


def regularised_loss(
    diffusion: Diffusion,
    network: Network,
    data: Float[Tensor, "batch dim"],
    *,
    weight: float,
    generator: torch.Generator,
) -> Float[Tensor, " batch"]:
    """The loss of `Diffusion` plus the penalty, which uses its own points and noise levels.

    Args:
        diffusion: Diffusion model: path, parameterisation, and distribution of noise levels.
        network: Network F.
        data: Data x_0, of about unit sd.
        weight: Weight of the penalty. On a mixture, weights of 1 to 2 lowered the penalty by a quarter to a half. They
            increased the squared error of D by 1 to 6 per cent.
        generator: Source of noise and levels, and of the divergence estimate above 4 dimensions.

    Raises:
        ValueError: If the weight is negative or not finite.
    """
    if not 0 <= weight < math.inf:
        raise ValueError(f"the weight of the penalty must be at least 0 and finite, got {weight}")
    loss = diffusion.loss(network, data, generator=generator)
    noise, level, _ = diffusion.noise(data, generator)
    score = score_of(lambda y, s: diffusion.denoise(network, y, s))
    estimate = generator if data.shape[1] > FEW else None
    return loss + weight * penalty(score, data + level[:, None] * noise, level, estimate)


def _probes(y: Tensor, generator: torch.Generator | None) -> list[Tensor]:
    """Directions n for the trace: unit vectors, whose n n^T sum to the identity, or one random n with E[n n^T] = I."""
    if generator is None:
        return [direction.expand_as(y) for direction in torch.eye(y.shape[1], dtype=y.dtype, device=y.device)]
    signs = torch.randint(0, 2, y.shape, generator=generator, device=generator.device)
    return [(2 * signs - 1).to(y)]
