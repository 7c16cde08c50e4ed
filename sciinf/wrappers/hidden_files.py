"""Records of a hidden state with times of their own, from files: a row for each time, as many as there are.

    time,count,count_mask
    1986.4,110,1
    1990.1,0,0

Whatever a file holds beside these columns is refused: a mask that is misspelt would make values of what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinf.core import Observable, Observation, read_observation
from sciinf.core.called import guess
from sciinf.core.observation_columns import Wanted
from sciinf.core.observation_files import open_columns
from sciinf.summaries.timed import TIMES


def read_record(
    observables: Mapping[str, Observable],
    seen: Mapping[str, Observable],
    given: Mapping[str, Observable],
    record: Callable[[Any, Mapping[str, Any], Mapping[str, Any]], Mapping[str, Tensor]],
    paths: Sequence[str | Path],
    columns: Mapping[str, str],
) -> Observation:
    """A record from files: a row for each time, as many as it has.

    Args:
        observables: What the simulator produces.
        seen: Those of them that are neither times, masks nor controls.
        given: Those that are controls, along the same times.
        record: Puts times and values together (`HiddenStates.record`).
        paths: The files.
        columns: Observable -> what it is called in the files, where that is not its own name; NAME_times and NAME_mask
            are observables.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If there is no column of times, or one that nobody knows; or as `read_observation` and `record`.
    """
    first, count = next(iter(seen)), next(iter(seen.values())).shape[0]
    called, at = {name: columns.get(name, name) for name in observables}, f"{first}{TIMES}"
    length, names = _looked(called, [f"{name}{TIMES}" for name in seen], seen[first], paths)
    if set(called.values()) <= set(names) and set(length.values()) == {count}:
        return read_observation(observables, *paths, columns=columns)  # a whole one, as it stands there
    masks = [m for n in seen if (m := f"{n}_mask") in observables and (called[m] in names or m in columns)]
    where = " and ".join(map(str, paths))
    _check_names(names, length, [*seen, *given, *masks], called, observables, where)
    time, rows = next(iter(length.items()))
    if not 0 < rows <= count:
        raise ValueError(
            f"{where}: the record has {rows} times, and simulations have at most {count}: leave out what is least "
            f"needed, or let the simulator have observables of {rows} times"
        )
    specs = {
        name: replace(observables[name], shape=(rows, *observables[name].shape[1:]), coords={}, coord_units={})
        for name in (*seen, *given, *masks, at)
    }
    wanted = {name: called[name] for name in specs if called[name] != name} | {at: time}
    found = read_observation(specs, *paths, columns=wanted)
    values = {}
    for name in seen:
        there = found[f"{name}_mask"] if f"{name}_mask" in masks else torch.ones(rows, dtype=torch.bool)
        wide = there.reshape(rows, *[1] * (found[name].ndim - 1))
        values[name] = torch.where(wide, found[name].double(), torch.nan).numpy()
    controls = {name: found[name].numpy() for name in given}
    more = [f"a record of {rows} times, of at most {count}"] if rows < count else []
    return Observation(record(found[at].numpy(), values, controls), [*found.read, *more])


def _check_names(
    names: Sequence[str],
    times: Mapping[str, int],
    wanted: Sequence[str],
    called: Mapping[str, str],
    observables: Mapping[str, Observable],
    where: str,
) -> None:
    """Refuse files without a column of times, with several, or with one that nobody knows.

    Args:
        names: Of all their columns.
        times: Columns of times.
        wanted: Observables that are read.
        called: Observable -> its column.
        observables: What each is.
        where: The files, for messages.

    Raises:
        ValueError: If so.
    """
    may = [*(times or ["time"]), *(called[name] for name in wanted)]
    parts = [re.escape(called[name]) for name in wanted if len(observables[name].shape) > 1]
    beside = re.compile(rf"(?:{'|'.join(parts)})(?:[_.]\w+|\[\w+\])") if parts else None
    other = [name for name in names if name not in may and not (beside and beside.fullmatch(name))]
    masks = [called[name] for name in observables if name.endswith("_mask") and called[name] not in may]
    known = ", ".join([*may, *(f"{mask} (where values are missing)" for mask in masks)])
    if not times:
        at = next(name for name in called if name.endswith(TIMES))
        raise ValueError(
            f"{where}: no column has the times of the record: found {list(names)}, expected {known}. Call it 'time', "
            f"or say which it is: --column {at}=NAME (in Python columns={ {at: 'NAME'} })"
        )
    if other:
        raise ValueError(
            f"{where}: {other[0]!r} is no column of a record, which has {known}{guess(other[0], [*may, *masks])}. "
            "Rename it, or leave it out if it is not data; or say what each is called in the file: --column "
            f"{wanted[0]}=NAME (in Python columns={ {wanted[0]: 'NAME'} })"
        )
    if len(times) > 1:
        raise ValueError(f"{where}: a record has one column of times, there are {', '.join(times)}: keep one of them")


def _looked(
    called: Mapping[str, str], times: Sequence[str], spec: Observable, paths: Sequence[str | Path]
) -> tuple[dict[str, int], list[str]]:
    """Columns of times in the files -> how many numbers each has, and the names of all columns."""
    axis = spec.dims[0] if spec.dims else "time"
    may = dict.fromkeys([*(called[name] for name in times), axis, "time"])
    wanted = Wanted("|".join(map(re.escape, may)), len(called) * int(np.prod(spec.shape)))
    length, names = dict[str, int](), list[str]()
    for path in paths:
        with ExitStack() as stack:
            contents = open_columns(Path(path), wanted, stack)
            names += contents.names
            length |= {name: int(np.prod(column.shape)) for name, column in contents.columns.items()}
    return {name: length[name] for name in may if name in length}, names
