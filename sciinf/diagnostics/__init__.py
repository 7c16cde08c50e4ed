"""Checks that tell whether the simulator, the network, the model and the answer can be trusted.

Every final subclass of `Diagnostic` in this folder runs on every answer (`discovery`) and gives findings. The
verdict follows from the findings alone (`core.verdict`), so whatever reads a stored answer judges it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.diagnostics.scores.coverage_of_neurons import NeuronCoverage as NeuronCoverage
    from sciinf.diagnostics.scores.hierarchy import HierarchicalRatio as HierarchicalRatio
    from sciinf.diagnostics.scores.noise_time import DiffusionTime as DiffusionTime
    from sciinf.diagnostics.scores.planted import PlantedFaults as PlantedFaults

__getattr__, __dir__ = offered(__name__, __file__)
