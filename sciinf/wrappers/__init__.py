"""Foreign simulators in: one function for each kind, each giving a `Simulator`.

`numpy` wraps a Python function, `jax` a function of a key, `numpyro` a model, `command` an external program, `sbi` a
prior and simulator in sbi's convention; `sets` makes one of sets of observations from one of single ones; `tables`
turns simulations that already exist into a store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.wrappers.external_command import command
    from sciinf.wrappers.jax_function import jax
    from sciinf.wrappers.numpy_function import numpy
    from sciinf.wrappers.numpyro_model import numpyro
    from sciinf.wrappers.sbi_pair import sbi
    from sciinf.wrappers.sets_of_observations import sets
    from sciinf.wrappers.tables_file import tables

__all__ = ["command", "jax", "numpy", "numpyro", "sbi", "sets", "tables"]

_MODULES = {
    "command": "external_command",
    "jax": "jax_function",
    "numpy": "numpy_function",
    "numpyro": "numpyro_model",
    "sbi": "sbi_pair",
    "sets": "sets_of_observations",
    "tables": "tables_file",
}

__getattr__, __dir__ = offered(__name__, _MODULES)
