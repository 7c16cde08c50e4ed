"""Errors of writing a store, with a reason and a way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sciinf.campaigns.storage.folder import Unreachable


@contextmanager
def writing(path: object) -> Iterator[None]:
    """Explain an operating system's error in terms of the store in `path`, as messages name it; the errno is kept."""
    try:
        yield
    except Unreachable:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno,
            f"the store {path} cannot be written: {reason}. Blocks committed so far are safe; make room, or choose a "
            "folder that can be written, and the same command goes on where it was",
        ) from error
