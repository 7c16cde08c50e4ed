"""Learned simulators of fields."""

from sciinf.surrogates.emulator import Emulator
from sciinf.surrogates.losses import RelativeL2, Sobolev
from sciinf.surrogates.operator import Operator
from sciinf.surrogates.stepwise import Stepwise

__all__ = ["Emulator", "Operator", "RelativeL2", "Sobolev", "Stepwise"]
