"""query: Posterior + observation + Calibration -> Answer. No bare number leaves the library."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciinf.calibration import load_calibration
from sciinf.core import (
    Answer,
    Calibration,
    Check,
    Draws,
    Estimate,
    Observation,
    Posterior,
    Prior,
    Simulator,
    Strange,
    Trust,
    X,
    as_observation,
)
from sciinf.core.derived import with_derived
from sciinf.core.doubts import noting, summed_up
from sciinf.core.draws_file import content_hash, read_draws_h5, write_draws_h5
from sciinf.core.estimates import disagreement, estimates
from sciinf.core.files import read_json, write_json
from sciinf.core.simulator import described, identity
from sciinf.engine.block import simulate_from
from sciinf.inference.finite import finite, left_out
from sciinf.inference.tilted import layers
from sciinf.storage.answers import ANSWERS, answer_place, found_in, newest_answers
from sciinf.storage.predictive_file import Predicted, read_predictive, write_predictive
from sciinf.trust.around import MANY, Around, around_answer
from sciinf.trust.bounds import check_bounds
from sciinf.trust.failures import Reading, asked, check_failures
from sciinf.trust.here import check_twice
from sciinf.trust.likely import check_likelihood
from sciinf.trust.limits import check_limits
from sciinf.trust.localise import check_data
from sciinf.trust.members import check_members
from sciinf.trust.noise import check_noise
from sciinf.trust.ood import check_observation
from sciinf.trust.predictive import check_predictive
from sciinf.trust.recalibrate import recalibrated
from sciinf.trust.residuals import check_residuals
from sciinf.trust.second import vouched
from sciinf.trust.stray import check_stray
from sciinf.trust.tails import check_tails

_PREDICTIVE = 400
_AROUND = 2_000  # draws that tell where an answer lies
_CHECKS = 14  # raised when what is checked changes, so that an older answer to the same question is made anew


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
) -> Answer:
    """Ask for the parameters behind one observation.

    Args:
        posterior: Amortised, reweighted, an ensemble, or sequential for this observation.
        x: One observation: observable name -> array or astropy quantity of its event shape.
        calibration: What `calibrate` said of this posterior, or of the one it corrects.
        simulator: If given, data are simulated from the posterior, for the predictive check (`trust.predictive`).
        out: Run folder. `answer.json`, `draws.h5` and `predictive.h5` go into its `answers/NAME`; the answer to the
            same question found there is read back, that of another observation stays.
        level: Credible level of the central intervals.
        draws: Posterior draws, at least.
        seed: Seeds the draws.
        failures: What simulations that failed are, where failing depends on the parameters (`trust.failures`): left
            out, as the answer then says ("exclude"); an outcome that nature could have had as well ("outcome"); or a
            fault of the program, for which draws take weights 1 / P(success), known from the calibration ("model").
        name: What the observation is called.
        files: The files it came from; the answer names them with their hashes.

    Returns:
        Estimates with units, draws, calibration and the verdict on the observation.

    Raises:
        ValueError: If x does not fit the observables or is not finite, the calibration is of another fit, level or
            draws make no sense, or more than one in a hundred draws is not finite.

    Warns:
        UserWarning: If the observation is unlike the simulations, or if the answer takes the place of one in `out` that
            was checked by simulations.
    """
    _check_numbers(level, draws)
    observation = as_observation(posterior.observables, x)
    posterior = asked(posterior, calibration, failures)
    *_, raw = layers(posterior)
    if calibration is not None and calibration.fit not in [layer.digest for layer in layers(posterior)]:
        raise ValueError(
            f"the calibration is of another fit ({calibration.fit[:12]}) than the posterior ({posterior.digest[:12]}); "
            "run calibrate on this posterior"
        )
    settings = (level, draws, seed, identity(simulator) if simulator else None, failures, *_read(x))
    inputs = _inputs_digest(posterior, observation, calibration, settings)
    folder = None if out is None else answer_place(Path(out), name, _values_digest(observation))
    kept = _found(folder, inputs, calibration, simulator) if folder is not None else None
    reference = calibration.reference if calibration else {}
    trust = kept.trust if kept else check_observation(reference, posterior, observation)
    if trust.alarm:
        warnings.warn(trust.verdict, stacklevel=2)
    if kept is not None:
        return kept
    started, generator = time.monotonic(), torch.Generator().manual_seed(seed)
    with noting() as noted:
        drawn = posterior.draw(observation, draws, generator=generator)
    found = finite(drawn)
    shown = with_derived(found, simulator)
    plain = finite(raw.draw(observation, draws, generator=generator)) if raw is not posterior else None
    predicted, of, foretold, where = _predict(simulator, posterior, observation, found, generator)
    corrected, region = recalibrated(calibration, posterior, observation, found, level)
    checks = summed_up(noted) + left_out(drawn, found) + check_members(posterior, observation, seed)
    answer = Answer(
        parameters=estimates(shown, level, corrected),
        draws=shown,
        calibration=calibration,
        trust=replace(trust, where=where),
        observation={name: value[0].numpy() for name, value in observation.items()},
        predictive={name: value.numpy() for name, value in predicted.items()},
        predicted_from=of.numpy(),
        amortised=estimates(with_derived(plain, simulator), level) if plain else {},
        posterior=posterior.name,
        scope=posterior.scope,
        checks=(*checks, *_checks(posterior, shown, calibration, failures, level), *vouched(foretold, calibration)),
        read=_read(x),
        name=name if folder is None else folder.name,
        files={str(path): _sha256(Path(path)) for path in files},
        region=region,
        observables=described(posterior.observables, simulator),
        prior=posterior.prior,
    )
    if folder is not None:
        _save_over(folder, answer, {"inputs": inputs, "seconds": time.monotonic() - started})
    return answer


def _read(x: Any) -> tuple[str, ...]:
    """How an observation was read from its files."""
    return x.read if isinstance(x, Observation) else ()


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


def _check_numbers(level: float, draws: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is a probability between 0 and 1, got {level}")
    if draws < 1:
        raise ValueError(f"an answer needs at least one draw, got draws={draws}")


def save_answer(answer: Answer, folder: str | Path, about: Mapping[str, Any] | None = None) -> None:
    """Write `draws.h5`, `predictive.h5` and `answer.json`.

    `answer.json` comes last and has the others' hashes, so that files of two answers are never taken for one.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_draws_h5(answer.draws, folder / "draws.h5")
    predicted = Predicted(answer.observation, answer.predictive, answer.observables, answer.predicted_from)
    write_predictive(folder / "predictive.h5", predicted)
    files = {name: _sha256(folder / name) for name in ("draws.h5", "predictive.h5")}
    values = _values_digest({k: torch.as_tensor(v) for k, v in answer.observation.items()})
    about = {"values_sha256": values, **(about or {}), "sha256": files}
    write_json(folder / "answer.json", {**answer.to_json(), **about})


def load_answer(folder: str | Path, calibration: Calibration | None = None, *, name: str | None = None) -> Answer:
    """Read an answer back from its run folder; the refined one where it was refined.

    Args:
        folder: The run folder, or the folder of one answer in it.
        calibration: The calibration it was given with; that in the run folder when left out.
        name: Which observation's, where the run answered several.

    Raises:
        FileNotFoundError: If the folder holds no answer, or none of that name.
        TypeError: If a name is given as the calibration.
        ValueError: If the run holds several answers and no name is given, a file is damaged, missing or of another
            answer, or the run was calibrated anew since.

    Warns:
        UserWarning: If the run folder has no calibration any more.
    """
    if isinstance(calibration, str):
        raise TypeError(f"the second argument is a calibration; give a name as name={calibration!r}")
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
    if [found.state, *found.reasons] != [said["state"], *said["reasons"]]:
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
    draws = read_draws_h5(folder / "draws.h5")
    parameters = {n: Estimate.from_json(e) for n, e in data["parameters"].items()}
    if differing := disagreement(parameters, draws):
        raise ValueError(f"{folder / 'answer.json'} is not of the draws in draws.h5: {differing}; ask again")
    predicted = read_predictive(folder / "predictive.h5")
    return Answer(
        parameters=parameters,
        draws=draws,
        calibration=calibration,
        trust=Trust.from_json(data["trust"]),
        observation=predicted.observation,
        predictive=predicted.predictive,
        predicted_from=predicted.theta,
        amortised={n: Estimate.from_json(e) for n, e in data.get("amortised", {}).items()},
        posterior=data.get("posterior", ""),
        scope=data.get("scope", ""),
        checks=tuple(Check(**check) for check in data.get("checks", ())),
        read=tuple(data.get("read", ())),
        name=data.get("observation", {}).get("name", ""),
        files=data.get("observation", {}).get("files", {}),
        region=tuple(data["region"]) if data.get("region") else None,
        observables=predicted.observables,
        prior=Prior.from_json(data["prior"]) if data.get("prior") else None,
    )


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
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checks(
    posterior: Posterior, draws: Draws, calibration: Calibration | None, failures: Reading, level: float
) -> tuple[Check, ...]:
    """What else is to be said of an answer, each finding by a function of its own."""
    failed = check_failures(calibration, posterior, draws, failures)
    drawn = (*check_bounds(posterior.prior, draws), *check_stray(draws))
    return (*failed, *drawn, *check_tails(calibration, posterior, level))


def _predict(
    simulator: Simulator | None, posterior: Posterior, x: X, draws: Draws, generator: torch.Generator
) -> tuple[X, Tensor, tuple[Check, ...], tuple[Strange, ...]]:
    """Data simulated from the posterior, of which draws; what they and others say of the observation; where.

    Rows that fail are left out, with a warning. Without a simulator there is nothing.
    """
    if simulator is None:
        return {}, torch.zeros(0, 0), (), ()
    of, started = draws.resample(_PREDICTIVE, generator=generator), time.monotonic()
    data, good = simulate_from(simulator, of, generator=generator)
    seconds = (time.monotonic() - started) / len(of)
    if not bool(good.all()):
        warnings.warn(
            f"{int((~good).sum())} of {len(good)} simulations from the posterior failed and are left out of the "
            "predictive check",
            stacklevel=3,
        )
    found = check_noise(simulator, of)
    found += check_predictive(posterior, x, data) + check_likelihood(simulator, x, of[good], data)
    theta = draws.resample(_AROUND, generator=generator)
    made = functools.partial(around_answer, posterior, simulator, theta, seconds=seconds, generator=generator)
    around = made()
    found += check_limits(posterior.observables, x, around.data if isinstance(around, Around) else data)
    found += check_residuals(posterior, simulator, x, around)
    if len(layers(posterior)) == 1:  # weights by a likelihood are right here, or say that they are not
        alike = all(check.level != "alarm" for check in found)
        more = functools.partial(made, sizes=MANY)
        found += check_twice(posterior, x, around, more, alike=alike, generator=generator)
    strange, where = check_data(posterior, x, around)
    return data, of[good], found + strange, where


def _inputs_digest(
    posterior: Posterior, observation: Mapping[str, Tensor], calibration: Calibration | None, settings: tuple[Any, ...]
) -> str:
    checked: tuple[Any, ...] = ()
    if calibration:
        # what is known of fresh simulations
        seen = sorted((name, _values_digest({name: value})) for name, value in calibration.reference.items())
        checked = (calibration.fit, calibration.simulations, calibration.rows, calibration.reasons, seen)
    digest = hashlib.sha256(repr((posterior.digest, settings, checked, _CHECKS)).encode())
    digest.update(_values_digest(observation).encode())
    return digest.hexdigest()


def _values_digest(observation: Mapping[str, Tensor]) -> str:
    """SHA-256 of the values of an observation, with a leading axis of one or without."""
    digest = hashlib.sha256()
    for name in sorted(observation):
        digest.update(name.encode() + observation[name].numpy().tobytes())
    return digest.hexdigest()
