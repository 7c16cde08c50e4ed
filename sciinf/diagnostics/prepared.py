"""Were the data standardised, but not the simulations? Then their mean is 0 and their sd 1, unlike any simulation.

Programs that prepare data for a network or a plot return such data, and otherwise they can look like simulations of
other parameters. A simulation counts as near if it is within ten times the observation's distance from these values.
"""

from __future__ import annotations

from typing import final

from torch import Tensor

from sciinf.core import Case, Cause, Diagnostic, Finding, Level, Need
from sciinf.core.observation_records import masked
from sciinf.networks.summaries.timed import seen_only

# Least count of numbers; least number of simulations; largest distance of mean and sd from 0 and 1.
_FEWEST, _ROWS, _CLOSE = 8, 200, 1e-3
# Factor of the observation's distance, and least distance, within which a simulation counts as near.
_TIMES, _LEAST = 10.0, 1e-5


def _distance(values: Tensor) -> Tensor:
    """Distance of mean and sd of each row (batch, *event) from 0 and 1; the sd divides by n or by n - 1."""
    rows = values.flatten(1).double()
    sds = [(rows.std(1, correction=one) - 1).abs() for one in (0, 1)]
    return rows.mean(1).abs().maximum(sds[0].minimum(sds[1]))


@final
class Prepared(Diagnostic):
    """Were the data standardised, but not the simulations? Shown only if so."""

    name, cause = "preparation", Cause.DATA
    needs = frozenset({Need.OBSERVATION, Need.PREDICTIONS})

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        observables, found = case.posterior.observables, list[str]()
        data = seen_only(observables).keys() - masked(observables).keys()
        for name in sorted(data & case.predicted.keys()):
            x, simulated = case.x[name], case.predicted[name]
            if not x.is_floating_point() or x[0].numel() < _FEWEST or len(simulated) < _ROWS:
                continue
            own = float(_distance(x))
            if own <= _CLOSE and not bool((_distance(simulated) <= max(_TIMES * own, _LEAST)).any()):
                found.append(f"{name!r} has mean 0 and sd 1, as none of {len(simulated):,} simulations has")
        if not found:
            return ()
        words = f"{', '.join(found)}. Give data as they were measured, or do the same to each simulation"
        return (Finding(self.name, Level.ALARM, words),)
