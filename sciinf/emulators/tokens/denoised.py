r"""Separate tokens, each drawn by a small diffusion given a feature that the network computes for it.

The network computes a feature f_i of each token z_i from the conditioning values, in one pass. A head, a small network
that is the same for all tokens, learns to remove noise from one token:

    p(z | known) = prod_i p(z_i | f_i),    D(z_i + s e, s; f_i) = E[z_i | z_i + s e, f_i].

The components of a token may depend on each other in any way, and have any distribution. Tokens that are drawn at once
are independent given the conditioning values. So this distribution is for tokens in turns (`emulators.tokens.turns`).
The network is evaluated once for a turn, and the head once for each step of the solver. Training shows each token at
several noise levels, because the head costs little.

References:
    | Autoregressive Image Generation without Vector Quantization (Li et al., 2024), https://arxiv.org/abs/2406.11838
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
      https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinf.core.checks import check_positive
from sciinf.core.prior import global_seed
from sciinf.emulators.token_transformer import TokenNetwork, TokenTransformer
from sciinf.emulators.tokens.law import LearnedLaw, Sought, TokenLaw, Widths, check_pushes, mean_of
from sciinf.networks.diffusion.objective import Diffusion, NormalLogs
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Exponential, Solver, with_mean
from sciinf.networks.modulated import Modulated


class Denoised(TokenLaw):
    """A distribution of independent tokens, each drawn by diffusion.

    Args:
        diffusion: Noise schedule, training levels and target of the head; that of `JointTokens` if None.
        solver: Solver from noise to tokens; that of `JointTokens` if None.
        width: Width of features, and of the head inside.
        blocks: Number of blocks of the head.
        levels: Number of noise levels at which a training step shows each token.

    Raises:
        ValueError: If one of the last three is no int of at least 1.
    """

    def __init__(
        self,
        diffusion: Diffusion | None = None,
        solver: Solver | None = None,
        *,
        width: int = 64,
        blocks: int = 2,
        levels: int = 2,
    ) -> None:
        check_positive(width=width, blocks=blocks, levels=levels)
        self.diffusion = diffusion or Diffusion(NoiseLevel(0.02, 20.0), levels=NormalLogs(0.0, 1.5))
        self.solver, self.width, self.blocks, self.levels = solver or Exponential(12, 3), width, blocks, levels

    def build(self, network: TokenTransformer, widths: Widths, places: Tensor, *, edges: bool, seed: int) -> LearnedLaw:
        numbers, given, condition = widths
        built = network.build((given, self.width, condition), places, edges=edges, seed=seed)
        return _Heads(self, built, (len(places), numbers), seed)


class _Heads(LearnedLaw):
    """The distribution that `Denoised` builds, with a built network, for tokens of a shape (token, number)."""

    def __init__(self, law: Denoised, network: TokenNetwork, shape: tuple[int, int], seed: int) -> None:
        super().__init__()
        self.law, self.network, self.shape, self.noise = law, network, shape, math.prod(shape)
        with global_seed(torch.Generator().manual_seed(seed)):
            self.head = Modulated(shape[1], shape[1], law.width, law.width, law.blocks)

    def loss(
        self, tokens: Tensor, given: Tensor, condition: Tensor, *, generator: torch.Generator, sought: Sought = None
    ) -> Tensor:
        told = self.head.prepare(self.network(given, condition[:, None])).flatten(0, 1).repeat(self.law.levels, 1)
        many = tokens.flatten(0, 1).repeat(self.law.levels, 1)
        found = self.law.diffusion.loss(lambda noisy, log: self.head(noisy, log, told), many, generator=generator)
        return mean_of(found.unflatten(0, (self.law.levels, *tokens.shape[:2])).mean(0), sought)

    def from_noise(
        self,
        noise: Tensor,
        given: Tensor,
        condition: Tensor,
        *,
        generator: torch.Generator | None = None,
        sought: Tensor | None = None,
    ) -> Tensor:
        diffusion, solver = self.law.diffusion, self.law.solver
        check_pushes(solver, generator)
        start, told = noise.unflatten(1, self.shape), self.head.prepare(self.network(given, condition[:, None]))
        here = torch.ones_like(start[..., 0], dtype=torch.bool) if sought is None else sought
        some = told[here]

        def denoise(y: Tensor, level: Tensor) -> Tensor:
            return diffusion.denoise(lambda shown, log: self.head(shown, log, some), y, level.expand(len(y)))

        begun = with_mean(denoise, diffusion.schedule.most * start[here], diffusion.schedule)
        found = torch.zeros_like(start)
        found[here] = solver.solve(denoise, begun, diffusion.schedule, generator=generator or torch.Generator())
        return found
