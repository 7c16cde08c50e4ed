r"""Distributions of tokens given conditioning values: training losses, and how tokens are drawn.

`JointTokens` is a diffusion of all tokens t of a block together. Noise of level s is added to the tokens. The network
sees all noisy tokens, the conditioning values and the level, and learns to remove the noise,

    D(t + s e, s; given) = E[t | t + s e, given].

A solver draws tokens with D (`networks.diffusion.solver`). It starts from noise about the mean of t that D predicts
from pure noise. Conditioning values may place t far from 0, as in a front. Noise about 0 would have to be far larger
than that distance. Tokens may depend on each other in any way.

`MixtureTokens` takes all components z of the tokens to be independent given the conditioning values. Each is a mixture
of normal distributions. The network gives their shares, means and sds in one pass,

    p(z | given) = sum_k w_k(given) N(z; m_k(given), s_k(given)).

Drawing from it is ten times as fast. Innovations (`emulators.tokens.innovations`) are uncorrelated by construction. For
these, independence is right where noise is added to a field, and wrong where one random event changes many points. With
`by_token` one k is drawn for all components of a token, and tokens are independent; if they are drawn in turns
(`emulators.tokens.decoding`), tokens of different turns are not. A distribution may be used for some of the tokens
alone, `sought`, and its loss is then that of these tokens.

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
_LEAST_LOG_SD = -7.0  # Lower bound of the log sd of a component whose sd over all rows is 1.


class LearnedLaw(nn.Module, ABC):
    """A learned distribution of tokens with its network. Tokens have sd 1.

    Attributes:
        noise: Number of standard normal values that determine a draw.
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
        """The training loss of each row.

        Args:
            tokens: Tokens of a block.
            given: Conditioning values at their places.
            condition: Conditioning values of the whole block.
            generator: Source of random draws.
            sought: Mask of the tokens that count, at least one in each row; all if None.
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
        """Tokens, one draw for each row, as a function of standard normal noise.

        Args:
            noise: Standard normal noise.
            given: Conditioning values at the places of tokens.
            condition: Conditioning values of the whole block.
            generator: Source of further noise, for solvers that need it.
            sought: Mask of the requested tokens, all if None; the other tokens of the result have no meaning.

        Raises:
            ValueError: If `generator` is None, and the solver may need further noise.
        """

    @final
    def draw(
        self,
        given: Float[Tensor, "batch token other"],
        condition: Float[Tensor, "batch condition"],
        *,
        generator: torch.Generator,
    ) -> Float[Tensor, "batch token number"]:
        """Draw tokens, one set for each row."""
        noise = torch.randn((len(given), self.noise), generator=generator, device=generator.device)
        return self.from_noise(noise.to(given), given, condition, generator=generator)


class TokenLaw(Component, ABC):
    """Recipe of a distribution of tokens.

    Attributes:
        together: Whether tokens that are requested at once are drawn jointly; else each is drawn separately.
    """

    together: bool = False

    @abstractmethod
    def build(self, network: TokenTransformer, widths: Widths, places: Tensor, *, edges: bool, seed: int) -> LearnedLaw:
        """The distribution with new weights.

        Args:
            network: Recipe of its network.
            widths: Widths of tokens, of conditioning values at their places, and of conditions.
            places: Places of tokens, (token, axis), in the unit box.
            edges: Whether the box has edges.
            seed: Seed of the initial weights.
        """


class JointTokens(TokenLaw):
    """A joint distribution of all tokens of a block, or of a turn, by diffusion.

    Args:
        diffusion: Noise schedule, training levels and target of the network. If None, EDM's at somewhat higher levels.
        solver: Solver from noise to tokens. If None, twelve steps of an exponential integrator of order three.
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
    """`JointTokens` with a third of the network passes: four steps of order two, from noise of 10 to noise of 0.1.

    For tokens of sd 1, the drawn sd is 4 % too large; over the noise levels of `JointTokens` it would be 9 %. Use it
    for typical draws, not for rare events.
    """
    return JointTokens(Diffusion(NoiseLevel(0.1, 10.0), levels=NormalLogs(0.0, 1.0)), Exponential(4, 2))


class JointDenoiser(LearnedLaw):
    """The diffusion that `JointTokens` builds, with a built network, for tokens of a shape (token, number)."""

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
        """The denoiser D of flattened tokens, given their conditioning values.

        The conditioning values are those of all rows, or of one row that serves any number of rows.
        """

        def denoise(y: Tensor, level: Tensor) -> Tensor:
            known, whole = given.expand(len(y), -1, -1), condition.expand(len(y), -1)
            return self.law.diffusion.denoise(
                lambda shown, log: self._told(shown, log, known, whole), y, level.expand(len(y))
            )

        return denoise

    def _counted(self, sought: Tensor | None, like: Tensor) -> Tensor | None:
        """A mask of the requested tokens, 1 or 0 for each component; None where all are requested."""
        return None if sought is None else sought.to(like).repeat_interleave(self.shape[1], 1)

    def _told(self, noisy: Tensor, log_level: Tensor, given: Tensor, condition: Tensor) -> Tensor:
        angle = log_level[:, None] * self.frequencies
        clock = torch.cat([0.25 * log_level[:, None], angle.cos(), angle.sin()], -1)
        tokens = torch.cat([noisy.unflatten(1, self.shape), given], -1)
        return self.network(tokens, torch.cat([condition, clock], -1)[:, None]).flatten(1)


class MixtureTokens(TokenLaw):
    """Independent components, or independent tokens, each with a mixture of normal distributions.

    Args:
        components: Number of normal distributions in a mixture.
        by_token: Whether one of them is drawn for all components of a token, which then depend on each other. If False,
            one is drawn for each component.

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
        choices = 1 if self.by_token else numbers  # Number of choices among normal distributions for a token.
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
        del generator, sought  # Each token is drawn independently, so all of them are drawn.
        share, mean, log_sd = self._parts(given, condition)
        numbers = math.prod(self.shape)
        normal = noise[:, :numbers].unflatten(1, self.shape)
        if self.components == 1:
            return mean[..., 0] + log_sd[..., 0].exp() * normal
        # Uniform numbers choose the normal distribution.
        uniform = torch.special.ndtr(noise[:, numbers:].unflatten(1, (-1, self.choices, 1)))
        at = (uniform > share.exp().cumsum(-1)[..., :-1]).sum(-1, keepdim=True).expand(-1, -1, self.shape[1], -1)
        return mean.gather(-1, at)[..., 0] + log_sd.gather(-1, at)[..., 0].exp() * normal

    def _parts(self, given: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log shares, means and log sds, each (batch, token, number, component).

        With `by_token`, shares have one entry for all components of a token.
        """
        found = self.network(given, condition[:, None])
        if self.choices == self.shape[1]:
            share, mean, log_sd = found.unflatten(-1, (-1, 3, self.components)).unbind(-2)
        else:
            share, mean, log_sd = found.unflatten(-1, (-1, self.components)).split((1, *[self.shape[1]] * 2), -2)
        return share.log_softmax(-1), mean + self.apart, log_sd.clamp(_LEAST_LOG_SD, -_LEAST_LOG_SD)


def check_pushes(solver: Solver, generator: torch.Generator | None) -> None:
    """Refuse to draw without a generator by a solver that may need further noise.

    Raises:
        ValueError: If there is no generator and the solver may need further noise.
    """
    if generator is None and not isinstance(solver, Exponential):
        raise ValueError(f"draws by {solver!r} are no function of the noise they start from: Exponential() is one")


def mean_of(each: Float[Tensor, "batch token"], sought: Sought) -> Float[Tensor, " batch"]:
    """The mean over each row's requested tokens, or over all tokens."""
    return each.mean(1) if sought is None else (each * sought).sum(1) / sought.sum(1)
