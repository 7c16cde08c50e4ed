"""Find the simulator that a run was made with, without asking the user for its file.

`provenance.json` records where the file is. A run folder from elsewhere could name any file, but code may run only
because the user named it. So the recorded path carries a mark made with a key of this user. A folder from elsewhere
does not have this mark.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sciinf.campaigns.storage.own_mark import is_marked
from sciinf.interfaces.commands.steps import OPTIONS, load_fit, same_simulator

if TYPE_CHECKING:
    from sciinf.core import Fit, Simulator

QUICK = 1.0  # Seconds that a question may spend on checking that the simulator is still the same.
# Simulations that an answer is compared with, and the seconds that they may take if the user did not ask for them.
_PREDICTIVE, _PATIENCE = 400, 60.0


def remembered(folder: Path, *, accept_changes: bool, **how: Any) -> tuple[Simulator | None, str]:
    """Load the simulator of a run, if its file is there and unchanged; else say why it is not used.

    Args:
        folder: The run folder.
        accept_changes: Whether a changed simulator is accepted, as in `same_simulator`.
        how: Further arguments of `same_simulator`.

    Returns:
        The simulator and "", or None and the reason in words.
    """
    from sciinf.core.code import mark, same_mark
    from sciinf.core.files import read_json
    from sciinf.interfaces.commands.user_files import user_simulator
    from sciinf.interfaces.figures.page import duration

    try:
        said = read_json(folder / "provenance.json").get("simulator") or {}
        path, recorded = Path(said.get("file", "")), read_json(folder / "fit" / "fit.json")["simulator"]
    except (FileNotFoundError, KeyError, AttributeError, TypeError):
        said, path, recorded = {}, Path(), {}
    except (OSError, ValueError) as error:
        return None, str(error)
    if not said or not isinstance(recorded, Mapping):
        return None, "this run remembers none"
    if not is_marked(str(path), said.get("mark")):
        return None, f"this run names {path}, but was not made by you on this computer"
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        return None, f"{path}, which this run was made with, is not there"
    if not accept_changes and not same_mark(recorded.get("source"), mark(file)):
        return None, f"{path} has changed since this run was made"
    if (seconds := _PREDICTIVE * _seconds_each(folder)) > _PATIENCE:
        return None, f"simulating data with {path} would take about {duration(seconds)}"
    try:
        simulator = user_simulator(str(path))
        stores = [folder / name for name in ("simulations", "calibration_simulations")]
        same_simulator(
            simulator, recorded, f"the fit in {folder}", stores, accept_changes=accept_changes, seconds=QUICK, **how
        )
    except (ValueError, TypeError, OSError) as error:
        return None, str(error)
    return simulator, ""


def asked_with(
    folder: str, simulator: str | None, *, without_simulator: bool, accept_changes: bool, device: str
) -> tuple[Simulator | None, Fit, str]:
    """Load the simulator and the fit for a question, and give the reason if there is no simulator.

    The simulator is the one that the user named, or else the one that the run remembers, or None.

    Args:
        folder: The run folder.
        simulator: The simulator's file that the user named; None if the user named none.
        without_simulator: Whether to use no simulator, so that the network answers by itself.
        accept_changes: Whether the simulator's files may have changed since the run was made.
        device: Device of the networks.

    Raises:
        click.UsageError: If a simulator was named, but is also to be left out.
        ValueError: If the simulator that was named is not the run's, or if the fit is damaged.
    """
    from sciinf.interfaces.commands.user_files import user_simulator

    run = Path(folder)
    if simulator is not None and without_simulator:
        raise click.UsageError("--simulator and --without-simulator were both given; leave one out")
    if simulator is not None:
        sim, without = user_simulator(simulator), ""
    elif without_simulator:
        sim, without = None, ""
    else:
        sim, without = remembered(run, accept_changes=accept_changes)
    fit = load_fit(folder, device, simulator or (sim.source if sim else None))
    if simulator is not None and sim is not None:
        stores = [run / name for name in ("simulations", "calibration_simulations")]
        same_simulator(sim, fit.simulator, f"the fit in {folder}", stores, accept_changes=accept_changes, seconds=QUICK)
    return sim, fit, without


def remember_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Record in `provenance.json` how the run's data were read, so that later questions read data in the same way.

    Args:
        folder: The run folder, with its provenance.
        options: Keyword arguments of the simulator's reader. Those that cannot be given as text are left out.

    Raises:
        OSError: If `provenance.json` cannot be written.
    """
    from sciinf.core.files import read_json, write_json

    file = folder / "provenance.json"
    plain = {name: _whole(value) for name, value in options.items() if isinstance(value, str | int | float | Path)}
    write_json(file, {**read_json(file), OPTIONS: plain})


def _whole(value: str | float | Path) -> str:
    """An option as text; the path of a file is made absolute."""
    is_file = isinstance(value, str | Path) and Path(value).is_file()
    return str(Path(value).resolve()) if isinstance(value, str | Path) and is_file else str(value)


def options_of_run(folder: Path) -> dict[str, str]:
    """Options with which the data of a run were read: name -> text; empty if they are not known."""
    from sciinf.core.files import read_json

    with suppress(OSError, ValueError, AttributeError):
        return {
            str(name): str(value) for name, value in (read_json(folder / "provenance.json").get(OPTIONS) or {}).items()
        }
    return {}


def _seconds_each(folder: Path) -> float:
    """Seconds that one simulation of this run took; 0 if the run has no simulations."""
    from sciinf.campaigns.store import Store

    with suppress(OSError, ValueError):
        store = Store(folder / "simulations")
        return store.seconds / max(len(store), 1)
    return 0.0
