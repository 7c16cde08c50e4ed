"""Fields as tokens: codes from fields to tokens and back, and distributions of tokens, drawn at once or in turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sciinf.core.lazy import offered

if TYPE_CHECKING:
    from sciinf.emulators.tokens.code import Code as Code, FieldTokens as FieldTokens, Patches as Patches, Pod as Pod
    from sciinf.emulators.tokens.denoised import Denoised as Denoised
    from sciinf.emulators.tokens.haar import Haar as Haar
    from sciinf.emulators.tokens.law import (
        JointTokens as JointTokens,
        LearnedLaw as LearnedLaw,
        MixtureTokens as MixtureTokens,
        TokenLaw as TokenLaw,
    )
    from sciinf.emulators.tokens.law import four_steps as four_steps
    from sciinf.emulators.tokens.order import AtOnce as AtOnce, Frames as Frames, Order as Order
    from sciinf.emulators.tokens.points import Points as Points
    from sciinf.emulators.tokens.turns import Raster as Raster, Scales as Scales, Shuffled as Shuffled, Turns as Turns

__getattr__, __dir__ = offered(__name__, __file__)
