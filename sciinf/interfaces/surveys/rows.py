"""Observations of a survey by position: rows of a store, of arrays, or of a file with one row for each observation.

No row is left out. A row keeps its place, but has no answer, if its simulation failed, if it is not finite, or if it
has values that its observable does not accept.
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

_NUMBERS = 2**40  # Largest count of numbers in a file.
_CHUNK = 65_536  # Rows that are hashed at a time.
_SHOWN = 8  # Largest number of column names in a message.
REFUSED = 4
"""In the column `status`, beside the numbers of `Status`: there are data, and no answer to them."""


@dataclass(frozen=True)
class Seen:
    """Consecutive observations, with their status.

    Args:
        x: Observable name -> (rows, *event). In a row without data, the numbers have no meaning.
        status: `Status.OK` for each row with data, or else the reason why the row has none, uint8, (rows,).
        theta: True parameters of each row, (rows, D); None if they are not known.
        messages: Row -> reason why the row cannot be answered, if its status does not tell the reason.
    """

    x: X
    status: Tensor
    theta: Tensor | None = None
    messages: Mapping[int, str] = field(default_factory=dict)


class Observations(ABC):
    """Observations by position. A subclass sets the attributes below.

    Attributes:
        name: Name of the observations in messages.
        digest: Hash of the observations, which changes when they change.
        rows: Number of observations.
        prior: The prior, as JSON, from which the known parameters were drawn; None if no parameters are known.
        known: Whether the true parameters are known, under the posterior's names and units.
        campaign: Digests that identify the simulations to which the rows belong.
        simulators: Records of the simulator that made the rows, one for each of its accepted states.
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
        """Read the rows [start, stop).

        Raises:
            ValueError: If the rows cannot be read.
        """

    @abstractmethod
    def now(self) -> str:
        """Compute the digest of the observations as they are now."""


@final
class OfStore(Observations):
    """The rows of a store of simulations, including failed ones.

    Raises:
        ValueError: If blocks of the store are missing or damaged, or its observables are not those of the posterior.
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
        return self.store.digest  # This digest covers the blocks present at the start.

    def _block(self, index: int) -> tuple[Tensor, Any]:
        """Read one block of the store; the last block that was read stays in memory."""
        if self._known is None or self._known[0] != index:
            self._known = (index, *self.store.read(index))
        return self._known[1:]


@final
class OfArrays(Observations):
    """Arrays with a row for each observation.

    Args:
        name: Name of the observations in messages.
        arrays: Observable name -> array (rows, *event), or an object that can be sliced like an array.
        observables: Observables of the posterior.

    Raises:
        ValueError: If a name is missing or unknown, or if a shape, unit or dtype does not fit.
    """

    def __init__(self, name: str, arrays: Mapping[str, Any], observables: Mapping[str, Observable]) -> None:
        self.name, self.arrays, self.observables = name, arrays, observables
        if set(arrays) != set(observables):
            raise ValueError(
                f"{name} has {sorted(arrays)}, the posterior is for {event_of(observables)}; give the arrays the "
                "names of the observables, and leave out others"
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
        except ValueError as error:  # A unit does not fit, or values are no numbers.
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
        except ValueError:  # Some row is at fault, so try each by itself.
            for row in np.flatnonzero(good).tolist():
                try:
                    self._into(x, raw, np.array([row]))
                except ValueError as error:
                    status[row], messages[row] = REFUSED, f"no answer: {error}"
        return Seen(x, torch.from_numpy(status), messages=messages)

    def _into(self, x: dict[str, Tensor], raw: Mapping[str, Any], rows: np.ndarray) -> None:
        """Write some rows into x, in the form that estimators take."""
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
    """Open observations from a store, a file or arrays.

    Args:
        given: A store or its folder; a file, with one row for each observation; or name -> array (rows, *event).
        posterior: The posterior that is to answer them.
        stack: Exit stack that closes the file. By default, the file stays open as long as the observations are in use.

    Raises:
        FileNotFoundError: If there is no such file or store.
        ValueError: If the observations do not fit the posterior.
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
    """Numbers of an observable with a unit, of which each slice is an astropy quantity."""

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
        # Values that are no numbers stay without a unit, and are refused later.
        return units.Quantity(values, unit) if values.dtype.kind in "biuf" else values


def _ones(row: Any) -> Any:
    """An array of ones with the shape, dtype and unit of a row, to test whether dtype and unit are accepted."""
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
    """The arrays of a file, by observable; arrays in HDF5 are read as needed, and others are read whole."""
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

        opened: Any = h5py.File(path, "r")  # The file stays open while its rows are read.
        stays.callback(opened.close)
        arrays = {n: (opened[n] if n in found else values, unit) for n, (values, unit) in arrays.items()}
    return {name: _WithUnit(name, values, unit) if unit else values for name, (values, unit) in arrays.items()}


def _several(path: Path, name: str, spec: Observable, contents: Contents) -> Column:
    """The column of an observable, or its columns `name_0`, `name_1`, ... side by side as one."""
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
    """Expected shape of an observable's array, as text."""
    return f"({', '.join(('rows', *map(str, spec.shape)))}{'' if spec.shape else ','})"


def _differ(one: Mapping[str, Observable], other: Mapping[str, Observable]) -> str:
    """The first difference between two sets of observables, as text."""
    for name in sorted(set(one) | set(other)):
        if name not in one or name not in other:
            return f"{name!r} is in one of them alone"
        for what in ("shape", "unit", "dtype", "scale", "dims"):
            mine, theirs = getattr(one[name], what), getattr(other[name], what)
            if mine != theirs:
                return f"the {what} of {name!r} is {mine!r} and {theirs!r}"
    return "they differ in their coordinates"


__all__ = ["REFUSED", "Observations", "Seen", "observations_of"]
