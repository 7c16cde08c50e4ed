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
