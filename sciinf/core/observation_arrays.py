"""Arrays and numbers of other programs as observations: `.npy`, `.npz`, `.pt` and plain text.

An array without a name is the simulator's one observable; where there are several, it is called like its file.
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

_LONGEST = 2**16  # bytes of an array's head
_NAME = re.compile(r"(\S+?(?:\[\d+\])?)(?:\s*\[(?!\d+\])([^\]]*)\])?(?=\s|$)")  # and its unit: v [mV]


def read_npz(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """The arrays of an archive of numpy's, by their names."""
    archive = stack.enter_context(zipfile.ZipFile(path))
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    only_once(path, names, wanted)
    members = zip(names, archive.infolist(), strict=True)
    return Contents(tuple(names), {name: _npz_column(path, archive, info) for name, info in members if wanted(name)})


def _npz_column(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Column:
    """An array's header says its shape and kind, before anything else is unpacked."""
    with archive.open(info) as member:
        shape, dtype = _header(member)
    if dtype.hasobject:
        raise ValueError(f"{path} is not a readable .npz of plain arrays: {info.filename!r} holds Python objects")

    def values() -> np.ndarray:
        with archive.open(info) as member:
            return np.lib.format.read_array(member, allow_pickle=False)

    return Column(shape, dtype, "", values)


def read_npy(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """One array, or the fields of one that has named fields.

    Raises:
        ValueError: If it holds Python objects, which would be unpickled.
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
    """Shape and kind, as the head of an array's file says them."""
    formats: Any = np.lib.format
    version = formats.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = formats.read_array_header_1_0(file)
        return tuple(shape), dtype
    size = file.read(4)
    if (length := int.from_bytes(size, "little")) > _LONGEST:
        raise ValueError(f"its head claims to be {length:,} bytes long, which no array's is; it is damaged")
    content = file.read(length)
    if version == (3, 0):  # as 2.0, with names of fields in UTF-8
        head = ast.literal_eval(content.decode("utf-8"))
        return tuple(head["shape"]), formats.descr_to_dtype(head["descr"])
    shape, _, dtype = formats.read_array_header_2_0(io.BytesIO(size + content))
    return tuple(shape), dtype


# --- tensors ----------------------------------------------------------------------------------------------------------


def read_pt(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """What `torch.save` wrote of a tensor, or of a dictionary of tensors; nothing else in it is built.

    Raises:
        ValueError: If it holds anything but tensors and numbers, is compressed, or of the format before torch 1.6.
    """
    way_out = "save plain tensors: torch.save({'NAME': tensor}, FILE)"
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not what torch.save writes, or is damaged; {way_out}")
    with zipfile.ZipFile(path) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError(f"{path} is compressed, which torch.save does not do; {way_out}")
        if (bad := archive.testzip()) is not None:  # torch does not look
            raise ValueError(f"{path} is damaged: {bad} does not have its checksum; {way_out}")
    try:
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise ValueError(f"{path} holds more than tensors, and no code of a file is run; {way_out}") from error
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
    halved = tensor.dtype in (torch.bfloat16, torch.float16)  # numpy does not know the first
    dtype = torch.zeros(0, dtype=torch.float32 if halved else tensor.dtype).numpy().dtype
    return Column(tuple(tensor.shape), dtype, "", lambda: (tensor.float() if halved else tensor).numpy())


# --- text -------------------------------------------------------------------------------------------------------------


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        ValueError: If it is not in UTF-8.
    """
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path} is text in UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); save it as such"
        ) from error


def read_txt(path: Path, wanted: SoughtColumns, stack: ExitStack) -> Contents:
    """Columns with spaces or tabs between them, or one number a line; names, with units or not, in a line above them.

    Columns without names are one array, (rows, columns), and are called "1", "2", ... where one is asked for.

    Raises:
        ValueError: If lines are of different lengths, names are not as many as columns, or something wanted is no
            number.
    """
    lines = [(number, line.strip()) for number, line in enumerate(text_of(path).splitlines(), 1) if line.strip()]
    above = [line for _, line in itertools.takewhile(lambda one: one[1].startswith("#"), lines)]
    below = [(number, line) for number, line in lines if not line.startswith("#")]
    first = below[0][1].split()[0] if below else ""
    names = _named(below.pop(0)[1]) if re.match("[^\\W\\d]", first) and _number(first) is None else []
    rows = [(number, line.split()) for number, line in below]
    if not rows:
        raise ValueError(f"{path} holds no numbers; write one a line, or in columns with their names above them")
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
    names = names or (said if width > 1 or (said and wanted(said[0][0])) else [])  # else it is a comment
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
    """Names and units of columns: "t [h]  v [mV]"."""
    return [(name, unit or "") for name, unit in _NAME.findall(line)]


def _numbers(path: Path, rows: Sequence[tuple[int, Sequence[str]]], columns: Sequence[int]) -> np.ndarray:
    """The values of some columns, (rows, columns); whole ones stay whole."""
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
