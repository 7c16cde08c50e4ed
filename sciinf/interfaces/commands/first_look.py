"""A first look before a run: is the simulator sound, and do data simulated from its prior look like the observation?"""

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

# Seconds that simulating may take: before a run, and in `sciinf check`, where the user asked for this look.
_SECONDS, _LONG = 2.0, 60.0
# Numbers of simulations: to find faults of the simulator before a run, and to compare with an observation.
_FEW, _MOST = 64, 500
# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
_STREAM = 2**31 + 8


def look_first(sim: Simulator, asked: Sequence[ObservationFile], *, simulated: bool = False) -> None:
    """Stop a run that would be worthless before it begins, and warn of faults that would make its result poor.

    Apart from single simulations all batches have one size, because a simulator may be compiled for each size. A slow
    simulator is checked with two simulations at once, and its data are not compared with the observations. If the
    simulator can imitate how an observation was seen (`Simulator.like`), each observation has simulations of its own.
    These are seen in the same way.

    Args:
        sim: The simulator.
        asked: The observations.
        simulated: Whether the run already has simulations. If so, only derived quantities are tested, because they may
            be new.

    Raises:
        TypeError: If a derived quantity is not a function.
        ValueError: If the simulator has a fault that would make the learned posterior wrong, or if a derived quantity
            fails. Also if the times of an observation go backwards, so that no data can be seen in the same way.
    """
    from sciinf.core.derived import check_derived
    from sciinf.diagnostics.checking import check_simulator

    if simulated:
        check_derived(sim)
        return
    seconds = _seconds_each(sim)
    at_once = max(2, min(_FEW, int(_SECONDS / (5 * seconds))))
    # anew=False: no new process is needed here, because the run repeats some training simulations in one later.
    found = check_simulator(sim, rows=at_once, anew=False)
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
    """Compare an observation with data that the prior predicts: lines of text, and whether something lies outside.

    The second result is True if an observable lies outside the prior's predictions, or if a number lies beyond a limit
    of the data.

    Args:
        sim: The simulator. Its data are seen as the observation was, if it can do that (`Simulator.like`).
        x: The observation.
        out: Folder for pictures: `check.png`, or a `check_NAME.png` for each of several observables. None for no
            pictures.

    Raises:
        OSError: If a picture cannot be written.
        ValueError: If the times of the observation go backwards, so that no data can be seen in the same way.
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
    """Simulate data from draws of the prior, in whole batches of `at_once`; None if `rows` is 0."""
    from sciinf.campaigns.block import generator_for, simulate_from

    if not rows:
        return None
    generator = generator_for(0, _STREAM)
    theta = sim.prior.sample(-(-rows // at_once) * at_once, generator=generator)
    parts = [simulate_from(sim, part, generator=generator)[0] for part in theta.split(at_once)]
    return {name: torch.cat([part[name] for part in parts]) for name in sim.observables}


def compared(sim: Simulator, x: Observation, data: X | None) -> tuple[Finding, ...]:
    """Findings from comparing an observation with data of the prior; empty if there are no data.

    Times and controls are left out: they were set, and no prior predicts them. Once there is a network, `trust` tells
    whether they are unlike those of the simulations.
    """
    from sciinf.diagnostics.limits import check_limits
    from sciinf.diagnostics.prior_predictive import check_prior_predictive
    from sciinf.networks.summaries.timed import seen_only

    if data is None:
        return ()
    seen = seen_only(sim.observables)
    return check_prior_predictive(seen, x, data) + check_limits(seen, x, data)


def _as_seen(sim: Simulator, x: Observation) -> Simulator:
    """The simulator of data seen at the times, and under the controls, of one observation."""
    from sciinf.core.simulator import as_seen

    return as_seen(sim, {name: value[None] for name, value in x.items()})


def _seconds_each(sim: Simulator) -> float:
    """Seconds that one simulation takes: the shorter of two timings, because the first call may be slow."""
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
    """Number of simulations that the time allows, at most `_MOST`; 0 if that is too few for a comparison."""
    from sciinf.diagnostics.prior_predictive import LEAST

    rows = min(_MOST, int(most / seconds))
    return rows if rows >= LEAST else 0


def _draw(sim: Simulator, x: Observation, data: X, out: Path) -> list[Path]:
    """Draw a picture of each observable with data of the prior, and return the files."""
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
