"""Plan more simulations: the command for them with its cost, or further rounds until the calibration passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sciinf.campaigns.store import Store
from sciinf.core import Calibration, Fit
from sciinf.diagnostics.agreement import least_share, rows_needed
from sciinf.interfaces.commands.caller import Caller, Say
from sciinf.interfaces.figures.page import duration

FRESH = 10_000  # Default number of fresh simulations; all of them serve the check of observations.
ROWS = 5_000  # Default number of fresh simulations that the calibration uses.
_GROWTH = 16


@dataclass(frozen=True)
class SimulationPlan:
    """Number of simulations to train on, and of fresh ones to calibrate with; `asked` is None for the default."""

    train: int
    asked: int | None = None

    @property
    def fresh(self) -> int:
        """Number of fresh simulations to make."""
        return self.asked or min(self.train, FRESH)

    @property
    def rows(self) -> int:
        """Number of fresh simulations that the calibration uses."""
        return self.asked or ROWS


def next_plan(plan: SimulationPlan, found: Calibration) -> SimulationPlan:
    """Plan more fresh simulations if there are too few to tell, or twice as many to train on if an error was seen."""
    return more_fresh(plan, found) if found.state == "cannot tell" else more_to_train_on(plan)


def more_fresh(plan: SimulationPlan, found: Calibration) -> SimulationPlan:
    """Plan with as many fresh simulations as the calibration needs for a verdict."""
    return replace(plan, asked=rows_needed(len(found.p_values), found.rows, share=least_share(found)))


def more_to_train_on(plan: SimulationPlan) -> SimulationPlan:
    """Plan with twice as many simulations to train on."""
    return replace(plan, train=2 * plan.train)


def until_calibrated(
    plan: SimulationPlan, most: int | None, attempt: Callable[[SimulationPlan], tuple[Fit, Calibration]], say: Say
) -> tuple[SimulationPlan, Fit, Calibration]:
    """Train and calibrate, with more simulations each time, until the calibration passes.

    Args:
        plan: Numbers of simulations to begin with.
        most: Largest number of simulations to train on, and of fresh ones. When left out, 16 times the larger of the
            two numbers in the plan.
        attempt: Function that simulates the missing rows, trains and calibrates.
        say: Function that reports the progress.

    Returns:
        The last plan, with its fit and its calibration, whether the calibration passed or not.
    """
    limit = most or _GROWTH * max(plan.train, plan.fresh)
    while True:
        fit, found = attempt(plan)
        if found.passed:
            return plan, fit, found
        following = next_plan(plan, found)
        say(f"calibration {found.level.label}: {'; '.join(found.reasons)}")
        if max(following.train, following.fresh) > limit:
            say(f"note: it would take more than {limit:,} simulations, the most allowed (--most, or most=)")
            return plan, fit, found
        say(
            f"going on with {following.train:,} simulations to train on and {following.fresh:,} fresh ones, "
            f"about {_cost(fit.folder.parent, plan, following)} more"
        )
        plan = following


def command_for(
    folder: Path, plan: SimulationPlan, following: SimulationPlan, options: tuple[str, str], caller: Caller
) -> str:
    """The command or call that makes more simulations, with an estimate of the time.

    Args:
        folder: The run folder.
        plan: Numbers of simulations that the run was made with.
        following: Numbers of simulations that the run is to have next.
        options: Names of the options for the number of simulations to train on, and of fresh ones.
        caller: Caller of the workflow.
    """
    counts = zip(options, (plan.train, plan.fresh), (following.train, following.fresh), strict=True)
    changed = {name: after for name, before, after in counts if after != before}
    return f"{caller.again(changed)} (about {_cost(folder, plan, following)} more)"


def _cost(folder: Path, plan: SimulationPlan, following: SimulationPlan) -> str:
    """Estimated time of the additional simulations, training and calibration, from the times so far, as text."""
    from sciinf.core.files import read_json

    seconds = 0.0
    more = {"simulations": following.train - plan.train, "calibration_simulations": following.fresh - plan.fresh}
    for name, rows in more.items():
        if rows > 0 and (folder / name / "store.json").is_file():
            store = Store(folder / name)
            seconds += rows * store.seconds / max(len(store), 1)
    training, calibrating = (float(read_json(folder / f).get("seconds") or 0) for f in _TIMED)
    if following.train > plan.train:
        seconds += training * following.train / plan.train + calibrating
    else:
        seconds += calibrating * following.fresh / plan.fresh
    return duration(seconds)


_TIMED = ("fit/fit.json", "calibration.json")
