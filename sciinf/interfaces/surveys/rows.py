"""Observations by their position, however many: those of a store, of arrays, or of a file with one row for each.

A row is never left out. One that failed when it was simulated, is not finite, or holds what its observable does not
take, keeps its place, and has no answer.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sciinf.campaigns.storage.outcome import status_of
from sciinf.campaigns.store import Store
from sciinf.core import Posterior, X, as_observation
from sciinf.core.files import is_remote
from sciinf.core.observable import Observable, Status, event_of
from sciinf.core.observation_columns import Column, Contents, SoughtColumns
from sciinf.core.observation_files import open_columns

_NUMBERS = 2**40  # that a file may hold
_CHUNK = 65_536  # rows at a time
_SHOWN = 8  # names of columns in a message
REFUSED = 4
"""In the column `status`, beside the numbers of `Status`: there are data, and no answer to them."""


@dataclass(frozen=True)
class Seen:
    """Some observations, one after the other.

    Args:
        x: Name -> (rows, *event), of all of them; of a row without data the numbers mean nothing.
        status: Whether each has data to be asked about: `Status.OK`, or why not, uint8, (rows,).
        theta: The true parameters of each, (rows, D); None where they are not known.
        messages: Row -> why nobody can be asked about it, where its status does not say it.
    """

    x: X
    status: Tensor
    theta: Tensor | None = None
    messages: Mapping[int, str] = field(default_factory=dict)


class Observations(ABC):
    """Rows by position. A subclass sets what is below.

    Attributes:
        name: What they are called in messages.
        digest: Changes when they do.
        rows: How many.
        prior: The prior, as JSON, that their known parameters were drawn from; None where none are known.
        known: Whether their parameters are known, under the posterior's names and units.
        campaign: Digests that tell of which simulations they are.
        simulators: What is recorded of the simulator that made them, one for each state of it that was accepted.
    """

    name: str
    digest: str
    rows: int
    prior: Mapping[str, Any] | None = None
    known: bool = False
    campaign: frozenset[str] = frozenset()
    simulators: Sequence[Mapping[str, str]] = ()

    @abstractmethod
    def read(self, start: int, stop: int) -> Seen:
        """Rows [start, stop).

        Raises:
            ValueError: If they cannot be read.
        """

    @abstractmethod
    def now(self) -> str:
        """What `digest` would be if they were looked at anew."""


@final
class OfStore(Observations):
    """The rows of a store of simulations, failed ones too.

    Raises:
        ValueError: If blocks of it are missing or damaged, or its observables are not those of the posterior.
    """

    def __init__(self, store: Store, posterior: Posterior) -> None:
        self.name = str(store.path)
        if dict(store.observables) != dict(posterior.observables):
            raise ValueError(
                f"{self.name} holds {event_of(store.observables)}, the posterior is for "
                f"{event_of(posterior.observables)}: {_differ(store.observables, posterior.observables)}"
            )
        if missing := store.missing():
            raise ValueError(
                f"{self.name} is unfinished: {len(missing):,} of {store.blocks:,} blocks are missing; let `sciinf "
                "simulate` go on first, or its rows would be answered twice"
            )
        self.store, self.rows, self.digest = store, len(store), store.digest
        of_prior = store.proposal is None
        self.prior = store.prior.to_json() if of_prior else {"proposal": dict(store.proposal or {})}
        self.known = (store.prior.names, store.prior.units) == (posterior.prior.names, posterior.prior.units)
        self.campaign = store.campaign
        self.simulators = (store.simulator, *store.accepted)
        self._known: tuple[int, Tensor, Any] | None = None

    def read(self, start: int, stop: int) -> Seen:
        size, parts = self.store.block, []
        for index in range(start // size, -(-stop // size)):
            theta, outcome = self._block(index)
            span = slice(max(0, start - index * size), stop - index * size)
            x = {name: outcome.x[name][span] for name in self.store.observables}
            parts.append((x, status_of(outcome)[span], theta[span]))
        x = {name: torch.cat([part[0][name] for part in parts]) for name in self.store.observables}
        return Seen(
            x, torch.cat([part[1] for part in parts]), torch.cat([part[2] for part in parts]) if self.known else None
        )

    def now(self) -> str:
        return self.store.digest  # of the blocks that were there at first; more may have come

    def _block(self, index: int) -> tuple[Tensor, Any]:
        """One block of the store; the last one that was read is kept."""
        if self._known is None or self._known[0] != index:
            self._known = (index, *self.store.read(index))
        return self._known[1:]


@final
class OfArrays(Observations):
    """Arrays with a row for each observation.

    Args:
        name: What they are called in messages.
        arrays: Observable -> array (rows, *event), or what can be cut into slices as one.
        observables: Of the posterior.

    Raises:
        ValueError: If a name is missing or unknown, or a shape, a unit or a kind of number does not fit.
    """

    def __init__(self, name: str, arrays: Mapping[str, Any], observables: Mapping[str, Observable]) -> None:
        self.name, self.arrays, self.observables = name, arrays, observables
        if set(arrays) != set(observables):
            raise ValueError(
                f"{name} has {sorted(arrays)}, the posterior is for {event_of(observables)}; call the arrays as the "
                "observables, and leave out others"
            )
        for key, spec in observables.items():
            shape = tuple(arrays[key].shape)
            if not shape or shape[1:] != spec.shape:
                turned = "; its transpose has this shape" if shape[::-1][1:] == spec.shape else ""
                raise ValueError(
                    f"{name}: {key!r} has shape {shape}, expected {_shape(spec)}, one row for each observation: bring "
                    f"it into this shape{turned}"
                )
        counts = {key: len(array) for key, array in arrays.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{key!r} {count:,}" for key, count in counts.items())
            raise ValueError(
                f"{name}: the observables have different numbers of rows ({told}), expected one for each observation: "
                "bring them into the same order, and leave out rows that one of them lacks"
            )
        self.rows = next(iter(counts.values()))
        if not self.rows:
            raise ValueError(f"{name} holds no row")
        try:
            as_observation(observables, {key: _ones(array[:1]) for key, array in arrays.items()}, batched=True)
        except ValueError as error:  # of a unit, or of what is no number
            raise ValueError(f"{name}: {error}") from error
        self.digest = self.now()

    def read(self, start: int, stop: int) -> Seen:
        raw = {key: self.arrays[key][start:stop] for key in self.observables}
        good = np.ones(stop - start, dtype=bool)
        for value in raw.values():
            numbers = np.asarray(getattr(value, "value", value))
            if numbers.dtype.kind == "f":
                good &= np.isfinite(numbers).reshape(len(numbers), -1).all(1)
        x = {key: torch.zeros(stop - start, *spec.shape, dtype=spec.torch_dtype) for key, spec in self._specs()}
        status = np.where(good, int(Status.OK), int(Status.NON_FINITE)).astype(np.uint8)
        messages: dict[int, str] = {}
        try:
            self._into(x, raw, np.flatnonzero(good))
        except ValueError:  # of some row: find out of which
            for row in np.flatnonzero(good).tolist():
                try:
                    self._into(x, raw, np.array([row]))
                except ValueError as error:
                    status[row], messages[row] = REFUSED, f"no answer: {error}"
        return Seen(x, torch.from_numpy(status), messages=messages)

    def _into(self, x: dict[str, Tensor], raw: Mapping[str, Any], rows: np.ndarray) -> None:
        """Write rows into x, as the estimators take them."""
        if len(rows):
            found = as_observation(self.observables, {key: v[rows] for key, v in raw.items()}, batched=True)
            for key, value in found.items():
                x[key][torch.from_numpy(rows)] = value

    def _specs(self) -> list[tuple[str, Observable]]:
        return list(self.observables.items())

    def now(self) -> str:
        digest = hashlib.sha256()
        for start in range(0, self.rows, _CHUNK):
            for key in sorted(self.arrays):
                value = self.arrays[key][start : start + _CHUNK]
                array = np.ascontiguousarray(getattr(value, "value", value))
                digest.update(f"{key}\0{array.dtype.str}\0{array.shape}\0{getattr(value, 'unit', '')}\0".encode())
                digest.update(array.data if array.size else b"")
        return digest.hexdigest()


def observations_of(
    given: Store | str | Path | Mapping[str, Any], posterior: Posterior, stack: ExitStack | None = None
) -> Observations:
    """Observations, wherever they are.

    Args:
        given: A store or its folder; a file, with one row for each observation; or name -> array (rows, *event).
        posterior: What they are to be asked of.
        stack: Closes the file; left out, it stays open until nobody has the observations.

    Raises:
        FileNotFoundError: If there is no such file or store.
        ValueError: If they do not fit the posterior.
    """
    if isinstance(given, Store):
        return OfStore(given, posterior)
    if isinstance(given, Mapping):
        arrays = {key: _sliced(value) for key, value in given.items()}
        return OfArrays("the observations", arrays, posterior.observables)
    path, away = Path(given), is_remote(given)
    if not away and not path.exists():
        raise FileNotFoundError(
            f"there is no {str(path)!r}: observations are a file with a row for each, or a folder of simulations"
        )
    if away or path.is_dir():
        return OfStore(Store(path), posterior)
    return OfArrays(str(path), _columns(path, posterior.observables, stack or ExitStack()), posterior.observables)


class _WithUnit:
    """Numbers of an observable that are cut into slices, each of which is a quantity."""

    def __init__(self, name: str, values: Any, unit: str) -> None:
        self.name, self.values, self.unit, self.shape = name, values, unit, tuple(values.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        from astropy import units

        try:
            unit = units.Unit(self.unit)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self.name!r} is in {self.unit!r}, which is no unit that astropy knows; write it as in 'm/s', or "
                "leave it out where the numbers are in the observable's own"
            ) from error
        values = np.asarray(self.values[rows])
        return units.Quantity(values, unit) if values.dtype.kind in "biuf" else values  # which is refused as no number


def _ones(row: Any) -> Any:
    """What any observable takes, of the kind and unit of a row."""
    values = np.asarray(getattr(row, "value", row))
    ones = np.ones_like(values) if values.dtype.kind in "biuf" else values
    if not (unit := getattr(row, "unit", None)):
        return ones
    from astropy import units

    return units.Quantity(ones, unit)


def _sliced(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return value if isinstance(getattr(value, "shape", None), tuple) else np.asarray(value)


def _columns(path: Path, observables: Mapping[str, Observable], stays: ExitStack) -> dict[str, Any]:
    """The arrays of a file, by observable. Those of HDF5 stay in it; others are read whole."""
    names = "|".join(map(re.escape, observables))
    alone = next(iter(observables)) if len(observables) == 1 else ""
    with ExitStack() as stack:
        contents = open_columns(path, SoughtColumns(rf"(?:{names})(?:_\d+)?", _NUMBERS, alone), stack)
        found = dict(contents.columns)
        picked = {name: _several(path, name, spec, contents) for name, spec in observables.items()}
        in_place = path.suffix.lower() in (".h5", ".hdf5")
        arrays = {n: (None if in_place and n in found else column.read(), column.unit) for n, column in picked.items()}
    if in_place:
        import h5py

        opened: Any = h5py.File(path, "r")  # stays open as long as its rows are read
        stays.callback(opened.close)
        arrays = {n: (opened[n] if n in found else values, unit) for n, (values, unit) in arrays.items()}
    return {name: _WithUnit(name, values, unit) if unit else values for name, (values, unit) in arrays.items()}


def _several(path: Path, name: str, spec: Observable, contents: Contents) -> Column:
    """An observable's column, or columns `name_0`, `name_1`, ... put beside each other."""
    if name in contents.columns:
        return contents.columns[name]
    pattern = re.compile(rf"{re.escape(name)}_(\d+)")
    numbered = {int(match[1]): column for key, column in contents.columns.items() if (match := pattern.fullmatch(key))}
    order = sorted(numbered)
    if len(spec.shape) != 1 or len(order) != spec.shape[0] or order != list(range(order[0], order[0] + len(order))):
        there = ", ".join(contents.names[:_SHOWN]) + (", ..." if len(contents.names) > _SHOWN else "")
        beside = f", or columns {name}_0 to {name}_{spec.shape[0] - 1}" if len(spec.shape) == 1 else ""
        raise ValueError(
            f"{path} has no {name!r} with one row for each observation; it has {there or 'no columns'}. Expected is an "
            f"array {name!r} of shape {_shape(spec)}{beside}: rename or add what is missing"
        )
    for what, each in (
        ("unit", {k: numbered[k].unit for k in order}),
        ("shape", {k: numbered[k].shape for k in order}),
    ):
        if other := next((k for k in order if each[k] != each[order[0]]), None):
            first, second = (f"{each[k]}" or "none" for k in (order[0], other))
            raise ValueError(
                f"{path}: the columns of {name!r} have different {what}s, {name}_{order[0]} {first} and {name}_{other} "
                f"{second}; expected is one {what} for all: write the file with it"
            )
    shape, start = (*numbered[order[0]].shape, len(order)), numbered[order[0]]
    return Column(shape, start.dtype, start.unit, lambda: np.stack([numbered[k].read() for k in order], axis=1))


def _shape(spec: Observable) -> str:
    """What an array of an observable is to look like, in words."""
    return f"({', '.join(('rows', *map(str, spec.shape)))}{'' if spec.shape else ','})"


def _differ(one: Mapping[str, Observable], other: Mapping[str, Observable]) -> str:
    """How observables differ, in words."""
    for name in sorted(set(one) | set(other)):
        if name not in one or name not in other:
            return f"{name!r} is in one of them alone"
        for what in ("shape", "unit", "dtype", "scale", "dims"):
            mine, theirs = getattr(one[name], what), getattr(other[name], what)
            if mine != theirs:
                return f"the {what} of {name!r} is {mine!r} and {theirs!r}"
    return "they differ in their coordinates"


__all__ = ["REFUSED", "Observations", "Seen", "observations_of"]
