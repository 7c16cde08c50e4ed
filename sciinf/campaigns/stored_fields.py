"""Make a store of fields that other programs have solved for and stored: functions common to all such collections.

Names and layouts of observables are those of a `FieldEquation`. "u" (time, channel, *space) has all fields that change
in time. "initial" (channel, *space) is its first frame. A field that does not change in time has its own name,
(channel, *space). Rows are taken from the files in turn. So the first rows, and the last rows (on which `train`
validates), have the parameters of all files. Files are read one block of rows at a time, and a block has as many rows
as fit in `BLOCK_BYTES`.

`fields.json` in the store says what its numbers are (channels, times, coordinates) and names the files by their
content. It plays the part of a simulator's source file. So a store made from other files, or of other fields, is
recognised as different.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinf.campaigns.store import Store
from sciinf.campaigns.table_columns import StoredArray, TableField
from sciinf.campaigns.tables_file import BLOCK, Piece, Tabulated, content_of, theta_of, unlike_prior
from sciinf.core import Observable, Outcome, Prior
from sciinf.core.files import json_text, parse_json, write_bytes
from sciinf.simulators.dynamics.field_equation import SOLUTION

BLOCK_BYTES = 64 * 2**20
MANIFEST = "fields.json"
INITIAL, TIMES = "initial", "times"
SUFFIXES = (".h5", ".hdf5")


@dataclass(frozen=True)
class StoredField:
    """One field of a file.

    Attributes:
        channels: Names of the field's channels.
        timed: Whether the field changes in time.
        read: Function (rows, frames) -> array (rows, [frames,] *space, channels), with rows and frames as slices. The
            array has no axis of frames if the field does not change in time.
    """

    channels: tuple[str, ...]
    timed: bool
    read: Callable[[slice, slice], np.ndarray]


@dataclass(frozen=True)
class Trajectories:
    """Content of one file of fields.

    Attributes:
        label: Name of the file in messages.
        theta: Parameters, float64 (rows, D), in the prior's order.
        columns: Observable name -> array to read.
        dims: Observable name -> names of its axes.
        facts: Other facts in which files of one store must agree, as JSON values.
    """

    label: str
    theta: np.ndarray
    columns: Mapping[str, StoredArray]
    dims: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, Any]


def files_of(paths: Sequence[str | Path], example: str) -> list[Path]:
    """Files that paths name: the given files, and all HDF5 files in the given folders, ordered by name.

    Raises:
        FileNotFoundError: If a path does not exist, or a folder holds no HDF5 file.
        ValueError: If no paths are given.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES) if path.is_dir() else [path]
        if not inside or not inside[0].is_file():
            raise FileNotFoundError(f"no {'HDF5 files in the folder' if path.is_dir() else 'file'} {path}")
        found += inside
    if not found:
        raise ValueError(f"no files of simulations were given: {example}")
    return found


def frames_of(count: int, frames: slice, label: str) -> range:
    """Numbers of the frames that a slice selects from `count` frames.

    Raises:
        ValueError: If the slice selects no frames, or runs backwards.
    """
    found = range(count)[frames]
    if not found or found.step < 1:
        raise ValueError(f"frames={frames} leaves none of {label}'s {count} frames, or runs backwards; give another")
    return found


def columns_of(
    fields: Mapping[str, StoredField], rows: int, space: Mapping[str, int], frames: range, label: str
) -> tuple[dict[str, StoredArray], dict[str, tuple[str, ...]]]:
    """Observables made from fields, and the names of their axes.

    Args:
        fields: Name -> field.
        rows: Number of trajectories.
        space: Axis -> number of points, in the arrays' order.
        frames: Frames to take.
        label: Name of the file in messages.

    Raises:
        ValueError: If no field changes in time, or a field that does not change in time has a reserved name.
    """
    timed = [field for field in fields.values() if field.timed]
    if not timed:
        raise ValueError(f"{label} has no field that changes in time among {sorted(fields)}; nothing to predict")
    sizes, axes = tuple(space.values()), tuple(space)
    channels = sum(len(field.channels) for field in timed)
    every, first = slice(frames.start, frames.stop, frames.step), slice(frames.start, frames.start + 1)
    columns = {SOLUTION: _column((len(frames), channels, *sizes), rows, timed, every)}
    dims: dict[str, tuple[str, ...]] = {SOLUTION: ("time", "channel", *axes)}
    if len(frames) > 1:
        columns = {INITIAL: _column((channels, *sizes), rows, timed, first), **columns}
        dims[INITIAL] = ("channel", *axes)
    for name, field in fields.items():
        if not field.timed:
            if name in (SOLUTION, INITIAL, TIMES):
                raise ValueError(f"{label} has a field {name!r} that does not change in time; that name is taken")
            columns[name] = _column((len(field.channels), *sizes), rows, [field], every)
            dims[name] = ("channel", *axes)
    return columns, dims


def store_of(
    files: Sequence[Path],
    opened: Sequence[Trajectories],
    *,
    prior: Prior,
    out: Path,
    rows: int | None,
    name: str,
) -> Store:
    """Make the store of the content of files.

    Args:
        files: Paths of the files.
        opened: Content of each file, still open.
        prior: Distribution from which the parameters were drawn.
        out: Folder of the store.
        rows: Number of rows to take from the start; all if None.
        name: Name of the simulator in the store.

    Raises:
        ValueError: If files do not agree, theta lies outside the prior's support, there are fewer rows, or `out` holds
            a store of other files.

    Warns:
        UserWarning: If a parameter's values do not look drawn from the prior.
    """
    for other in opened[1:]:
        _check_alike(opened[0], other)
    where, which = _in_turn([len(file.theta) for file in opened])
    if rows is not None and not 0 < rows <= len(where):
        raise ValueError(f"rows={rows} asked for, the files hold {len(where)}")
    where, which = where[:rows], which[:rows]
    start = np.cumsum([0, *(len(file.theta) for file in opened)])[where]
    theta = torch.cat([_theta_of(file, prior) for file in opened])[torch.from_numpy(start + which)]
    _warn(theta, prior)
    first = opened[0]
    observables = {key: Observable(column.shape, dims=first.dims[key]) for key, column in first.columns.items()}
    bytes_of_row = 4 * sum(int(np.prod(column.shape)) for column in first.columns.values())
    block = max(1, min(BLOCK, BLOCK_BYTES // bytes_of_row))
    simulator = Tabulated(prior, observables, name)
    simulator.source = manifest(files, first.facts, out)
    store = Store.create(out, simulator, seed=0, block=block, rows=len(where))
    for index in sorted({*store.missing(), *(damage.block for damage in store.damaged())}):
        part = slice(index * block, index * block + store.rows_of(index))
        x = {key: torch.from_numpy(_block(opened, key, where[part], which[part])) for key in observables}
        store.commit(index, theta[part], Outcome(x), seconds=0.0)
    return store


def numbers(value: Any) -> list[float]:
    """Numbers of an array as a flat list, for JSON."""
    return np.asarray(value, dtype=np.float64).ravel().tolist()


def manifest(files: Sequence[Path], facts: Mapping[str, Any], out: Path) -> Path:
    """Write `fields.json` once, which names the files by their content and describes their numbers; return its path.

    Args:
        files: Paths of the files.
        facts: Facts about the numbers in the files.
        out: Folder of the store.

    Raises:
        ValueError: If the folder holds a store of something else.
    """
    contents = {**facts, "files": [content_of(file) for file in files]}
    path = out / MANIFEST
    known = parse_json(path) if path.is_file() else None
    if known != contents:
        if (out / "store.json").is_file():
            raise ValueError(
                f"{out} holds a store of something else than these fields of {[str(f) for f in files]}; choose another "
                "folder for `out`"
            )
        out.mkdir(parents=True, exist_ok=True)
        # The file carries no hash of itself: it is the simulator's source, and `store.json` has its hash.
        write_bytes(path, (json_text(contents) + "\n").encode())
    return path


def _column(shape: tuple[int, ...], rows: int, fields: Sequence[StoredField], frames: slice) -> StoredArray:
    """Join fields along the channel axis, which is placed before the axes of space."""

    def read(start: int, stop: int) -> np.ndarray:
        parts = []
        for field in fields:
            found = np.asarray(field.read(slice(start, stop), frames), dtype=np.float32)
            space = found.ndim - 2 - field.timed
            parts.append(np.moveaxis(found, -1, -1 - space))
        return np.concatenate(parts, axis=1 + fields[0].timed).reshape(stop - start, *shape)

    return StoredArray(rows, shape, "", read)


def _check_alike(one: Trajectories, other: Trajectories) -> None:
    for what, here, there in (
        ("shapes", _shapes(one), _shapes(other)),
        ("axes", one.dims, other.dims),
        *((key, one.facts.get(key), other.facts.get(key)) for key in {**one.facts, **other.facts}),
    ):
        if not _same(here, there):
            raise ValueError(
                f"{one.label} and {other.label} do not go together, their {what} differ: {_short(here)} and "
                f"{_short(there)}. Make a store of each, or take `frames` that both have"
            )


def _shapes(file: Trajectories) -> dict[str, tuple[int, ...]]:
    return {name: column.shape for name, column in file.columns.items()}


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal; lists of numbers may differ by rounding to single precision."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        if all(isinstance(value, float) for value in (*one, *other)):
            scale = max(map(abs, (*one, *other)), default=0.0)
            return bool(np.allclose(one, other, rtol=0, atol=1e-5 * scale))
    return one == other


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 200 else f"{text[:140]} ... {text[-50:]}"


def _in_turn(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """File number of every row, and row number in its file.

    Files are spread evenly over the rows, and each file's rows stay in order.
    """
    where = np.repeat(np.arange(len(counts)), counts)
    which = np.concatenate([np.arange(count) for count in counts])
    order = np.lexsort((where, (which + 0.5) / np.asarray(counts)[where]))
    return where[order], which[order]


def _theta_of(file: Trajectories, prior: Prior) -> Tensor:
    """Parameters of a file, (rows, D), in the prior's dtype; rows outside the prior's support are refused."""

    def reader(k: int) -> Callable[[int, int], np.ndarray]:
        return lambda start, stop: file.theta[start:stop, k]

    rows = len(file.theta)
    if not len(prior):
        return torch.empty(rows, 0, dtype=prior.dtype)
    piece = Piece({f"theta:{n}": TableField(rows, reader(k)) for k, n in enumerate(prior.names)}, [file.label])
    try:
        return theta_of([piece], prior, 0, rows)
    except ValueError as error:
        raise ValueError(f"{file.label}: {error}") from error


def _warn(theta: Tensor, prior: Prior) -> None:
    """Warn of parameters that do not look drawn from the prior."""
    for k, law, p_value in unlike_prior(theta, prior):
        warnings.warn(
            f"the {len(theta)} values of parameter {prior.names[k]!r}, {len(theta[:, k].unique())} of them "
            f"different, do not look drawn from its prior {law} (Kolmogorov-Smirnov p = {p_value:.1g}); a "
            "posterior learned from them would answer for another prior",
            stacklevel=4,
        )


def _block(opened: Sequence[Trajectories], name: str, where: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Rows of an observable from several files; the rows of each file are consecutive."""
    found = np.empty((len(where), *opened[0].columns[name].shape), dtype=np.float32)
    for k in np.unique(where):
        rows = which[where == k]
        found[where == k] = opened[k].columns[name].read(int(rows[0]), int(rows[-1]) + 1)
    return found
