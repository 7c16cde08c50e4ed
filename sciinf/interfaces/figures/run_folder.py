"""Content of a run folder, read part by part: a missing or damaged part becomes a sentence, not an exception."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from sciinf.campaigns.storage.belonging import foreign_fit
from sciinf.campaigns.store import Store
from sciinf.core.beside import OtherAnswer
from sciinf.core.draws import Draws
from sciinf.core.estimates import estimate_from_json, needed, numbers, probabilities
from sciinf.core.files import read_json, sha256_of
from sciinf.core.given import prior_given
from sciinf.core.observable import Status
from sciinf.core.paths import HiddenPaths
from sciinf.core.prior import Prior
from sciinf.core.probabilities import Probabilities
from sciinf.core.records import STATES, Calibration, Strange
from sciinf.interfaces.answer import disagreement
from sciinf.interfaces.draws_file import read_draws_h5
from sciinf.interfaces.figures.checked import Checked, checked_of, with_strange
from sciinf.interfaces.paths_file import read_paths
from sciinf.interfaces.predictive_file import read_predictive
from sciinf.interfaces.run_answers import answer_folders, newest_answers, refined_folders

STORES = {"simulations": "training", "calibration_simulations": "calibration"}
_MESSAGES = 5
_LOOKED_AT = 500
T = TypeVar("T")


@dataclass(frozen=True)
class StoreSummary:
    """Summary of one store of simulations.

    Args:
        simulator: Name of the simulator.
        rows: Number of simulations in the store.
        asked: Number of simulations asked for.
        counts: Status -> number of rows.
        messages: First failures whose messages differ: (row, status, message) of each.
        seed: Seed of the campaign.
        seconds: Time spent simulating, over all workers, in seconds.
        prior: Prior that the store records for the parameters.
        observables: Names of the observables, in the simulator's order.
        proposed: Whether the parameters were drawn from a proposal instead of the prior.
    """

    simulator: str
    rows: int
    asked: int
    counts: Mapping[Status, int]
    messages: tuple[tuple[int, str, str], ...]
    seed: int
    seconds: float
    prior: Prior
    observables: tuple[str, ...]
    proposed: bool

    @property
    def failed(self) -> int:
        """Number of simulations that did not give finite data."""
        return sum(n for status, n in self.counts.items() if status is not Status.OK)


@dataclass(frozen=True)
class Run:
    """Content of a run folder; a missing part is None or empty, and `missing` says why.

    Args:
        folder: Path of the folder.
        answer: Content of `answer.json`.
        draws: Posterior draws in `draws.h5`.
        checked: Observables of `predictive.h5`, with observation and predictions.
        calibration: Content of `calibration.json`.
        fit: Content of `fit/fit.json`.
        history: Columns of `fit/history.csv`.
        stores: Folder name -> summary of the simulations in this folder.
        provenance: Content of `provenance.json`.
        missing: Name of a missing part -> why the part is missing.
        doubts: Sentences on what is damaged, and on what could not be checked.
        predicted_from: Draws that the predictions were simulated from, (m, D); empty where they are unknown.
        paths: Hidden paths: quantities that were not observed, along time.
        beside: Label of another answer -> that answer, as it is shown beside this one.
    """

    folder: Path
    answer: Mapping[str, Any]
    draws: Draws | None
    checked: tuple[Checked, ...]
    calibration: Calibration | None
    fit: Mapping[str, Any]
    history: Mapping[str, Float[np.ndarray, " e"]]
    stores: Mapping[str, StoreSummary]
    provenance: Mapping[str, Any]
    missing: Mapping[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    predicted_from: Float[np.ndarray, "m theta"] = field(default_factory=lambda: np.zeros((0, 0)))
    paths: HiddenPaths = field(default_factory=HiddenPaths)
    beside: Mapping[str, OtherAnswer] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the simulator, or of the folder if the simulator's name is unknown."""
        named = [s.simulator for s in self.stores.values()] + [str(self.fit.get("simulator", {}).get("name", ""))]
        return next((n for n in named if n), self.folder.resolve().name)

    @property
    def prior(self) -> Prior | None:
        """Prior of the simulations, or else of the fit; None if neither records a prior."""
        for store in self.stores.values():
            return store.prior
        try:
            return Prior.from_json(self.fit["estimator"]["arguments"]["prior"]["$prior"])
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def level(self) -> float:
        """Credible level of the answer."""
        return next((float(e["level"]) for e in (self.answer.get("parameters") or {}).values()), 0.9)

    @property
    def least(self) -> float:
        """Weight of one effective draw, 1 / ESS, or 0 if the ESS is unknown.

        An event that happens in no draw is less probable than this weight.
        """
        return 1 / ess if (ess := self.answer.get("ess")) else 0.0

    @property
    def numbers(self) -> dict[str, Mapping[str, Any]]:
        """Estimates of the answer that have a median and an interval, as `answer.json` has them: name -> estimate."""
        return numbers(self.answer.get("parameters") or {})

    @property
    def probabilities(self) -> dict[str, Probabilities]:
        """Probabilities of the values of each discrete parameter of the answer, by name."""
        return probabilities(self.answer.get("parameters") or {})

    @property
    def given(self) -> dict[str, str]:
        """Most probable values of the discrete parameters, which select the pictured draws; {} if there are none."""
        return {} if self.draws is None else self.draws.most_probable()

    @property
    def pictured(self) -> Draws | None:
        """Draws that are pictured: those with the most probable values of the discrete parameters."""
        return None if self.draws is None else self.draws.given(**self.given)

    @property
    def pictured_prior(self) -> Prior | None:
        """Prior of the pictured draws, with the discrete parameters at their most probable values."""
        return None if self.prior is None else prior_given(self.prior, self.given)


@dataclass
class _FolderParts:
    """Reader of the parts of a folder, which notes why a part is missing."""

    folder: Path
    missing: dict[str, str]
    vouched: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # File -> its hash, and what states the hash.
    doubts: list[str] = field(default_factory=list)

    def read(self, name: str, file: str, read: Callable[[Path], T], empty: T, why: str) -> T:
        path = self.folder / file
        if not path.exists():
            self.missing[name] = why
            return empty
        try:
            with _told(self.doubts):
                expected, by = self.vouched.get(file, ("", ""))
                if by and sha256_of(path.read_bytes()) != expected:
                    raise ValueError(f"it is damaged, or not of the {by}")
                return read(path)
        except (ValueError, OSError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            self.missing[name] = f"{file} could not be read: {why}{_WAY_OUT.get(file, '')}"
            self.doubts.append(self.missing[name])
            return empty


def read_runs(folder: str | Path, names: Sequence[str] | None = None, *, replaced: bool = False) -> dict[str, Run]:
    """Read a run folder: name of each answer -> the run with this answer.

    A folder without answers gives one run without an answer, under the name "". If an answer was refined, the refined
    answer is read. The folder of its run is then the one of the rounds around the observation.

    Args:
        folder: Path of the run folder.
        names: Names of the answers to read; all when left out.
        replaced: Whether to read the answers from before the refinement.

    Raises:
        FileNotFoundError: If the folder holds nothing to report on.
        ValueError: If the folder has no answer of a given name.
    """
    folder = Path(folder)
    known = answer_folders(folder) if replaced else newest_answers(folder)
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f"{folder} holds no answer called {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    run = read_common(folder)
    refined = {near: read_common(near) for near in refined_folders(folder).values()}
    own = {place: one for near, one in refined.items() for place in answer_folders(near).values()}
    runs = {name: _with_answer(own.get(known[name], run), known[name]) for name in names or known}
    runs = runs or {"": _with_answer(run, folder)}
    one = next(iter(runs.values()))
    if not (one.answer or run.calibration or run.fit or run.history or run.stores):
        raise FileNotFoundError(
            f"{folder} holds nothing to report on (no answer.json, calibration.json, fit or simulations); run "
            "`sciinf infer` with this folder as --out, or give the folder that a run wrote"
        )
    return runs


def _with_answer(run: Run, folder: Path) -> Run:
    """Run with the answer in `folder` added."""
    missing = dict(run.missing)
    parts = _FolderParts(folder, missing)
    answer = parts.read(
        "answer", "answer.json", _read_answer, {}, "No observation has been asked about in this folder."
    )
    if not answer and (folder / "answer.json").exists():
        parts.vouched = dict.fromkeys(
            ("draws.h5", "predictive.h5"), ("", "answer in answer.json, which cannot be read")
        )
    else:
        parts.vouched = {name: (sha, "answer in answer.json") for name, sha in (answer.get("sha256") or {}).items()}
    nothing: tuple[tuple[Checked, ...], np.ndarray] = (), np.zeros((0, 0))
    checked, theta = parts.read("checked", "predictive.h5", _read_predictive, nothing, NOT_PREDICTED)
    try:
        where = [Strange.from_json(one) for one in (answer.get("trust") or {}).get("where") or ()]
        checked = tuple(with_strange(one, where) for one in checked)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        parts.doubts.append(f"answer.json: what is strange of the observation could not be read: {error!r}")
    others: dict[str, OtherAnswer] = {}
    try:
        others = {label: OtherAnswer.from_json(one) for label, one in (answer.get("beside") or {}).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        parts.doubts.append(f"answer.json: the answers beside it could not be read: {error!r}")
    order = next((s.observables for s in run.stores.values()), ())
    found = replace(
        run,
        answer=answer,
        draws=parts.read("draws", "draws.h5", read_draws_h5, None, "The folder holds no posterior draws (draws.h5)."),
        checked=tuple(sorted(checked, key=lambda c: order.index(c.name) if c.name in order else len(order))),
        missing=missing,
        predicted_from=theta,
        beside=others,
        paths=parts.read("paths", "paths.h5", read_paths, HiddenPaths(), "")
        if "paths.h5" in parts.vouched
        else HiddenPaths(),
    )
    return replace(found, doubts=tuple(dict.fromkeys([*run.doubts, *parts.doubts, *_disagreeing(found)])))


def read_common(folder: Path) -> Run:
    """Run with the parts that all its answers have in common, such as fit, simulations and calibration."""
    missing: dict[str, str] = {}
    parts = _FolderParts(folder, missing)
    part = parts.read
    fit = part("fit", "fit/fit.json", _read_object, {}, "The folder holds no finished fit (fit/fit.json).")
    parts.vouched = {f"fit/{name}": (sha, "fit in fit/fit.json") for name, sha in (fit.get("sha256") or {}).items()}
    stores: dict[str, StoreSummary] = {}
    for name, purpose in STORES.items():
        found = part(name, f"{name}/store.json", _read_store, None, f"The folder holds no {purpose} simulations.")
        if found is not None:
            stores[name] = found
    return Run(
        folder,
        answer={},
        draws=None,
        checked=(),
        calibration=part("calibration", "calibration.json", _read_calibration, None, _NOT_CALIBRATED),
        fit=fit,
        history=part("history", "fit/history.csv", _read_history, {}, "The folder holds no training history."),
        stores=stores,
        provenance=part("provenance", "provenance.json", _read_object, {}, "The command that ran was not recorded."),
        missing=missing,
        doubts=(*parts.doubts, *filter(None, [foreign_fit(folder, fit)])),
    )


@contextmanager
def _told(doubts: list[str]) -> Iterator[None]:
    """Collect the warnings of a block of code as sentences in `doubts`."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield
    doubts += [str(warning.message) for warning in told]


def _disagreeing(run: Run) -> list[str]:
    """List with a sentence on how the answer's estimates differ from its draws; empty if they agree."""
    if run.draws is None or not run.answer.get("parameters"):
        return []
    try:
        differing = disagreement({n: estimate_from_json(e) for n, e in run.answer["parameters"].items()}, run.draws)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        differing = f"it has estimates that cannot be compared with them ({error!r})"
    return [f"answer.json is not of the draws in draws.h5: {differing}."] if differing else []


NOT_PREDICTED = "No data were simulated from the posterior, because the question was asked without a simulator."
_WAY_OUT = {
    "answer.json": "; ask again with `sciinf query`",
    "draws.h5": "; ask again with `sciinf query`",
    "predictive.h5": "; ask again with `sciinf query`",
    "calibration.json": "; `sciinf calibrate` makes it again",
}
_NOT_CALIBRATED = "The posterior has not been checked on fresh simulations; `sciinf calibrate` does that."


def _read_object(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"expected a JSON object, but the file holds {type(data).__name__}")
    return data


def _read_answer(path: Path) -> dict[str, Any]:
    """Read an answer, and check that it has all entries that the page shows."""
    answer = _read_object(path)
    for name, estimate in (answer.get("parameters") or {}).items():
        _has(estimate, f"the parameter {name!r}", *needed(estimate))
    for place, check in enumerate(answer.get("checks") or ()):
        known = isinstance(check, dict) and check.get("name")
        _has(check, f"the check {check['name']!r}" if known else f"check {place + 1}", "name", "level", "verdict")
    said = answer.get("calibration")
    if said:
        _has(said, "the calibration", "reasons", *(() if "state" in said else ("passed",)))
        if said.get("state") != "not checked":
            _known_state(said.get("state") or "passed")
    return answer


def _has(record: Any, what: str, *keys: str) -> None:
    """Raise ValueError if a record is no JSON object or lacks one of the keys."""
    if not isinstance(record, dict):
        raise ValueError(f"{what} is not a JSON object")
    lacking = [key for key in keys if key not in record]
    if lacking:
        raise ValueError(f"{what} has no {lacking[0]!r}")


def _read_calibration(path: Path) -> Calibration:
    found = Calibration.from_json(_read_object(path))
    _known_state(found.state)
    return found


def _known_state(state: str) -> None:
    if state not in STATES:
        raise ValueError(f"the calibration's state is {state!r}, none of {', '.join(map(repr, STATES))}")


def _read_history(path: Path) -> dict[str, np.ndarray]:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError("the file has no rows")
    return {name: np.array([float(row[name]) for row in rows]) for name in ("epoch", "train_loss", "validation_loss")}


def _read_predictive(path: Path) -> tuple[tuple[Checked, ...], np.ndarray]:
    """Observables with their predictions, and the draws that the predictions were simulated from."""
    found = read_predictive(path)
    return checked_of(found), np.asarray(found.theta, dtype=float)


def _read_store(path: Path) -> StoreSummary:
    store = Store(path.parent)
    counts = store.counts
    failures = store.failures(_LOOKED_AT) if any(n for s, n in counts.items() if s is not Status.OK) else []
    messages: dict[str, tuple[int, str, str]] = {}
    for failure in failures:
        text = failure.message or "no message"
        messages.setdefault(text, (failure.row, _words(failure.status), text))
    return StoreSummary(
        simulator=str(store.simulator.get("name", "")),
        rows=len(store),
        asked=store.rows,
        counts=counts,
        messages=tuple(messages.values())[:_MESSAGES],
        seed=store.seed,
        seconds=store.seconds,
        prior=store.prior,
        observables=tuple(store.observables),
        proposed=store.proposal is not None,
    )


def _words(status: Status) -> str:
    return status.name.lower().replace("_", "-" if status is Status.NON_FINITE else " ")
