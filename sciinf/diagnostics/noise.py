"""Does the simulator draw its noise, and from the generator that it is given?

A few rows around the answer are simulated three times: twice with one seed and once with another. If the same seed
gives other data, the simulator has its own random numbers, unless the data differ by rounding alone. If another seed
gives the same data, the simulator has no noise, or always the same. The posterior then contains no noise. Rows of
counts may agree by chance, so several different rows are required. Data with noise in some numbers and none in
others are not reported.
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
_OF_NOISE, _OF_SPREAD = 1e-3, 1e-5  # Differences below these shares of the noise and of the spread may be rounding.
# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
_STREAM = 2**31 + 12


def _size(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt()) if difference.numel() else 0.0


@final
class SimulatorNoise(Diagnostic):
    """Does the simulator draw its noise from the generator that it is given? Shown only if not."""

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
