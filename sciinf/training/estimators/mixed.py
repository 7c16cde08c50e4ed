r"""Posterior estimation of labels, counts, and parameters that exist in some rows only, by an exact chain.

With d_1 ... d_L the discrete parameters and z_1 ... z_M the numbers of the continuous ones (`core.mixed_bijection`), in
the prior's order,

    q(theta | x) = prod_i q(d_i | d_<i, x)  prod_j q(z_j | d, z_<j, x) |dz / dtheta|,

each product over the parameters that exist, which the discrete parameters determine. Each factor is normalised: a
discrete one by logits, a continuous one by a spline (`networks.flows.heads`). So q is normalised in every dimension
that theta may have. The loss is -E_{p(theta, x)} log q(z, d | s(x)), whose minimum over all q is the posterior.

If parameters are changes of a series (`Changes`), two factors differ: how many changes there are, and when. They are
normalised sums over all places of the changes (`_changes`). Links of values between changes see the items between them.

Discrete parameters stand first, whatever the prior's order, so that their probabilities need no integral. They are sums
over all values of the discrete parameters before (`log_probabilities`). Shapes: z (batch, D), s(x) (batch, F).

References:
    | Mixed neural likelihood estimation for models of decision-making (Boelts et al., 2022),
      https://doi.org/10.7554/eLife.77220
    | MADE: Masked Autoencoder for Distribution Estimation (Germain et al., 2015), https://arxiv.org/abs/1502.03509
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core import Batch, Density, Marginals, Observable, Prior, X
from sciinf.core.checks import check_whole
from sciinf.core.component import called_without
from sciinf.core.levels import Levels
from sciinf.core.mixed_bijection import MixedBijection
from sciinf.core.prior import global_seed
from sciinf.core.summary import Summary
from sciinf.networks.chain import Chain
from sciinf.networks.flows.heads import Logits, Splines
from sciinf.training.estimators._changes import Changes, Segmentation, SeriesEvidence
from sciinf.training.estimators._embedded import Embedded
from sciinf.training.estimators._places import Places, Sides, places_in
from sciinf.training.estimators._standardised import check_part, check_rows, in_chunks
from sciinf.training.memory import retain_freed

_MOST = 256  # Probabilities are added up over at most this many combinations of discrete values.
_AT_ONCE = 16_384  # This many pairs of a combination and an observation are computed at once.


class Parts(NamedTuple):
    """Rows of theta in the form that the chain uses.

    Args:
        codes: Codes of the discrete parameters, (row, L), -1 where a parameter does not exist.
        z: Standardised continuous parameters, (row, M), 0 where a number does not exist.
        present: Whether each number exists, (row, M).
        edges: Steps of a series between which changes lie, as from `Segmentation.edges`. None without `Changes`.
    """

    codes: Tensor
    z: Tensor
    present: Tensor
    edges: Tensor | None = None


class ChainContext(NamedTuple):
    """Quantities of the observations that the chain needs.

    Args:
        layers: Output of `Chain.prepare`, (layer, link, row, hidden).
        beside: Output of `Logits.prepare`, (row, values) for each discrete parameter.
        seen: Evidence from a series with changes, once for each observation, for all n.
        places: For each parameter that counts the steps of a series: its position -> the values' log q from `Places`,
            (row, state, values).
        sides: For each such parameter: its position -> both sides of the edges, once for each observation, for all n.
    """

    layers: Tensor
    beside: list[Tensor]
    seen: SeriesEvidence | None = None
    places: Mapping[int, Tensor] = MappingProxyType({})
    sides: Mapping[int, Sides] = MappingProxyType({})

    def spread(self, n: int) -> ChainContext:
        """Context for n rows of each observation."""
        *lead, rows, hidden = self.layers.shape
        layers = self.layers[:, :, None].expand(*lead, n, rows, hidden).reshape(*lead, n * rows, hidden)
        beside = [one.expand(n, *one.shape).flatten(0, 1) for one in self.beside]
        places = {which: one.expand(n, *one.shape).flatten(0, 1) for which, one in self.places.items()}
        return ChainContext(layers, beside, self.seen, places, self.sides)

    def of(self, rows: slice) -> ChainContext:
        """Context of some observations, as far as discrete parameters need it."""
        places = {which: one[rows] for which, one in self.places.items()}
        return ChainContext(self.layers[:, :, rows], [one[rows] for one in self.beside], places=places)


class Mixed(Embedded):
    """Amortized posterior estimation with discrete parameters, and parameters that exist in some rows only.

    Priors whose parameters are all continuous are allowed, too.

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator, name -> specification.
        summary: One summary network for every observable, or one per name. Default: chosen from the observables'
            specification.
        hidden: Width of the networks of the chain.
        blocks: Number of residual blocks of each network.
        bins: Number of pieces of each spline.
        changes: Which parameters are changes of a series (`training.estimators._changes`), if any.
        regression: Whether default summary networks are complemented by least squares of the parameters and plain
            statistics of the data (`_embedded`).
        together: Whether observables that are columns of one table share a summary network
            (`networks.summaries.columns`).
        further: Whether the plain statistics include quantiles of sets with heavy tails
            (`networks.summaries.quantiles`) and the memory of a series' variance
            (`networks.summaries.variance_memory`).
        places: Whether discrete parameters that count the steps of a series (`training.estimators._places.places_in`)
            get networks that look at both sides of each step.
        seed: Seeds the initial weights.

    Raises:
        TypeError: If `summary` has the wrong type, for example a class or a name instead of an object.
        ValueError: If a summary is for no observable, or a number is no int of at least 1 (the seed: 0).

    Examples:
        >>> from sciinf import Choice, Normal, Only
        >>> prior = Prior(model=Choice("a", "b"), mu=Only(Normal(0.0, 1.0), model="b"))
        >>> density = Mixed(prior, {"x": Observable((3,))}).condition({"x": torch.zeros(2, 3)})
        >>> density.sample(5, generator=torch.Generator()).shape, density.log_probabilities("model").shape
        (torch.Size([5, 2, 2]), torch.Size([2, 2]))
    """

    earlier: ClassVar[Mapping[str, Any]] = {**Embedded.earlier, "further": False, "places": False}
    unwritten: ClassVar[frozenset[str]] = frozenset({"further", "places"})
    mixed: ClassVar[bool] = True

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        summary: Summary | Mapping[str, Summary] | None = None,
        hidden: int = 64,
        blocks: int = 2,
        bins: int = 12,
        changes: Changes | None = None,
        regression: bool = True,
        together: bool = True,
        further: bool = True,
        places: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, summary, seed, together=together)
        for name, value, least in (("hidden", hidden, 1), ("blocks", blocks, 1), ("bins", bins, 2)):
            check_whole(name, value, least)
        bijection = prior.bijection
        self.levels = list(bijection.levels.values()) if isinstance(bijection, MixedBijection) else list[Levels]()
        self.spots = bijection.in_z if isinstance(bijection, MixedBijection) else torch.arange(bijection.size)
        check_part("changes", changes, Changes, 'Changes("counts", "tau", years)')
        if changes is not None and changes.series in self.timed:
            raise ValueError(f"{changes.series!r} has times of its own, and changes are found at times that stay")
        sizes = [len(law.values) for law in self.levels]
        widths = [*sizes, *[2] * len(self.spots)]
        with global_seed(torch.Generator().manual_seed(seed)):
            width = self.build_summaries(regressed=regression, further=further)
            self.chain = Chain(widths, width, hidden, blocks)
            self.logits = Logits(sizes, hidden, width)
            self.splines = Splines(len(self.spots), hidden, bins)
            self.changes = None if changes is None else Segmentation(changes, prior, observables, hidden)
            found = self._places(sizes, hidden)
            self.places = nn.ModuleList(found if places else [])
        if not found:
            called_without(self, "places")

    def _places(self, sizes: list[int], hidden: int) -> list[Places]:
        """Networks of the parameters that count the steps of a series."""
        seen = {name: self._seen(name) for name in self.data_names}
        alone = {name: spec for name, spec in seen.items() if name not in self.timed and name not in self.controlled}
        known = None if self.changes is None else self.changes.count
        found = [place for place in places_in(alone, self.prior) if place.which != known]
        numbers = len(self.spots)
        return [Places(one, seen[one.series], sizes[: one.which], numbers, hidden) for one in found]

    def place(self, which: int) -> Places | None:
        """The network of a discrete parameter that counts the steps of a series, or None for other parameters."""
        found = (one for one in self.places if isinstance(one, Places))
        return next((one for one in found if one.place.which == which), None)

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.standardise_all(batches)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        return -self.log_chain(self.parts(batch.theta), self.given(batch.x)[1])

    def condition(self, x: X) -> MixedDensity:
        retain_freed()
        with torch.no_grad():
            device = self.z_mean.device
            return MixedDensity(self, *self.given({name: value.to(device) for name, value in x.items()}), 0.0)

    def given(self, x: X) -> tuple[Float[Tensor, "batch feature"], ChainContext]:
        """Features of the observations, and the context that the chain needs."""
        values = self.standardise_x(x, self.z_mean.dtype)
        context = self.summarise(values, x)
        beside, seen = self.logits.prepare(context), None
        places, sides = dict[int, Tensor](), dict[int, Sides]()
        for which in range(len(beside)):
            if (place := self.place(which)) is not None:
                name = place.place.series
                places[which], sides[which] = place(self._with_times(values)[name], self._masks(x).get(name))
        if self.changes is not None:
            name = self.changes.plan.series
            seen = self.changes.see(values[name], self._masks(x).get(name))
            beside[self.changes.count] = beside[self.changes.count] + self.changes.logits(seen)
        return context, ChainContext(self.chain.prepare(context), beside, seen, places, sides)

    def parts(self, theta: Float[Tensor, "row theta"]) -> Parts:
        """theta inside the prior's support, in the form that the chain uses."""
        bijection, dtype = self.prior.bijection, self.z_mean.dtype
        z, present = self.prior.split(theta)
        spots = self.spots.to(z.device)
        mean, sd = (one.index_select(0, spots) for one in (self.z_mean, self.z_sd))
        there = present.index_select(-1, spots)
        numbers = torch.where(there, (z.index_select(-1, spots) - mean) / sd, 0.0).to(dtype)
        if not isinstance(bijection, MixedBijection):
            return Parts(z.new_zeros(len(z), 0).long(), numbers, there)
        return Parts(bijection.codes(theta), numbers, there, self.changes.edges(theta) if self.changes else None)

    def log_chain(self, parts: Parts, given: ChainContext, floor: float = 0.0) -> Float[Tensor, " row"]:
        """log q(d, z | x) of rows, with standardised z.

        Args:
            parts: The rows.
            given: Context from `given`, for each row.
            floor: Share of the prior in the probabilities of discrete values.
        """
        u = self.chain(self.inputs(parts), given.layers)
        total, discrete = u.new_zeros(u.shape[1]), len(self.levels)
        for k in range(discrete):
            code = parts.codes[:, k]
            found = self.floored(k, self.log_probs(k, parts.codes, u[k], given), floor)
            total = total + torch.where(code >= 0, found.gather(1, code.clamp_min(0)[:, None])[:, 0], 0.0)
        if not len(self.spots):
            return total
        there, u = parts.present, u[discrete:] + self.seen_at_places(parts.codes, given)
        if self.changes is not None and given.seen is not None and parts.edges is not None:
            at = self.changes.numbers
            mean, sd = (one[self.spots[at]] for one in (self.z_mean, self.z_sd))
            found = self.changes.log_q(parts.edges, parts.z[:, at] * sd + mean, there[:, at], given.seen)
            total = total + found + (there[:, at] * sd.log()).sum(-1)
            there = there.index_fill(1, torch.tensor(at, device=there.device), False)
            u = self.looked(u, parts.edges, given.seen)
        each = self.splines.log_prob(parts.z.T, u)
        return total + torch.where(there.T, each, 0.0).sum(0)

    def log_probs(self, which: int, codes: Tensor, u: Tensor, given: ChainContext) -> Float[Tensor, "row value"]:
        """log q of the values of a discrete parameter.

        Args:
            which: Position of the parameter among the discrete ones.
            codes: Codes of the discrete parameters, (row, L); only those before the parameter count.
            u: Output of the parameter's link of the chain, (row, hidden).
            given: Context from `given`, for each row.
        """
        found, place = self.logits.log_probs(which, u, given.beside[which]), self.place(which)
        return found if place is None else place.log_probs(given.places[which], codes, found)

    def seen_at_places(self, codes: Tensor, given: ChainContext) -> Float[Tensor, "number row hidden"] | float:
        """Features of both sides of each place, to be added to the hidden units of the links of numbers."""
        found = ((self.place(which), sides, codes[:, which]) for which, sides in given.sides.items())
        return sum((place.see(sides, code) for place, sides, code in found if place is not None), 0.0)

    def looked(self, u: Float[Tensor, "number row hidden"], edges: Tensor, seen: SeriesEvidence) -> Tensor:
        """Hidden units u of all numbers; those of values between changes get the features of their segments added."""
        if self.changes is None or not self.changes.values:
            return u
        at = torch.tensor(self.changes.values, device=u.device)
        return u.index_add(0, at, self.changes.looks(edges, seen))

    def inputs(self, parts: Parts) -> Float[Tensor, "row input"]:
        """Inputs of the links: one-hot codes of discrete parameters; and each number with a 1 if it exists."""
        hot = [
            F.one_hot(parts.codes[:, k] + 1, 1 + len(law.values))[:, 1:].to(parts.z.dtype)
            for k, law in enumerate(self.levels)
        ]
        pairs = torch.stack([parts.z, parts.present.to(parts.z.dtype)], dim=-1).flatten(1)
        return torch.cat([*hot, pairs], dim=1)

    def floored(self, which: int, log_probs: Float[Tensor, "row value"], floor: float) -> Float[Tensor, "row value"]:
        """Log probabilities of a discrete parameter's values, mixed with a share of the prior's."""
        if not floor:
            return log_probs
        prior = self.levels[which].log_probs.to(log_probs)
        return torch.logaddexp(
            log_probs + math.log1p(-floor) if floor < 1 else log_probs - math.inf, prior + math.log(floor)
        )


class MixedDensity(Density, Marginals):
    """The chain's density of theta given a batch of embedded observations, (batch, F)."""

    def __init__(self, estimator: Mixed, context: Tensor, given: ChainContext, floor: float) -> None:
        self.estimator, self.context, self.floor, self._given = estimator, context, floor, given
        self._messages: Tensor | None = None

    def with_floor(self, share: float) -> MixedDensity:
        if not 0 <= share <= 1:
            raise ValueError(f"the share of the prior under each discrete value is from 0 to 1, got {share!r}")
        return MixedDensity(self.estimator, self.context, self._given, float(share))

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        rows, prior = len(self.context), self.estimator.prior
        parts = [torch.empty(0, rows, len(prior), dtype=prior.dtype, device=self.context.device)]
        for start, stop in in_chunks(n, rows, self.context.device):
            parts.append(self._drawn(stop - start, generator))
        return torch.cat(parts)

    @torch.no_grad()
    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        estimator, prior, rows = self.estimator, self.estimator.prior, len(self.context)
        check_rows(theta, rows, prior)
        flat = theta.to(self.context.device).reshape(-1, rows, len(prior))
        found = [torch.empty(0, rows, dtype=torch.float64, device=self.context.device)]
        scales = estimator.z_sd.double().log().index_select(0, estimator.spots.to(self.context.device))
        for start, stop in in_chunks(len(flat), rows, self.context.device):
            some = flat[start:stop]
            inside = torch.isfinite(prior.log_prob(some))
            safe = torch.where(inside[..., None], some, self._centre().to(some)).flatten(0, 1)
            parts = estimator.parts(safe)
            log_q = estimator.log_chain(parts, self._given.spread(stop - start), self.floor).double()
            log_q = log_q - (parts.present * scales).sum(-1) + prior.log_jacobian(safe)
            found.append(torch.where(inside, log_q.view(inside.shape), -math.inf))
        return torch.cat(found).reshape(theta.shape[:-1])

    @torch.no_grad()
    def log_probabilities(self, name: str) -> Float[Tensor, "batch value"]:
        """log P of each value of a discrete parameter, exact: a sum over all values of the discrete parameters before
        it.

        Raises:
            ValueError: If there is no discrete parameter of that name, or more than 256 combinations of values stand
                before it.
        """
        estimator = self.estimator
        names = list(estimator.prior.discrete())
        if name not in names:
            raise ValueError(f"there is no discrete parameter {name!r}; there is {', '.join(names) or 'none'}")
        which = names.index(name)
        sizes = [len(law.values) for law in estimator.levels[:which]]
        if math.prod(sizes) > _MOST:
            raise ValueError(
                f"{math.prod(sizes):,} combinations of values stand before {name!r}, at most {_MOST:,} are added up; "
                "put it further to the front of the prior, or count draws"
            )
        size, rows = max(1, _AT_ONCE // max(1, math.prod(sizes))), len(self.context)
        found = [self._summed(which, slice(k, k + size)) for k in range(0, rows, size)]
        return torch.cat([self.context.new_empty(0, len(estimator.levels[which].values)), *found])

    def _summed(self, which: int, rows: slice) -> Tensor:
        """log P of each value, (batch, K), summed over all values of the discrete parameters before it."""
        context = self.context[rows]
        some = MixedDensity(self.estimator, context, self._given.of(rows), self.floor)
        codes = torch.full((1, len(self.estimator.levels)), -1, device=context.device)
        log_q = context.new_zeros(1, len(context))
        for k in range(which):
            there = self._exists(codes, k)
            own, log_p = codes[there], some._of_next(k, codes[there])
            values = torch.arange(log_p.shape[-1], device=codes.device)
            after = own.repeat_interleave(len(values), dim=0)
            after[:, k] = values.repeat(len(own))
            with_it = (log_q[there][:, None] + log_p.transpose(1, 2)).flatten(0, 1)
            codes, log_q = torch.cat([codes[~there], after]), torch.cat([log_q[~there], with_it])
        there = self._exists(codes, which)
        return (log_q[there][..., None] + some._of_next(which, codes[there])).logsumexp(0)

    def _of_next(self, which: int, before: Tensor) -> Tensor:
        """log q of each value given those of the discrete parameters before it, (combination, batch, K)."""
        n, rows = len(before), len(self.context)
        codes = before.repeat_interleave(rows, dim=0)
        return self._log_probs(which, codes, self._given.spread(n)).view(n, rows, -1)

    def _exists(self, codes: Tensor, which: int) -> Tensor:
        """Whether a discrete parameter exists, given the codes of those before it."""
        bijection = self.estimator.prior.bijection
        if not isinstance(bijection, MixedBijection):
            return codes.new_ones(len(codes), dtype=torch.bool)
        return bijection.spots_present(codes)[:, int(bijection.discrete_in_z[which])]

    def _log_probs(self, which: int, codes: Tensor, given: ChainContext) -> Tensor:
        estimator = self.estimator
        blank = self.context.new_zeros(len(codes), len(estimator.spots))
        seen = estimator.inputs(Parts(codes, blank, blank.bool()))
        u = estimator.chain.link(which, seen, given.layers)
        return estimator.floored(which, estimator.log_probs(which, codes, u, given), self.floor)

    def _drawn(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of theta, (n, batch, theta)."""
        estimator, bijection, rows = self.estimator, self.estimator.prior.bijection, n * len(self.context)
        given, like = self._given.spread(n), self.context
        codes = torch.full((rows, len(estimator.levels)), -1, device=like.device)
        for k in range(len(estimator.levels)):
            u = torch.rand(rows, 1, generator=generator, device=generator.device).to(like)
            below = self._log_probs(k, codes, given).exp().double().cumsum(-1)
            code = (u * below[:, -1:] >= below[:, :-1]).sum(-1)
            codes[:, k] = torch.where(self._exists(codes, k), code, -1)
        z = like.new_zeros(rows, len(estimator.spots))
        spots = estimator.spots.to(like.device)
        present = torch.ones(rows, bijection.size, dtype=torch.bool, device=like.device)
        if isinstance(bijection, MixedBijection):
            present = bijection.spots_present(codes)
        there = present.index_select(-1, spots)
        z, looks = self._changed(z, there, generator)
        at_places = estimator.seen_at_places(codes, given)
        skip = estimator.changes.numbers if estimator.changes is not None else []
        for j in (j for j in range(len(estimator.spots)) if j not in skip):
            noise = torch.randn(rows, generator=generator, device=generator.device).to(like)
            u = estimator.chain.link(len(estimator.levels) + j, estimator.inputs(Parts(codes, z, there)), given.layers)
            u = u + looks[j] if j in looks else u
            u = u + at_places[j] if isinstance(at_places, Tensor) else u
            found = estimator.splines.push(noise[None], u[None], slice(j, j + 1))[0]
            z[:, j] = torch.where(there[:, j], found, 0.0)
        full = like.new_zeros(rows, bijection.size, dtype=torch.float64)
        mean, sd = (one.double().index_select(0, spots) for one in (estimator.z_mean, estimator.z_sd))
        full = full.index_copy(-1, spots, z.double() * sd + mean)
        if isinstance(bijection, MixedBijection):
            full = full.index_copy(-1, bijection.discrete_in_z.to(like.device), codes.clamp_min(0).double())
        return bijection.inverse(full, estimator.prior.dtype).view(n, len(self.context), -1)

    def _changed(self, z: Tensor, there: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[int, Tensor]]:
        """z (row, M) with the changes of a series drawn, and features of segments for the links between them."""
        changes, seen = self.estimator.changes, self._given.seen
        if changes is None or seen is None:
            return z, {}
        if self._messages is None:
            self._messages = changes.messages(seen)
        at, spots = torch.tensor(changes.numbers, device=z.device), self.estimator.spots.to(z.device)
        edges, drawn = changes.draw(there[:, at].sum(-1), seen, self._messages, generator)
        mean, sd = (one[spots[at]].double() for one in (self.estimator.z_mean, self.estimator.z_sd))
        z = z.index_copy(1, at, torch.where(there[:, at], (drawn - mean) / sd, 0.0).to(z.dtype))
        looks = changes.looks(edges, seen) if changes.values else z.new_zeros(0)
        return z, dict(zip(changes.values, looks, strict=True))

    def _centre(self) -> Tensor:
        """A row of theta inside the prior's support."""
        bijection = self.estimator.prior.bijection
        return bijection.inverse(torch.zeros(bijection.size, dtype=torch.float64))


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Mixed:
    """Estimator for discrete and continuous parameters, with its default settings."""
    return Mixed(prior, observables, seed=seed)
