r"""MultiONet: a function of points given a latent code, as dot products of two networks averaged over their layers.

A trunk network turns points x into features t_1(x), ..., t_K(x), one vector of width W per layer. A branch network
turns the code into as many coefficients b_1, ..., b_K for each output. From the last L layers,

    N_o(code, x) = c_o + 1/L sum_{l > K-L} w_ol <b_ol, t_l(x)> / sqrt(W),

where DeepONet uses the last layer alone. Here

    t_1 = sin(A x + p),      t_k = tanh(T_k t_{k-1} + q_k),
    b_1 = B code + r,        b_k = b_{k-1} + silu(C_k b_{k-1} + d_k),

with one branch for each output and one trunk for all. Points are the same for every code of a batch, so the trunk is
computed once. Derivatives by x are computed along with the values (forward mode),

    dt_1 = cos(A x + p) A,     dt_k = (1 - t_k^2) T_k dt_{k-1}.

A loss made of these derivatives is differentiated by the weights as usual.

References:
    | DGenNO: A Novel Physics-aware Neural Operator for Solving Forward and Inverse PDE Problems based on Deep,
      Generative Probabilistic Modeling (Zang & Koutsourelakis, 2025), https://arxiv.org/abs/2502.06250
    | Learning nonlinear operators via DeepONet (Lu et al., 2021), https://arxiv.org/abs/1910.03193
    | Implicit Neural Representations with Periodic Activation Functions (Sitzmann et al., 2020), for the sines,
      https://arxiv.org/abs/2006.09661
"""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core.checks import check_positive

_FIRST_WEIGHT = 0.1  # Initial value of the weights w.


@final
class MultiONet(nn.Module):
    """The MultiONet. Its initial weights are drawn from torch's global state.

    Args:
        latent: Width of the code.
        directions: Number of directions of space.
        outputs: Number of output functions.
        width: W, the width of the layers.
        depth: K, the number of layers.
        averaged: L, the number of last layers that are averaged.
        frequency: Sd of the initial entries of A: 2 pi for waves about as long as a unit of x.

    Raises:
        ValueError: If a number is not positive, or more layers are to be averaged than there are.

    Examples:
        >>> network = MultiONet(4, 2, 3, width=16)
        >>> network(torch.ones(5, 4), torch.rand(7, 2)).shape
        torch.Size([5, 3, 7])
    """

    def __init__(
        self,
        latent: int,
        directions: int,
        outputs: int = 1,
        *,
        width: int = 64,
        depth: int = 5,
        averaged: int = 4,
        frequency: float = 2 * math.pi,
    ) -> None:
        super().__init__()
        check_positive(latent=latent, directions=directions, outputs=outputs, width=width, averaged=averaged)
        if depth < max(2, averaged):
            raise ValueError(f"depth is {depth}, expected an integer of at least 2 and at least averaged={averaged}")
        if not 0 < frequency < math.inf:
            raise ValueError(f"frequency is {frequency}, expected a positive number")
        self.depth, self.averaged, self.width = depth, averaged, width
        self.enter = nn.Parameter(frequency * torch.randn(width, directions))
        self.phase = nn.Parameter(2 * math.pi * torch.rand(width))
        self.trunk = nn.Parameter(1.5 / math.sqrt(width) * torch.randn(depth - 1, width, width))
        self.trunk_bias = nn.Parameter(0.3 * torch.randn(depth - 1, width))
        self.coded = nn.Parameter(torch.randn(outputs, latent, width) / math.sqrt(latent))
        self.coded_bias = nn.Parameter(torch.zeros(outputs, 1, width))
        self.branch = nn.Parameter(torch.randn(depth - 1, outputs, width, width) / math.sqrt(width))
        self.branch_bias = nn.Parameter(torch.zeros(depth - 1, outputs, 1, width))
        self.weight = nn.Parameter(torch.full((outputs, averaged), _FIRST_WEIGHT))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(
        self, code: Float[Tensor, "batch latent"], points: Float[Tensor, "point dim"]
    ) -> Float[Tensor, "batch output point"]:
        """Values N at points."""
        return self.combined(self.coefficients(code), self.features(points))

    def with_slopes(
        self, code: Float[Tensor, "batch latent"], points: Float[Tensor, "point dim"]
    ) -> tuple[Float[Tensor, "batch output point"], Float[Tensor, "batch output dim point"]]:
        """Values N, and their derivatives along the directions of space."""
        some = self.coefficients(code)
        jets = self._jets(points, slopes=True)
        both = (some.flatten(0, 1) @ jets.flatten(0, 1).mT).unflatten(1, jets.shape[:2]).unflatten(0, some.shape[:2])
        return both[:, :, 0] + self.bias[:, None], both[:, :, 1:]

    def features(self, points: Float[Tensor, "point dim"]) -> Float[Tensor, "point feature"]:
        """Features of the trunk's last L layers side by side; they do not depend on the code."""
        return self._jets(points, slopes=False)[0]

    def coefficients(self, code: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch output feature"]:
        """Coefficients of the branches' last L layers side by side, multiplied by the weights of the average."""
        hidden, kept = code @ self.coded + self.coded_bias, []
        for k in range(self.depth):
            if k:
                hidden = hidden + F.silu(hidden @ self.branch[k - 1] + self.branch_bias[k - 1])
            if k >= self.depth - self.averaged:
                kept.append(hidden)
        shares = self.weight / (self.averaged * math.sqrt(self.width))
        return (torch.stack(kept, 2) * shares[:, None, :, None]).flatten(2).transpose(0, 1)

    def combined(
        self, coefficients: Float[Tensor, "batch output feature"], features: Float[Tensor, "point feature"]
    ) -> Float[Tensor, "batch output point"]:
        """Values N from the coefficients of the branches and the features of the trunk."""
        return coefficients @ features.mT + self.bias[:, None]

    def _jets(self, points: Tensor, *, slopes: bool) -> Float[Tensor, "jet point feature"]:
        """Features, followed by their derivatives along each direction if `slopes` is True."""
        angle = points @ self.enter.mT + self.phase
        jet = angle.sin()[None]
        if slopes:
            jet = torch.cat([jet, angle.cos() * self.enter.mT[:, None]])
        kept = [jet] if self.averaged == self.depth else []
        for k in range(self.depth - 1):
            turned = jet @ self.trunk[k]
            value = torch.tanh(turned[:1] + self.trunk_bias[k])
            jet = torch.cat([value, (1 - value.square()) * turned[1:]]) if slopes else value
            if k + 1 >= self.depth - self.averaged:
                kept.append(jet)
        return torch.cat(kept, -1)
