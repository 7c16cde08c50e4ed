"""Lazy imports of a package: a module is imported when one of its names is first used."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def offered(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package whose imports are for type checkers only.

    The package's `__all__` is set, too.

    Args:
        package: Name of the package.
        file: Path of its `__init__.py`. The imports under `if TYPE_CHECKING` define the module of each name.

    Returns:
        `__getattr__` and `__dir__`. `__getattr__` raises AttributeError for an unknown name and lists the
        known names.
    """
    blocks = (node for node in ast.parse(Path(file).read_text()).body if isinstance(node, ast.If))
    imports = (node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom))
    homes = {alias.name: str(node.module) for node in imports for alias in node.names}
    sys.modules[package].__dict__["__all__"] = sorted(homes)

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it offers {', '.join(homes)}")
        return getattr(importlib.import_module(homes[name]), name)

    return find, lambda: sorted(homes)
