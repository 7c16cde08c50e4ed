"""Whether captions are read as they are meant, and draws given them are right, told from held-out rows."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch
from sciinf.core.surrogate import ALIKE, UNLIKE
from sciinf.surrogates._follows import say_what_is_not_followed
from sciinf.surrogates._spread import Waves, compared, say_what_goes_together_wrongly
from sciinf.surrogates.conditions import WORDS
from sciinf.surrogates.reader import Reader

if TYPE_CHECKING:
    from sciinf.surrogates.generator import Generator

_MEMBERS = 4
_MISREAD = 0.2  # scores, rms, of which a level is 0.5 to 2.2 wide


@torch.no_grad()
def heard(
    law: Generator, reader: Reader, rows: Batch, *, generator: torch.Generator
) -> tuple[dict[str, float], Float[Tensor, "frame channel octave"]]:
    """Compare draws given captions, phrased at random, with the rows that these were written for.

    Args:
        law: Whose draws they are.
        reader: Its reader.
        rows: Held out.
        generator: For captions and draws.

    Returns:
        "words_misread", how far the reader is off on fresh captions (rms, in scores), "spread_of_words", the spread of
        draws over the error of their mean, in the frame where they differ most (1 for the right law), and
        "spread_of_waves_of_words", the same of the waves that are worst; and the variance that draws given captions
        miss, of standardised fields, on average over waves.

    Warns:
        UserWarning: If captions are misread, or draws given them are too alike or too unlike, at points or in waves, or
            hardly follow a parameter.
    """
    words = reader.writer.anew(rows.theta, generator=generator).ids
    given, (mean, sd) = {**rows.x, WORDS: words}, law.level()
    drawn = torch.stack([law.sample(rows.theta, given, generator=generator) for _ in range(_MEMBERS)])
    true, waves = rows.x[law.target].to(drawn), Waves(law.space, edges=law.edges)
    drawn, true, off = (drawn - mean) / sd, (true - mean) / sd, float(reader.off)
    found = compared(drawn, true, waves, known=law.known)
    if not off <= _MISREAD:
        told = "has learned nothing yet" if math.isnan(off) else f"is {off:.2f} scores off, where a level is 0.5 wide"
        warnings.warn(
            f"captions are misread: on fresh ones the reader {told}. Give Words more steps, or a plainer grammar",
            stacklevel=4,
        )
    if not found.few and not ALIKE <= found.frames <= UNLIKE:
        kind = "alike" if found.frames < 1 else "unlike"
        warnings.warn(
            f"held-out simulations show that draws of {law.target!r} given captions spread {found.frames:.2f} times as "
            f"far as their mean is off (1 for the right law): they are too {kind}. Train longer, or on more solutions",
            stacklevel=4,
        )
    told = {"words_misread": off, "spread_of_words": found.frames}
    if not found.few:
        say_what_is_not_followed(law, rows.theta, found.spread, found.error, " given captions")
        say_what_goes_together_wrongly(law.target, found, " given captions")
        told["spread_of_waves_of_words"] = found.waves
    error = waves.by_octave(waves.of(true - drawn.mean(0)).abs().square()).mean(0)
    return told, found.missing * error / (1 + 1 / _MEMBERS)
