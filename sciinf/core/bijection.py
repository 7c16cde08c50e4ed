"""The bijection between the support of a prior's distributions and R^D, where densities are learned.

Distributions of one kind are mapped to z together. Training maps a batch at each step, and for a few hundred
rows the calls into torch cost more than the arithmetic.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Hashable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from sciinf.core.joint_laws import Ordered, Simplex
from sciinf.core.laws import Truncated, from_normal, inside, is_normalisable, support, to_normal
from sciinf.core.log_uniform import LogUniform
from sciinf.core.precision import in_double, whereabouts

_NUMBERS: dict[type[td.Distribution], tuple[str, ...]] = {
    td.Normal: ("loc", "scale"),
    td.LogNormal: ("loc", "scale"),
    td.Uniform: ("low", "high"),
    td.HalfNormal: ("scale",),
    td.Exponential: ("rate",),
    LogUniform: ("low", "high", "length"),
    Truncated: ("below", "above", "mass"),
}


def kind(law: td.Distribution) -> Hashable:
    """The kind of a distribution: distributions of equal kind are mapped to z by the same calls.

    The kind is None if a distribution has to be mapped alone. The bounds of a truncated distribution decide
    which calls are made, and are therefore part of its kind.
    """
    if isinstance(law, Truncated):
        base = kind(law.base)
        return base and (Truncated, law.low, law.high, law.upper_tail, law.lower_tail, base)
    names = _NUMBERS.get(type(law))
    return names and (type(law), *(_tensor(getattr(law, name)).dtype for name in names))


def as_one(laws: Sequence[td.Distribution]) -> td.Distribution:
    """Distributions of one kind as a single one for values (..., n), one column for each distribution.

    The result has distribution functions and quantiles, but no density.

    Args:
        laws: n univariate distributions of the same `kind`.
    """
    first: Any = laws[0]
    names = _NUMBERS[type(first)]
    numbers = {name: torch.stack([_tensor(getattr(law, name)) for law in laws]) for name in names}
    if not isinstance(first, Truncated | LogUniform):
        return type(first)(**numbers, validate_args=False)
    one = copy.copy(first)
    if isinstance(one, Truncated):
        one.base = as_one([law.base for law in laws if isinstance(law, Truncated)])
    for name, values in numbers.items():
        setattr(one, name, values)
    return one


def _tensor(value: Tensor | float) -> Tensor:
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)


_ARITHMETIC = (
    td.Normal,
    td.LogNormal,
    td.Uniform,
    LogUniform,
    td.HalfNormal,
    td.Exponential,
    td.Cauchy,
    td.Laplace,
    Simplex,
)

_LEAST = 1e-37  # A part of a whole that rounding made 0 is set to this, because the log of 0 is infinite.


class Bijection:
    """The map between the support of a prior's distributions and R^D (see `core.laws`).

    Attributes:
        laws: The distributions as given. They map the values, so that earlier seeds give the same draws, bit
            by bit.
        exact: The distributions in float64. They give the densities.
        dtype: The dtype of the parameters.
        places: The columns of each distribution's parameters in theta.
        spots: The columns of each distribution's numbers in R^D. There is one fewer than in theta for
            parameters that add up to 1 (Dirichlet).
        size: The dimension D of R^D.
        normal: Whether the map carries the prior to N(0, I).
        transforms: For each distribution, the transform from z to its values; None if quantiles are used.
    """

    def __init__(self, laws: tuple[td.Distribution, ...], dtype: torch.dtype) -> None:
        self.laws, self.exact, self.dtype = laws, tuple(in_double(law) for law in laws), dtype
        self.places = places_of(laws)
        self.transforms: tuple[Any, ...] = tuple(_transform(law, dtype) for law in laws)
        self.spots = _spots_of(laws)
        self.size = self.spots[-1].stop if self.spots else 0
        self.normal = all(transform is None for transform in self.transforms)
        self._on_cpu = tuple(not _goes_anywhere(law) for law in laws)
        self._together, self._order = self._grouped()

    def parts(self, values: Tensor) -> list[tuple[td.Distribution, Tensor]]:
        """Each distribution with its columns of theta: (...,) if univariate, (..., k) if joint.

        The columns are on the device of the values, or on the CPU if the distribution can compute only there.
        """
        return self._parts(values, self.places)

    def z_parts(self, z: Tensor) -> list[tuple[td.Distribution, Tensor]]:
        """Each distribution with its columns of z in R^D, in the form of `parts`."""
        return self._parts(z, self.spots)

    def _parts(self, values: Tensor, places: tuple[slice, ...]) -> list[tuple[td.Distribution, Tensor]]:
        out = []
        for law, place, on_cpu in zip(self.laws, places, self._on_cpu, strict=True):
            part = values[..., place] if law.event_shape else values[..., place.start]
            out.append((law, part.cpu() if on_cpu else part))
        return out

    def forward(self, theta: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch z"]:
        """The numbers z in R^D for theta in the support, in theta's dtype."""
        values = theta.to(torch.float64)
        if self._together and theta.device.type == "cpu":
            columns = [to_normal(law, values.index_select(-1, places)) for law, places in self._together]
            return torch.cat(columns, dim=-1).index_select(-1, self._order).to(theta.dtype)
        columns = [values[..., :0]]
        for (law, part), transform in zip(self.parts(values), self.transforms, strict=True):
            z = to_normal(law, part) if transform is None else transform.inv(_no_zeros(law, part))
            columns.append((z if law.event_shape else z[..., None]).to(theta.device))
        return torch.cat(columns, dim=-1).to(theta.dtype)

    def _grouped(self) -> tuple[list[tuple[td.Distribution, Tensor]], Tensor]:
        """Groups of distributions that are mapped to z together, with their columns, and the order of z.

        There are no groups if one distribution has no kind: then each is mapped alone.
        """
        groups: dict[Hashable, list[int]] = {}
        for place, law in enumerate(self.laws):
            groups.setdefault(kind(law), []).append(place)
        if not groups or None in groups:
            return [], torch.empty(0, dtype=torch.long)
        together = [(as_one([self.laws[k] for k in some]), torch.tensor(some)) for some in groups.values()]
        return together, torch.cat([places for _, places in together]).argsort()

    def inverse(self, z: Float[Tensor, "*batch z"], dtype: torch.dtype | None = None) -> Float[Tensor, "*batch theta"]:
        """The parameters theta, strictly inside the support, for z in R^D.

        The result has `dtype`. By default this is the dtype of z or of the parameters, whichever has more
        digits.
        """
        columns, dtype = [z[..., :0]], dtype or torch.promote_types(z.dtype, self.dtype)
        for (law, part), transform in zip(self.z_parts(z.to(torch.float64)), self.transforms, strict=True):
            theta = (from_normal(law, part) if transform is None else transform(part)).to(dtype)
            theta = theta if law.event_shape and transform is not None else inside(law, theta)
            columns.append((theta if law.event_shape else theta[..., None]).to(z.device))
        return torch.cat(columns, dim=-1).to(dtype)

    def log_abs_det_jacobian(self, theta: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch"]:
        """The log of |det dz/dtheta| at theta, in float64.

        For a density q of z, log q(theta) = log q(z) + log |det dz/dtheta|. For parameters that add up to 1,
        densities are over all of them but the last.
        """
        total = torch.zeros(theta.shape[:-1], dtype=torch.float64, device=theta.device)
        for jacobian in self.log_jacobians(theta):
            total = total + jacobian
        return total

    def log_jacobians(self, theta: Float[Tensor, "*batch theta"]) -> list[Float[Tensor, "*batch"]]:
        """The term of each distribution in `log_abs_det_jacobian`, (...,), in the order of `laws`."""
        found = []
        parts = self.parts(theta.to(torch.float64))
        for (law, part), exact, transform in zip(parts, self.exact, self.transforms, strict=True):
            if transform is None:
                z = to_normal(law, part)
                normal = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
                jacobian = unchecked(exact, part) - (normal.sum(-1) if law.event_shape else normal)
            else:
                part = _no_zeros(law, part)
                z = transform.inv(part)
                jacobian = -transform.log_abs_det_jacobian(z, part)
                jacobian = jacobian.sum(-1) if jacobian.ndim > theta.ndim - 1 else jacobian
            found.append(jacobian.to(theta.device))
        return found


def places_of(laws: Sequence[td.Distribution]) -> tuple[slice, ...]:
    """The columns of each distribution's parameters in theta, as slices."""
    ends = accumulate((law.event_shape[0] if law.event_shape else 1 for law in laws), initial=0)
    return tuple(slice(*pair) for pair in pairwise(ends))


def makes_up_a_whole(law: td.Distribution) -> bool:
    """Whether the parameters of a distribution add up to 1, and therefore have one dimension less."""
    return bool(law.event_shape) and support(law) is constraints.simplex


def _spots_of(laws: Sequence[td.Distribution]) -> tuple[slice, ...]:
    sizes = (law.event_shape[0] - makes_up_a_whole(law) if law.event_shape else 1 for law in laws)
    return tuple(slice(*pair) for pair in pairwise(accumulate(sizes, initial=0)))


def _no_zeros(law: td.Distribution, part: Tensor) -> Tensor:
    """The values, where parts that add up to 1 are kept above 0, to which a small part may be rounded."""
    return part.clamp_min(_LEAST) if makes_up_a_whole(law) else part


def _transform(law: td.Distribution, dtype: torch.dtype) -> td.Transform | None:
    """The transform from z in R^k to the values of a distribution; None if quantiles are used.

    If the values need float64, z is in units of the distribution's width, because networks compute in
    float32.
    """
    if is_normalisable(law):
        return None
    smooth = td.biject_to(support(law))
    middle, width = whereabouts(in_double(law))
    if dtype != torch.float64 or middle.shape != law.event_shape:
        return smooth
    try:
        centre, beside = smooth.inv(middle), smooth.inv(middle + width)
    except ValueError:
        return smooth
    scale = (beside - centre).abs()
    fits = bool((scale.isfinite() & (scale > 0)).all()) and smooth(centre).shape == centre.shape
    return td.ComposeTransform([td.AffineTransform(centre, scale), smooth]) if fits else smooth


def _goes_anywhere(law: td.Distribution) -> bool:
    """Whether a distribution can compute on any device.

    Such a distribution has scalar tensors only, and does plain arithmetic with them. Others (joint
    distributions, mixtures, Beta, Gamma, ...) hold arrays, or use functions that do not mix two devices.
    """
    return _goes_anywhere(law.base) if isinstance(law, Truncated | Ordered) else type(law) in _ARITHMETIC


def log_density(law: td.Distribution, value: Tensor) -> Tensor:
    """The log density at values (..., k), or (...,) if univariate; -inf outside the support."""
    valid = support(law).check(value) & torch.isfinite(value if not law.event_shape else value.sum(-1))
    mask = valid if not law.event_shape else valid[..., None]
    safe = _no_zeros(law, torch.where(mask, value, central(law).to(value)))
    return torch.where(valid, unchecked(law, safe), -math.inf)


def central(law: td.Distribution) -> Tensor:
    """A point inside the support of a distribution."""
    shape = torch.Size([law.event_shape[0] - makes_up_a_whole(law)]) if law.event_shape else law.event_shape
    middle = torch.zeros(shape, dtype=torch.float64)
    return from_normal(law, middle) if is_normalisable(law) else td.biject_to(support(law))(middle)


def unchecked(law: td.Distribution, value: Tensor) -> Tensor:
    """The log density at values in the support; rounding at a bound of a Uniform raises no error."""
    if isinstance(law, td.Uniform):
        return -(law.high - law.low).to(value).log().expand_as(value)
    return law.log_prob(value)
