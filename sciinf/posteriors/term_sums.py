"""A linear regression with a normal prior, of every set of terms: what of the data each set explains.

y = B w + N(0, sigma^2), w ~ N(0, I) of the terms that are in. With B = Q R and, of its columns, R = U diag(l)^1/2 V^T,

    log p(y | S, sigma) = -n/2 log(2 pi sigma^2) - 1/2 sum_i log(1 + l_i / sigma^2)
                          - 1/(2 sigma^2) (|y - Q Q^T y|^2 + sum_i c_i^2 sigma^2 / (sigma^2 + l_i)),    c = U^T Q^T y.

Reference:
    | Bayesian Model Averaging for Linear Regression Models (Raftery, Madigan & Hoeting, 1997),
      https://doi.org/10.1080/01621459.1997.10473615
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from sciinf.simulators.wrappers.term_equations import TermEquations, TermRegression

AT_ONCE = 4096  # sets
TINY = 1e-12  # of y^T y: what rounding leaves of it


class TermSums(NamedTuple):
    """What a state's regression comes to.

    Args:
        gram: B^T B, (k, k).
        along: B^T y, (k,).
        root: R of B = Q R, (k, k).
        seen: Q^T y, (k,).
        rest: |y - Q Q^T y|^2, what no set can explain.
        square: y^T y.
        log_scale: Sum of the logarithms of scales.
        rows: n.
    """

    gram: Tensor
    along: Tensor
    root: Tensor
    seen: Tensor
    rest: Tensor
    square: Tensor
    log_scale: Tensor
    rows: int


def sums_of(simulator: TermEquations, regression: TermRegression) -> list[TermSums]:
    """Of each state, of one observation."""
    design, response, scale = (part[0] for part in regression)
    found = []
    for i in range(response.shape[-1]):
        b, y = design / scale[:, i : i + 1] * simulator.sd, response[:, i] / scale[:, i]
        if not bool(b.isfinite().all() & y.isfinite().all()):
            raise ValueError("the data, or a term of the library at these states, are not finite")
        q, root = torch.linalg.qr(b)
        seen, short = q.T @ y, (0, b.shape[1] - len(root))
        rest = (y - q @ seen).square().sum()
        root, seen = functional.pad(root, (0, 0, *short)), functional.pad(seen, short)
        found.append(TermSums(b.T @ b, b.T @ y, root, seen, rest, y @ y, scale[:, i].log().sum(), len(y)))
    return found


def spectra(sums: TermSums, sets: Tensor) -> tuple[Tensor, Tensor]:
    """l_i of every set, and of the data along their directions c_i^2, (2^k, k); l_i is 0 of terms that are out.

    By singular values of R, not by eigenvalues of R^T R: where terms differ by many decades, these lose the small ones.
    """
    values, along = [], []
    for some in sets.split(AT_ONCE):
        left, found, _ = torch.linalg.svd(sums.root * some[:, None, :])
        values.append(found.square())
        along.append((left.mT @ sums.seen).square())
    return torch.cat(values), torch.cat(along)


def log_evidence(sums: TermSums, eigen: Tensor, squares: Tensor, log_sigma: Tensor) -> Tensor:
    """log p(y | S, sigma), (2^k, m), but for the scales."""
    found = []
    for value in log_sigma.tolist():
        variance = math.exp(2 * value)
        left = (sums.rest + (squares * variance / (variance + eigen)).sum(-1)).clamp_min(TINY * float(sums.square))
        found.append(
            -0.5 * sums.rows * (math.log(2 * math.pi) + 2 * value)
            - 0.5 * (eigen / variance).log1p().sum(-1)
            - 0.5 * left / variance
        )
    return torch.stack(found, 1)


def coefficients(sums: TermSums, sets: Tensor, sigma: Tensor, generator: torch.Generator) -> Float[Tensor, "n term"]:
    """Coefficients over their prior sds, given sets and sigma; those of terms that are out mean nothing."""
    k, found = sets.shape[1], []
    noise = torch.randn(sets.shape, generator=generator, dtype=torch.float64)
    for some, s, e in zip(sets.split(AT_ONCE), sigma.split(AT_ONCE), noise.split(AT_ONCE), strict=True):
        inside = some[:, :, None] & some[:, None, :]
        precision = sums.gram * inside / s.square()[:, None, None] + torch.eye(k, dtype=torch.float64)
        size = precision.diagonal(dim1=1, dim2=2).sqrt()  # terms may differ by many decades
        root = torch.linalg.cholesky(precision / size[:, None] / size[:, :, None])
        along = sums.along * some / s.square()[:, None] / size
        mean = torch.cholesky_solve(along[..., None], root)[..., 0]
        found.append((mean + torch.linalg.solve_triangular(root.mT, e[..., None], upper=True)[..., 0]) / size)
    return torch.cat(found)
