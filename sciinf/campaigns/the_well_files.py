"""A store made of simulations of The Well, which are read from HDF5 files.

A file holds `n_trajectories` runs on one grid. This module reads these items (@ marks attributes):

    @n_trajectories, @simulation_parameters, and one attribute for each of these
    dimensions      @spatial_dims (names, in the arrays' order), time (T) or (B, T), one array of coordinates for each
    scalars         @field_names, arrays (), (1), (B), (T) or (B, T)
    t0_fields       @field_names, scalar fields       (B, T, *space)
    t1_fields       @field_names, vector fields       (B, T, *space, D)
    t2_fields       @field_names, tensor fields       (B, T, *space, D, D)

An array has its first axis only if @sample_varying, its second only if @time_varying, and an axis of space only if
@dim_varying says so. Channels of "u" are t0, t1, t2 in this order, each in the order of @field_names, with components
in C order. `fields.json` in the store has the names of the channels. Boundary conditions are not read.

References:
    | The Well: a Large-Scale Collection of Diverse Physics Simulations for Machine Learning (Ohana et al., 2024),
      https://arxiv.org/abs/2412.00568
    | Data format, https://polymathic-ai.org/the_well/data_format/
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from sciinf.campaigns.store import Store
from sciinf.campaigns.stored_fields import (
    TIMES,
    StoredField,
    Trajectories,
    columns_of,
    files_of,
    frames_of,
    numbers,
    store_of,
)
from sciinf.campaigns.table_columns import StoredArray, opened_h5
from sciinf.core import Prior
from sciinf.core.files import local_path
from sciinf.simulators.wrappers.named_function import suggest


def the_well(
    *paths: str | Path,
    prior: Prior,
    out: str | Path,
    fields: Sequence[str] | None = None,
    frames: slice | None = None,
    rows: int | None = None,
    name: str = "the_well",
) -> Store:
    """Make a store of simulations of The Well. The same files give the same store, and a complete store is kept.

    Args:
        *paths: HDF5 files, or folders of HDF5 files.
        prior: Distribution of the parameters, each named like a scalar or a simulation parameter of the files;
            `Unknown()` if the distribution is unknown, `Prior.none()` for fields without parameters.
        out: Folder of the store.
        fields: Names of the fields to take; all by default.
        frames: Frames to take; all by default.
        rows: Number of trajectories to take, evenly from the files; all by default.
        name: Name of the simulator in the store.

    Returns:
        The store. Its observables are "u" (time, channel, *space) and its first frame "initial". Fields that do not
            change in time have their own names. "times" is present if times differ between trajectories. Rows with
            non-finite data have `Status.NON_FINITE`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If something is missing or has another shape, files do not agree, theta lies outside the prior's
            support, or `out` holds a store of something else.

    Warns:
        UserWarning: If a parameter's values do not look drawn from the prior.
    """
    files = files_of(paths, "the_well('data/train', prior=..., out=...)")
    with ExitStack() as stack:
        every = frames or slice(None)
        opened = [_open(opened_h5(path, stack), path.name, prior, fields, every) for path in files]
        return store_of(files, opened, prior=prior, out=local_path(out), rows=rows, name=name)


def _open(file: Any, label: str, prior: Prior, names: Sequence[str] | None, frames: slice) -> Trajectories:
    rows = int(_flag(file, "n_trajectories", label))
    dimensions = _member(file, "dimensions", label)
    axes = _words(_flag(dimensions, "spatial_dims", f"{label}, dimensions"))
    space = {axis: int(_member(dimensions, axis, f"{label}, dimensions").shape[-1]) for axis in axes}
    time = _member(dimensions, "time", f"{label}, dimensions")
    kept = frames_of(int(time.shape[-1]), frames, label)
    fields = _fields(file, label, names, rows, int(time.shape[-1]), space)
    columns, dims = columns_of(fields, rows, space, kept, label)
    own = bool(time.attrs.get("sample_varying", False))
    if own:
        columns[TIMES] = StoredArray(rows, (len(kept),), "", lambda start, stop: time[start:stop][:, kept])
        dims[TIMES] = ("time",)
    theta = np.empty((rows, len(prior)))
    for k, parameter in enumerate(prior.names):
        theta[:, k] = _parameter(file, label, parameter, rows)
    fixed = {axis: dimensions[axis] for axis in axes if not dimensions[axis].attrs.get("sample_varying", False)}
    facts = {
        "channels": [channel for field in fields.values() if field.timed for channel in field.channels],
        "constant": {key: list(field.channels) for key, field in fields.items() if not field.timed},
        "times": None if own else numbers(time[...].ravel()[kept]),
        "coordinates": {axis: numbers(values[...]) for axis, values in fixed.items()},
        "grid": str(file.attrs.get("grid_type", "")),
    }
    return Trajectories(label, theta, columns, dims, facts)


def _fields(
    file: Any, label: str, names: Sequence[str] | None, rows: int, steps: int, space: dict[str, int]
) -> dict[str, StoredField]:
    found: dict[str, StoredField] = {}
    known: list[str] = []
    for order in range(3):
        if f"t{order}_fields" not in file:
            continue
        group = file[f"t{order}_fields"]
        for key in _words(_flag(group, "field_names", f"{label}, t{order}_fields")):
            if key in known:
                raise ValueError(f"{label} has two fields called {key!r}; rename one of them in the file")
            known.append(key)
            if names is None or key in names:
                where = f"{label}, t{order}_fields"
                found[key] = _field(_member(group, key, where), f"{where}, {key}", order, rows, steps, space)
    for key in names or ():
        if key not in known:
            raise ValueError(f"{label} has no field {key!r}{suggest(key, known)}; it has {known}")
    if not known:
        raise ValueError(f"{label} has no fields: it needs groups t0_fields, t1_fields, t2_fields, found {list(file)}")
    return found


def _field(array: Any, where: str, order: int, rows: int, steps: int, space: dict[str, int]) -> StoredField:
    own, timed = (bool(_flag(array, f"{flag}_varying", where)) for flag in ("sample", "time"))
    varies = [bool(flag) for flag in np.atleast_1d(_flag(array, "dim_varying", where))]
    if len(varies) != len(space):
        raise ValueError(f"{where}: dim_varying is {varies}, expected one for each of {list(space)}")
    sizes = [n for n, flag in zip(space.values(), varies, strict=True) if flag]
    lead = (*([rows] if own else []), *([steps] if timed else []), *sizes)
    parts = tuple(array.shape[len(lead) :])
    if array.shape[: len(lead)] != lead or not (len(parts) == order or (order == 2 and len(parts) == 1)):
        components = ("", ", D", ", D, D")[order]
        raise ValueError(f"{where} has shape {array.shape}, expected ({', '.join(map(str, lead))}{components})")
    full = [n if flag else 1 for n, flag in zip(space.values(), varies, strict=True)]
    count = int(np.prod(parts))

    def read(wanted: slice, frames: slice) -> np.ndarray:
        values = array[(*([wanted] if own else []), *([frames] if timed else []))]
        values = np.asarray(values if own else values[None], dtype=np.float32)
        before = values.shape[: 1 + timed]
        values = values.reshape(*before, *full, count)
        return np.broadcast_to(values, (wanted.stop - wanted.start, *before[1:], *space.values(), count))

    return StoredField(_channels(array.name.rsplit("/", 1)[1], order, count, tuple(space)), timed, read)


def _channels(key: str, order: int, count: int, axes: tuple[str, ...]) -> tuple[str, ...]:
    """Names of a field's components, such as v_x, v_y."""
    named = ["".join(part) for part in itertools.product(axes, repeat=order)]
    ends = named if len(named) == count else [str(k) for k in range(count)]
    return tuple(f"{key}_{end}" for end in ends) if order else (key,)


def _parameter(file: Any, label: str, name: str, rows: int) -> np.ndarray:
    """Values of a parameter, float64 (rows,)."""
    scalars: Any = file.get("scalars", {})
    if name in scalars:
        array, where = scalars[name], f"{label}, scalars, {name}"
        if bool(_flag(array, "time_varying", where)):
            raise ValueError(f"{where} changes in time, so it is no parameter; leave it out of the prior")
        values = np.asarray(array[()], dtype=np.float64).ravel()
        expected = rows if bool(_flag(array, "sample_varying", where)) else 1
        if len(values) != expected:
            raise ValueError(f"{where} has shape {array.shape}, expected ({expected},)")
        return np.broadcast_to(values, rows)
    if name in file.attrs and np.size(file.attrs[name]) == 1:
        return np.full(rows, float(np.asarray(file.attrs[name]).ravel()[0]))
    known = [*map(str, scalars), *(_words(file.attrs.get("simulation_parameters", ())))]
    raise ValueError(
        f"{label} has no scalar or simulation parameter {name!r}{suggest(name, known)}; it has {sorted(set(known))}. "
        "Give the prior's parameters these names"
    )


def _member(group: Any, key: str, where: str) -> Any:
    if key not in group:
        raise ValueError(f"{where} has no {key!r}, which a file of The Well has; found {sorted(group)}")
    return group[key]


def _flag(item: Any, key: str, where: str) -> Any:
    if key not in item.attrs:
        raise ValueError(f"{where} has no attribute {key!r}, which a file of The Well has; found {sorted(item.attrs)}")
    return item.attrs[key]


def _words(value: Any) -> list[str]:
    """Strings of an attribute, which may hold none, one or several."""
    return [word.decode() if isinstance(word, bytes) else str(word) for word in np.atleast_1d(value).tolist()]
