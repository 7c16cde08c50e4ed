"""Real records of a hidden state with their own times: reading, merging, padding to the simulated length, and masks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Observable, Observation, read_observation
from sciinf.core.called import guess
from sciinf.core.observable import event_of
from sciinf.core.observation import convert
from sciinf.core.observation_columns import SoughtColumns
from sciinf.core.observation_files import open_columns
from sciinf.networks.summaries.timed import TIMES
from sciinf.simulators.dynamics.state_space import check_controls, check_times


def padded(
    seen: Mapping[str, Observable],
    times: Any,
    values: Mapping[str, Any],
    time_unit: str,
    *,
    begin: float | None,
    missing: bool,
    shortest: int | None,
) -> dict[str, Tensor]:
    """Observation made of a record, padded to T times: the last time is repeated, and its values there are missing.

    Args:
        seen: Observables, each (T, *event), all observed at the same times.
        times: Times of the record, (k,), k at most T. Times with a unit, as of astropy, are converted.
        values: Name of an observable -> its values, (k, *event), NaN where a value is missing.
        time_unit: Unit of the simulator's times; "" if unknown.
        begin: Initial time of the state, or None for the first time of the record.
        missing: Whether simulations have missing values within a record.
        shortest: Smallest number of times in simulations; None if all simulations have T times.

    Raises:
        ValueError: As in `HiddenStates.record`.
    """
    count, at = next(iter(seen.values())).shape[0], plain_times(times, time_unit)
    check_times(at[None], begin)
    if set(values) != set(seen) or not 0 < len(at) <= count:
        raise ValueError(
            f"{len(at)} times of {', '.join(values) or 'nothing'}; there are to be 1 to {count} of {event_of(seen)}"
        )
    if shortest is not None and len(at) < shortest:
        raise ValueError(
            f"the record has {len(at)} times, and simulations have {shortest} to {count}: make the simulator with "
            f"state_space(..., shortest={len(at)}), so that it is like some of them"
        )
    last, found = torch.full((count,), float(at[-1]), dtype=torch.float64), dict[str, Tensor]()
    last[: len(at)] = at
    for name, spec in seen.items():
        number, there = _values(name, values[name], spec, len(at))
        own = there if shortest is None else there[: len(at)]
        if not missing and not bool(own.all()):
            less = f" or shortest={len(at)}" if len(at) < count else ""
            raise ValueError(
                f"{int((~own).sum())} of {len(own)} values of {name!r} are not there, and in simulations none is "
                f"missing: make the simulator with state_space(..., missing=0.5){less}, say"
            )
        found |= {name: number.to(spec.torch_dtype), f"{name}{TIMES}": last}
        found |= {f"{name}_mask": there} if missing or shortest is not None else {}
    return found


def plain_times(times: Any, time_unit: str) -> Float[Tensor, " time"]:
    """Times as numbers in the simulator's unit.

    Raises:
        ValueError: If the times have a unit, and the unit of the simulator is unknown.
    """
    given = getattr(times, "unit", None)
    if given is not None and not time_unit:
        raise ValueError(
            f"times are given in {str(given)!r}, and the simulator does not say its own unit: make it with "
            'state_space(..., time_unit="day"), say, or give plain numbers in the unit of the model'
        )
    return _numbers(times, Observable((), time_unit), "times").reshape(-1)


def merged(
    seen: Mapping[str, Observable],
    given: Mapping[str, Observable],
    times: Any,
    values: Mapping[str, Any],
    controls: Mapping[str, Any],
    *,
    time_unit: str,
    impulses: Sequence[str],
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Merge measurements and impulses with different times into one axis of times.

    Args:
        seen: Observables of the simulator.
        given: Controls that are data.
        times: Times of the record.
        values: Name of an observable -> its values at these times.
        controls: Name of a control -> its values at these times, or a pair (times, values) of impulses, which are 0 at
            other times.
        time_unit: Unit of the simulator's times.
        impulses: Names of the controls that act at one moment only. Other controls are not 0 between their given times,
            and cannot be given as pairs.

    Returns:
        Times, values (NaN at times of impulses only) and controls, all along the same axis. They are unchanged if there
        are no pairs.

    Raises:
        ValueError: If a control is missing or unknown, or is given as a pair although it is not an impulse; some
            controls are pairs and others are not; times go backwards; there are more times than in simulations; or
            values have another number than their times.
    """
    if set(controls) != set(given):
        missing, unknown = sorted(set(given) - set(controls)), sorted(set(controls) - set(given))
        words = [f"the control {name!r} is missing" for name in missing]
        words += [f"{name!r} is no control that differs from record to record" for name in unknown]
        raise ValueError(
            f"{'; '.join(words)}: a record of this simulator has {event_of(given) or 'no controls'}; give "
            "record(times, values, controls={name: one value for each time}), 0 where a dose was not given"
        )
    pairs = {name: value for name, value in controls.items() if _is_pair(value)}
    if not pairs:
        return times, dict(values), dict(controls)
    if level := [name for name in pairs if name not in impulses]:
        raise ValueError(
            f"{level[0]!r} is given as a pair (times, values), but keeps its value until the next time: give one value "
            f"for each time of the record. If it is an impulse, such as a dose, write `impulses = ({level[0]!r},)` "
            "into the model"
        )
    if len(pairs) < len(controls):
        held = ", ".join(sorted(set(controls) - set(pairs)))
        raise ValueError(
            f"{', '.join(pairs)} have their own times, and {held} the times of the record: their values at the other "
            "times are unknown. Give all of them as pairs (times, values) of impulses, or all at the record's times"
        )
    at = plain_times(times, time_unit)
    own = {name: plain_times(pair[0], time_unit) for name, pair in pairs.items()}
    for when in (at, *own.values()):
        check_times(when[None], None)
    before = [at, *(when for when in own.values() for _ in range(2))]
    kind = torch.cat([torch.full((len(t),), i, dtype=torch.float64) for i, t in enumerate(before)])
    every, most = torch.cat(before), next(iter(seen.values())).shape[0]
    if len(every) > most:
        raise ValueError(
            f"{len(at)} times and {(len(every) - len(at)) // 2} impulses take {len(every)} lines, two for each impulse "
            f"(before and after it), and simulations have {most}: let the observables have as many"
        )
    order = torch.from_numpy(np.lexsort((kind.numpy(), every.numpy())))
    found = {
        name: _along(order, _measured(name, value, seen, len(at)), 0, len(every)) for name, value in values.items()
    }
    doses, start = dict[str, Any](), len(at)
    for name, (_, value) in pairs.items():
        amount = _numbers(value, given[name], name)
        if amount.shape != (len(own[name]), *given[name].shape[1:]):
            raise ValueError(
                f"the control {name!r} has shape {tuple(amount.shape)} for {len(own[name])} times of its own"
            )
        doses[name] = _along(order, amount, start, len(every), 0.0)
        start += 2 * len(amount)
    return every[order], found, doses


def set_through(
    given: Mapping[str, Observable],
    controls: Mapping[str, Any],
    record: Mapping[str, Tensor],
    count: int,
    impulses: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Controls of a record, extended to T times: after the record's end, levels keep their value and impulses are 0.

    Args:
        given: Controls that are data, each (T, *event).
        controls: Name of a control -> its values, (k, *event). Values with a unit are converted.
        record: Padded record, which holds NAME_times of the observables, (T,), with the last time repeated.
        count: Number k of times before the padding.
        impulses: Names of the controls that act at one moment only.

    Raises:
        ValueError: If a control has another number of values than times, or a value that is not finite.
    """
    found = dict[str, Tensor]()
    times = next(value for name, value in record.items() if name.endswith(TIMES))
    for name, spec in given.items():
        value = controls[name]
        number = _numbers(value, spec, name)
        if number.shape != (count, *spec.shape[1:]):
            raise ValueError(
                f"the control {name!r} has shape {tuple(number.shape)} for {count} times of {spec.shape[1:]}: give one "
                "value for each time"
            )
        check_controls({name: number[None]}, times[None, :count])
        end = torch.zeros_like(number[-1:]) if name in impulses else number[-1:]
        found[name] = torch.cat([number, end.expand(spec.shape[0] - count, *number.shape[1:])])
    return found


def _numbers(value: Any, spec: Observable, name: str) -> Tensor:
    """Values as numbers in the unit of a specification. Values with a unit, as of astropy, are converted."""
    plain = convert(getattr(value, "value", value), getattr(value, "unit", None), spec, name)
    return torch.as_tensor(np.array(plain, dtype=np.float64))


def _is_pair(value: Any) -> bool:
    """Whether a control is a pair (times, values) of impulses, not a tuple of numbers at the record's times."""
    return isinstance(value, tuple) and len(value) == 2 and all(np.ndim(part) > 0 for part in value)


def _measured(name: str, value: Any, seen: Mapping[str, Observable], count: int) -> Tensor:
    """Measured values as numbers in the observable's unit, NaN where missing, after a check of name and shape."""
    if name not in seen:
        raise ValueError(f"{name!r} is no observable; there are {event_of(seen)}")
    number = _numbers(value, seen[name], name)
    if number.shape != (count, *seen[name].shape[1:]):
        raise ValueError(f"{name!r} has shape {tuple(number.shape)} for {count} times of {seen[name].shape[1:]}")
    return number


def _along(order: Tensor, value: Tensor, start: int, count: int, elsewhere: float = math.nan) -> Tensor:
    """Values placed on the merged axis of times.

    Args:
        order: Order of all entries, by time.
        value: Values of some consecutive entries.
        start: Number of the first of these entries, before sorting.
        count: Number of all entries.
        elsewhere: Value of the other entries.
    """
    whole = torch.full((count, *value.shape[1:]), elsewhere, dtype=torch.float64)
    whole[start : start + len(value)] = value
    return whole[order]


def _values(name: str, value: Any, spec: Observable, count: int) -> tuple[Tensor, Bool[Tensor, " time"]]:
    number = _numbers(value, spec, name)
    if number.shape != (count, *spec.shape[1:]):
        raise ValueError(f"{name!r} has shape {tuple(number.shape)} for {count} times of {spec.shape[1:]}")
    if bool(number.isinf().any()):
        raise ValueError(f"{name!r} has a value that is infinite; where a value is missing, give NaN")
    there, whole = torch.zeros(spec.shape[0], dtype=torch.bool), torch.zeros(spec.shape, dtype=torch.float64)
    there[:count] = number.reshape(count, -1).isfinite().all(-1)
    whole[:count] = number.nan_to_num(0.0)
    return whole, there


def filled(values: Float[Tensor, "row time *event"], there: Bool[Tensor, "row time"]) -> Tensor:
    """Values with every missing value replaced by an observed value, so that a density is defined everywhere.

    A density of positive numbers, for example, is not defined at the 0 that stands for a missing value. The density at
    missing values is ignored later.
    """
    first = there.to(torch.uint8).argmax(1)
    own = values[torch.arange(len(values), device=values.device), first]
    some = there.any(1)
    if not bool(some.all()) and bool(some.any()):
        wide = some.reshape(-1, *[1] * (own.ndim - 1))
        own = torch.where(wide, own, own[some][:1])
    wide = there.reshape(*there.shape, *[1] * (values.ndim - 2))
    return torch.where(wide, values, own[:, None])


def values_and_masks(
    seen: Mapping[str, Observable], x: Mapping[str, Tensor], theta: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Observed values of each row of theta, and their masks, in the form that filters take.

    Args:
        seen: Observables of the simulator.
        x: Data of each row of theta, or of one row for all.
        theta: Parameters, (rows, D), which give the number of rows, the dtype and the device.
    """
    rows = len(theta)
    kinds = {n: theta.dtype if spec.dtype == "float32" else torch.float64 for n, spec in seen.items()}
    masks = {n: x[f"{n}_mask"].bool() for n in seen if f"{n}_mask" in x}
    values = {n: x[n].to(theta.device, kinds[n]) for n in seen}
    values |= {n: filled(values[n], mask.to(theta.device)) for n, mask in masks.items()}
    values = {n: value.expand(rows, *value.shape[1:]) for n, value in values.items()}
    return values, {n: mask.expand(rows, *mask.shape[1:]) for n, mask in masks.items()}


def shared_times(seen: Mapping[str, Observable], x: Mapping[str, Tensor]) -> Float[Tensor, "batch time"]:
    """Times of each record, read from the observables NAME_times, float64.

    Raises:
        ValueError: If the observables of a record have different times.
    """
    first, *others = (x[f"{n}{TIMES}"].double() for n in seen)
    if not all(torch.equal(first, other) for other in others):
        raise ValueError(f"{event_of(seen)} must have the same times; merge their times, and mask missing values")
    return first


def read_record(
    observables: Mapping[str, Observable],
    seen: Mapping[str, Observable],
    given: Mapping[str, Observable],
    record: Callable[[Any, Mapping[str, Any], Mapping[str, Any]], Mapping[str, Tensor]],
    paths: Sequence[str | Path],
    columns: Mapping[str, str],
) -> Observation:
    """Read a record from files that have one row for each of its times.

        time,count,count_mask
        1986.4,110,1
        1990.1,0,0

    Any other column is an error: if the name of a mask were misspelt, missing values would be read as data.

    Args:
        observables: All observables of the simulator.
        seen: Observables that are not times, masks or controls.
        given: Observables that are controls, at the same times.
        record: Function that makes an observation of times, values and controls (`HiddenStates.record`).
        paths: Paths of the files.
        columns: Name of an observable -> name of its column in the files, if they differ. NAME_times and NAME_mask are
            observables too.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If there is no column of times, or an unknown column; or as in `read_observation` and `record`.
    """
    first, count = next(iter(seen)), next(iter(seen.values())).shape[0]
    called, at = {name: columns.get(name, name) for name in observables}, f"{first}{TIMES}"
    length, names = _looked(called, [f"{name}{TIMES}" for name in seen], seen[first], paths)
    if set(called.values()) <= set(names) and set(length.values()) == {count}:
        return read_observation(observables, *paths, columns=columns)  # The files hold a complete padded observation.
    masks = [m for n in seen if (m := f"{n}_mask") in observables and (called[m] in names or m in columns)]
    where = " and ".join(map(str, paths))
    _check_names(names, length, [*seen, *given, *masks], called, observables, where)
    time, rows = next(iter(length.items()))
    if not 0 < rows <= count:
        raise ValueError(
            f"{where}: the record has {rows} times, and simulations have at most {count}: leave out some times, or "
            f"make the simulator with observables of {rows} times"
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
    """Raise an error if the files have no column of times, several of them, or an unknown column.

    Args:
        names: Names of all columns in the files.
        times: Columns of times -> number of their entries.
        wanted: Names of the observables that are read.
        called: Name of an observable -> name of its column.
        observables: Specification of each observable.
        where: Names of the files, for messages.

    Raises:
        ValueError: If there is no column of times, there are several, or a column is unknown.
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
    """Find the columns of times in the files: name -> number of entries, and the names of all columns."""
    axis = spec.dims[0] if spec.dims else "time"
    may = dict.fromkeys([*(called[name] for name in times), axis, "time"])
    wanted = SoughtColumns("|".join(map(re.escape, may)), len(called) * int(np.prod(spec.shape)))
    length, names = dict[str, int](), list[str]()
    for path in paths:
        with ExitStack() as stack:
            contents = open_columns(Path(path), wanted, stack)
            names += contents.names
            length |= {name: int(np.prod(column.shape)) for name, column in contents.columns.items()}
    return {name: length[name] for name in may if name in length}, names
