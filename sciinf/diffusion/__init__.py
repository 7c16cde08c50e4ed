"""The one diffusion core: paths from data to noise, what networks learn along them, and the ways back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.diffusion.auxiliary import LinearDiffusion as LinearDiffusion
    from sciinf.diffusion.auxiliary import critically_damped as critically_damped
    from sciinf.diffusion.auxiliary import resting as resting
    from sciinf.diffusion.auxiliary import variance_preserving as variance_preserving
    from sciinf.diffusion.fokker_planck import regularised_loss as regularised_loss
    from sciinf.diffusion.grid import Clock as Clock
    from sciinf.diffusion.grid import Geometric as Geometric
    from sciinf.diffusion.grid import Power as Power
    from sciinf.diffusion.guidance import Guided as Guided
    from sciinf.diffusion.hybrid import HybridMatching as HybridMatching
    from sciinf.diffusion.joined import Bridging as Bridging
    from sciinf.diffusion.joined import Gauss as Gauss
    from sciinf.diffusion.joined import Jacobian as Jacobian
    from sciinf.diffusion.joint_solver import JointAncestral as JointAncestral
    from sciinf.diffusion.joint_solver import JointExponential as JointExponential
    from sciinf.diffusion.learned import LearnedDiffusion as LearnedDiffusion
    from sciinf.diffusion.objective import ClippedWeights as ClippedWeights
    from sciinf.diffusion.objective import Diffusion as Diffusion
    from sciinf.diffusion.objective import EvenLogs as EvenLogs
    from sciinf.diffusion.objective import EvenTimes as EvenTimes
    from sciinf.diffusion.objective import EvenWeights as EvenWeights
    from sciinf.diffusion.objective import LikelihoodWeights as LikelihoodWeights
    from sciinf.diffusion.objective import NormalLogs as NormalLogs
    from sciinf.diffusion.objective import Preconditioned as Preconditioned
    from sciinf.diffusion.objective import PredictData as PredictData
    from sciinf.diffusion.objective import PredictDrift as PredictDrift
    from sciinf.diffusion.objective import PredictNoise as PredictNoise
    from sciinf.diffusion.objective import PredictScore as PredictScore
    from sciinf.diffusion.objective import PredictVelocity as PredictVelocity
    from sciinf.diffusion.schedule import Cosine as Cosine
    from sciinf.diffusion.schedule import Level as Level
    from sciinf.diffusion.schedule import Straight as Straight
    from sciinf.diffusion.schedule import SubVariancePreserving as SubVariancePreserving
    from sciinf.diffusion.schedule import VarianceExploding as VarianceExploding
    from sciinf.diffusion.schedule import VariancePreserving as VariancePreserving
    from sciinf.diffusion.solver import Exponential as Exponential
    from sciinf.diffusion.solver import Heun as Heun
    from sciinf.diffusion.solver import ProbabilityFlow as ProbabilityFlow
    from sciinf.diffusion.stochastic import AdaptiveEuler as AdaptiveEuler
    from sciinf.diffusion.stochastic import Ancestral as Ancestral
    from sciinf.diffusion.stochastic import EulerMaruyama as EulerMaruyama
    from sciinf.diffusion.stochastic import ExtendedReverse as ExtendedReverse
    from sciinf.diffusion.stochastic import PredictorCorrector as PredictorCorrector
    from sciinf.diffusion.trajectory import Listed as Listed
    from sciinf.diffusion.trajectory import fit_grid as fit_grid

__getattr__, __dir__ = offered(__name__, __file__)
