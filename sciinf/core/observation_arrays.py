"""Readers of observations in the files of other programs: `.npy`, `.npz`, `.pt` and plain text.

An array without a name is the simulator's only observable. If the simulator has several observables, the name
of the file is the name of the array.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinf.core.observation_columns import Column, Contents, SoughtColumns, column_of, only_once

_LONGEST = 2**16  # largest number of bytes of an array's header
_NAME = re.compile(r"(\S+?(?:\[\d+\])?)(?:\s*\[(?!\d+\])([^\]]*)\])?(?=\s|$)")  # name and unit: "v [mV]"


def read_npz(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """The arrays in an `.npz` archive of numpy, by name."""
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    only_once(path, names, wanted)
    members = zip(names, archive.infolist(), strict=True)
    return Contents(tuple(names), {name: _npz_column(path, archive, info) for name, info in members if wanted(name)})


def _npz_column(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Column:
    """An array of an archive as a column; only its header is read, until the values are requested."""
    with archive.open(info) as member:
        shape, dtype = _header(member)
    if dtype.hasobject:
        raise ValueError(f"{path} is not a readable .npz of plain arrays: {info.filename!r} holds Python objects")

    def values() -> np.ndarray:
        with archive.open(info) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    return Column(shape, dtype, "", values)


def read_npy(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """The array in an `.npy` file, or its fields if they are named.

    Raises:
        ValueError: If the array holds Python objects, because reading them could run code.
    """
    with path.open("rb") as file:
        shape, dtype = _header(file)
    if dtype.hasobject:
        raise ValueError(f"{path} is not a readable .npy of a plain array: it holds Python objects; save numbers")
    if dtype.names is None:
        name = wanted.unnamed(path)
        column = Column(shape, dtype, "", lambda: np.load(path, allow_pickle=False))
        return Contents((name,), {name: column} if wanted(name) else {})
    fields = {name: dtype[name] for name in dtype.names if wanted(name)}
    return Contents(
        dtype.names,
        {
            name: Column(
                (*shape, *kind.shape), kind.base, "", lambda name=name: np.load(path, allow_pickle=False)[name]
            )
            for name, kind in fields.items()
        },
    )


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and dtype of an array, from the header of its file."""
    formats: Any = np.lib.format
    version = formats.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = formats.read_array_header_1_0(file)
        return tuple(shape), dtype
    size = file.read(4)
    if (length := int.from_bytes(size, "little")) > _LONGEST:
        raise ValueError(
            f"its header claims to be {length:,} bytes long, far more than any array's; the file is damaged, "
            "write it again"
        )
    content = file.read(length)
    if version == (3, 0):  # Version 3.0 differs from 2.0 only in that the names of fields are in UTF-8.
        head = ast.literal_eval(content.decode("utf-8"))
        return tuple(head["shape"]), formats.descr_to_dtype(head["descr"])
    shape, _, dtype = formats.read_array_header_2_0(io.BytesIO(size + content))
    return tuple(shape), dtype


# --- tensors ----------------------------------------------------------------------------------------------------------


def read_pt(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """The tensors in a file of `torch.save`, which holds a tensor or a dictionary of tensors.

    Raises:
        ValueError: If the file holds anything but tensors and numbers, is compressed or damaged, or has the
            format before torch 1.6.
    """
    way_out = "save plain tensors: torch.save({'NAME': tensor}, FILE)"
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not what torch.save writes, or is damaged; {way_out}")
    with zipfile.ZipFile(path) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError(f"{path} is compressed, which torch.save does not do; {way_out}")
        if (bad := archive.testzip()) is not None:  # torch.load does not verify the checksums.
            raise ValueError(f"{path} is damaged: the checksum of {bad} is wrong; {way_out}")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(f"{path} holds more than tensors, and its code is never run; {way_out}") from error
    named = held if isinstance(held, Mapping) else {wanted.unnamed(path): held}
    columns = {str(name): _tensor(path, str(name), item, way_out) for name, item in named.items() if wanted(str(name))}
    return Contents(tuple(map(str, named)), columns)


def _tensor(path: Path, name: str, item: Any, way_out: str) -> Column:
    if isinstance(item, bool | int | float):
        return column_of(np.asarray(item))
    if not isinstance(item, Tensor) or item.layout != torch.strided or item.is_quantized:
        kind = f"{item.layout} tensor" if isinstance(item, Tensor) else type(item).__name__
        raise ValueError(f"{path}: {name!r} is a {kind}, expected a plain tensor; {way_out}")
    tensor = item.detach().resolve_conj().resolve_neg()
    halved = tensor.dtype in (torch.bfloat16, torch.float16)  # numpy has no bfloat16, so both become float32.
    dtype = torch.zeros(0, dtype=torch.float32 if halved else tensor.dtype).numpy().dtype
    return Column(tuple(tensor.shape), dtype, "", lambda: (tensor.float() if halved else tensor).numpy())


# --- text -------------------------------------------------------------------------------------------------------------


def text_of(path: Path) -> str:
    """The text of a file, which must be in UTF-8.

    Raises:
        ValueError: If the file is not in UTF-8.
    """
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is text in UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def read_txt(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """The columns of a text file, separated by spaces or tabs; a file may also hold one number per line.

    A line above the columns may hold their names, with or without units: "t [h]  v [mV]". Columns without
    names are one array, (rows, columns). If a column "1", "2", ... is wanted, they are single columns with
    these names.

    Raises:
        ValueError: If lines have different lengths, if there are not as many names as columns, or if a wanted
            value is not a number.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text_of(path).splitlines(), 1) if line.strip()]
    above = [line for _, line in itertools.takewhile(lambda one: one[1].startswith("#"), lines)]
    below = [(number, line) for number, line in lines if not line.startswith("#")]
    first = below[0][1].split()[0] if below else ""
    names = _named(below.pop(0)[1]) if re.match("[^\\W\\d]", first) and _number(first) is None else []
    rows = [(number, line.split()) for number, line in below]
    if not rows:
        raise ValueError(f"{path} holds no numbers; write one per line, or columns with names above them")
    width = len(rows[0][1])
    if uneven := next(((number, row) for number, row in rows if len(row) != width), None):
        raise ValueError(
            f"{path}, line {uneven[0]}: {len(uneven[1])} values where other lines have {width}; complete it"
        )
    said = _named(above[-1].lstrip("# ")) if above else []
    meant = names or (said if any(wanted(name) for name, _ in said) else [])
    if meant and len(meant) != width:
        found = ", ".join(name for name, _ in meant)
        raise ValueError(
            f"{path}: {len(meant)} names ({found}) stand above {width} columns; write one for each, units in brackets: "
            "v [mV]"
        )
    # A line above a single column may also be a comment, so it counts as a name only if it is a wanted name.
    names = names or (said if width > 1 or (said and wanted(said[0][0])) else [])
    if len(names) == width:
        only_once(path, [name for name, _ in names], wanted)
        inside = [(i, name, unit) for i, (name, unit) in enumerate(names) if wanted(name)]
        columns = {name: column_of(_numbers(path, rows, [i])[:, 0], unit) for i, name, unit in inside}
        return Contents(tuple(name for name, _ in names), columns)
    numbered = [i for i in range(width) if wanted(str(i + 1))]
    if numbered:
        columns = {str(i + 1): column_of(_numbers(path, rows, [i])[:, 0]) for i in numbered}
        return Contents(tuple(str(i + 1) for i in range(width)), columns)
    name = wanted.unnamed(path)
    array = _numbers(path, rows, range(width))
    return Contents((name,), {name: column_of(array[:, 0] if width == 1 else array)} if wanted(name) else {})


def _named(line: str) -> list[tuple[str, str]]:
    """The names and units of columns in a line of text: "t [h]  v [mV]"."""
    return [(name, unit or "") for name, unit in _NAME.findall(line)]


def _numbers(path: Path, rows: Sequence[tuple[int, Sequence[str]]], columns: Sequence[int]) -> np.ndarray:
    """The values of some columns, (rows, columns); integers if all of them are integers."""
    found: list[list[int | float]] = []
    for number, row in rows:
        values = [_number(row[i]) for i in columns]
        if None in values:
            word = row[columns[values.index(None)]]
            why = "; write numbers with points, and spaces between them" if re.search("[,;]", word) else ""
            raise ValueError(f"{path}, line {number}: expected numbers, got {word!r}{why}")
        found.append([value for value in values if value is not None])
    return np.array(found)


def _number(word: str) -> int | float | None:
    try:
        return int(word)
    except ValueError:
        pass
    try:
        return float(word)
    except ValueError:
        return None
