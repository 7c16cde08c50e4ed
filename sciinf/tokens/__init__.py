"""Fields as tokens: codes that turn one into the other, orders of frames, turns of tokens, and laws of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.lazy import offered

if TYPE_CHECKING:
    from sciinf.tokens.code import Code as Code, FieldTokens as FieldTokens, Patches as Patches, Pod as Pod
    from sciinf.tokens.denoised import Denoised as Denoised
    from sciinf.tokens.haar import Haar as Haar
    from sciinf.tokens.law import (
        JointTokens as JointTokens,
        LearnedLaw as LearnedLaw,
        MixtureTokens as MixtureTokens,
        TokenLaw as TokenLaw,
    )
    from sciinf.tokens.law import four_steps as four_steps
    from sciinf.tokens.order import AtOnce as AtOnce, Frames as Frames, Order as Order
    from sciinf.tokens.points import Points as Points
    from sciinf.tokens.turns import Raster as Raster, Scales as Scales, Shuffled as Shuffled, Turns as Turns

__getattr__, __dir__ = offered(__name__, __file__)
