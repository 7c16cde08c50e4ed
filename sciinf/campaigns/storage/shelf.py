"""Which blocks of a store are there, and where: in files of their own, or in packs.

A folder is listed again only when something in it has come or gone, so that looking costs one call to the file system
for each thousand blocks. Files are listed before packs, and a file is removed only after its pack is there: a block
that is being packed is seen in one of the two, or in both.
"""

from __future__ import annotations

from sciinf.campaigns.storage.folder import Folder, Listing
from sciinf.campaigns.storage.naming import SHARDS, Naming, block_of
from sciinf.campaigns.storage.packs import Member, Packs
from sciinf.campaigns.storage.place import FileRange


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
