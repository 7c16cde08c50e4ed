"""Journals: one append-only file of JSON lines per writing process, which acknowledges the blocks it committed.

A line is written only after the block's file is durable, so a journal can be relied on. Each line carries a hash of
itself, as sciinf's JSON files do (`core.files`). A line torn by a kill or a full disk ends before its closing brace and
is skipped. A line that was changed is reported. The block of such a line is judged by its own file.

Journals are called HOST-PID-RANDOM.jsonl. Host name and process number may be the same in many containers that write
into one store. So the random part is drawn once for each process, and anew after a fork.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import secrets
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sciinf.campaigns.storage.folder import Folder
from sciinf.core.files import opened, sealed
from sciinf.core.observable import Status

JOURNAL = "journal"


@dataclass(frozen=True, slots=True)
class Entry:
    """Record of one committed block.

    Args:
        block: Number of the block.
        sha256: SHA-256 of the block's file.
        rows: Number of rows in the block.
        content: SHA-256 of theta, x and status (`shard.content_hash`).
        seconds: Wall seconds that the simulation took.
        counts: Number of rows for each status that occurs.
        conditions: Versions, processor and device of the simulation; empty from earlier versions of sciinf.
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
        counts = _counts(tuple(data["counts"].items()))
        block, rows, seconds = int(data["block"]), int(data["rows"]), float(data["seconds"])
        conditions = _conditions(tuple(data.get("conditions", {}).items()))
        return cls(block, str(data["sha256"]), rows, str(data["content"]), seconds, counts, conditions)


@functools.lru_cache(4096)
def _counts(items: tuple[tuple[str, Any], ...]) -> Mapping[Status, int]:
    """Counts by status from JSON, as one shared object for equal counts: a million blocks have few different ones."""
    return {Status[name.upper()]: int(n) for name, n in items}


@functools.lru_cache(4096)
def _conditions(items: tuple[tuple[Any, Any], ...]) -> Mapping[str, str]:
    return {str(name): str(value) for name, value in items}


class Journals:
    """All journals of a store: this process appends to its own journal, and reads those of all processes.

    Args:
        folder: Folder of the store.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        self._seen: dict[str, Any] = {}
        self._lines: dict[str, int] = {}

    def append(self, entry: Entry) -> None:
        """Write one line durably.

        Raises:
            OSError: If the line could not be written whole; readers then skip the partial line.
        """
        name = f"{JOURNAL}/{platform.node() or 'host'}-{os.getpid()}-{_token(os.getpid())}.jsonl"
        self.folder.append(name, json.dumps(sealed(entry.to_json())).encode())

    def news(self) -> list[Entry]:
        """Entries that any process has added since the last call. After a merge of journals some entries come again.

        Warns:
            UserWarning: If a line was changed, which is then skipped and named in `damaged`; or if lines carry no hash,
                like those of older versions.
        """
        entries = []
        for name, start, data in self.folder.news(JOURNAL, self._seen):
            if not start:
                self._lines[name] = 0
            entries += self._entries(name, data.split(b"\n")[:-1])
        return entries

    def mend(self) -> None:
        """Remove the changed lines from the journals."""
        for name in self.folder.names(JOURNAL):
            lines = self.folder.read(name).split(b"\n")
            kept = [line for line in lines if not _changed(line)]
            if len(kept) < len(lines):
                self.folder.replace(name, b"\n".join(kept))
        self.damaged.clear()

    def _entries(self, name: str, lines: Sequence[bytes]) -> Iterator[Entry]:
        first, path = self._lines.get(name, 0) + 1, f"{self.folder.name}/{name}"
        self._lines[name] = first - 1 + len(lines)
        for number, line in enumerate(lines, first):
            try:
                found = parsed(line)
            except ValueError as error:
                self.damaged.append(f"line {number} of {path}: {error}")
                warnings.warn(
                    f"line {number} of {path} is damaged and passed over: {error}. The file of the line's block is "
                    f"judged by itself; `sciinf check {self.folder.name} --repair SIM.py` removes the line",
                    stacklevel=1,
                )
                continue
            if found is None:
                continue
            if not found[1]:
                warnings.warn(
                    f"lines of the journals in {self.folder.name}/{JOURNAL} carry no hash, like those of older "
                    "versions: changes of the lines cannot be detected",
                    stacklevel=1,
                )
            yield found[0]


@functools.cache
def _token(pid: int) -> str:
    """Random token that distinguishes this process from processes with the same number in other containers."""
    os.register_at_fork(after_in_child=_token.cache_clear)
    return secrets.token_hex(4)


def parsed(line: bytes) -> tuple[Entry, bool] | None:
    """Entry in a line, and whether the line carries its hash; None for a torn line.

    Raises:
        ValueError: If the line was changed.
    """
    if b"{" not in line or line.count(b"{") > line.count(b"}"):  # No string in a journal has a brace.
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
        parsed(line)
    except ValueError:
        return True
    return False
