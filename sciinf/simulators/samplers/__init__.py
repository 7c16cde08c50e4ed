"""Markov chain Monte Carlo for many targets at once: samplers that draw from densities that can be evaluated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.simulators.samplers.chains import Chains as Chains, LogDensity as LogDensity, Sampler as Sampler
    from sciinf.simulators.samplers.hamiltonian import Hamiltonian as Hamiltonian
    from sciinf.simulators.samplers.langevin import Langevin as Langevin, Score as Score
    from sciinf.simulators.samplers.slice import Slice as Slice

__getattr__, __dir__ = offered(__name__, __file__)
