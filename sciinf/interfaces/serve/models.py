"""The runs that are served: opened once, read only, each known by its folder's name.

No word from outside becomes a path: a request names a run, and a run of that name was given when the service began.
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
from sciinf.core.keywords import check_needed, retyped
from sciinf.core.simulator import identity
from sciinf.core.telling import ERROR, tell
from sciinf.diagnostics.judge import Judge
from sciinf.interfaces.asking import Answerers, Answering
from sciinf.interfaces.figures.run_folder import Run, read_common
from sciinf.interfaces.given_files import reader_of, reading
from sciinf.interfaces.predictive_file import read_predictive
from sciinf.interfaces.question import QueryOptions, Question, judge_of, question
from sciinf.interfaces.run_answers import newest_answers, values_digest
from sciinf.interfaces.serve.live import unfinished
from sciinf.posteriors.posterior import build_posterior, fit_of


@dataclass(frozen=True)
class Served:
    """Where a run lies, and what it is opened with.

    Args:
        name: What it is called in addresses.
        folder: The run folder.
        simulator: The simulator's file; "" for none.
        without: Why there is none, in words.
        device: Where networks go.
        options: Keywords of the simulator's reader, as the run's data were read, as text.
        code: What tells the simulator from others (`core.simulator.identity`), as it was when it was found; of any
            where left out.
        young: Whether there was nothing to be asked when the service began, so that the rest is still to be found.
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
        """Whether there is a fit to be asked, and all that a run under way has still to say of it."""
        folder = Path(self.folder)
        return any((folder / file).is_file() for file in ("fit/fit.json", "fit.json")) and not unfinished(folder)


class UnknownName(LookupError):
    """Nothing of that name is served; the message says what is."""


class NotReady(LookupError):
    """The run cannot be asked: it has learned nothing yet, is damaged or has changed; the message says so."""


@dataclass(frozen=True)
class KnownObservation:
    """An observation that the run has answered.

    Args:
        values: Its values, name -> array (*event).
        read: How they were read.
        folder: Where the answer lies.
        digest: Of the values.
    """

    values: Mapping[str, np.ndarray]
    read: tuple[str, ...]
    folder: Path
    digest: str


@final
class Model:
    """A run that is open.

    Args:
        source: Where it lies.

    Raises:
        NotReady: If there is no fit yet, or the simulator has changed since it was found.
        ValueError: If something in it is damaged, or the simulator's reader does not take what the data were read with.
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
        self.first = self.judge(here[-1])  # in a refined answer's own folder that is the refined one
        self.digest = self._digest()

    @property
    def name(self) -> str:
        return self.source.name

    def _digest(self) -> str:
        """Of all that an answer rests on: what was learned, how it was calibrated, and the simulator."""
        said: list[Any] = [self.fit.digest, sorted(self._code.items())]
        for one in self.learned.every():
            c = one.calibration
            said.append((one.posterior.digest, c and (c.fit, c.simulations, c.rows, c.draws, c.reasons)))
        return sha256_of(repr(said))

    def judge(self, asked: Answering) -> Judge:
        """What answers, with its calibration made ready; the same one each time."""
        key = asked.folder, asked.posterior.digest  # in the folder of a refined answer there are two
        if key not in self._judges:
            self._judges[key] = judge_of(asked.posterior, asked.calibration, "exclude")
        return self._judges[key]

    def question(self, x: Any, wanted: QueryOptions) -> tuple[Answering, Question]:
        """What answers a question, and the question to it.

        Args:
            x: One observation: observable name -> array of its event shape.
            wanted: What is asked for.

        Raises:
            ValueError: If x does not fit the observables, is not finite, or is too far from what was refined.
        """
        asked = self.learned.answering(x, wanted.name)
        return asked, question(self.judge(asked), x, self.simulator, wanted)

    def folders_of(self, x: X) -> list[Path]:
        """Where the answers lie that the run had to an observation when it was opened.

        Args:
            x: The observation, name -> (1, *event).
        """
        digest = values_digest(x)
        return [known.folder for known in self.known.values() if known.digest == digest]

    def calibration_in(self, where: str) -> Calibration | None:
        """The calibration of what answers from a folder within the run's."""
        return next((one.calibration for one in self.learned.every() if one.folder == self.folder / where), None)

    def calibration_of(self, fit: str) -> Calibration | None:
        """The calibration of a fit, by its digest."""
        known = [one.calibration for one in self.learned.every()]
        return next((one for one in known if one and one.fit == fit), None)

    def read(self, paths: Sequence[str], columns: Mapping[str, str]) -> Any:
        """What reads files as `sciinf query` reads them: paths -> one observation."""
        if self.simulator is not None:
            check_needed(reader_of(self.simulator), self._options, Path(self.source.simulator).name)
        return reading(self.simulator, self.observables, columns, self._options)(*paths)

    def run(self, folder: Path) -> Run:
        """What the folder that answered holds, for the verdict."""
        if folder not in self._runs:
            found, where = read_common(folder), folder.relative_to(self.folder).as_posix()
            calibration, fit = self.calibration_in(where), found.fit
            if folder == self.folder:
                fit = {**fit, "digest": self.fit.digest}  # what was opened, whatever lies there by now
            missing = {"calibration": "The posterior was not calibrated when the service began.", **found.missing}
            self._runs[folder] = replace(found, calibration=calibration, fit=fit, missing=missing)
        return self._runs[folder]


@final
class Models:
    """The runs by name; each is opened when it is first asked for, and stays so.

    Args:
        sources: Where they lie.
        find: Finds anew what a run is opened with that was young when the service began, now that it is not.

    Raises:
        ValueError: If two have one name.
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
        """Where a run lies.

        Raises:
            Unknown: If there is none of that name.
        """
        if name not in self.sources:
            raise UnknownName(f"no run called {name[:80]!r} is served; there is {', '.join(self.sources)}")
        return self.sources[name]

    def opened(self, name: str) -> Model | None:
        """A run that is open already.

        Raises:
            Unknown: If there is none of that name.
        """
        self.source(name)
        return self._opened.get(name)

    def get(self, name: str) -> Model:
        """A run, opened if it is not.

        Raises:
            Unknown: If there is none of that name.
            NotReady: If it has learned nothing yet, is damaged, or its simulator has changed.
        """
        self.source(name)
        with self._lock:
            if name not in self._opened:
                self._opened[name] = self._open(name)
            return self._opened[name]

    def learn(self, source: Served) -> None:
        """Take in what a run is opened with, which was young before; one that is open stays so."""
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
        except Exception as error:  # of a folder that is damaged, or of the simulator's own code
            if not isinstance(error, ValueError | OSError):
                tell("".join(traceback.format_exception(error)), ERROR)
            words = " ".join(str(error).split()) or type(error).__name__
            raise NotReady(f"{name} cannot be asked: {words}") from error
        self.sources[name] = source
        return found


def _observations(run: Path) -> dict[str, KnownObservation]:
    """The observations that a run has answered; one that cannot be read is left out."""
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
    """An observation of the run, as it was read from its files."""
    import torch

    return Observation({name: torch.as_tensor(value) for name, value in known.values.items()}, known.read)
