r"""Likelihood ratio of a hierarchical variational autoencoder: what data owe to its lowest latent numbers alone.

With latent numbers z1 (of details) and z2 (of the whole),

    p(x, z1, z2) = p(x | z1) p(z1 | z2) p(z2),    q(z1, z2 | x) = q(z1 | x) q(z2 | z1),

all normal, means and sds by perceptrons, is trained by the bound L on log p(x). Where the model has to make z1 from z2,

    L>1 = E_{q(z1|x) q(z2|z1) p(z1'|z2)} [log p(x | z1') + log p(z2) - log q(z2 | z1)],

and the distance is L - L>1. Of data like those that it learned from, z2 says nearly all that is needed; of others the
details alone make up what it does not know. The noise of the expectations is drawn once and is the same for all data.

References:
    | Hierarchical VAEs know what they don't know (Havtorn, Frellsen, Hauberg, Maaloe, 2021),
      https://arxiv.org/abs/2102.08248
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from sciinf.core import Posterior, X
from sciinf.diagnostics.scores.perceptron import applied, descended, drawn, some
from sciinf.diagnostics.scores.score import DataScore, Numbers, bent, named, part

_DETAILS, _WHOLE = 16, 4
_HIDDEN, _STEPS = 128, 1_500
_DRAWS = 16
_LEAST, _MOST = -4.0, 2.0  # logarithms of sds
_ROWS = 1_024


@dataclass(frozen=True)
class HierarchicalRatio(DataScore):
    """How much of data a hierarchical model of them explains by details alone."""

    def fit(self, posterior: Posterior, x: X, *, generator: torch.Generator) -> dict[str, Tensor]:
        """What it learns from simulations, name -> (n, *event)."""
        numbers = Numbers(posterior.observables).fit(x)
        u, there = numbers(x)
        u, size = bent(u).float(), u.shape[1]
        between = {
            "up1": (size, _DETAILS),
            "up2": (_DETAILS, _WHOLE),
            "down1": (_WHOLE, _DETAILS),
            "down0": (_DETAILS, size),
        }
        begun = {}
        for name, (a, b) in between.items():
            begun |= named(drawn([a, _HIDDEN, 2 * b], generator), f"{name}/")

        def loss(weights: Mapping[str, Tensor]) -> Tensor:
            i = some(len(u), generator)
            noise = torch.randn(len(i), _DETAILS + _WHOLE, generator=generator)
            return -_bounds(weights, u[i], there[i].float(), noise)[0].mean() / size

        noise = torch.randn(_DRAWS, 2 * _DETAILS + _WHOLE, generator=generator)
        return numbers.tensors | named(descended(begun, loss, _STEPS), "network/") | {"noise": noise}

    def distances(self, posterior: Posterior, learned: Mapping[str, Tensor], x: X) -> Tensor:
        """How strange each of a batch of data is, (batch,)."""
        u, there = Numbers(posterior.observables, learned)(x)
        weights, found = part(learned, "network/"), []
        for rows, present in zip(bent(u).float().split(_ROWS), there.float().split(_ROWS), strict=True):
            each = [_bounds(weights, rows, present, noise.expand(len(rows), -1)) for noise in learned["noise"]]
            found.append(torch.stack([whole - above for whole, above in each]).double().mean(0))
        return softplus(torch.cat(found))


def _bounds(weights: Mapping[str, Tensor], u: Tensor, there: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """L and L>1 of each row, with one draw each, (batch,); L alone is right where noise has no part for z1'."""

    def law(name: str, given: Tensor) -> tuple[Tensor, Tensor]:
        mean, log = applied(part(weights, f"{name}/"), given).chunk(2, dim=1)
        return mean, log.clamp(_LEAST, _MOST)

    def log_of(value: Tensor, mean: Tensor, log: Tensor) -> Tensor:
        return -log - 0.5 * ((value - mean) / log.exp()).square() - 0.5 * math.log(2 * math.pi)

    details, whole, again = noise.split([_DETAILS, _WHOLE, noise.shape[1] - _DETAILS - _WHOLE], dim=1)
    up1 = law("up1", u)
    z1 = up1[0] + up1[1].exp() * details
    up2 = law("up2", z1)
    z2 = up2[0] + up2[1].exp() * whole
    down1 = law("down1", z2)
    top = (log_of(z2, torch.zeros_like(z2), torch.zeros_like(z2)) - log_of(z2, *up2)).sum(1)
    first = (log_of(u, *law("down0", z1)) * there).sum(1) + (log_of(z1, *down1) - log_of(z1, *up1)).sum(1) + top
    if again.shape[1] == 0:
        return first, first
    made = down1[0] + down1[1].exp() * again
    return first, (log_of(u, *law("down0", made)) * there).sum(1) + top
