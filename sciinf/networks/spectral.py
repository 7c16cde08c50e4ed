r"""Fourier neural operators: networks whose layers act on the longest waves of a field, for any number of grid points.

A spectral convolution maps channels v to channels w,

    w(x) = sum_{|k| < m} e^{i k x} W_k vhat(k),     vhat(k) = 1/n sum_x e^{-i k x} v(x),

with a complex matrix W_k for each wave number k below m (in every direction). Only few waves are kept, so the
transforms are products with small matrices of sines and cosines. These products take less time than fast Fourier
transforms of whole fields. W_k is stored as real and imaginary part, in single or double precision. A layer is

    h <- h + B gelu((1 + a) * (K h + A h + b) + s),     (a, s) = M theta,

with the convolution K, and matrices A and B that act at every point. The parameters theta set a and s, one number each
per channel. Maps at every point connect the fields to the first and the last layer. Fields that are not periodic are
padded with zeros, and the network gets the coordinates of each point as inputs.

References:
    | Fourier Neural Operator for Parametric Partial Differential Equations (Li et al., 2021),
      https://arxiv.org/abs/2010.08895
    | Factorized Fourier Neural Operators (Tran et al., 2023), https://arxiv.org/abs/2111.13802, where the residual form
      comes from
    | FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018), https://arxiv.org/abs/1709.07871
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core.checks import check_positive, check_whole
from sciinf.networks.fields import FieldArchitecture, FieldNetwork

# Default padding of fields that have edges, as a fraction of the points in a direction.
PADDING = 0.1


class SpectralConv(nn.Module):
    """The spectral convolution; a grid with fewer than 2 m points uses all the waves that it has.

    Args:
        channels: Number of input channels and number of output channels.
        modes: m, the number of wave numbers, for each direction.
    """

    def __init__(self, channels: tuple[int, int], modes: Sequence[int]) -> None:
        super().__init__()
        self.modes = tuple(modes)
        kept = math.prod(2 * m - 1 for m in self.modes[:-1]) * self.modes[-1]
        self.weight = nn.Parameter(torch.randn(kept, *channels, 2) / math.sqrt(2 * channels[0]))

    def forward(self, fields: Float[Tensor, "batch channels_in *space"]) -> Float[Tensor, "batch channels_out *space"]:
        with torch.autocast(fields.device.type, enabled=False):
            return self._convolved(fields.to(self.weight))

    def _convolved(self, fields: Tensor) -> Tensor:
        space, weight = fields.shape[2:], self.weight
        modes = tuple(min(m, (n + 1) // 2) for n, m in zip(space, self.modes, strict=True))
        if modes != self.modes:
            each = weight.unflatten(0, [2 * m - 1 for m in self.modes[:-1]] + [self.modes[-1]])
            middle = [slice(m - k, m + k - 1) for k, m in zip(modes[:-1], self.modes[:-1], strict=True)]
            weight = each[(*middle, slice(0, modes[-1]))].flatten(0, len(modes) - 1)
        spectrum = transformed(fields, modes)
        flat = spectrum.flatten(2).permute(2, 0, 1)
        mixed = torch.bmm(flat, torch.complex(*weight.unbind(-1)))
        return restored(mixed.permute(1, 2, 0).unflatten(2, spectrum.shape[2:]), modes, space)


def transformed(fields: Float[Tensor, "batch channel *space"], modes: Sequence[int]) -> Tensor:
    """Lowest Fourier coefficients of real fields, divided by the number of points; complex.

    Wave numbers are 0..m-1 in the last direction and -(m-1)..m-1 in the others.
    """
    last = _half(fields.shape[-1], modes[-1], fields.dtype, fields.device)
    found = torch.view_as_complex((fields @ last).unflatten(-1, (modes[-1], 2)))
    for axis in range(len(modes) - 1):
        waves = _whole(fields.shape[2 + axis], modes[axis], fields.dtype, fields.device)
        found = torch.movedim(torch.movedim(found, 2 + axis, -1) @ waves, -1, 2 + axis)
    return found


def restored(spectrum: Tensor, modes: Sequence[int], space: Sequence[int]) -> Float[Tensor, "batch channel *space"]:
    """Real fields, computed from their lowest Fourier coefficients; the inverse of `transformed`."""
    dtype = torch.float64 if spectrum.dtype == torch.complex128 else torch.float32
    for axis in range(len(modes) - 1):
        waves = _whole(space[axis], modes[axis], dtype, spectrum.device).mH * space[axis]
        spectrum = torch.movedim(torch.movedim(spectrum, 2 + axis, -1) @ waves, -1, 2 + axis)
    last = _half(space[-1], modes[-1], dtype, spectrum.device)
    twice = torch.full((modes[-1],), 2.0, dtype=dtype, device=spectrum.device)
    twice[0] = 1.0
    back = last.mT.unflatten(0, (modes[-1], 2)) * (twice * space[-1])[:, None, None]
    return torch.view_as_real(spectrum.resolve_conj()).flatten(-2) @ back.flatten(0, 1)


@lru_cache(maxsize=32)
def _half(points: int, modes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """e^{-ikx} / n for k = 0..m-1, with real and imaginary parts in alternating columns, (points, 2 m)."""
    angle = 2 * math.pi / points * torch.outer(torch.arange(points), torch.arange(modes)).double()
    return (torch.stack([angle.cos(), -angle.sin()], -1).flatten(1) / points).to(device, dtype)


@lru_cache(maxsize=32)
def _whole(points: int, modes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """e^{-ikx} / n for k = -(m-1)..m-1, complex (points, 2 m - 1)."""
    angle = 2 * math.pi / points * torch.outer(torch.arange(points), torch.arange(1 - modes, modes)).double()
    waves = torch.complex(angle.cos(), -angle.sin()) / points
    return waves.to(device, torch.complex128 if dtype == torch.float64 else torch.complex64)


class Pointwise(nn.Module):
    """A linear map applied at every point: (batch, channels_in, *space) -> (batch, channels_out, *space)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(channels_in)
        self.weight = nn.Parameter(torch.empty(channels_out, channels_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels_out, 1).uniform_(-bound, bound))

    def forward(self, fields: Tensor) -> Tensor:
        return (self.weight @ fields.flatten(2) + self.bias).unflatten(2, fields.shape[2:])


class FourierLayer(nn.Module):
    """One layer of the operator: h + B gelu((1 + a) * (K h + A h + b) + s)."""

    def __init__(self, width: int, modes: Sequence[int], parameters: int) -> None:
        super().__init__()
        self.spectral = SpectralConv((width, width), modes)
        self.beside, self.leave = Pointwise(width, width), Pointwise(width, width)
        self.film = nn.Linear(parameters, 2 * width) if parameters else None

    def forward(self, hidden: Tensor, theta: Tensor) -> Tensor:
        inner = self.spectral(hidden) + self.beside(hidden)
        if self.film is not None:
            scale, shift = self.film(theta).unflatten(-1, (2, -1, *[1] * (hidden.ndim - 2))).unbind(1)
            inner = torch.addcmul(shift, 1 + scale, inner)
        return hidden + self.leave(F.gelu(inner))


class FourierNet(FieldNetwork):
    """The network of a Fourier neural operator, built by `Fourier`."""

    def __init__(self, told: Fourier, channels: tuple[int, int], modes: Sequence[int], parameters: int) -> None:
        super().__init__()
        self.modes, self.coordinates, self.padding = tuple(modes), bool(told.coordinates), told.padding or 0.0
        self.enter = Pointwise(channels[0] + len(modes) * self.coordinates, told.width)
        self.layers = nn.ModuleList(FourierLayer(told.width, modes, parameters) for _ in range(told.layers))
        self.project, self.leave = Pointwise(told.width, told.hidden), Pointwise(told.hidden, channels[1])

    def forward(self, fields: Tensor, theta: Tensor) -> Tensor:
        space = fields.shape[2:]
        if self.coordinates:
            fields = torch.cat([fields, places(space, fields).expand(len(fields), -1, *space)], 1)
        hidden = self.enter(fields)
        if self.padding:
            hidden = F.pad(hidden, [end for n in reversed(space) for end in (0, math.ceil(n * self.padding))])
        for layer in self.layers:
            hidden = layer(hidden, theta)
        hidden = hidden[(..., *(slice(0, n) for n in space))]
        return self.leave(F.gelu(self.project(hidden)))


class Fourier(FieldArchitecture):
    """A Fourier neural operator.

    Args:
                width: Number of channels of the layers.
                modes: m, the number of wave numbers, one number for all directions or one per direction. A grid with
                    fewer waves uses all that it has.
                layers: Number of layers.
                hidden: Number of channels before the last map.
                coordinates: Whether the network gets the coordinates of each point as inputs. False is better if the
                    equation is the same everywhere. With None, a surrogate passes coordinates if its training fields
                    have edges.
                padding: Zeros added beyond the end of each direction, as a fraction of its points, for fields that are
                    not periodic. With None, a surrogate pads by a tenth if its training fields have edges, and else not
                    at all.

    Raises:
        ValueError: If a number is not positive, or the padding is negative.
    """

    def __init__(
        self,
        width: int = 32,
        modes: int | Sequence[int] = 16,
        *,
        layers: int = 4,
        hidden: int = 128,
        coordinates: bool | None = None,
        padding: float | None = None,
    ) -> None:
        check_positive(width=width, layers=layers, hidden=hidden)
        check_modes(modes)
        if padding is not None and padding < 0:
            raise ValueError(f"padding is a fraction of the points of at least 0, got {padding}")
        self.width, self.modes, self.layers, self.hidden = width, modes, layers, hidden
        self.coordinates, self.padding = coordinates, padding

    def at_edges(self) -> Fourier:
        """A copy for fields with edges: `coordinates` and `padding` get their values for edges if they are None."""
        return Fourier(
            self.width,
            self.modes,
            layers=self.layers,
            hidden=self.hidden,
            coordinates=True if self.coordinates is None else self.coordinates,
            padding=PADDING if self.padding is None else self.padding,
        )

    def build(self, channels: tuple[int, int], space: Sequence[int], parameters: int) -> FourierNet:
        modes = each_direction(self.modes, len(space))
        return FourierNet(self, channels, modes, parameters)


def check_modes(modes: int | Sequence[int]) -> None:
    """Check that each number of waves is a whole number of at least 1."""
    for value in (modes,) if isinstance(modes, int) else modes:
        check_whole("modes", value, 1)


def each_direction(modes: int | Sequence[int], directions: int) -> tuple[int, ...]:
    """Number of waves for each direction, as a tuple.

    Raises:
        ValueError: If there is no direction, or `modes` has another number of directions.
    """
    if not directions:
        raise ValueError("fields without space, as of ordinary differential equations, have no waves for this network")
    found = (modes,) * directions if isinstance(modes, int) else tuple(modes)
    if len(found) != directions:
        raise ValueError(f"modes {found} are for {len(found)} directions, the fields have {directions}")
    return found


def places(space: Sequence[int], like: Tensor) -> Float[Tensor, "1 dim *space"]:
    """Coordinates of all grid points, from 0 to 1 in each direction."""
    axes = [torch.linspace(0.0, 1.0, n, dtype=like.dtype, device=like.device) for n in space]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def around(space: Sequence[int], like: Tensor) -> Float[Tensor, "twice_dim ..."]:
    """Cosines and sines of the angles of grid points on a ring or torus, so that no point is the first one."""
    axes = [2 * math.pi / n * torch.arange(n, dtype=like.dtype, device=like.device) for n in space]
    angles = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    return torch.cat([angles.cos(), angles.sin()])
