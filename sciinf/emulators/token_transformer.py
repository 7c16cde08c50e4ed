r"""A transformer for tokens that have places, modulated by conditioning values.

The tokens t_i are at places p_i in the unit box. A condition c belongs to each token, or to all tokens. For every
layer, with n(.) a normalisation,

    h' = h + A(m_1(h)),    h'' = h' + B(m_2(h')),    m_k(h) = (1 + a_k(c)) n(h) + b_k(c).

B is a two-layer network at each token, and A is attention. Its scores q_i^T k_j / sqrt(d) + f(p_i - p_j) depend on the
relative places of tokens. f is a small network of cosines and sines of 2 pi m (p_i - p_j), m = 1, ..., 4 in each
direction, with one output for each head. On a ring or torus the network has no other input about places. So if the
input is translated by some tokens, the output is translated by as many: an equation that is the same everywhere need
not be learnt at each place. In a box with edges waves are twice as long, so that its ends do not meet. There tokens
also know their absolute places. With `coordinates`, tokens always know them.

References:
    | Scalable Diffusion Models with Transformers (Peebles & Xie, 2023), https://arxiv.org/abs/2212.09748
    | Attention Is All You Need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762
    | Swin Transformer V2 (Liu et al., 2022), for scores from places by a network, https://arxiv.org/abs/2111.09883
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core.checks import check_positive
from sciinf.core.component import Component
from sciinf.core.prior import global_seed

_WAVES = 4
_WIDER = 2  # Inner width of the two-layer network, as a multiple of the tokens' width.


class TokenTransformer(Component):
    """Recipe of a transformer for tokens with places.

    Args:
        width: Width of tokens inside, a multiple of the heads.
        layers: Number of layers of attention, each followed by a network at every token.
        heads: Number of attention heads.
        coordinates: Whether tokens of a ring or torus know their absolute places. This is for equations that are not
            the same everywhere, such as those with a forcing fixed in space.

    Raises:
        ValueError: If one is no int of at least 1, or the width no multiple of the heads.
    """

    def __init__(self, width: int = 96, layers: int = 4, heads: int = 4, *, coordinates: bool = False) -> None:
        check_positive(width=width, layers=layers, heads=heads)
        if width % heads:
            raise ValueError(f"a width of {width} is no multiple of {heads} heads")
        self.width, self.layers, self.heads, self.coordinates = width, layers, heads, coordinates

    def build(self, widths: tuple[int, int, int], places: Tensor, *, edges: bool, seed: int) -> TokenNetwork:
        """A new network with random weights.

        Args:
            widths: Widths of input tokens, of output tokens, and of conditions.
            places: Places of tokens, (token, axis), in the unit box.
            edges: Whether the box has edges; else it is a ring or torus.
            seed: Seed of the initial weights.
        """
        with global_seed(torch.Generator().manual_seed(seed)):
            return TokenNetwork(self, widths, places, edges)


class TokenNetwork(nn.Module):
    """The transformer network; arguments are those of `TokenTransformer.build`."""

    places: Tensor
    apart: Tensor

    def __init__(self, of: TokenTransformer, widths: tuple[int, int, int], places: Tensor, edges: bool) -> None:
        super().__init__()
        inputs, outputs, condition = widths
        width, self.layers, self.heads = of.width, of.layers, of.heads
        places = places.float()
        apart = _waves(places[:, None] - places, 0.5 if edges else 1.0)
        self.register_buffer("apart", apart, persistent=False)
        self.register_buffer("places", _waves(places, 0.5 if edges else 1.0), persistent=False)
        self.enter = nn.Linear(inputs, width)
        self.stand = nn.Linear(apart.shape[-1], width) if edges or of.coordinates else None
        self.blank = condition == 0
        self.given = nn.Sequential(nn.Linear(max(condition, 1), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.modulation = nn.Linear(width, 4 * of.layers * width)
        inner = max(16, 2 * of.heads)
        self.between = nn.Sequential(
            nn.Linear(apart.shape[-1], inner), nn.GELU(), nn.Linear(inner, of.layers * of.heads)
        )
        self.look = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(of.layers))
        self.leave = nn.ModuleList(nn.Linear(width, width) for _ in range(of.layers))
        self.first = nn.ModuleList(nn.Linear(width, _WIDER * width) for _ in range(of.layers))
        self.second = nn.ModuleList(nn.Linear(_WIDER * width, width) for _ in range(of.layers))
        self.out = nn.Linear(width, outputs)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, tokens: Float[Tensor, "batch token input"], condition: Float[Tensor, "batch any condition"]
    ) -> Float[Tensor, "batch token output"]:
        """Output tokens, given input tokens and conditions.

        Args:
            tokens: Input tokens, one for each place.
            condition: One condition for all tokens of a row, (batch, 1, condition), or one for each token.
        """
        if self.blank:
            condition = condition.new_ones(*condition.shape[:-1], 1)
        hidden = self.enter(tokens)
        if self.stand is not None:
            hidden = hidden + self.stand(self.places)
        scores = self.between(self.apart).movedim(-1, 0).unflatten(0, (self.layers, self.heads))
        parts = self.modulation(self.given(condition)).chunk(4 * self.layers, -1)
        for k in range(self.layers):
            hidden = hidden + self._looked(k, _modulated(hidden, parts[4 * k], parts[4 * k + 1]), scores[k])
            shown = _modulated(hidden, parts[4 * k + 2], parts[4 * k + 3])
            hidden = hidden + self.second[k](F.gelu(self.first[k](shown)))
        return self.out(F.layer_norm(hidden, hidden.shape[-1:]))

    def _looked(self, k: int, shown: Tensor, scores: Tensor) -> Tensor:
        query, key, value = self.look[k](shown).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        share = (query @ key.mT / math.sqrt(query.shape[-1]) + scores).softmax(-1)
        found = share @ value
        return self.leave[k](found.transpose(1, 2).flatten(2))


def _modulated(hidden: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, 1 + scale, F.layer_norm(hidden, hidden.shape[-1:]))


def _waves(places: Float[Tensor, "*batch axis"], slowest: float) -> Float[Tensor, "*batch wave"]:
    angle = 2 * math.pi * slowest * places[..., None] * torch.arange(1, _WAVES + 1)
    return torch.cat([angle.cos(), angle.sin()], -1).flatten(-2)
