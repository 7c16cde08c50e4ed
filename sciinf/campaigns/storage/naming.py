"""Names of the files of a store.

Blocks lie in folders of 1,000 blocks, `shards/000/00000042.h5`, because file systems of clusters become slow with many
files in a folder. Stores of format 1 have all blocks in one folder, `shards/00000042.h5`, and keep this form.
"""

from __future__ import annotations

from dataclasses import dataclass

SHARDS, PROPOSED, PACKS = "shards", "proposed", "packs"
PER_FOLDER = 1_000


@dataclass(frozen=True)
class Naming:
    """Rule that spreads the files of blocks over folders.

    Args:
        folders: Number of blocks in each folder; 0 if one folder holds all blocks.
    """

    folders: int = PER_FOLDER

    def folder(self, shelf: str, index: int) -> str:
        """Folder of a block, within `SHARDS` or `PROPOSED`."""
        return f"{shelf}/{index // self.folders:03d}" if self.folders else shelf

    def file(self, shelf: str, index: int, ending: str = "h5") -> str:
        """Path of a block's file."""
        return f"{self.folder(shelf, index)}/{index:08d}.{ending}"

    def every(self, shelf: str, blocks: int) -> list[str]:
        """All folders for a number of blocks, in order."""
        return [self.folder(shelf, first) for first in range(0, max(1, blocks), self.folders or max(1, blocks))]


def block_of(name: str) -> int | None:
    """Number of the block whose file has a given name, such as `00000042.h5`; None for other files."""
    stem, _, ending = name.partition(".")
    return int(stem) if ending == "h5" and stem.isdigit() else None
