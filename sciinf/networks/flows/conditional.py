r"""What every conditional flow does.

A flow is an invertible map of R^D that depends on a context c, the features of an observation. Written from data to
noise it is e = f(z; c), with e ~ N(0, I), so that

    log q(z | c) = log N(f(z; c); 0, I) + log |det df/dz|,

and a draw is z = f^{-1}(e; c). Noise is always given from outside: a flow owns no source of randomness.
Shapes: z, e (n, batch, D); c (batch, C); one row of c serves n draws.

References:
    | Normalizing Flows for Probabilistic Modeling and Inference (Papamakarios et al., 2021),
      https://arxiv.org/abs/1912.02762
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.component import Component

Points = Float[Tensor, "n batch dim"]
Logs = Float[Tensor, "n batch"]
Context = Float[Tensor, "batch feature"]
Row = Float[Tensor, "batch dim"]
RowContext = Float[Tensor, "rows feature"]


class ConditionalFlow(nn.Module, ABC):
    """An invertible map of R^D given a context.

    Args:
        dim: D, at least 1.
        context: C, at least 1.

    Raises:
        ValueError: If either is smaller.
    """

    def __init__(self, dim: int, context: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"a flow needs at least one dimension, got dim={dim}")
        if context < 1:
            raise ValueError(
                f"a conditional flow needs at least one feature to condition on, got context={context}; "
                "check the width of the summaries"
            )
        self.dim, self.context = dim, context

    @abstractmethod
    def encode(self, z: Points, context: Context) -> tuple[Points, Logs]:
        """Noise e = f(z; c) and log |det df/dz|."""

    @abstractmethod
    def decode(self, noise: Points, context: Context) -> Points:
        """z = f^{-1}(noise; c)."""

    @abstractmethod
    def loss(self, z: Row, context: RowContext, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """What training minimises, per row: in expectation -log q(z | c) up to a constant, or a bound on it.

        Args:
            z: (batch, D).
            context: (batch, C).
            generator: The only source of randomness, for flows whose objective draws noise or estimates a term.
        """

    def forward(self, noise: Tensor, context: Tensor) -> Tensor:
        """`decode`, where torch asks for a module's call."""
        return self.decode(noise, context)

    def log_prob(
        self, z: Float[Tensor, "*n batch dim"], context: Float[Tensor, "rows feature"]
    ) -> Float[Tensor, "*n batch"]:
        """Normalised log density of z given the context, (batch, C): one row per row of z's last batch axis.

        Raises:
            ValueError: If the shapes do not fit the flow or each other.
        """
        self._check("z", z, context)
        if z.numel() == 0:
            return z.new_zeros(z.shape[:-1])
        noise, log_det = self.encode(z.reshape(-1, len(context), self.dim), context)
        return (log_normal(noise) + log_det).reshape(z.shape[:-1])

    def push(
        self, noise: Float[Tensor, "*n batch dim"], context: Float[Tensor, "rows feature"]
    ) -> Float[Tensor, "*n batch dim"]:
        """Noise (n, batch, D), drawn from N(0, I), to draws of q(z | c); context (batch, C).

        Inverting a spline takes the root of a difference, which rounding can make negative in single precision; such
        draws are inverted once more in double precision.

        Raises:
            ValueError: If the shapes do not fit the flow or each other, or weights or context are not finite.
        """
        self._check("noise", noise, context)
        if noise.ndim != 3:
            raise ValueError(f"noise has shape {tuple(noise.shape)}, expected (n, batch, {self.dim})")
        if noise.numel() == 0:
            return noise
        z = self.decode(noise, context)
        finite = z.isfinite().all(-1, keepdim=True)
        if not bool(finite.all()):
            state = {name: value.double() for name, value in self.named_parameters()}
            again = torch.func.functional_call(self, state, (noise.double(), context.double())).to(z.dtype)
            z = torch.where(finite, z, again)
            if not bool(z.isfinite().all()):
                raise ValueError("the flow gives draws that are not finite: its weights or its context are not finite")
        return z

    def _check(self, name: str, value: Tensor, context: Tensor) -> None:
        if context.ndim != 2 or context.shape[1] != self.context:
            raise ValueError(f"the context has shape {tuple(context.shape)}, expected (batch, {self.context})")
        if value.ndim < 2 or value.shape[-2:] != (len(context), self.dim):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}, expected (..., {len(context)}, {self.dim}): one row of the "
                "context per row of the batch"
            )


class ExactFlow(ConditionalFlow, ABC):
    """A flow trained by its exact log density."""

    def loss(self, z: Row, context: RowContext, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """-log q(z | c) per row; nothing is drawn."""
        return -self.log_prob(z, context)


class Architecture(Component, ABC):
    """How a flow is made, without its sizes, which data and prior decide."""

    @abstractmethod
    def build(self, dim: int, context: int) -> ConditionalFlow:
        """A flow with freshly drawn weights.

        Args:
            dim: D, how many numbers it describes.
            context: C, how many features it is conditioned on.

        Raises:
            ValueError: If either is below 1.
        """


def log_normal(noise: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n"]:
    """log N(noise; 0, I)."""
    return -0.5 * (noise.square().sum(-1) + noise.shape[-1] * math.log(2.0 * math.pi))


def single_precision(value: Tensor) -> torch.autocast:
    """No autocast within: rounding to half precision would blur z itself, not only what decides its map."""
    return torch.autocast(value.device.type, enabled=False)
