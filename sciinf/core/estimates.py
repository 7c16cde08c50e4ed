"""Estimates of parameters from draws, and a check that stored estimates agree with the draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sciinf.core.draws import Draws
from sciinf.core.estimate import Corrected, Estimate
from sciinf.core.probabilities import Probabilities, probabilities_of

_ROUNDING = 1e-6  # Relative difference of a sum over draws that another machine may give.


def estimates(draws: Draws, level: float, corrected: Mapping[str, Corrected] | None = None) -> dict[str, Any]:
    """The estimate of each parameter and derived quantity, by name.

    An `Estimate` is taken from the draws in which its parameter exists. A discrete parameter has
    `Probabilities` instead.

    Args:
        draws: The draws, with weights if they have any.
        level: The probability of the central interval, such as 0.9.
        corrected: Parameter -> interval corrected by a calibration. By default there are none.
    """
    mean, sd = draws.mean(), draws.sd()
    median, low, high = draws.quantiles([0.5, (1 - level) / 2, (1 + level) / 2])
    found: dict[str, Any] = {}
    for d, name in enumerate(draws.names):
        if name in draws.categories:
            found[name] = probabilities_of(draws, name, level)
            continue
        middle, interval = (float(mean[d]), float(sd[d]), float(median[d])), (float(low[d]), float(high[d]))
        label, derived, unit = draws.labels.get(name, ""), name in draws.derived, draws.units[d]
        held = (corrected or {}).get(name)
        found[name] = Estimate(*middle, interval, level, unit, held, label, derived, draws.exists(name))
    return found


def estimate_from_json(data: Mapping[str, Any]) -> Estimate | Probabilities:
    """The estimate, or the probabilities, from the JSON that `to_json` wrote."""
    return Probabilities.from_json(data) if "probability" in data else Estimate.from_json(data)


def needed(data: Any) -> tuple[str, ...]:
    """The keys that the JSON of an estimate, or of probabilities, must have."""
    if isinstance(data, Mapping) and "probability" in data:
        return ("values", "probability", "error", "prior", "level")
    return ("mean", "sd", "median", "interval", "level", "unit")


def numbers(parameters: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The parameters of an answer, as JSON, that have a median and an interval."""
    return {name: e for name, e in parameters.items() if "interval" in e}


def probabilities(parameters: Mapping[str, Any]) -> dict[str, Probabilities]:
    """The probabilities of an answer's discrete parameters, from their JSON."""
    return {name: Probabilities.from_json(e) for name, e in parameters.items() if "probability" in e}


def disagreement(parameters: Mapping[str, Any], draws: Draws) -> str:
    """The first difference between stored estimates and those of the draws, in words.

    "" if they agree except for rounding.
    """
    if set(parameters) != set(draws.names):
        return f"it names {sorted(parameters)}, they {sorted(draws.names)}"
    found = estimates(draws, next(iter(parameters.values())).level)
    for d, (name, said) in enumerate((name, parameters[name]) for name in draws.names):
        known, other = found[name].compared(), said.compared()
        if set(known) != set(other):
            return f"{name!r} has other values in it than in them"
        pairs = {kind: (other[kind], known[kind]) for kind in other}
        if said.corrected:
            at = tuple(float(draws.quantile(q)[d]) for q in said.corrected.quantiles)
            pairs["corrected interval"] = said.corrected.interval, at
        if said.derived != found[name].derived:
            return f"{name!r} is {'derived' if said.derived else 'a parameter'} in it and not of them"
        for kind, (was, now) in pairs.items():
            old, new = np.array(was, dtype=float), np.array(now)
            both = np.isfinite(old) & np.isfinite(new)
            near = np.abs(old - new) <= _ROUNDING * (np.abs(new) + found[name].scale)
            if not np.all(near | ~both):
                return f"the {kind} of {name!r} is {_one(old)} in it and {_one(new)} of them"
    return ""


def _one(values: np.ndarray) -> object:
    """The values as a number if there is one, else as a list, for the words of a difference."""
    return values.tolist()[0] if len(values) == 1 else values.tolist()
