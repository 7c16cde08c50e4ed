"""Fields as tokens: codes that turn one into the other, orders of frames, and laws of tokens."""

from sciinf.tokens.code import Code, FieldTokens, Patches, Pod
from sciinf.tokens.law import Joint, LearnedLaw, Mixture, TokenLaw, four_steps
from sciinf.tokens.order import AtOnce, Frames, Order

__all__ = [
    "AtOnce",
    "Code",
    "FieldTokens",
    "Frames",
    "Joint",
    "LearnedLaw",
    "Mixture",
    "Order",
    "Patches",
    "Pod",
    "TokenLaw",
    "four_steps",
]
