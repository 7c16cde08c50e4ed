"""Simulators: what a scientist's program looks like from the inside, and how its file is loaded by path."""

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

    A subclass sets `name`, `prior` and `observables` and defines `__call__`. It may set `block` (rows simulated in
    one batch, recorded in every store), `files` (what it reads beside its code: a program, a template, a grid) and
    `by_row` (whether row i of a batch comes out the same however many rows follow it), and define what it can of
    `log_likelihood`, `settings`, `reference`, `statistics`, `rescaled` and `observe`. `former_name` is what earlier
    versions called it.

    `log_likelihood(theta, x)`: where tractable, log p(x | theta), (batch, D) and x with the same batch (or a batch of
    one, repeated) -> (batch,).
    `random_likelihood`: True where that is the logarithm of an unbiased estimate of p(x | theta), as a particle filter
    gives it: right as an importance weight, where its noise averages out, and no log density.
    `settings()`: what else than its file and prior makes its simulations what they are, such as arguments it was built
    with: name -> text. Simulations under other settings are another campaign.
    `reference(x, n, generator)`: where the posterior given one observation is known, n draws of it, (n, D).
    `paths(theta, x, generator)`: where a hidden state is behind the data, a path of it for each theta, given the data
    (a batch of one): `core.paths.HiddenPaths`.
    `like(x)`: where data say of themselves when they were seen (`NAME_times`), which of them are missing (`NAME_mask`),
    or under which controls (`Observable.control`), a simulator of the same observables, seen then, missing there and
    controlled so as those of x (a batch of one). What is compared with the observation, predictions and simulations
    around its answer, is simulated by it. These times, masks and controls must not depend on the parameters.
    `statistics(x)`: what the model must reproduce of the data beside its residuals (`diagnostics.residuals`): data,
    name -> (batch, *event), to what it is called -> (batch,). One that a wrapper made takes it as `simulator.statistics
    = f`. `rescaled(theta, x)`: where data are times of events, of each interval between them a number that is
    Uniform(0, 1) and independent of the others if the model is right, (batch, any), NaN where there is none; theta and
    x as for `log_likelihood`. An answer then says whether events come when the model says (`diagnostics.rescaled`).

    `emulated_by`: {"surrogate": what it is, with its error on held-out solutions, in words} where a surrogate makes its
    data, or {"surrogate without its error": ...} where data do not carry that error; empty where none makes them.
    A wrapper passes it on. Answers that are learned from such data name it.

    `derived`: quantities that follow from the parameters, name -> `function` or `(function, unit)`. The function makes
    of parameter -> values in the prior's units, float64 (n,), the quantity's values (n,), in the unit that is given
    (which a quantity of astropy is converted to), or without one. `labels`: name of a parameter or derived quantity
    -> one line of text, for tables and exports. Nothing is simulated or learned from either; as statements of a file,
    `simulator.derived = {...}` and `simulator.labels = {...}`, they are no change of it.
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
        """What a notebook shows."""
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
            Observable name -> (batch, *event), or an `Outcome` with a status per row.
        """

    def observe(self, *paths: str | Path, columns: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """Real data from files, as one observation: observable name -> tensor (*event).

        This reads columns named like the observables, or as `columns` says, observable -> column
        (`sciinf.core.observation`); a simulator whose data come in another form defines its own, `observe(*paths)`.
        What that takes as keywords after the paths are options of the commands: `gps` in `observe(*paths, gps: float)`
        is `--gps 1126259462.4`, of the type of its annotation or default. `reader` is the function that a wrapper was
        given for it, which then reads the files.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If what was read does not fit the observables, or a reader is told what columns are called.
        """
        from sciinf.core.observation import as_observation, read_observation

        if self.reader is None:
            return read_observation(self.observables, *paths, columns=columns)
        if columns:
            who = getattr(self.reader, "__name__", type(self.reader).__name__)
            raise ValueError(f"the function {who!r} reads the files, and takes no names of columns: leave out --column")
        return {name: value[0] for name, value in as_observation(self.observables, self.reader(*paths)).items()}


def load_simulator(path: str | Path) -> Simulator:
    """The simulator in a file, or in a folder with `__init__.py`: whatever it names `simulator`.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        TypeError: If it defines no `simulator`, or one that is not a `Simulator` or lacks a part of it.
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
    """What of a user's module may be meant by its simulator: another name, or the instance of a class."""
    if isinstance(found, type):
        return f", the class {found.__name__}: write `simulator = {found.__name__}()`"
    names = [name for name, value in vars(module).items() if isinstance(value, Simulator)]
    if names:
        return f", but {', '.join(names)}: write `simulator = {names[0]}`"
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Simulator)]
    own = [value.__name__ for value in classes if value.__module__ == module.__name__]
    return f", but the class {own[0]}: write `simulator = {own[0]}()`" if own else ""


def source_hash(simulator: Simulator) -> str:
    """What the code of the simulator's own file is known by; "" for one defined outside a file."""
    return only_code(identity(simulator)["source"])


def identity(simulator: Simulator) -> dict[str, str]:
    """What tells a simulator from others, beside prior and observables: name, code, files and settings.

    A comment or another format of its files changes nothing here; `recorded` tells what is to be written down.
    """
    return {key: only_code(value) for key, value in recorded(simulator).items() if key not in (SURROGATE, BARE)}


def earlier_identity(simulator: Simulator) -> dict[str, str]:
    """What earlier versions had for `identity`: the text of its own file or folder in place of code."""
    left_out = (FILE, SURROGATE, BARE)
    found = {key: only_text(value) for key, value in recorded(simulator).items() if not key.startswith(left_out)}
    return found if simulator.source is None else {**found, "source": text_of(simulator.source)}


def recorded(simulator: Simulator) -> dict[str, str]:
    """What a store or a fit writes down of a simulator: its name, the marks of its files (`core.code`), its settings,
    and the surrogate that makes its data.

    Raises:
        ValueError: If a setting is called name or source.
        TypeError: If `files` is no list of paths.
        FileNotFoundError: If one of them is not there.
    """
    settings = settings_of(simulator)
    own, files = {"name": simulator.name, "source": ""}, _files_of(simulator)
    own |= simulator.emulated_by
    own |= marks_beside(files) if simulator.source is None else marks(simulator.source, files)
    if taken := settings.keys() & {*own, SURROGATE, BARE}:
        raise ValueError(f"{simulator.name!r} has settings called {sorted(taken)}, which are taken; rename them")
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
            "give paths that begin at Path(__file__), and of a folder each of its files"
        )
    return files


def settings_of(simulator: Simulator) -> dict[str, str]:
    """What it tells of its settings."""
    return dict(simulator.settings() if simulator.settings else {})


def unlike(before: Mapping[str, str], simulator: Simulator, *, ignore: Sequence[str] = ()) -> str:
    """What tells a simulator from the one that was recorded, such as "helper.py has changed, name was a, is b".

    Args:
        before: What was recorded, by this version or an earlier one.
        simulator: The one at hand.
        ignore: Names that do not count; "source" stands for all files.

    Returns:
        "" if nothing does.
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
    """The simulator of data that are seen as those of x are (`Simulator.like`).

    Itself where it knows of no other, or where x (a batch of one) is none of its observations, as whoever uses it says.
    """
    fits = all(n in x and tuple(x[n].shape) == (1, *spec.shape) for n, spec in simulator.observables.items())
    return simulator if simulator.like is None or not fits else simulator.like(x)


def file_of(simulator: Simulator | None) -> tuple[Path, ...]:
    """The file that a simulator is in, if it is in one: what a fit may be built of, where its user named it."""
    return () if simulator is None or simulator.source is None else (simulator.source,)


def described(observables: Mapping[str, Observable], simulator: Simulator | None) -> dict[str, Observable]:
    """Observables with the coordinates that the simulator gives them now, which a network need not have known."""
    now = simulator.observables if simulator else {}
    return {name: now[name] if now.get(name) == spec else spec for name, spec in observables.items()}
