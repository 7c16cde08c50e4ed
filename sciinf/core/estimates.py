"""The estimates of draws, and whether those that were written down are theirs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sciinf.core.answer import Corrected, Estimate
from sciinf.core.draws import Draws

_ROUNDING = 1e-6  # of a sum over draws, on another machine


def estimates(draws: Draws, level: float, corrected: Mapping[str, Corrected] | None = None) -> dict[str, Estimate]:
    """Each parameter's and derived quantity's, at a level; with what a calibration asks for, by name."""
    mean, sd = draws.mean(), draws.sd()
    median, low, high = draws.quantiles([0.5, (1 - level) / 2, (1 + level) / 2])
    found = {}
    for d, name in enumerate(draws.names):
        middle, interval = (float(mean[d]), float(sd[d]), float(median[d])), (float(low[d]), float(high[d]))
        label, derived = draws.labels.get(name, ""), name in draws.derived
        found[name] = Estimate(*middle, interval, level, draws.units[d], (corrected or {}).get(name), label, derived)
    return found


def disagreement(parameters: Mapping[str, Estimate], draws: Draws) -> str:
    """Where estimates are not those of the draws, in words; "" where they agree but for rounding."""
    if set(parameters) != set(draws.names):
        return f"it names {sorted(parameters)}, they {sorted(draws.names)}"
    found = estimates(draws, next(iter(parameters.values())).level)
    for d, (name, said) in enumerate((name, parameters[name]) for name in draws.names):
        pairs = {k: (getattr(said, k), getattr(found[name], k)) for k in ("mean", "sd", "median", "interval")}
        if said.corrected:
            at = [float(draws.quantile(q)[d]) for q in said.corrected.quantiles]
            pairs["corrected interval"] = said.corrected.interval, at
        if said.derived != found[name].derived:
            return f"{name!r} is {'derived' if said.derived else 'a parameter'} in it and not of them"
        for kind, (was, now) in pairs.items():
            old, new = np.array(was, dtype=float), np.array(now)
            both = np.isfinite(old) & np.isfinite(new)
            near = np.abs(old - new) <= _ROUNDING * (np.abs(new) + abs(found[name].sd))
            if not np.all(near | ~both):
                return f"the {kind} of {name!r} is {old.tolist()} in it and {new.tolist()} of them"
    return ""
