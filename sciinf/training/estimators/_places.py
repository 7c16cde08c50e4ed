r"""Probabilities of a discrete parameter that counts the steps of a series before an event, such as a change.

A change after step e splits a series x_1 ... x_T in two. If the items of each side are alike, the likelihood of e is a
function of a sum over the items before the change and of a sum over the items after it. A network of the whole series
learns another such function for each e, and overfits. The networks here have the same weights for all e:

    log q_1(e | x, d) = s [ e/T a(m_e, e, d) + (1 - e/T) b(m'_e, e, d) ] + c(m_e, m'_e, w_e, e, d) - log Z(x, d),

with d the discrete parameters before it, m_e and m'_e the means of phi(x) = (x, g(x)) over the items before and after
the edge, w_e the two items on each side of it, and a, b, c, g small networks. A count can mean something else, such as
a period or a delay, about which both sides say nothing. So the estimator's probabilities are a mixture,

    q(e | x, d) = w q_1(e | x, d) + (1 - w) q_0(e | x, d),

with q_0 the probabilities from a link of the chain (`training.estimators.mixed`), and w learned. Links of continuous
parameters, such as a level before or after a change, see both means at the edge that the parameter gives.

References:
    | Exact and efficient Bayesian inference for multiple changepoint problems (Fearnhead, 2006),
      https://doi.org/10.1007/s11222-006-8450-8: the likelihood of a change is a product over both sides
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core import Observable, Prior
from sciinf.core.levels import Counts, Levels
from sciinf.core.mixed_bijection import MixedBijection
from sciinf.core.summary import rows_of
from sciinf.networks.summaries.columns import later_columns, seen_together, tables
from sciinf.networks.summaries.perceptron import Perceptron
from sciinf.networks.summaries.timed import controls_beside, set_names, timed_names

_STEPS = 512  # Longest series.
_VALUES = 512  # Most values of the parameter, times combinations of the discrete parameters before it.
_UNLIKE = 2  # Largest difference between the numbers of steps that the values leave out at both ends.
_LEARNED, _ITEM, _WIDTH = 8, 32, 48  # Number of outputs of g, and hidden widths of g and of a, b and c.
_SCALE = 8.0  # This is the factor s.
_ODDS = 10.0  # The log odds of w move this many times as far per step as other weights.
_NEAR = 2  # Number of items in w_e on each side of an edge.

Sides = Float[Tensor, "row value number"]
"""Means of both sides of the edge that each value says, and how many items there are."""


@dataclass(frozen=True)
class Place:
    """A parameter that counts the steps of a series.

    Args:
        parameter: Name of the parameter.
        which: Its position among the discrete parameters.
        series: Name of the observable.
        axis: Axis of the series' steps.
        edges: Number of steps before the edge, for each value of the parameter.
        states: Codes of the discrete parameters before it, for each combination with which it exists; -1 for one that
            does not exist.
    """

    parameter: str
    which: int
    series: str
    axis: int
    edges: tuple[int, ...]
    states: tuple[tuple[int, ...], ...]


def places_in(observables: Mapping[str, Observable], prior: Prior) -> list[Place]:
    """The parameters that count the steps of a series, recognised by their values.

    A `Counts` with at least half as many values as there are steps is taken for one if its values lie in the middle of
    the series: the numbers of steps that they leave out at both ends differ by two at most. A count with such values
    may mean something else. The mixture with the link's probabilities allows for that.

    Args:
        observables: Observables that may be such a series, name -> specification as a summary network sees it. Each
            series has an axis "time".
        prior: Prior of the parameters.
    """
    bijection, found = prior.bijection, list[Place]()
    if not isinstance(bijection, MixedBijection):
        return found
    laws = list(bijection.levels.values())
    for which, (parameter, law) in enumerate(zip(prior.discrete(), laws, strict=True)):
        values = [int(value) for value in law.values] if isinstance(law, Counts) else [-1]
        states = _states(which, laws, bijection) if values[0] >= 0 else ()
        for name, spec in observables.items():
            axis = spec.dims.index("time") if "time" in spec.dims and spec.dtype != "bool" else None
            steps = spec.shape[axis] if axis is not None else 0
            long = 2 * _NEAR <= steps <= min(_STEPS, 2 * len(values)) and values[-1] <= steps
            middle = abs(values[0] - (steps - values[-1])) <= _UNLIKE
            if axis is not None and long and middle and 0 < len(states) * len(values) <= _VALUES:
                found.append(Place(parameter, which, name, axis, tuple(values), states))
                break
    return found


def series_in(observables: Mapping[str, Observable]) -> dict[str, Observable]:
    """Observables as summary networks see them by default, without those that have their own times or controls.

    Args:
        observables: Observables, name -> specification.
    """
    controlled, together = controls_beside(observables), tables(observables)
    left = set_names(observables) | set(timed_names(observables)) | {f"{name}_mask" for name in observables}
    columns = {name: (name, *together.get(name, ())) for name in observables if name not in left}
    return {
        name: seen_together([observables[each] for each in names])
        for name, names in columns.items()
        if name not in later_columns(together) and not set(names) & set(controlled)
    }


def _states(which: int, laws: Sequence[Levels], bijection: MixedBijection) -> tuple[tuple[int, ...], ...]:
    """Combinations of codes that may stand before a parameter; empty if there are too many to try."""
    sizes = [1 + len(law.values) for law in laws[:which]]
    if math.prod(sizes) > _VALUES:
        return ()
    each = list(product(*(range(-1, size - 1) for size in sizes)))
    codes = torch.full((len(each), len(laws)), -1)
    codes[:, :which] = torch.tensor(each).reshape(len(each), which)
    exists = bijection.spots_present(codes)[:, bijection.discrete_in_z]
    possible = exists[:, which] & ((codes >= 0) == exists)[:, :which].all(1)
    return tuple(state for state, there in zip(each, possible.tolist(), strict=True) if there)


class Places(nn.Module):
    """The networks of one parameter that counts the steps of a series.

    Args:
        place: The parameter.
        observable: The specification of its series.
        sizes: Number of values of each discrete parameter before it.
        numbers: Number of links of continuous parameters that see both sides.
        hidden: Width of the features that each of these links sees.
    """

    at: Tensor
    state_of: Tensor
    hot: Tensor

    def __init__(self, place: Place, observable: Observable, sizes: Sequence[int], numbers: int, hidden: int) -> None:
        super().__init__()
        self.place, self.hidden = place, hidden
        width = math.prod(observable.shape) // observable.shape[place.axis]
        codes = torch.tensor(place.states, dtype=torch.long).reshape(len(place.states), len(sizes))
        hot = [F.one_hot(codes[:, k] + 1, 1 + size)[:, 1:].float() for k, size in enumerate(sizes)]
        self.strides = [math.prod(1 + size for size in sizes[k + 1 :]) for k in range(len(sizes))]
        state_of = torch.zeros(math.prod(1 + size for size in sizes), dtype=torch.long)
        state_of[self._index(codes)] = torch.arange(len(codes))
        self.register_buffer("hot", torch.cat([torch.zeros(len(codes), 0), *hot], 1), persistent=False)
        self.register_buffer("state_of", state_of, persistent=False)
        self.register_buffer("at", torch.tensor(place.edges), persistent=False)
        self.odds = nn.Parameter(torch.zeros(()))
        side, more = width + _LEARNED + 2, self.hot.shape[1]
        self.learned = Perceptron([width, _ITEM, _LEARNED])
        self.before, self.after = (Perceptron([side + more, _WIDTH, 1]) for _ in range(2))
        self.both = Perceptron([2 * (side + _NEAR * width) + more, _WIDTH, 1])
        self.seen = Perceptron([2 * side, 2 * hidden, max(1, numbers) * hidden])

    def forward(self, series: Tensor, mask: Tensor | None) -> tuple[Float[Tensor, "row state value"], Sides]:
        """Unnormalised log q of each value for each of the states, and both sides of the value's edge.

        Args:
            series: Standardised observable, (row, *event).
            mask: Which of its entries are present, of the same shape; None if all are.
        """
        x = rows_of(series, self.place.axis)
        there = torch.ones_like(x) if mask is None else rows_of(mask, self.place.axis).to(x)
        x, share = x * there, there.mean(-1, keepdim=True)
        sums = _sums(torch.cat([torch.cat([x, self.learned(x)], -1) * share, share], -1))
        near = F.pad(x, (0, 0, _NEAR, _NEAR)).unfold(1, 2 * _NEAR, 1).flatten(2)[:, self.at]
        sides = [self._side(one[:, self.at], x.shape[1]) for one in (sums, sums[:, -1:] - sums)]
        found = [
            _SCALE * side[:, None, :, -1:] * network(self._with_states(side))
            for side, network in zip(sides, (self.before, self.after), strict=True)
        ]
        both = torch.cat(sides, -1)
        return (sum(found) + self.both(self._with_states(torch.cat([both, near], -1))))[..., 0], both

    def log_probs(
        self,
        found: Float[Tensor, "row state value"],
        codes: Int[Tensor, "row discrete"],
        of_link: Float[Tensor, "row value"],
    ) -> Float[Tensor, "row value"]:
        """log q of each value, given the discrete parameters before it. Rows without the parameter get arbitrary
        numbers.

        Args:
            found: Output of the networks for each row.
            codes: Codes of the discrete parameters.
            of_link: log q_0.
        """
        state = self.state_of[self._index(codes[:, : len(self.strides)])]
        own = found[torch.arange(len(found), device=found.device), state].log_softmax(-1)
        odds = _ODDS * self.odds
        return torch.logaddexp(F.logsigmoid(odds) + own, F.logsigmoid(-odds) + of_link)

    def see(self, sides: Sides, codes: Int[Tensor, " row"]) -> Float[Tensor, "number row hidden"]:
        """Features of both sides for the links of continuous parameters; 0 where the parameter does not exist.

        Args:
            sides: Second output of `forward`, for as many observations as there are rows, or for fewer, taken in turn.
            codes: Codes of the parameter; -1 where it does not exist.
        """
        turn = torch.arange(len(codes), device=codes.device) % len(sides)
        found = self.seen(sides[turn, codes.clamp_min(0)]) * (codes >= 0)[:, None]
        return found.view(len(codes), -1, self.hidden).transpose(0, 1)

    def _index(self, codes: Tensor) -> Tensor:
        strides = torch.tensor(self.strides, device=codes.device, dtype=torch.long)
        return ((codes + 1) * strides).sum(-1)

    def _side(self, sums: Float[Tensor, "row edge number"], steps: int) -> Tensor:
        """Features of one side of each edge: means of its items, and their number."""
        number = sums[..., -1:]
        mean = sums[..., :-1] / number.clamp_min(1)
        return torch.cat([mean, number.clamp_min(0.5).log() / 2, number / steps], -1)

    def _with_states(self, side: Tensor) -> Tensor:
        """Join the states to features: (row, edge, number) -> (row, state, edge, number and state)."""
        states, more = self.hot.shape
        rows, edges, _ = side.shape
        wide = side[:, None].expand(-1, states, -1, -1)
        return torch.cat([wide, self.hot[None, :, None].expand(rows, states, edges, more)], -1)


def _sums(steps: Float[Tensor, "row step number"]) -> Float[Tensor, "row edge number"]:
    """Sums of the items before each edge."""
    return F.pad(steps, (0, 0, 1, 0)).cumsum(1)
