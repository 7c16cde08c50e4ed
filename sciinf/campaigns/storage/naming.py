"""What the files of a store are called.

Blocks lie in folders of 1,000, `shards/000/00000042.h5`, because file systems of clusters become slow where a folder
holds many files. Stores of format 1 have all of them in one folder, `shards/00000042.h5`, and keep them there.
"""

from __future__ import annotations

from dataclasses import dataclass

SHARDS, PROPOSED, PACKS = "shards", "proposed", "packs"
PER_FOLDER = 1_000


@dataclass(frozen=True)
class Naming:
    """How the files of blocks are spread over folders.

    Args:
        folders: Blocks in each folder; 0 where one folder holds all.
    """

    folders: int = PER_FOLDER

    def folder(self, shelf: str, index: int) -> str:
        """The folder of a block, within `SHARDS` or `PROPOSED`."""
        return f"{shelf}/{index // self.folders:03d}" if self.folders else shelf

    def file(self, shelf: str, index: int, ending: str = "h5") -> str:
        """The file of a block."""
        return f"{self.folder(shelf, index)}/{index:08d}.{ending}"

    def every(self, shelf: str, blocks: int) -> list[str]:
        """All folders of a number of blocks, in order."""
        return [self.folder(shelf, first) for first in range(0, max(1, blocks), self.folders or max(1, blocks))]


def block_of(name: str) -> int | None:
    """The block whose file has a name, `00000042.h5`; None for other files."""
    stem, _, ending = name.partition(".")
    return int(stem) if ending == "h5" and stem.isdigit() else None
