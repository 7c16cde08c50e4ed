"""Names that a package offers, each imported from its module when it is first asked for."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def offered(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that imports its names for type checkers alone; its `__all__` is set.

    Args:
        package: Its name.
        file: Its `__init__.py`. The imports under `if TYPE_CHECKING` say which module each name is in.

    Returns:
        Both functions; the first raises AttributeError for any other name, and says which there are.
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
