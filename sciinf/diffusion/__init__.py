"""The one diffusion core: paths from data to noise, what networks learn along them, and the ways back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.diffusion.grid import Clock, Geometric, Power
    from sciinf.diffusion.objective import (
        ClippedWeights,
        Diffusion,
        EvenLogs,
        EvenTimes,
        EvenWeights,
        LikelihoodWeights,
        NormalLogs,
        Preconditioned,
        PredictData,
        PredictDrift,
        PredictNoise,
        PredictScore,
        PredictVelocity,
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
    "ClippedWeights",
    "Clock",
    "Cosine",
    "Diffusion",
    "EulerMaruyama",
    "EvenLogs",
    "EvenTimes",
    "EvenWeights",
    "Exponential",
    "ExtendedReverse",
    "Geometric",
    "Heun",
    "Level",
    "LikelihoodWeights",
    "NormalLogs",
    "Power",
    "Preconditioned",
    "PredictData",
    "PredictDrift",
    "PredictNoise",
    "PredictScore",
    "PredictVelocity",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Straight",
    "SubVariancePreserving",
    "VarianceExploding",
    "VariancePreserving",
]

_MODULES = {
    "AdaptiveEuler": "stochastic",
    "Ancestral": "stochastic",
    "ClippedWeights": "objective",
    "Clock": "grid",
    "Cosine": "schedule",
    "Diffusion": "objective",
    "EulerMaruyama": "stochastic",
    "EvenLogs": "objective",
    "EvenTimes": "objective",
    "EvenWeights": "objective",
    "Exponential": "solver",
    "ExtendedReverse": "stochastic",
    "Geometric": "grid",
    "Heun": "solver",
    "Level": "schedule",
    "LikelihoodWeights": "objective",
    "NormalLogs": "objective",
    "Power": "grid",
    "Preconditioned": "objective",
    "PredictData": "objective",
    "PredictDrift": "objective",
    "PredictNoise": "objective",
    "PredictScore": "objective",
    "PredictVelocity": "objective",
    "PredictorCorrector": "stochastic",
    "ProbabilityFlow": "solver",
    "Straight": "schedule",
    "SubVariancePreserving": "schedule",
    "VarianceExploding": "schedule",
    "VariancePreserving": "schedule",
}

__getattr__, __dir__ = offered(__name__, _MODULES)
