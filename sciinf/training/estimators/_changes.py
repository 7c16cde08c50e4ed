r"""Factors of a chain (`training.estimators.mixed`) for a series whose distribution changes: how many changes, and
when.

Between changes, items are taken for independent draws of one of R distributions, all learned. Distribution r gives item
x_t

    log p_r(x_t) = e_r . phi(x_t) - a_r,      phi(x) = (x, g(x)),

g a small network. This is no density, because x is given. With n changes in order, which fall into cells of the times
at which items stand, and L(a, b) = log sum_r w_r prod_{a <= t < b} p_r(x_t), the factors of the chain are

    q(n | x) ~ p(n) Z_n(x) exp(f_n(x)),      q(tau | n, x) = p(tau | n) prod_{i=0}^{n} exp L(c_i, c_{i+1}) / Z_n(x),

Z_n the mean of that product under the prior (`networks.segmentations`), exact by recursion, f the chain's own link. So
a change is as sharp as the data make it, and its density has as many steps as there are items. Links of values between
two changes see the log p_r and plain sums of the items between them.

This is a conditional random field. It can become the posterior itself if items are independent with a distribution of
few numbers. For other items it is the best of its kind, and weights by a likelihood correct it.

References:
    | Conditional random fields (Lafferty, McCallum & Pereira, 2001)
    | Exact and efficient Bayesian inference for multiple changepoint problems (Fearnhead, 2006),
      https://doi.org/10.1007/s11222-006-8450-8
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sciinf.core import Observable, Prior
from sciinf.core.checks import check_whole
from sciinf.core.component import Component
from sciinf.core.joint_laws import z_of
from sciinf.core.laws import cdf_of
from sciinf.core.mixed_bijection import MixedBijection
from sciinf.core.summary import find_axis, rows_of
from sciinf.networks import segmentations
from sciinf.networks.summaries.perceptron import Perceptron
from sciinf.networks.summaries.standardise import LIMIT

_FAR = 50.0  # An item counts as at most this many standard deviations from the mean.
_BEND = 2.0  # Networks see means m also as asinh(2 m).
_STEP, _OWN = 6.0, 0.3  # Factors of the learned parameters: shared by all distributions, and of each by itself.
_DEGREE = 9  # Degree of the Chebyshev polynomials in r.
_TINY = 1e-15


class Changes(Component):
    """Which parameters are changes of a series.

    Args:
        series: Name of the observable, which has an axis "time".
        times: Name of the times of the changes: an `Each` in increasing order, whose number is another parameter.
        at: Time of each step, increasing. A step is after a change if the change's time is at most the step's.
        values: Name of the values between changes: an `Each` of one more (`more=1`). The i-th holds until the i-th
            change.
        laws: Number R of distributions that the items of a segment can have.

    Raises:
        ValueError: If the times of the steps do not increase, or are fewer than two.

    Examples:
        >>> Changes("counts", "tau", [float(year) for year in range(1851, 1963)], values="rate").laws
        48
    """

    def __init__(
        self, series: str, times: str, at: Sequence[float], *, values: str | None = None, laws: int = 48
    ) -> None:
        check_whole("laws", laws, 2)
        if len(at) < 2 or any(not a < b for a, b in pairwise(at)):
            raise ValueError(f"the times of {series!r} must be two or more, and increase; got {list(at)[:5]} ...")
        self.series, self.times, self.at, self.values, self.laws = series, times, tuple(at), values, laws


class SeriesEvidence(NamedTuple):
    """Evidence from a series about its changes.

    Args:
        items: log p_r(x_t), (row, step, R).
        sums: Sums of these up to each edge between steps, (row, edge, R).
        plain: Sums of phi and the numbers of items up to each edge, (row, edge, P + 1).
        log_weight: log w_r, (R,).
        evidence: log Z_n of each number of changes, (row, number).
    """

    items: Tensor
    sums: Tensor
    plain: Tensor
    log_weight: Tensor
    evidence: Tensor


class Segmentation(nn.Module):
    """The networks and factors for the changes of a series.

    Args:
        plan: Which parameters are changes.
        prior: Prior of the parameters.
        observables: Observables of the simulator.
        hidden: Width of the features for the links.

    Raises:
        ValueError: If the prior or the observable does not fit `plan`.
    """

    at: Tensor
    below: Tensor
    log_odds: Tensor
    first: Tensor
    basis: Tensor

    def __init__(self, plan: Changes, prior: Prior, observables: Mapping[str, Observable], hidden: int) -> None:
        super().__init__()
        self.plan, each = plan, prior.existence.each
        bijection, family = prior.bijection, each.get(plan.times)
        if family is None or not family.increasing or not family.count or not isinstance(bijection, MixedBijection):
            raise ValueError(
                f"changes must be an Each in increasing order, of a number to be found; {plan.times!r} is not"
            )
        if plan.series not in observables:
            raise ValueError(f"there is no observable {plan.series!r}; there is {', '.join(observables)}")
        spec = observables[plan.series]
        self.axis = find_axis(spec, "time")
        steps = spec.shape[self.axis]
        if len(plan.at) != steps:
            raise ValueError(f"{plan.series!r} has {steps} steps, and {len(plan.at)} times were given")
        names = list(prior.names)
        self.columns = [names.index(name) for name in family.columns]
        self.most = len(self.columns)
        numbers = bijection.in_z.tolist()
        spot_of = {place.start: spot.start for place, spot in zip(bijection.places, bijection.spots, strict=True)}
        self.numbers = [numbers.index(spot_of[column]) for column in self.columns]
        self.values = list[int]()
        if plan.values is not None:
            other = each.get(plan.values)
            if other is None or other.count != family.count or other.more != family.more + 1:
                raise ValueError(f"{plan.values!r} must be an Each of as many as {plan.times!r}, and one more")
            self.values = [numbers.index(spot_of[names.index(name)]) for name in other.columns]
        self.count = list(prior.discrete()).index(family.count)
        law = list(bijection.levels.values())[self.count]
        self.changes_of = [int(value) + family.more for value in law.values.tolist()]
        self.log_prior = law.log_probs
        self._set_times(bijection.exact[[place.start for place in bijection.places].index(self.columns[0])])
        self._set_laws(math.prod(spec.shape) // steps, hidden)

    def _set_times(self, law: torch.distributions.Distribution) -> None:
        at = torch.tensor(self.plan.at, dtype=torch.float64)
        below = torch.cat([torch.zeros(1), cdf_of(law, at), torch.ones(1)]).double()
        self.register_buffer("at", at, persistent=False)
        self.register_buffer("below", below, persistent=False)
        self.register_buffer("log_odds", segmentations.odds(below.diff(), self.most), persistent=False)

    def _set_laws(self, width: int, hidden: int) -> None:
        """Start from normal distributions of sd .7, with means around that of all items.

        Learned terms are mostly smooth in r.
        """
        laws, more = self.plan.laws, 3
        self.phi = Perceptron([width, 16, more])
        spread = torch.linspace(-2.5, 2.5, laws)[:, None] if width == 1 else 1.2 * torch.randn(laws, width)
        first = [2 * spread, 0.1 * torch.randn(laws, more), spread.square().sum(-1, keepdim=True), torch.zeros(laws, 1)]
        self.register_buffer("first", torch.cat(first, 1))
        order = torch.arange(_DEGREE + 1)
        waves = torch.cos(order * torch.linspace(-1, 1, laws)[:, None].arccos()) / (1 + order)
        self.register_buffer("basis", torch.cat([_STEP * waves, _OWN * torch.eye(laws)], 1), persistent=False)
        self.learned = nn.Parameter(torch.zeros(self.basis.shape[1], self.first.shape[1]))
        self.look = Perceptron([2 + laws + 2 * (width + more), 2 * hidden, hidden])

    def see(self, value: Float[Tensor, "row ..."], mask: Bool[Tensor, "row ..."] | None) -> SeriesEvidence:
        """Evidence from a series about its changes.

        Args:
            value: The standardised observable.
            mask: Which entries are present, of the same shape as `value`.
        """
        steps = rows_of(value, self.axis)
        known = torch.ones_like(steps) if mask is None else rows_of(mask, self.axis).to(steps)
        steps = torch.where(known > 0, steps, 0.0)
        # `networks.summaries.standardise` compresses values beyond LIMIT, so they are expanded again.
        far = (steps.abs() - LIMIT).clamp(0, math.log(_FAR))
        phi = torch.cat([torch.where(far > 0, steps.sign() * (far.exp() + LIMIT - 1), steps), self.phi(steps)], -1)
        there = known.mean(-1, keepdim=True)
        phi = phi * there
        laws = torch.addmm(self.first, self.basis, self.learned)  # The columns are e_r, a_r and log w_r.
        items = phi @ laws[:, :-2].T - laws[:, -2] * there
        log_weight = laws[:, -1].log_softmax(0)
        evidence = segmentations.evidence(items, log_weight, self.log_odds)
        return SeriesEvidence(items, _summed(items), _summed(torch.cat([phi, there], -1)), log_weight, evidence)

    def logits(self, seen: SeriesEvidence) -> Float[Tensor, "row value"]:
        """log p(n) Z_n of the values of the parameter that counts the changes."""
        return seen.evidence[:, self.changes_of] + self.log_prior.to(seen.evidence)

    def edges(self, theta: Float[Tensor, "row theta"]) -> Int[Tensor, "row edge"]:
        """Steps between which segments lie, from 0 to the last. With fewer changes, empty segments come last."""
        tau = theta[:, self.columns].double().nan_to_num(math.inf)
        return self._edges(torch.searchsorted(self.at, tau.contiguous()))

    def _edges(self, cells: Tensor) -> Tensor:
        ends = cells.new_zeros(len(cells), 1)
        return torch.cat([ends, cells, ends + len(self.at)], 1)

    def log_q(
        self, edges: Int[Tensor, "row edge"], z: Float[Tensor, "row change"], there: Tensor, seen: SeriesEvidence
    ) -> Float[Tensor, " row"]:
        """log q(tau | n, x) as a density of z, which is N(0, 1) under the prior.

        Args:
            edges: Edges of the segments, from `edges`.
            z: z of the changes.
            there: Which of the changes exist, (row, change).
            seen: Evidence of as many observations as there are rows, or of fewer, taken in turn.
        """
        scores, _ = self._scores(edges, seen)
        number, of = there.sum(-1), _turns(edges, seen)
        ratio = scores.logsumexp(-1).sum(-1) - seen.evidence[of, number]
        prior = torch.where(there, -0.5 * z.square() - 0.5 * math.log(2 * math.pi), 0.0).sum(-1)
        return torch.where(number > 0, ratio, 0.0) + prior

    def looks(self, edges: Int[Tensor, "row edge"], seen: SeriesEvidence) -> Float[Tensor, "segment row hidden"]:
        """Features of each segment for the links of values between changes."""
        scores, plain = self._scores(edges, seen)
        number = plain[..., -1:]
        mean = plain[..., :-1] / number.clamp_min(1)
        sizes = [number.clamp_min(1).log() / 2 - 1, number / len(self.at)]
        told = torch.cat([*sizes, 4 * scores.softmax(-1), mean.clamp(-8, 8), torch.asinh(_BEND * mean)], -1)
        return self.look(told).transpose(0, 1)

    def draw(
        self, changes: Int[Tensor, " row"], seen: SeriesEvidence, messages: Tensor, generator: torch.Generator
    ) -> tuple[Int[Tensor, "row edge"], Float[Tensor, "row change"]]:
        """Draw edges and z of the changes, given their number.

        Args:
            changes: Number of changes of each row.
            seen: Evidence of the observations, which the rows take in turn.
            messages: Output of `messages` for these observations.
            generator: Random generator.
        """
        cells = segmentations.draw(messages, seen.log_weight, self.log_odds, changes, generator)
        u = torch.rand(cells.shape, generator=generator, device=generator.device, dtype=torch.float64).to(cells.device)
        there = torch.arange(self.most, device=cells.device) < changes[:, None]
        cells = torch.where(there, cells, len(self.at))
        below = self.below[cells] + u * (self.below[cells + 1] - self.below[cells])
        below = torch.where(there, below, 2.0).sort(-1).values
        above = torch.log1p(-below.clamp(_TINY, 1 - _TINY))
        before = torch.cat([torch.zeros_like(above[:, :1]), above[:, :-1]], 1)
        left = (changes[:, None] - torch.arange(self.most, device=cells.device)).clamp_min(1)
        z = -z_of((above - before) * left, torch.tensor(-_TINY))
        return self._edges(cells), torch.where(there, z, 0.0)

    def messages(self, seen: SeriesEvidence) -> Tensor:
        """Backward messages of the observations, which `draw` needs."""
        return segmentations.backward_messages(seen.items, seen.log_weight, self.log_odds)

    def _scores(self, edges: Tensor, seen: SeriesEvidence) -> tuple[Tensor, Tensor]:
        """For each segment: log w_r prod p_r(x_t), (row, segment, R), and plain sums."""
        of = _turns(edges, seen)[:, None]
        return seen.log_weight + seen.sums[of, edges].diff(dim=1), seen.plain[of, edges].diff(dim=1)


def _turns(rows: Tensor, seen: SeriesEvidence) -> Tensor:
    """Index of the observation of each row."""
    return torch.arange(len(rows), device=rows.device) % len(seen.sums)


def _summed(steps: Tensor) -> Tensor:
    """Sums of the steps up to each edge."""
    return torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(1)], 1)
