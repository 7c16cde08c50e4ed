"""In what order frames are generated: how many at once, and how many before them are seen.

With frames 0, 1, ... of a solution, the first of which may be given, a law of b frames that follow c others makes all:

    p(u_1, u_2, ... | u_0) = prod_k p(u_{kb+1}, ..., u_{kb+b} | u_{kb-c+1}, ..., u_{kb}),

one factor with b all of them (`AtOnce`), or one for each block, the same for all (`Frames`): a solution then can go on
for longer than those that were learned from. Before the first frame, the first is seen in place of earlier ones.

References:
    | Video Diffusion Models (Ho et al., 2022), https://arxiv.org/abs/2204.03458 (all at once, and in blocks)
    | Turbulent Flow Simulation using Autoregressive Conditional Diffusion Models (Kohl et al., 2023),
      https://arxiv.org/abs/2309.01745 (frame by frame)
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from sciinf.core.checks import check_whole
from sciinf.core.component import Component


class Order(Component, ABC):
    """An order of frames."""

    @abstractmethod
    def sizes(self, frames: int) -> tuple[int, int]:
        """How many frames are generated at once, of so many in all, and how many before them are seen."""


class AtOnce(Order):
    """All frames at once."""

    def sizes(self, frames: int) -> tuple[int, int]:
        return frames, 1


class Frames(Order):
    """A block after the other, of frames that are evenly spaced.

    Args:
        block: Frames that are generated at once.
        context: Frames before them that are seen.

    Raises:
        ValueError: If either is no int of at least 1.
    """

    def __init__(self, block: int = 1, *, context: int = 1) -> None:
        check_whole("block", block, 1)
        check_whole("context", context, 1)
        self.block, self.context = block, context

    def sizes(self, frames: int) -> tuple[int, int]:
        return min(self.block, frames), self.context
