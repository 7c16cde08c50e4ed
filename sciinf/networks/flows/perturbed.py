r"""A flow trained with noise of known size, for posteriors on, or close to, a set of lower dimension.

A posterior on a curve or a surface of R^D has no density. This happens if the other parameters fix one parameter, or if
an observable has no noise. Then the likelihood of a flow grows without bound as the flow contracts on to the training
points. Its maximum does not recover the distribution of these points. Data with added noise do have a density. So the
inner flow q learns a family of densities, conditioned on the noise level s,

    E_{p(z, c)} E_{s, eps} [ -log q(z + s eps | c, s) ],   eps ~ N(0, I),   log s ~ U(log least, log noise),

and is evaluated at the smallest level: q(z | c) = q(z | c, s = least). The network is one smooth function of all
levels. Large levels are easy to learn and guide the small ones. Samples keep the known noise of the smallest level, z +
least eps. If the posterior's sd is sigma in the flow's units, this noise increases the sd by the fraction (least /
sigma)^2 / 2.

The inner flow gets the level as one more feature of the context, 2 log(s / least) / log(noise / least) - 1 in [-1, 1].

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
    """A flow that is trained with noise of known size on z and evaluated at the smallest noise level.

    Args:
        flow: Architecture of the inner flow; any architecture works.
        noise: Largest sd of the noise, in units of the flow's z, which is standardised.
        least: Smallest sd of the noise. Noise of this size remains in the samples.

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
        """Loss of the inner flow at z + s eps, with a new level s and new noise eps in every row."""
        self._check("z", z, context)
        device = generator.device
        level = torch.rand(len(z), 1, generator=generator, device=device).to(z)
        eps = torch.randn(z.shape, generator=generator, device=device).to(z)
        noisy = z + self.least * self.ratio**level * eps
        return self.inner.loss(noisy, _beside(context, level), generator=generator)


def _beside(context: Tensor, level: Tensor) -> Tensor:
    """The context with the noise level as one more feature; `level` is 0 for the smallest noise, 1 for the largest."""
    return torch.cat([context, 2 * level - 1], dim=1)
