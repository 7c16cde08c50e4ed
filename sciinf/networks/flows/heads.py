r"""Output distributions of the links of a chain: a categorical distribution, or a spline for a real number.

Each link computes hidden numbers u by its network (`networks.chain`). A link with K discrete values (labels or counts)
then computes logits l = W u + 8 V c + b, with the context c,

    log q(d) = l_d - log sum_k exp l_k.

The factor 8 makes the direct effect of the context quick to learn, because the optimiser's step size depends on the
size of V. A link for a real number z computes the mean m and log scale s of a Gaussian, and the pieces of a monotone
spline f (`rational_quadratic`),

    e = f((z - m) exp(-s)),      log q(z) = log N(e; 0, 1) + log f' - s.

Both distributions are normalised. In some rows a link's parameter may not exist. The caller must leave out such rows.

References:
    | Neural Spline Flows (Durkan et al., 2019), https://arxiv.org/abs/1906.04032
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.networks.flows import spline_loops
from sciinf.networks.flows.rational_quadratic import EDGE, numbers

BOUND = 5.0  # The spline is the identity outside [-BOUND, BOUND].
_ALL = slice(None)
_BESIDE = 8.0
_SCALES = 8.0  # Log scales lie between -_SCALES and _SCALES.


class Logits(nn.Module):
    """Logits of all links with finitely many values.

    Args:
        values: Number of values of each link.
        hidden: Width of the hidden numbers u.
        features: Width of the context c.
    """

    def __init__(self, values: Sequence[int], hidden: int, features: int) -> None:
        super().__init__()
        layers = [nn.Linear(hidden, number) for number in values]
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.1 * hidden**-0.5)
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)
        beside = [nn.Linear(features, number, bias=False) for number in values]
        for layer in beside:
            nn.init.normal_(layer.weight, std=0.3 * features**-0.5 / _BESIDE)
        self.beside = nn.ModuleList(beside)

    def prepare(self, context: Float[Tensor, "batch feature"]) -> list[Float[Tensor, "batch value"]]:
        """8 V c of each link, the part of the logits that depends on the context alone."""
        return [_BESIDE * layer(context) for layer in self.beside]

    def log_probs(
        self, which: int, u: Float[Tensor, "row hidden"], beside: Float[Tensor, "row value"]
    ) -> Float[Tensor, "row value"]:
        """log q of every value of one link; `beside` is the result of `prepare` for this link."""
        return (self.layers[which](u) + beside).log_softmax(-1)


class Splines(nn.Module):
    """Spline densities of all links for real numbers.

    Args:
        links: Number of links.
        hidden: Width of the hidden numbers u.
        bins: Number of pieces of each spline.
    """

    def __init__(self, links: int, hidden: int, bins: int) -> None:
        super().__init__()
        self.bins, size = bins, 2 + numbers(bins)
        self.weight = nn.Parameter(0.1 * hidden**-0.5 * torch.randn(links, size, hidden))
        bias = torch.zeros(links, size, 1)
        bias[:, 2 + 2 * bins :] = EDGE  # Splines start near the identity.
        self.bias = nn.Parameter(bias)

    def log_prob(
        self, z: Float[Tensor, "link row"], u: Float[Tensor, "link row hidden"], some: slice = _ALL
    ) -> Float[Tensor, "link row"]:
        """log q(z) of the numbers of the links selected by `some`."""
        mean, log_scale, raw = self._pieces(u, some)
        e, log_slope = spline_loops.spline((z - mean) * (-log_scale).exp(), raw, self.bins, BOUND)
        return -0.5 * e.square() - 0.5 * math.log(2 * math.pi) + log_slope - log_scale

    def push(
        self, noise: Float[Tensor, "link row"], u: Float[Tensor, "link row hidden"], some: slice = _ALL
    ) -> Float[Tensor, "link row"]:
        """Numbers z of the links selected by `some`, computed from noise e ~ N(0, 1)."""
        mean, log_scale, raw = self._pieces(u, some)
        return mean + spline_loops.inverse(noise, raw, self.bins, BOUND) * log_scale.exp()

    def _pieces(self, u: Tensor, some: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log scale, each (link, row), and the raw spline parameters in the layout of `rational_quadratic`."""
        found = torch.baddbmm(self.bias[some], self.weight[some], u.transpose(1, 2))
        mean, log_scale = found[:, 0], _SCALES * torch.tanh(found[:, 1] / _SCALES)
        shares, slopes = found[:, 2 : 2 + 2 * self.bins], found[:, 2 + 2 * self.bins :]
        return mean, log_scale, torch.cat([shares.flatten(0, 1), slopes.flatten(0, 1)])
