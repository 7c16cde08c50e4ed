r"""What estimators share that learn to take noise out of parameters, given an observation.

With z = z(theta) standardised (`_embedded`), noise e ~ N(0, I) and a level s, the network learns the denoiser

    D(y, s; x) = E[z | y, x],    y = z + s e,

whose score, grad log p_s(y | x) = (D - y) / s^2, leads from noise to draws of the posterior (`diffusion.solver`).

**What is known beforehand.** For a posterior N(m, S) the denoiser is m + S (S + s^2)^{-1} (y - m). A small network
gives m(x) and S(x) of every observation, trained by its own log-likelihood beside the rest, and the large one learns
what that leaves:

    D = m + S (S + s^2)^{-1} (y - m) + s^2 S^{1/2} (S + s^2)^{-1} F((S + s^2)^{-1/2} (y - m), log s, x).

It is EDM's preconditioning with the moments of each posterior in place of those of all data: a narrow posterior is as
easy as a wide one, a Gaussian one is right where F = 0, levels are drawn relative to det(S)^{1/2D}, and paths start at
N(m, S + s_0^2 I), so that s_0 can be low. The factor of F falls with s^2 where EDM's falls with s, so that an error of
F is one of the score by S^{-1/2} F at most, at every level, and not by F / s: sums of many scores live at low levels.
The matrix functions are symmetric, by the eigenvectors of S, so that they depend continuously on x; F is shown
y / sqrt(1 + s^2) too, for what does not move with m. The loss weighs what is left as EDM does,

    | s^{-1} S^{-1/2} (S + s^2)^{1/2} (D - z) |^2 / D,

and adds the Gaussian's negative log-likelihood.

Without it (`gaussian=False`) D is what a parameterisation of `diffusion.objective` makes of F.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
      https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch, Density, Observable, Prior, X
from sciinf.core.checks import check_whole
from sciinf.core.memory import retain_freed
from sciinf.core.prior import global_seed
from sciinf.diffusion.likelihood import EXACT, log_density
from sciinf.diffusion.objective import Diffusion, Preconditioned
from sciinf.diffusion.solver import Solver, noise_like
from sciinf.estimators._embedded import Embedded, check_part, in_chunks
from sciinf.flows.spline import ConditionalGaussian
from sciinf.nets.modulated import Modulated
from sciinf.summaries.summary import Summary

_LOWEST = 0.05  # of det(S)^{1/2D}: below, training draws few levels, and F is taken as it is there
PAIRS = {"cpu": 20_000, "cuda": 1_048_576}  # of a draw and an observation, in one pass


@dataclass(frozen=True)
class Guess:
    """N(m, S) for each observation: m (batch, D), eigenvectors (batch, D, D) as columns, eigenvalues (batch, D)."""

    mean: Tensor
    axes: Tensor
    variance: Tensor

    def along(self, value: Float[Tensor, "*n batch dim"]) -> Float[Tensor, "*n batch dim"]:
        """Coordinates in the eigenvectors."""
        return torch.einsum("...bi,bij->...bj", value, self.axes)

    def back(self, value: Float[Tensor, "*n batch dim"]) -> Float[Tensor, "*n batch dim"]:
        """From coordinates in the eigenvectors."""
        return torch.einsum("...bj,bij->...bi", value, self.axes)

    def scale(self) -> Float[Tensor, " batch"]:
        """det(S)^{1/2D}."""
        return (0.5 * self.variance.log().mean(-1)).exp()


@dataclass(frozen=True)
class Design:
    """How an estimator denoises.

    Attributes:
        diffusion: The path, what is asked of the network and how levels count.
        solver: How draws are made.
        gaussian: Whether moments of each posterior are learned beside, as above.
        hidden: Width of the network.
        blocks: Residual blocks of the network.
    """

    diffusion: Diffusion
    solver: Solver
    gaussian: bool
    hidden: int
    blocks: int


class Denoising(Embedded, ABC):
    """An estimator that denoises.

    Args:
        prior: The prior.
        observables: What the simulator produces.
        summary: See `Embedded`.
        design: How.
        seed: Seeds the initial weights.

    Attributes:
        solver: How draws are made; it may be set anew on a trained estimator.

    Raises:
        TypeError: If a part is something else.
        ValueError: If a number is out of range, or `gaussian` stands beside another parameterisation.
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        summary: Summary | Mapping[str, Summary] | None,
        design: Design,
        seed: int,
    ) -> None:
        super().__init__(prior, observables, summary, seed)
        check_part("diffusion", design.diffusion, Diffusion, "Diffusion(Level())")
        check_part("solver", design.solver, Solver, "Exponential(20)")
        check_whole("hidden", design.hidden, 1)
        check_whole("blocks", design.blocks, 1)
        diffusion, gaussian = design.diffusion, design.gaussian
        if gaussian and not isinstance(diffusion.parameterisation, Preconditioned):
            raise ValueError(
                "with gaussian=True the network stands for what a Gaussian leaves, as Preconditioned() has it, and not "
                f"for {type(diffusion.parameterisation).__name__}; pass gaussian=False with that parameterisation"
            )
        self.diffusion, self.solver = diffusion, design.solver
        with global_seed(torch.Generator().manual_seed(seed)):
            width = self.build_summaries()
            self.network = Modulated((1 + gaussian) * len(prior), len(prior), width, design.hidden, design.blocks)
            self.moments = ConditionalGaussian(len(prior), width, max(8, design.hidden // 4)) if gaussian else None

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        z, context = self.to_z(batch.theta), self.features(batch.x)
        prepared = self.network.prepare(context)
        if self.moments is None:
            return self.diffusion.loss(lambda v, log: self.network(v, log, prepared), z, generator=generator)
        moved, log_det = self.moments(z.T[:, None, :], context)
        gaussian = 0.5 * moved[:, 0].square().sum(0) - log_det
        guess = self.guess(context.detach())
        noise, level, _ = self.diffusion.noise(z, generator)
        level = (level * guess.scale()).clamp(self.diffusion.schedule.least, self.diffusion.schedule.most)
        y = z + level[:, None] * noise
        left, size = self._left(y, level, guess, prepared)
        square = level[:, None] ** 2
        skip = guess.variance / (guess.variance + square)
        target = guess.along(z - guess.mean) - skip * guess.along(y - guess.mean)
        return ((size * left - target).square() / (square * skip)).mean(-1) + gaussian

    def condition(self, x: X) -> DenoisedDensity:
        retain_freed()
        with torch.no_grad():
            device = self.z_mean.device
            return DenoisedDensity(self, self.features({name: value.to(device) for name, value in x.items()}))

    @torch.no_grad()
    def guess(self, context: Float[Tensor, "batch feature"]) -> Guess:
        """The moments learned; N(0, I) where none are."""
        rows, dim = len(context), len(self.prior)
        if self.moments is None:
            axes = torch.eye(dim, dtype=context.dtype, device=context.device).expand(rows, dim, dim)
            return Guess(context.new_zeros(rows, dim), axes, context.new_ones(rows, dim))
        mean, factor, _ = self.moments.moments(context)
        precision, axes = torch.linalg.eigh(factor.mT @ factor)
        return Guess(mean, axes, 1 / precision.clamp_min(1e-12))

    def denoise(self, y: Tensor, level: Tensor, guess: Guess, prepared: Tensor) -> Tensor:
        """D at y (*n, batch, D) and a level of shape () or (*n, batch)."""
        if self.moments is None:
            return self.diffusion.denoise(lambda v, log: self.network(v, log, prepared), y, level)
        left, size = self._left(y, level, guess, prepared)
        skip = guess.variance / (guess.variance + level[..., None] ** 2)
        return guess.mean + guess.back(skip * guess.along(y - guess.mean) + size * left)

    def _left(self, y: Tensor, level: Tensor, guess: Guess, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """F along the eigenvectors, and its factor s^2 S^{1/2} (S + s^2)^{-1}."""
        square = level[..., None] ** 2
        shown = guess.back(guess.along(y - guess.mean) / (guess.variance + square).sqrt())
        size = square * guess.variance.sqrt() / (guess.variance + square)
        shown = torch.cat([shown, y / (1 + square).sqrt()], dim=-1)
        return guess.along(self.network(shown, level.log(), prepared)), size


class DenoisedDensity(Density):
    """The posterior of each of a batch of observations, (batch, F), embedded once."""

    def __init__(self, estimator: Denoising, context: Tensor) -> None:
        self.estimator, self.rows = estimator, len(context)
        self.guess, self._prepared = estimator.guess(context), estimator.network.prepare(context)

    def denoise(
        self, y: Float[Tensor, "*n batch dim"], level: Float[Tensor, "*level"]
    ) -> Float[Tensor, "*n batch dim"]:
        """E[z | z + s e = y, x] for each observation, at a level of shape () or (*n, batch)."""
        return self.estimator.denoise(y, level, self.guess, self._prepared)

    @torch.no_grad()
    def beside(self, y: Float[Tensor, "draws dim"], level: Tensor, some: Tensor) -> Float[Tensor, "draws dim"]:
        """What the scores of some observations have beside those of their Gaussians, summed: sum_j S_j^{-1/2} F_j.

        It is R of `diffusion.composition`. Below levels of a twentieth of det(S_j)^{1/2D}, where training draws few,
        F_j is taken at that level.

        Args:
            y: Points, the same for all.
            level: s, of shape ().
            some: Indices of the observations.
        """
        owner, total = self.estimator, torch.zeros_like(y)
        for part in some.split(max(1, PAIRS.get(y.device.type, PAIRS["cpu"]) // max(1, len(y)))):
            guess = Guess(self.guess.mean[part], self.guess.axes[part], self.guess.variance[part])
            floor = torch.maximum(level.to(y), _LOWEST * guess.scale())[None]
            left, _ = owner._left(y[:, None].expand(-1, len(part), -1), floor, guess, self._prepared[part])
            total = total + guess.back(left / guess.variance.sqrt()).sum(1)
        return total

    @torch.no_grad()
    def scores(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
        """grad log q(z | x) of each observation at a point of its own, noise being as good as gone."""
        guess = self.guess
        left, _ = self.estimator._left(z, _LOWEST * guess.scale(), guess, self._prepared)
        return guess.back(left / guess.variance.sqrt() - guess.along(z - guess.mean) / guess.variance)

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        owner, guess = self.estimator, self.guess
        path, shape = owner.diffusion.schedule, (self.rows, len(owner.prior))
        parts = [guess.mean.new_empty(0, *shape)]
        for start, stop in in_chunks(n, self.rows, guess.mean.device):
            noise = noise_like(guess.mean.expand(stop - start, *shape), generator)
            y = guess.mean + guess.back((guess.variance + path.most**2).sqrt() * noise)
            parts.append(owner.to_theta(owner.solver.solve(self.denoise, y, path, generator=generator)))
        return torch.cat(parts)

    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """By the probability flow; above 32 parameters with an estimated trace, the same at each call."""
        return self.estimator.log_density(theta, self.rows, self._log_density)

    def _log_density(self, z: Tensor) -> Tensor:
        generator = torch.Generator(z.device).manual_seed(0) if z.shape[-1] > EXACT else None
        path, guess = self.estimator.diffusion.schedule, self.guess

        def ending(y: Tensor) -> Tensor:
            variance = guess.variance + path.most**2
            off = guess.along(y - guess.mean).square() / variance
            return -0.5 * (off + (2 * torch.pi * variance).log()).sum(-1)

        return log_density(self.denoise, z, path, ending=ending, generator=generator)
