"""`sciinf compact`: many small files of a store become few."""

from __future__ import annotations

from pathlib import Path

from sciinf.store import Store
from sciinf.telling import ANSWER, tell


def compact_store(path: str) -> None:
    """Compact a store, and say what was done.

    Args:
        path: Its folder, or a run folder, whose simulations are then compacted.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If it has to be repaired first.
        OSError: If it cannot be written.
    """
    inside = Path(path) / "simulations"
    store = Store(inside if (inside / "store.json").is_file() else path)
    done = store.compact()
    tell(done.words, ANSWER)
    tell(f"{len(store):,} simulations in {store.path}", ANSWER)
