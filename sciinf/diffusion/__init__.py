"""The one diffusion core: paths from data to noise, what networks learn along them, and the ways back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.diffusion.auxiliary import LinearDiffusion, critically_damped, resting, variance_preserving
    from sciinf.diffusion.fokker_planck import regularised_loss
    from sciinf.diffusion.grid import Clock, Geometric, Power
    from sciinf.diffusion.guidance import Guided
    from sciinf.diffusion.hybrid import HybridMatching
    from sciinf.diffusion.joined import Bridging, Gauss, Jacobian
    from sciinf.diffusion.joint_solver import JointAncestral, JointExponential
    from sciinf.diffusion.learned import LearnedDiffusion
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
    from sciinf.diffusion.trajectory import Listed, fit_grid

__all__ = [
    "AdaptiveEuler",
    "Ancestral",
    "Bridging",
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
    "Gauss",
    "Geometric",
    "Guided",
    "Heun",
    "HybridMatching",
    "Jacobian",
    "JointAncestral",
    "JointExponential",
    "LearnedDiffusion",
    "Level",
    "LikelihoodWeights",
    "LinearDiffusion",
    "Listed",
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
    "critically_damped",
    "fit_grid",
    "regularised_loss",
    "resting",
    "variance_preserving",
]

_MODULES = {
    "AdaptiveEuler": "stochastic",
    "Ancestral": "stochastic",
    "Bridging": "joined",
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
    "Gauss": "joined",
    "Geometric": "grid",
    "Guided": "guidance",
    "Heun": "solver",
    "HybridMatching": "hybrid",
    "Jacobian": "joined",
    "JointAncestral": "joint_solver",
    "JointExponential": "joint_solver",
    "LearnedDiffusion": "learned",
    "Level": "schedule",
    "LikelihoodWeights": "objective",
    "LinearDiffusion": "auxiliary",
    "Listed": "trajectory",
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
    "critically_damped": "auxiliary",
    "fit_grid": "trajectory",
    "regularised_loss": "fokker_planck",
    "resting": "auxiliary",
    "variance_preserving": "auxiliary",
}

__getattr__, __dir__ = offered(__name__, _MODULES)
