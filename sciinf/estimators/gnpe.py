r"""Group equivariant neural posterior estimation: data moved back by a blurred pose, so that less is left to learn.

For draws (theta, x) of prior and simulator, poses g(theta) (`poses.pose`) and blurs e ~ kappa, a flow q learns

    q(theta', e | x')    of    x' = T_{(g e)^{-1}} x,

theta' the parameters that are no pose. Given a blurred pose h = g e it gives the pose g = h e^{-1}. A second, small
flow learns poses from x alone, where chains begin that alternate between the conditionals of p(theta, h | x) and give
draws and density (`_posed`).

**Exact symmetries.** The network does not see h: what it gives follows kappa and not the prior of the pose, by which
chains are then accepted or not. **Approximate ones.** It sees h, and has learned the prior.

References:
    | Group equivariant neural posterior estimation (Dax et al., 2022), https://arxiv.org/abs/2111.13139
    | Real-time gravitational-wave science with neural posterior estimation (Dax et al., 2021),
      https://arxiv.org/abs/2106.12594
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Density, Estimator, Observable, Prior, X
from sciinf.core.checks import check_whole
from sciinf.estimators._posed import PosedDensity, Recovered
from sciinf.estimators.flow import Flow
from sciinf.flows.conditional import Architecture
from sciinf.flows.spline import SplineCoupling
from sciinf.poses.pose import Pose
from sciinf.poses.several import Poses
from sciinf.summaries.summary import Summary

SHOWN = "blurred_pose"  # what the network sees of approximate symmetries


class GNPE(Estimator):
    """Posterior estimation with poses taken out of the data.

    Args:
        prior: The prior; parameters of poses have laws of their own.
        observables: What the simulator produces.
        poses: Taken out one after the other; exact ones must not care in which order. Without any it is a `Flow`.
        summary: Of data, as for `Flow`: each network builds its own, of data moved and as they are.
        flow: Of all parameters given moved data; the default of `Flow` where left out.
        start: Of poses given data as they are; a small one where left out.
        chains: Chains for one observation, from whose poses draws are made; an eighth of them for each of several.
        iterations: Steps of the chains at most.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If a pose or another part is something else.
        ValueError: If a pose names a parameter that there is not, that another pose has, or that shares a law with
            others; or a number is out of range.

    Example:
        >>> from torch.distributions import Normal, Uniform
        >>> from sciinf.poses import TimeShift
        >>> prior = Prior(rate=Uniform(1.0, 2.0), arrival=Uniform(0.0, 5.0))
        >>> pose = Pose("arrival", TimeShift(0.1), Normal(0.0, 0.2))
        >>> gnpe = GNPE(prior, {"x": Observable((60,), "", ("time",))}, [pose])
        >>> gnpe.conditional.prior.names
        ('rate', 'arrival')
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        poses: Sequence[Pose] = (),
        *,
        summary: Summary | Mapping[str, Summary] | None = None,
        flow: Architecture | None = None,
        start: Architecture | None = None,
        chains: int = 2_048,
        iterations: int = 300,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_whole("chains", chains, 16)
        check_whole("iterations", iterations, 2)
        self.prior, self.observables, self.chains, self.iterations = prior, dict(observables), chains, iterations
        self.poses = Poses(poses, prior)
        shown = {SHOWN: Observable((self.poses.seen,))} if self.poses.seen else {}
        if set(shown) & set(observables):
            raise ValueError(f"the name {SHOWN!r} of an observable is taken; choose another")
        own = dict.fromkeys(data_names(observables), summary) if isinstance(summary, Summary) else summary
        inner = self.poses.prior_beside(self.poses.kernels())
        self.conditional = Flow(inner, {**observables, **shown}, summary=own, flow=flow, seed=seed)
        self.start = None
        if self.poses.names:
            small = start or SplineCoupling(transforms=3, hidden=32)
            self.start = Flow(self.poses.prior_alone(), observables, summary=summary, flow=small, seed=seed)
        self.kept: dict[str, Recovered] = {}  # what was found for the last observations

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        def moved() -> Iterator[Batch]:
            generator = torch.Generator(next(self.buffers()).device).manual_seed(0)
            return (self._moved(batch, generator) for batch in batches())

        self.conditional.standardise(moved)
        if self.start is not None:
            self.start.standardise(lambda: (self._poses_of(batch) for batch in batches()))

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        found = self.conditional.loss(self._moved(batch, generator), generator=generator)
        if self.start is None:
            return found
        return found + self.start.loss(self._poses_of(batch), generator=generator)

    def condition(self, x: X) -> Density:
        device = next(self.buffers()).device
        data = {name: value.to(device) for name, value in x.items()}
        return self.conditional.condition(data) if self.start is None else PosedDensity(self, data)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return (self.start or self.conditional).features(x)

    @property
    def starts(self) -> Flow:
        """The flow of poses.

        Raises:
            ValueError: If there is no pose.
        """
        if self.start is None:
            raise ValueError("there is no pose, and nothing to start chains from; pass GNPE(..., poses=[Pose(...)])")
        return self.start

    def at(self, x: X, blurred: Float[Tensor, "batch k"]) -> Density:
        """q, given a blurred pose for each observation."""
        return self.conditional.condition(self._seen(x, blurred))

    def _moved(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Blurred, and moved back."""
        poses = batch.theta[:, self.poses.columns]
        blurs = self.poses.draw(len(batch), generator).to(poses)
        return Batch(self.poses.inner(batch.theta, blurs), self._seen(batch.x, self.poses.compose(poses, blurs)))

    def _seen(self, x: X, blurred: Tensor) -> X:
        moved = self.poses.standardised(x, blurred)
        return (
            {**moved, SHOWN: self.poses.shown(blurred).to(next(self.parameters()).dtype)} if self.poses.seen else moved
        )

    def _poses_of(self, batch: Batch) -> Batch:
        return Batch(batch.theta[:, self.poses.columns], batch.x)


def data_names(observables: Mapping[str, Observable]) -> list[str]:
    """Names of observables that are not masks."""
    return [name for name in observables if not (name.endswith("_mask") and name.removesuffix("_mask") in observables)]


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> GNPE:
    """The estimator without poses, which only its user knows."""
    return GNPE(prior, observables, seed=seed)
