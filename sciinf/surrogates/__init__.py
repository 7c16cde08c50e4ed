"""Learned simulators of fields."""

from sciinf.surrogates.conditions import Field, Frame, Given, Members
from sciinf.surrogates.dgno import DGNO
from sciinf.surrogates.emulator import Emulator
from sciinf.surrogates.generator import Generator
from sciinf.surrogates.inversion import Inversion
from sciinf.surrogates.losses import RelativeL2, Sobolev
from sciinf.surrogates.multi_operator import MultiOperator
from sciinf.surrogates.operator import Operator
from sciinf.surrogates.questions import conditioned
from sciinf.surrogates.spectral_refiner import SpectralRefiner, refine
from sciinf.surrogates.stable_rollout import Stable
from sciinf.surrogates.stepwise import Stepwise

__all__ = [
    "DGNO",
    "Emulator",
    "Field",
    "Frame",
    "Generator",
    "Given",
    "Inversion",
    "Members",
    "MultiOperator",
    "Operator",
    "RelativeL2",
    "Sobolev",
    "SpectralRefiner",
    "Stable",
    "Stepwise",
    "conditioned",
    "refine",
]
