"""In what order frames are generated: how many at once, and how many before them are seen.

With frames 0, 1, ... of a solution, the first of which may be given, a law of b frames that follow c others makes all:

    p(u_1, u_2, ... | u_0) = prod_k p(u_{kb+1}, ..., u_{kb+b} | u_{kb-c+1}, ..., u_{kb}),

one factor with b all of them (`AtOnce`), or one for each block, the same for all (`Frames`): a solution then can go on
for longer than those that were learned from. Before the first frame, the first is seen in place of earlier ones. Tokens
of a block are drawn all at once, or in turns (`emulators.tokens.turns`).

References:
    | Video Diffusion Models (Ho et al., 2022), https://arxiv.org/abs/2204.03458 (all at once, and in blocks)
    | Turbulent Flow Simulation using Autoregressive Conditional Diffusion Models (Kohl et al., 2023),
      https://arxiv.org/abs/2309.01745 (frame by frame)
    | Autoregressive Video Generation without Vector Quantization (Deng et al., 2024),
      https://arxiv.org/abs/2412.14169 (frame by frame, and tokens of a frame in turns)
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from sciinf.core.checks import check_positive
from sciinf.core.component import Component, called_with, called_without
from sciinf.emulators.tokens.turns import Turns


class Order(Component, ABC):
    """An order of frames.

    Attributes:
        turns: Of the tokens of a block; None where they are drawn all at once.
    """

    turns: Turns | None = None

    @abstractmethod
    def sizes(self, frames: int) -> tuple[int, int]:
        """How many frames are generated at once, of so many in all, and how many before them are seen."""


class AtOnce(Order):
    """All frames at once.

    Args:
        turns: Of tokens, each of which holds all frames at its place; all at once where left out.

    Raises:
        TypeError: If turns are none.
    """

    def __init__(self, turns: Turns | None = None) -> None:
        self.turns = _turns(self, turns)
        if turns is None:
            called_with(self, args=(), kwargs={})  # as it was saved when it had no constructor

    def sizes(self, frames: int) -> tuple[int, int]:
        return frames, 1


class Frames(Order):
    """A block after the other, of frames that are evenly spaced.

    Args:
        block: Frames that are generated at once.
        context: Frames before them that are seen.
        turns: Of tokens, each of which holds all frames of a block at its place; all at once where left out.

    Raises:
        ValueError: If block or context is no int of at least 1.
        TypeError: If turns are none.
    """

    def __init__(self, block: int = 1, *, context: int = 1, turns: Turns | None = None) -> None:
        check_positive(block=block, context=context)
        self.block, self.context = block, context
        self.turns = _turns(self, turns)

    def sizes(self, frames: int) -> tuple[int, int]:
        return min(self.block, frames), self.context


def _turns(order: Order, turns: Turns | None) -> Turns | None:
    if turns is None:
        called_without(order, "turns")
    elif not isinstance(turns, Turns):
        raise TypeError(f"turns are Raster(), Shuffled() or Scales() of sciinf.emulators.tokens, and got {turns!r}")
    return turns
