"""Does the simulator draw its noise, and from the generator that it is given? Nothing is said where any number does.

A few rows around the answer are simulated three times: twice with one seed and once with another. Other data for the
same seed are random numbers of the simulator's own, unless they differ by rounding alone. The same data for another
seed have no noise, or always the same, and then the posterior knows of none; rows of counts may agree by chance, so
these must be several different ones. Data of which some numbers have noise and others have none are not told.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sciinf.campaigns.block import Attempt, one_thread
from sciinf.campaigns.storage.outcome import status_of
from sciinf.core import Case, Cause, Diagnostic, Finding, Level, Need
from sciinf.core.observable import Status
from sciinf.diagnostics.checking import NO_NOISE, NOT_REPEATED, is_noiseless

NAME = "noise"
_ROWS = 32
_OF_NOISE, _OF_SPREAD = 1e-3, 1e-5  # what differs by less than these shares may be rounding
_STREAM = 2**31 + 12  # no campaign has this many blocks, so none shares these random numbers


def _size(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt()) if difference.numel() else 0.0


@final
class SimulatorNoise(Diagnostic):
    """Does the simulator draw its noise from the generator that it is given? The line is there only if not."""

    name, cause, needs = NAME, Cause.NOISE, frozenset({Need.PREDICTIONS})

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        simulator, theta = case.simulator, case.theta[:_ROWS]
        seeds, cpu = (0, 0, 1), torch.device("cpu")
        with one_thread():
            first, again, other = (Attempt(simulator, theta, seed, _STREAM, cpu).outcome() for seed in seeds)
        good = torch.stack([status_of(each) == Status.OK for each in (first, again, other)]).all(0)
        for name in simulator.observables:
            a, b, c = (each.x[name][good].double() for each in (first, again, other))
            own, noise, spread = _size(a - b), _size(a - c), _size(a - a.mean(0))
            if own > max(_OF_NOISE * noise, _OF_SPREAD * spread):
                return (Finding(NAME, Level.CAUTION, NOT_REPEATED),)
        return (Finding(NAME, Level.CAUTION, NO_NOISE),) if is_noiseless(first, other) else ()
