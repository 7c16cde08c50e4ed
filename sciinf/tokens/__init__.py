"""Fields as tokens: codes that turn one into the other, orders of frames, turns of tokens, and laws of tokens."""

from sciinf.tokens.code import Code, FieldTokens, Patches, Pod
from sciinf.tokens.denoised import Denoised
from sciinf.tokens.haar import Haar
from sciinf.tokens.law import Joint, LearnedLaw, Mixture, TokenLaw, four_steps
from sciinf.tokens.order import AtOnce, Frames, Order
from sciinf.tokens.points import Points
from sciinf.tokens.turns import Raster, Scales, Shuffled, Turns

__all__ = [
    "AtOnce",
    "Code",
    "Denoised",
    "FieldTokens",
    "Frames",
    "Haar",
    "Joint",
    "LearnedLaw",
    "Mixture",
    "Order",
    "Patches",
    "Pod",
    "Points",
    "Raster",
    "Scales",
    "Shuffled",
    "TokenLaw",
    "Turns",
    "four_steps",
]
