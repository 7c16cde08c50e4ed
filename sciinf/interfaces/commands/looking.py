"""`sciinf check`: look for faults of a simulator or of a store, from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sciinf.campaigns.simulation import repair as run_again
from sciinf.campaigns.storage.objects import store_at
from sciinf.campaigns.store import Store
from sciinf.core.files import is_remote
from sciinf.core.telling import ANSWER, tell
from sciinf.diagnostics.checking import check_simulator, check_store
from sciinf.interfaces.commands.first_look import look_at
from sciinf.interfaces.commands.observations import reader_options, reading
from sciinf.interfaces.commands.user_files import user_simulator


def look_for_faults(
    path: str,
    observation: Sequence[str],
    column: Mapping[str, str],
    *,
    out: str | None,
    repair: str | None,
    device: str,
) -> bool:
    """Look for faults of a simulator or of a store, and print the findings.

    Args:
        path: The file of a simulator, or a folder of simulations.
        observation: Files of an observation.
        column: Observable -> its name in the files.
        out: Folder for a picture of the observation beside data of the prior; None for no picture.
        repair: The simulator's file, if damaged blocks of a store are to be simulated again.
        device: Device of those simulations.

    Returns:
        Whether no fault was found.

    Raises:
        ValueError: If options contradict each other, or a file cannot be read.
    """
    stored, inside = store_at(path) is not None, Path(path) / "simulations"
    if is_remote(path) and not stored:
        raise ValueError(f"{path} holds no simulations (no store.json)")
    if (inside / "store.json").is_file() and not (Path(path) / "__init__.py").is_file():
        raise ValueError(f"{path} is a run; name what is to be looked at: sciinf check {inside}")
    if repair is not None:
        if not stored:
            raise ValueError(f"--repair is for a folder of simulations; {path} holds none (no store.json)")
        again = run_again(Store(path), user_simulator(repair), device=device)
        tell(f"simulated {len(again)} blocks again", ANSWER)
    if observation and stored:
        raise ValueError(f"--observation is for a simulator's file; {path} holds simulations")
    if out is not None and not observation:
        raise ValueError("--out draws an observation; name its files with --observation")
    simulator = None if stored else user_simulator(path)
    read = reading(simulator, {} if simulator is None else simulator.observables, column, reader_options(simulator))
    x = read(*observation) if simulator and observation else None
    lines = [f"read            {line}" for line in x.read] if x is not None else []
    if simulator is None:
        stored_well = check_store(Store(path))
        lines, good = stored_well.lines(), stored_well.ok
    else:
        found, outside = check_simulator(simulator), False
        if x is not None and found.ok:
            looked, outside = look_at(simulator, x, None if out is None else Path(out))
            lines += looked
        told = () if x is None else x.findings
        lines += [f"{'declare':<16}{line}" for one in told if (line := one.figures.get("declare"))]
        found = replace(found, findings=(*found.findings, *told))
        lines, good = [*lines, *found.lines(outside=outside)], found.ok and not outside
    tell("\n".join(lines), ANSWER)
    return good
