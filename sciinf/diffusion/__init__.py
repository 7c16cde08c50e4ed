"""The one diffusion core: paths from data to noise, what networks learn along them, and the ways back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.diffusion.grid import Clock, Geometric, Power
    from sciinf.diffusion.objective import (
        Clipped,
        Data,
        Diffusion,
        Drift,
        Even,
        EvenLogs,
        EvenTimes,
        Likelihood,
        Noise,
        NormalLogs,
        Preconditioned,
        Score,
        Velocity,
    )
    from sciinf.diffusion.schedule import (
        Cosine,
        Level,
        Straight,
        SubVariancePreserving,
        VarianceExploding,
        VariancePreserving,
    )
    from sciinf.diffusion.solver import Exponential, Heun, ProbabilityFlow
    from sciinf.diffusion.stochastic import (
        AdaptiveEuler,
        Ancestral,
        EulerMaruyama,
        ExtendedReverse,
        PredictorCorrector,
    )

__all__ = [
    "AdaptiveEuler",
    "Ancestral",
    "Clipped",
    "Clock",
    "Cosine",
    "Data",
    "Diffusion",
    "Drift",
    "EulerMaruyama",
    "Even",
    "EvenLogs",
    "EvenTimes",
    "Exponential",
    "ExtendedReverse",
    "Geometric",
    "Heun",
    "Level",
    "Likelihood",
    "Noise",
    "NormalLogs",
    "Power",
    "Preconditioned",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Score",
    "Straight",
    "SubVariancePreserving",
    "VarianceExploding",
    "VariancePreserving",
    "Velocity",
]

_MODULES = {
    "AdaptiveEuler": "stochastic",
    "Ancestral": "stochastic",
    "Clipped": "objective",
    "Clock": "grid",
    "Cosine": "schedule",
    "Data": "objective",
    "Diffusion": "objective",
    "Drift": "objective",
    "EulerMaruyama": "stochastic",
    "Even": "objective",
    "EvenLogs": "objective",
    "EvenTimes": "objective",
    "Exponential": "solver",
    "ExtendedReverse": "stochastic",
    "Geometric": "grid",
    "Heun": "solver",
    "Level": "schedule",
    "Likelihood": "objective",
    "Noise": "objective",
    "NormalLogs": "objective",
    "Power": "grid",
    "Preconditioned": "objective",
    "PredictorCorrector": "stochastic",
    "ProbabilityFlow": "solver",
    "Score": "objective",
    "Straight": "schedule",
    "SubVariancePreserving": "schedule",
    "VarianceExploding": "schedule",
    "VariancePreserving": "schedule",
    "Velocity": "objective",
}

__getattr__, __dir__ = offered(__name__, _MODULES)
