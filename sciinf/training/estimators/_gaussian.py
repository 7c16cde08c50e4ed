r"""Gaussian distributions that estimators start from, and the correction that a network adds to them.

For N(m, S) as the distribution of z, the denoiser of y = z + s e is m + S (S + s^2)^{-1} (y - m). A network F adds what
this leaves:

    D = m + S (S + s^2)^{-1} (y - m) + s^2 S^{1/2} (S + s^2)^{-1} F((S + s^2)^{-1/2} (y - m), ...).

This is EDM's preconditioning with N(m, S) in place of the moments of all data: if z is Gaussian, F = 0 is right. The
factor of F falls with s^2 where EDM's falls with s. So an error of F changes the score by S^{-1/2} F at most, at
every level, and not by F / s. The loss weighs the rest as EDM does,

    | s^{-1} S^{-1/2} (S + s^2)^{1/2} (D - z) |^2 / D.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
      https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sciinf.networks.diffusion.objective import Diffusion, EvenWeights, Preconditioned
from sciinf.networks.flows.conditional import single_precision

ROWS = 5  # A covariance needs at least this many rows per number.


def check_beside(diffusion: Diffusion, instead: str) -> None:
    """Refuse settings that have no meaning if the network learns only what a Gaussian leaves.

    Raises:
        ValueError: If the parameterisation or the weighting differs from the one above.
    """
    for part, kind in ((diffusion.parameterisation, Preconditioned), (diffusion.weighting, EvenWeights)):
        if not isinstance(part, kind):
            raise ValueError(
                f"the network stands for what a guess leaves, as {kind.__name__}() has it, and not for "
                f"{type(part).__name__}; {instead}"
            )


@dataclass(frozen=True)
class Spread:
    """The covariance S in its eigenvectors, one for all rows or one for each row.

    Below, `off` and `left` (F) are rows of D numbers.

    Attributes:
        axes: Eigenvectors, (D, D) or (batch, D, D), in columns.
        variance: Eigenvalues, (D,) or (batch, D).
        counts: 1 for directions that count and 0 for those that are held at 0, like `variance`. None if all count.
    """

    axes: Tensor
    variance: Tensor
    counts: Tensor | None = None

    def along(self, value: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n dim"]:
        """Coordinates of vectors in the eigenvectors of S."""
        found = _product(value, self.axes)
        return found if self.counts is None else found * self.counts

    def back(self, value: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n dim"]:
        """Vectors from their coordinates in the eigenvectors of S."""
        return _product(value, self.axes.mT)

    def scale(self) -> Float[Tensor, "*rows"]:
        """det(S)^{1/2D}, the geometric mean of the sds."""
        return (0.5 * self._mean(self.variance.log())).exp()

    def levels(self, level: Float[Tensor, " batch"], generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Training levels, each scaled by the sd of a random direction.

        One level in eight is not scaled, because the path of a draw begins at such levels however small S is.
        """
        draw = torch.rand(2, len(level), generator=generator, device=generator.device).to(level.device)
        dim = self.variance.shape[-1]
        if self.counts is None:
            sd = self.variance.sqrt()[(draw[0] * dim).long()]
        else:  # Directions that count stand last.
            index = dim - 1 - (draw[0] * self.counts.sum(-1)).long()
            sd = self.variance.sqrt().gather(-1, index[:, None])[:, 0]
        return torch.where(draw[1] < 0.125, level, level * sd)

    def noisy(self, noise: Tensor, level: float) -> Tensor:
        """(S + s^2)^{1/2} e, for noise e."""
        return self.back(self.along(noise) * (self.variance + level**2).sqrt())

    def whitened(self, off: Tensor, level: Tensor) -> Tensor:
        """(S + s^2)^{-1/2} (y - m), with off = y - m."""
        return self.back(self.along(off) / (self.variance + level[..., None] ** 2).sqrt())

    def denoised(self, left: Tensor, off: Tensor, level: Tensor) -> Tensor:
        """D - m, with left = F."""
        square = level[..., None] ** 2
        total = self.variance + square
        return self.back((self.variance * self.along(off) + square * self.variance.sqrt() * self.along(left)) / total)

    def score(self, left: Tensor, off: Tensor, level: Tensor) -> Tensor:
        """The score (D - y) / s^2, which no small level magnifies."""
        return self.back(
            (self.variance.sqrt() * self.along(left) - self.along(off)) / (self.variance + level[..., None] ** 2)
        )

    def loss(self, left: Tensor, off: Tensor, target: Tensor, level: Tensor) -> Float[Tensor, " batch"]:
        """Loss of each row, with target = z - m."""
        square = level[..., None] ** 2
        skip = self.variance / (self.variance + square)
        known, factor = skip * self.along(off), square * self.variance.sqrt() / (self.variance + square)
        wrong = known + factor * self.along(left) - self.along(target)
        return self._mean(wrong.square() / (square * skip))

    def log_prob(self, off: Tensor, level: float) -> Float[Tensor, "*n"]:
        """log N(y; m, S + s^2)."""
        variance = self.variance + level**2
        each = -0.5 * (self.along(off).square() / variance + (2 * torch.pi * variance).log())
        return (each if self.counts is None else each * self.counts).sum(-1)

    def _mean(self, value: Tensor) -> Tensor:
        """Mean over the directions that count."""
        if self.counts is None:
            return value.mean(-1)
        return (value * self.counts).sum(-1) / self.counts.sum(-1)


@dataclass(frozen=True)
class Regression:
    """Conditional distribution N(offset + slope v, S) of some numbers given others, as vectors of all N numbers.

    Places of numbers that are not asked for hold 0.

    Attributes:
        offset: Constant term, (*rows, N).
        slope: Matrix of slopes, (*rows, N, N), 0 in the columns of numbers that are not given.
        spread: The covariance S.
    """

    offset: Tensor
    slope: Tensor
    spread: Spread

    def rows(self, index: Tensor) -> Regression:
        """The regressions of the chosen rows."""
        spread = self.spread
        counts = None if spread.counts is None else spread.counts[index]
        return Regression(
            self.offset[index], self.slope[index], Spread(spread.axes[index], spread.variance[index], counts)
        )

    def mean(self, v: Float[Tensor, "batch number"]) -> Float[Tensor, "batch number"]:
        """The mean m, given v."""
        return self.offset + _product(v, self.slope.mT)


class JointGaussian(nn.Module):
    """N(mean, C) of N numbers, with the moments of the training rows, and its conditionals.

    Args:
        numbers: Number N of numbers.
    """

    mean: Tensor
    covariance: Tensor

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(numbers, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(numbers, dtype=torch.float64))

    def fit(self, rows: Callable[[], Iterator[Float[Tensor, "batch number"]]]) -> None:
        """Set mean and C by one pass over the rows; with few rows, only the diagonal of C.

        No direction has less than a millionth of the largest variance.
        """
        count, mean, covariance = moments(rows(), len(self.mean))
        if count < ROWS * len(mean):
            covariance = covariance.diagonal().diag()
        variance, axes = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
        variance = variance.clamp_min(1e-6 * float(variance.amax().clamp_min(1e-6)))
        self.mean.copy_(mean)
        self.covariance.copy_((axes * variance) @ axes.mT)

    def given(
        self,
        asked: Bool[Tensor, "*rows number"],
        given: Bool[Tensor, "*rows number"],
        noise: Float[Tensor, "*rows number"] | None = None,
    ) -> Regression:
        """Conditional distribution of some numbers given others; all other numbers are marginalised out.

        It is computed in float64 and returned in float32. C is the covariance of all N numbers, and C_gg its
        block of the given numbers. The regression needs the inverse of C_gg, for a different set of given
        numbers in each row. Let R be the diagonal matrix that is 1 for given numbers and 0 for others. Up to
        the order of the numbers, R C R + I - R has the blocks C_gg and I. So all rows have
        matrices of the same size, and are solved in one batch.

        Args:
            asked: Whether each number is asked for.
            given: Whether each number is given.
            noise: Sds of the errors of the given numbers, which add their squares to the diagonal of C_gg.
                None for no errors.
        """
        c, eye = self.covariance, torch.eye(len(self.mean), dtype=torch.float64, device=self.mean.device)
        r, a = given.double(), asked.double()
        cross = a[..., :, None] * c * r[..., None, :]
        among = r[..., :, None] * c * r[..., None, :] + eye * (1 - r[..., None, :])
        if noise is not None:
            among = among + eye * (r * noise.double().square())[..., None, :]
        slope = torch.linalg.solve(among, cross.mT).mT * r[..., None, :]
        left = a[..., :, None] * c * a[..., None, :] - slope @ cross.mT
        # The -1 of numbers that are not asked for sets their directions apart.
        left = 0.5 * (left + left.mT) - eye * (1 - a[..., None, :])
        variance, axes = torch.linalg.eigh(left)
        least, inside = 1e-6 * float(c.diagonal().mean()), torch.arange(len(c), device=c.device)
        counts = (inside >= len(c) - a.sum(-1, keepdim=True)).double()  # Eigenvalues ascend.
        variance = torch.where(counts > 0, variance.clamp_min(least), 1.0)
        offset = a * self.mean - (slope @ self.mean[:, None])[..., 0]
        spread = Spread(axes.float(), variance.float(), counts.float())
        return Regression(offset.float(), slope.float(), spread)

    def distance(
        self, v: Float[Tensor, "batch number"], given: Bool[Tensor, " number"], noise: Tensor | None = None
    ) -> Float[Tensor, " batch"]:
        """Distance of the given numbers from the mean, in sds of this distribution: about sqrt(n) for n numbers that
        follow it.

        Args:
            v: All N numbers.
            given: Which numbers are given.
            noise: Sds of the errors of the given numbers, (N,).
        """
        c = self.covariance if noise is None else self.covariance + noise.double().square().diag()
        root = torch.linalg.cholesky(c[given][:, given])
        off = (v.double() - self.mean)[:, given]
        return torch.linalg.solve_triangular(root, off.mT, upper=False).norm(dim=0)


def _product(value: Tensor, matrix: Tensor) -> Tensor:
    """Product of rows with one matrix, or of each row with its own matrix, in the matrix's precision.

    The precision is kept under autocast too, because losses take small differences of such products.
    """
    with single_precision(value):
        value = value.to(matrix.dtype)
        return value @ matrix if matrix.ndim == 2 else (value[..., None, :] @ matrix)[..., 0, :]


def moments(rows: Iterable[Float[Tensor, "batch number"]], numbers: int) -> tuple[int, Tensor, Tensor]:
    """Number of rows, their mean (N,) and covariance (N, N), float64, on the CPU."""
    count, total = 0, torch.zeros(numbers, dtype=torch.float64)
    products = torch.zeros(numbers, numbers, dtype=torch.float64)
    for part in rows:
        v = part.double().cpu()
        count, total, products = count + len(v), total + v.sum(0), products + v.mT @ v
    mean = total / count
    return count, mean, products / count - torch.outer(mean, mean)
