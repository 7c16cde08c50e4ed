r"""Laws of tokens given others: what is learned, and how it is drawn from.

`JointTokens` is a diffusion of all tokens t of a block together: noise of level s is added to them, and the network,
which sees all of them, what is given and the level, learns to take it away,

    D(t + s e, s; given) = E[t | t + s e, given],

from which a solver draws (`networks.diffusion.solver`). It starts from noise about the mean of t that D knows when
there is nothing but noise: what is given may tell t to be far from 0, as in a front, and noise alone would have to be
far larger than that. Tokens depend on each other in any way.

`MixtureTokens` takes all numbers z of the tokens to be independent, given what is known, each a mixture of normal laws
whose shares, means and sds the network gives in one pass,

    p(z | given) = sum_k w_k(given) N(z; m_k(given), s_k(given)),

ten times as fast to draw from. Of innovations (`emulators.tokens.innovations`), which are uncorrelated as they are,
that is right where noise is added to a field, and wrong where one chance event moves many points. With `by_token` one k
is drawn for all numbers of a token, and tokens are independent; drawn in turns (`emulators.tokens.decoding`) they are
not. A law may be asked for some of the tokens alone, `sought`, and its loss is then of these.

References:
    | Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., 2022),
      https://arxiv.org/abs/2206.00364
    | Scalable Diffusion Models with Transformers (Peebles & Xie, 2023), https://arxiv.org/abs/2212.09748
    | Mixture Density Networks (Bishop, 1994), https://publications.aston.ac.uk/id/eprint/373/
    | Stochastic Latent Residual Video Prediction (Franceschi et al., 2020), https://arxiv.org/abs/2002.09219
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sciinf.core.checks import check_whole
from sciinf.core.component import Component, called_without
from sciinf.emulators.token_transformer import TokenNetwork, TokenTransformer
from sciinf.networks.diffusion.objective import Diffusion, NormalLogs
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Denoiser, Exponential, Solver, with_mean

Sought = Bool[Tensor, "batch token"] | None
Widths = tuple[int, int, int]
_FREQUENCIES = 6
_LEAST_LOG_SD = -7.0  # of a number whose sd over all rows is 1


class LearnedLaw(nn.Module, ABC):
    """A law of tokens with its network. Tokens have sd 1.

    Attributes:
        noise: How many standard normal numbers a draw is a function of.
    """

    noise: int

    @abstractmethod
    def loss(
        self,
        tokens: Float[Tensor, "batch token number"],
        given: Float[Tensor, "batch token other"],
        condition: Float[Tensor, "batch condition"],
        *,
        generator: torch.Generator,
        sought: Sought = None,
    ) -> Float[Tensor, " batch"]:
        """What is minimised for each row.

        Args:
            tokens: Those of a block.
            given: What is known at their places.
            condition: What is known of the whole.
            generator: For what is drawn.
            sought: Tokens that count, at least one in each row; all where left out.
        """

    @abstractmethod
    def from_noise(
        self,
        noise: Float[Tensor, "batch noise"],
        given: Float[Tensor, "batch token other"],
        condition: Float[Tensor, "batch condition"],
        *,
        generator: torch.Generator | None = None,
        sought: Sought = None,
    ) -> Float[Tensor, "batch token number"]:
        """Tokens, one draw for each row, as a function of standard normal numbers.

        Args:
            noise: Those numbers.
            given: What is known at places of tokens.
            condition: What is known of the whole.
            generator: For noise on the way, where a solver draws any.
            sought: Tokens that are asked for, all where left out; others mean nothing.

        Raises:
            ValueError: If there is none, and the solver is not known to do without.
        """

    @final
    def draw(
        self,
        given: Float[Tensor, "batch token other"],
        condition: Float[Tensor, "batch condition"],
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, "batch token number"]:
        """Tokens, one draw for each row."""
        noise = torch.randn((len(given), self.noise), generator=generator, device=generator.device)
        return self.from_noise(noise.to(given), given, condition, generator=generator)


class TokenLaw(Component, ABC):
    """How a law is built.

    Attributes:
        together: Whether tokens that are asked for at once are drawn together; else each by itself.
    """

    together: bool = False

    @abstractmethod
    def build(self, network: TokenTransformer, widths: Widths, places: Tensor, *, edges: bool, seed: int) -> LearnedLaw:
        """The law with new weights.

        Args:
            network: What it learns with.
            widths: Of tokens, of what is given at their places, and of conditions.
            places: (token, axis), in the unit box.
            edges: Whether the box has edges.
            seed: Of the first weights.
        """


class JointTokens(TokenLaw):
    """All tokens of a block, or of a turn, together, by diffusion.

    Args:
        diffusion: Path, levels and what the network is asked for; EDM's at somewhat higher levels where left out.
        solver: From noise to tokens; twelve steps of an exponential integrator of order three where left out.
    """

    together = True

    def __init__(self, diffusion: Diffusion | None = None, solver: Solver | None = None) -> None:
        self.diffusion, self.solver = (
            diffusion or Diffusion(NoiseLevel(0.02, 20.0), levels=NormalLogs(0.0, 1.5)),
            solver or Exponential(12, 3),
        )

    def build(self, network: TokenTransformer, widths: Widths, places: Tensor, *, edges: bool, seed: int) -> LearnedLaw:
        numbers, given, condition = widths
        inside = (numbers + given, numbers, condition + 1 + 2 * _FREQUENCIES)
        return JointDenoiser(self, network.build(inside, places, edges=edges, seed=seed), (len(places), numbers))


def four_steps() -> JointTokens:
    """`JointTokens` in a third of its passes: four steps of order two, from noise of 10 to noise of 0.1.

    They make tokens of sd 1 4 % too wide, and over the levels of `JointTokens` 9 %. For common draws, not for
    rare events.
    """
    return JointTokens(Diffusion(NoiseLevel(0.1, 10.0), levels=NormalLogs(0.0, 1.0)), Exponential(4, 2))


class JointDenoiser(LearnedLaw):
    """What `JointTokens` builds, with a built network, for tokens of a shape, (token, number)."""

    frequencies: Tensor

    def __init__(self, law: JointTokens, network: TokenNetwork, shape: tuple[int, int]) -> None:
        super().__init__()
        self.law, self.network, self.shape, self.noise = law, network, shape, math.prod(shape)
        self.register_buffer("frequencies", 0.25 * 2.0 ** torch.arange(_FREQUENCIES), persistent=False)

    def loss(
        self, tokens: Tensor, given: Tensor, condition: Tensor, *, generator: torch.Generator, sought: Sought = None
    ) -> Tensor:
        counted = self._counted(sought, tokens)

        def network(noisy: Tensor, log_level: Tensor) -> Tensor:
            return self._told(noisy if counted is None else counted * noisy, log_level, given, condition)

        return self.law.diffusion.loss(network, tokens.flatten(1), generator=generator, counted=counted)

    def from_noise(
        self,
        noise: Tensor,
        given: Tensor,
        condition: Tensor,
        *,
        generator: torch.Generator | None = None,
        sought: Tensor | None = None,
    ) -> Tensor:
        schedule, solver = self.law.diffusion.schedule, self.law.solver
        counted, all_of_them = self._counted(sought, noise), self.denoiser(given, condition)

        def denoise(y: Tensor, level: Tensor) -> Tensor:
            return all_of_them(y, level) if counted is None else counted * all_of_them(counted * y, level)

        check_pushes(solver, generator)
        start = with_mean(denoise, schedule.most * noise, schedule)
        found = solver.solve(denoise, start, schedule, generator=generator or torch.Generator())
        return found.unflatten(1, self.shape)

    def denoiser(self, given: Tensor, condition: Tensor) -> Denoiser:
        """D of tokens, flat, where others are known: those of all rows, or one row's for any number."""

        def denoise(y: Tensor, level: Tensor) -> Tensor:
            known, whole = given.expand(len(y), -1, -1), condition.expand(len(y), -1)
            return self.law.diffusion.denoise(
                lambda shown, log: self._told(shown, log, known, whole), y, level.expand(len(y))
            )

        return denoise

    def _counted(self, sought: Tensor | None, like: Tensor) -> Tensor | None:
        """1 for each number of a token that is sought, and 0 for others; None where all are."""
        return None if sought is None else sought.to(like).repeat_interleave(self.shape[1], 1)

    def _told(self, noisy: Tensor, log_level: Tensor, given: Tensor, condition: Tensor) -> Tensor:
        angle = log_level[:, None] * self.frequencies
        clock = torch.cat([0.25 * log_level[:, None], angle.cos(), angle.sin()], -1)
        tokens = torch.cat([noisy.unflatten(1, self.shape), given], -1)
        return self.network(tokens, torch.cat([condition, clock], -1)[:, None]).flatten(1)


class MixtureTokens(TokenLaw):
    """Each number of a block by itself, or each token, a mixture of normal laws.

    Args:
        components: How many of them.
        by_token: Whether one of them is drawn for all numbers of a token, which then depend on each other; else for
            each number.

    Raises:
        ValueError: If components is no int of at least 1.
    """

    def __init__(self, components: int = 1, *, by_token: bool = False) -> None:
        check_whole("components", components, 1)
        self.components, self.by_token = components, by_token
        if not by_token:
            called_without(self, "by_token")

    def build(self, network: TokenTransformer, widths: Widths, places: Tensor, *, edges: bool, seed: int) -> LearnedLaw:
        numbers, given, condition = widths
        choices = 1 if self.by_token else numbers  # of components, for a token
        outputs = (2 * numbers + choices) * self.components
        built = network.build((given, outputs, condition), places, edges=edges, seed=seed)
        return _Independent(built, (len(places), numbers), choices, self.components)


class _Independent(LearnedLaw):
    def __init__(self, network: TokenNetwork, shape: tuple[int, int], choices: int, components: int) -> None:
        super().__init__()
        self.network, self.shape, self.choices, self.components = network, shape, choices, components
        self.noise = shape[0] * (shape[1] + choices * (components > 1))
        self.apart = nn.Parameter(torch.linspace(-1, 1, components) * (components > 1))

    def loss(
        self, tokens: Tensor, given: Tensor, condition: Tensor, *, generator: torch.Generator, sought: Sought = None
    ) -> Tensor:
        del generator
        share, mean, log_sd = self._parts(given, condition)
        z = (tokens[..., None] - mean) * (-log_sd).exp()
        if self.choices < self.shape[1]:
            each = share[..., 0, :] - (log_sd + 0.5 * z.square()).sum(-2)
            return mean_of(0.5 * math.log(2 * math.pi) - each.logsumexp(-1) / self.shape[1], sought)
        each = share - log_sd - 0.5 * z.square()
        found = 0.5 * math.log(2 * math.pi) - each.logsumexp(-1)
        return found.flatten(1).mean(1) if sought is None else mean_of(found.mean(-1), sought)

    def from_noise(
        self,
        noise: Tensor,
        given: Tensor,
        condition: Tensor,
        *,
        generator: torch.Generator | None = None,
        sought: Tensor | None = None,
    ) -> Tensor:
        del generator, sought  # each comes by itself
        share, mean, log_sd = self._parts(given, condition)
        numbers = math.prod(self.shape)
        normal = noise[:, :numbers].unflatten(1, self.shape)
        if self.components == 1:
            return mean[..., 0] + log_sd[..., 0].exp() * normal
        uniform = torch.special.ndtr(noise[:, numbers:].unflatten(1, (-1, self.choices, 1)))  # which component
        at = (uniform > share.exp().cumsum(-1)[..., :-1]).sum(-1, keepdim=True).expand(-1, -1, self.shape[1], -1)
        return mean.gather(-1, at)[..., 0] + log_sd.gather(-1, at)[..., 0].exp() * normal

    def _parts(self, given: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logarithms of shares, means and logarithms of sds, each (batch, token, number, component).

        Shares have one number where a component is drawn for a token.
        """
        found = self.network(given, condition[:, None])
        if self.choices == self.shape[1]:
            share, mean, log_sd = found.unflatten(-1, (-1, 3, self.components)).unbind(-2)
        else:
            share, mean, log_sd = found.unflatten(-1, (-1, self.components)).split((1, *[self.shape[1]] * 2), -2)
        return share.log_softmax(-1), mean + self.apart, log_sd.clamp(_LEAST_LOG_SD, -_LEAST_LOG_SD)


def check_pushes(solver: Solver, generator: torch.Generator | None) -> None:
    """Refuse to draw without randomness by a solver that is not known to do without.

    Raises:
        ValueError: If so.
    """
    if generator is None and not isinstance(solver, Exponential):
        raise ValueError(f"draws by {solver!r} are no function of the noise they start from: Exponential() is one")


def mean_of(each: Float[Tensor, "batch token"], sought: Sought) -> Float[Tensor, " batch"]:
    """The mean of each row's tokens that are sought, or of all."""
    return each.mean(1) if sought is None else (each * sought).sum(1) / sought.sum(1)
