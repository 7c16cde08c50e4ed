"""Foreign simulators in: one function for each kind, each giving a `Simulator`.

`numpy` wraps a Python function, `jax` a function of a key, `numpyro` a model, `command` an external program, `sbi` a
prior and simulator in sbi's convention; `tables` turns simulations that already exist into a store.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciinf.wrappers.external_command import command
    from sciinf.wrappers.jax_function import jax
    from sciinf.wrappers.numpy_function import numpy
    from sciinf.wrappers.numpyro_model import numpyro
    from sciinf.wrappers.sbi_pair import sbi
    from sciinf.wrappers.tables_file import tables

__all__ = ["command", "jax", "numpy", "numpyro", "sbi", "tables"]

_MODULES = {
    "command": "external_command",
    "jax": "jax_function",
    "numpy": "numpy_function",
    "numpyro": "numpyro_model",
    "sbi": "sbi_pair",
    "tables": "tables_file",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
