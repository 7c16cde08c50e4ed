"""Draws and priors conditional on values of discrete parameters.

After conditioning on all discrete parameters, only continuous parameters that always exist are left. Methods
without support for discrete parameters can then be used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from sciinf.core.bijection import Bijection
from sciinf.core.categories import without_exact
from sciinf.core.existence import Existence
from sciinf.core.joint_laws import Ordered
from sciinf.core.mixed_bijection import MixedBijection
from sciinf.core.prior import Prior
from sciinf.core.probabilities import told

if TYPE_CHECKING:
    from sciinf.core.draws import Draws


def draws_given(draws: Draws, values: Mapping[str, Any]) -> Draws:
    """The draws conditional on values of discrete parameters; see `Draws.given`."""
    if not values:
        return draws
    values = {**implied(draws, values), **values}
    codes = codes_of(draws, values)
    chosen = torch.ones(len(draws), dtype=torch.bool)
    for name, value in codes.items():
        chosen &= draws.theta[:, draws.names.index(name)] == value
    if not bool((draws.weights[chosen] > 0).any()):
        said = told(0.0, 1 / draws.ess)
        raise ValueError(
            f"no draw has {said_given(values)} (probability {said}); the probabilities in the draws are "
            f"{_shares(draws, values)}"
        )
    theta = draws.theta[chosen]
    gone = theta.isnan().all(0) if draws.categories else torch.zeros(len(draws.names), dtype=torch.bool)
    kept = [i for i, name in enumerate(draws.names) if name not in codes and not bool(gone[i])]
    names = tuple(draws.names[i] for i in kept)
    evidence: tuple[float | None, float | None] = (None, None)
    if len(values) == 1 and draws.log_evidence is not None and draws.exists(next(iter(values))) == 1:
        name, value = next(iter(values.items()))
        evidence = log_evidence_by(draws, name)[str(value)]
    return replace(
        draws,
        names=names,
        units=tuple(draws.units[i] for i in kept),
        theta=theta[:, kept],
        log_weight=draws.log_weight[chosen],
        log_evidence=evidence[0],
        log_evidence_error=evidence[1],
        pareto_k=None,
        derived=tuple(name for name in draws.derived if name in names),
        labels={name: label for name, label in draws.labels.items() if name in names},
        categories=without_exact({name: one for name, one in draws.categories.items() if name in names}),
    )


def implied(draws: Draws, values: Mapping[str, Any]) -> dict[str, str]:
    """Values of other discrete parameters, name -> label, that follow from the given ones.

    A value follows if all draws in which a given parameter exists have this value.
    """
    found: dict[str, str] = {}
    for name in codes_of(draws, values):
        there = ~draws.theta[:, draws.names.index(name)].isnan()
        if bool(there.all()) or not bool(there.any()):
            continue
        for other, one in draws.categories.items():
            held = draws.theta[there, draws.names.index(other)].unique()
            if other not in values and len(held) == 1 and bool(held.isfinite().all()):
                found[other] = one.label(float(held[0]))
    return found


def most_probable(draws: Draws) -> dict[str, str]:
    """The most probable joint values of all discrete parameters; see `Draws.most_probable`."""
    if not draws.categories:
        return {}
    at = [draws.names.index(name) for name in draws.categories]
    codes = draws.theta[:, at].to(torch.float64).nan_to_num(-math.inf)
    rows, place = codes.unique(dim=0, return_inverse=True)
    weight = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, place.flatten(), draws.weights)
    best = rows[int(weight.argmax())].tolist()
    pairs = zip(draws.categories.items(), best, strict=True)
    return {name: one.label(value) for (name, one), value in pairs if math.isfinite(value)}


def log_evidence_by(draws: Draws, name: str) -> dict[str, tuple[float, float]]:
    """Log evidence, with its standard error, of each value of a parameter; see `Draws.log_evidence_by`.

    With weights w that sum to 1, the evidence of value k is Z sum_i w_i [value_i = k] / prior_k, and the relative
    variance of the sum is sum_i w_i^2 [value_i = k] / (sum_i w_i [value_i = k])^2 - 1 / n.
    """
    found, weights = draws.probabilities(name), draws.weights
    if draws.log_evidence is None:
        raise ValueError(
            "these draws have no evidence, because they have no weights by a likelihood; for probabilities "
            f"and Bayes factors call probabilities({name!r})"
        )
    column = draws.theta[:, draws.names.index(name)].to(torch.float64)
    if bool(column.isnan().any()):
        raise ValueError(
            f"{name!r} exists in some draws only, so its values have no evidence of their own; for their "
            "probabilities call `probabilities`"
        )
    by = {}
    for label, value, prior in zip(found.values, draws.categories[name].values, found.prior, strict=True):
        own = weights[column == value]
        share = float(own.sum())
        if share <= 0:
            by[label] = (-math.inf, math.inf)
            continue
        variance = max(float((own**2).sum()) / share**2 - 1 / len(draws), 0.0)
        by[label] = (draws.log_evidence + math.log(share) - math.log(prior), math.sqrt(variance))
    return by


def prior_given(prior: Prior, values: Mapping[str, Any]) -> Prior:
    """The prior conditional on values of discrete parameters.

    The new prior has neither these parameters nor any parameter that does not exist for these values.

    Args:
        prior: The prior.
        values: Discrete parameter -> its label, or its number if the parameter is a count.

    Raises:
        ValueError: If there is no such discrete parameter, or if it never has the value.
    """
    if not values:
        return prior
    laws, codes = prior.discrete(), {}
    for name, value in values.items():
        if name not in laws:
            raise ValueError(f"{name!r} is no discrete parameter; there is {', '.join(laws) or 'none'}")
        codes[name] = laws[name].labels.index(str(value))
    heads = {prior.names[place.start]: law for law, place in prior.places()}
    found = prior.existence.conditions(prior.names, heads)
    gone = {n for n, when in found.items() if any(p in codes and not flags[codes[p]] for p, flags in when.items())}
    while more := {n for n, when in found.items() if n not in gone and gone & set(when)}:
        gone |= more
    # Ordered groups whose number is now known: first parameter -> all existing parameters of its group.
    in_order = {}
    for group in prior.existence.each.values():
        left = [name for name in group.columns if name not in gone]
        if group.increasing and group.count in codes and len(left) > 1:
            in_order[left[0]] = left
    names, units, left_laws, skip = [], [], [], set[str]()
    for law, place in prior.places():
        own = list(prior.names[place])
        if own[0] in codes or own[0] in gone or own[0] in skip:
            continue
        together = in_order.get(own[0], own)
        skip |= set(together)
        names += together
        units += [prior.units[prior.names.index(name)] for name in together]
        left_laws.append(Ordered(law, len(together)) if own[0] in in_order else law)
    when = {n: {p: v for p, v in w.items() if p not in codes} for n, w in prior.existence.when.items() if n in names}
    each = {k: g for k, g in prior.existence.each.items() if g.count and g.count not in codes and g.count in names}
    return Prior.of_laws(names, units, left_laws, Existence({n: w for n, w in when.items() if w}, each))


def plain_bijection(prior: Prior, what: str) -> Bijection:
    """The bijection between a prior's support and R^D.

    Args:
        prior: The prior.
        what: Name of the method that needs the bijection, for the message.

    Raises:
        ValueError: If the prior has discrete parameters, because it then has no such bijection.
    """
    if isinstance(prior.bijection, MixedBijection):
        raise ValueError(
            f"{what} must have continuous parameters that always exist, but {', '.join(prior.discrete())} is "
            "discrete: take draws of sciinf's posterior itself, or of an answer with answer.given(...)"
        )
    return prior.bijection


def codes_of(draws: Draws, values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers that encode values of discrete parameters in draws: name -> number.

    Raises:
        ValueError: If there is no such discrete parameter, or if it never has the value.
    """
    for name in values:
        if name not in draws.categories:
            raise ValueError(f"{name!r} is no discrete parameter of these draws; there is {_names(draws)}")
    return {name: draws.categories[name].value(name, value) for name, value in values.items()}


def share_of(draws: Draws, values: Mapping[str, Any]) -> str:
    """The probability that discrete parameters have some values, in words."""
    if len(values) == 1:
        name, value = next(iter(values.items()))
        found = draws.probabilities(name)
        if found.exists == 1:
            k = found.values.index(str(value))
            return told(found.probability[k], found.error[k])
    weights, chosen = draws.weights, torch.ones(len(draws), dtype=torch.bool)
    for name, value in codes_of(draws, values).items():
        chosen &= draws.theta[:, draws.names.index(name)] == value
    own, p = weights[chosen], float(weights[chosen].sum())
    if not bool((weights[~chosen] > 0).any()):
        return told(1.0, 1 / draws.ess)
    error = math.sqrt(float((own**2).sum()) * (1 - p) ** 2 + float((weights[~chosen] ** 2).sum()) * p**2)
    return told(p, error)


def said_given(values: Mapping[str, Any]) -> str:
    """The values of discrete parameters in words: "model = SEIR and k = 2"."""
    return " and ".join(f"{name} = {value}" for name, value in values.items())


def _shares(draws: Draws, values: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} {draws.probabilities(name).words(name)}" for name in values)


def _names(draws: Draws) -> str:
    return ", ".join(draws.categories) or "none"
