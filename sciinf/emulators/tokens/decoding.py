r"""Distributions whose tokens are drawn in turns, each turn given the tokens of the turns before.

Let w_i be the turn of token i (`emulators.tokens.turns`). At turn k the distribution gives the tokens with w_i = k,
given those with w_i < k. Two inputs are added at each place: the values of the known tokens, 0 elsewhere, and a mask of
the known tokens. For each row, training takes the turn of a randomly chosen token, so that each turn counts by its
number of tokens. The loss is that of the requested tokens alone. For a distribution with a density, the loss is on
average -log q of all tokens, per number. If the order of tokens is random, any of the remaining tokens may be next. If
also each token is drawn separately, the loss counts all remaining tokens.

References:
    | Autoregressive Image Generation without Vector Quantization (Li et al., 2024), https://arxiv.org/abs/2406.11838
    | Autoregressive Diffusion Models (Hoogeboom et al., 2021), https://arxiv.org/abs/2110.02037 (any token may be next)
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens.law import LearnedLaw, Sought, TokenLaw, Widths
from sciinf.emulators.tokens.turns import Turns


class Turned(TokenLaw):
    """A distribution of tokens that are drawn in turns.

    Args:
        law: Distribution of the tokens of a turn.
        turns: Turns of the tokens.
        scales: Scale of each token; () if they have none.
    """

    def __init__(self, law: TokenLaw, turns: Turns, scales: tuple[int, ...] = ()) -> None:
        self.law, self.turns, self.scales, self.together = law, turns, tuple(scales), law.together

    def build(self, network: TokenTransformer, widths: Widths, places: Tensor, *, edges: bool, seed: int) -> LearnedLaw:
        """The distribution with new weights.

        Raises:
            ValueError: If the turns do not suit such tokens.
        """
        numbers, given, condition = widths
        plan = self.turns.plan(len(places), self.scales)
        wider = (numbers, given + numbers + 1 + self.together, condition)
        law = self.law.build(network, wider, places, edges=edges, seed=seed)
        return InTurns(law, plan, numbers, shuffled=self.turns.shuffled, together=self.together)


class InTurns(LearnedLaw):
    """The learned distribution that `Turned` builds.

    Args:
        law: Distribution of the tokens of a turn.
        plan: Turn of each token, in the order of the queue.
        numbers: Number of components of a token.
        shuffled: Whether the order of the queue is random.
        together: Whether tokens of a turn are drawn jointly, so that the network needs a mask of them.
    """

    plan: Tensor

    def __init__(self, law: LearnedLaw, plan: tuple[int, ...], numbers: int, *, shuffled: bool, together: bool) -> None:
        super().__init__()
        self.law, self.numbers, self.shuffled, self.together = law, numbers, shuffled, together
        self.turns, self.queue = 1 + max(plan), len(plan) * shuffled
        self.noise = law.noise + self.queue
        self.register_buffer("plan", torch.tensor(plan), persistent=False)

    def loss(
        self, tokens: Tensor, given: Tensor, condition: Tensor, *, generator: torch.Generator, sought: Sought = None
    ) -> Tensor:
        del sought  # Each turn has its own set of requested tokens.
        rows, count, own = len(tokens), tokens.shape[1], generator.device
        when = self._when(torch.rand((rows, self.queue), generator=generator, device=own).to(tokens))
        picked = torch.randint(count, (rows, 1), generator=generator, device=own).to(tokens.device)
        turn = when.gather(1, picked)
        known = when < turn
        left = when >= turn if self.shuffled and not self.together else when == turn
        shown = self._shown(given, tokens, known, left)
        return self.law.loss(tokens, shown, condition, generator=generator, sought=left)

    def from_noise(
        self,
        noise: Tensor,
        given: Tensor,
        condition: Tensor,
        *,
        generator: torch.Generator | None = None,
        sought: Tensor | None = None,
    ) -> Tensor:
        del sought
        when, numbers = self._when(noise[:, : self.queue]), noise[:, self.queue :]
        tokens = noise.new_zeros(len(noise), len(self.plan), self.numbers)
        for turn in range(self.turns):
            here = when == turn
            shown = self._shown(given, tokens, when < turn, here)
            drawn = self.law.from_noise(numbers, shown, condition, generator=generator, sought=here)
            tokens = torch.where(here[..., None], drawn, tokens)
        return tokens

    def _when(self, queue: Float[Tensor, "batch token"]) -> Int[Tensor, "batch token"]:
        """The turn of each token; the order of the queue is that of the random numbers, or of the tokens themselves."""
        if not self.shuffled:
            return self.plan.expand(len(queue), -1)
        return self.plan[queue.argsort(1).argsort(1)]

    def _shown(
        self, given: Tensor, tokens: Tensor, known: Bool[Tensor, "batch token"], here: Bool[Tensor, "batch token"]
    ) -> Tensor:
        masks = [known, here] if self.together else [known]
        value = torch.where(known[..., None], tokens, torch.zeros_like(tokens))
        return torch.cat([given, value, *(mask[..., None].to(tokens) for mask in masks)], -1)
