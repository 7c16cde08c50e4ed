r"""The map from parameters of a mixed prior to numbers for networks, and its inverse.

A mixed prior has discrete parameters, and may have parameters that exist in some rows only. A continuous
parameter that exists becomes a number z. Under the prior, z is N(0, 1) if the parameter's distribution has
quantiles. A discrete parameter becomes the code 0, 1, ... of its value. A parameter that does not exist
becomes 0.

**In increasing order.** k draws from a distribution with distribution function F, put in order, become k
independent uniform numbers by Rényi's formula

    v_i = ((1 - F(t_i)) / (1 - F(t_{i-1})))^{k-i+1},      i = 1 ... k,      F(t_0) = 0,

because v_i is the probability that the smallest of k - i + 1 values above t_{i-1} is above t_i. Then z_i =
-Phi^{-1}(v_i). The density of the ordered values is k! prod_i p(t_i). The number k may differ between rows.

References:
    | On the theory of order statistics (Rényi, 1953), https://doi.org/10.1007/BF02127580
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch import distributions as td

from sciinf.core.bijection import Bijection, log_density, places_of
from sciinf.core.existence import Existence, nan_where
from sciinf.core.joint_laws import z_of
from sciinf.core.laws import from_normal, is_normalisable
from sciinf.core.levels import Levels
from sciinf.core.precision import in_double

_FAR = 37.0  # Beyond this |z|, tail probabilities underflow. `core.laws` has the same limit.
_EDGE = 1e-15  # Equal neighbours would make z infinite without this limit, as in `core.joint_laws`.


class Split(NamedTuple):
    """The parameters theta as numbers for networks.

    Args:
        z: The numbers, (..., size): z of a continuous parameter, the code of a discrete one, 0 for a
            parameter that does not exist.
        present: Whether each number's parameter exists, (..., size), bool.
    """

    z: Tensor
    present: Tensor


class Sorted(NamedTuple):
    """A group of parameters in increasing order: its columns in theta (`places`) and in z (`spots`)."""

    places: Tensor
    spots: Tensor


@final
class MixedBijection:
    """The map between the parameters of a mixed prior and z, with the methods of `Bijection` and some more.

    Args:
        names: Names of all parameters.
        laws: Their distributions, in order.
        existence: Which parameters exist for which values of discrete parameters.
        dtype: The dtype of the parameters.

    Raises:
        TypeError: If a parameter's existence depends on a parameter that is not discrete.
        ValueError: If a parameter stands before the discrete parameter that its existence depends on, or
            depends on a value that this discrete parameter cannot have.
    """

    normal = False

    def __init__(
        self, names: tuple[str, ...], laws: tuple[td.Distribution, ...], existence: Existence, dtype: torch.dtype
    ) -> None:
        self.laws, self.dtype, self.places = laws, dtype, places_of(laws)
        self.exact = tuple(in_double(law) for law in laws)
        self.levels = {k: law for k, law in enumerate(laws) if isinstance(law, Levels)}
        self.smooth = [k for k in range(len(laws)) if k not in self.levels]
        self.inner = Bijection(tuple(laws[k] for k in self.smooth), dtype)
        transforms = dict(zip(self.smooth, self.inner.transforms, strict=True))
        self.transforms: tuple[Any, ...] = tuple(transforms.get(k) for k in range(len(laws)))
        self._set_places()
        self._set_conditions(names, existence)
        at = {name: place for place, name in enumerate(names)}
        spot_of = {self.places[k].start: self.spots[k].start for k in range(len(laws))}
        groups = [[at[name] for name in group.columns] for group in existence.each.values() if group.increasing]
        self.sorted = [Sorted(torch.tensor(g), torch.tensor([spot_of[place] for place in g])) for g in groups]

    def _set_places(self) -> None:
        """Set the columns of each distribution in theta, in z and among the continuous parameters."""
        inner = dict(zip(self.smooth, self.inner.spots, strict=True))
        sizes = [inner[k].stop - inner[k].start if k in inner else 1 for k in range(len(self.laws))]
        ends = [*accumulate(sizes, initial=0)]
        self.spots = tuple(slice(*pair) for pair in pairwise(ends))
        self.size = ends[-1]
        spread = [range(s.start, s.stop) for s in self.places]
        self.law_of_place = torch.tensor([k for k, of in enumerate(spread) for _ in of])
        self.law_of_spot = torch.tensor([k for k, s in enumerate(self.spots) for _ in range(s.stop - s.start)])
        self.continuous = torch.tensor([i for k in self.smooth for i in spread[k]], dtype=torch.long)
        self.in_z = torch.tensor(
            [i for k in self.smooth for i in range(self.spots[k].start, self.spots[k].stop)], dtype=torch.long
        )
        self.discrete = torch.tensor([self.places[k].start for k in self.levels], dtype=torch.long)
        self.discrete_in_z = torch.tensor([self.spots[k].start for k in self.levels], dtype=torch.long)
        self.first = torch.tensor([float(law.values[0]) for law in self.levels.values()], dtype=torch.float64)
        self.number = torch.tensor([len(law.values) for law in self.levels.values()], dtype=torch.float64)
        centre = self.inner.inverse(torch.zeros(self.inner.size, dtype=torch.float64))
        self.centre = centre.to(torch.float64)

    @property
    def coordinates_size(self) -> int:
        """The number of columns that `coordinates` returns."""
        sometimes = (~self.always).index_select(0, self.law_of_spot)
        return len(self.in_z) + int(sometimes.sum()) + int(self.number.sum())

    def _set_conditions(self, names: tuple[str, ...], existence: Existence) -> None:
        """Set the tables that say for which codes of which discrete parameters each distribution exists.

        The last code of a table stands for a discrete parameter that does not exist itself.
        """
        heads: list[str] = [names[place.start] for place in self.places]
        found = existence.conditions(names, dict(zip(heads, self.laws, strict=True)))
        order = [heads[k] for k in self.levels]
        most, codes = max([1, *(len(c) for c in found.values())]), int(self.number.max()) + 1
        self.parents = torch.zeros(len(heads), most, dtype=torch.long)
        self.allowed = torch.ones(len(heads), most, codes, dtype=torch.bool)
        for k, head in enumerate(heads):
            for j, (parent, flags) in enumerate(found.get(head, {}).items()):
                self.parents[k, j] = order.index(parent)
                self.allowed[k, j] = torch.tensor([*flags, *[False] * (codes - len(flags))])
        self.always = ~torch.tensor([head in found for head in heads])

    def present(self, theta: Float[Tensor, "*batch theta"]) -> Bool[Tensor, "*batch theta"]:
        """Whether each parameter exists, as the discrete parameters alone decide."""
        return self._laws_present(self.codes(theta)).index_select(-1, self.law_of_place.to(theta.device))

    def split(self, theta: Float[Tensor, "*batch theta"]) -> Split:
        """The parameters theta as numbers for networks, in theta's dtype."""
        values, on = theta.to(torch.float64), theta.device
        codes = self.codes(values)
        present = self._laws_present(codes).index_select(-1, self.law_of_spot.to(on))
        smooth = values.index_select(-1, self.continuous.to(on))
        z = torch.zeros(present.shape, dtype=torch.float64, device=on)
        filled = torch.where(smooth.isnan(), self.centre.to(on), smooth)
        z = z.index_copy(-1, self.in_z.to(on), self.inner.forward(filled))
        for group in self.sorted:
            z = self._apart(z, present, group.spots.to(on))
        z = z.index_copy(-1, self.discrete_in_z.to(on), codes.clamp_min(0).to(torch.float64))
        return Split(torch.where(present, z, 0.0).to(theta.dtype), present)

    def forward(self, theta: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch z"]:
        """The numbers z for theta: `split(theta).z`."""
        return self.split(theta).z

    def inverse(self, z: Float[Tensor, "*batch z"], dtype: torch.dtype | None = None) -> Float[Tensor, "*batch theta"]:
        """The parameters theta for z, with NaN for each parameter that does not exist.

        Continuous parameters lie strictly inside the support of their distribution. The result has `dtype`.
        By default this is the dtype of z or of the parameters, whichever has more digits.
        """
        on, values, dtype = z.device, z.to(torch.float64), dtype or torch.promote_types(z.dtype, self.dtype)
        codes = self.codes_in(z)
        present = self._laws_present(codes)
        shown = present.index_select(-1, self.law_of_spot.to(on))
        for group in self.sorted:
            values = self._in_order(values, shown, group.spots.to(on))
        smooth = self.inner.inverse(values.index_select(-1, self.in_z.to(on)).nan_to_num(0.0), dtype)
        theta = torch.zeros(*z.shape[:-1], len(self.law_of_place), dtype=dtype, device=on)
        theta = theta.index_copy(-1, self.continuous.to(on), smooth)
        theta = theta.index_copy(-1, self.discrete.to(on), (codes + self.first.to(on)).to(dtype))
        return nan_where(~present.index_select(-1, self.law_of_place.to(on)), theta)

    def coordinates(self, theta: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch coordinate"]:
        """The coordinates of theta: z, indicators of existence, and one-hot codes of discrete parameters.

        z is that of the continuous parameters. Only parameters that need not exist have an indicator, 1 or 0.
        The one-hot code of a discrete parameter that does not exist is all zero.
        """
        split, on = self.split(theta), theta.device
        some = (~self.always).index_select(0, self.law_of_spot).nonzero().flatten().to(on)
        parts = [split.z.index_select(-1, self.in_z.to(on)), split.present.index_select(-1, some).to(split.z.dtype)]
        for k, law in self.levels.items():
            code, there = (part[..., self.spots[k].start, None] for part in split)
            parts.append(((code == torch.arange(len(law.values), device=on)) & there).to(split.z.dtype))
        return torch.cat(parts, dim=-1)

    def log_abs_det_jacobian(self, theta: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch"]:
        """The log of |dz / dtheta| over the continuous parameters that exist, in float64."""
        values, on = theta.to(torch.float64), theta.device
        present = self._laws_present(self.codes(values))
        smooth = values.index_select(-1, self.continuous.to(on))
        filled = torch.where(smooth.isnan(), self.centre.to(on), smooth)
        total = torch.zeros(theta.shape[:-1], dtype=torch.float64, device=on)
        for k, jacobian in zip(self.smooth, self.inner.log_jacobians(filled), strict=True):
            total = total + torch.where(present[..., k], jacobian, 0.0)
        shown = present.index_select(-1, self.law_of_spot.to(on))
        z = torch.zeros(shown.shape, dtype=torch.float64, device=on)
        z = z.index_copy(-1, self.in_z.to(on), self.inner.forward(filled))
        for group in self.sorted:
            spots = group.spots.to(on)
            before, after = z.index_select(-1, spots), self._apart(z, shown, spots).index_select(-1, spots)
            there = shown.index_select(-1, spots)
            change = torch.where(there, 0.5 * (after**2 - before**2), 0.0).sum(-1)
            total = total + change + torch.lgamma(there.sum(-1).to(torch.float64) + 1)
        return total

    def log_prob(self, theta: Float[Tensor, "*batch theta"]) -> Float[Tensor, "*batch"]:
        """The log density of the prior, in float64.

        It is -inf if a parameter exists that should not, or the other way round. The density is with respect
        to the counting measure for discrete parameters, and the Lebesgue measure, in the parameters' units,
        for continuous ones that exist.
        """
        values, on = theta.to(torch.float64), theta.device
        present = self._laws_present(self.codes(values))
        total = torch.zeros(theta.shape[:-1], dtype=torch.float64, device=on)
        for k, (law, place) in enumerate(zip(self.exact, self.places, strict=True)):
            part = values[..., place] if law.event_shape else values[..., place.start]
            gone = part.isnan().all(-1) if law.event_shape else part.isnan()
            found = log_density(law, part.cpu()).to(on)
            total = total + torch.where(present[..., k], found, torch.where(gone, 0.0, -math.inf))
        for group in self.sorted:
            part = values.index_select(-1, group.places.to(on))
            ordered = ~(part.diff(dim=-1) < 0).any(-1)
            number = (~part.isnan()).sum(-1).to(torch.float64)
            total = torch.where(ordered, total + torch.lgamma(number + 1), -math.inf)
        return total

    def draw(self, n: int, generator: torch.Generator, other: Mapping[int, Tensor]) -> Float[Tensor, "n theta"]:
        """n draws from the prior, (n, D).

        Args:
            n: The number of draws.
            generator: The source of randomness for distributions with quantiles.
            other: Draws, (n, ...), from each distribution without quantiles, by its index in `laws`.
        """
        columns = []
        for k, law in enumerate(self.laws):
            if k in other:
                columns.append(self.transforms[k].inv(other[k].to(torch.float64)).reshape(n, -1))
                continue
            z = torch.randn(n, *law.event_shape, generator=generator, dtype=torch.float64)
            z = from_normal(law, z) - float(law.values[0]) if isinstance(law, Levels) else z
            columns.append(z.reshape(n, -1))
        return self.inverse(torch.cat(columns, dim=-1), self.dtype)

    def without_quantiles(self) -> list[int]:
        """The indices in `laws` of the continuous distributions without quantiles, which torch samples."""
        return [k for k in self.smooth if not is_normalisable(self.laws[k])]

    def parts(self, values: Tensor) -> list[tuple[td.Distribution, Tensor]]:
        """Each distribution with its columns: (...,) if univariate, (..., k) if joint; NaN among them."""
        pairs = zip(self.laws, self.places, strict=True)
        return [(law, values[..., place] if law.event_shape else values[..., place.start]) for law, place in pairs]

    def codes_in(self, z: Float[Tensor, "*batch z"]) -> Tensor:
        """The codes of the discrete parameters in z, (..., number of these); -1 if one does not exist."""
        on = z.device
        codes = z.index_select(-1, self.discrete_in_z.to(on)).to(torch.float64).round()
        codes = torch.minimum(codes.nan_to_num(0.0).clamp_min(0), (self.number - 1).to(on)).long()
        # A parameter stands after those that its existence depends on, so one pass in order is enough.
        for j, k in enumerate(self.levels):
            if not bool(self.always[k]):
                gone = ~self._laws_present(codes)[..., k]
                codes = torch.cat(
                    [codes[..., :j], torch.where(gone, -1, codes[..., j])[..., None], codes[..., j + 1 :]], -1
                )
        return codes

    def spots_present(self, codes: Tensor) -> Bool[Tensor, "*batch z"]:
        """Whether the parameter of each number in z exists.

        Args:
            codes: Codes of the discrete parameters, (..., number of these), -1 for one that does not exist.
        """
        return self._laws_present(codes).index_select(-1, self.law_of_spot.to(codes.device))

    def codes(self, theta: Tensor) -> Tensor:
        """The codes of discrete parameters in theta, (..., number of these); -1 for other values or NaN."""
        codes = theta.index_select(-1, self.discrete.to(theta.device)).to(torch.float64) - self.first.to(theta.device)
        valid = (codes >= 0) & (codes < self.number.to(theta.device)) & (codes == codes.round())
        return torch.where(valid, codes, -1.0).long()

    def _laws_present(self, codes: Tensor) -> Tensor:
        """Whether each distribution's parameters exist, (..., len(laws)), from the discrete codes."""
        allowed, parents = self.allowed.to(codes.device), self.parents.to(codes.device)
        code = codes[..., parents]  # (..., laws, conditions)
        code = torch.where(code < 0, allowed.shape[-1] - 1, code)
        flat = torch.arange(parents.numel(), device=codes.device).reshape(parents.shape) * allowed.shape[-1]
        return allowed.flatten()[flat + code].all(-1)

    def _apart(self, z: Tensor, present: Tensor, spots: Tensor) -> Tensor:
        """The z of parameters in increasing order, from the z that each would have on its own."""
        there = present.index_select(-1, spots)
        above = torch.special.log_ndtr(-z.index_select(-1, spots))
        before = torch.cat([torch.zeros_like(above[..., :1]), above[..., :-1]], dim=-1)
        first = torch.arange(len(spots), device=z.device) == 0
        found = -z_of((above - before) * _left(there), -torch.where(first, 0.0, _EDGE))
        return z.index_copy(-1, spots, torch.where(there, found, 0.0))

    def _in_order(self, z: Tensor, present: Tensor, spots: Tensor) -> Tensor:
        """The z that each parameter would have on its own, from the z of parameters in increasing order."""
        there = present.index_select(-1, spots)
        each = torch.special.log_ndtr(-z.index_select(-1, spots).clamp(-_FAR, _FAR)) / _left(there)
        above = torch.where(there, each, 0.0).cumsum(-1)
        return z.index_copy(-1, spots, torch.where(there, -z_of(above, torch.zeros(())), 0.0))


def _left(there: Tensor) -> Tensor:
    """The number k - i + 1 for the i-th of k parameters that exist, at least 1, in float64."""
    place = torch.arange(there.shape[-1], device=there.device)
    return (there.sum(-1, keepdim=True) - place).clamp_min(1).to(torch.float64)
