r"""Base classes of conditional flows, with their shared checks, log density and sampling.

A flow is an invertible map of R^D that depends on a context c, the features of an observation. From data to noise, the
map is e = f(z; c), with e ~ N(0, I), so that

    log q(z | c) = log N(f(z; c); 0, I) + log |det df/dz|,

and a sample is z = f^{-1}(e; c). The caller always passes the noise: a flow has no source of randomness of its own.
Shapes: z, e (n, batch, D); c (batch, C); one row of c serves n samples.

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
    """An invertible map of R^D that depends on a context.

    Args:
        dim: D, the number of dimensions, at least 1.
        context: C, the number of features in the context, at least 1.

    Raises:
        ValueError: If `dim` or `context` is below 1.
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
        """Noise e = f(z; c) and log |det df/dz|, for data z."""

    @abstractmethod
    def decode(self, noise: Points, context: Context) -> Points:
        """Data z = f^{-1}(noise; c), for noise."""

    @abstractmethod
    def loss(self, z: Row, context: RowContext, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Training loss of each row: its expectation is -log q(z | c) up to a constant, or an upper bound of it.

        Args:
            z: Training data, (batch, D).
            context: Features, (batch, C).
            generator: The only source of randomness, for flows whose objective draws noise or estimates a term.
        """

    def forward(self, noise: Tensor, context: Tensor) -> Tensor:
        """Same as `decode`, under the name that torch uses to call a module."""
        return self.decode(noise, context)

    def log_prob(
        self, z: Float[Tensor, "*n batch dim"], context: Float[Tensor, "rows feature"]
    ) -> Float[Tensor, "*n batch"]:
        """Normalised log density of z given the context.

        Args:
            z: Data, (..., batch, D).
            context: Features, (batch, C), one row for each row of z's last batch axis.

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
        """Samples z of q(z | c), computed from standard normal noise.

        The inverse of a spline takes the root of a difference. In single precision, rounding can make this difference
        negative. Such samples are computed again in double precision.

        Args:
            noise: Draws from N(0, I), (n, batch, D).
            context: Features, (batch, C).

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
        """-log q(z | c) of each row, without any random numbers."""
        return -self.log_prob(z, context)


class Architecture(Component, ABC):
    """The settings of a flow, except its sizes, which follow from the data and the prior."""

    @abstractmethod
    def build(self, dim: int, context: int) -> ConditionalFlow:
        """A flow with new random weights.

        Args:
            dim: D, the number of dimensions that the flow describes.
            context: C, the number of features in the context.

        Raises:
            ValueError: If `dim` or `context` is below 1.
        """


def log_normal(noise: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n"]:
    """Log density log N(noise; 0, I) of a standard normal distribution."""
    return -0.5 * (noise.square().sum(-1) + noise.shape[-1] * math.log(2.0 * math.pi))


def single_precision(value: Tensor) -> torch.autocast:
    """A `with` block without autocast: half precision would round z itself, not only the parameters of the map."""
    return torch.autocast(value.device.type, enabled=False)
