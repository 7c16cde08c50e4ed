r"""The Fokker-Planck equation that scores of one diffusion obey, as a residual to measure and to train against.

In y = x_t / alpha every path of `schedule` is dy = sqrt(d s^2 / dt) dW, whose density obeys the heat equation in s^2,
and the score S = grad log p_s(y) with it

    dS / d(s^2) = 1/2 grad (div S + |S|^2).

A network that was trained at each level for itself need not: its residual

    r(y, s) = dS / d(s^2) - 1/2 grad (div S + |S|^2)

says how far its scores are from those of one density under noise, whatever density that is. In y the drift's terms of
the paper's equation are gone, and a path's alpha with them.

div S takes D products with the Jacobian, or one, n^T (dS/dy) n with random signs n (Hutchinson), which makes r
unbiased. The penalty is |s^3 r|^2 / D: s S is, but for its sign, the noise that networks approximate, and s^3 r half an
error of it per unit of log s. Where n is random, the product of two independent estimates stands for the square, which
is unbiased too, so that single rows can be negative.

It costs some ten times what the loss costs, and makes scores agree with each other, not with the data: the exact
scores of another density have no residual either.

References:
    | FP-Diffusion: Improving Score-based Diffusion Models by Enforcing the Underlying Score Fokker-Planck Equation
      (Lai et al., 2023), https://arxiv.org/abs/2210.04296
    | Closing the ODE-SDE gap in score-based diffusion models through the Fokker-Planck equation (Deveney et al.,
      2023), https://arxiv.org/abs/2311.15996: its network is a potential u for log p, and its residual that of
      du / d(s^2) = (div grad u + |grad u|^2) / 2, whose gradient in y r is; the residual bounds how far draws with and
      without noise are apart
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

FEW = 4  # dimensions up to which training takes the exact divergence

Scores = Callable[[Tensor, Tensor], Tensor]
"""S: y (rows, D) and a level for each (rows), to (rows, D); each row for itself."""


def score_of(denoise: Denoiser) -> Scores:
    """(D - y) / s^2."""
    return lambda y, level: (denoise(y, level) - y) / (level**2)[..., None]


def residual(
    score: Scores,
    y: Float[Tensor, "*rows dim"],
    level: Float[Tensor, "*levels"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "rows dim"]:
    """r; it can be differentiated by the network's weights.

    Args:
        score: S, twice differentiable.
        y: Points, (rows, D).
        level: s of each, (rows).
        generator: For Hutchinson's estimate of the divergence; without one it is exact.

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
        inner = value.square().sum()  # rows do not mix, so that its gradient is that of each row
        for probe in _probes(y, generator):
            (slope,) = torch.autograd.grad(value, place, probe, create_graph=True)
            inner = inner + (slope * probe).sum()
        (bend,) = torch.autograd.grad(inner, place, create_graph=wanted, retain_graph=True)
        # what is linear in `unit`, differentiated by it, is a product with the Jacobian from the other side
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
    """|s^3 r|^2 / D, or an unbiased estimate of it where a generator is given; see `residual`."""
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
    """The loss of `Diffusion`, and the penalty at points of its own at the levels that training draws.

    Args:
        diffusion: The path, what the network stands for, how levels are drawn.
        network: F.
        data: x_0, of about unit sd.
        weight: Of the penalty. On a mixture 1 to 2 lowered it by a quarter to a half, and the squared error of D grew
            by 1 to 6 per cent.
        generator: For noise, levels and, above 4 dimensions, where it is estimated, the divergence.

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
    """Directions n with sum or mean of n n^T the identity."""
    if generator is None:
        return [direction.expand_as(y) for direction in torch.eye(y.shape[1], dtype=y.dtype, device=y.device)]
    signs = torch.randint(0, 2, y.shape, generator=generator, device=generator.device)
    return [(2 * signs - 1).to(y)]
