"""Journals: one append-only file of JSON lines per writing process, which acknowledges the blocks it committed.

A line stands for a block only after the block's file is durable, so whatever a journal says can be relied on. It
carries a hash of itself, as our JSON files do (`core.files`). A line torn by a kill or a full disk ends before its
closing brace and is passed over; one that was changed is named. The file of the block that it stood for is judged by
itself.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sciinf.core.files import opened, sealed, write_bytes
from sciinf.core.simulator import Status


@dataclass(frozen=True)
class Entry:
    """What is known of one committed block.

    Args:
        block: Its number.
        sha256: SHA-256 of its file.
        rows: Rows it holds.
        content: SHA-256 of theta, x and status (`shard.content_hash`).
        seconds: Wall seconds it took to simulate.
        counts: Rows by status, those that occur.
        conditions: Versions, processor and device it was made with; none from earlier versions.
    """

    block: int
    sha256: str
    rows: int
    content: str
    seconds: float
    counts: Mapping[Status, int]
    conditions: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> int:
        return self.counts.get(Status.OK, 0)

    def to_json(self) -> dict[str, Any]:
        counts = {status.name.lower(): n for status, n in self.counts.items()}
        told = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "conditions" or self.conditions}
        return {**told, "counts": counts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        counts = {Status[name.upper()]: int(n) for name, n in data["counts"].items()}
        block, rows, seconds = int(data["block"]), int(data["rows"]), float(data["seconds"])
        conditions = {str(name): str(value) for name, value in data.get("conditions", {}).items()}
        return cls(block, str(data["sha256"]), rows, str(data["content"]), seconds, counts, conditions)


class Journals:
    """All journals of a store: append to one's own, read everybody's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        self._read: dict[str, int] = {}
        self._lines: dict[str, int] = {}

    def append(self, entry: Entry) -> None:
        """Write one line durably.

        Raises:
            OSError: If it could not be written whole; readers then pass over what is there of it.
        """
        path = self.folder / f"{platform.node()}-{os.getpid()}.jsonl"
        new = not path.exists()
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(file).st_size
            torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
            line = b"\n" * torn + json.dumps(sealed(entry.to_json())).encode() + b"\n"
            if os.write(file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            sync_folder(self.folder)

    def news(self) -> list[Entry]:
        """The entries added, by anybody, since the last call.

        Warns:
            UserWarning: If a line was changed, which is then passed over and named in `damaged`; or if lines carry no
                hash, as those of older versions.
        """
        entries = []
        for path in sorted(self.folder.glob("*.jsonl")):
            start = self._read.get(path.name, 0)
            if path.stat().st_size <= start:
                continue
            with open(path, "rb") as file:
                file.seek(start)
                data = file.read()
            whole = data.rfind(b"\n") + 1
            self._read[path.name] = start + whole
            entries += self._entries(path, data[:whole].split(b"\n")[:-1])
        return entries

    def mend(self) -> None:
        """Take the lines that were changed out of the journals."""
        for path in self.folder.glob("*.jsonl"):
            lines = path.read_bytes().split(b"\n")
            kept = [line for line in lines if not _changed(line)]
            if len(kept) < len(lines):
                write_bytes(path, b"\n".join(kept))
        self.damaged.clear()

    def _entries(self, path: Path, lines: Sequence[bytes]) -> Iterator[Entry]:
        first = self._lines.get(path.name, 0) + 1
        self._lines[path.name] = first - 1 + len(lines)
        for number, line in enumerate(lines, first):
            try:
                found = _parse(line)
            except ValueError as error:
                self.damaged.append(f"line {number} of {path}: {error}")
                warnings.warn(
                    f"line {number} of {path} is damaged and passed over: {error}. The file of the block it stood for "
                    f"is judged by itself; `sciinf check {self.folder.parent} --repair SIM.py` takes the line out",
                    stacklevel=1,
                )
                continue
            if found is None:
                continue
            if not found[1]:
                warnings.warn(
                    f"lines of the journals in {self.folder} carry no hash, as those of older versions: whether they "
                    "were changed cannot be told",
                    stacklevel=1,
                )
            yield found[0]


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _parse(line: bytes) -> tuple[Entry, bool] | None:
    """The entry in a line, and whether the line carries its hash; None for a line that is torn.

    Raises:
        ValueError: If it was changed.
    """
    if b"{" not in line or line.count(b"{") > line.count(b"}"):  # no string of ours has a brace
        return None
    try:
        data, known = opened(json.loads(line))
        return Entry.from_json(data), known
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error})") from error
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"it is no entry ({error!r})") from error


def _changed(line: bytes) -> bool:
    try:
        _parse(line)
    except ValueError:
        return True
    return False
