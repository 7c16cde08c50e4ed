"""Values of a file that are missing or no numbers: which file, line and column, and the way out."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np

from sciinf.core.observation_arrays import text_of

_TABLES = (".csv", ".ecsv")
_MISSING = ("", "na", "n/a", "#n/a", "nan", "null", "none", "nil", "missing", "-", "--", "?", ".", "inf", "-inf")
_LIMIT = (
    ". For a value beyond a limit of the instrument write the limit, and let the simulator give the limit for all that "
    "lies beyond it"
)


def check_present(path: Path, name: str, mask: str, values: np.ndarray) -> None:
    """Refuse numbers of a file of which some are missing.

    Args:
        path: The file.
        name: What they are called in it.
        mask: What an observable would be called that says which are there.
        values: The numbers.

    Raises:
        ValueError: If one is NaN or infinite.
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
    """What is wrong with a column of a file that holds text; "" where the file has no lines to name."""
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
    """Each row's line, counted from 1, and what stands there in a column; nothing of what has no plain lines."""
    if path.suffix.lower() not in _TABLES:
        return []
    text = text_of(path)
    comma = path.suffix.lower() == ".csv" or re.search(r"^# delimiter: ','", text, re.MULTILINE)
    mark = "," if comma else " "
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = [(number, line) for number, line in lines if path.suffix.lower() == ".csv" or not line.startswith("#")]
    try:
        rows = [(number, next(csv.reader([line], delimiter=mark, skipinitialspace=True))) for number, line in lines]
    except csv.Error:  # a field of great length
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
