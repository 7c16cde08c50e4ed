r"""Prediction of each number of a data set from its other numbers, by the precision matrix of simulations.

For rows y_i, i = 1..n, of J numbers with mean 0,

    A = (1 - c) S + c I,   S = sum_i y_i y_i^T / n,   P = A^-1,   v = P y,

and for normal data v_k = (y_k - E[y_k | y_-k]) / Var[y_k | y_-k]. c is chosen from a few values as the one under
which rows that A has not seen are most likely. With u_i = y_i^T P y_i and s = (1 - c) / n, leaving out a row i
changes u_i to u_i / (1 - s u_i), divides its v by 1 - s u_i, and changes log det A by log(1 - s u_i) (Sherman and
Morrison).

References:
    | Gaussian Markov Random Fields, section 2.2 (Rue & Held, 2005), https://doi.org/10.1201/9780203492024
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_SHRUNK = (1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3)
_TINY = 1e-6


@dataclass(frozen=True)
class Precision:
    """Precision matrix P = sum_j weight_j axis_j axis_j^T + rest I.

    Args:
        axes: Orthonormal axes, (r, J).
        weights: Weight of each axis, (r,).
        rest: Weight of the identity, 1 / c.
        share: Share s of one row in A.
    """

    axes: Tensor
    weights: Tensor
    rest: float
    share: float

    def times(self, y: Tensor) -> Tensor:
        """Product P y for each row y, (n, J)."""
        return (y @ self.axes.T * self.weights) @ self.axes + self.rest * y

    @property
    def diagonal(self) -> Tensor:
        """Diagonal of the precision matrix, P_kk, (J,)."""
        return self.axes.square().T @ self.weights + self.rest


def spectrum_of(y: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (r,) along orthonormal axes (r, J) of rows (n, J) with mean 0, in increasing order."""
    count, size = y.shape
    if size <= count:
        spread, left = torch.linalg.eigh(y.T @ y / count)
        return spread.clamp_min(0), left.T
    spread, left = torch.linalg.eigh(y @ y.T / count)
    kept = spread > 1e-9 * spread[-1]
    spread, left = spread[kept], left[:, kept]
    return spread, (left / (spread * count).sqrt()).T @ y


def precision_of(y: Tensor) -> Precision:
    """Precision matrix estimated from rows with mean 0, (n, J), float64."""
    count, size = y.shape
    spread, axes = spectrum_of(y)
    along, whole = (y @ axes.T).square(), y.square().sum(1)
    loss = {}
    for c in _SHRUNK:
        a = (1 - c) * spread + c
        far = (along / a).sum(1) + (whole - along.sum(1)).clamp_min(0) / c
        left_out = (1 - (1 - c) / count * far).clamp_min(_TINY)
        whole_log = float(a.log().sum()) + (size - len(a)) * math.log(c)
        loss[c] = whole_log + float((left_out.log() + far / left_out).mean())
    c = min(loss, key=loss.__getitem__)
    return Precision(axes, 1 / ((1 - c) * spread + c) - 1 / c, 1 / c, (1 - c) / count)


def conditional(y: Tensor, precision: Precision) -> Tensor:
    """v of each row, (n + 1, J), from a precision that leaves this row out.

    The last row of `y` is not among the rows of the precision, so nothing is left out for it.
    """
    v = precision.times(y)
    share = precision.share * (y * v).sum(1, keepdim=True)
    share[-1] = 0.0
    return v / (1 - share).clamp_min(_TINY)


def shows(y: Tensor, precision: Precision, z: Tensor) -> Tensor:
    """Size of each number's fault, in its conditional sds, that moves the answer by two sds, (J,).

    With z = y G by least squares, a shift e of number k moves z by e G_k. It moves the number's score by
    e (P_kk - G_k (G^T A G)^-1 G_k^T), after the part that the new z explains is removed.

    Args:
        y: Data with mean 0, (n, J).
        precision: Precision of these data.
        z: Parameters, (n, D).
    """
    z = z - z.mean(0)
    g = precision.times(z.T @ y / len(y)).T
    means = y @ g
    sd = (z - means).square().mean(0).sqrt().clamp_min(_TINY)
    whole = torch.linalg.pinv(means.T @ means / len(y), hermitian=True)
    left = (precision.diagonal - ((g @ whole) * g).sum(1)).clamp_min(0)
    return 2 * left.sqrt() / (g.abs() / sd).amax(1).clamp_min(1e-12)
