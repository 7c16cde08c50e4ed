"""Learned simulators of fields."""

from sciinf.surrogates.adversarial import Adversarial
from sciinf.surrogates.captions import Captions, Grammar
from sciinf.surrogates.collapse import collapsed
from sciinf.surrogates.collocation import Collocation
from sciinf.surrogates.conditions import Field, Frame, Given, Members, Sensors, Words
from sciinf.surrogates.decoders import Query
from sciinf.surrogates.dgno import DGNO
from sciinf.surrogates.emissions import Bernoulli, Categorical, Gaussian, Poisson
from sciinf.surrogates.emulator import Emulator
from sciinf.surrogates.encoders import GridEncoder, Perceiver
from sciinf.surrogates.field_code import FieldCode, LearnedCode
from sciinf.surrogates.generator import Generator
from sciinf.surrogates.graph import Graph
from sciinf.surrogates.inversion import Inversion
from sciinf.surrogates.latent_dynamics import LatentDynamics
from sciinf.surrogates.losses import RelativeL2, Sobolev
from sciinf.surrogates.multi_fluid import MultiFluid
from sciinf.surrogates.multi_operator import MultiOperator
from sciinf.surrogates.objectives import KL, Importance, Mmd, Plain, Unscented
from sciinf.surrogates.operator import Operator
from sciinf.surrogates.origin import Origin
from sciinf.surrogates.placements import AdversarialPoints, EvenPoints, FollowingPoints
from sciinf.surrogates.quantised import Quantised
from sciinf.surrogates.questions import conditioned
from sciinf.surrogates.refinement import Refinement, refined
from sciinf.surrogates.spectral_refiner import SpectralRefiner, refine
from sciinf.surrogates.stable_rollout import Stable
from sciinf.surrogates.stepwise import Stepwise

__all__ = [
    "DGNO",
    "KL",
    "Adversarial",
    "AdversarialPoints",
    "Bernoulli",
    "Captions",
    "Categorical",
    "Collocation",
    "Emulator",
    "EvenPoints",
    "Field",
    "FieldCode",
    "FollowingPoints",
    "Frame",
    "Gaussian",
    "Generator",
    "Given",
    "Grammar",
    "Graph",
    "GridEncoder",
    "Importance",
    "Inversion",
    "LatentDynamics",
    "LearnedCode",
    "Members",
    "Mmd",
    "MultiFluid",
    "MultiOperator",
    "Operator",
    "Origin",
    "Perceiver",
    "Plain",
    "Poisson",
    "Quantised",
    "Query",
    "Refinement",
    "RelativeL2",
    "Sensors",
    "Sobolev",
    "SpectralRefiner",
    "Stable",
    "Stepwise",
    "Unscented",
    "Words",
    "collapsed",
    "conditioned",
    "refine",
    "refined",
]
