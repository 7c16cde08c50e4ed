"""Steps that several commands share: build, train, load, compare simulators, and write the provenance and the report.

The provenance of a run, or of a survey, says where the results came from: versions, command, seeds, digests, seconds.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciinf.campaigns.storage.own_mark import mark_of
from sciinf.core.files import read_json, versions
from sciinf.core.findings import Cause
from sciinf.core.progress import stage, staged
from sciinf.core.telling import ANSWER, DETAIL, NOTE, tell
from sciinf.interfaces.commands.caller import Caller, CommandLine, Say

if TYPE_CHECKING:
    from sciinf.campaigns.new_process import NewProcess
    from sciinf.core import Answer, Calibration, Estimator, Fit, Prior, Simulator
    from sciinf.diagnostics.failures import Failures
    from sciinf.interfaces.commands.infer_options import InferOptions
    from sciinf.interfaces.commands.observations import ObservationFile
    from sciinf.interfaces.commands.until_calibrated import SimulationPlan
OPTIONS = "reader_options"
"""What `provenance.json` calls the keywords that the run's data were read with."""


def next_steps(answers: Sequence[Answer], commands: Mapping[Cause, Callable[[], str]]) -> str:
    """Text with a line for each cause that keeps answers from being relied on, the gravest first; "" if there is none.

    Args:
        answers: The answers.
        commands: Cause -> function that returns the command against the cause, with its cost, or "" if nothing more can
            be done. The text of a cause that is not in this mapping is used as it is.
    """
    wanted: dict[Cause, list[str]] = {}
    for answer in sorted(answers, key=lambda one: -one.verdict.level.order):
        for cause in _wanted(answer):
            wanted.setdefault(cause, []).append(answer.name)
    ways: dict[str, list[str]] = {}  # One command may help against several causes.
    for cause, names in wanted.items():
        if way := commands[cause]() if cause in commands else str(cause):
            ways.setdefault(way, []).extend(names)
    whose = {way: f", for {', '.join(dict.fromkeys(names))}" if len(answers) > 1 else "" for way, names in ways.items()}
    return "\n".join(f"next{whose[way]}: {way}" for way in ways)


def _wanted(answer: Answer) -> tuple[Cause, ...]:
    """Causes that have to be removed before an answer can be relied on, the gravest first.

    A network that is trained on data from around one observation has less to keep in its summary. So simulations around
    the observation also help if a summary loses information.
    """
    causes = answer.verdict.causes
    return causes if Cause.SUMMARY not in causes or Cause.AROUND in causes else (*causes, Cause.AROUND)


_DISK, _MEMORY = 20e9, 1e9  # Bytes of disk and of memory from which a warning is printed.
_TRAINED = 16  # Bytes of one parameter in training: its value, its gradient and two moving averages.


def tell_cost(
    simulator: Simulator,
    rows: int,
    *,
    block: int | None = None,
    estimator: Estimator | None = None,
    say: Say = tell,
) -> None:
    """Print a warning if simulation and training need much disk or memory.

    Args:
        simulator: The simulator that is run.
        rows: Simulations in all.
        block: Rows simulated at once; the simulator's own block size when left out.
        estimator: The estimator that is trained, if any.
        say: Function that receives the line.
    """
    from sciinf.campaigns.storage.selection import row_bytes

    one = row_bytes(simulator.prior, simulator.observables)
    at_once = min(rows, block or simulator.block)
    parameters = sum(p.numel() for p in estimator.parameters()) if estimator is not None else 0
    if rows * one < _DISK and at_once * one < _MEMORY and parameters * _TRAINED < _MEMORY:
        return
    words = (
        f"{rows:,} simulations of {_bytes(one)} each take {_bytes(rows * one)} of disk, and {_bytes(at_once * one)} "
    )
    words += f"of memory for {at_once:,} at once"
    if estimator is not None:
        words += f"; the network has {parameters:,} parameters, {_bytes(parameters * _TRAINED)} in training"
    say(f"warning: {words}. Data of fewer numbers or a smaller block of the simulator take less")


def _bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:,.3g} {unit}" if size < 1000 * scale else f"{size / scale:,.0f} {unit}"
    return f"{size} bytes"


def simulator_mark(simulator: Simulator | None, before: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of `provenance.json` on the simulator: the path of its file and the mark of this user.

    Args:
        simulator: The simulator of the step. If it is None or in no file, the earlier entry stays.
        before: Content of `provenance.json` so far.
    """
    if simulator is None or simulator.source is None:
        return {"simulator": before["simulator"]} if "simulator" in before else {}
    path = str(simulator.source)
    return {"simulator": {"file": path, "mark": mark_of(path)}}


def provenance(
    folder: Path,
    seed: int,
    started: float,
    asked: str,
    simulator: Simulator | None = None,
    way_on: str | None = None,
) -> dict[str, Any]:
    """Content of `provenance.json`: the latest command, and under "history" all commands that worked on the folder.

    Args:
        folder: The run folder, complete but for the report; or a folder of answers to many observations.
        seed: Seed of the run.
        started: Start time of the command, in seconds since 1970.
        asked: The command or call, as text.
        simulator: The simulator that was used. If None, the earlier entry stays.
        way_on: The next step that was told to the user, "" for none. If None, the earlier text stays.
    """
    from sciinf.campaigns import Store
    from sciinf.interfaces.run_answers import answer_folders
    from sciinf.interfaces.surveys.description import NAME

    before = _read(folder / "provenance.json")
    step = {
        "versions": versions(),
        "command": asked,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seed": seed,
    }
    data: dict[str, Any] = {
        **step,
        **simulator_mark(simulator, before),
        OPTIONS: before.get(OPTIONS, {}),
        "next": str(before.get("next", "")) if way_on is None else way_on,
        "history": [*before.get("history", []), step],
        "seeds": {},
        "digests": {},
        "seconds": {"total": time.time() - started},
    }
    for name in ("simulations", "calibration_simulations"):
        if (folder / name / "store.json").is_file():
            store = Store(folder / name)
            data["seeds"][name], data["seconds"][name] = store.seed, store.seconds
    files = {"fit": folder / "fit" / "fit.json", "calibration": folder / "calibration.json"}
    answers = answer_folders(folder)
    for name, inside in answers.items():
        files["answer" if len(answers) == 1 else f"answer {name}"] = inside / "answer.json"
    for name, file in files.items():
        if file.is_file():
            found = _read(file)
            if not found:
                continue
            data["seconds"][name] = found.get("seconds")
            data["digests"][name] = found.get("digest") or found.get("inputs")
            # Each step has hashed what it read. Hashing all simulations again would delay every question.
            if name == "fit":
                data["digests"]["simulations"] = found["store"]["digest"]
            if name == "calibration":
                data["digests"]["calibration_simulations"] = found["simulations"]
    return _of_survey(data, _read(folder / NAME))


def _of_survey(data: dict[str, Any], survey: dict[str, Any]) -> dict[str, Any]:
    """Add to the provenance which run answered which observations, if the folder holds answers to many observations."""
    from sciinf.interfaces.surveys.description import KIND

    if survey.get("kind") != KIND:
        return data
    digests = {
        "fit": survey["fit"],
        "calibration": survey["calibration_sha256"],
        "observations": survey["observations_sha256"],
        "survey": survey["survey"],
        "answers": survey.get("found", {}).get("digest"),
    }
    asked = {"run": survey["run"], "observations": survey["observations"]}
    return {**data, **asked, "digests": {**data["digests"], **digests}}


def _read(file: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if the file is missing, or, with a warning, if it is damaged."""
    try:
        found = read_json(file)
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        warnings.warn(f"provenance.json says nothing of {file.name}, which cannot be read: {error}", stacklevel=1)
        return {}


def build(name: str | Estimator, simulator: Simulator, seed: int) -> Estimator:
    """Build the estimator of `sciinf/training/estimators/NAME.py` with its defaults; a built estimator is returned."""
    import importlib

    from sciinf.core import Estimator
    from sciinf.interfaces.commands.estimators import check_estimator

    if isinstance(name, Estimator):
        return name
    if name == "flow" and simulator.prior.mixed:  # A flow cannot learn discrete parameters.
        name = "mixed"
    check_estimator(name)
    return importlib.import_module(f"sciinf.training.estimators.{name}").build(
        simulator.prior, simulator.observables, seed=seed
    )


def tell_read(asked: Sequence[ObservationFile], say: Say) -> None:
    """Say how observations were read, before hours are spent on them."""
    for one in asked:
        for line in one.x.read:
            say(f"read {line}")
        for finding in one.x.findings:
            say(f"note: {finding.name}: {finding.words}")


def train(
    estimator: Estimator,
    store: Any,
    folder: Path,
    device: str,
    seed: int,
    *,
    follow: bool = False,
    progress: bool = True,
) -> Fit:
    """Train an estimator on a store with the default recipe, and write the fit into `folder/fit`."""
    from sciinf import Recipe
    from sciinf import train as fit

    how: dict[str, Any] = {"recipe": Recipe(device=device), "seed": seed, "follow": follow, "progress": progress}
    return fit(estimator, store, folder / "fit", **how)


def load_fit(folder: str, device: str, simulator: str | Path | None) -> Fit:
    """Load the fit of a run folder, or the fit in the folder itself.

    Parts of the fit may be defined in `simulator`, the simulator's file that the user named.
    """
    from sciinf.posteriors.posterior import fit_of

    return fit_of(folder, device=device, trust=() if simulator is None else (Path(simulator),))


def same_simulator(
    simulator: Simulator,
    recorded: Mapping[str, str],
    what: str,
    folders: Sequence[Path],
    *,
    accept_changes: bool,
    device: str = "cpu",
    seconds: float | None = None,
) -> None:
    """Refuse a simulator that is not the recorded one, or that gives other data than the recorded one did.

    Args:
        simulator: The present simulator.
        recorded: Recorded identity of the earlier simulator.
        what: What was made with the recorded simulator, in words, for messages.
        folders: Folders that may hold simulations by the recorded simulator. Some simulations of the first store that
            exists are made again and compared.
        accept_changes: Whether changed files or changed data are accepted with a note, instead of an error.
        device: Device on which the simulator runs.
        seconds: Seconds that making simulations again may take; the default of `campaigns.again` when left out.

    Raises:
        ValueError: If the simulator differs. The message says what differs.
    """
    from sciinf.campaigns import Store
    from sciinf.campaigns.again import checked_again
    from sciinf.campaigns.storage.objects import store_at
    from sciinf.core.simulator import FILES, unlike

    stores = [Store(folder) for folder in folders if store_at(folder) is not None]
    known = [recorded, *(one for store in stores for one in store.accepted)]
    words = "" if any(not unlike(one, simulator) for one in known) else unlike(recorded, simulator)
    if words and unlike(recorded, simulator, ignore=FILES):
        raise ValueError(
            f"{what} is of another simulator than {simulator.source}: {words}; give the file it was made with, or run "
            "again"
        )
    if words and not accept_changes:
        raise ValueError(
            f"{words} since {what} was made. Run again into another folder, or, where the change does not touch what "
            "is simulated, go on with --accept-changes"
        )
    if words:
        tell(f"note: {words} since {what} was made, and this was accepted")
    for store in stores[:1]:
        said = checked_again(store, simulator, device=device, seconds=seconds, accept_changes=accept_changes)
        if said:
            tell(f"note: {said}")


def attempt(
    sim: Simulator, folder: Path, options: InferOptions, plan: SimulationPlan, *, new: NewProcess | None = None
) -> tuple[Fit, Calibration]:
    """Simulate the missing rows, train and calibrate, with the options of `infer`.

    Raises:
        ValueError: If the new process `new` is given and simulates other data, and that was not accepted.
    """
    from sciinf import build_posterior, calibrate, simulate

    how, seed = options.simulating, options.seed
    stage("simulate")
    store = simulate(sim, folder / "simulations", plan.train, seed=seed, **how)
    tell(f"{len(store):,} simulations took {store.seconds:.3g} s, seed {seed}", DETAIL)
    if new is not None:
        check_elsewhere(new, store, accept_changes=options.accept_changes)
    stage("train")
    estimator, shown = build(options.estimator, sim, seed), options.progress
    fit = train(estimator, store, folder, options.device, seed, progress=shown)
    size = sum(p.numel() for p in fit.learned.parameters())
    tell(f"{size:,} parameters of {type(fit.learned).__name__} trained in {fit.record['seconds']:.3g} s", DETAIL)
    stage("calibrate")
    fresh = simulate(sim, folder / "calibration_simulations", plan.fresh, seed=seed + 1, **how)
    return fit, calibrate(build_posterior(fit), fresh, folder, rows=plan.rows, progress=shown)


def check_elsewhere(new: NewProcess, store: Any, *, accept_changes: bool) -> None:
    """Refuse simulations that a new process does not reproduce, before a network is trained on them.

    A note says if the simulations were not compared, or if differences were accepted.

    Raises:
        ValueError: If the new process simulates other data, and that was not accepted.
    """
    if words := new.checked(store, accept_changes=accept_changes):
        tell(f"note: {words}", DETAIL if new.without else NOTE)


def answers_to(asked: Sequence[ObservationFile], ask: Callable[..., Answer]) -> list[Answer]:
    """Ask for the answers to observations; `ask` is `query` with all arguments set but those of the observation."""
    return [ask(one.x, name=one.name, files=one.files) for one in asked]


def json_of(answers: Sequence[Answer]) -> str:
    """JSON text of one answer, as in `answer.json`, or of several answers by their names."""
    from sciinf.core.files import json_text

    said = {answer.name: answer.to_json() for answer in answers}
    return json_text(next(iter(said.values())) if len(said) == 1 else said)


def finish(
    folder: Path,
    answers: Sequence[Answer],
    caller: Caller,
    *,
    seed: int,
    started: float,
    way_on: str = "",
    simulator: Simulator | None = None,
) -> None:
    """Write the provenance, with the next step, and the report, and show the answers to the caller."""
    staged()
    record(folder, seed, started, simulator, caller, way_on=way_on)
    caller.show(answers, f"report       {report_of(folder)}")


def report_of(folder: Path) -> str:
    """Write the report of a run, and return its path, or the reason why it could not be written.

    A report that cannot be written loses no answer.
    """
    from sciinf import write_report

    try:
        return str(write_report(folder))
    except OSError as error:
        why = f"not written: {error.strerror or error}"
        return f"{why}. The answers are kept; mend this, and `sciinf report {folder}` writes it"


def record(
    folder: Path,
    seed: int,
    started: float,
    simulator: Simulator | None = None,
    caller: Caller | None = None,
    *,
    way_on: str | None = None,
) -> None:
    """Write `provenance.json`, which records the command, the simulator, and the next step told to the user.

    Without a caller, the command is taken from the shell. Without a simulator, or without `way_on`, the earlier entry
    stays.
    """
    from sciinf.core.files import write_json

    asked = (caller or CommandLine()).asked
    write_json(folder / "provenance.json", provenance(folder, seed, started, asked, simulator, way_on))


def tell_failures(found: Failures | None, prior: Prior) -> None:
    """Print whether failing depends on the parameters, and where, if any simulations failed."""
    if found is not None:
        tell(f"failures: {found.words(prior)}", ANSWER)
