"""Whether a simulator that corrects a posterior is of the experiment that was learned from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from sciinf.core import Fit, Observable, Simulator, identity
from sciinf.core.simulator import unlike


def check_experiment(fit: Fit, simulator: Simulator, observables: Mapping[str, Observable]) -> None:
    """Refuse other observables, and name other settings, as far as can be told.

    Args:
        fit: What was learned.
        simulator: What is to correct it.
        observables: What it must give.

    Raises:
        ValueError: If it has other observables.

    Warns:
        UserWarning: If it has other settings (sensors, times of frames, ...) than the simulations learned from.
    """
    for name, spec in observables.items():
        if simulator.observables.get(name) != spec:
            raise ValueError(
                f"{fit} is of {name!r} as {spec}; of the true simulator {simulator.name!r} it is "
                f"{simulator.observables.get(name)}: another experiment corrects nothing"
            )
    own = fit.simulator.keys() ^ identity(simulator).keys()  # of a surrogate and its equation
    if differing := unlike(fit.simulator, simulator, ignore=("name", "source", "code", *own)):
        warnings.warn(
            f"the simulator {simulator.name!r} that corrects the posterior has other settings than the simulations "
            f"learned from: {differing}; unless it is only more exact, the answer is that of another experiment",
            stacklevel=3,
        )
