"""Estimators of theta given x that read x through summary networks, one per observable, trained with the estimator.

A density is one of z given features s(x) (`_standardised`). Shapes: s(x) (batch, F).

**Least squares** of parameters on data and plain statistics give guesses, which networks see besides what they learn.
With u the standardised numbers of x, t(u) their plain statistics (`networks.summaries.statistics`) and z the
parameters,

    h_1 = A_1 (u, t(u)),    r = u - B b(h_1),    h = A_2 (u, t(u), t(r)),

b(h) = (1, h, squares and products). Each map is found by least squares over the training rows. A_1 and A_2 have a ridge
that leaves them at most a fiftieth as many degrees of freedom as there are rows. A network gets (h, t(u), t(r)). If the
posterior is near normal, h is nearly its mean, and t(r) describes the noise that the fit leaves. So the network needs
no simulations to learn these two. Numbers of a set are exchangeable, so they enter by t alone.

Shapes: u name -> (batch, *event), z (batch, D), features (batch, F).

References:
    | Constructing summary statistics for approximate Bayesian computation (Fearnhead & Prangle, 2012),
      https://arxiv.org/abs/1004.1112
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import accumulate, chain, pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core import Batch, Observable, Prior, X
from sciinf.core.component import called_without
from sciinf.core.mixed_bijection import MixedBijection
from sciinf.core.summary import Summary, expand_mask
from sciinf.core.unknown_law import check_known
from sciinf.networks.summaries.choice import choose, passes
from sciinf.networks.summaries.columns import later_columns, seen_together, side_by_side, tables
from sciinf.networks.summaries.quantiles import quantiles
from sciinf.networks.summaries.standardise import squash
from sciinf.networks.summaries.statistics import columns, statistics
from sciinf.networks.summaries.timed import (
    TIMES,
    beside_controls,
    beside_times,
    controls_beside,
    mask_beside_controls,
    mask_beside_times,
    timed_names,
    times_of,
    with_times,
)
from sciinf.networks.summaries.variance_memory import remembers, variance_memory
from sciinf.networks.summaries.vector import MLP
from sciinf.training.estimators._gaussian import moments
from sciinf.training.estimators._standardised import Standardised, check_part

_ROWS, _NUMBERS = 65_536, 2**24  # Least squares use at most this many rows, and this many numbers.
_PIECE = 8_192  # This many rows are in double precision at once.
_FREE = 50  # There are at least this many rows for each degree of freedom.
_MOST = 1_024  # The numbers of an observable with more numbers do not enter by themselves.
_PRODUCTS = 6  # With more parameters than this, only their squares count.
_CLAMP = 4.0
_FURTHER = (variance_memory, quantiles)  # These statistics follow the others, in this order.
_UNHEARD = 1e30  # A statistic that is not to count has this sd.

Further = tuple[Callable[..., Tensor], str]
"""A kind of further statistics, and the name of an observable."""

Rows = Callable[[], Iterator[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]]]
"""A pass over training rows, the same in each: z (batch, D), standardised data, masks of their shape by name."""


class Regressed(nn.Module):
    """Least-squares guess of the parameters, and plain statistics of the data, as features.

    Args:
        observables: Observables that are not masks, name -> specification.
        masked: Names of observables that come with a mask.
        dim: Number D of targets.
        of_columns: Names of observables that are columns of one table.
        further: Whether the statistics include quantiles of sets with heavy tails and the memory of a series' variance.

    Attributes:
        differs: Whether `further` changes anything.
    """

    first: Tensor
    second: Tensor
    back: Tensor
    plain_mean: Tensor
    plain_sd: Tensor
    left_mean: Tensor
    left_sd: Tensor

    def __init__(
        self,
        observables: Mapping[str, Observable],
        masked: frozenset[str],
        dim: int,
        of_columns: frozenset[str] = frozenset(),
        *,
        further: bool = True,
    ) -> None:
        super().__init__()
        self.specs, self.of_columns = dict(observables), of_columns
        self.linear = [
            name for name, spec in self.specs.items() if "item" not in spec.dims and math.prod(spec.shape) <= _MOST
        ]
        numbers = sum(math.prod(self.specs[name].shape) for name in self.linear)
        blank = {name: torch.zeros(2, *spec.shape) for name, spec in self.specs.items()}
        masks = {name: blank[name] == 0 for name in masked}
        each = [(kind, name) for kind in _FURTHER for name in blank]
        sizes = {(kind, name): kind(blank[name], None, self.specs[name]).shape[1] for kind, name in each}
        self.differs, self.further = any(sizes.values()), sizes if further else {}
        self._counting: frozenset[Further] | None = frozenset()
        self.register_load_state_dict_post_hook(lambda module, _: module._forget())
        plain = self._statistics(blank, masks, list(self.specs)).shape[1]
        left = self._statistics(blank, masks, self.linear).shape[1]
        self.features = dim + plain + left
        products = dim * (dim + 1) // 2 if dim <= _PRODUCTS else dim
        for name, shape in (
            ("first", (1 + numbers + plain, dim)),
            ("second", (1 + numbers + plain + left, dim)),
            ("back", (1 + dim + products, numbers)),
            ("plain_mean", (plain,)),
            ("left_mean", (left,)),
        ):
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("plain_sd", torch.ones(plain))
        self.register_buffer("left_sd", torch.ones(left))
        for kind, names, size in (("plain", list(self.specs), plain), ("left", self.linear, left)):
            for place in self._places(names, size).values():  # No further statistic counts before `fit`.
                self.get_buffer(f"{kind}_sd")[place] = _UNHEARD

    def forward(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Float[Tensor, "batch feature"]:
        """Features h, t(u), t(r), each brought to order one."""
        told = self._told(u, masks)
        left = self._left(u, masks, told)
        return torch.cat([torch.cat([told, left], dim=1) @ self.second, told[:, 1 + self._numbers :], left], dim=1)

    @property
    def rows(self) -> int:
        """Largest number of rows that `fit` uses."""
        return min(_ROWS, _NUMBERS // len(self.second))

    @torch.no_grad()
    def fit(self, rows: Rows, heavy: Set[str] = frozenset()) -> None:
        """Set the maps by five passes over at most `rows` rows. No more of their data than a batch is kept.

        Args:
            rows: Function whose every call is one pass over the training rows.
            heavy: Names of observables with heavy tails, for which quantiles count.

        Raises:
            ValueError: If the rows of a pass are not those of the first pass.
        """
        names, self._counting = list(self.specs), frozenset(self.further)
        gathered = zip(*((z, self._statistics(u, masks, names)) for z, u, masks in rows()), strict=True)
        z, plain = map(torch.cat, gathered)
        places = self._places(names, plain.shape[1]).items()
        counting = {(kind, name) for (kind, name), place in places if self._counts(kind, name, plain[:, place], heavy)}
        self._counting = frozenset(counting)
        self._set("plain", plain, names, counting)

        def again() -> Iterator[tuple[slice, Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]]:
            start = 0
            for part, u, masks in rows():
                some = slice(start, start + len(part))
                start = some.stop
                if not torch.equal(part, z[some]):
                    raise ValueError("least squares need the same rows, in the same order, in each pass over them")
                yield some, self._beside(self._flat(u, part), plain[some]), u, masks

        self.first.copy_(_least_squares((known, z[some]) for some, known, _, _ in again()))
        if not self.linear:
            self.second.copy_(self.first)
            return
        self.back.copy_(_least_squares((self._basis(known), self._flat(u, known)) for _, known, u, _ in again()))
        left = torch.cat([self._residual_statistics(u, masks, known) for _, known, u, masks in again()])
        self._set("left", left, self.linear, counting)
        squashed = self._squashed("left", left)
        both = ((torch.cat([known, squashed[some]], dim=1), z[some]) for some, known, _, _ in again())
        self.second.copy_(_least_squares(both))

    @property
    def _numbers(self) -> int:
        return self.back.shape[1]

    def _set(self, kind: str, found: Tensor, names: list[str], counting: Set[Further]) -> None:
        """Set mean and sd of statistics, (rows, S).

        The sd is 1 if a statistic does not vary, and huge if the statistic is not to count.
        """
        found = found.cpu().double()
        mean, sd = found.mean(0), found.std(0, correction=0)
        sd = torch.where(sd > 1e-6 * mean.abs() + 1e-9, sd, 1.0)
        for further, place in self._places(names, len(sd)).items():
            if further not in counting:
                mean[place], sd[place] = 0.0, _UNHEARD
        self.get_buffer(f"{kind}_mean").copy_(mean)
        self.get_buffer(f"{kind}_sd").copy_(sd)

    def _places(self, names: list[str], stop: int) -> dict[Further, slice]:
        """Places of the further statistics of some observables: behind the others, which end at `stop`."""
        sizes = {one: size for one, size in self.further.items() if one[1] in names}
        ends = accumulate(sizes.values(), initial=stop - sum(sizes.values()))
        return {one: slice(start, stop) for one, (start, stop) in zip(sizes, pairwise(ends), strict=True)}

    def _counts(self, kind: object, name: str, told: Tensor, heavy: Set[str]) -> bool:
        """Whether further statistics are informative, given their values for the training rows."""
        return name in heavy if kind is quantiles else remembers(told, self.specs[name])

    def _forget(self) -> None:
        self._counting = None

    def _which_count(self) -> frozenset[Further]:
        """Further statistics that count; cached, because a GPU waits at each reading."""
        if self._counting is None:
            sd = self.plain_sd
            places = {} if sd.is_meta else self._places(list(self.specs), len(sd))
            self._counting = frozenset(one for one, place in places.items() if bool((sd[place] < _UNHEARD).any()))
        return self._counting

    def _statistics(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor], names: list[str]) -> Tensor:
        parts = [statistics(u[name], masks.get(name), self.specs[name]) for name in names]
        parts += [columns(u[name], masks.get(name), self.specs[name]) for name in names if name in self.of_columns]
        counting = self._which_count()
        for (kind, name), size in self.further.items():
            if name in names:
                told = (kind, name) in counting
                x = u[name]
                parts.append(kind(x, masks.get(name), self.specs[name]) if told else x.new_zeros(len(x), size))
        first = next(iter(u.values()))
        return torch.cat([first.new_zeros(len(first), 0), *parts], dim=1)

    def _told(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """A one, the numbers, and t(u)."""
        raw = self._statistics(u, masks, list(self.specs))
        return self._beside(self._flat(u, raw), raw)

    def _beside(self, flat: Tensor, raw: Tensor) -> Tensor:
        return torch.cat([flat.new_ones(len(flat), 1), flat, self._squashed("plain", raw)], dim=1)

    def _squashed(self, name: str, raw: Tensor) -> Tensor:
        return squash((raw - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_sd"))

    def _flat(self, u: Mapping[str, Tensor], like: Tensor) -> Tensor:
        return torch.cat([like.new_zeros(len(like), 0), *(u[name].flatten(1) for name in self.linear)], dim=1)

    def _basis(self, told: Tensor) -> Tensor:
        h = (told @ self.first).clamp(-_CLAMP, _CLAMP)
        size = h.shape[1]
        if size <= _PRODUCTS:
            first, second = torch.triu_indices(size, size, device=h.device)
            products = h[:, first] * h[:, second]
        else:
            products = h.square()
        return torch.cat([torch.ones_like(h[:, :1]), h, products], dim=1)

    def _residual_statistics(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor], told: Tensor) -> Tensor:
        fitted = (self._basis(told) @ self.back).split([math.prod(self.specs[n].shape) for n in self.linear], dim=1)
        left = {
            name: (u[name] - part.reshape(u[name].shape)) * masks.get(name, 1.0)
            for name, part in zip(self.linear, fitted, strict=True)
        }
        return self._statistics(left, masks, self.linear) if self.linear else told.new_zeros(len(told), 0)

    def _left(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor], told: Tensor) -> Tensor:
        return self._squashed("left", self._residual_statistics(u, masks, told))


def _least_squares(pieces: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Coefficients (K, D) of y (rows, D) on x (rows, K), whose first column is one and has no ridge.

    Args:
        pieces: Pairs of x and y, some rows at a time.
    """
    parts = (part for x, y in pieces for part in zip(x[:, 1:].split(_PIECE), y.split(_PIECE), strict=True))
    first = next(parts)
    size = first[0].shape[1]
    both = (torch.cat(part, dim=1) for part in chain([first], parts))
    count, mean, covariance = moments(both, size + first[1].shape[1])
    scale, axes = torch.linalg.eigh(covariance[:size, :size])
    scale = scale.clamp_min(0)
    inner = (axes.T @ covariance[:size, size:]) / (scale + _ridge(scale, count / _FREE))[:, None]
    slopes = axes @ inner
    return torch.cat([(mean[size:] - mean[:size] @ slopes)[None], slopes])


def _ridge(scale: Tensor, free: float) -> float:
    """The smallest ridge that leaves at most `free` degrees of freedom."""
    top = float(scale.max()) if len(scale) else 1.0
    low, high = 1e-7 * top + 1e-12, 1e3 * top * (len(scale) + 1) / max(free, 1e-3) + 1e-12
    if float((scale / (scale + low)).sum()) <= free:
        return low
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if float((scale / (scale + middle)).sum()) > free else (low, middle)
    return high


class Embedded(Standardised, ABC):
    """An estimator with standardisation and summary networks.

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator, name -> specification.
        summary: One summary network for every observable, or one per name. Default: chosen from the observables'
            specification.
        seed: Seeds the initial weights. A subclass builds its own under `global_seed`.
        together: Whether observables that are columns of one table share a network (`networks.summaries.columns`).
            If a summary is given for one of them by its name, they do not.

    Raises:
        TypeError: If `summary` has the wrong type, for example a class or a name instead of an object.
        ValueError: If a summary is for no observable, the seed is no int of at least 0, or the distribution of a
            parameter is unknown.
    """

    earlier: ClassVar[Mapping[str, Any]] = {"together": False}

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        summary: Summary | Mapping[str, Summary] | None,
        seed: int,
        *,
        together: bool,
    ) -> None:
        check_known(prior)  # This is checked here, before hours of training.
        super().__init__(prior, observables, seed)
        self.data_names, self.timed = data_names(self.observables), timed_names(self.observables)
        self.controlled = controls_beside(self.observables)
        self.tables = self._tables(summary, together=together)
        self.data_names = tuple(name for name in self.data_names if name not in later_columns(self.tables))
        self._given = summary if isinstance(summary, Mapping) else dict.fromkeys(self.data_names, summary)
        for name, value in self._given.items():
            check_part(f"summary of {name!r}", value, Summary, "MLP()")
        if set(self._given) - set(self.data_names):
            raise ValueError(f"summaries for {sorted(self._given)}, but the observables are {list(self.data_names)}")

    def _tables(self, summary: Summary | Mapping[str, Summary] | None, *, together: bool) -> dict[str, tuple[str, ...]]:
        """Tables whose columns are all seen by one network, keyed by their first columns.

        Controls of any column are assigned to the first one.
        """
        by_name = set(summary) if isinstance(summary, Mapping) else set[str]()
        found = {one: more for one, more in tables(self.observables).items() if not by_name & {one, *more}}
        if not found:
            called_without(self, "together")
        if not together:
            return {}
        for one, more in found.items():
            if own := next((self.controlled[each] for each in (one, *more) if each in self.controlled), ()):
                self.controlled[one] = own
        for name in later_columns(found):
            self.controlled.pop(name, None)
        return found

    def build_summaries(self, *, regressed: bool = False, further: bool = False) -> int:
        """Build the summary networks, with first weights from torch's global random state, and return the number F of
        features.

        Args:
            regressed: Whether default networks are complemented by least squares and plain statistics. Networks that
                were given are not, nor are networks that pass numbers on unchanged or that see controls.
            further: See `Regressed`. If it changes nothing, it is left out of the estimator's written arguments.
        """
        networks = []
        for name in self.data_names:
            spec, masked = self._seen(name), self._masked(name)
            summary = self._given.get(name) or choose(spec, masked)
            networks.append(summary.build(spec, masked=masked))
            if self.learns == "densities" and not isinstance(summary, MLP):
                self.learns = "summaries"
        self.summaries = nn.ModuleList(networks)
        plain = {
            name: self._seen(name)
            for name in self.data_names
            if regressed
            and not self._given.get(name)
            and not passes(self._seen(name), self._masked(name))
            # If each record has doses at other times, statistics of single times say little, and a line misleads.
            and name not in self.controlled
        }
        masked = frozenset(name for name in plain if self._masked(name))
        self.regressed = None
        if plain:
            targets, of_columns = self._targets(), frozenset(self.tables)
            self.regressed = Regressed(plain, masked, targets, of_columns, further=further)
        if self.regressed is None or not self.regressed.differs:
            called_without(self, "further")
        return sum(network.features for network in networks) + (self.regressed.features if self.regressed else 0)

    def standardise_all(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Set the standardisation of parameters and data, and the least-squares maps."""
        self.standardise_both(batches)
        if self.regressed is None:
            return

        most = self.regressed.rows

        def rows() -> Iterator[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]]:
            device, left = self.z_mean.device, most
            for batch in batches():
                some = batch.rows(slice(0, left))
                x = {name: value.to(device) for name, value in some.x.items()}
                values = self._with_times(self.standardise_x(x, self.z_mean.dtype))
                yield self.targets(some.theta.to(device)), values, self._masks(x)
                left -= len(some)
                if left <= 0:
                    return

        heavy = self.standardise_x.heavy()
        self.regressed.fit(rows, {name for name in self.data_names if heavy & {name, *self.tables.get(name, ())}})

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.summarise(self.standardise_x(x, self.z_mean.dtype), x)

    def summarise(self, values: Mapping[str, Tensor], x: X) -> Float[Tensor, "batch feature"]:
        """Features of standardised values; x provides the masks."""
        values = self._with_times(values)
        parts = [
            network(values[name], self._mask(name, x))
            for name, network in zip(self.data_names, self.summaries, strict=True)
        ]
        parts += [] if self.regressed is None else [self.regressed(values, self._masks(x))]
        return torch.cat(parts, dim=-1)

    def _columns(self, name: str) -> tuple[list[str], list[Observable]]:
        """Names and specifications of an observable and of the other columns of its table."""
        names = [name, *self.tables.get(name, ())]
        return names, [self.observables[each] for each in names]

    def _seen(self, name: str) -> Observable:
        """Specification of an observable as its network sees it."""
        spec, timed = self._without_controls(name), name in self.timed
        controls = [self.observables[control] for control in self.controlled.get(name, ())]
        return with_times(spec, timed=timed, controls=controls) if timed or controls else spec

    def _with_times(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Standardised values, joined with their times, controls and other columns of their table, if any."""
        wide = {name: beside_times(values[name], values[f"{name}{TIMES}"]) for name in self.timed}
        for name in self.tables:
            names, specs = self._columns(name)
            wide[name] = side_by_side([values[each] for each in names], specs)
        for name, controls in self.controlled.items():
            wide[name] = beside_controls(wide.get(name, values[name]), [values[control] for control in controls])
        return {**values, **wide} if wide else values

    def _mask(self, name: str, x: X) -> Tensor | None:
        mask = self._mask_of_table(name, x) if name in self.tables else x.get(f"{name}_mask")
        if mask is not None and name in self.controlled:
            return mask_beside_controls(mask, self._without_controls(name), self._seen(name).shape[-1])
        return mask if mask is None or name not in self.timed else mask_beside_times(mask, self.observables[name])

    def _without_controls(self, name: str) -> Observable:
        """Specification of a table, or of a single observable, as its network sees it without controls and times."""
        return seen_together(self._columns(name)[1])

    def _mask_of_table(self, name: str, x: X) -> Tensor | None:
        """Masks of columns side by side; a column without a mask is present throughout."""
        names, specs = self._columns(name)
        masks = [x.get(f"{each}_mask") for each in names]
        if all(mask is None for mask in masks):
            return None
        whole = [
            torch.ones_like(x[each], dtype=torch.bool) if mask is None else expand_mask(mask, x[each].shape)
            for each, mask in zip(names, masks, strict=True)
        ]
        return side_by_side(whole, specs)

    def _targets(self) -> int:
        """Number of targets of least squares."""
        bijection = self.prior.bijection
        return bijection.coordinates_size if isinstance(bijection, MixedBijection) else bijection.size

    def _masked(self, name: str) -> bool:
        return any(f"{each}_mask" in self.observables for each in (name, *self.tables.get(name, ())))

    def _masks(self, x: X) -> dict[str, Tensor]:
        """Masks expanded to all entries of their observables."""
        return {
            name: expand_mask(mask, (len(x[name]), *self._seen(name).shape))
            for name in self.data_names
            if self._masked(name) and (mask := self._mask(name, x)) is not None
        }


def data_names(observables: Mapping[str, Observable]) -> tuple[str, ...]:
    """Names of observables that are data: neither masks of others, nor their times, nor their controls."""
    beside = {f"{name}_mask" for name in observables} | set(times_of(observables))
    beside |= {control for controls in controls_beside(observables).values() for control in controls}
    return tuple(name for name in observables if name not in beside)
