r"""Diffusion time estimation: the amount of noise that a network believes was added to the data.

Simulations are noised as in a diffusion, for a time t that is uniform on 0..T,

    x_t = sqrt(a_t) x + sqrt(1 - a_t) e,    a_t = prod_{s <= t} (1 - b_s),    b from 1e-4 to .01,

and a perceptron learns from x_t alone in which of B bins t lies, by cross-entropy. The distance of data is the mean
of the bin that the perceptron predicts for the unchanged data: data away from the simulations look noised. x are the
standardised numbers. The distance of each number from its prediction by the others would not do. It would have heavy
tails, which noise makes lighter, so strange data would look less noised than normal data.

References:
    | On diffusion modeling for anomaly detection (Livernoche, Jain, Hezaveh, Ravanbakhsh, 2023),
      https://arxiv.org/abs/2305.18593, its categorical estimator
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sciinf.core import Posterior, X
from sciinf.diagnostics.scores.perceptron import applied, descended, drawn, some
from sciinf.diagnostics.scores.score import DataScore, Numbers, bent, named, part

_TIMES, _BINS = 300, 7
_FIRST, _LAST = 1e-4, 0.01
_WIDTHS, _STEPS = (256, 256), 1_000


@dataclass(frozen=True)
class DiffusionTime(DataScore):
    """Data score: how much noise the data seem to contain."""

    def fit(self, posterior: Posterior, x: X, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Learn from simulations, name -> (n, *event); return the learned tensors."""
        numbers = Numbers(posterior.observables).fit(x)
        u = bent(numbers(x)[0]).float()
        kept = torch.linspace(_FIRST, _LAST, _TIMES).neg().add(1).cumprod(0)

        def loss(weights: Mapping[str, Tensor]) -> Tensor:
            rows = u[some(len(u), generator)]
            t = torch.randint(_TIMES, (len(rows),), generator=generator)
            noise = torch.randn(rows.shape, generator=generator)
            noised = kept[t, None].sqrt() * rows + (1 - kept[t, None]).sqrt() * noise
            return cross_entropy(applied(weights, noised), t * _BINS // _TIMES)

        begun = drawn([u.shape[1], *_WIDTHS, _BINS], generator)
        return numbers.tensors | named(descended(begun, loss, _STEPS), "network/")

    def distances(self, posterior: Posterior, learned: Mapping[str, Tensor], x: X) -> Tensor:
        """Strangeness of each data set of a batch, (batch,)."""
        u, _ = Numbers(posterior.observables, learned)(x)
        told = applied(part(learned, "network/"), bent(u)).double().softmax(1)
        return told @ torch.arange(_BINS, dtype=torch.float64)
