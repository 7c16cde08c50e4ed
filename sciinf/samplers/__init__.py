"""Markov chains of many targets at once: densities that can be evaluated, turned into draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.samplers.chains import Chains, LogDensity, Sampler
    from sciinf.samplers.hamiltonian import Hamiltonian
    from sciinf.samplers.langevin import Langevin, Score
    from sciinf.samplers.slice import Slice

__all__ = ["Chains", "Hamiltonian", "Langevin", "LogDensity", "Sampler", "Score", "Slice"]

_MODULES = {
    "Chains": "chains",
    "Hamiltonian": "hamiltonian",
    "Langevin": "langevin",
    "LogDensity": "chains",
    "Sampler": "chains",
    "Score": "langevin",
    "Slice": "slice",
}

__getattr__, __dir__ = offered(__name__, _MODULES)
