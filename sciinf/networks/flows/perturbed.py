r"""Perturb, then remove: a flow for posteriors on, or close to, a set of lower dimension.

Where the posterior lies on a curve or a surface of R^D (a parameter fixed by the others, an observable without noise)
it has no density. The likelihood of a flow then grows without bound as the flow contracts on to the training points,
and maximising it does not lead to the law they were drawn from. With noise on the data there is a density to learn.
So the inner flow q learns a family of them, told how much noise there is,

    E_{p(z, c)} E_{s, eps} [ -log q(z + s eps | c, s) ],   eps ~ N(0, I),   log s ~ U(log least, log noise),

and answers for the smallest: q(z | c) = q(z | c, s = least). The wide levels are easy and lead the narrow ones, the
network being one smooth function of them all. What is left of the noise is known: z + least eps. Its effect on a
posterior whose sd is sigma in the flow's units is a share of (least / sigma)^2 / 2 of that sd.

To the inner flow the level is one more feature of the context, 2 log(s / least) / log(noise / least) - 1 in [-1, 1].

References:
    | A likelihood approach to nonparametric estimation of a singular distribution using deep generative models
      (Chae et al., 2023), https://arxiv.org/abs/2105.04046
    | SoftFlow: Probabilistic Framework for Normalizing Flow on Manifolds (Kim et al., 2020),
      https://arxiv.org/abs/2006.04604
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.networks.flows.conditional import Architecture, ConditionalFlow, Context, Logs, Points, Row, RowContext


class Perturbed(Architecture):
    """A flow that is trained with noise of known size on z, and asked for the least of it.

    Args:
        flow: The flow that learns; any of them.
        noise: Largest sd of the noise, in units of the flow's z, which is standardised.
        least: Smallest sd, which stays in the draws.

    Raises:
        ValueError: Unless 0 < least < noise.
        TypeError: If `flow` is not an architecture.
    """

    def __init__(self, flow: Architecture, noise: float = 0.1, least: float = 1e-3) -> None:
        if not isinstance(flow, Architecture):
            raise TypeError(f"Perturbed(flow={flow!r}): expected an architecture, such as NSF()")
        if not 0 < least < noise < math.inf:
            raise ValueError(f"Perturbed needs 0 < least < noise, got least={least}, noise={noise}")
        self.flow, self.noise, self.least = flow, noise, least

    def build(self, dim: int, context: int) -> ConditionalFlow:
        return _Perturbed(self, dim, context)


class _Perturbed(ConditionalFlow):
    def __init__(self, plan: Perturbed, dim: int, context: int) -> None:
        super().__init__(dim, context)
        self.inner = plan.flow.build(dim, context + 1)
        self.least, self.ratio = plan.least, plan.noise / plan.least

    def encode(self, z: Points, context: Context) -> tuple[Points, Logs]:
        return self.inner.encode(z, _beside(context, context.new_zeros(len(context), 1)))

    def decode(self, noise: Points, context: Context) -> Points:
        return self.inner.decode(noise, _beside(context, context.new_zeros(len(context), 1)))

    def loss(self, z: Row, context: RowContext, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """The inner flow's loss at z + s eps, a new level s and new noise in every row."""
        self._check("z", z, context)
        device = generator.device
        level = torch.rand(len(z), 1, generator=generator, device=device).to(z)
        eps = torch.randn(z.shape, generator=generator, device=device).to(z)
        noisy = z + self.least * self.ratio**level * eps
        return self.inner.loss(noisy, _beside(context, level), generator=generator)


def _beside(context: Tensor, level: Tensor) -> Tensor:
    """The context and, as one more feature, the level of the noise: 0 the least, 1 the most."""
    return torch.cat([context, 2 * level - 1], dim=1)
