r"""Turns in which the tokens of a block are drawn, one set after the other.

With sets S_1, S_2, ... of the tokens z of a block, given the conditioning values,

    p(z | given) = prod_k p(z_{S_k} | z_{S_1}, ..., z_{S_{k-1}}, given),

which is exact, whatever the sets. An approximation can arise within a set. A distribution that draws each token
separately (`MixtureTokens`, `Denoised`) takes the tokens of one set to be independent, given those before. If one
random event changes all points of a field, the first tokens pass this information to the others. Neighbours depend on
each other most, so a set should hold tokens that are far apart, or random ones:

| turns | S_k |
|---|---|
| `Raster` | the next tokens in their order: along a grid, row by row, or in time |
| `Shuffled` | some of the remaining tokens, at random, for each draw anew |
| `Scales` | the tokens of one scale, from coarse to fine |

`Shuffled` draws few tokens at first, when little is known, and many at last. Of N tokens, N - floor(N cos(pi k / 2K))
are known after k of K sets, and each set has at least one.

References:
    | Autoregressive Image Generation without Vector Quantization (Li et al., 2024), https://arxiv.org/abs/2406.11838
      (random sets of continuous tokens)
    | MaskGIT: Masked Generative Image Transformer (Chang et al., 2022), https://arxiv.org/abs/2202.04200 (the cosine)
    | Visual Autoregressive Modeling: Scalable Image Generation via Next-Scale Prediction (Tian et al., 2024),
      https://arxiv.org/abs/2404.02905 (from coarse to fine)
    | Autoregressive Video Generation without Vector Quantization (Deng et al., 2024),
      https://arxiv.org/abs/2412.14169 (sets within frames that follow each other)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from sciinf.core.checks import check_whole
from sciinf.core.component import Component


class Turns(Component, ABC):
    """The assignment of tokens to turns.

    Attributes:
        shuffled: Whether tokens queue at random, for each draw anew; else they queue in their own order.
    """

    shuffled: bool = False

    @abstractmethod
    def plan(self, tokens: int, scales: tuple[int, ...]) -> tuple[int, ...]:
        """The turn (0, 1, ...) of each token, in the order of the queue.

        Args:
            tokens: Number of tokens.
            scales: Scale of each token, 0 the coarsest; () if they have none.

        Raises:
            ValueError: If the turns do not suit such tokens.
        """


class Raster(Turns):
    """Turns in the tokens' own order.

    Args:
        step: Number of tokens in a set. They are neighbours, so more than one is for a distribution that draws them
            jointly.

    Raises:
        ValueError: If the step is no int of at least 1.

    Examples:
        >>> Raster(2).plan(5, ())
        (0, 0, 1, 1, 2)
    """

    def __init__(self, step: int = 1) -> None:
        check_whole("step", step, 1)
        self.step = step

    def plan(self, tokens: int, scales: tuple[int, ...]) -> tuple[int, ...]:
        del scales
        return tuple(k // self.step for k in range(tokens))


class Shuffled(Turns):
    """Turns with random sets, small at first and large at last.

    Args:
        steps: Number of sets; one set for each token if there are fewer tokens.

    Raises:
        ValueError: If steps is no int of at least 1.

    Examples:
        >>> Shuffled(4).plan(8, ())
        (0, 1, 1, 2, 2, 3, 3, 3)
    """

    shuffled = True

    def __init__(self, steps: int = 8) -> None:
        check_whole("steps", steps, 1)
        self.steps = steps

    def plan(self, tokens: int, scales: tuple[int, ...]) -> tuple[int, ...]:
        del scales
        steps, left, found = min(self.steps, tokens), tokens, list[int]()
        for k in range(steps):
            later = math.floor(tokens * math.cos(0.5 * math.pi * (k + 1) / steps) + 1e-9)
            later = max(min(later, left - 1), steps - 1 - k)
            found += [k] * (left - later)
            left = later
        return tuple(found)


class Scales(Turns):
    """Turns from coarse to fine, with all tokens of a scale in one turn.

    Examples:
        >>> Scales().plan(4, (0, 1, 2, 2))
        (0, 1, 2, 2)
    """

    def plan(self, tokens: int, scales: tuple[int, ...]) -> tuple[int, ...]:
        if len(scales) != tokens:
            raise ValueError(
                "Scales() draws tokens from coarse to fine, and those of this code have no scales: take a code that "
                "has, as Pod(), or other turns, Shuffled()"
            )
        known = sorted(set(scales))
        return tuple(known.index(scale) for scale in scales)
