"""`query`: ask a posterior for the parameters behind an observation; also save an answer, and read it back.

An answer carries the calibration and a verdict beside its estimates, so that no bare number leaves the library.
"""

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
from sciinf.core.estimates import disagreement
from sciinf.core.files import local_path, read_json, sha256_of, write_json
from sciinf.core.paths import HiddenPaths
from sciinf.core.records import is_of
from sciinf.core.simulator import identity
from sciinf.diagnostics.calibration import load_calibration
from sciinf.diagnostics.failures import Reading
from sciinf.interfaces.draws_file import content_hash, read_draws_h5, write_draws_h5
from sciinf.interfaces.paths_file import read_paths, write_paths
from sciinf.interfaces.predictive_file import Predicted, read_predictive, write_predictive
from sciinf.interfaces.question import CHECKS, QueryOptions, Question, judge_of, question
from sciinf.interfaces.run_answers import ANSWERS, answer_place, found_in, newest_answers, values_digest
from sciinf.posteriors.tilted import layers

# This text is hashed for a simulator with `like`. Answers of earlier versions lack it, and are made again.
_SEEN = "predictions are seen as the observation was"


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
    """Ask a posterior for the parameters behind one observation.

    Args:
        posterior: The posterior that is asked: amortised, reweighted, an ensemble, or sequential for this observation.
        x: One observation: observable name -> array or astropy quantity of its event shape.
        calibration: The result of `calibrate` for this posterior, or for the posterior that this one corrects.
        simulator: If given, data are simulated from the posterior, for the predictive check (`diagnostics.predictive`).
        out: Run folder. `answer.json`, `draws.h5` and `predictive.h5` are written into its `answers/NAME`. If the
            answer to the same question is there, it is read back. An answer to another observation is kept.
        level: Credible level of the central intervals.
        draws: Least number of posterior draws.
        seed: Seed of the draws.
        failures: How failed simulations are treated if failing depends on the parameters (`diagnostics.failures`). With
            "exclude" they are left out, and the answer says so. With "outcome", failing is an outcome that nature could
            also have had. With "model", failing is a fault of the program, and draws take weights 1 / P(success), known
            from the calibration.
        name: Name of the observation.
        files: Files of the observation. The answer records their names and hashes.
        beside: Other answers to compare with: label -> answer, or the run folder that holds it. Such an answer has
            parameters of the same names and units, and may be by another model, for example. Tables and reports show it
            beside this answer, with the differences. Nothing in this answer depends on it. If left out, an answer that
            is read back from `out` keeps the ones that it was saved with. An answer that is made anew has none, and
            warns if the answer that it replaces had some.

    Returns:
        The answer: estimates with units, draws, calibration, and the verdict on the observation.

    Raises:
        ValueError: If x does not fit the observables or is not finite, or if the calibration is of another fit. Also if
            `level` is not between 0 and 1, if `draws` is below 1, or if more than one in a hundred draws is not finite.
            Also if an answer in `beside` has no parameter of the same name, or one in another unit.

    Warns:
        UserWarning: If the observation is unlike the simulations, or if `out` holds an answer of this name to other
            data. Also if an answer without simulations replaces one that was checked by simulations.
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
    """Return an answer with other answers beside it, and add them to its `answer.json` if there is a folder."""
    found = replace(answer, beside={label: as_beside(answer, other) for label, other in others.items()})
    if folder is not None:
        before = {key: value for key, value in read_json(folder / "answer.json").items() if key != "beside"}
        write_json(folder / "answer.json", {**before, **found.to_json()})
    return found


def _tell_lost(folder: Path) -> None:
    """Warn that a new answer loses the other answers that stood beside the answer it replaces."""
    with contextlib.suppress(OSError, ValueError):  # The folder may hold no answer, or a damaged one.
        if lost := ", ".join(read_json(folder / "answer.json").get("beside", ())):
            warnings.warn(
                f"the answer in {folder} is made anew, and {lost} no longer stands beside it: give beside= again, or "
                "`sciinf report RUN --beside DIR`",
                stacklevel=3,
            )


def _save_over(folder: Path, answer: Answer, about: Mapping[str, Any]) -> None:
    """Write an answer, and warn if it has no checks by simulations and replaces an answer that has some."""
    checked = False
    # The folder may hold no answer, or a damaged one.
    with contextlib.suppress(OSError, KeyError, TypeError, ValueError):
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
    """Write an answer: `draws.h5`, `predictive.h5`, `answer.json`, and `paths.h5` if the answer has hidden paths.

    `answer.json` is written last and holds the hashes of the other files, so that files of two answers are never mixed.

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
    """Read an answer back from its run folder. If the answer was refined, the refined answer is read.

    Args:
        folder: The run folder, or the folder of one answer in it.
        calibration: The calibration that the answer was given with. When left out, the calibration in the run folder is
            taken. A text is taken as the name: `load_answer(run, "1978")`.
        name: Name of the answer, if the run has several: the name of its folder in `answers`.

    Raises:
        FileNotFoundError: If the folder holds no answer, or none of that name.
        TypeError: If two names are given.
        ValueError: If the run holds several answers and no name is given; if a file is damaged, missing or of another
            answer; or if the run was calibrated anew since the answer was given.

    Warns:
        UserWarning: If the answer was given with a calibration, and the run folder no longer holds one.
    """
    if isinstance(calibration, str):
        if name is not None:
            raise TypeError(f"two names of an answer are given, {calibration!r} and {name!r}; give one")
        calibration, name = None, calibration
    inside = _one_answer(Path(folder), name)
    found = _read_answer(inside, calibration)
    return found if calibration is not None else replace(found, calibration=_calibration_of(inside))


def _calibration_of(folder: Path) -> Calibration | None:
    """Read the calibration that the answer in a folder was given with; None if the answer had none.

    The calibration is read from the run folder. If it is missing there, the result is None, with a warning.
    """
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
    """Read the answer from its own folder, and check the files against the hashes in `answer.json`."""
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
    """The saved answer to the same question; None if there is none, so that the answer is made again.

    The result is also None if the saved answer is damaged, with a warning, or if its derived quantities or labels have
    changed. For a simulator that is in no file it is always None, because that simulator may have changed under its
    name.
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
    """Level, draws, seed, reading of failures and network: the settings by which a service recognises a question."""
    wanted = question.wanted
    known = {"level": wanted.level, "draws": wanted.draws, "seed": wanted.seed, "failures": wanted.failures}
    return {**known, "fit": layers(question.posterior)[-1].digest}


def _inputs_digest(
    posterior: Posterior, observation: Mapping[str, Tensor], calibration: Calibration | None, settings: tuple[Any, ...]
) -> str:
    checked: tuple[Any, ...] = ()
    if calibration:
        # The reference tensors hold what the calibration knows of its fresh simulations.
        seen = sorted((name, values_digest({name: value})) for name, value in calibration.reference.items())
        checked = (calibration.fit, calibration.simulations, calibration.rows, calibration.reasons, seen)
    digest = hashlib.sha256(repr((posterior.digest, settings, checked, CHECKS)).encode())
    digest.update(values_digest(observation).encode())
    return digest.hexdigest()
