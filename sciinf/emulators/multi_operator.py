r"""One network for many equations; symbols tell the network which equation holds.

    (v, e) = ((u_1..u_n - m) / s, the equation in prefix notation),     u(t_1..t_T) ~ m + s f(v, e, m, s).

m and s are the mean and the standard deviation of the given frames u_1..u_n, channel by channel. So inputs and outputs
of the network have one size. It has five parts:

    symbols     tokens of the equation (`equation_symbols`); a number is a token with an embedding of its value
    frames      patches of the ring, all frames of a place in one token
    fusion      patches look at each other, at the symbols, and at m and s
    decoder     a query for each frame and patch, which looks at what the fusion made and at symbols; not at each other
    head        from a query's token to the values of a patch

Coefficients are the same all over the ring, and the layers (`RingLayer`) know no absolute places. So if a field is
translated by whole patches, its prediction is translated likewise. Training translates rows by any number of points, so
that the network also learns translations by parts of a patch. The loss is |u - f| / |u|.

In the paper symbols attend to patches as well, space is a plane (as in `multi_fluid`), and patches have absolute
places. Numbers are written there as sign, mantissa and exponent, each a token. A mantissa that was not in the training
then has no meaning.

Without symbols (`symbols=False`) a learned constant replaces them, and the network has to infer the equation from the
change between the frames.

Good values: `Recipe(batch=32, optimiser="muon", learning_rate=5e-3, epochs=25)` for 3,000 trajectories of five families
(`simulators/pde/mixed_equations.py`). The mean relative error on new trajectories was 0.0070, and 0.0132 without
symbols. The training had coefficients in seven tenths of the families' ranges. In the other three tenths, which lie
between them, the error was 0.0060; a network that was trained on whole ranges had 0.0051.

**Attention** between patches of a field on a ring, which also attend to tokens without a place.

Queries q_i are at angles a_i of the ring, and keys k_j are at angles a_j or have no place. With R(a) the rotation of
pairs of entries by m a, m = 0, 1, 2, ... whole numbers (rotary embedding),

    score_ij = (R(a_i) q_i)^T R(a_j) k_j / sqrt(h)     of keys on the ring: of a_i - a_j alone, the ring being closed,
    score_ij = q_i^T k_j / sqrt(h)                      of others, wherever i is,

with one softmax over both. So if a layer's input is translated by some patches, its output is translated as well. An
equation whose coefficients are the same everywhere need not be learnt at each place. On a torus each direction has its
own angle, which rotates an equal part of the pairs. A normalisation precedes the attention and the two-layer network
after it.

References:
    | PROSE-FD: A Multimodal PDE Foundation Model for Learning Multiple Operators for Forecasting Fluid Dynamics (Liu et
      al., 2024), https://arxiv.org/abs/2409.09811
    | PROSE: Predicting Operators and Symbolic Expressions using Multimodal Transformers (Liu, Zhang & Schaeffer, 2023),
      https://arxiv.org/abs/2309.16816
    | Towards a Foundation Model for Partial Differential Equations: Multi-Operator Learning and Extrapolation (Sun et
      al., 2024), https://arxiv.org/abs/2404.12355
    | RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021), https://arxiv.org/abs/2104.09864
    | Attention Is All You Need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core import Batch, Observable, Prior, X
from sciinf.core.checks import check_positive
from sciinf.core.component import Component
from sciinf.core.prior import global_seed
from sciinf.emulators._errors import Predicting
from sciinf.emulators._fields import rolled
from sciinf.emulators.losses import FieldLoss, RelativeL2
from sciinf.simulators.dynamics.equation_symbols import SYMBOLS, Tokens, longest
from sciinf.simulators.dynamics.equation_terms import Families


class SymbolsAndFrames(Component):
    """The sizes of the network of `MultiOperator` and `MultiFluid`.

    Args:
        width: Width of tokens.
        heads: Number of attention heads; twice this number divides the width.
        patch: Number of points of a patch; it divides the number of points of the ring.
        encoder: Number of layers over patches.
        fusion: Number of layers over patches and symbols.
        decoder: Number of layers of the queries.
        symbols: Number of layers over symbols.

    Raises:
        ValueError: If a number is not positive, or the width is no multiple of twice the heads.
    """

    def __init__(
        self,
        width: int = 96,
        *,
        heads: int = 4,
        patch: int = 8,
        encoder: int = 1,
        fusion: int = 2,
        decoder: int = 2,
        symbols: int = 1,
    ) -> None:
        check_positive(width=width, heads=heads, patch=patch)
        check_positive(encoder=encoder, fusion=fusion, decoder=decoder, symbols=symbols)
        if width % (2 * heads):
            raise ValueError(f"a width of {width} is no multiple of twice the {heads} heads")
        self.width, self.heads, self.patch = width, heads, patch
        self.encoder, self.fusion, self.decoder, self.symbols = encoder, fusion, decoder, symbols


class MultiOperator(Predicting):
    """One network for families of equations on a ring.

    Args:
        prior: The simulator's prior, which is that of the families.
        observables: The simulator's observables.
        families: The simulator's families, which map parameters to equations. They must be the same as the simulator's,
            because the coefficients come from them alone.
        network: Sizes of the network; `SymbolsAndFrames()` if None.
        target: Name of the observable that is predicted.
        given: Name of the frames that it starts from, (frames of a channel under each other, x).
        symbols: Whether the network gets the symbols of the equation.
        loss: Distance of fields; `RelativeL2()` if None.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If names, layouts or the prior do not go together.
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        families: Families,
        network: SymbolsAndFrames | None = None,
        *,
        target: str = "u",
        given: str = "frames",
        symbols: bool = True,
        loss: FieldLoss | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, target, (given,), seed)
        told = network or SymbolsAndFrames()
        if prior.names != families.prior.names:
            raise ValueError(f"the families' parameters are {families.prior.names}, the simulator's {prior.names}")
        if len(self.space) != 1 or self.space[0] % told.patch or self.channels_given % self.channels:
            raise ValueError(
                f"{given!r} of shape {self.observables[given].shape} are no frames of {target!r}, of shape "
                f"{self.observables[target].shape}, on a ring of whole patches of {told.patch} points"
            )
        self.families, self.distance = families, loss or RelativeL2()
        with global_seed(torch.Generator().manual_seed(seed)):
            self.equation = SymbolReader(told, len(SYMBOLS)) if symbols else NoSymbols(told.width)
            self.network = FusedFrames(told, self.channels_given, (self.frames, self.channels), self.space)
        self.usual, self.every = Tokens(longest(families.patterns)), Tokens()

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        true, known = batch.x[self.target].to(self.target_mean), self.stacked(batch.x).to(self.target_mean)
        if self.training:
            turn = torch.randint(self.space[0], (len(true), 1), generator=generator, device=generator.device)
            # Sums over another memory layout round differently, so contiguous tensors keep fits reproducible.
            known, true = rolled(known, -turn).contiguous(), rolled(true, -turn).contiguous()
        symbols = self.equation(*self.usual(self.families.coefficients(batch.theta).to(known)))
        _, sd = self.level()
        return self.distance(self._found(symbols, known) / sd, true / sd, directions=1)

    def predict(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch time channel x"]:
        frames = self.stacked(given).to(self.target_mean)
        return self._found(self.equation(*self.usual(self.families.coefficients(theta).to(frames))), frames)

    def told(
        self, coefficients: Float[Tensor, "batch term"], frames: Float[Tensor, "batch channels_given x"]
    ) -> Float[Tensor, "batch time channel x"]:
        """The target after frames, for equations that need not belong to the families (`equation_terms.TERMS`)."""
        frames = frames.to(self.target_mean)
        return self._found(self.equation(*self.every(coefficients.to(frames))), frames)

    def _found(self, symbols: tuple[Tensor, Tensor], frames: Tensor) -> Tensor:
        each = frames.unflatten(1, (-1, self.channels))
        mean = each.mean((1, 3), keepdim=True)
        sd = (each - mean).square().mean((1, 3), keepdim=True).sqrt().clamp_min(1e-6)
        level = torch.cat([mean.flatten(1), sd.flatten(1)], 1)
        return mean + sd * self.network(((each - mean) / sd).flatten(1, 2), level, *symbols)


class SymbolReader(nn.Module):
    """A network that reads the tokens of an equation.

    It returns the tokens after attention between them, and a mask of the tokens that exist. The first symbol is
    padding.
    """

    def __init__(self, told: SymbolsAndFrames, symbols: int) -> None:
        super().__init__()
        self.known, self.number = nn.Embedding(symbols, told.width), NumberEmbedding(told.width)
        self.layers = nn.ModuleList(RingLayer(told.width, told.heads) for _ in range(told.symbols))

    def forward(self, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self.number(values) * (values != 0)[..., None]
        hidden = self.known(tokens) + numbers + waves_of(tokens.shape[1], self.known.embedding_dim, values)
        there = tokens > 0
        for layer in self.layers:
            hidden = layer(hidden, None, None, (hidden, there))
        return hidden, there


class NoSymbols(nn.Module):
    """A learned constant token, the same for all equations, in place of symbols."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(width))

    def forward(self, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        there = torch.ones_like(values[:, :1], dtype=torch.bool)
        return self.token.expand(len(values), 1, -1), there


class FusedFrames(nn.Module):
    """A network that fuses patches of given channels with symbols, and predicts frames by queries; in any space."""

    def __init__(self, told: SymbolsAndFrames, given: int, wanted: tuple[int, int], space: Sequence[int]) -> None:
        super().__init__()
        self.patch, self.wanted = told.patch, wanted
        seen = given * (told.patch + 2 * (told.patch // 2)) ** len(space)
        self.enter = nn.Sequential(nn.Linear(seen, told.width), nn.GELU(), nn.Linear(told.width, told.width))
        self.level, self.which = NumberEmbedding(told.width), nn.Parameter(torch.randn(2 * wanted[1], told.width))
        self.when = nn.Parameter(torch.randn(wanted[0], told.width))
        self.encoder, self.fusion, self.decoder = (
            nn.ModuleList(RingLayer(told.width, told.heads) for _ in range(layers))
            for layers in (told.encoder, told.fusion, told.decoder)
        )
        values = wanted[1] * told.patch ** len(space)
        self.leave = nn.Sequential(nn.LayerNorm(told.width), nn.Linear(told.width, values))
        self.counts = tuple(points // told.patch for points in space)

    def forward(
        self, fields: Tensor, level: Tensor, symbols: Tensor, there: Tensor, known: Tensor | None = None
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Predicted fields, in the units of the given ones.

        Args:
            fields: Given channels.
            level: Mean and sd of each channel.
            symbols: Tokens of the equation.
            there: Mask of the tokens that exist.
            known: Mask of the levels whose channel exists; None if all exist.
        """
        sides = [2 * math.pi / n * torch.arange(n, device=fields.device, dtype=fields.dtype) for n in self.counts]
        angles = sides[0] if len(sides) == 1 else torch.cartesian_prod(*sides)
        hidden = self.enter(patches(fields, self.patch))
        levels = self.level(level) + self.which
        there = torch.cat([torch.ones_like(level, dtype=torch.bool) if known is None else known, there], 1)
        beside = (torch.cat([levels, symbols], 1), there)
        for layer in self.encoder:
            hidden = layer(hidden, angles, (hidden, angles), None)
        for layer in self.fusion:
            hidden = layer(hidden, angles, (hidden, angles), beside)
        frames, channels = self.wanted
        query = (hidden[:, None] + self.when[:, None]).flatten(1, 2)
        for layer in self.decoder:
            query = layer(query, torch.cat([angles] * frames), (hidden, angles), beside)
        found, axes = self.leave(query).unflatten(1, (frames, *self.counts)), len(self.counts)
        found = found.unflatten(-1, (channels, *[self.patch] * axes)).movedim(2 + axes, 2)
        for k in range(axes):  # The axis within a patch is merged with the axis of patches.
            found = found.movedim(3 + axes, 4 + k).flatten(3 + k, 4 + k)
        return found


_WIDER = 2  # Inner width of the two-layer network, as a multiple of the tokens' width.
_FASTEST = 8  # Largest number m of the rotations.


class RingLayer(nn.Module):
    """A layer of attention, followed by a network at every token.

    Args:
        width: Width of tokens, a multiple of twice the heads.
        heads: Number of attention heads.
    """

    waves: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.leave = nn.Linear(width, width), nn.Linear(width, width)
        self.pair = nn.Linear(width, 2 * width)
        self.inner = nn.Sequential(nn.Linear(width, _WIDER * width), nn.GELU(), nn.Linear(_WIDER * width, width))
        waves = torch.arange(width // heads // 2) % (_FASTEST + 1)
        self.register_buffer("waves", waves.float(), persistent=False)

    def forward(
        self,
        tokens: Float[Tensor, "batch token width"],
        angles: Float[Tensor, " token *direction"] | None,
        ring: tuple[Float[Tensor, "batch key width"], Float[Tensor, " key *direction"]] | None,
        beside: tuple[Float[Tensor, "batch other width"], Bool[Tensor, "batch other"]] | None,
    ) -> Float[Tensor, "batch token width"]:
        """Output tokens.

        Args:
            tokens: Tokens that attend to others.
            angles: Their places, in each direction; None for tokens without places, which do not attend to the ring.
            ring: Tokens on the ring that are attended to, and their places.
            beside: Tokens without places that are attended to, and a mask of those that exist.
        """
        asked = self._split(self.query(self.before(tokens)))
        scores, values = [], []
        if ring is not None and angles is not None:
            key, value = (self._split(part) for part in self.pair(self.before(ring[0])).chunk(2, -1))
            scores.append(self._turned(asked, angles) @ self._turned(key, ring[1]).mT)
            values.append(value)
        if beside is not None:
            key, value = (self._split(part) for part in self.pair(self.before(beside[0])).chunk(2, -1))
            score = asked @ key.mT
            scores.append(torch.where(beside[1][:, None, None, :], score, torch.full_like(score, -1e9)))
            values.append(value)
        share = (torch.cat(scores, -1) / math.sqrt(asked.shape[-1])).softmax(-1)
        tokens = tokens + self.leave((share @ torch.cat(values, -2)).transpose(1, 2).flatten(2))
        return tokens + self.inner(self.between(tokens))

    def _split(self, tokens: Tensor) -> Tensor:
        """(batch, token, width) -> (batch, head, token, width of a head)."""
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _turned(self, parts: Tensor, angles: Tensor) -> Tensor:
        directions = 1 if angles.ndim == 1 else angles.shape[1]
        each = self.waves[: len(self.waves) // directions]  # Each direction rotates its own part of the pairs.
        angle = F.pad((angles[..., None] * each).flatten(1), (0, len(self.waves) - directions * len(each)))
        first, second = parts.chunk(2, -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


class NumberEmbedding(nn.Module):
    """An embedding of numbers c of any size and sign, from c / (1 + |c|), sign, log|c|, and its cosines and sines.

    Args:
        width: Width of the vectors.
        octaves: Number of cosines and sines; they are of 2^k log|c|, k from 0 to octaves - 1.
    """

    def __init__(self, width: int, octaves: int = 4) -> None:
        super().__init__()
        self.octaves = octaves
        self.map = nn.Sequential(nn.Linear(3 + 2 * octaves, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, numbers: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch width"]:
        size = numbers.abs().clamp_min(1e-12).log()
        angle = size[..., None] * 2.0 ** torch.arange(self.octaves, device=numbers.device)
        plain = torch.stack([numbers / (1 + numbers.abs()), numbers.sign(), 0.25 * size], -1)
        return self.map(torch.cat([plain, angle.cos(), angle.sin()], -1))


def waves_of(count: int, width: int, like: Tensor) -> Float[Tensor, "count width"]:
    """Sines and cosines of positions in a sequence, from the shortest to the longest wave."""
    rate = (-math.log(1e4) * torch.arange(width // 2, device=like.device) / (width // 2)).exp()
    angle = torch.arange(count, device=like.device)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], -1).to(like.dtype)


def patches(fields: Float[Tensor, "batch channel *space"], size: int) -> Float[Tensor, "batch patch number"]:
    """Pieces of a ring or a torus, each extended by half a piece on either side."""
    half, directions = size // 2, fields.ndim - 2
    wide = F.pad(fields, (half, half) * directions, mode="circular")
    for axis in range(2, 2 + directions):
        wide = wide.unfold(axis, size + 2 * half, size)
    return wide.movedim(1, 1 + directions).flatten(1, directions).flatten(2)
