"""Who has which block in hand: files beside a store, which are hints and never locks.

`working/BLOCK.WRITER.TOKEN` says that a worker has begun a block. A small process (`engine.heartbeat`) touches it every
`BEAT` seconds. One that was not touched for `FRESH` seconds is of a worker that died with the block in hand: it stays
until the block is committed, and counts as a try. A hint that is lost costs work done twice, never a wrong store. Ages
are told by the clock of the file system, by comparison with a file that was just written, for clocks of machines
differ. Where the death was noticed, `.died` or `.late` (past its deadline) stands behind the name.
"""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import final

from sciinf.core.simulator import Status
from sciinf.engine import heartbeat
from sciinf.engine.watcher import Watcher

BEAT, FRESH = 10.0, 60.0  # s
FOLDER = "working"


@final
class Hints:
    """One worker's hints, and a look at those of others. To be closed.

    Args:
        store: The store's folder.
        timeout: Deadline of a block, seconds; None for none.
    """

    def __init__(self, store: Path, timeout: float | None) -> None:
        self.folder, self.timeout = (store / FOLDER).resolve(), timeout
        self._mine = f"{platform.node()}-{os.getpid()}.{secrets.token_hex(8)}"  # containers share names and numbers
        self._watcher = Watcher(BEAT, signals=True)

    def begin(self, index: int) -> bool:
        """Say that a block is begun here, unless somebody else has it in hand; whether it was said."""
        mine = self.folder / f"{index}.{self._mine}"
        self._watcher.begin(mine, self.timeout)  # first, so that no hint is ever without a watcher
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            mine.touch()
            now = mine.stat().st_mtime
            if any(now - then <= FRESH for file, then in self._others(index) if file != mine and not _ended(file.name)):
                self.end(index)
                return False
        return True

    def end(self, index: int) -> None:
        """Say that a block is no longer in hand, and that its worker did not die of it."""
        self._watcher.rest()
        with suppress(OSError):
            (self.folder / f"{index}.{self._mine}").unlink()

    def forget(self, index: int) -> None:
        """Remove all hints of a block that is committed."""
        self._watcher.rest()
        for file, _ in self._others(index):
            file.unlink(missing_ok=True)

    def deaths(self, index: int) -> list[Status]:
        """How workers ended that had a block in hand, of those that are dead."""
        mine, found = self.folder / f"{index}.{self._mine}", []
        with suppress(OSError):
            now = mine.stat().st_mtime
            for file, then in self._others(index):
                if file != mine and (_ended(file.name) or now - then > FRESH):
                    found.append(Status.TIMED_OUT if file.name.endswith(heartbeat.LATE) else Status.RAISED)
        return found

    def held(self) -> set[int]:
        """Blocks that somebody has in hand, dead or alive, unless the death was noticed; by one look at the folder."""
        with suppress(FileNotFoundError):
            names = [name for name in os.listdir(self.folder) if not _ended(name)]
            return {int(name.partition(".")[0]) for name in names if name.partition(".")[0].isdigit()}
        return set()

    def sweep(self) -> None:
        """Remove all hints, once no block is missing."""
        with suppress(FileNotFoundError):
            for file in list(self.folder.iterdir()):
                file.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove what is left of this worker's hints, and end their watcher."""
        self._watcher.rest()
        for file in self.folder.glob(f"*.{self._mine}"):
            file.unlink(missing_ok=True)
        with suppress(OSError):  # somebody else's are in it, or it was never made
            self.folder.rmdir()
        self._watcher.close()

    def _others(self, index: int) -> Iterator[tuple[Path, float]]:
        """The hints of a block, mine among them, and when each was touched."""
        with suppress(FileNotFoundError):
            for name in os.listdir(self.folder):
                if name.startswith(f"{index}."):
                    with (
                        suppress(FileNotFoundError),
                        open(self.folder / name, "rb") as file,
                    ):  # NFS asks its server anew
                        yield self.folder / name, os.fstat(file.fileno()).st_mtime


def _ended(name: str) -> bool:
    return name.endswith((heartbeat.DIED, heartbeat.LATE))
