"""What a file says while something else writes it anew."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def watched(file: Path, seen: Callable[[str], object] = str) -> Iterator[list[str]]:
    """All contents that a file has within, each once, in order; `seen` is called with each as it comes."""
    pages: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.002):
            with suppress(OSError):
                text = file.read_text()
                if not pages or text != pages[-1]:
                    pages.append(text)
                    seen(text)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield pages
    finally:
        over.set()
        thread.join()
