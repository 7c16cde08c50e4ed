"""Many small files become few: blocks into packs, journals into one.

The order makes a kill at any moment harmless, and running it again finishes what was left:

1. `store.json` says that there may be packs, so that versions which know of none refuse the store.
2. The blocks of a finished folder are read, compared with what was committed, and written into one tar, durably.
3. The tar is read back and compared. Its index is written, durably: from now on the pack counts.
4. The files of its blocks are removed. Until then a block is there twice, which changes nothing.
5. Journals are given other names, so that nobody adds to them, and their lines written into one journal, without those
   that an index says. They are removed after that is durable.

Readers that knew where a file was look again when it is gone. Writers of other blocks are not in the way: a block that
is shorter than the others, which a growing campaign would replace, stays a file.
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
    """What was done: blocks that were packed, the packs made of them, files removed, and journals merged into one.

    `left` are blocks that stay files: of folders that are not finished, short, alone, or damaged. A damaged one keeps
    none of the others in its folder from being packed.
    """

    blocks: int
    packs: int
    removed: int
    journals: int
    left: int

    @property
    def words(self) -> str:
        """The same in a sentence."""
        done = f"{self.blocks:,} blocks into {self.packs:,} packs, {self.journals:,} journals into one"
        rest = f"; {self.left:,} blocks stay files: their folder is not full yet, or they are short, alone or damaged"
        return done + rest * bool(self.left)


def compact(known: Blocks, blocks: int, rows_of: Callable[[int], int], rows: int) -> Compacted:
    """Pack the blocks of a store, and merge its journals.

    Args:
        known: Its blocks.
        blocks: How many there are when it is complete.
        rows_of: Rows of each when it is complete; the last may be shorter.
        rows: Rows of the others.

    Raises:
        ValueError: If lines of journals or indexes of packs are damaged, which are to be repaired first.
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
    """Blocks to be packed, and those that are in a pack already, though their files are there."""
    loose = [index for index in indices if index in known.shelf.loose]
    again = [index for index in loose if index in known.shelf.packs and _packed_well(known, index)]
    return deque(index for index in loose if index not in set(again)), again


def _packed_well(known: Blocks, index: int) -> bool:
    """Whether the newest pack that has a block holds what its file does."""
    try:
        place, packed = known.shelf.places(index)[0], known.shelf.packs.places(index)[0]
        return place.sha256() == packed.sha256()
    except OSError:
        return False


def _pack(known: Blocks, pack: str, queue: deque[int]) -> list[tuple[int, Hashable]]:
    """One pack of as many of the blocks as it may hold; which, and what told that their files were as they were read.

    Raises:
        OSError: If it cannot be written.
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
    """Files for a pack, each compared with what was committed; notes what is known of them, and where they begin."""
    at, most = 0, MOST if known.folder.path("") else min(MOST, MOST_SENT)
    while queue and at < most:
        index = queue.popleft()
        name = known.shelf.naming.file(SHARDS, index)
        try:
            stamp, data = known.folder.stamp(name), known.folder.read(name)
            entry = known.judge(index, data)
        except (FileNotFoundError, ValueError):
            continue  # another process has packed it; or it is damaged, and stays where it is
        members.append((entry, at + OVERHEAD, len(data)))
        stamps.append(stamp)
        at += OVERHEAD + len(data) + -len(data) % OVERHEAD
        yield name, data


def _remove(known: Blocks, index: int, stamp: Hashable) -> bool:
    """Remove the file of a block that is in a pack, unless it was replaced since."""
    name = known.shelf.naming.file(SHARDS, index)
    with suppress(FileNotFoundError):  # another process was faster
        if stamp is None or known.folder.stamp(name) == stamp:
            known.folder.remove(name)
            known.shelf.forget(index)
            return True
    return False


def _merge(known: Blocks) -> int:
    """One journal of all, without what the indexes of packs say; how many there were."""
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
        with suppress(FileNotFoundError):  # another process merges it, too
            for line in folder.read(name)[len(text) :].split(b"\n"):
                if _kept(line, told):
                    folder.append(merged, line)
            folder.remove(name)
    return len(names)


def _settled(folder: Folder, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Journals to which nobody adds any more: their names from now on, and what is in them."""
    for name in names:
        with suppress(FileNotFoundError):  # another process merges it, too
            settled = folder.settle(name)
            yield settled, folder.read(settled)


def _told(known: Blocks) -> dict[int, list[Entry]]:
    """What the indexes of packs say."""
    found: dict[int, list[Entry]] = {}
    for pack in known.shelf.packs.known:
        for member in read_index(known.folder, pack):
            if member.entry is not None:
                found.setdefault(member.block, []).append(member.entry)
    return found


def _kept(line: bytes, told: dict[int, list[Entry]]) -> bool:
    """Whether a line is whole, and no index says the same."""
    return parsed(line) is not None and not _said(line, told)


def _said(line: bytes, told: dict[int, list[Entry]]) -> bool:
    found = parsed(line)
    return found is not None and found[0] in told.get(found[0].block, ())
