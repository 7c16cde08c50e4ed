"""Turn many small files of a store into few: blocks into packs, and journals into one journal.

The order of the steps makes a kill at any moment harmless, and another run finishes what was left:

1. `store.json` says that there may be packs, so that versions without support for packs refuse the store.
2. The blocks of a finished folder are read, compared with what was committed, and written into one tar, durably.
3. The tar is read back and compared. Its index is written, durably. From now on the pack counts.
4. The files of its blocks are removed. Until then a block exists twice, which changes nothing.
5. Journals are renamed, so that no writer adds to them. Their lines are written into one journal, without the lines
   that an index repeats. The old journals are removed after the new one is durable.

A reader looks again if a file is gone from its known place. Writers of other blocks are not disturbed. A block that is
shorter than the others stays a file, because a growing campaign would replace it.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sciinf.campaigns.storage.description import with_packs
from sciinf.campaigns.storage.folder import Folder, journal_text
from sciinf.campaigns.storage.journal import JOURNAL, Entry, parsed
from sciinf.campaigns.storage.judged import Blocks
from sciinf.campaigns.storage.naming import PACKS, PER_FOLDER, SHARDS
from sciinf.campaigns.storage.packs import OVERHEAD, index_of, read_index, tar_of
from sciinf.core.files import sha256_of

MOST = 2**30
"""Bytes of a pack, about."""
MOST_SENT = 2**26
"""The same where a pack is sent in one request, out of memory."""
_FEWEST = 2


@dataclass(frozen=True)
class Compacted:
    """Result of compacting a store: blocks packed, packs made of them, files removed, and journals merged into one.

    `left` is the number of blocks that stay files: blocks of folders that are not finished, and short, single or
    damaged blocks. A damaged block does not keep the other blocks of its folder from being packed.
    """

    blocks: int
    packs: int
    removed: int
    journals: int
    left: int

    @property
    def words(self) -> str:
        """The result in a sentence."""
        done = f"{self.blocks:,} blocks into {self.packs:,} packs, {self.journals:,} journals into one"
        rest = f"; {self.left:,} blocks stay files: their folder is not full yet, or they are short, alone or damaged"
        return done + rest * bool(self.left)


def compact(known: Blocks, blocks: int, rows_of: Callable[[int], int], rows: int) -> Compacted:
    """Pack the blocks of a store, and merge its journals.

    Args:
        known: Blocks of the store.
        blocks: Number of blocks of the complete store.
        rows_of: Function that gives the number of rows of a block when it is complete; the last block may be shorter.
        rows: Number of rows of every block but the last.

    Raises:
        ValueError: If lines of journals or indexes of packs are damaged; they must be repaired first.
        OSError: If a pack cannot be written, or does not hold what was written; all blocks are where they were.
    """
    folder, shelf = known.folder, known.shelf
    if known.journals.damaged or shelf.packs.damaged:
        raise ValueError(
            f"{folder.name} has damaged journals or indexes of packs; repair it before it is compacted: "
            f"sciinf check {folder.name} --repair SIM.py"
        )
    with_packs(folder)
    folder.prepare(PACKS)
    found, packs, removed = 0, 0, 0
    for first in range(0, blocks, PER_FOLDER):
        indices, present = range(first, min(first + PER_FOLDER, blocks)), known.present()
        if not all(index in present and present[index].rows >= rows_of(index) for index in indices):
            continue
        queue, again = _ready(known, [index for index in indices if present[index].rows == rows])
        removed += sum(_remove(known, index, None) for index in again)
        serial = shelf.packs.serial(first // PER_FOLDER)
        while len(queue) >= _FEWEST:
            packed = _pack(known, f"{first // PER_FOLDER:03d}-{serial}-{secrets.token_hex(4)}", queue)
            serial += 1
            found, packs = found + len(packed), packs + bool(packed)
            removed += sum(_remove(known, index, stamp) for index, stamp in packed)
    known.refresh(blocks)
    return Compacted(found, packs, removed, _merge(known), len(shelf.loose))


def _ready(known: Blocks, indices: Sequence[int]) -> tuple[deque[int], list[int]]:
    """Blocks to be packed, and blocks that are in a pack already although their files still exist."""
    loose = [index for index in indices if index in known.shelf.loose]
    again = [index for index in loose if index in known.shelf.packs and _packed_well(known, index)]
    return deque(index for index in loose if index not in set(again)), again


def _packed_well(known: Blocks, index: int) -> bool:
    """Whether the newest pack with a block holds the same bytes as the block's file."""
    try:
        place, packed = known.shelf.places(index)[0], known.shelf.packs.places(index)[0]
        return place.sha256() == packed.sha256()
    except OSError:
        return False


def _pack(known: Blocks, pack: str, queue: deque[int]) -> list[tuple[int, Hashable]]:
    """Write one pack of as many queued blocks as fit; return the packed blocks and the stamps of their files when read.

    Raises:
        OSError: If the pack cannot be written.
    """
    folder = known.folder
    tar, members, stamps = f"{PACKS}/{pack}.tar", list[tuple[Entry, int, int]](), list[Hashable]()
    folder.write(tar, tar_of(_files(known, queue, members, stamps)))
    for entry, start, size in members:
        if sha256_of(folder.read(tar, start, start + size)) != entry.sha256:
            folder.remove(tar)
            raise OSError(f"{folder.name}/{tar} does not hold what was written into it; all blocks are as they were")
    if not members:
        folder.remove(tar)
        return []
    folder.create(f"{PACKS}/{pack}.json", index_of(members))
    return [(entry.block, stamp) for (entry, _, _), stamp in zip(members, stamps, strict=True)]


def _files(
    known: Blocks, queue: deque[int], members: list[tuple[Entry, int, int]], stamps: list[Hashable]
) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of files for a pack, each compared with what was committed.

    Entries with offsets and sizes are appended to `members`, and the files' stamps to `stamps`.
    """
    at, most = 0, MOST if known.folder.path("") else min(MOST, MOST_SENT)
    while queue and at < most:
        index = queue.popleft()
        name = known.shelf.naming.file(SHARDS, index)
        try:
            stamp, data = known.folder.stamp(name), known.folder.read(name)
            entry = known.judge(index, data)
        except (FileNotFoundError, ValueError):
            continue  # Another process has packed the block, or it is damaged and stays where it is.
        members.append((entry, at + OVERHEAD, len(data)))
        stamps.append(stamp)
        at += OVERHEAD + len(data) + -len(data) % OVERHEAD
        yield name, data


def _remove(known: Blocks, index: int, stamp: Hashable) -> bool:
    """Remove the file of a block that is in a pack; return whether it was removed.

    A file that was replaced since stays.
    """
    name = known.shelf.naming.file(SHARDS, index)
    with suppress(FileNotFoundError):  # Another process was faster.
        if stamp is None or known.folder.stamp(name) == stamp:
            known.folder.remove(name)
            known.shelf.forget(index)
            return True
    return False


def _merge(known: Blocks) -> int:
    """Merge all journals into one, without lines that indexes of packs repeat; return the number of journals before."""
    folder, told = known.folder, _told(known)
    names = sorted(folder.names(JOURNAL))
    if len(names) < 2 and not any(
        _said(line, told) for name in names for line in journal_text(folder, name).split(b"\n")
    ):
        return len(names)
    texts = dict(_settled(folder, names))
    kept = [line for text in texts.values() for line in text.split(b"\n") if _kept(line, told)]
    merged = f"{JOURNAL}/merged-{secrets.token_hex(4)}.jsonl"
    if kept:
        folder.create(merged, b"".join(line + b"\n" for line in dict.fromkeys(kept)))
    for name, text in texts.items():
        with suppress(FileNotFoundError):  # Another process merges the same journal.
            for line in folder.read(name)[len(text) :].split(b"\n"):
                if _kept(line, told):
                    folder.append(merged, line)
            folder.remove(name)
    return len(names)


def _settled(folder: Folder, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Rename journals so that no writer adds to them; yield the new name and the content of each."""
    for name in names:
        with suppress(FileNotFoundError):  # Another process merges the same journal.
            settled = folder.settle(name)
            yield settled, folder.read(settled)


def _told(known: Blocks) -> dict[int, list[Entry]]:
    """Entries in the indexes of packs: block -> entries."""
    found: dict[int, list[Entry]] = {}
    for pack in known.shelf.packs.known:
        for member in read_index(known.folder, pack):
            if member.entry is not None:
                found.setdefault(member.block, []).append(member.entry)
    return found


def _kept(line: bytes, told: dict[int, list[Entry]]) -> bool:
    """Whether a journal's line is whole, and no index repeats it."""
    return parsed(line) is not None and not _said(line, told)


def _said(line: bytes, told: dict[int, list[Entry]]) -> bool:
    found = parsed(line)
    return found is not None and found[0] in told.get(found[0].block, ())
