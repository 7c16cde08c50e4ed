"""Which blocks of a store are present, and whether their files are those that were committed.

A file's bytes are compared with journals and indexes before HDF5 reads them. A file without an acknowledgement counts
if the hash written in it is correct. Its writer may have died between rename and acknowledgement.

**Cache.** Blocks that were fetched from a service are kept in a folder of this machine, so that each block is fetched
once. A cached file is named by the SHA-256 of its bytes, which are compared with this hash on every read. So a cache
cannot return bytes that the store does not acknowledge. If a block was replaced, the new bytes have another name and
are fetched. Nothing is ever removed from the cache; its folder may be deleted at any time.

**Shelf.** `Shelf` finds the blocks that are present, and their places: in files of their own, or in packs. A folder is
listed again only if a name in it was added or removed. So checking costs one call to the file system for each thousand
blocks. Files are listed before packs, and a file is removed only after its pack is present. So a block that is being
packed is seen in its file, in its pack, or in both.
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
    """Local cache of blocks, by the hash of their bytes.

    Args:
        root: Folder of the cache.
    """

    def __init__(self, root: Path) -> None:
        self.root, self._full = root, False

    def get(self, sha256: str) -> bytes | None:
        """Bytes that have a given hash; None if they are absent or changed."""
        with suppress(OSError):
            data = self._file(sha256).read_bytes()
            return data if sha256_of(data) == sha256 else None
        return None

    def put(self, sha256: str, data: bytes) -> None:
        """Store bytes under their hash, if there is room.

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
    """Cache in the folder that the environment variable `SCIINF_CACHE` names; None if it is not set.

    Raises:
        ValueError: If the variable names no folder of the file system.
    """
    root = os.environ.get(VARIABLE)
    return Cache(local_path(root)) if root else None


_RECENT = 60.0  # Seconds in which a replaced file is acknowledged, on the slowest disk.
_LOOKS, _WAIT = 6, 0.5


class Blocks:
    """Blocks of a store: which are present, what journals say of them, and whether their files are valid.

    Args:
        folder: Folder of the store.
        naming: Rule that spreads files over folders.
        campaign: Digest of the campaign to which the blocks must belong.
        observables: Observables in the blocks.
    """

    def __init__(self, folder: Folder, naming: Naming, campaign: str, observables: Mapping[str, Observable]) -> None:
        self.folder, self.campaign, self.observables = folder, campaign, observables
        self.journals, self.shelf = Journals(folder), Shelf(folder, naming)
        self._lines: dict[int, list[Entry]] = {}
        self._adopted: dict[int, Entry] = {}
        self._present: dict[int, Entry] = {}  # Entries of present blocks, as known without reading them.
        self._doubtful: set[int] = set()  # Present and to be read: not acknowledged, or journals disagree.
        self._disputed: set[int] = set()  # Doubtful blocks on which journals disagree, until checked.
        self._verified: dict[int, tuple[Hashable, FileRange, Entry]] = {}
        self.cache = cache() if folder.path("") is None else None
        self._last = 0  # The largest acknowledged block number.

    def refresh(self, blocks: int) -> set[int]:
        """Read what other processes have committed since the last call; return the blocks whose entries have changed.

        Args:
            blocks: Largest possible number of blocks.
        """
        touched = {entry.block for entry in self.journals.news() if self._learn(entry)}
        self._disputed |= self._doubtful & self._lines.keys()
        changed, members = self.shelf.refresh(max(blocks, self._last + 1))  # The store may have grown.
        news = touched | changed | self._take(members) | {k for k in self._doubtful if k not in self._lines}
        self._settle(news)
        return news

    def add(self, entry: Entry) -> None:
        """Record a block that this process has committed."""
        self.shelf.note(entry.block)
        self._learn(entry)
        self._settle({entry.block})

    def present(self) -> Mapping[int, Entry]:
        """Blocks whose files are present, with their entries, unverified except where journals disagree."""
        for index in sorted(self._disputed):  # Only once, because each check reads a file.
            try:
                self._present[index] = self.verify(index)
                self._disputed.discard(index)
            except ValueError:
                if index in self.shelf:  # Otherwise the check found that the file is gone.
                    self._present[index] = self._lines[index][-1]
        return self._present

    def history(self, index: int) -> list[Entry]:
        """Entries of a block, oldest first, whether its file is damaged or not."""
        adopted = [self._adopted[index]] if index in self._adopted else []
        return self._lines.get(index) or adopted

    def readable(self) -> list[int]:
        """Blocks that a reader must deliver: all committed blocks, and all blocks whose files are present."""
        return sorted(self._lines.keys() | self._present.keys() | self._doubtful)

    def damaged(self) -> list[Damage]:
        """Blocks that are deleted or whose content is not what was committed. This reads every file."""
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
        """Whether a short block was just made longer, and will soon be acknowledged."""
        return index in self._lines and self._unacknowledged(index) > self._lines[index][-1].rows

    def _unacknowledged(self, index: int) -> int:
        """Rows of a valid file that just replaced another one and may soon be acknowledged; 0 for any other file."""
        place = self.shelf.places(index)[0]
        try:
            recent = index in self._lines and self.folder.age(place.name) < _RECENT
            return self.adopt(index, place.data()).rows if recent else 0
        except (ValueError, OSError):
            return 0

    def entry(self, index: int) -> Entry:
        """Entry of a block, verified.

        Raises:
            ValueError: If the block is damaged; the message names it.
        """
        try:
            return self.verify(index)
        except ValueError as error:
            raise self.damage(index, str(error)) from error

    def damage(self, index: int, reason: str) -> ValueError:
        """Error that describes a damaged block and the way out."""
        return ValueError(
            f"{self.shelf.places(index)[0].words} is damaged: {reason}. Simulate it again with "
            f"`sciinf check {self.folder.name} --repair SIM.py`; the other blocks are not affected"
        )

    def checked(self, index: int, read: Callable[[FileRange], Any]) -> Any:
        """Verify a block, and return what `read` reads from it, even if the block moves to another place meanwhile."""
        try:
            if self.folder.path("") is None:
                return read(self._held(index))
            self.verify(index)
            try:
                return read(self._verified[index][1])
            except OSError:
                if not self._moved(index):  # Otherwise the block was packed meanwhile.
                    raise
                self.verify(index)
                return read(self._verified[index][1])
        except Unreachable:
            raise
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            raise self.damage(index, str(error)) from error

    def verify(self, index: int) -> Entry:
        """Entry of a block, verified. The file is read again only if its size, time or place has changed.

        Raises:
            ValueError: If the block is damaged.
        """
        try:
            return self._verify(index)
        except ValueError:
            if not self._moved(index):
                raise
            return self._verify(index)

    def stamp(self, index: int) -> Hashable:
        """Value that changes when the bytes of a block change, as last verified; None before the first verification."""
        return self._verified[index][2].sha256 if index in self._verified else None

    def adopt(self, index: int, data: bytes) -> Entry:
        """Entry of a block from its file alone.

        Raises:
            ValueError: If the file is not of this block and store, or its arrays do not have the hash written in it.
        """
        block, campaign, content, status = embedded(data, self.observables)
        if block != index or campaign != self.campaign:
            raise ValueError("it belongs to another block or another store")
        return Entry(index, sha256_of(data), len(status), content, 0.0, counted(status))

    def judge(self, index: int, data: bytes) -> Entry:
        """Entry of a block for bytes that should be this block's file.

        Raises:
            ValueError: If the bytes are not what was committed.
        """
        if index not in self._lines:
            return self.adopt(index, data)
        return self._acknowledged(index, sha256_of(data))

    def mend(self) -> None:
        """Remove changed lines from journals, and write damaged or lost indexes of packs anew."""
        self.journals.mend()
        self.shelf.packs.mend(self.judge, lambda index: index in self._present)

    def _held(self, index: int) -> FileRange:
        """A block outside the file system, read into memory and compared each time with what was committed."""
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
        """Cached bytes of an acknowledged block; None if they are not on this machine or journals disagree."""
        found = {entry.sha256 for entry in self._lines.get(index, ())}
        return self.cache.get(found.pop()) if self.cache is not None and len(found) == 1 else None

    def _keep(self, entry: Entry, data: bytes) -> None:
        if self.cache is not None:
            self.cache.put(entry.sha256, data)

    def _verify(self, index: int) -> Entry:
        """Entry of a block, from the first of its places with the committed content."""
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
        """Look again at a block; return whether its places have changed or it has more entries."""
        before, known = self.shelf.places(index), len(self._lines.get(index, ()))
        touched = {entry.block for entry in self.journals.news() if self._learn(entry)}
        changed, members = self.shelf.look(index)
        self._settle(touched | changed | self._take(members))
        return self.shelf.places(index) != before or len(self._lines.get(index, ())) != known

    def _learn(self, entry: Entry) -> bool:
        """Record an entry; return whether it is new."""
        lines = self._lines.setdefault(entry.block, [])
        if entry in lines:
            return False
        lines.append(entry)
        self._last = max(self._last, entry.block)
        return True

    def _take(self, members: Iterable[Member]) -> set[int]:
        """Record the entries of packs; return their blocks."""
        for member in members:
            if member.entry is not None:
                self._learn(member.entry)
        return {member.block for member in members}

    def _settle(self, indices: set[int]) -> None:
        """Decide again which of some blocks are present."""
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
                continue  # Never acknowledged and not whole: `missing` and `damaged` name it.


def counted(status: Tensor | None) -> dict[Status, int]:
    """Number of rows for each status that occurs."""
    flags = [] if status is None else status.tolist()
    return {Status(value): n for value, n in sorted(Counter(flags).items())}


class Shelf:
    """Places of the blocks of a store, in files and packs.

    Args:
        folder: Folder of the store.
        naming: Rule that spreads files over folders.
    """

    def __init__(self, folder: Folder, naming: Naming) -> None:
        self.folder, self.naming, self.packs = folder, naming, Packs(folder)
        self.loose: set[int] = set()
        self._listings: dict[str, Listing] = {}
        self._inside: dict[str, set[int]] = {}

    def __contains__(self, index: int) -> bool:
        return index in self.loose or index in self.packs

    def refresh(self, blocks: int) -> tuple[set[int], list[Member]]:
        """List the folders again; return the blocks that were added, removed or packed, and the blocks of new packs.

        Args:
            blocks: Largest possible number of blocks.
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
        """Record that the file of a block was just written."""
        self.loose.add(index)
        self._inside.setdefault(self.naming.folder(SHARDS, index), set()).add(index)

    def forget(self, index: int) -> None:
        """Record that the file of a block was just removed."""
        self.loose.discard(index)
        self._inside.get(self.naming.folder(SHARDS, index), set()).discard(index)

    def places(self, index: int) -> list[FileRange]:
        """Places of a block, the one that counts first; if the block is absent, the place where its file would be."""
        packed = self.packs.places(index)
        own = [FileRange(self.folder, self.naming.file(SHARDS, index))]
        return own + packed if index in self.loose else packed or own

    def look(self, index: int) -> tuple[set[int], list[Member]]:
        """List the folder of one block again; return the same as `refresh`."""
        changed, members = self._look(self.naming.folder(SHARDS, index)), self.packs.news(self.loose)
        return changed | {member.block for member in members}, members

    def _look(self, inside: str) -> set[int]:
        """List a folder again; return the blocks whose files were added or removed."""
        before, known = self._listings.get(inside), self._inside.setdefault(inside, set())
        if self.folder.path("") is None and self.naming.folders and len(known) >= self.naming.folders:
            return set()  # All files are present, and listing them again is slow.
        listing = self.folder.listed(inside, before)
        if listing is before:
            return set()
        found = {block for name in listing.names if (block := block_of(name)) is not None}
        self._listings[inside], self._inside[inside] = Listing(frozenset(), listing.stamp, listing.leftovers), found
        self.loose -= known - found
        self.loose |= found - known
        return found ^ known
