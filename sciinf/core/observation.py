"""Observations: real data from files or arrays, checked against the simulator's observables."""

from __future__ import annotations

import csv
import inspect
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

from sciinf.core.findings import Finding
from sciinf.core.observable import Observable, event_of
from sciinf.core.observation_arrays import text_of
from sciinf.core.observation_axes import AxisColumn, by_other_names, compare, in_order, open_beside, unsaid
from sciinf.core.observation_columns import Column, SoughtColumns, parsed_unit, unit_in
from sciinf.core.observation_containers import aligned, unit_of
from sciinf.core.observation_files import values_of
from sciinf.core.observation_records import masked, padded, shortened

if TYPE_CHECKING:
    from sciinf.core.simulator import Simulator

_LIKE = 1_000  # A missing name is compared with at most this many names of the files, to bound the time.
_LABEL = r"(?:[_.](\w+)|\[(\w+)\])"
_TABLES = (".csv", ".ecsv")
_MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "missing", "-", "--", "?", ".", "inf", "-inf")
_LIMIT = (
    ". For a value beyond a limit of the instrument write the limit, and let the simulator give the limit for all that "
    "lies beyond it"
)


def as_observation(observables: Mapping[str, Observable], x: Any, *, batched: bool = False) -> dict[str, Tensor]:
    """The data x in the form that the estimators take: observable name -> tensor (batch, *event).

    Args:
        observables: The simulator's observables, by name.
        x: A mapping of named arrays (tensors, numpy arrays, astropy quantities, numbers), or a bare array if
            there is one observable. One observation has event shape, with or without a leading axis of one.
            An array may be shorter along its first axis than the observable if a mask observable exists.
        batched: Whether x has a leading batch axis of any length. By default x is one observation.

    Raises:
        ValueError: If a name is missing or unknown, a shape does not fit, a unit does not convert or a value
            is not finite.
    """
    if not isinstance(x, Mapping):
        if x is None:
            raise ValueError(f"no observation was given: pass x=, a mapping of {event_of(observables)}")
        if len(observables) != 1:
            raise ValueError(f"x must be a mapping of {event_of(observables)}, got {type(x).__name__}")
        x = {next(iter(observables)): x}
    masks = masked(observables)
    if not batched:
        arrays = [name for name in masks if name in x and not isinstance(x[name], Tensor)]
        x = padded(observables, {**x, **{name: _plain(name, observables[name], x[name]) for name in arrays}})
    missing, unknown = set(observables) - set(x), set(x) - set(observables)
    if missing or unknown:
        raise ValueError(
            f"the observation has {sorted(x)}, the simulator has {event_of(observables)}; "
            + "; ".join(
                ([f"missing: {sorted(missing)}"] if missing else [])
                + ([f"unknown: {sorted(unknown)}"] if unknown else [])
            )
            + "; name the data as the simulator does"
            + "".join(f"; {mask} is True where {n} is there" for n, mask in masks.items() if mask in missing)
        )
    out = {name: _one(name, spec, x[name], batched) for name, spec in observables.items()}
    if len({len(v) for v in out.values()}) > 1:
        raise ValueError(
            f"the observables have different batch sizes: { {k: len(v) for k, v in out.items()} }; "
            "give each of them one row per observation"
        )
    return out


@final
class Observation(dict[str, Tensor]):
    """One observation, observable name -> tensor (*event), with a record of how it was read.

    Args:
        values: The tensors, by observable name.
        read: Lines of text: one per observable (number of values, unit conversion), then other columns.
        findings: Findings about what could not be checked on reading, for the answers to show.
    """

    def __init__(
        self, values: Mapping[str, Tensor], read: Sequence[str] = (), findings: Sequence[Finding] = ()
    ) -> None:
        dict.__init__(self, values)
        self.read, self.findings = tuple(read), tuple(findings)


def read_observation(
    observables: Mapping[str, Observable], *paths: str | Path, columns: Mapping[str, str] | None = None
) -> Observation:
    """One observation from files of text, tables or arrays, with units converted and coordinates checked.

    Formats are `.csv`, `.ecsv`, `.txt`, `.npy`, `.npz`, `.pt`, `.h5`, `.nc`, `.fits` and `.json`.

    The columns of a table, or the arrays or keys of a file, have the names of the observables. An observable
    of shape (rows, k) may also be given as k columns:

    - `name_0 ... name_{k-1}` (or `name_1 ... name_k`), which are put in the order of their numbers;
    - `name_<label>`, which are put in the order of the last axis if the labels are the coordinates of that
      axis, else in the order of the file.

    Units in the file (ECSV, FITS, HDF5 attribute `unit` or `units`, a header like `v [mV]`) are converted.
    Values without a unit are taken to be in the unit of the observable. If a column has the name of an axis
    (times also `t`), its values must equal the observable's coordinates along this axis. If the observable
    has no coordinates there, a finding says that the values were not compared. The attribute `read` of the
    result lists in words what was read and converted.

    Args:
        observables: The simulator's observables, by name.
        paths: The files, at least one.
        columns: Observable -> name of its column in the files, for names that differ.

    Returns:
        Observable name -> tensor of its event shape.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is damaged, a column is missing or occurs twice, a shape does not fit, a unit
            does not convert, a value is not finite, the coordinates of the values differ from the simulator's
            or are in another order, or `columns` names an unknown observable.
    """
    if not paths:
        raise ValueError("no observation files were given: name one or more")
    called = _called(observables, columns or {})
    wanted = _wanted(observables, called, len(paths))
    names, beside = list[str](), list[AxisColumn]()
    found: dict[str, tuple[Path, Column]] = {}
    with ExitStack() as stack:
        for path in map(Path, paths):
            contents, along = open_beside(path, wanted, observables, stack)
            twice = sorted(set(contents.columns) & set(found))
            if twice:
                raise ValueError(f"{path} holds {twice}, which an earlier file holds too; keep one of them")
            names += contents.names
            beside += along
            found.update({name: (path, column) for name, column in contents.columns.items()})
        _as_said(found, called, observables)
        records = {name for pair in masked(observables).items() for name in pair}
        shapes = {name: _shape(called[name], observables[name], found) for name in records}
        given = shortened(observables, {name: shape for name, shape in shapes.items() if shape is not None})
        asked = {called[name]: spec for name, spec in given.items()}
        picked = {name: _pick(called[name], asked, found, (names, paths, name)) for name in given}
        arrays = {
            name: _put_together(name, called[name], given[name], [(key, *found[key]) for key in keys])
            for name, keys in picked.items()
        }
        files = {name: {found[key][0] for key in picked.get(name, ())} for name in observables}
        agree, findings = compare(beside, observables, files)
    values = {name: value[0] for name, value in as_observation(observables, arrays).items()}
    units = {name: {key: found[key][1].unit for key in keys} for name, keys in picked.items()}
    lines = [_told(name, given[name], observables[name].shape, units[name]) for name in picked]
    lines += [f"{name}: as the simulator has it" for name in agree]
    used = {*agree, *(key for keys in picked.values() for key in keys)}
    left = [name for name in dict.fromkeys(names) if name not in used]
    same = by_other_names([*map(Path, paths)], left, observables, {one.axis for one in beside})
    lines += [f"{name}: as the simulator has it" for name in same]
    if left := [name for name in left if name not in same]:
        more = f" and {len(left) - 8} more" if len(left) > 8 else ""
        lines.append(f"not used: {', '.join(left[:8])}{more}")
    if not (beside or same) and (words := unsaid(observables, {k: len(v) for k, v in picked.items()})):
        lines.append(words)
    return Observation(values, lines, findings)


def observe(
    simulator: Simulator,
    *paths: str | Path,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Observation:
    """One observation from files, read by the simulator's own reader, or else by `read_observation`.

    The attribute `read` of the result says so if the simulator has its own reader.

    Args:
        simulator: The simulator whose observables the files hold.
        paths: The files.
        columns: Observable -> name of its column in the files, for names that differ.
        options: Further keywords of the simulator's own reader.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the data do not fit the simulator, or if `columns` is given and the simulator's own
            reader does not take it.
    """
    if columns and "columns" not in inspect.signature(simulator.observe).parameters:
        raise ValueError(
            f"the simulator {simulator.name!r} defines its own observe, which takes no names of columns: "
            "leave out --column, or give its observe the argument `columns`"
        )
    read = simulator.observe if simulator.reader is None or columns else simulator.reader
    found = read(*paths, **({"columns": columns} if columns else {}), **(options or {}))
    values = {name: value[0] for name, value in as_observation(simulator.observables, found).items()}
    if isinstance(found, Observation):
        return Observation(values, found.read, found.findings)
    sizes = {name: spec.shape for name, spec in simulator.observables.items()}
    how = "by the simulator's own observe"
    how += f" ({', '.join(f'{name}={value}' for name, value in options.items())})" if options else ""
    return Observation(values, [f"{name}: {_count(shape)}, {how}" for name, shape in sizes.items()])


def convert(value: Any, unit: Any, spec: Observable, name: str) -> np.ndarray:
    """The values as numbers in the unit of the observable.

    Args:
        value: The numbers.
        unit: Their unit: text, or a unit of astropy. The text "" or None stands for the observable's unit.
        spec: The observable.
        name: The name of the values, for messages.

    Raises:
        ValueError: If the unit is unknown or does not convert.
    """
    array = np.asarray(value)
    if unit is None or str(unit) == spec.unit or (isinstance(unit, str) and not unit):
        return array
    from astropy import units

    try:
        return np.asarray(units.Quantity(array, parsed_unit(unit)).to_value(parsed_unit(spec.unit)))
    except (units.UnitConversionError, ValueError, TypeError) as error:
        zero = "; degrees Celsius have another zero: add 273.15 to have kelvins" if "deg_C" in f"{error}" else ""
        raise ValueError(
            f"observable {name!r} is in {str(unit) or 'no unit'!r}, which does not convert to the simulator's "
            f"{spec.unit!r}: {error}; correct the unit of the data, or the observable's{zero}"
        ) from error


def _one(name: str, spec: Observable, value: Any, batched: bool) -> Tensor:
    if not isinstance(value, Tensor):
        array = _plain(name, spec, value)
        _check_numbers(name, spec, array)
        contiguous = np.ascontiguousarray(array, _kind_for_torch(array))
        value = torch.as_tensor(np.require(contiguous, requirements="W"))
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        bad = (~torch.isfinite(value)).nonzero()
        first = f", the first at {bad[0].tolist()}" if value.ndim else ""
        raise ValueError(
            f"observable {name!r} has {len(bad)} values that are NaN or infinite{first}; remove them, or give the "
            f"simulator a mask observable {name + '_mask'!r} that marks missing values"
        )
    if spec.scale == "log" and bool((value < 0).any()):
        raise ValueError(
            f"observable {name!r} has values below zero, but its scale is 'log': it takes none; correct the "
            "values, or give the observable the scale 'linear'"
        )
    if not batched and tuple(value.shape) == spec.shape:
        value = value[None]
    expected = ("batch", *spec.shape) if batched else spec.shape
    if tuple(value.shape[1:]) != spec.shape or value.ndim == 0 or (not batched and len(value) != 1):
        shape = tuple(value.shape[1:]) if not batched and value.shape[:1] == (1,) else tuple(value.shape)
        raise ValueError(_misshapen(name, shape, expected))
    return _cast(name, spec, value)


def _plain(name: str, spec: Observable, value: Any) -> np.ndarray:
    """The values as an array with the observable's unit and order of axes."""
    value = aligned(value, spec, name)
    return convert(getattr(value, "value", value), unit_of(value), spec, name)


def _check_numbers(name: str, spec: Observable, values: np.ndarray | Column) -> None:
    if values.dtype.kind not in "biuf":
        file = "; the values of a file are read by simulator.observe(FILE)" if values.dtype.kind == "U" else ""
        raise ValueError(
            f"observable {name!r} holds {values.dtype} values, expected numbers of shape {spec.shape}{file}"
        )


def _check_column(path: Path, name: str, mask: str, column: Column, spec: Observable) -> None:
    if column.dtype.kind == "U" and (words := no_numbers(path, name, mask)):
        raise ValueError(words)
    _check_numbers(name, spec, column)


def _kind_for_torch(values: np.ndarray) -> np.dtype[Any]:
    """The dtype for these values that torch can take, in this machine's byte order.

    Unsigned integers become int64 where they fit. Floats of more than 8 bytes become float64.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "u" and (size in (2, 4) or (size == 8 and not bool((values > np.iinfo(np.int64).max).any()))):
        return np.dtype(np.int64)
    return np.dtype(np.float64) if kind == "f" and size > 8 else values.dtype.newbyteorder("=")


def _misshapen(name: str, shape: Sequence[object], expected: Sequence[object]) -> str:
    got, want = tuple(shape), tuple(expected)
    return f"observable {name!r} has shape {got}, the simulator produces {want}; {_way_out(name, got, want)}"


def _way_out(name: str, got: tuple[Any, ...], want: tuple[Any, ...]) -> str:
    """Advice, in words, on how to give values the wanted shape."""
    if want[:1] == ("batch",):
        return "add a first axis, one row for each observation" if got == want[1:] else "give rows of that shape"
    if got[1:] == want:
        return f"it looks like {got[0]} observations: ask about one at a time, x[0]"
    if got[:-1] == want:
        return f"it has {got[-1]} columns: give one of them (of a text without names: --column {name}=1)"
    if got != want and sorted(got) == sorted(want):
        return "transpose it"
    if math.prod(got) == math.prod(want):
        return "reshape it"
    return (
        "cut or resample it to that shape, or let the simulator produce what was measured; where records have lengths "
        "of their own, make room for the longest, and a mask that says what is there: an observable NAME_mask (bool)"
    )


def _cast(name: str, spec: Observable, value: Tensor) -> Tensor:
    """The values in the observable's dtype.

    Rounding to fewer digits is allowed. An integer that changes, or a number that overflows, is an error.
    """
    out = value.to(spec.torch_dtype)
    if out.is_floating_point():
        changed = ~torch.isfinite(out)
    else:
        changed = out.to(value.dtype) != value
    if bool(changed.any()):
        raise ValueError(
            f"observable {name!r} has values such as {value[changed][0].item()!r} that its dtype {spec.dtype} cannot "
            "hold; correct them, or give the observable another dtype"
        )
    return out


def _called(observables: Mapping[str, Observable], columns: Mapping[str, str]) -> dict[str, str]:
    """The name of each observable's column in the files: observable -> column."""
    if unknown := sorted(set(columns) - set(observables)):
        raise ValueError(f"there is no observable {unknown[0]!r} to give a column; there is {event_of(observables)}")
    called = {name: columns.get(name, name) for name in observables}
    if twice := [column for column, times in Counter(called.values()).items() if times > 1]:
        raise ValueError(f"the column {twice[0]!r} is to be two observables; give each a column of its own")
    return called


def _wanted(observables: Mapping[str, Observable], called: Mapping[str, str], files: int) -> SoughtColumns:
    """The columns to look for: an observable's, or those side by side (`v`, `v_0`, `v.left`, `v[1]`)."""
    names = "|".join(re.escape(column) for column in called.values())
    numbers = sum(math.prod(spec.shape) for spec in observables.values())
    made = masked(observables).values() if files == 1 else ()
    data = [name for name in observables if name not in made]
    alone = data[0] if len(data) == 1 and called.keys() == set(called.values()) else ""
    return SoughtColumns(f"(?:{names})(?:{_LABEL})?", numbers, alone)


def _label(observable: str, name: str) -> str | None:
    """The label after an observable's name in a column's name, such as "left" of `v.left`, or None."""
    match = re.fullmatch(re.escape(observable) + _LABEL, name)
    return (match.group(1) or match.group(2)) if match else None


def _as_said(
    found: dict[str, tuple[Path, Column]], called: Mapping[str, str], observables: Mapping[str, Observable]
) -> None:
    """Put the axes of the columns in the observables' order, and take units from given column names.

    This changes `found`. A unit in a column's name counts if the user named this column and it has no other
    unit.
    """
    for observable, name in called.items():
        if name in found:
            path, column = found[name]
            unit = column.unit
            if not unit and name != observable:
                unit = unit_in(name, observables[observable].unit)
            found[name] = path, replace(column.along(observables[observable].dims), unit=unit)


def _shape(name: str, spec: Observable, found: Mapping[str, tuple[Path, Column]]) -> tuple[int, ...] | None:
    """The shape of an observable in the files, from its column or its columns side by side.

    None if there are no such columns, or columns of different shapes.
    """
    if name in found:
        return found[name][1].shape
    parts = _side_by_side(name, spec, list(found))
    shapes = {found[key][1].shape for key in parts}
    return (*shapes.pop(), len(parts)) if len(shapes) == 1 else None


def _pick(
    name: str,
    observables: Mapping[str, Observable],
    found: Mapping[str, tuple[Path, Column]],
    where: tuple[Sequence[str], Sequence[str | Path], str],
) -> list[str]:
    """The names of the columns that make up an observable, after a check of their shapes."""
    spec = observables[name]
    if name in found:
        path, column = found[name]
        _check_column(path, name, f"{where[2]}_mask", column, spec)
        flat = len(spec.shape) <= 1 and math.prod(column.shape) == math.prod(spec.shape)
        if not flat and column.shape not in (spec.shape, (1, *spec.shape)):
            raise ValueError(_misshapen(name, column.shape, spec.shape))
        return [name]
    parts = _side_by_side(name, spec, [key for key in found if key not in observables])
    rows = spec.shape[:-1]
    if parts and len(parts) == spec.shape[-1]:
        for key in parts:
            path, column = found[key]
            _check_column(path, key, f"{where[2]}_mask", column, Observable(rows))
            if math.prod(column.shape) != math.prod(rows):
                raise ValueError(_misshapen(key, column.shape, rows))
        return parts
    names, paths, observable = where
    shown = sorted(set(names))
    close = get_close_matches(name.lower(), {other.lower() for other in shown[:_LIKE]}, n=1)
    begins = [other for other in shown if other.lower().startswith(name.lower())]
    other = next((other for other in shown if other.lower() in close), begins[0] if len(begins) == 1 else "NAME")
    raise ValueError(
        f"no column {name!r} in {', '.join(str(p) for p in paths)}: found {shown[:30]}"
        + (f" and {len(shown) - 30} more" if len(shown) > 30 else "")
        + f", expected {name!r} with shape {spec.shape}. Rename it, or say which one it is: --column "
        f"{observable}={other} (in Python columns={ {observable: other} })"
    )


def _put_together(
    observable: str, name: str, spec: Observable, parts: Sequence[tuple[str, Path, Column]]
) -> np.ndarray:
    """The values of an observable, in its unit and shape, from its column or its columns side by side."""
    arrays = []
    for key, path, column in parts:
        values = values_of(path, column)
        check_present(path, key, f"{observable}_mask", values)
        arrays.append(convert(values, column.unit, spec, key))
    if parts[0][0] == name:
        return arrays[0].reshape(spec.shape)
    return np.stack([array.reshape(spec.shape[:-1]) for array in arrays], axis=-1)


def _told(name: str, spec: Observable, room: tuple[int, ...], units: Mapping[str, str]) -> str:
    """A line about what was read for an observable and how it was converted: "v: 3 values, V -> mV"."""
    ways = {key: _converted(unit, spec.unit) for key, unit in units.items()}
    same = len(set(ways.values())) == 1
    how = next(iter(ways.values())) if same else "; ".join(f"{key}: {way}" for key, way in ways.items())
    columns = "" if [*units] == [name] else f" of {', '.join(map(_column, [*units][:8]))}"
    columns += " ..." if len(units) > 8 else ""
    count = _count(spec.shape) if spec.shape == room else f"{_count(spec.shape)}, room for {room[0]:,}"
    return f"{name}: {count}{columns}, {how}"


def _column(name: str) -> str:
    """The words for a column: its name, or its number in a text file without names."""
    return f"column {name} (the first is 1)" if name.isdigit() else name


def _converted(unit: str, wanted: str) -> str:
    if not unit:
        return f"no unit: taken as {wanted}" if wanted else "no unit"
    unit = unit.replace(" / ", "/")
    return f"in {unit}" if unit == wanted.replace(" / ", "/") else f"{unit} -> {wanted or 'no unit'}"


def _count(shape: tuple[int, ...]) -> str:
    size = " x ".join(f"{n:,}" for n in shape) or "1"
    return f"{size} value{'' if size == '1' else 's'}"


def _side_by_side(name: str, spec: Observable, names: Sequence[str]) -> list[str]:
    """The names of the columns that together hold an observable of one or two axes.

    They are in the order of their numbers, else of the last axis's coordinates, else of the file. Empty for
    observables of other shapes.

    Raises:
        ValueError: If the columns are numbered, but not 0 ... k-1 or 1 ... k.
    """
    if len(spec.shape) not in (1, 2):
        return []
    width = spec.shape[-1]
    labels = {key: label for key in names if (label := _label(name, key))}
    numbers = {key: int(label) for key, label in labels.items() if re.fullmatch("[0-9]{1,9}", label)}
    ordered = sorted(numbers, key=lambda key: numbers[key])
    if [numbers[key] for key in ordered] in ([*range(width)], [*range(1, width + 1)]):
        return ordered
    if numbers and len(numbers) == len(labels):
        raise ValueError(
            f"observable {name!r} of shape {spec.shape} needs the columns {name}_0 ... {name}_{width - 1} (or {name}_1 "
            f"... {name}_{width}), the file has {ordered[:30]}; rename its columns"
        )
    return in_order(labels, spec)


def check_present(path: Path, name: str, mask: str, values: np.ndarray) -> None:
    """Raise an error if values that were read from a file are NaN or infinite.

    Args:
        path: The file.
        name: The name of the values in the file.
        mask: The name of a mask observable for these values. The message proposes such a mask.
        values: The values, of any shape and dtype. Only floats can be missing.

    Raises:
        ValueError: If a value is NaN or infinite. The message says how many are, and where the first is.
    """
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    lost = np.argwhere(~np.isfinite(values))
    first: list[Any] = lost[0].tolist()
    place = f"at {first} of its numbers, counted from 0" if first else "as its only number"
    fields = _fields(path, name)
    if len(fields) == len(values) and len(first) == 1:
        line, word = fields[first[0]]
        place = f"in line {line} ({word!r})"
    raise ValueError(_words(path, name, mask, len(lost), place))


def no_numbers(path: Path, name: str, mask: str) -> str:
    """The message about a column of text; "" if the file is no plain table whose lines can be named."""
    fields = _fields(path, name)
    wrong = [(line, word) for line, word in fields if not _is_number(word)]
    lost = [(line, word) for line, word in fields if word.lower() in _MISSING]
    other = [(line, word) for line, word in wrong if word.lower() not in _MISSING]
    if other:
        line, word = other[0]
        more = f", as are {len(other) - 1} more in that column" if len(other) > 1 else ""
        how = _LIMIT if word[:1] in "<>" and _is_number(word.lstrip("<>= ")) else ""
        return f"{path}, line {line}: {name!r} is {word!r}{more}; expected numbers{how}"
    return _words(path, name, mask, len(lost), f"in line {lost[0][0]} ({lost[0][1]!r})") if lost else ""


def _words(path: Path, name: str, mask: str, count: int, place: str) -> str:
    return (
        f"{path}: {name!r} has {count} values that are NaN or infinite, or missing; the first {place}. Remove them, "
        "and let the simulator give as many numbers as are left; or give the simulator a mask observable "
        f"{mask!r} that marks missing values, and write any number in their place"
    )


def _fields(path: Path, name: str) -> list[tuple[int, str]]:
    """The line number, counted from 1, and the text of a column in each row of a plain table.

    Empty for files other than `.csv` and `.ecsv`, and if there is no such column.
    """
    if path.suffix.lower() not in _TABLES:
        return []
    text = text_of(path)
    comma = path.suffix.lower() == ".csv" or re.search(r"^# delimiter: ','", text, re.MULTILINE)
    mark = "," if comma else " "
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = [(number, line) for number, line in lines if path.suffix.lower() == ".csv" or not line.startswith("#")]
    try:
        rows = [(number, next(csv.reader([line], delimiter=mark, skipinitialspace=True))) for number, line in lines]
    except csv.Error:  # The csv module refuses very long fields, and the message then names no line.
        return []
    header = [re.sub(r"\s*\[(?!\d+\]).*\]$", "", field.strip()) for field in rows[0][1]]
    if name not in header:
        return []
    place = header.index(name)
    return [(line, row[place].strip() if place < len(row) else "") for line, row in rows[1:]]


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False
