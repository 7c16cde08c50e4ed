r"""Gaussian chains with Gaussian evidence at each time: the distribution of the whole path, all times at once.

A chain z_1 ~ N(m_1, V), z_{k+1} = A_k z_k + b_k + N(0, Q_k) has a mean path mu. The precision matrix J_0 of y = z - mu
has blocks on and next to the diagonal only,

    J_0[k, k] = Q_{k-1}^{-1} + A_k^T Q_k^{-1} A_k,    J_0[k, k + 1] = -A_k^T Q_k^{-1}    (V in place of Q_0).

Evidence is a factor psi_k(z) = exp(h_k^T z - z^T W_k z / 2), W_k positive semidefinite. With evidence the distribution
is q(z) = p(z) prod_k psi_k / Z: y ~ N(J^{-1} g, J^{-1}), J = J_0 + W, g = h - W mu, and

    log Z = c + g^T J^{-1} g / 2 + (log det J_0 - log det J) / 2,   KL(q || p) = E_q[sum_k log psi_k] - log Z.

**All times at once.** Given the states at even places, states at odd places are independent of each other. They are
eliminated together, which leaves a chain of half the length. This is repeated until one state is left. On the way back
each state is drawn given its two neighbours. The result is that of Kalman's filter and smoother, in 2 log T rounds in
place of 2 T. All computations are in float64.

References:
    | On direct methods for solving Poisson's equations (Buzbee, Golub, Nielson, 1970),
      https://doi.org/10.1137/0707049
    | Revisiting structured variational autoencoders (Zhao, Linderman, 2023), https://arxiv.org/abs/2305.16543
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class GaussianChain:
    """A Gaussian chain of T states, float64.

    An axis of rows or steps may be 1 long, where all rows or all steps have the same value.

    Args:
        mean: Mean of the first state, (row, S).
        covariance: Covariance of the first state, (row, S, S).
        matrix: Transition matrices A, (row, T - 1, S, S).
        shift: Shifts b of the transitions, (row, T - 1, S).
        noise: Covariances Q of the transitions' noise, (row, T - 1, S, S).
    """

    mean: Tensor
    covariance: Tensor
    matrix: Tensor
    shift: Tensor
    noise: Tensor

    def path(self, length: int) -> Float[Tensor, "row time state"]:
        """The mean of each state, computed by composing the maps of 1, 2, 4, ... steps."""
        rows = max(len(self.matrix), len(self.shift), len(self.mean))
        size = self.mean.shape[-1]
        matrix, shift = self.matrix.expand(-1, length - 1, -1, -1), self.shift.expand(-1, length - 1, -1)
        reach = 1
        while reach < length - 1:
            late, early = slice(reach, None), slice(None, -reach)
            moved = _times(matrix[:, late], shift[:, early]) + shift[:, late]
            few = slice(None, reach)
            shift = torch.cat([shift[:, few].expand(len(moved), -1, -1), moved], 1)
            matrix = torch.cat([matrix[:, few], matrix[:, late] @ matrix[:, early]], 1)
            reach *= 2
        after = _times(matrix, self.mean[:, None]) + shift
        return torch.cat([self.mean[:, None].expand(rows, 1, size), after.expand(rows, -1, -1)], 1)

    def drawn(self, rows: int, length: int, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        """Draw a path of each row from the chain."""
        size = (length, rows, self.mean.shape[-1])
        noise = torch.randn(size, generator=generator, device=generator.device).to(self.mean)
        first, roots = torch.linalg.cholesky(self.covariance), torch.linalg.cholesky(self.noise)
        state, found = self.mean + _times(first, noise[0]), []
        for k in range(length):
            if k:
                moved = _times(_at(self.matrix, k - 1), state) + _at(self.shift, k - 1)
                state = moved + _times(_at(roots, k - 1), noise[k])
            found.append(state)
        return torch.stack(found, 1)


@dataclass(frozen=True)
class Smoothed:
    """The distribution of a path given evidence, and a draw from it.

    Args:
        mean: Mean of each state, (row, T, S).
        covariance: Covariance of each state, (row, T, S, S).
        draw: A path drawn from the distribution, (row, T, S).
        kl: KL of this distribution to the chain's, (row,).
        log_ratio: Log density of the draw given evidence, minus its log density in the chain, (row,).
    """

    mean: Tensor
    covariance: Tensor
    draw: Tensor
    kl: Tensor
    log_ratio: Tensor


def smoothed(
    chain: GaussianChain,
    pull: Float[Tensor, "row time state"],
    precision: Float[Tensor, "row time state state"],
    *,
    generator: torch.Generator,
) -> Smoothed:
    """The distribution of the path of a chain given evidence, and a draw from it.

    Args:
        chain: The chain, which is the distribution without evidence.
        pull: Linear terms h of the evidence; 0 where there is none.
        precision: Precision matrices W of the evidence, positive semidefinite; 0 where there is none.
        generator: Source of the noise of the draw.
    """
    rows, length, size = pull.shape
    middle = chain.path(length).expand(rows, -1, -1)
    diagonal, beside, log_det = _information(chain, length)
    g = pull - _times(precision, middle)
    noise = torch.randn((rows, length, size), generator=generator, device=generator.device).to(pull)
    diagonal, beside = (part.expand(rows, -1, -1, -1) for part in (diagonal + precision, beside))
    mean, drawn, covariance, _, log_det_after = _eliminated(diagonal, beside, g, noise)
    moments = covariance + mean[..., :, None] * mean[..., None, :]
    log_z = 0.5 * (g * mean).sum((1, 2)) + 0.5 * (log_det - log_det_after)
    kl = (g * mean).sum((1, 2)) - 0.5 * (precision * moments).sum((1, 2, 3)) - log_z
    ratio = (drawn * (g - 0.5 * _times(precision, drawn))).sum((1, 2)) - log_z
    return Smoothed(middle + mean, covariance, middle + drawn, kl, ratio)


def _information(chain: GaussianChain, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks of J_0 on the diagonal (row, T, S, S) and right of it (row, T - 1, S, S), and log det J_0."""
    steps = length - 1
    first, root = torch.linalg.cholesky(chain.covariance), torch.linalg.cholesky(chain.noise)
    inverse = torch.cholesky_inverse(root)
    back = chain.matrix.mT @ inverse
    rows = max(len(part) for part in (first, inverse, back))
    size = first.shape[-1]
    inverse, back, ahead = (part.expand(rows, steps, size, size) for part in (inverse, back, back @ chain.matrix))
    start = torch.cholesky_inverse(first).expand(rows, size, size)[:, None]
    diagonal = torch.cat([start, inverse], 1) + _longer(ahead, 1)
    log_root = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_roots = log_root.expand(len(log_root), steps).sum(-1) + first.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return diagonal, -back, -2 * log_roots


def _eliminated(
    diagonal: Tensor, beside: Tensor, g: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Mean, draw, covariances and log det J of N(J^{-1} g, J^{-1}).

    Mean and draw are (row, T, S). The covariances are those of each state, and those of neighbours.
    """
    length, size = g.shape[1:]
    if length == 1:
        root = torch.linalg.cholesky(diagonal)
        mean = torch.cholesky_solve(g[..., None], root)[..., 0]
        return mean, mean + _spread(root, noise[:, :1]), torch.cholesky_inverse(root), beside, _log_det(root)
    count = length // 2  # Number of states at odd places. Where T is even, the last has no right neighbour.
    even, short = length - count, 1 - length % 2
    left, right = beside[:, ::2], _longer(beside[:, 1::2], short)
    root = torch.linalg.cholesky(diagonal[:, 1::2])
    both = torch.cholesky_solve(torch.cat([left.mT, right, g[:, 1::2, :, None]], -1), root)
    to_left, to_right, own = both[..., :size], both[..., size : 2 * size], both[..., 2 * size :]
    due = torch.cat([diagonal, g[..., None]], -1)[:, ::2]
    due = due - _longer(left @ torch.cat([to_left, own], -1), even - count)
    due = due - _later(right.mT @ torch.cat([to_right, own], -1))[:, :even]
    rest, across = (due[..., :size], due[..., size]), (-left @ to_right)[:, : even - 1]
    mean, drawn, covariance, across, log_det = _eliminated(rest[0], across, rest[1], noise[:, count:])
    at_left, at_right = slice(0, count), slice(1, count + 1)
    means, draws = (
        -_times(to_left, each[:, at_left]) - _times(to_right, _longer(each, short)[:, at_right])
        for each in (mean, drawn)
    )
    means, draws = means + own[..., 0], draws + own[..., 0] + _spread(root, noise[:, :count])
    across, beyond = _longer(across, short), _longer(covariance, short)[:, at_right]
    # Covariances of each state at an odd place with its left and with its right neighbour.
    before = -(covariance[:, at_left] @ to_left.mT + across @ to_right.mT)
    after = -(to_left @ across + to_right @ beyond)
    here = torch.cholesky_inverse(root) - to_left @ before - to_right @ after.mT
    return (
        _between(mean, means),
        _between(drawn, draws),
        _between(covariance, here),
        torch.stack([before, after], 2).flatten(1, 2)[:, : length - 1],
        log_det + _log_det(root),
    )


def lower(entries: Float[Tensor, "*batch entry"], size: int, diagonal: int = 0) -> Float[Tensor, "*batch m m"]:
    """Lower triangular matrices with the given entries.

    They are built by a product with a fixed matrix, without in-place writes.
    """
    rows, columns = torch.tril_indices(size, size, diagonal, device=entries.device)
    place = functional.one_hot(rows * size + columns, size * size).to(entries)
    return (entries @ place).unflatten(-1, (size, size))


def _longer(part: Tensor, by: int) -> Tensor:
    """The tensor with `by` zeros appended along the second axis."""
    return functional.pad(part, (0, 0) * (part.ndim - 2) + (0, by))


def _later(part: Tensor) -> Tensor:
    """The tensor with one zero in front along the second axis."""
    return functional.pad(part, (0, 0) * (part.ndim - 2) + (1, 0))


def _between(even: Tensor, odd: Tensor) -> Tensor:
    """Entries of even places and of odd places, interleaved in their order."""
    count = odd.shape[1]
    return torch.cat([torch.stack([even[:, :count], odd], 2).flatten(1, 2), even[:, count:]], 1)


def _spread(root: Tensor, noise: Tensor) -> Tensor:
    """Draws of N(0, (L L^T)^{-1}), from standard normal noise."""
    return torch.linalg.solve_triangular(root.mT, noise[..., None], upper=True)[..., 0]


def _log_det(root: Tensor) -> Tensor:
    return 2 * root.diagonal(dim1=-2, dim2=-1).log().sum((1, 2))


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _at(part: Tensor, k: int) -> Tensor:
    """The part that belongs to the k-th step."""
    return part[:, k if part.shape[1] > 1 else 0]
