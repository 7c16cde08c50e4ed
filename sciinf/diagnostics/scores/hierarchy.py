r"""Likelihood ratio of a hierarchical variational autoencoder, with and without its lowest latent variables.

With latent variables z1 (of details) and z2 (of the whole),

    p(x, z1, z2) = p(x | z1) p(z1 | z2) p(z2),    q(z1, z2 | x) = q(z1 | x) q(z2 | z1),

all normal, with means and sds by perceptrons, the model is trained by the bound L on log p(x). If the model has to
generate z1 from z2, the bound is

    L>1 = E_{q(z1|x) q(z2|z1) p(z1'|z2)} [log p(x | z1') + log p(z2) - log q(z2 | z1)],

and the distance is L - L>1. For data like the training simulations, z2 contains nearly all that is needed. For other
data, only the details can describe the parts that the model does not know. The noise of the expectations is drawn
once and is the same for all data.

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
_LEAST, _MOST = -4.0, 2.0  # Bounds on the logarithms of sds.
_ROWS = 1_024


@dataclass(frozen=True)
class HierarchicalRatio(DataScore):
    """Data score: how much of the data a hierarchical model explains by details alone."""

    def fit(self, posterior: Posterior, x: X, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Learn from simulations, name -> (n, *event); return the learned tensors."""
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
        """Strangeness of each data set of a batch, (batch,)."""
        u, there = Numbers(posterior.observables, learned)(x)
        weights, found = part(learned, "network/"), []
        for rows, present in zip(bent(u).float().split(_ROWS), there.float().split(_ROWS), strict=True):
            each = [_bounds(weights, rows, present, noise.expand(len(rows), -1)) for noise in learned["noise"]]
            found.append(torch.stack([whole - above for whole, above in each]).double().mean(0))
        return softplus(torch.cat(found))


def _bounds(weights: Mapping[str, Tensor], u: Tensor, there: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """L and L>1 of each row, with one draw each, (batch,); without noise for z1', both are L."""

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
