"""Wrappers that make a `Simulator` from foreign code, models or files: one function for each kind.

`numpy` wraps a Python function, `jax` a JAX function of a key, `numpyro` a model, and `command` an external program.
`sbi` wraps a prior and a simulator in sbi's convention. `sets` makes a simulator of sets of observations from a
simulator of single ones.

`tables` turns simulations that already exist into a store; `the_well` and `pdebench` do so for these two collections of
fields. `write_archive` saves the simulations of a store in one small file, each number within a tolerance. `archived`
turns this file back into a store.

`models` makes one simulator of several models of the same data. `observed` simulates noisy readings of `Sensors` in the
fields of a simulator, and `scattered` simulates measurements at random places. `state_space` simulates observations of
a hidden state.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.campaigns.archive import Archive as Archive
    from sciinf.campaigns.archive import Relative as Relative
    from sciinf.campaigns.archive import archived as archived
    from sciinf.campaigns.archive import write_archive as write_archive
    from sciinf.campaigns.pdebench_files import pdebench as pdebench
    from sciinf.campaigns.tables_file import tables as tables
    from sciinf.campaigns.the_well_files import the_well as the_well
    from sciinf.simulators.wrappers.external_command import command as command
    from sciinf.simulators.wrappers.field_sensors import Sensors as Sensors
    from sciinf.simulators.wrappers.field_sensors import observed as observed
    from sciinf.simulators.wrappers.field_sensors import scattered as scattered
    from sciinf.simulators.wrappers.hidden_states import state_space as state_space
    from sciinf.simulators.wrappers.jax_function import jax as jax
    from sciinf.simulators.wrappers.numpy_function import numpy as numpy
    from sciinf.simulators.wrappers.numpyro_model import numpyro as numpyro
    from sciinf.simulators.wrappers.sbi_pair import sbi as sbi
    from sciinf.simulators.wrappers.sets_of_observations import sets as sets
    from sciinf.simulators.wrappers.several_models import models as models
    from sciinf.simulators.wrappers.term_equations import Paths as Paths
    from sciinf.simulators.wrappers.term_equations import Rates as Rates
    from sciinf.simulators.wrappers.term_equations import equations as equations

__getattr__, __dir__ = offered(__name__, __file__)
