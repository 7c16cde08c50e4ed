"""A folder whose every change is told of, so that a test may kill, read or write between two of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from sciinf.campaigns.storage.folder import Folder


@final
class Watched(Folder):
    """A folder that is told of before each step that changes it, and after.

    Args:
        folder: The folder.
        step: Called with the name of the step.
    """

    def __init__(self, folder: Folder, step: Callable[[str], None]) -> None:
        self.folder, self.step, self.name = folder, step, folder.name

    def _done(self, what, *given):
        self.step(f"before {what}")
        result = getattr(self.folder, what)(*given)
        self.step(f"after {what}")
        return result

    def read(self, name, start=0, stop=None):
        return self.folder.read(name, start, stop)

    def create(self, name, data):
        return self._done("create", name, data)

    def replace(self, name, data):
        self._done("replace", name, data)

    def commit(self, name, data, stays):
        return self._done("commit", name, data, stays)

    def write(self, name, parts):
        self._done("write", name, parts)

    def append(self, name, line):
        self._done("append", name, line)

    def news(self, inside, seen):
        return self.folder.news(inside, seen)

    def settle(self, name):
        return self._done("settle", name)

    def names(self, inside):
        return self.folder.names(inside)

    def listed(self, inside, before=None):
        return self.folder.listed(inside, before)

    def stamp(self, name):
        return self.folder.stamp(name)

    def age(self, name):
        return self.folder.age(name)

    def remove(self, name):
        self._done("remove", name)

    def prepare(self, inside):
        self._done("prepare", inside)

    def path(self, name):
        return self.folder.path(name)
