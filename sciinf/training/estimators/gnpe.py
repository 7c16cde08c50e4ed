r"""Group equivariant neural posterior estimation: data moved back by a blurred pose, so that less is left to learn.

For draws (theta, x) of prior and simulator, poses g(theta) (`simulators.poses.pose`) and blurs e ~ kappa, a flow q
learns

    q(theta', e | x')    of    x' = T_{(g e)^{-1}} x,

theta' the parameters that are no pose. Given a blurred pose h = g e it gives the pose g = h e^{-1}. A second, small
flow learns poses from x alone, and chains begin at its draws. The chains alternate between the conditionals of
p(theta, h | x) and give draws and density (`_posed`).

**Exact symmetries.** The network does not see h. Its poses follow kappa and not the prior of the pose, so chains are
accepted or rejected by the prior. **Approximate symmetries.** The network sees h, and has learned the prior.

`MovedBack` is the base of the estimators that move data back by a pose.

References:
    | Group equivariant neural posterior estimation (Dax et al., 2022), https://arxiv.org/abs/2111.13139
    | Real-time gravitational-wave science with neural posterior estimation (Dax et al., 2021),
      https://arxiv.org/abs/2106.12594
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Density, Estimator, Observable, Prior, X
from sciinf.core.checks import check_whole
from sciinf.core.summary import Summary
from sciinf.networks.flows.conditional import Architecture
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.simulators.poses.pose import Pose
from sciinf.simulators.poses.several import Poses
from sciinf.training.estimators._embedded import data_names
from sciinf.training.estimators._posed import PosedDensity, PosedTerms
from sciinf.training.estimators.flow import Flow

SHOWN = "blurred_pose"  # The observable by which the network sees the pose that data were moved back by.


@dataclass(frozen=True)
class Flows:
    """Settings of the two flows: of parameters given moved data, and of poses given the original data.

    Attributes:
        summary: Summary networks of the data. Each flow builds its own.
        flow: Architecture of the flow of all parameters given moved data; the default of `Flow` if None.
        start: Architecture of the flow of poses given the original data; a small flow if None.
        every: Whether the first flow sees every pose that data were moved by, or only those of approximate symmetries.
    """

    summary: Summary | Mapping[str, Summary] | None
    flow: Architecture | None
    start: Architecture | None
    every: bool


class MovedBack(Estimator, ABC):
    """An estimator of the parameters from data that are moved back by a pose.

    Args:
        prior: Prior of the parameters; parameters of poses have their own distributions.
        observables: Observables of the simulator.
        poses: Poses that are taken out one after the other.
        flows: Settings of the two flows.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If a pose or another part has the wrong type.
        ValueError: If poses do not fit the prior, or an observable has the reserved name "blurred_pose".
    """

    start: Flow | None

    def __init__(
        self, prior: Prior, observables: Mapping[str, Observable], poses: Sequence[Pose], flows: Flows, seed: int
    ) -> None:
        super().__init__()
        self.prior, self.observables, self.poses = prior, dict(observables), Poses(poses, prior)
        self._every = flows.every
        width, given, summary = self.poses.width if flows.every else self.poses.seen, dict(observables), flows.summary
        if width:
            if SHOWN in given:
                raise ValueError(f"the name {SHOWN!r} of an observable is taken; choose another")
            given[SHOWN] = Observable((width,))
        own = dict.fromkeys(data_names(observables), summary) if isinstance(summary, Summary) else summary
        inner = self.poses.prior_beside(self.poses.kernels())
        self.conditional = Flow(inner, given, summary=own, flow=flows.flow, regression=False, together=False, seed=seed)
        self.start = None
        if self.poses.names:
            small = flows.start or SplineCoupling(transforms=3, hidden=32)
            self.start = Flow(
                self.poses.alone, observables, summary=summary, flow=small, regression=False, together=False, seed=seed
            )

    @abstractmethod
    def moves(self, batch: Batch, generator: torch.Generator) -> tuple[Float[Tensor, "batch k"], Tensor]:
        """Poses by which the data of a training batch are moved back, and the blurs from the true poses to these."""

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        def moved() -> Iterator[Batch]:
            generator = torch.Generator(next(self.buffers()).device).manual_seed(0)
            return (self._moved(batch, *self.blurred(batch, generator)) for batch in batches())

        self.conditional.standardise(moved)
        if self.start is not None:
            self.start.standardise(lambda: (self._poses_of(batch) for batch in batches()))

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        moved = self._moved(batch, *self.moves(batch, generator))
        found = self.conditional.loss(moved, generator=generator)
        if self.start is None:
            return found
        return found + self.start.loss(self._poses_of(batch), generator=generator)

    def blurred(self, batch: Batch, generator: torch.Generator) -> tuple[Float[Tensor, "batch k"], Tensor]:
        """The poses of a batch with random blurs applied, and these blurs."""
        poses = batch.theta[:, self.poses.columns]
        blurs = self.poses.draw(len(batch), generator).to(poses)
        return self.poses.compose(poses, blurs), blurs

    def at(self, x: X, moved_by: Float[Tensor, "batch k"]) -> Density:
        """Density of the conditional flow for data moved back."""
        return self.conditional.condition(self.seen(x, moved_by))

    def seen(self, x: X, moved_by: Float[Tensor, "batch k"]) -> X:
        """Data moved back, with the coordinates of the pose as far as the network sees them."""
        moved = self.poses.standardised(x, moved_by)
        shown = self.poses.coordinates(moved_by) if self._every else self.poses.shown(moved_by)
        return {**moved, SHOWN: shown.to(self.conditional.z_mean.dtype)} if shown.shape[-1] else moved

    def _moved(self, batch: Batch, moved_by: Tensor, blurs: Tensor) -> Batch:
        return Batch(self.poses.inner(batch.theta, blurs), self.seen(batch.x, moved_by))

    def _poses_of(self, batch: Batch) -> Batch:
        return Batch(batch.theta[:, self.poses.columns], batch.x)


class GNPE(MovedBack):
    """Posterior estimation with poses taken out of the data.

    Args:
        prior: Prior of the parameters; parameters of poses have their own distributions.
        observables: Observables of the simulator.
        poses: Poses that are taken out one after the other. The order of exact ones must not matter. Without any pose
            the estimator is a `Flow`.
        summary: Summary networks of the data, as for `Flow`. The flows of moved and of original data each build their
            own.
        flow: Architecture of the flow of all parameters given moved data. Default: that of `Flow`.
        start: Architecture of the flow of poses given the original data. Default: a small flow.
        chains: Number of chains for one observation, from whose poses draws are made. Each of several observations gets
            an eighth of them.
        iterations: Largest number of steps of the chains.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If a pose or another part has the wrong type.
        ValueError: If a pose names a parameter that does not exist, that another pose has, or that shares a
            distribution with others; or a number is out of range.

    Examples:
        >>> from sciinf import Normal, Uniform
        >>> from sciinf.simulators.poses import TimeShift
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
        super().__init__(prior, observables, poses, Flows(summary, flow, start, every=False), seed)
        check_whole("chains", chains, 16)
        check_whole("iterations", iterations, 2)
        self.chains, self.iterations = chains, iterations
        self.kept: dict[str, PosedTerms] = {}  # Chains of the last observations, by their digest.

    def moves(self, batch: Batch, generator: torch.Generator) -> tuple[Float[Tensor, "batch k"], Tensor]:
        return self.blurred(batch, generator)

    def condition(self, x: X) -> Density:
        device = next(self.buffers()).device
        data = {name: value.to(device) for name, value in x.items()}
        return self.conditional.condition(data) if self.start is None else PosedDensity(self, self.start, data)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return (self.start or self.conditional).features(x)


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> GNPE:
    """Estimator without poses, because only the user knows them."""
    return GNPE(prior, observables, seed=seed)
