"""Packs: the files of many blocks in one plain tar, `packs/000-1-TOKEN.tar`, with an index beside it.

Any tar program reads a pack. If a pack is unpacked in the store's folder, its files lie where they lay before. The
index, `packs/000-1-TOKEN.json`, holds for each block the content of its journal line, and the position of its bytes. A
pack counts from the moment its index exists, and is never changed. A pack without an index is being written, or its
writer died. But if a block is in no other place, the pack's index was lost, and the pack is read through. The first
number of the name is that of the blocks, by thousands. If several packs hold the same block, the one with the largest
second number counts. The token makes names unique, so that two processes may pack one store at the same time.
"""

from __future__ import annotations

import json
import tarfile
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sciinf.campaigns.storage.folder import Folder, Listing, Unreachable
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.storage.naming import PACKS, block_of
from sciinf.campaigns.storage.place import FileRange
from sciinf.core.files import json_of, sealed

SCHEMA = 1
OVERHEAD = tarfile.BLOCKSIZE
"""Bytes before each file in a tar; a file takes a multiple of it."""
_LEFT = 3_600.0  # Seconds after which no process writes the index of a pack any more.
_COLUMNS = ("block", "sha256", "rows", "content", "seconds", "counts")


@dataclass(frozen=True)
class Member:
    """A block in a pack: its number, start and size of its bytes, and its entry, if known."""

    block: int
    start: int
    size: int
    entry: Entry | None


def number_of(pack: str) -> tuple[int, int, str]:
    """Parts of a pack's name (without folder and ending): thousand of blocks, serial number, and token."""
    thousand, _, rest = pack.partition("-")
    serial, _, token = rest.partition("-")
    return int(thousand), int(serial), token


class Packs:
    """All packs of a store.

    Args:
        folder: Folder of the store.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.damaged: dict[str, str] = {}
        self.known: set[str] = set()
        self._awaited: dict[str, list[Member]] = {}  # Indexes listed without their tar: a listing is not atomic.
        self._listing: Listing | None = None
        self._places: dict[int, list[tuple[str, int, int]]] = {}
        self._spare: set[str] = set()  # Packs without an index whose blocks are all elsewhere.

    def __contains__(self, index: int) -> bool:
        return index in self._places

    def places(self, index: int) -> list[FileRange]:
        """Places of a block in packs, the one that counts first."""
        found = self._places.get(index, ())
        return [FileRange(self.folder, f"{PACKS}/{pack}.tar", start, size) for pack, start, size in found]

    def serial(self, thousand: int) -> int:
        """Serial number for the next pack of a thousand of blocks."""
        numbers = map(number_of, self.known | self._awaited.keys())
        return 1 + max((number[1] for number in numbers if number[0] == thousand), default=0)

    def without_index(self) -> list[str]:
        """Packs that have no index: a pack is being written, or its writer died."""
        names = self.folder.listed(PACKS).names
        packs = {name.removesuffix(".tar") for name in names if name.endswith(".tar")}
        return sorted(pack for pack in packs if f"{pack}.json" not in names)

    def news(self, loose: Collection[int]) -> list[Member]:
        """Blocks of packs that were added or deleted since the last call.

        Args:
            loose: Blocks that have files of their own.

        Warns:
            UserWarning: If an index is damaged or lost; the pack is then read through.
        """
        listing = self.folder.listed(PACKS, self._listing)
        if self._listing is not None and listing is self._listing:
            return []
        indexes, tars = (
            {name.removesuffix(end) for name in listing.names if name.endswith(end)} for end in (".json", ".tar")
        )
        found = [member for pack in sorted(self.known - tars) for member in self._gone(pack)]
        self.known &= tars
        before, self._awaited = self._awaited, {}
        for pack in sorted(indexes - self.known):
            members = before.get(pack)
            if members is None or pack in self.damaged:
                members = self._members(pack)
                found += members
            if pack in tars:
                self._place(pack, members)
                found += members
            else:
                self._awaited[pack] = members
        for pack in sorted(tars - indexes - self.known - self._spare):
            found += self._without(pack, loose)
        self._listing = None if self._awaited else listing
        return found

    def _place(self, pack: str, members: Sequence[Member]) -> None:
        """Record the places of a pack's blocks."""
        self.known.add(pack)
        for member in members:
            places = self._places.setdefault(member.block, [])
            places.append((pack, member.start, member.size))
            places.sort(key=lambda place: number_of(place[0]), reverse=True)

    def _gone(self, pack: str) -> list[Member]:
        """Blocks of a pack whose tar was deleted; their places in it are removed."""
        lost = [index for index, places in self._places.items() if any(place[0] == pack for place in places)]
        for index in lost:
            self._places[index] = [place for place in self._places[index] if place[0] != pack]
            if not self._places[index]:
                del self._places[index]
        return [Member(index, 0, 0, None) for index in lost]

    def mend(self, judge: Callable[[int, bytes], Entry], elsewhere: Callable[[int], bool]) -> None:
        """Write damaged or lost indexes anew; remove packs without an index that no block needs.

        Args:
            judge: Function of a block's number and bytes that returns its entry, and raises ValueError for a damaged
                block.
            elsewhere: Function that says whether a block is present apart from packs without an index.
        """
        spare = [pack for pack in self.without_index() if pack not in self.damaged]
        lost = [pack for pack in spare if self.folder.age(f"{PACKS}/{pack}.tar") > _LEFT]
        for pack in [*self.damaged, *lost]:
            name, members = f"{PACKS}/{pack}.tar", list[tuple[Entry, int, int]]()
            for member in scan(self.folder, pack):
                with suppress(ValueError):
                    data = self.folder.read(name, member.start, member.start + member.size)
                    members.append((judge(member.block, data), member.start, member.size))
            if pack in lost and all(elsewhere(entry.block) for entry, _, _ in members):
                self.folder.remove(name)
            else:
                self.folder.replace(f"{PACKS}/{pack}.json", index_of(members))
        self.damaged.clear()

    def _members(self, pack: str) -> list[Member]:
        try:
            return read_index(self.folder, pack)
        except Unreachable:
            raise
        except (ValueError, OSError) as error:
            return self._read_through(pack, f"damaged ({error})")

    def _without(self, pack: str, loose: Collection[int]) -> list[Member]:
        """Blocks of a pack without an index, if one of them is in no other place; else nothing."""
        if all(member.block in loose or member.block in self for member in scan(self.folder, pack)):
            self._spare.add(pack)
            return []
        members = self._read_through(pack, f"lost ({self.folder.name}/{PACKS}/{pack}.json is not there)")
        self._place(pack, members)
        return members

    def _read_through(self, pack: str, what: str) -> list[Member]:
        """Blocks of a pack, read from its tar, because its index is damaged or lost."""
        self.damaged[pack] = f"the index of the pack {pack} is {what}"
        warnings.warn(
            f"the index of the pack {pack} of {self.folder.name} is {what}; the pack is read through instead, and "
            f"`sciinf check {self.folder.name} --repair SIM.py` writes its index anew",
            stacklevel=1,
        )
        return scan(self.folder, pack)


def read_index(folder: Folder, pack: str) -> list[Member]:
    """Blocks of a pack according to its index.

    Raises:
        ValueError: If the index is damaged, or a newer version wrote it.
        OSError: If the index cannot be read.
    """
    name = f"{PACKS}/{pack}.json"
    data: Any = json_of(folder.read(name), f"{folder.name}/{name}")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"{folder.name}/{name} is no index of format {SCHEMA}; update sciinf, or restore it")
    made = data["conditions"]
    columns = zip(*(data[key] for key in (*_COLUMNS, "made", "start", "size")), strict=True)
    found = list[Member]()
    for *values, kind, start, size in columns:
        entry = Entry.from_json({**dict(zip(_COLUMNS, values, strict=True)), "conditions": made[kind]})
        found.append(Member(entry.block, start, size, entry))
    return found


def index_of(members: Sequence[tuple[Entry, int, int]]) -> bytes:
    """Bytes of the index of a pack, from the entry, start and size of each block."""
    conditions: dict[str, int] = {}
    rows = [(entry.to_json(), start, size) for entry, start, size in members]
    texts = [json.dumps(row.get("conditions", {}), sort_keys=True) for row, _, _ in rows]
    made = [conditions.setdefault(text, len(conditions)) for text in texts]
    data = {
        "schema": SCHEMA,
        **{key: [row[key] for row, _, _ in rows] for key in _COLUMNS},
        "conditions": [json.loads(text) for text in conditions],
        "made": made,
        "start": [start for _, start, _ in rows],
        "size": [size for _, _, size in rows],
    }
    return (json.dumps(sealed(data)) + "\n").encode()


def scan(folder: Folder, pack: str) -> list[Member]:
    """Blocks of a pack according to its tar alone, without entries. Damage ends the list early."""
    name, found, at = f"{PACKS}/{pack}.tar", list[Member](), 0
    while True:
        try:
            head = tarfile.TarInfo.frombuf(folder.read(name, at, at + OVERHEAD), "utf-8", "strict")
        except Unreachable:
            raise
        except (tarfile.HeaderError, OSError):
            return found
        block = block_of(head.name.rpartition("/")[2])
        if block is not None:
            found.append(Member(block, at + OVERHEAD, head.size, None))
        at += OVERHEAD + head.size + -head.size % OVERHEAD


def tar_of(files: Iterator[tuple[str, bytes]]) -> Iterator[bytes]:
    """Yield the parts of a plain tar of files; its bytes depend only on names and contents."""
    for name, data in files:
        about = tarfile.TarInfo(name)
        about.size, about.mode = len(data), 0o644
        yield about.tobuf(tarfile.GNU_FORMAT)
        yield data
        yield bytes(-len(data) % OVERHEAD)
    yield bytes(2 * OVERHEAD)
