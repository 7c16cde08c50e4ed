"""Check that the simulator that corrects a posterior describes the experiment that was learned."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from sciinf.core import Fit, Observable, Simulator, identity
from sciinf.core.simulator import unlike


def check_experiment(fit: Fit, simulator: Simulator, observables: Mapping[str, Observable]) -> None:
    """Refuse a simulator with other observables, and warn of other settings, as far as these are known.

    Args:
        fit: Fit of the learned posterior.
        simulator: Simulator that is to correct it.
        observables: Observables that the simulator must have.

    Raises:
        ValueError: If the simulator has other observables.

    Warns:
        UserWarning: If the simulator has other settings (sensors, times of frames, ...) than the simulations of the
            training.
    """
    for name, spec in observables.items():
        if simulator.observables.get(name) != spec:
            raise ValueError(
                f"{fit} is of {name!r} as {spec}; of the true simulator {simulator.name!r} it is "
                f"{simulator.observables.get(name)}: another experiment corrects nothing"
            )
    own = fit.simulator.keys() ^ identity(simulator).keys()  # A surrogate and its equation have different entries.
    if differing := unlike(fit.simulator, simulator, ignore=("name", "source", "code", *own)):
        warnings.warn(
            f"the simulator {simulator.name!r} that corrects the posterior has other settings than the simulations "
            f"learned from: {differing}; unless it is only more exact, the answer is that of another experiment",
            stacklevel=3,
        )
