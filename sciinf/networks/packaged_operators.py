"""Neural operators of the neuraloperator package (extra "operators"), as alternatives to this project's own networks.

`FNO` and `UNO` take standardised parameters as extra channels that are constant in space, because these models have no
other input for parameters. `GINO` takes the grid points as a point cloud. Complex weights are trained as their real and
imaginary parts; the package's results do not change. All weights stay in single precision, because the package's
complex weights always have single precision.

References:
    | Neural Operator: Learning Maps Between Function Spaces (Kovachki et al., 2023), https://jmlr.org/papers/v24/21-1524
    | U-NO: U-shaped Neural Operators (Rahman et al., 2023), https://arxiv.org/abs/2204.11127
    | Geometry-Informed Neural Operator for Large-Scale 3D PDEs (Li et al., 2023), https://arxiv.org/abs/2309.00583
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sciinf.networks.fields import FieldArchitecture, FieldNetwork
from sciinf.networks.spectral import places

_PARTS = "_parts"


class PackagedNet(FieldNetwork):
    """A network of the neuraloperator package that maps fields on a grid to fields on a grid."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = real_parts(model)
        self.register_state_dict_post_hook(_weights_alone)

    def forward(self, fields: Tensor, theta: Tensor) -> Tensor:
        with whole(self.model):
            return self.model(beside(fields, theta))


class PackagedCloud(FieldNetwork):
    """A GINO network that is evaluated at the points of a grid.

    Args:
        model: GINO model of the package.
        latent: Number of points of GINO's own latent grid, in each direction.
    """

    def __init__(self, model: nn.Module, latent: int) -> None:
        super().__init__()
        self.model, self.latent = real_parts(model), latent
        self.register_state_dict_post_hook(_weights_alone)

    def forward(self, fields: Tensor, theta: Tensor) -> Tensor:
        space = fields.shape[2:]
        points = places(space, fields)[0].flatten(1).T
        inner = torch.movedim(places((self.latent,) * len(space), fields), 1, -1)
        cloud = beside(fields, theta).flatten(2).mT
        with whole(self.model):
            return self.model(points[None], inner, points[None], cloud).mT.unflatten(2, space)


class FNO(FieldArchitecture):
    """Fourier neural operator of the neuraloperator package.

    Args:
        n_modes: Number of Fourier modes in each direction, as the package counts them (twice as many as in `Fourier`).
        hidden_channels: Number of channels of the layers.
        options: Further arguments of `neuralop.models.FNO`, as plain values.
    """

    def __init__(
        self, n_modes: tuple[int, ...], hidden_channels: int, options: Mapping[str, Any] | None = None
    ) -> None:
        self.n_modes, self.hidden_channels, self.options = tuple(n_modes), hidden_channels, dict(options or {})

    def build(self, channels: tuple[int, int], space: Sequence[int], parameters: int) -> PackagedNet:
        from neuralop.models import FNO as Model

        seen = channels[0] + parameters
        return PackagedNet(Model(self.n_modes, seen, channels[1], self.hidden_channels, **self.options))


class UNO(FieldArchitecture):
    """U-shaped neural operator of the neuraloperator package.

    Args:
        hidden_channels: Number of channels of the first layer.
        options: Further arguments of `neuralop.models.UNO`, as plain values. `uno_out_channels`, `uno_n_modes` and
            `uno_scalings` are required.
    """

    def __init__(self, hidden_channels: int, options: Mapping[str, Any]) -> None:
        self.hidden_channels, self.options = hidden_channels, dict(options)

    def build(self, channels: tuple[int, int], space: Sequence[int], parameters: int) -> PackagedNet:
        from neuralop.models import UNO as Model

        # The package's own defaults for these two arguments fail.
        usual = {"channel_mlp_skip": "linear", "n_layers": len(self.options.get("uno_n_modes", ()))}
        return PackagedNet(Model(channels[0] + parameters, channels[1], self.hidden_channels, **usual | self.options))


class GINO(FieldArchitecture):
    """Geometry-informed neural operator of the neuraloperator package, for fields in two or three directions.

    Args:
        latent: Number of points of GINO's own latent grid, in each direction.
        radius: Distance within which points of the two grids interact. The box has sides of length 1.
        options: Further arguments of `neuralop.models.GINO`, as plain values.
    """

    def __init__(self, latent: int, radius: float, options: Mapping[str, Any] | None = None) -> None:
        self.latent, self.radius, self.options = latent, radius, dict(options or {})

    def build(self, channels: tuple[int, int], space: Sequence[int], parameters: int) -> PackagedCloud:
        from neuralop.models import GINO as Model

        seen = channels[0] + parameters
        told: dict[str, Any] = {"fno_in_channels": seen, "fno_n_modes": (8,) * len(space), "fno_hidden_channels": 32}
        told |= {"gno_use_open3d": False, "gno_use_torch_scatter": False, "gno_coord_dim": len(space)}
        told |= {"in_gno_radius": self.radius, "out_gno_radius": self.radius}
        model = Model(seen, channels[1], **told | self.options)
        return PackagedCloud(model, self.latent)


def beside(fields: Tensor, theta: Tensor) -> Tensor:
    """Fields, followed by one constant field for each parameter, along the channel axis."""
    constant = theta.reshape(*theta.shape, *[1] * (fields.ndim - 2)).expand(-1, -1, *fields.shape[2:])
    return torch.cat([fields, constant.to(fields)], 1)


def real_parts(model: nn.Module) -> nn.Module:
    """Replace complex parameters of a model by their real and imaginary parts, in place; see `whole`."""
    for module in list(model.modules()):
        for name, value in list(module.named_parameters(recurse=False)):
            if value.is_complex():
                delattr(module, name)
                module.register_parameter(name + _PARTS, nn.Parameter(torch.view_as_real(value.detach()).clone()))
    return model


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """A `with` block in which a model changed by `real_parts` has its complex parameters again, and can be called."""
    names = [(m, n.removesuffix(_PARTS)) for m in model.modules() for n, _ in m.named_parameters(recurse=False)]
    parted = [(module, name) for module, name in names if name + _PARTS in dict(module.named_parameters(recurse=False))]
    for module, name in parted:
        setattr(module, name, torch.complex(*getattr(module, name + _PARTS).unbind(-1)))
    try:
        yield
    finally:
        for module, name in parted:
            delattr(module, name)


def _weights_alone(module: nn.Module, state: dict[str, Any], prefix: str, *rest: object) -> None:
    """Remove the metadata that the package stores among the weights."""
    state.pop("_metadata", None)
