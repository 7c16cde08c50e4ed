"""All poses of a prior, combined into one object for estimators."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributions as td

from sciinf.core import Prior, X
from sciinf.simulators.poses.pose import Pose

Elements = Float[Tensor, "*rows k"]


class Poses:
    """Several poses as one pose of k numbers, for a prior of D parameters.

    The remaining D - k parameters of the prior belong to no pose.

    Args:
        poses: Poses in the order in which they are removed from data.
        prior: Prior of all parameters.

    Raises:
        TypeError: If `poses` is not a list of `Pose`.
        ValueError: If a pose names an unknown parameter, a parameter of another pose, or a parameter that has a joint
            distribution with others; or if a group does not fit the values of prior and kernel.
    """

    def __init__(self, poses: Sequence[Pose], prior: Prior) -> None:
        if isinstance(poses, Pose):
            raise TypeError(f"poses are given as a list, got one alone: write [Pose({poses.names[0]!r}, ...)]")
        for pose in poses:
            if not isinstance(pose, Pose):
                raise TypeError(f"expected Pose(parameters, act, kernel), got {pose!r}")
        self.all, self.prior = list(poses), prior
        self.names = tuple(chain.from_iterable(pose.names for pose in poses))
        _check_own(prior, self.names)
        self.columns = [prior.names.index(name) for name in self.names]
        self.rest = [k for k in range(len(prior)) if k not in self.columns]
        self.priors = [_part(prior, pose.names) for pose in poses]
        self.alone = _part(prior, self.names)
        for pose, own in zip(poses, self.priors, strict=True):
            _check_group(pose, own)
        self.width = sum(_size(pose) for pose in poses)
        self.seen = sum(_size(pose) for pose in poses if not pose.exact)

    def prior_beside(self, laws: Sequence[td.Distribution]) -> Prior:
        """Prior of the parameters outside the poses, followed by the pose parameters with the given distributions."""
        names, units = ([of[k] for k in (*self.rest, *self.columns)] for of in (self.prior.names, self.prior.units))
        others = [law for law, place in self.prior.places() if place.start not in self.columns]
        return Prior.of_laws(names, units, [*others, *laws])

    def kernels(self) -> tuple[td.Distribution, ...]:
        """Distributions of the blurs of all poses."""
        return tuple(chain.from_iterable(pose.blur.laws for pose in self.all))

    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "n k"]:
        """Draw blurs of all poses from their kernels, on the generator's device."""
        parts = [pose.blur.sample_on_device(n, generator=generator) for pose in self.all]
        return torch.cat(parts, dim=-1) if parts else torch.zeros(n, 0, device=generator.device)

    def compose(self, poses: Elements, blurs: Elements) -> Elements:
        """Blurred poses: the product of each pose with its blur."""
        return _joined(poses, [pose.group.compose(g, e) for pose, g, e in self._each(poses, blurs)])

    def undo(self, blurred: Elements, blurs: Elements) -> Elements:
        """Poses before the blur: the product of each blurred pose with the inverse of its blur."""
        parts = [pose.group.compose(h, pose.group.inverse(e)) for pose, h, e in self._each(blurred, blurs)]
        return _joined(blurred, parts)

    def between(self, poses: Elements, blurred: Elements) -> Elements:
        """Blurs that take the poses to the blurred poses."""
        return _joined(poses, [pose.group.between(g, h) for pose, g, h in self._each(poses, blurred)])

    def coordinates(self, poses: Elements) -> Float[Tensor, "*rows c"]:
        """Continuous numbers that identify the poses, from the groups' `coordinates`."""
        return _joined(poses, [pose.group.coordinates(g) for pose, g in self._each(poses)])

    def shown(self, blurred: Elements) -> Float[Tensor, "*rows c"]:
        """Coordinates of the blurred poses that the network sees: those of approximate symmetries only."""
        return _joined(blurred, [pose.group.coordinates(h) for pose, h in self._each(blurred) if not pose.exact])

    def standardised(self, x: X, blurred: Float[Tensor, "batch k"]) -> X:
        """Data moved back by all blurred poses, one pose after the other."""
        for pose, h in self._each(blurred):
            x = pose.standardised(x, h)
        return x

    def log_measure(self, poses: Elements) -> Float[Tensor, "*rows"]:
        """Log density of the invariant measure at poses; float64."""
        zero = torch.zeros(poses.shape[:-1], dtype=torch.float64, device=poses.device)
        return sum((pose.group.log_measure(g) for pose, g in self._each(poses.double())), zero)

    def log_kernel(self, blurs: Elements) -> Float[Tensor, "*rows"]:
        """Log density of blurs with respect to the invariant measure; float64."""
        zero = torch.zeros(blurs.shape[:-1], dtype=torch.float64, device=blurs.device)
        return sum((pose.log_kernel(e) for pose, e in self._each(blurs)), zero)

    def log_ratio(self, theta: Float[Tensor, "*rows theta"]) -> Float[Tensor, "*rows"]:
        """Log prior density of the exact poses with respect to the invariant measure; float64.

        A network that does not see exact poses needs this term of the prior. The value is -inf if any parameter is
        outside its support.
        """
        total = torch.where(torch.isfinite(self.prior.log_prob(theta)), 0.0, -math.inf).double()
        for own, (pose, g) in zip(self.priors, self._each(theta[..., self.columns].double()), strict=True):
            if pose.exact:
                total = total + own.log_prob(g) - pose.group.log_measure(g)
        return total

    def inner(self, theta: Float[Tensor, "*rows theta"], blurs: Elements) -> Float[Tensor, "*rows theta"]:
        """Parameters outside the poses, followed by blurs in place of poses."""
        return torch.cat([theta[..., self.rest], blurs.to(theta)], dim=-1)

    def split(self, inner: Float[Tensor, "*rows theta"]) -> tuple[Tensor, Elements]:
        """Split the result of `inner` into the parameters outside the poses and the blurs."""
        return inner[..., : len(self.rest)], inner[..., len(self.rest) :]

    def whole(self, others: Tensor, poses: Elements) -> Float[Tensor, "*rows theta"]:
        """Parameters theta in the prior's order, from the parameters outside the poses and the poses."""
        theta = poses.new_empty(*poses.shape[:-1], len(self.prior))
        theta[..., self.rest], theta[..., self.columns] = others.to(poses), poses
        return theta

    def _each(self, *values: Tensor) -> Iterator[tuple]:
        first = 0
        for pose in self.all:
            at = slice(first, first + len(pose.names))
            yield (pose, *(value[..., at] for value in values))
            first = at.stop


def _part(prior: Prior, names: Sequence[str]) -> Prior:
    """Prior of the named parameters alone, each of which has a distribution of its own."""
    places = [prior.names.index(name) for name in names]
    laws = {place.start: law for law, place in prior.places()}
    return Prior.of_laws(names, [prior.units[k] for k in places], [laws[k] for k in places])


def _check_group(pose: Pose, prior: Prior) -> None:
    """Raise an error if blurring and undoing the blur in the group does not return the values of prior and kernel."""
    z = torch.cartesian_prod(*(torch.tensor([-2.5, 0.0, 2.5]).double(),) * 2)
    wide = z[:, None, :].expand(-1, len(pose.names), -1)
    g, e = prior.bijection.inverse(wide[..., 0]), pose.blur.bijection.inverse(wide[..., 1])
    blurred = pose.group.compose(g, e)
    again, blur = pose.group.compose(blurred, pose.group.inverse(e)), pose.group.between(g, blurred)
    same = torch.allclose(again, g, rtol=1e-6, atol=1e-9) and torch.allclose(blur, e, rtol=1e-6, atol=1e-9)
    if not (same and bool(pose.group.log_measure(e).isfinite().all())):
        raise ValueError(
            f"the group {type(pose.group).__name__} of the pose {pose.names} does not undo its blur: values of prior "
            "and kernel must belong to it (factors above 0; angles from `low` to `low` + `period`, as in "
            "Periodic(-math.pi), blurred by less than half a period)"
        )


def _size(pose: Pose) -> int:
    return pose.group.coordinates(torch.ones(1, len(pose.names))).shape[-1]


def _joined(like: Tensor, parts: list[Tensor]) -> Tensor:
    return torch.cat(parts, dim=-1) if parts else like[..., :0]


def _check_own(prior: Prior, names: Sequence[str]) -> None:
    """Raise an error if pose parameters are repeated, unknown, or share a joint distribution with others."""
    if len(set(names)) != len(names):
        raise ValueError(f"the poses share parameters: {list(names)}")
    own = {prior.names[place.start] for law, place in prior.places() if not law.event_shape}
    for name in names:
        if name not in prior.names:
            raise ValueError(f"a pose has the parameter {name!r}; the prior has {list(prior.names)}")
        if name not in own:
            raise ValueError(
                f"{name!r} shares a law with other parameters, of which a pose must be independent; give it its own"
            )
