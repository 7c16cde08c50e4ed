"""Journals: one append-only file of JSON lines per writing process, which acknowledges the blocks it committed.

A line stands for a block only after the block's file is durable, so whatever a journal says can be relied on. A line
torn by a kill or a full disk does not parse and is passed over; its block's file is then judged by itself.
"""

from __future__ import annotations

import errno
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        self._read: dict[str, int] = {}

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
            line = b"\n" * torn + json.dumps(entry.to_json()).encode() + b"\n"
            if os.write(file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            sync_folder(self.folder)

    def news(self) -> list[Entry]:
        """The entries added, by anybody, since the last call."""
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
            entries += [entry for line in data[:whole].splitlines() if (entry := _parse(line)) is not None]
        return entries


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _parse(line: bytes) -> Entry | None:
    try:
        return Entry.from_json(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
