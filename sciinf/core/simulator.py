"""Simulators: the interface to a scientist's program, how its file is loaded, and what identifies it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from sciinf.core.code import FILE, changed, is_mark, marks, marks_beside, only_code, only_text, same_mark, text_of
from sciinf.core.derived import Function
from sciinf.core.loading import load_module
from sciinf.core.observable import Observable, Outcome, X, event_of
from sciinf.core.paths import HiddenPaths
from sciinf.core.prior import Prior
from sciinf.core.tables import html

FILES = ("source", "code")
"""What stands for files, the simulator's own and those beside it, in what is recorded of a simulator."""
SURROGATE, BARE = "surrogate", "surrogate without its error"
"""What stands there for the surrogate that makes the data; the simulator's name already tells surrogates apart."""


class Simulator(ABC):
    """A program that turns parameters into data, a batch at a time.

    A subclass sets `name`, `prior` and `observables` and defines `__call__`. Everything else is optional:

    - `block`: Number of rows simulated in one batch, recorded in every store.
    - `files`: Paths of the files that the simulator reads beside its code: a program, a template, a grid.
    - `by_row`: Whether row i of a batch is the same however many rows follow it.
    - `former_name`: The simulator's name in earlier versions of its file.
    - `observe(*paths)`: The method that reads real data, for data of another form than columns.
    - `log_likelihood(theta, x)`: log p(x | theta), (batch,), if it is tractable. theta is (batch, D); x has
      the same batch, or a batch of one, which is repeated.
    - `random_likelihood`: True if `log_likelihood` is the logarithm of an unbiased estimate of p(x | theta),
      as from a particle filter. Such an estimate is exact as an importance weight, where its noise averages
      out. It is not a log density.
    - `settings()`: What the simulations depend on beside file and prior, such as constructor arguments: name
      -> text. Simulations with other settings belong to another campaign.
    - `reference(x, n, generator)`: n draws, (n, D), from the posterior given one observation, if it is known.
    - `paths(theta, x, generator)`: A path of the hidden state for each theta, given the data x (a batch of
      one), if the model has a hidden state (`core.paths.HiddenPaths`).
    - `like(x)`: A simulator of the same observables with the observation times (`NAME_times`), missing values
      (`NAME_mask`) and controls (`Observable.control`) of x (a batch of one). It makes the simulations that
      are compared with the observation: predictions, and simulations around its posterior. These times, masks
      and controls must not depend on the parameters.
    - `statistics(x)`: Statistics of the data that the model must reproduce, beside its residuals
      (`diagnostics.residuals`): data, name -> (batch, *event), to statistic -> (batch,). For a simulator made
      by a wrapper, set `simulator.statistics = f`.
    - `rescaled(theta, x)`: For data that are times of events: one number for each interval between events,
      (batch, any), NaN where there is no interval. If the model is right, these numbers are independent and
      Uniform(0, 1). theta and x are as for `log_likelihood`. An answer then says whether the events fit the
      model's times (`diagnostics.rescaled`).

    - `emulated_by`: {"surrogate": its description, with its error on held-out solutions} if a surrogate makes
      the data, or {"surrogate without its error": ...} if the data do not include that error. Empty if there
      is no surrogate. A wrapper passes it on. Answers learned from such data name the surrogate.

    - `derived`: Quantities that follow from the parameters, name -> `function` or `(function, unit)`. The
      function takes a mapping parameter -> values in the prior's units, float64 (n,). It returns the values
      of the quantity, (n,), in the given unit, or without unit. A quantity of astropy is converted to the
      given unit.
    - `labels`: Name of a parameter or derived quantity -> one line of text, for tables and exports.

    Neither affects simulations or training. The statements `simulator.derived = {...}` and
    `simulator.labels = {...}` in a file therefore do not count as a change of the file.
    """

    name: str
    prior: Prior
    observables: Mapping[str, Observable]
    block: int = 4096
    by_row: bool = False
    source: Path | None = None
    files: Sequence[Path] = ()
    former_name: str = ""
    log_likelihood: Callable[[Tensor, X], Tensor] | None = None
    random_likelihood: bool = False
    emulated_by: Mapping[str, str] = MappingProxyType({})
    settings: Callable[[], Mapping[str, str]] | None = None
    reference: Callable[[X, int, torch.Generator], Tensor] | None = None
    statistics: Callable[[X], Mapping[str, Tensor]] | None = None
    rescaled: Callable[[Tensor, X], Tensor] | None = None
    derived: Mapping[str, Function | tuple[Function, Any]] = MappingProxyType({})
    labels: Mapping[str, str] = MappingProxyType({})
    reader: Callable[..., Any] | None = None
    paths: Callable[[Tensor, X, torch.Generator], HiddenPaths] | None = None
    like: Callable[[X], Simulator] | None = None

    def __repr__(self) -> str:
        where = f", in {self.source}" if self.source is not None else ""
        return f"simulator {self.name!r} of {self.prior}: {event_of(self.observables)}{where}"

    def _repr_html_(self) -> str:
        """The HTML table of parameters, derived quantities and observables that a notebook shows."""
        rows = [["", "name", "unit", "shape"]]
        rows += [["parameter", n, u or "-", ""] for n, u in zip(self.prior.names, self.prior.units, strict=True)]
        rows += [["derived", name, "", ""] for name in self.derived]
        rows += [["observable", n, o.unit or "-", str(o.shape)] for n, o in self.observables.items()]
        known = "estimated" if self.random_likelihood else "known"
        facts = [("likelihood", known if self.log_likelihood is not None else "unknown")]
        facts += [("in", str(self.source))] if self.source is not None else []
        return html(f"simulator {self.name!r}", rows, facts)

    @abstractmethod
    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Outcome | X:
        """Simulate a batch.

        Args:
            theta: Parameters, (batch, D), in the prior's order and units.
            generator: The only source of randomness, on theta's device.

        Returns:
            The data, observable name -> (batch, *event), or an `Outcome` with a status per row.
        """

    def observe(self, *paths: str | Path, columns: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """One observation from files of real data: observable name -> tensor (*event).

        This method reads columns with the names of the observables (`sciinf.core.observation`). If a wrapper
        was given a function `reader`, that function reads the files instead. A simulator whose data have
        another form defines its own `observe(*paths)`. Keywords of that method become options of the
        commands: for `observe(*paths, gps: float)` the option is `--gps 1126259462.4`, with the type of the
        annotation or default.

        Args:
            paths: The files.
            columns: Observable -> name of its column in the files, for names that differ.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the data do not fit the observables, or `columns` is given and `reader` reads the
                files.
        """
        from sciinf.core.observation import as_observation, read_observation

        if self.reader is None:
            return read_observation(self.observables, *paths, columns=columns)
        if columns:
            who = getattr(self.reader, "__name__", type(self.reader).__name__)
            raise ValueError(f"the function {who!r} reads the files, and takes no names of columns: leave out --column")
        return {name: value[0] for name, value in as_observation(self.observables, self.reader(*paths)).items()}


def load_simulator(path: str | Path) -> Simulator:
    """The simulator that a Python file, or a folder with `__init__.py`, defines under the name `simulator`.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        TypeError: If the file defines no `simulator`, or one that is not a `Simulator` or lacks a name, a
            prior or observables.
    """
    path = Path(path).resolve()
    file = path / "__init__.py" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no simulator at {path}: expected a Python file, or a folder with __init__.py")
    module = load_module(file)
    simulator = getattr(module, "simulator", None)
    if not isinstance(simulator, Simulator):
        found = f"it is {type(simulator).__name__}" if simulator is not None else "it defines none"
        raise TypeError(
            f"{path} must define `simulator`, an instance of sciinf's Simulator or of a wrapper; {found}"
            + _nearest(module, simulator)
        )
    for part, example in _PARTS.items():
        if getattr(simulator, part, None) is None:
            kind = type(simulator).__name__
            raise TypeError(f"{path}: the simulator has no {part}; write `{part} = {example}` into its class {kind}")
    simulator.source = path
    return simulator


_PARTS = {"name": '"decay"', "prior": "Prior(rate=Normal(0.0, 1.0))", "observables": '{"v": Observable((50,), "mV")}'}


def _nearest(module: Any, found: Any) -> str:
    """Advice, in words, on what a module should name `simulator`: an existing simulator or a new instance."""
    if isinstance(found, type):
        return f", the class {found.__name__}: write `simulator = {found.__name__}()`"
    names = [name for name, value in vars(module).items() if isinstance(value, Simulator)]
    if names:
        return f", but {', '.join(names)}: write `simulator = {names[0]}`"
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Simulator)]
    own = [value.__name__ for value in classes if value.__module__ == module.__name__]
    return f", but the class {own[0]}: write `simulator = {own[0]}()`" if own else ""


def source_hash(simulator: Simulator) -> str:
    """The hash of the code in the simulator's own file; "" for a simulator defined outside a file."""
    return only_code(identity(simulator)["source"])


def identity(simulator: Simulator) -> dict[str, str]:
    """The values that identify a simulator, beside prior and observables: name, code, files and settings.

    Comments and formatting in its files do not change them. `recorded` returns the values to write to disk.
    """
    return {key: only_code(value) for key, value in recorded(simulator).items() if key not in (SURROGATE, BARE)}


def earlier_identity(simulator: Simulator) -> dict[str, str]:
    """The `identity` as earlier versions computed it: from the text, not the code, of the file or folder."""
    left_out = (FILE, SURROGATE, BARE)
    found = {key: only_text(value) for key, value in recorded(simulator).items() if not key.startswith(left_out)}
    return found if simulator.source is None else {**found, "source": text_of(simulator.source)}


def recorded(simulator: Simulator) -> dict[str, str]:
    """The record of a simulator that a store or a fit writes to disk, name -> text.

    It holds the simulator's name, the marks of its files (`core.code`), its settings, and the surrogate that
    makes its data.

    Raises:
        ValueError: If a setting has the name of another entry of the record, such as "name" or "source".
        TypeError: If `files` is not a list of paths.
        FileNotFoundError: If one of the files does not exist.
    """
    settings = settings_of(simulator)
    own, files = {"name": simulator.name, "source": ""}, _files_of(simulator)
    own |= simulator.emulated_by
    own |= marks_beside(files) if simulator.source is None else marks(simulator.source, files)
    if taken := settings.keys() & {*own, SURROGATE, BARE}:
        raise ValueError(
            f"{simulator.name!r} has settings called {sorted(taken)}, but these names are reserved; rename the settings"
        )
    return own | settings


def _files_of(simulator: Simulator) -> Sequence[Path]:
    files = simulator.files
    if not isinstance(files, Sequence) or not all(isinstance(file, Path) for file in files):
        raise TypeError(
            f"`files` of the simulator {simulator.name!r} is a list of paths that it reads, such as "
            f"[Path(__file__).with_name('grid.txt')], got {files!r}"
        )
    if lost := [str(file) for file in files if not file.is_file()]:
        raise FileNotFoundError(
            f"`files` of the simulator {simulator.name!r} names what is no file: {lost}; "
            "give paths that begin at Path(__file__), and for a folder the path of each file in it"
        )
    return files


def settings_of(simulator: Simulator) -> dict[str, str]:
    """The settings of a simulator, name -> text; empty if it defines none."""
    return dict(simulator.settings() if simulator.settings else {})


def unlike(before: Mapping[str, str], simulator: Simulator, *, ignore: Sequence[str] = ()) -> str:
    """The differences between a simulator and its record, such as "helper.py has changed, name was a, is b".

    Args:
        before: The record, written by this version or an earlier one.
        simulator: The present simulator.
        ignore: Names of entries to leave out of the comparison. "source" stands for all files.

    Returns:
        The differences in words, "" if there are none.
    """
    given = recorded(simulator)
    words = [] if "source" in ignore else changed(before, given, simulator.source)
    for name in {**before, **given}:
        old, new = before.get(name), given.get(name)
        if name in ignore or name in ("source", SURROGATE, BARE) or name.startswith(FILE) or same_mark(old, new):
            continue
        if name == "name" and old == simulator.former_name:
            continue
        words.append(
            f"{name} has changed" if is_mark(new or "") else f"{name} was {old or 'nothing'}, is {new or 'nothing'}"
        )
    return ", ".join(words)


def as_seen(simulator: Simulator, x: X) -> Simulator:
    """The simulator with the observation times, masks and controls of x (`Simulator.like`).

    The simulator itself is returned if it does not define `like`, or if x (a batch of one) does not have the
    shapes of its observables. The caller then reports the wrong shapes.
    """
    fits = all(n in x and tuple(x[n].shape) == (1, *spec.shape) for n, spec in simulator.observables.items())
    return simulator if simulator.like is None or not fits else simulator.like(x)


def file_of(simulator: Simulator | None) -> tuple[Path, ...]:
    """The file of a simulator, in a tuple that is empty if there is none.

    A fit whose user named this file may be built from components that it defines.
    """
    return () if simulator is None or simulator.source is None else (simulator.source,)


def described(observables: Mapping[str, Observable], simulator: Simulator | None) -> dict[str, Observable]:
    """Observables of a fit, with the coordinates that the simulator now declares.

    An observable takes the simulator's coordinates if the two specifications agree in everything else.
    Coordinates do not affect a network, so they may have been added or changed after training. Without a
    simulator, the observables are returned unchanged.
    """
    now = simulator.observables if simulator else {}
    return {name: now[name] if now.get(name) == spec else spec for name, spec in observables.items()}
