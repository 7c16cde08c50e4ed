r"""An objective of codes with a few levels: finite scalar quantisation.

Each output m of an encoder is bounded and rounded to one of L levels, evenly spaced from -1 to 1,

    z = 2 k / (L - 1) - 1,    k = round((L - 1) (tanh m + 1) / 2),

and the loss is -log p(x | z). Rounding has no useful derivative, so gradients skip it (straight-through estimate). A
code of d components is then one of L^d words. It holds d log L nats at most, and can be stored as whole numbers. No
codebook is learned, in which most words could become unused. How many levels are in use is reported all the same
(`field_code.collapsed`). A `Generator` draws real numbers, which are rounded before they are decoded.

The encoder's sds are not trained.

References:
    | Finite Scalar Quantization: VQ-VAE Made Simple (Mentzer et al., 2023), https://arxiv.org/abs/2309.15505; an even L
      is there shifted to have a level at 0, and here is not
    | Quantizing for minimum distortion (Max, 1960), https://doi.org/10.1109/TIT.1960.1057548: what L levels can do
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.emulators.objectives import Coded, Objective, Reconstruction


class Quantised(Objective):
    """The reconstruction error of what is decoded from rounded components.

    Args:
        levels: L, the number of levels of each component.

    Raises:
        ValueError: If `levels` is no int of at least 2.
    """

    def __init__(self, levels: int = 8) -> None:
        check_whole("levels", levels, 2)
        self.levels = levels

    def loss(self, rows: Reconstruction, coded: Coded, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        del generator
        return -rows.log_prob(rounded(coded.mean, self.levels)[None])[0]


def rounded(mean: Float[Tensor, "*batch"], levels: int) -> Float[Tensor, "*batch"]:
    """The levels z of encoder outputs, with the gradient of tanh.

    Args:
        mean: Encoder outputs m.
        levels: Number L of levels.
    """
    bounded = mean.tanh()
    return bounded + (nearest(bounded, levels) - bounded).detach()


def nearest(bounded: Float[Tensor, "*batch"], levels: int) -> Float[Tensor, "*batch"]:
    """The level z nearest to each number in `bounded`, which may be tanh m or any number."""
    return 2 * _index(bounded, levels) / (levels - 1) - 1


def level_of(mean: Float[Tensor, "*batch"], levels: int) -> Int[Tensor, "*batch"]:
    """Index k, from 0 to L - 1, of the level to which each encoder output is rounded."""
    return _index(mean.detach().tanh(), levels).long()


def _index(bounded: Float[Tensor, "*batch"], levels: int) -> Float[Tensor, "*batch"]:
    return ((bounded.clamp(-1, 1) + 1) * (levels - 1) / 2).round()
