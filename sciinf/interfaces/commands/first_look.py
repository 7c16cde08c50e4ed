"""A first look, before anything is spent: is the simulator sound, and do its prior's data look like the observation?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sciinf.core.findings import Level
from sciinf.core.telling import DETAIL, NOTE, WARNING, tell

if TYPE_CHECKING:
    from sciinf.core import Finding, Observation, Simulator, X
    from sciinf.interfaces.commands.observations import ObservationFile

_SECONDS, _LONG = 2.0, 60.0  # that simulating may take: before a run, and where a look was asked for
_FEW, _MOST = 64, 500  # simulations: for the faults of a simulator before a run, and for an observation
_STREAM = 2**31 + 8  # no campaign has this many blocks, so none shares these random numbers


def look_first(sim: Simulator, asked: Sequence[ObservationFile], *, simulated: bool = False) -> None:
    """Stop before a run that would be worthless, and warn of what would make it poor.

    Batches are of one size besides single simulations, for a simulator may be compiled for each. One that is slow is
    looked at in two simulations at once, and no observation is compared with its data. Where a simulator knows how an
    observation was seen (`Simulator.like`), each observation has simulations of its own, seen as it was.

    Args:
        sim: The simulator.
        asked: The observations.
        simulated: Whether simulations are there already: then derived quantities alone are tried, which may be new.

    Raises:
        TypeError: If a derived quantity is no function.
        ValueError: If the simulator has a fault that would make what is learned wrong, a derived quantity fails, or
            nothing can be seen as an observation was: its times go backwards.
    """
    from sciinf.core.derived import check_derived
    from sciinf.diagnostics.checking import check_simulator

    if simulated:
        check_derived(sim)
        return
    seconds = _seconds_each(sim)
    at_once = max(2, min(_FEW, int(_SECONDS / (5 * seconds))))
    found = check_simulator(sim, rows=at_once, anew=False)  # there is one for what is trained on
    if found.fatal:
        raise ValueError(
            f"nothing was simulated, for {sim.name!r} would make the run worthless: {'; '.join(found.fatal)}. Mend it; "
            "`sciinf check` shows whether it is sound. The run folder has the log of this alone"
        )
    for words in (*found.problems, *found.warnings):
        tell(f"warning: {words}", WARNING)
    rows = _rows(seconds, _SECONDS)
    shared = predicted(sim, rows, at_once) if sim.like is None else None
    for one in asked:
        data = shared if sim.like is None else predicted(_as_seen(sim, one.x), rows, at_once)
        for check in compared(sim, one.x, data):
            of = f"{one.name}, {check.name}" if len(asked) > 1 else check.name
            if check.level == Level.ALARM:
                tell(f"warning: {of}: {check.words}", WARNING)
            else:
                tell(f"note: {of}: {check.words}", NOTE if check.level == Level.CAUTION else DETAIL)


def look_at(sim: Simulator, x: Observation, out: Path | None) -> tuple[list[str], bool]:
    """How an observation lies within what the prior predicts, in lines; with pictures where a folder is given.

    The second is whether an observable lies outside it, or a number beyond a limit of the data.

    Args:
        sim: The simulator; what it predicts is seen as the observation was (`Simulator.like`).
        x: The observation.
        out: Where `check.png` goes, or a `check_NAME.png` for each of several observables.

    Raises:
        OSError: If they cannot be written.
        ValueError: If nothing can be seen as it was: its times go backwards.
    """
    from sciinf.diagnostics.prior_predictive import LEAST
    from sciinf.interfaces.figures.page import duration

    sim = _as_seen(sim, x)
    seconds = _seconds_each(sim)
    rows = _rows(seconds, _LONG)
    data = predicted(sim, rows, rows)
    if data is None:
        why = f"{LEAST} simulations, the least that tell, would take {duration(LEAST * seconds)}"
        return [f"{'prior':<16}the observation is not compared with data of the prior: {why}"], False
    found = compared(sim, x, data)
    lines = [f"{check.name:<16}{check.words}" for check in found]
    if out is not None:
        lines += [f"{'picture':<16}{file}" for file in _draw(sim, x, data, out)]
    return lines, any(check.level == Level.ALARM for check in found)


def predicted(sim: Simulator, rows: int, at_once: int) -> X | None:
    """Data simulated from draws of the prior, in whole batches of `at_once`; None where none are to be."""
    from sciinf.campaigns.block import generator_for, simulate_from

    if not rows:
        return None
    generator = generator_for(0, _STREAM)
    theta = sim.prior.sample(-(-rows // at_once) * at_once, generator=generator)
    parts = [simulate_from(sim, part, generator=generator)[0] for part in theta.split(at_once)]
    return {name: torch.cat([part[name] for part in parts]) for name in sim.observables}


def compared(sim: Simulator, x: Observation, data: X | None) -> tuple[Finding, ...]:
    """What the prior's data say of an observation; nothing where there are none.

    Times and controls are left out: they were set, and no prior predicts them. That they are unlike those of the
    simulations is told by `trust`, once a network is there.
    """
    from sciinf.diagnostics.limits import check_limits
    from sciinf.diagnostics.prior_predictive import check_prior_predictive
    from sciinf.networks.summaries.timed import seen_only

    if data is None:
        return ()
    seen = seen_only(sim.observables)
    return check_prior_predictive(seen, x, data) + check_limits(seen, x, data)


def _as_seen(sim: Simulator, x: Observation) -> Simulator:
    """The simulator of data that are seen when, and under which controls, one observation was."""
    from sciinf.core.simulator import as_seen

    return as_seen(sim, {name: value[None] for name, value in x.items()})


def _seconds_each(sim: Simulator) -> float:
    """What a simulation takes, of two, the first of which may be slow for once."""
    from sciinf.campaigns.block import generator_for, one_thread

    theta, seconds = sim.prior.sample(1, generator=generator_for(0, _STREAM)), []
    with one_thread():
        for stream in range(2):
            began = time.perf_counter()
            with suppress(Exception, SystemExit):
                sim(theta.clone(), generator=generator_for(0, _STREAM, stream))
            seconds.append(time.perf_counter() - began)
    return max(min(seconds), 1e-6)


def _rows(seconds: float, most: float) -> int:
    """How many simulations tell, where time allows as many as are needed; else none."""
    from sciinf.diagnostics.prior_predictive import LEAST

    rows = min(_MOST, int(most / seconds))
    return rows if rows >= LEAST else 0


def _draw(sim: Simulator, x: Observation, data: X, out: Path) -> list[Path]:
    """A picture of each observable, against data of the prior."""
    from sciinf.interfaces.figures.checked import checked_of
    from sciinf.interfaces.figures.predictive import predictive
    from sciinf.interfaces.predictive_file import Predicted

    out.mkdir(parents=True, exist_ok=True)
    arrays = {name: value.numpy() for name, value in x.items()}, {name: value.numpy() for name, value in data.items()}
    found, files = checked_of(Predicted(*arrays, sim.observables)), []
    for one in found:
        files.append(out / ("check.png" if len(found) == 1 else f"check_{one.name}.png"))
        figure = predictive(one).figure
        figure.set_facecolor("white")
        figure.savefig(files[-1], dpi=144, bbox_inches="tight")
    return files
