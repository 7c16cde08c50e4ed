"""Networks from fields to fields on a grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.component import Component


class FieldNetwork(nn.Module, ABC):
    """A network of fields, for any number of grid points."""

    @abstractmethod
    def forward(
        self, fields: Float[Tensor, "batch channels_in *space"], theta: Float[Tensor, "batch parameter"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Fields out of fields and standardised parameters."""


class FieldArchitecture(Component, ABC):
    """How such a network is built."""

    @abstractmethod
    def build(self, channels: tuple[int, int], space: Sequence[int], parameters: int) -> FieldNetwork:
        """A new network, its first weights drawn from torch's global state.

        Args:
            channels: Of fields in, and out.
            space: Points of the fields' grid, in each direction.
            parameters: Width of theta.
        """
