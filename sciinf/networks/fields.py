"""Networks from fields to fields on a grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.component import Component


class FieldNetwork(nn.Module, ABC):
    """A network that maps fields on a grid to fields on the same grid, for any number of grid points."""

    @abstractmethod
    def forward(
        self, fields: Float[Tensor, "batch channels_in *space"], theta: Float[Tensor, "batch parameter"]
    ) -> Float[Tensor, "batch channels_out *space"]:
        """Output fields, computed from input fields and standardised parameters theta."""


class FieldArchitecture(Component, ABC):
    """The settings of a `FieldNetwork`, from which `build` makes the network."""

    @abstractmethod
    def build(self, channels: tuple[int, int], space: Sequence[int], parameters: int) -> FieldNetwork:
        """A new network whose initial weights are drawn from torch's global random state.

        Args:
            channels: Number of input channels and number of output channels.
            space: Number of grid points in each direction.
            parameters: Number of parameters theta.
        """
