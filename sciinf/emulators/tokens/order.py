"""Orders in which frames are generated: how many at once, and how many frames before them are used.

The frames of a solution are 0, 1, ...; the first may be given. One distribution of b frames that follow c others
generates all frames:

    p(u_1, u_2, ... | u_0) = prod_k p(u_{kb+1}, ..., u_{kb+b} | u_{kb-c+1}, ..., u_{kb}).

With `AtOnce`, b is the number of all frames and there is one factor. With `Frames`, there is one factor for each block,
the same for all blocks. Then a generated solution can be longer than those of the training. Where earlier frames do not
exist, the first frame takes their place. Tokens of a block are drawn all at once, or in turns
(`emulators.tokens.turns`).

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
    """An order in which frames are generated.

    Attributes:
        turns: Turns of the tokens of a block; None if they are drawn all at once.
    """

    turns: Turns | None = None

    @abstractmethod
    def sizes(self, frames: int) -> tuple[int, int]:
        """Number of frames generated at once, and number of frames before them that are used.

        Args:
            frames: Number of frames of a solution.
        """


class AtOnce(Order):
    """An order that generates all frames at once.

    Args:
        turns: Turns of tokens, each of which holds all frames at its place; all tokens at once if None.

    Raises:
        TypeError: If `turns` is not an instance of `Turns`.
    """

    def __init__(self, turns: Turns | None = None) -> None:
        self.turns = _turns(self, turns)
        if turns is None:
            called_with(self, args=(), kwargs={})  # Older fits were saved when there was no constructor.

    def sizes(self, frames: int) -> tuple[int, int]:
        return frames, 1


class Frames(Order):
    """An order that generates block after block of evenly spaced frames.

    Args:
        block: Number of frames that are generated at once.
        context: Number of frames before them that are used.
        turns: Turns of tokens, each of which holds all frames of a block at its place; all tokens at once if None.

    Raises:
        ValueError: If block or context is no int of at least 1.
        TypeError: If `turns` is not an instance of `Turns`.
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
