r"""What the other numbers of a data set say of each: a mean and an sd, learned from simulations.

Of up to 64 numbers a perceptron is shown those that are left when some are hidden at random, and which; it says mean
m and sd s of the hidden ones, which makes E sum_hidden [log s + (u - m)^2 / 2 s^2] small. Then each number is hidden
in turn. Of more, the numbers are as if normal with q leading axes and the same variance r beside them,

    P = (A A^T + r I)^-1,   m_k = u_k - (P u)_k / P_kk,   s_k = P_kk^(-1/2).

References:
    | MADE: Masked autoencoder for distribution estimation (Germain et al., 2015), https://arxiv.org/abs/1502.03509
    | Probabilistic principal component analysis (Tipping & Bishop, 1999), https://doi.org/10.1111/1467-9868.00196
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sciinf.trust.conditional import Precision, spectrum_of
from sciinf.trust.scores.perceptron import applied, descended, drawn, some
from sciinf.trust.scores.score import bent

FEW = 64
_HIDDEN, _STEPS = 128, 1_000
_LEAST, _MOST = -6.0, 4.0  # logarithms of sds
_AXES, _ROWS_EACH = 128, 10
_PASS = 65_536  # rows through the perceptron at once


def fit_others(u: Tensor, present: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """What is learned of rows u (n, J), present where 1."""
    return _perceptron(u, present, generator) if u.shape[1] <= FEW else _axes(u)


def others(learned: Mapping[str, Tensor], u: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log sd of each number given the others, (n, J) each, float64."""
    if "axes" not in learned:
        rows = max(1, _PASS // u.shape[1])
        parts = [_each_hidden(learned, *two) for two in zip(u.split(rows), present.split(rows), strict=True)]
        return torch.cat([m for m, _ in parts]), torch.cat([s for _, s in parts])
    precision = Precision(learned["axes"].double(), -learned["less"], 1 / float(learned["rest"]), 0.0)
    own = precision.diagonal
    return u - precision.times(u) / own, (-0.5 * own.log()).expand_as(u)


def _perceptron(u: Tensor, present: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    size, seen = u.shape[1], torch.cat([bent(u).float(), present.float()], dim=1)
    target = u.float()

    def loss(weights: Mapping[str, Tensor]) -> Tensor:
        i = some(len(u), generator)
        share = torch.rand(len(i), 1, generator=generator)
        kept = seen[i, size:] * (torch.rand(len(i), size, generator=generator) < 0.5 + 0.5 * share.sqrt())
        mean, log = applied(weights, torch.cat([seen[i, :size] * kept, kept], dim=1)).chunk(2, dim=1)
        log, hidden = log.clamp(_LEAST, _MOST), seen[i, size:] - kept
        cost = log + 0.5 * ((target[i] - mean) / log.exp()).square()
        return (cost * hidden).sum() / hidden.sum().clamp_min(1)

    return descended(drawn([2 * size, _HIDDEN, _HIDDEN, 2 * size], generator), loss, _STEPS)


def _each_hidden(weights: Mapping[str, Tensor], u: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    count, size = u.shape
    kept = present[:, None] * (1 - torch.eye(size, dtype=present.dtype))
    seen = torch.cat([bent(u)[:, None] * kept, kept], dim=2).reshape(count * size, -1)
    mean, log = applied(weights, seen).double().reshape(count, size, 2, size).diagonal(dim1=1, dim2=3).unbind(1)
    return mean, log.clamp(_LEAST, _MOST)


def _axes(u: Tensor) -> dict[str, Tensor]:
    count, size = u.shape
    most = max(1, min(_AXES, count // _ROWS_EACH, size - 1))
    spread, axes = (each.flip(0)[:most].contiguous() for each in spectrum_of(u))
    rest = ((u.square().sum() / count - spread.sum()) / (size - len(spread))).clamp_min(1e-3)
    less = (1 / rest - 1 / spread.clamp_min(float(rest))).clamp_min(0)
    return {"axes": axes.float(), "less": less, "rest": rest}
