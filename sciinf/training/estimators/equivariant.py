r"""Symmetries without chains: data moved at random in training, or moved back by an estimate of their pose.

**Augmentation.** For an exact symmetry, (theta, x) moved by h, g(theta) -> h g(theta) and x -> T_h x, is as good a draw
as before. Each step moves every simulation to a new pose of the prior. A plain flow has to learn the whole symmetry.

**Canonicalisation.** A small flow estimates a pose g_0(x), the image of zero noise. Data are moved back by it, and
another flow learns

    q(theta', e | T_{g_0^{-1}} x, g_0),    g(theta) = g_0 e^{-1},

in one pass. The error of g_0, which the chains of `training.estimators.gnpe` take out, stays in the moved data.

References:
    | Group equivariant neural posterior estimation (Dax et al., 2022), https://arxiv.org/abs/2111.13139, which compares
      both
    | Equivariance with learned canonicalization functions (Kaba et al., 2023), https://arxiv.org/abs/2211.06489
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from sciinf.core import Batch, Density, Estimator, Observable, Prior, X
from sciinf.core.laws import support
from sciinf.core.summary import Summary
from sciinf.networks.flows.conditional import Architecture
from sciinf.simulators.poses.pose import Pose
from sciinf.simulators.poses.several import Poses
from sciinf.training.estimators._standardised import check_rows, fill
from sciinf.training.estimators.flow import Flow
from sciinf.training.estimators.gnpe import Flows, MovedBack


class Augmented(Estimator):
    """A `Flow` that sees every simulation in many poses.

    Args:
        prior: Prior of the parameters; parameters of poses have their own distributions.
        observables: Observables of the simulator.
        poses: Exact symmetries.
        summary: Summary networks, as for `Flow`.
        flow: Architecture of the flow, as for `Flow`.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If a part has the wrong type.
        ValueError: If a pose is no exact symmetry, or does not fit the prior.
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        poses: Sequence[Pose] = (),
        *,
        summary: Summary | Mapping[str, Summary] | None = None,
        flow: Architecture | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.prior, self.observables, self.poses = prior, dict(observables), Poses(poses, prior)
        if self.poses.seen:
            raise ValueError("data can be moved at random for an exact symmetry alone; pass Pose(..., exact=True)")
        self.flow = Flow(prior, observables, summary=summary, flow=flow, regression=False, seed=seed)

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.flow.standardise(batches)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        if self.poses.names:
            old = batch.theta[:, self.poses.columns]
            new = self.poses.alone.sample_on_device(len(batch), generator=generator).to(old)
            x = self.poses.standardised(batch.x, self.poses.undo(old, new))
            batch = Batch(self.poses.whole(batch.theta[:, self.poses.rest], new), x)
        return self.flow.loss(batch, generator=generator)

    def condition(self, x: X) -> Density:
        return self.flow.condition(x)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.flow.features(x)


class Canonical(MovedBack):
    """A flow of data moved back by an estimate of their pose.

    Args:
        prior: Prior of the parameters; parameters of poses have their own distributions.
        observables: Observables of the simulator.
        poses: Poses that are taken out one after the other. Their kernels give the rough size of the estimate's errors.
        summary: Summary networks, as for `Flow`.
        flow: Architecture of the flow, as for `Flow`.
        start: Architecture of the flow of poses given the original data. Default: a small flow.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If a part has the wrong type.
        ValueError: If there is no pose, a pose does not fit the prior, or a kernel has bounds that errors may exceed.
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        poses: Sequence[Pose],
        *,
        summary: Summary | Mapping[str, Summary] | None = None,
        flow: Architecture | None = None,
        start: Architecture | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, poses, Flows(summary, flow, start, every=True), seed)
        self._of_poses()
        for law in self.poses.kernels():
            if not law.event_shape and not any(
                support(law) is free for free in (constraints.real, constraints.positive)
            ):
                raise ValueError(f"errors of an estimated pose may exceed the bounds of {law!r}; give another kernel")

    def moves(self, batch: Batch, generator: torch.Generator) -> tuple[Float[Tensor, "batch k"], Tensor]:
        estimate = self.estimate(batch.x)
        return estimate, self.poses.between(batch.theta[:, self.poses.columns], estimate)

    def condition(self, x: X) -> Density:
        device = next(self.buffers()).device
        return _CanonicalDensity(self, {name: value.to(device) for name, value in x.items()})

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.conditional.features(self.seen(x, self.estimate(x)))

    @torch.no_grad()
    def estimate(self, x: X) -> Float[Tensor, "batch k"]:
        """The estimated pose g_0."""
        flow = self._of_poses()
        features = flow.features(x)
        nothing = features.new_zeros(1, len(features), len(self.poses.names))
        return flow.to_theta(flow.flow.push(nothing, features)[0])

    def _of_poses(self) -> Flow:
        if self.start is None:
            raise ValueError("without a pose there is nothing to estimate; train a Flow")
        return self.start


class _CanonicalDensity(Density):
    """The posterior of each of a batch of observations; draws outside the prior are replaced by new ones."""

    def __init__(self, estimator: Canonical, x: X) -> None:
        self.estimator, self.poses = estimator, estimator.poses
        self._pose = estimator.estimate(x)
        self._inner = estimator.at(x, self._pose)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        empty = self._pose.new_zeros(n, len(self._pose), len(self.estimator.prior))
        theta, done = fill(empty, lambda need: self._drawn(need, generator))
        if bool(done.all()):
            return theta
        raise ValueError(
            "hardly any draw of some observation lies within the prior: look at the observations, widen the prior, or "
            "train on more simulations"
        )

    @torch.no_grad()
    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        check_rows(theta, len(self._pose), self.estimator.prior)
        poses = theta.to(self._pose.device)[..., self.poses.columns]
        errors = self.poses.between(poses, self._pose.expand_as(poses))
        found = self._inner.log_prob(self.poses.inner(theta.to(poses), errors))
        found = found + self.poses.log_measure(poses) - self.poses.log_measure(errors)
        _, kept = self._drawn(1_000, torch.Generator(poses.device).manual_seed(0))
        inside = torch.isfinite(self.estimator.prior.log_prob(theta)).to(found.device)
        return torch.where(inside, found - kept.double().mean(0).clamp_min(1e-3).log(), -math.inf)

    def _drawn(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draws, and whether they lie within the prior."""
        others, errors = self.poses.split(self._inner.sample(n, generator=generator))
        theta = self.poses.whole(others, self.poses.undo(self._pose.expand_as(errors), errors))
        return theta, torch.isfinite(self.estimator.prior.log_prob(theta))


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Augmented:
    """Estimator without poses, because only the user knows them."""
    return Augmented(prior, observables, seed=seed)
