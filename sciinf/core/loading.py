"""Loading of users' Python files by path, with imports from the file's folder as with `python FILE`.

A file is run anew at each load, as the module `sciinf_file_NAME_HASH`. A module that the file imports from
its folder is run as `sciinf_beside_NAME_HASH.MODULE`. Two files that each import a `helper.py` therefore get
their own. `sys.path` does not change, and a file that is loaded again uses changed files beside it.

These files have their own `__import__`, so `import` statements, also inside functions, search the file's
folder first. Modules of Python itself and of sciinf are never searched there, and a file does not import
itself.
"""

from __future__ import annotations

import builtins
import hashlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, final

_FILE, _BESIDE = "sciinf_file_", "sciinf_beside_"
_NAME = re.compile(r"(sciinf_(?:file|beside)_)(\w*)_[0-9a-f]{12}(?=\.|$)")


def load_module(file: Path) -> Any:
    """The module in a Python file, run anew under its own name.

    For an `__init__.py`, the module is a package with relative imports of its submodules.

    Raises:
        TypeError: If the file is not a Python file.
    """
    if file.suffix not in SOURCE_SUFFIXES:
        notebook = "; `jupyter nbconvert --to script` makes one of a notebook" if file.suffix == ".ipynb" else ""
        raise TypeError(f"{file} is not a Python file; name one that ends in .py{notebook}")
    name = name_of_file(file)
    beside = name.replace(_FILE, _BESIDE, 1)
    for stale in [m for m in sys.modules if m.partition(".")[0] in (name, beside)]:
        del sys.modules[stale]
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    parent = ModuleType(beside, f"What lies beside {file}.")
    parent.__path__ = [str(file.parent)]
    sys.modules[beside] = parent
    package = [str(file.parent)] if file.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(
        name, file, loader=_Local(name, str(file)), submodule_search_locations=package
    )
    if spec is None or spec.loader is None:
        raise TypeError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def is_local(module: str) -> bool:
    """Whether a module name is that of a user's file or of a module beside such a file."""
    return module.startswith((_FILE, _BESIDE))


def name_of_file(file: Path) -> str:
    """The name under which the module of a file is loaded."""
    return f"{_FILE}{file.stem.strip('_')}_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}"


def local_module(name: str, folder: Path) -> ModuleSpec | None:
    """The location of the module that `import name` finds in a folder; None if the folder has no such module.

    A folder without `__init__.py` gives way to a module of that name elsewhere.
    """
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names or top == "sciinf":
        return None
    spec = module_in(name, folder)
    if spec is not None and spec.loader is None and _elsewhere(top):
        return None
    return spec


def at_hand(name: str, path: Path) -> str | None:
    """The present name of a module of a user's file; the file is run unless it is loaded already.

    Args:
        name: The name of the module in some process, for which the file may have had another path.
        path: The file, or the folder with `__init__.py`.

    Returns:
        The name, or None if the module does not belong to a file with the name of this one.
    """
    file = path.resolve() / "__init__.py" if path.is_dir() else path.resolve()
    match, here = _NAME.match(name), name_of_file(file)
    if match is None or match[2] != file.stem.strip("_"):
        return None
    if here not in sys.modules:
        load_module(file)
    return here.replace(_FILE, match[1], 1) + name[match.end() :]


def file_of(name: str) -> str:
    """The file name of a module, from the module's name; "__init__.py" for a folder."""
    match = _NAME.match(name)
    return "__init__.py" if match is None or match[2] == "init" else f"{match[2]}.py"


def _elsewhere(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def module_in(name: str, folder: Path) -> ModuleSpec | None:
    """The location in a folder of a module, by the last part of its name; None if the module is not there."""
    # A finder that is kept misses files created within one tick of the folder's clock, so make a new one.
    return FileFinder(str(folder), (ExtensionFileLoader, EXTENSION_SUFFIXES), (_Local, SOURCE_SUFFIXES)).find_spec(name)


@final
class _Local(SourceFileLoader):
    """A loader that runs a local file with an `__import__` that searches the folder of the file."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _Import(self.name, self.path)}
        return module

    def get_code(self, fullname: str) -> CodeType:
        # Cached bytecode is matched by time and size, and would miss a change within a second: compile anew.
        return self.source_to_code(self.get_data(self.path), self.path)


@final
class _Import:
    """The `__import__` function of a user's file and of the modules beside the file."""

    def __init__(self, name: str, path: str) -> None:
        self.beside = name.partition(".")[0].replace(_FILE, _BESIDE, 1)
        # The file itself is not imported, because it would run a second time under another name.
        self.file = path if name.startswith(_FILE) else None
        self.found: dict[str, str | None] = {}

    def __call__(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        origin = self._origin(top) if level == 0 else None
        if origin is None or origin == self.file:
            return __import__(name, globals, locals, fromlist or (), level)
        module = __import__(f"{self.beside}.{name}", globals, locals, fromlist or (), 0)
        return module if fromlist else sys.modules[f"{self.beside}.{top}"]

    def _origin(self, top: str) -> str | None:
        """The file of a local module, "" for a folder without `__init__.py`; None for other modules."""
        if top not in self.found:
            spec = local_module(top, Path(sys.modules[self.beside].__path__[0]))
            self.found[top] = None if spec is None else spec.origin or ""
        return self.found[top]


@final
class _Finder(MetaPathFinder):
    """A finder for submodules of local packages, which Python's finders would load with another loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or not is_local(fullname):
            return None
        for folder in path:
            if (spec := module_in(fullname, Path(folder))) is not None:
                return spec
        return None


_FINDER = _Finder()
