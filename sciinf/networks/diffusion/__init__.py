"""Diffusion models: noise schedules, training objectives, and solvers from noise to data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.networks.diffusion.fokker_planck import regularised_loss as regularised_loss
    from sciinf.networks.diffusion.grid import Clock as Clock, Geometric as Geometric, Power as Power
    from sciinf.networks.diffusion.guidance import Guided as Guided
    from sciinf.networks.diffusion.joined import Bridging as Bridging, Gauss as Gauss, Jacobian as Jacobian
    from sciinf.networks.diffusion.objective import ClippedWeights as ClippedWeights, Diffusion as Diffusion
    from sciinf.networks.diffusion.objective import (
        EvenLogs as EvenLogs,
        EvenTimes as EvenTimes,
        EvenWeights as EvenWeights,
    )
    from sciinf.networks.diffusion.objective import LikelihoodWeights as LikelihoodWeights, NormalLogs as NormalLogs
    from sciinf.networks.diffusion.objective import Preconditioned as Preconditioned, PredictData as PredictData
    from sciinf.networks.diffusion.objective import PredictDrift as PredictDrift, PredictNoise as PredictNoise
    from sciinf.networks.diffusion.objective import PredictScore as PredictScore, PredictVelocity as PredictVelocity
    from sciinf.networks.diffusion.schedule import Cosine as Cosine, NoiseLevel as NoiseLevel, Straight as Straight
    from sciinf.networks.diffusion.schedule import SubVariancePreserving as SubVariancePreserving
    from sciinf.networks.diffusion.schedule import VarianceExploding as VarianceExploding
    from sciinf.networks.diffusion.schedule import VariancePreserving as VariancePreserving
    from sciinf.networks.diffusion.solver import (
        Exponential as Exponential,
        Heun as Heun,
        ProbabilityFlow as ProbabilityFlow,
    )

__getattr__, __dir__ = offered(__name__, __file__)
