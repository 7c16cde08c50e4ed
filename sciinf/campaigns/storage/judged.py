"""What is known of the blocks of a store: what was acknowledged, and whether files are what was.

A file's bytes are compared with journals and indexes before HDF5 sees them. One that nobody acknowledged, because its
writer died between rename and acknowledgement, counts if the hash written in it holds.

**Cache.** Blocks that were fetched from a service are kept in a folder of this machine, so that each is fetched once. A
file is called by the SHA-256 of its bytes, which are compared with it whenever it is read. So a cache cannot give what
a store does not acknowledge: of a block that was replaced the new bytes are asked for, by another name. Nothing is ever
removed; the folder may be deleted at any time.

Which blocks of a store are there, and where: in files of their own, or in packs.

A folder is listed again only when something in it has come or gone, so that looking costs one call to the file system
for each thousand blocks. Files are listed before packs, and a file is removed only after its pack is there: a block
that is being packed is seen in one of the two, or in both.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, final

from torch import Tensor

from sciinf.campaigns.storage.findings import Damage
from sciinf.campaigns.storage.folder import Folder, Listing, Unreachable
from sciinf.campaigns.storage.journal import Entry, Journals
from sciinf.campaigns.storage.naming import SHARDS, Naming, block_of
from sciinf.campaigns.storage.packs import Member, Packs
from sciinf.campaigns.storage.place import FileRange
from sciinf.campaigns.storage.shard import embedded
from sciinf.core.files import local_path, sha256_of, write_bytes
from sciinf.core.observable import Observable, Status

VARIABLE = "SCIINF_CACHE"


@final
class Cache:
    """A folder of blocks.

    Args:
        root: Where it is.
    """

    def __init__(self, root: Path) -> None:
        self.root, self._full = root, False

    def get(self, sha256: str) -> bytes | None:
        """The bytes that have a hash; None where they are not there, or changed."""
        with suppress(OSError):
            data = self._file(sha256).read_bytes()
            return data if sha256_of(data) == sha256 else None
        return None

    def put(self, sha256: str, data: bytes) -> None:
        """Keep bytes by their hash, if there is room.

        Warns:
            UserWarning: Once, if they cannot be written.
        """
        if self._full:
            return
        try:
            self._file(sha256).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._file(sha256), data)
        except OSError as error:
            self._full = True
            warnings.warn(f"blocks are no longer kept in {self.root} ({VARIABLE}): {error}", stacklevel=2)

    def _file(self, sha256: str) -> Path:
        return self.root / sha256[:2] / f"{sha256}.h5"


def cache() -> Cache | None:
    """The folder that the environment names, if it does.

    Raises:
        ValueError: If it is no folder of the file system.
    """
    root = os.environ.get(VARIABLE)
    return Cache(local_path(root)) if root else None


_RECENT = 60.0  # s within which a file that replaced another is acknowledged, on the slowest disk
_LOOKS, _WAIT = 6, 0.5


class Blocks:
    """The blocks of a store.

    Args:
        folder: Where they are.
        naming: How files are spread over folders.
        campaign: Whose they must be.
        observables: What they hold.
    """

    def __init__(self, folder: Folder, naming: Naming, campaign: str, observables: Mapping[str, Observable]) -> None:
        self.folder, self.campaign, self.observables = folder, campaign, observables
        self.journals, self.shelf = Journals(folder), Shelf(folder, naming)
        self._lines: dict[int, list[Entry]] = {}
        self._adopted: dict[int, Entry] = {}
        self._present: dict[int, Entry] = {}  # of each block that is there, as far as is known without reading it
        self._doubtful: set[int] = set()  # there, and to be read: nobody acknowledged them, or journals disagree
        self._disputed: set[int] = set()  # of them, those on which journals disagree, until they are looked at
        self._verified: dict[int, tuple[Hashable, FileRange, Entry]] = {}
        self.cache = cache() if folder.path("") is None else None
        self._last = 0  # the largest block that was acknowledged

    def refresh(self, blocks: int) -> set[int]:
        """Take note of what other processes have committed since; the blocks of which more or other is known now.

        Args:
            blocks: How many there may be.
        """
        touched = {entry.block for entry in self.journals.news() if self._learn(entry)}
        self._disputed |= self._doubtful & self._lines.keys()
        changed, members = self.shelf.refresh(max(blocks, self._last + 1))  # another process may have let it grow
        news = touched | changed | self._take(members) | {k for k in self._doubtful if k not in self._lines}
        self._settle(news)
        return news

    def add(self, entry: Entry) -> None:
        """Take note of a block that this process has committed."""
        self.shelf.note(entry.block)
        self._learn(entry)
        self._settle({entry.block})

    def present(self) -> Mapping[int, Entry]:
        """Blocks whose files are there, and what is known of them, unverified except where journals disagree."""
        for index in sorted(self._disputed):  # once, for each takes a look at its file
            try:
                self._present[index] = self.verify(index)
                self._disputed.discard(index)
            except ValueError:
                if index in self.shelf:  # else it was found to be gone
                    self._present[index] = self._lines[index][-1]
        return self._present

    def history(self, index: int) -> list[Entry]:
        """What is known of a block, oldest first, its file damaged or not."""
        adopted = [self._adopted[index]] if index in self._adopted else []
        return self._lines.get(index) or adopted

    def readable(self) -> list[int]:
        """Blocks that reading must deliver: all that were committed, and all files that are there."""
        return sorted(self._lines.keys() | self._present.keys() | self._doubtful)

    def damaged(self) -> list[Damage]:
        """Blocks that are deleted or do not have the content that was committed; reads every file."""
        found = [damage for index in self.readable() if (damage := self._damage(index)) is not None]
        for _ in range(_LOOKS):
            late = {damage.block for damage in found if self._unacknowledged(damage.block)}
            if not late:
                return found
            time.sleep(_WAIT)
            found = [d for d in found if d.block not in late or self._damage(d.block) is not None]
        return [damage for damage in found if not self._growing(damage.block)]

    def _damage(self, index: int) -> Damage | None:
        try:
            self.verify(index)
        except ValueError as error:
            return Damage(index, self.shelf.places(index)[0].path, str(error))
        return None

    def _growing(self, index: int) -> bool:
        """Whether a short block was made longer just now, and is about to be acknowledged."""
        return index in self._lines and self._unacknowledged(index) > self._lines[index][-1].rows

    def _unacknowledged(self, index: int) -> int:
        """Rows of a file that was replaced just now by a whole one, whose line may be on its way; 0 of any other."""
        place = self.shelf.places(index)[0]
        try:
            recent = index in self._lines and self.folder.age(place.name) < _RECENT
            return self.adopt(index, place.data()).rows if recent else 0
        except (ValueError, OSError):
            return 0

    def entry(self, index: int) -> Entry:
        """What is known of a block, verified.

        Raises:
            ValueError: If it is damaged; the message names it.
        """
        try:
            return self.verify(index)
        except ValueError as error:
            raise self.damage(index, str(error)) from error

    def damage(self, index: int, reason: str) -> ValueError:
        """What is said of a damaged block."""
        return ValueError(
            f"{self.shelf.places(index)[0].words} is damaged: {reason}. Simulate it again with "
            f"`sciinf check {self.folder.name} --repair SIM.py`; the other blocks are not affected"
        )

    def checked(self, index: int, read: Callable[[FileRange], Any]) -> Any:
        """What is read from a block after it has been verified, wherever it lies by then."""
        try:
            if self.folder.path("") is None:
                return read(self._held(index))
            self.verify(index)
            try:
                return read(self._verified[index][1])
            except OSError:
                if not self._moved(index):  # packed since
                    raise
                self.verify(index)
                return read(self._verified[index][1])
        except Unreachable:
            raise
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            raise self.damage(index, str(error)) from error

    def verify(self, index: int) -> Entry:
        """What is known of a block, read once as long as size, time and place of its file stay the same.

        Raises:
            ValueError: If it is damaged.
        """
        try:
            return self._verify(index)
        except ValueError:
            if not self._moved(index):
                raise
            return self._verify(index)

    def stamp(self, index: int) -> Hashable:
        """What changes when the bytes of a block do, as they were when it was verified."""
        return self._verified[index][2].sha256 if index in self._verified else None

    def adopt(self, index: int, data: bytes) -> Entry:
        """What a file says of itself.

        Raises:
            ValueError: If it is no file of this block and store, or its arrays do not have the hash written in it.
        """
        block, campaign, content, status = embedded(data, self.observables)
        if block != index or campaign != self.campaign:
            raise ValueError("it belongs to another block or another store")
        return Entry(index, sha256_of(data), len(status), content, 0.0, counted(status))

    def judge(self, index: int, data: bytes) -> Entry:
        """What is known of bytes that should be a block.

        Raises:
            ValueError: If they are not what was committed.
        """
        if index not in self._lines:
            return self.adopt(index, data)
        return self._acknowledged(index, sha256_of(data))

    def mend(self) -> None:
        """Take changed lines out of journals, and write indexes of packs anew that are damaged or lost."""
        self.journals.mend()
        self.shelf.packs.mend(self.judge, lambda index: index in self._present)

    def _held(self, index: int) -> FileRange:
        """A block that does not lie in the file system, in memory, compared with what was committed each time."""
        try:
            return self._fetched(index)
        except ValueError:
            if not self._moved(index):
                raise
            return self._fetched(index)

    def _fetched(self, index: int) -> FileRange:
        errors = list[ValueError]()
        for place in self.shelf.places(index):
            try:
                kept = self._kept(index)
                data = place.data() if kept is None else kept
                entry, known = self.judge(index, data), self._verified.get(index)
                if kept is None:
                    self._keep(entry, data)
            except FileNotFoundError:
                errors.append(ValueError("it is gone"))
            except ValueError as failed:
                errors.append(failed)
            else:
                if known is None or (known[1], known[2].sha256) != (place, entry.sha256):
                    self._verified[index] = (None, place, entry)
                return replace(place, held=data)
        raise errors[0]

    def _kept(self, index: int) -> bytes | None:
        """The bytes of a block that were acknowledged, if this machine has them and journals agree."""
        found = {entry.sha256 for entry in self._lines.get(index, ())}
        return self.cache.get(found.pop()) if self.cache is not None and len(found) == 1 else None

    def _keep(self, entry: Entry, data: bytes) -> None:
        if self.cache is not None:
            self.cache.put(entry.sha256, data)

    def _verify(self, index: int) -> Entry:
        """The first of its places that holds what was committed."""
        errors = list[ValueError]()
        for place in self.shelf.places(index):
            try:
                stamp, known = place.stamp(), self._verified.get(index)
                if known is None or known[0] != stamp:
                    self._verified[index] = (stamp, place, self._judge(index, place))
                return self._verified[index][2]
            except Unreachable:
                raise
            except OSError as failed:
                errors.append(ValueError(f"it is gone or cannot be read ({failed.strerror})"))
            except ValueError as failed:
                errors.append(failed)
        raise errors[0]

    def _judge(self, index: int, place: FileRange) -> Entry:
        if index not in self._lines or self.cache is not None:
            entry = self.judge(index, data := place.data())
            self._keep(entry, data)
            return entry
        return self._acknowledged(index, place.sha256())

    def _acknowledged(self, index: int, sha: str) -> Entry:
        if match := [entry for entry in self._lines[index] if entry.sha256 == sha]:
            return match[-1]
        raise ValueError("its content is not what was committed")

    def _moved(self, index: int) -> bool:
        """Whether a block lies elsewhere than was known, or more is known of it, now that we look again."""
        before, known = self.shelf.places(index), len(self._lines.get(index, ()))
        touched = {entry.block for entry in self.journals.news() if self._learn(entry)}
        changed, members = self.shelf.look(index)
        self._settle(touched | changed | self._take(members))
        return self.shelf.places(index) != before or len(self._lines.get(index, ())) != known

    def _learn(self, entry: Entry) -> bool:
        """Take a line; whether it says anything new."""
        lines = self._lines.setdefault(entry.block, [])
        if entry in lines:
            return False
        lines.append(entry)
        self._last = max(self._last, entry.block)
        return True

    def _take(self, members: Iterable[Member]) -> set[int]:
        """What packs say; their blocks."""
        for member in members:
            if member.entry is not None:
                self._learn(member.entry)
        return {member.block for member in members}

    def _settle(self, indices: set[int]) -> None:
        """Decide anew whether blocks are there."""
        for index in sorted(indices):
            self._present.pop(index, None)
            self._doubtful.discard(index)
            self._disputed.discard(index)
            if index not in self.shelf:
                continue
            lines = self._lines.get(index)
            if lines:
                self._present[index] = lines[-1]
                if len(lines) > 1 and len({entry.sha256 for entry in lines}) > 1:
                    self._doubtful.add(index)
                    self._disputed.add(index)
                continue
            self._doubtful.add(index)
            try:
                self._present[index] = self._adopted[index] = self._verify(index)
            except ValueError:
                continue  # never acknowledged and not whole: `missing` and `damaged` name it


def counted(status: Tensor | None) -> dict[Status, int]:
    """Rows by status, those that occur."""
    flags = [] if status is None else status.tolist()
    return {Status(value): n for value, n in sorted(Counter(flags).items())}


class Shelf:
    """Where the blocks of a store lie.

    Args:
        folder: The store's.
        naming: How files are spread over folders.
    """

    def __init__(self, folder: Folder, naming: Naming) -> None:
        self.folder, self.naming, self.packs = folder, naming, Packs(folder)
        self.loose: set[int] = set()
        self._listings: dict[str, Listing] = {}
        self._inside: dict[str, set[int]] = {}

    def __contains__(self, index: int) -> bool:
        return index in self.loose or index in self.packs

    def refresh(self, blocks: int) -> tuple[set[int], list[Member]]:
        """Look again; blocks whose files came or went, and what new packs say.

        Args:
            blocks: How many there may be.
        """
        changed = set[int]()
        for inside in self.naming.every(SHARDS, blocks):
            changed |= self._look(inside)
        members = self.packs.news(self.loose)
        return changed | {member.block for member in members}, members

    def leftovers(self) -> list[str]:
        """Folders that hold unfinished files."""
        return [inside for inside, listing in self._listings.items() if listing.leftovers]

    def note(self, index: int) -> None:
        """A block was written just now."""
        self.loose.add(index)
        self._inside.setdefault(self.naming.folder(SHARDS, index), set()).add(index)

    def forget(self, index: int) -> None:
        """The file of a block was removed just now."""
        self.loose.discard(index)
        self._inside.get(self.naming.folder(SHARDS, index), set()).discard(index)

    def places(self, index: int) -> list[FileRange]:
        """Where a block lies, the place that counts first; where its file would lie, if nowhere."""
        packed = self.packs.places(index)
        own = [FileRange(self.folder, self.naming.file(SHARDS, index))]
        return own + packed if index in self.loose else packed or own

    def look(self, index: int) -> tuple[set[int], list[Member]]:
        """The same of the folder of one block."""
        changed, members = self._look(self.naming.folder(SHARDS, index)), self.packs.news(self.loose)
        return changed | {member.block for member in members}, members

    def _look(self, inside: str) -> set[int]:
        """Blocks whose files came or went in a folder."""
        before, known = self._listings.get(inside), self._inside.setdefault(inside, set())
        if self.folder.path("") is None and self.naming.folders and len(known) >= self.naming.folders:
            return set()  # all are there, and to list them again is slow
        listing = self.folder.listed(inside, before)
        if listing is before:
            return set()
        found = {block for name in listing.names if (block := block_of(name)) is not None}
        self._listings[inside], self._inside[inside] = Listing(frozenset(), listing.stamp, listing.leftovers), found
        self.loose -= known - found
        self.loose |= found - known
        return found ^ known
