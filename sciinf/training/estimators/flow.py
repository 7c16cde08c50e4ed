r"""Amortized neural posterior estimation with a conditional normalizing flow.

For draws (theta, x) of prior and simulator, the flow q minimises

    E_{p(theta, x)} [ -log q(z(theta) | s(x)) ],

whose minimum over all densities is the posterior for every x at once; z is that of `_standardised`, and s of
`_embedded`, trained jointly. Shapes: theta, z (batch, D); s(x) (batch, F).

References:
    | Fast epsilon-free inference of simulation models with Bayesian conditional density estimation
      (Papamakarios & Murray, 2016), https://arxiv.org/abs/1605.06376
    | Automatic posterior transformation for likelihood-free inference (Greenberg et al., 2019),
      https://arxiv.org/abs/1905.07488
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Density, Observable, Prior, X
from sciinf.core.estimator import PushedDensity
from sciinf.core.prior import global_seed
from sciinf.core.summary import Summary
from sciinf.networks.flows.conditional import Architecture, ExactFlow
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.training.estimators._embedded import Embedded
from sciinf.training.estimators._standardised import check_part, in_chunks
from sciinf.training.memory import retain_freed

_ONE_IN = 1_000  # One draw in this many is left out of an answer.
_AMONG = 40  # The draws to leave out are chosen among this many times as many.


class Flow(Embedded):
    """Amortized posterior estimation with a conditional flow.

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator, name -> specification.
        summary: One summary network for every observable, or one per name. Default: chosen from the observables'
            specification.
        flow: Architecture of the flow. Default: the neural spline flow of `networks.flows.spline`.
        regression: Whether default summary networks are complemented by least squares of the parameters and plain
            statistics of the data (`_embedded`).
        together: Whether observables that are columns of one table share a summary network
            (`networks.summaries.columns`).
        further: Whether the plain statistics include quantiles of sets with heavy tails
            (`networks.summaries.quantiles`) and the memory of a series' variance
            (`networks.summaries.variance_memory`).
        seed: Seeds the initial weights.

    Raises:
        TypeError: If `summary` or `flow` has the wrong type, for example a class or a name instead of an object.
        ValueError: If a summary is for no observable, or the seed is no int of at least 0.

    Examples:
        >>> from sciinf import Normal
        >>> flow = Flow(Prior(mu=Normal(0.0, 1.0)), {"x": Observable((3,))})
        >>> flow.condition({"x": torch.zeros(2, 3)}).sample(5, generator=torch.Generator()).shape
        torch.Size([5, 2, 1])
    """

    earlier: ClassVar[Mapping[str, Any]] = {**Embedded.earlier, "further": False}
    unwritten: ClassVar[frozenset[str]] = frozenset({"further"})

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        summary: Summary | Mapping[str, Summary] | None = None,
        flow: Architecture | None = None,
        regression: bool = True,
        together: bool = True,
        further: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, summary, seed, together=together)
        check_part("flow", flow, Architecture, "SplineCoupling()")
        with global_seed(torch.Generator().manual_seed(seed)):
            width = self.build_summaries(regressed=regression, further=further)
            self.flow = (flow or SplineCoupling()).build(prior.bijection.size, width)

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.standardise_all(batches)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        return self.flow.loss(self.to_z(batch.theta), self.features(batch.x), generator=generator)

    def condition(self, x: X) -> Density:
        retain_freed()
        with torch.no_grad():
            device = self.z_mean.device
            return _FlowDensity(self, self.features({name: value.to(device) for name, value in x.items()}))


class _FlowDensity(PushedDensity):
    """The flow's density of theta given a batch of embedded observations, (batch, F)."""

    def __init__(self, estimator: Flow, context: Tensor) -> None:
        self.estimator, self.context = estimator, context

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        return self.push(self._noise(n, generator))

    def sample_within(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """n draws for each observation from the region of highest density that holds 99.9 %; all draws if n is below
        999.

        The draws to leave out are sought among the 4 % whose noise lies farthest out, where they occur: a spline had
        hardly any training rows there. A flow of other noise than normal has heavy tails on purpose, and a flow without
        an exact density is slow to evaluate. For these, all draws are returned.
        """
        noise = self.noise(n, generator=generator)
        return self.within(n, self.push(noise), noise)

    def noise(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "more batch theta"]:
        more = n // (_ONE_IN - 1) if isinstance(self.estimator.flow, ExactFlow) else 0
        return self._noise(n + more, generator)

    def within(
        self, n: int, theta: Float[Tensor, "more batch theta"], noise: Float[Tensor, "more batch theta"]
    ) -> Float[Tensor, "n batch theta"]:
        more = len(theta) - n
        if not more:
            return theta
        radius = noise.square().sum(-1)
        far = radius.topk(_AMONG * more, dim=0).indices
        density = self.log_prob(theta.gather(0, far[..., None].expand(*far.shape, theta.shape[-1])))
        out = far.gather(0, density.topk(more, dim=0, largest=False).indices)
        kept = torch.ones_like(radius).scatter_(0, out, 0.0).sort(dim=0, descending=True, stable=True).indices[:n]
        return theta.gather(0, kept[..., None].expand(*kept.shape, theta.shape[-1]))

    @torch.no_grad()
    def push(self, noise: Float[Tensor, "n batch theta"]) -> Float[Tensor, "n batch theta"]:
        flow, context = self.estimator, self.context
        parts = [noise.new_empty(0, len(context), len(flow.prior))]
        for start, stop in in_chunks(len(noise), len(context), context.device):
            parts.append(flow.to_theta(flow.flow.push(noise[start:stop], context)))
        return torch.cat(parts)

    def each(self) -> list[PushedDensity]:
        return [_FlowDensity(self.estimator, row[None]) for row in self.context]

    def joined(self, others: Sequence[PushedDensity]) -> PushedDensity:
        contexts = [other.context for other in others if isinstance(other, _FlowDensity)]
        return _FlowDensity(self.estimator, torch.cat([self.context, *contexts]))

    def _noise(self, n: int, generator: torch.Generator) -> Tensor:
        """Noise (n, batch, D), drawn in pieces whose size suits the device."""
        context = self.context
        shape = (len(context), self.estimator.prior.bijection.size)
        parts = [context.new_empty(0, *shape)]
        for start, stop in in_chunks(n, len(context), context.device):
            parts.append(torch.randn(stop - start, *shape, generator=generator, device=generator.device).to(context))
        return torch.cat(parts)

    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """Log density, with its gradient if theta requires one, as a search for the mode needs."""
        flow, context = self.estimator, self.context
        with torch.set_grad_enabled(theta.requires_grad and torch.is_grad_enabled()):
            return flow.log_density(theta, len(context), lambda z: flow.flow.log_prob(z, context))


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Flow:
    """Flow estimator with its default settings."""
    return Flow(prior, observables, seed=seed)
