r"""Is a model that is given a probability of 0.3 true in 30 % of the cases? Of each discrete parameter.

Ranks hardly see a probability that is off where data tell values well apart, and a verdict on which of several models
it is stands on nothing else. Of N fresh simulations with labels y_i and probabilities p_ik, those of value k are put
in order of p_ik and cut into 10 bins B of as many each:

    ECE = 1/2 sum_k 1/N sum_B abs( sum_{i in B} (p_ik - [y_i = k]) ),

which for two values is that of either. A parameter that exists only sometimes has one value more, that of its not
existing.

ECE is not 0 for right probabilities: 200 times, labels are drawn from the probabilities, and give its law. Where p_ik
comes from draws of the posterior it is itself uncertain, and what is drawn from it scatters more than the truth does
about it. Then the truth and the L draws of a row, which are exchangeable, are taken together: one of the L + 1 is drawn
for the label, and the others are the draws. So the p-value is right for any L. Beyond one in ten it comes from the mean
excess of the 20 largest, which makes it a little too large where the tail is that of a normal law.

The gap is ECE less its mean.

References:
    | Obtaining well calibrated probabilities using Bayesian binning (Naeini, Cooper & Hauskrecht, 2015),
      https://doi.org/10.1609/aaai.v29i1.9602: ECE
    | Increasing the reliability of reliability diagrams (Broecker & Smith, 2007),
      https://doi.org/10.1175/WAF993.1: what they show by chance, by drawing from the probabilities
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core import Posterior, Prior, X
from sciinf.core.levels import Levels
from sciinf.core.records import Reliability
from sciinf.diagnostics.agreement import Agreement
from sciinf.posteriors.marginal import all_probabilities

ABSENT = "does not exist"
VALUES, EXACT = "values/", "exact/"
_BINS = 10
_TIMES = 200
_TAIL = 0.1
_BAND = 0.99


def values_of(posterior: Posterior, x: X, draws: Float[Tensor, "draws batch theta"]) -> dict[str, Tensor]:
    """Which value each discrete parameter has, as its place among the law's, and the probabilities if they are known.

    Args:
        posterior: What is calibrated.
        x: A batch of observations.
        draws: Its draws given them.

    Returns:
        "values/NAME" (draws, batch), int16, as many as the law has values where the parameter does not exist; and
        "exact/NAME" (batch, values).
    """
    prior, found = posterior.prior, dict[str, Tensor]()
    for name, law in prior.discrete().items():
        found[VALUES + name] = _places(law, draws[..., prior.names.index(name)]).short()
    return found | {EXACT + name: exact for name, exact in all_probabilities(posterior, x).items()}


def reliabilities(
    prior: Prior, truth: Float[Tensor, "rows theta"], values: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, tuple[Agreement, Reliability]]:
    """`reliability` of each discrete parameter, by name.

    Args:
        prior: The prior.
        truth: The true parameters, NaN where one does not exist.
        values: What `values_of` gave, of all rows.
        generator: Source of randomness.
    """
    found = {}
    for name, law in prior.discrete().items():
        place = _places(law, truth[:, prior.names.index(name)])
        drawn, exact = values[VALUES + name].long(), values.get(EXACT + name)
        labels = law.labels
        if bool((place == len(labels)).any() or (drawn == len(labels)).any()):
            labels = (*labels, ABSENT)
            if exact is not None:
                exact = torch.cat([exact, (1 - exact.sum(1, keepdim=True)).clamp_min(0)], dim=1)
        found[name] = reliability(place, labels, generator, drawn=drawn, exact=exact)
    return found


def _places(law: Levels, column: Tensor) -> Tensor:
    codes = law.codes(column)
    return torch.where(codes < 0, len(law.labels), codes)


def reliability(
    truth: Int[Tensor, " rows"],
    values: Sequence[str],
    generator: torch.Generator,
    *,
    drawn: Int[Tensor, "draws rows"] | None = None,
    exact: Float[Tensor, "rows values"] | None = None,
) -> tuple[Agreement, Reliability]:
    """The test of the probabilities of one parameter, and what is to be drawn of it.

    Args:
        truth: The true values, as places among `values`.
        values: What they are called.
        generator: Source of randomness.
        drawn: Those of draws of the posterior; left out where probabilities are known.
        exact: The probabilities that the posterior gives each value.

    Raises:
        ValueError: If neither draws nor probabilities are given.
    """
    count, rows = len(values), len(truth)
    if exact is not None:
        p = exact.double().clamp_min(0)
        p = p / p.sum(1, keepdim=True)
        share, one = p, 0.0
    elif drawn is not None:
        pool = torch.stack([(drawn == k).sum(0) for k in range(count)], dim=1).double()
        pool[torch.arange(rows), truth] += 1
        share, one = pool / (len(drawn) + 1), 1 / len(drawn)
        p = share * (1 + one)  # less `one` for the label, which is taken out of those that are left
    else:
        raise ValueError("give draws, or the probabilities of each value")
    bins = _bins(p, truth, one)
    error, predicted, found = _error(p, truth, one, bins)
    each, cumulative = [], share.cumsum(1)
    for _ in range(_TIMES):
        u = torch.rand(rows, 1, generator=generator, dtype=torch.float64) * cumulative[:, -1:]
        label = (cumulative <= u).sum(1).clamp_max(count - 1)
        each.append(_error(p, label, one, _bins(p, label, one) if one else bins))
    errors = torch.tensor([one_of[0] for one_of in each], dtype=torch.float64)
    chance = float(errors.mean())
    low, high = _band(predicted, torch.stack([f - q for _, q, f in each]))
    sizes = torch.bincount(bins[:, 0], minlength=_BINS)
    picture = (t.numpy() for t in (predicted, found, low, high, sizes))
    shown = Reliability(tuple(values), *picture, error=error, chance=chance)
    gap = np.array([max(0.0, error - chance)])
    spread = float(errors.std())
    return Agreement("probability", _p_value(errors, error), gap, rows, _worst(shown), spread), shown


def _bins(p: Tensor, label: Tensor, one: float) -> Tensor:
    """The bin of each row by each value's probability, (rows, values)."""
    p = _without(p, label, one)
    place = p.argsort(dim=0, stable=True).argsort(dim=0)
    return place * _BINS // len(p)


def _without(p: Tensor, label: Tensor, one: float) -> Tensor:
    """Probabilities by the draws that are left when the label is taken out of them."""
    if not one:
        return p
    return p - one * torch.nn.functional.one_hot(label, p.shape[1])


def _error(p: Tensor, label: Tensor, one: float, bins: Tensor) -> tuple[float, Tensor, Tensor]:
    """ECE, and mean probability and share of labels in each bin, (values, bins)."""
    truth = torch.nn.functional.one_hot(label, p.shape[1]).double()
    size = torch.bincount(bins[:, 0], minlength=_BINS).clamp_min(1)
    sums = torch.zeros(2, _BINS, p.shape[1], dtype=torch.float64)
    sums[0].scatter_add_(0, bins, _without(p, label, one))
    sums[1].scatter_add_(0, bins, truth)
    error = 0.5 * float((sums[0] - sums[1]).abs().sum()) / len(p)
    predicted, found = (sums / size[:, None]).transpose(1, 2)
    return error, predicted, found


def _band(predicted: Tensor, apart: Tensor) -> tuple[Tensor, Tensor]:
    """Where the shares of right probabilities lie in 99 of 100 cases, (values, bins), by what they do by chance."""
    z = float(torch.special.ndtri(torch.tensor((1 + _BAND) / 2, dtype=torch.float64)))
    middle, half = predicted + apart.mean(0), z * apart.std(0)
    return (middle - half).clamp(0, 1), (middle + half).clamp(0, 1)


def _p_value(errors: Tensor, error: float) -> float:
    edge = float(torch.quantile(errors, 1 - _TAIL))
    if error <= edge:
        return (1 + int((errors >= error).sum())) / (1 + len(errors))
    excess = float((errors[errors > edge] - edge).mean()) if bool((errors > edge).any()) else 0.0
    return _TAIL * math.exp(-(error - edge) / max(excess, 1e-12))


def _worst(shown: Reliability) -> str:
    """The bin that is farthest from what it should be, in words."""
    apart = np.abs(shown.found - shown.predicted) * shown.rows
    k, b = np.unravel_index(int(apart.argmax()), apart.shape)
    given, true, rows = float(shown.predicted[k, b]), float(shown.found[k, b]), int(shown.rows[b])
    return (
        f"{shown.values[k]!r} is given {given:.2f} on average in {rows:,} simulations and is true in {true:.2f} of them"
    )
