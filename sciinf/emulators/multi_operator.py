r"""One network for many equations, told which one by its symbols.

    (v, e) = ((u_1..u_n - m) / s, the equation in prefix notation),     u(t_1..t_T) ~ m + s f(v, e, m, s),

m and s the mean and the standard deviation of the frames u_1..u_n that are given, channel by channel, so that the
network sees and says fields of one size. It has five parts:

    symbols     tokens of the equation (`equation_symbols`); a number is a token with an embedding of its value
    frames      patches of the ring, all frames of a place in one token
    fusion      patches look at each other, at the symbols, and at m and s
    decoder     a query for each frame and patch, which looks at what the fusion made and at symbols; not at each other
    head        from a query's token to the values of a patch

Coefficients are the same all over the ring, and the layers (`ring_transformer`) know no place: a field turned by whole
patches has its prediction turned likewise. In training, rows are turned by any number of points, so that it learns what
lies between. The loss is |u - f| / |u|.

In the paper symbols look at patches as well, space is a plane (as in `multi_fluid`), patches have absolute places, and
numbers are written as sign, mantissa and exponent, each a token: a mantissa that was never seen then says nothing.

Without symbols (`symbols=False`) a learned constant takes their place, and the network has to tell the equation from
what it does between the frames.

Good values: `Recipe(batch=32, optimiser="muon", learning_rate=5e-3, epochs=25)` for 3,000 trajectories of five families
(`simulators/pde/mixed_equations.py`): the mean relative error on new ones was 0.0070, and 0.0132 without symbols. These
had coefficients in seven tenths of the families' ranges; in the other three, between them, it was 0.0060, where a
network that was trained on whole ranges had 0.0051.

References:
    | PROSE-FD: A Multimodal PDE Foundation Model for Learning Multiple Operators for Forecasting Fluid Dynamics (Liu et
      al., 2024), https://arxiv.org/abs/2409.09811
    | PROSE: Predicting Operators and Symbolic Expressions using Multimodal Transformers (Liu, Zhang & Schaeffer, 2023),
      https://arxiv.org/abs/2309.16816
    | Towards a Foundation Model for Partial Differential Equations: Multi-Operator Learning and Extrapolation (Sun et
      al., 2024), https://arxiv.org/abs/2404.12355
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core import Batch, Observable, Prior, X
from sciinf.core.checks import check_positive
from sciinf.core.component import Component
from sciinf.core.prior import global_seed
from sciinf.emulators._errors import Predicting
from sciinf.emulators._fields import rolled
from sciinf.emulators.losses import FieldLoss, RelativeL2
from sciinf.emulators.ring_transformer import NumberEmbedding, RingLayer, patches, waves_of
from sciinf.simulators.dynamics.equation_symbols import SYMBOLS, Tokens, longest
from sciinf.simulators.dynamics.equation_terms import Families


class SymbolsAndFrames(Component):
    """The sizes of the network.

    Args:
        width: Of tokens.
        heads: Of attention; twice their number divides the width.
        patch: Points of a patch; their number divides those of the ring.
        encoder: Layers over patches.
        fusion: Layers over patches and symbols.
        decoder: Layers of the queries.
        symbols: Layers over symbols.

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
        prior: The simulator's, which is that of the families.
        observables: The simulator's.
        families: What parameters say of the equation: those of the simulator, for nothing else tells the coefficients.
        network: Sizes; those of `SymbolsAndFrames()` where left out.
        target: Name of what is predicted.
        given: Name of the frames that it starts from, (frames of a channel under each other, x).
        symbols: Whether it is told the equation.
        loss: Distance of fields; `RelativeL2()` where left out.
        seed: Seeds the first weights.

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
            # contiguous: sums over another layout in memory round differently, and fits would have other bits
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
        """The target after frames, of equations that need not be the families' (`equation_terms.TERMS`)."""
        frames = frames.to(self.target_mean)
        return self._found(self.equation(*self.every(coefficients.to(frames))), frames)

    def _found(self, symbols: tuple[Tensor, Tensor], frames: Tensor) -> Tensor:
        each = frames.unflatten(1, (-1, self.channels))
        mean = each.mean((1, 3), keepdim=True)
        sd = (each - mean).square().mean((1, 3), keepdim=True).sqrt().clamp_min(1e-6)
        level = torch.cat([mean.flatten(1), sd.flatten(1)], 1)
        return mean + sd * self.network(((each - mean) / sd).flatten(1, 2), level, *symbols)


class SymbolReader(nn.Module):
    """Tokens of an equation, which have read each other, and which of them are there: all but the first symbol."""

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
    """A token that is the same for all equations."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(width))

    def forward(self, tokens: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        there = torch.ones_like(values[:, :1], dtype=torch.bool)
        return self.token.expand(len(values), 1, -1), there


class FusedFrames(nn.Module):
    """Patches of some given channels, their fusion with symbols, and queries of frames and channels; in any space."""

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
        """Fields in the units of those given; `known` says which levels are of a channel that is there."""
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
        for k in range(axes):  # what is in a patch goes beside which patch it is
            found = found.movedim(3 + axes, 4 + k).flatten(3 + k, 4 + k)
        return found
