"""The runs that are served: each is opened once, is only read, and has the name of its folder.

No text of a request becomes a path. A request names a run, and only the runs given when the service began are found.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from sciinf.core import Calibration, Observation, Simulator, X, load_simulator
from sciinf.core.files import read_json, sha256_of
from sciinf.core.simulator import identity
from sciinf.core.telling import ERROR, tell
from sciinf.diagnostics.judge import Judge
from sciinf.interfaces.asking import Answerers, Answering
from sciinf.interfaces.figures.run_folder import Run, read_common
from sciinf.interfaces.given_files import reader_of, reading
from sciinf.interfaces.predictive_file import read_predictive
from sciinf.interfaces.question import QueryOptions, Question, judge_of, question
from sciinf.interfaces.reader_keywords import check_needed, retyped
from sciinf.interfaces.run_answers import newest_answers, values_digest
from sciinf.interfaces.serve.live import unfinished
from sciinf.posteriors.posterior import build_posterior, fit_of


@dataclass(frozen=True)
class Served:
    """Location of a run, and the simulator and settings with which it is opened.

    Args:
        name: Name of the run in addresses.
        folder: Path of the run folder.
        simulator: Path of the simulator's file; "" for none.
        without: Reason why there is no simulator, in words.
        device: Device on which the networks run.
        options: Keywords of the simulator's reader, as text, with which the run's data were read.
        code: Identity of the simulator (`core.simulator.identity`) when it was found. If left out, any is accepted.
        young: Whether the run was not ready when the service began, so that simulator and options are found later.
    """

    name: str
    folder: str
    simulator: str = ""
    without: str = ""
    device: str = "cpu"
    options: Mapping[str, str] = field(default_factory=dict)
    code: Mapping[str, str] = field(default_factory=dict)
    young: bool = False

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def ready(self) -> bool:
        """Whether the folder has a fit, and no run in it still works on a calibration or first answers."""
        folder = Path(self.folder)
        return any((folder / file).is_file() for file in ("fit/fit.json", "fit.json")) and not unfinished(folder)


class UnknownName(LookupError):
    """The service knows no run, or no earlier question, of the requested name or id; the message says more."""


class NotReady(LookupError):
    """The run cannot be asked, because it is not trained yet, is damaged or has changed; the message says which."""


@dataclass(frozen=True)
class KnownObservation:
    """An observation that the run has answered.

    Args:
        values: Observable name -> array (*event).
        read: How the values were read from files.
        folder: Folder of the answer.
        digest: Digest of the values.
    """

    values: Mapping[str, np.ndarray]
    read: tuple[str, ...]
    folder: Path
    digest: str


@final
class Model:
    """A run that is open for questions.

    Args:
        source: Location of the run, and the settings with which it is opened.

    Raises:
        NotReady: If there is no fit yet, or the simulator has changed since it was found.
        ValueError: If a file of the run is damaged, or the simulator's reader does not accept the options of `source`.
    """

    def __init__(self, source: Served) -> None:
        if not source.ready:
            raise NotReady(
                f"{source.name} is not trained yet, so it cannot be asked: wait for `sciinf infer` or `sciinf train`"
            )
        self.source, self.folder = source, Path(source.folder)
        trust = (Path(source.simulator),) if source.simulator else ()
        self.simulator: Simulator | None = load_simulator(source.simulator) if source.simulator else None
        self._code = {} if self.simulator is None else identity(self.simulator)
        if source.code and self._code != source.code:
            raise NotReady(f"{source.simulator} has changed since the service began: begin the service anew")
        self._options = {} if self.simulator is None else retyped(reader_of(self.simulator), source.options)
        self.fit = fit_of(self.folder, device=source.device, trust=trust)
        first = build_posterior(self.fit, self.simulator)
        self.learned = Answerers(self.folder, first, source.device, self.simulator)
        self.prior, self.observables = first.prior, dict(first.observables)
        self.known = _observations(self.folder)
        self._judges: dict[tuple[Path, str], Judge] = {}
        self._runs: dict[Path, Run] = {}
        here = [one for one in self.learned.every() if one.folder == self.folder]
        self.first = self.judge(here[-1])  # In the folder of a refined answer, take the refined posterior.
        self.digest = self._digest()

    @property
    def name(self) -> str:
        return self.source.name

    def _digest(self) -> str:
        """Digest of all that an answer depends on: the posteriors, their calibrations, and the simulator."""
        said: list[Any] = [self.fit.digest, sorted(self._code.items())]
        for one in self.learned.every():
            c = one.calibration
            said.append((one.posterior.digest, c and (c.fit, c.simulations, c.rows, c.draws, c.reasons)))
        return sha256_of(repr(said))

    def judge(self, asked: Answering) -> Judge:
        """The `Judge` of a posterior and its calibration, built once and then kept."""
        key = asked.folder, asked.posterior.digest  # The folder of a refined answer has two posteriors.
        if key not in self._judges:
            self._judges[key] = judge_of(asked.posterior, asked.calibration, "exclude")
        return self._judges[key]

    def question(self, x: Any, wanted: QueryOptions) -> tuple[Answering, Question]:
        """Choose the posterior that answers a question, and build the question to it.

        Args:
            x: One observation: observable name -> array of its event shape.
            wanted: Options of the query.

        Raises:
            ValueError: If x does not fit the observables or is not finite; or, in the folder of a refined answer, if x
                is too far from the observation of that answer.
        """
        asked = self.learned.answering(x, wanted.name)
        return asked, question(self.judge(asked), x, self.simulator, wanted)

    def folders_of(self, x: X) -> list[Path]:
        """Folders of the answers to an observation that the run had when it was opened.

        Args:
            x: The observation, name -> (1, *event).
        """
        digest = values_digest(x)
        return [known.folder for known in self.known.values() if known.digest == digest]

    def calibration_in(self, where: str) -> Calibration | None:
        """Calibration of the posterior in a folder, whose path is relative to the run folder; None if there is none."""
        return next((one.calibration for one in self.learned.every() if one.folder == self.folder / where), None)

    def calibration_of(self, fit: str) -> Calibration | None:
        """Calibration of the fit with a given digest; None if there is none."""
        known = [one.calibration for one in self.learned.every()]
        return next((one for one in known if one and one.fit == fit), None)

    def read(self, paths: Sequence[str], columns: Mapping[str, str]) -> Any:
        """Read one observation from files, as `sciinf query` reads it."""
        if self.simulator is not None:
            check_needed(reader_of(self.simulator), self._options, Path(self.source.simulator).name)
        return reading(self.simulator, self.observables, columns, self._options)(*paths)

    def run(self, folder: Path) -> Run:
        """Content of the folder whose posterior answered, for the verdict."""
        if folder not in self._runs:
            found, where = read_common(folder), folder.relative_to(self.folder).as_posix()
            calibration, fit = self.calibration_in(where), found.fit
            if folder == self.folder:
                fit = {**fit, "digest": self.fit.digest}  # The folder may hold another fit by now.
            missing = {"calibration": "The posterior was not calibrated when the service began.", **found.missing}
            self._runs[folder] = replace(found, calibration=calibration, fit=fit, missing=missing)
        return self._runs[folder]


@final
class Models:
    """The runs by name; each run is opened when it is first needed, and stays open.

    Args:
        sources: Locations of the runs.
        find: Finds the simulator and options of a run that was not ready when the service began, once the run is ready.

    Raises:
        ValueError: If two runs have the same name.
    """

    def __init__(self, sources: Sequence[Served], find: Callable[[Served], Served] | None = None) -> None:
        self._find = find
        self.sources = {source.name: source for source in sources}
        if len(self.sources) < len(sources):
            names = [source.name for source in sources]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two runs are called {twice!r}, and an address names one of them; rename a folder")
        self._opened: dict[str, Model] = {}
        self._lock = threading.Lock()

    def source(self, name: str) -> Served:
        """Location of a run, and the settings with which it is opened.

        Raises:
            UnknownName: If no run of that name is served.
        """
        if name not in self.sources:
            raise UnknownName(f"no run called {name[:80]!r} is served; there is {', '.join(self.sources)}")
        return self.sources[name]

    def opened(self, name: str) -> Model | None:
        """The run with the given name if it is open already, else None.

        Raises:
            UnknownName: If no run of that name is served.
        """
        self.source(name)
        return self._opened.get(name)

    def get(self, name: str) -> Model:
        """The run with the given name, which is opened now if it is not open yet.

        Raises:
            UnknownName: If no run of that name is served.
            NotReady: If the run is not trained yet or is damaged, or its simulator has changed.
        """
        self.source(name)
        with self._lock:
            if name not in self._opened:
                self._opened[name] = self._open(name)
            return self._opened[name]

    def learn(self, source: Served) -> None:
        """Take over the source of a run that was not ready before; a run that is open already stays as it is."""
        with self._lock:
            if self.sources[source.name].young:
                self.sources[source.name] = source

    def _open(self, name: str) -> Model:
        source = self.sources[name]
        try:
            if source.young and source.ready and self._find is not None:
                source = replace(self._find(source), young=False)
            found = Model(source)
        except NotReady:
            raise
        except Exception as error:  # A damaged folder or the simulator's code may raise anything.
            if not isinstance(error, ValueError | OSError):
                tell("".join(traceback.format_exception(error)), ERROR)
            words = " ".join(str(error).split()) or type(error).__name__
            raise NotReady(f"{name} cannot be asked: {words}") from error
        self.sources[name] = source
        return found


def _observations(run: Path) -> dict[str, KnownObservation]:
    """The observations that a run has answered, by name; those that cannot be read are left out."""
    found = {}
    for name, folder in newest_answers(run).items():
        try:
            values = read_predictive(folder / "predictive.h5").observation
            read = tuple(map(str, read_json(folder / "answer.json").get("read", ())))
        except (OSError, ValueError, KeyError, AttributeError):
            continue
        if values:
            found[name] = KnownObservation(values, read, folder, values_digest(values))
    return found


def as_given(known: KnownObservation) -> Observation:
    """An observation that the run has answered, in the form in which it was read from files."""
    import torch

    return Observation({name: torch.as_tensor(value) for name, value in known.values.items()}, known.read)
