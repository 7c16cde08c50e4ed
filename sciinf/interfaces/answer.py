"""query: Posterior + observation + Calibration -> Answer. No bare number leaves the library."""

from __future__ import annotations

import contextlib
import hashlib
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from sciinf.core import Answer, Calibration, Posterior, Simulator, Trust
from sciinf.core.beside import as_beside, check_units
from sciinf.core.derived import with_derived
from sciinf.core.draws_file import content_hash, read_draws_h5, write_draws_h5
from sciinf.core.estimates import disagreement
from sciinf.core.files import local_path, read_json, sha256_of, write_json
from sciinf.core.paths import HiddenPaths
from sciinf.core.records import is_of
from sciinf.core.simulator import identity
from sciinf.diagnostics.calibration import load_calibration
from sciinf.diagnostics.failures import Reading
from sciinf.interfaces.paths_file import read_paths, write_paths
from sciinf.interfaces.predictive_file import Predicted, read_predictive, write_predictive
from sciinf.interfaces.question import CHECKS, QueryOptions, Question, judge_of, question
from sciinf.interfaces.run_answers import ANSWERS, answer_place, found_in, newest_answers, values_digest
from sciinf.posteriors.tilted import layers

_SEEN = "predictions are seen as the observation was"  # of simulators that can, of which older answers did not tell


def query(
    posterior: Posterior,
    x: Any,
    calibration: Calibration | None = None,
    *,
    simulator: Simulator | None = None,
    out: str | Path | None = None,
    level: float = 0.9,
    draws: int = 10_000,
    seed: int = 0,
    failures: Reading = "exclude",
    name: str = "observation",
    files: Sequence[str | Path] = (),
    beside: Mapping[str, Answer | str | Path] | None = None,
) -> Answer:
    """Ask for the parameters behind one observation.

    Args:
        posterior: Amortised, reweighted, an ensemble, or sequential for this observation.
        x: One observation: observable name -> array or astropy quantity of its event shape.
        calibration: What `calibrate` said of this posterior, or of the one it corrects.
        simulator: If given, data are simulated from the posterior, for the predictive check (`diagnostics.predictive`).
        out: Run folder. `answer.json`, `draws.h5` and `predictive.h5` go into its `answers/NAME`; the answer to the
            same question found there is read back, that of another observation stays.
        level: Credible level of the central intervals.
        draws: Posterior draws, at least.
        seed: Seeds the draws.
        failures: What simulations that failed are, where failing depends on the parameters (`diagnostics.failures`):
            left out, as the answer then says ("exclude"); an outcome that nature could have had as well ("outcome"); or
            a fault of the program, for which draws take weights 1 / P(success), known from the calibration ("model").
        name: What the observation is called.
        files: The files it came from; the answer names them with their hashes.
        beside: What another answer is called -> that answer, or the run folder that it is in: of parameters of the same
            names and units, by another model, say. It stands beside this one in tables and reports, with what tells
            them apart; nothing of this answer depends on it. Those that an answer in `out` has already stay where left
            out, as long as that answers the same question; one that is made anew has none, and says so.

    Returns:
        Estimates with units, draws, calibration and the verdict on the observation.

    Raises:
        ValueError: If x does not fit the observables or is not finite, the calibration is of another fit, level or
            draws make no sense, more than one in a hundred draws is not finite, or an answer that is to stand beside
            this one has no parameter of the same name, or one in another unit.

    Warns:
        UserWarning: If the observation is unlike the simulations, if `out` holds an answer of this name to other
            data, or if the answer takes the place of one that was checked by simulations.
    """
    hashes = {str(path): _sha256(Path(path)) for path in files}
    wanted = QueryOptions(level, draws, seed, failures, name=name, files=hashes)
    asked = question(judge_of(posterior, calibration, failures), x, simulator, wanted)
    folder, inputs = None if out is None else answer_place(local_path(out), name, values_digest(asked.x)), ""
    if folder is not None:
        settings = (level, draws, seed, identity(simulator) if simulator else None, failures, *asked.read)
        settings += tuple(one.words for one in asked.findings)
        settings += (_SEEN,) if simulator and simulator.like else ()
        inputs = _inputs_digest(asked.posterior, asked.x, calibration, settings)
    kept = _found(folder, inputs, calibration, simulator) if folder is not None else None
    if folder is not None and folder.name != name:
        words = f"{folder.parent / name} is the answer to other data; that to these lies in {folder}"
        warnings.warn(words, stacklevel=2)
    others = {label: one if isinstance(one, Answer) else load_answer(one) for label, one in (beside or {}).items()}
    for other in others.values():
        check_units(dict(zip(posterior.prior.names, posterior.prior.units, strict=True)), other)
    if kept is not None:
        _warn(kept.trust)
        return kept if beside is None else _with_beside(kept, others, folder)
    looked, started = asked.look(), time.monotonic()
    _warn(looked.trust)
    answer = asked.answer(looked)
    if folder is not None:
        answer = replace(answer, name=folder.name)
        if beside is None:
            _tell_lost(folder)
        _save_over(
            folder, answer, {"inputs": inputs, "question": _record_of(asked), "seconds": time.monotonic() - started}
        )
    return _with_beside(answer, others, folder) if others else answer


def _with_beside(answer: Answer, others: Mapping[str, Answer], folder: Path | None) -> Answer:
    """An answer with others beside it, in its `answer.json` as well."""
    found = replace(answer, beside={label: as_beside(answer, other) for label, other in others.items()})
    if folder is not None:
        before = {key: value for key, value in read_json(folder / "answer.json").items() if key != "beside"}
        write_json(folder / "answer.json", {**before, **found.to_json()})
    return found


def _tell_lost(folder: Path) -> None:
    """Say which answers stood beside one that is made anew."""
    with contextlib.suppress(OSError, ValueError):  # none, or damaged
        if lost := ", ".join(read_json(folder / "answer.json").get("beside", ())):
            warnings.warn(
                f"the answer in {folder} is made anew, and {lost} no longer stands beside it: give beside= again, or "
                "`sciinf report RUN --beside DIR`",
                stacklevel=3,
            )


def _save_over(folder: Path, answer: Answer, about: Mapping[str, Any]) -> None:
    """Write an answer, and say if one without simulations takes the place of one that was checked by them."""
    checked = False
    with contextlib.suppress(OSError, KeyError, TypeError, ValueError):  # none, or damaged
        checked = bool(read_predictive(folder / "predictive.h5").predictive)
    save_answer(answer, folder, about)
    if checked and not answer.predictive:
        warnings.warn(
            f"the answer in {folder} had been checked by simulations around it, and is replaced by one that is not: "
            "ask with the simulator to have these checks again",
            stacklevel=3,
        )


def _warn(trust: Trust) -> None:
    if trust.alarm:
        warnings.warn(trust.words, stacklevel=3)


def save_answer(answer: Answer, folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write `draws.h5`, `predictive.h5`, `answer.json`, and `paths.h5` where there are hidden paths.

    `answer.json` comes last and has the others' hashes, so that files of two answers are never taken for one.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder = local_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_draws_h5(answer.draws, folder / "draws.h5")
    predicted = Predicted(answer.observation, answer.predictive, answer.observables, answer.predicted_from)
    write_predictive(folder / "predictive.h5", predicted)
    if answer.paths:
        write_paths(folder / "paths.h5", answer.paths)
    written = ("draws.h5", "predictive.h5", *(["paths.h5"] if answer.paths else []))
    files = {name: _sha256(folder / name) for name in written}
    values = values_digest(answer.observation)
    about = {"values_sha256": values, **(about or {}), "sha256": files}
    write_json(folder / "answer.json", {**answer.to_json(), **about})


def load_answer(folder: str | Path, calibration: Calibration | str | None = None, *, name: str | None = None) -> Answer:
    """Read an answer back from its run folder; the refined one where it was refined.

    Args:
        folder: The run folder, or the folder of one answer in it.
        calibration: The calibration it was given with; that in the run folder when left out. A text is taken for the
            name: `load_answer(run, "1978")`.
        name: Which observation's, where the run answered several: what its folder in `answers` is called.

    Raises:
        FileNotFoundError: If the folder holds no answer, or none of that name.
        TypeError: If two names are given.
        ValueError: If the run holds several answers and no name is given, a file is damaged, missing or of another
            answer, or the run was calibrated anew since.

    Warns:
        UserWarning: If the run folder has no calibration any more.
    """
    if isinstance(calibration, str):
        if name is not None:
            raise TypeError(f"two names of an answer are given, {calibration!r} and {name!r}; give one")
        calibration, name = None, calibration
    inside = _one_answer(Path(folder), name)
    found = _read_answer(inside, calibration)
    return found if calibration is not None else replace(found, calibration=_calibration_of(inside))


def _calibration_of(folder: Path) -> Calibration | None:
    """The calibration that the answer in a folder was given with, from its run folder; None if it had none."""
    said = read_json(folder / "answer.json").get("calibration", {})
    if said.get("state", "not checked") == "not checked":
        return None
    run = folder.parents[1] if folder.parent.name == ANSWERS else folder
    if not (run / "calibration.json").is_file():
        warnings.warn(f"{run} has no calibration.json, so the answer comes without its calibration", stacklevel=3)
        return None
    found = load_calibration(run)
    if not is_of(said, found):
        raise ValueError(
            f"{run} was calibrated anew since the answer in {folder} was given; ask again with `sciinf query`, or "
            "`query(..., out=...)` in Python"
        )
    return found


def _read_answer(folder: Path, calibration: Calibration | None) -> Answer:
    """The answer in a folder of its own."""
    data = read_json(folder / "answer.json")
    if not isinstance(data, dict) or "parameters" not in data:
        raise ValueError(f"{folder / 'answer.json'} is not what `sciinf query` writes; ask again")
    for file_name, expected in data.get("sha256", {}).items():
        if not (folder / file_name).is_file() or _sha256(folder / file_name) != expected:
            raise ValueError(f"{folder / file_name} is damaged, missing or not of the answer in answer.json; ask again")
    predicted = read_predictive(folder / "predictive.h5")
    found = Answer.from_json(
        data,
        read_draws_h5(folder / "draws.h5"),
        calibration,
        observation=predicted.observation,
        predictive=predicted.predictive,
        predicted_from=predicted.theta,
        observables=predicted.observables,
        paths=read_paths(folder / "paths.h5") if "paths.h5" in data.get("sha256", {}) else HiddenPaths(),
    )
    if differing := disagreement(found.parameters, found.draws):
        raise ValueError(f"{folder / 'answer.json'} is not of the draws in draws.h5: {differing}; ask again")
    return found


def _one_answer(folder: Path, name: str | None) -> Path:
    known = newest_answers(folder)
    if not known:
        raise FileNotFoundError(
            f"{folder} holds no answer: {found_in(folder)}; ask with `sciinf query`, or `query(..., out=...)` in Python"
        )
    if name is not None and name not in known:
        raise FileNotFoundError(f"{folder} holds no answer called {name!r}; it has {', '.join(known)}")
    if name is None and len(known) > 1:
        raise ValueError(f"{folder} holds several answers; give the name of one: {', '.join(known)}")
    return known[name or next(iter(known))]


def _found(folder: Path, inputs: str, calibration: Calibration | None, simulator: Simulator | None) -> Answer | None:
    """The answer to the same question in a run folder; a damaged one is as good as none, and made again.

    So is one whose derived quantities or labels are others now, or whose simulator, in no file, may have changed under
    its name.
    """
    if simulator is not None and simulator.source is None:
        return None
    try:
        if read_json(folder / "answer.json")["inputs"] != inputs:
            return None
        found = _read_answer(folder, calibration)
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        warnings.warn(f"the answer in {folder} cannot be read back, so it is made anew: {error}", stacklevel=3)
        return None
    now = with_derived(found.draws.of_parameters(), simulator)
    return found if now is found.draws or content_hash(now) == content_hash(found.draws) else None


def _sha256(path: Path) -> str:
    return sha256_of(path.read_bytes())


def _record_of(question: Question) -> dict[str, Any]:
    """Level, draws, seed, reading of failures and network of a question, by which a service knows it again."""
    wanted = question.wanted
    known = {"level": wanted.level, "draws": wanted.draws, "seed": wanted.seed, "failures": wanted.failures}
    return {**known, "fit": layers(question.posterior)[-1].digest}


def _inputs_digest(
    posterior: Posterior, observation: Mapping[str, Tensor], calibration: Calibration | None, settings: tuple[Any, ...]
) -> str:
    checked: tuple[Any, ...] = ()
    if calibration:
        # what is known of fresh simulations
        seen = sorted((name, values_digest({name: value})) for name, value in calibration.reference.items())
        checked = (calibration.fit, calibration.simulations, calibration.rows, calibration.reasons, seen)
    digest = hashlib.sha256(repr((posterior.digest, settings, checked, CHECKS)).encode())
    digest.update(values_digest(observation).encode())
    return digest.hexdigest()
