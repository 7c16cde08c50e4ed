"""Were the data standardised or scaled, and the simulations not? Then they have a number that no simulation has.

Data with mean 0 and sd 1, or from 0 to 1, to a thousandth of their sd: so come data out of a program that prepares them
for a network or for a plot. They can look like simulations of other parameters in all else. Where a simulation is about
as near to that, within ten times, data are as the simulator makes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from torch import Tensor

from sciinf.core import Case, Cause, Diagnostic, Finding, Level, Need

_FEWEST, _CLOSE = 8, 1e-3  # numbers; sds
_TIMES, _LEAST = 10.0, 1e-5  # as far as the data, so far simulations are as near; sds, at least


def _marks(values: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What such data have, and how far each row (batch, numbers) is from it, in its sds."""
    rows = values.double()
    low, high, middle = rows.amin(1), rows.amax(1), rows.mean(1)
    sd = rows.std(1).clamp_min(1e-300)
    like_n = (rows.std(1, correction=0) - 1).abs().minimum((sd - 1).abs())  # divided by n or by n - 1
    yield "mean 0 and sd 1", middle.abs().maximum(like_n)
    yield "values from 0 to 1", low.abs().maximum((high - 1).abs()) / sd


@final
class Prepared(Diagnostic):
    """Were the data standardised or scaled, as no simulation was? The line is there only if so."""

    name, cause = "preparation", Cause.DATA
    needs = frozenset({Need.OBSERVATION, Need.PREDICTIONS})

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        found = list[str]()
        for name, values in case.x.items():
            if not values.is_floating_point() or values[0].numel() < _FEWEST or f"{name}_mask" in case.x:
                continue
            seen, simulated = _marks(values.flatten(1)), _marks(case.predicted[name].flatten(1))
            for (what, own), (_, others) in zip(seen, simulated, strict=True):
                if float(own) <= _CLOSE and not bool((others <= max(_TIMES * float(own), _LEAST)).any()):
                    found.append(f"{name!r} has {what}, which none of {len(others):,} simulations has")
                    break
        if not found:
            return ()
        words = f"{', '.join(found)}. Give data as they were measured, or do the same to each simulation"
        return (Finding(self.name, Level.ALARM, words),)
