r"""Several observations of one field, such as sensors and a blurred picture, or measurements and an event.

The observations o_1, ..., o_m are independent given x, so that

    p(x | o_1, ..., o_m) ~ p(x) prod_i p(o_i | x) ~ p(x)^{1-m} prod_i p(x | o_i),

a product of the posteriors for single observations. Without noise, the scores of these posteriors add up. At a noise
level s they do not. Let V be the covariance of x given y = x + s e. All measurements together have the distribution
N(c(D), R + G V G^T), where c, G and R are those of all measurements, stacked (`inverse`). So all measurements share one
guess of their likelihood, with one noise sd per number. Each event has its own guess, without the other observations.
The particle weights correct this, if there are enough particles. An event far from linear in x comes out far too
improbable (`events`).

References:
    | Collaborative Diffusion for Multi-Modal Face Generation and Editing (Huang et al., 2023),
      https://arxiv.org/abs/2304.10530 (scores of modalities added up)
    | Tweedie Moment Projected Diffusions for Inverse Problems (Boys et al., 2023), https://arxiv.org/abs/2310.06721
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.networks.diffusion.inverse import Measured
from sciinf.networks.diffusion.particles import Twist
from sciinf.networks.diffusion.solver import Denoiser


class Product(Twist):
    """The twist for several independent observations together.

    Args:
        parts: The observations, as `Measured`, `Event` or `Product`.

    Raises:
        TypeError: If a part is not a twist.
        ValueError: If there are no parts.
    """

    def __init__(self, *parts: Twist) -> None:
        if not parts:
            raise ValueError("a Product is of one thing seen at least, and there is none")
        for one in parts:
            if not isinstance(one, Twist):
                raise TypeError(f"a Product takes Measured and Event as separate arguments, and got {one!r}")
        parts = tuple(each for one in parts for each in (one.parts if isinstance(one, Product) else (one,)))
        self.parts = parts
        measured = [one for one in parts if isinstance(one, Measured)]
        self._guessed = [one for one in parts if not isinstance(one, Measured)]
        if measured:
            self._guessed.append(_stacked(measured))

    def log_prob(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
        return torch.stack([one.log_prob(x) for one in self.parts]).sum(0)

    def through(self, function: Callable[[Tensor], Tensor]) -> Product:
        return Product(*(one.through(function) for one in self.parts))

    def guess(self, denoise: Denoiser, y: Tensor, level: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logs, slopes, values = zip(*(one.guess(denoise, y, level) for one in self._guessed), strict=True)
        return torch.stack(logs).sum(0), torch.stack(slopes).sum(0), values[0]


def _stacked(parts: list[Measured]) -> Measured:
    """All measurements stacked into one; of order 1 if any of them has order 1."""
    seen, sd = torch.cat([one.seen for one in parts]), torch.cat([one.noise(one.seen) for one in parts])
    return Measured(
        lambda x: torch.cat([one.of(x) for one in parts], 1), seen, sd, order=min(one.order for one in parts)
    )
