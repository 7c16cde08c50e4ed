"""Foreign simulators in: one function for each kind, each giving a `Simulator`.

`numpy` wraps a Python function, `jax` a function of a key, `numpyro` a model, `command` an external program, `sbi` a
prior and simulator in sbi's convention; `sets` makes one of sets of observations from one of single ones; `tables`
turns simulations that already exist into a store, `the_well` and `pdebench` those of these two collections of fields;
`write_archive` keeps those of a store in one small file, each number within a tolerance, which `archived` turns back;
`models` makes one simulator of several models of the same data; `observed` is what `Sensors` with noise see of a
simulator of fields, `scattered` what measurements at random places do; `state_space` is what is seen of a hidden state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.wrappers.archive import Archive, Relative, archived, write_archive
    from sciinf.wrappers.expression_points import expressions
    from sciinf.wrappers.external_command import command
    from sciinf.wrappers.field_sensors import Sensors, observed
    from sciinf.wrappers.hidden_states import state_space
    from sciinf.wrappers.jax_function import jax
    from sciinf.wrappers.numpy_function import numpy
    from sciinf.wrappers.numpyro_model import numpyro
    from sciinf.wrappers.pdebench_files import pdebench
    from sciinf.wrappers.sbi_pair import sbi
    from sciinf.wrappers.scattered_points import scattered
    from sciinf.wrappers.sets_of_observations import sets
    from sciinf.wrappers.several_models import models
    from sciinf.wrappers.tables_file import tables
    from sciinf.wrappers.term_equations import Paths, Rates, equations
    from sciinf.wrappers.the_well_files import the_well

__all__ = [
    "Archive",
    "Paths",
    "Rates",
    "Relative",
    "Sensors",
    "archived",
    "command",
    "equations",
    "expressions",
    "jax",
    "models",
    "numpy",
    "numpyro",
    "observed",
    "pdebench",
    "sbi",
    "scattered",
    "sets",
    "state_space",
    "tables",
    "the_well",
    "write_archive",
]

_MODULES = {
    "Archive": "archive",
    "Paths": "term_equations",
    "Rates": "term_equations",
    "Relative": "archive",
    "Sensors": "field_sensors",
    "archived": "archive",
    "command": "external_command",
    "equations": "term_equations",
    "expressions": "expression_points",
    "jax": "jax_function",
    "models": "several_models",
    "numpy": "numpy_function",
    "numpyro": "numpyro_model",
    "observed": "field_sensors",
    "pdebench": "pdebench_files",
    "sbi": "sbi_pair",
    "scattered": "scattered_points",
    "sets": "sets_of_observations",
    "state_space": "hidden_states",
    "tables": "tables_file",
    "the_well": "the_well_files",
    "write_archive": "archive",
}

__getattr__, __dir__ = offered(__name__, _MODULES)
