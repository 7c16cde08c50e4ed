"""Regular grids over boxes: coordinates, wave numbers, derivatives, and interpolation of fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class BoxGrid:
    """Regular grid over the box [0, length] in each direction. The last direction varies fastest.

    A grid without directions belongs to an ordinary differential equation, whose fields have no space.

    Args:
        shape: Number of points in each direction.
        lengths: Side lengths of the box, in the equation's unit of length.
        periodic: Whether the box is periodic. If so, the point at `length` equals the point at 0 and is left out.
            Otherwise both ends are points.

    Raises:
        ValueError: If there are not as many lengths as directions, a length is not positive, or a direction has fewer
            than 2 points.
    """

    shape: tuple[int, ...]
    lengths: tuple[float, ...]
    periodic: bool = True

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.lengths):
            raise ValueError(f"a grid of {len(self.shape)} directions, {len(self.lengths)} lengths: give one for each")
        if min(self.shape, default=2) < 2 or not all(0 < length < math.inf for length in self.lengths):
            raise ValueError(f"a grid has at least 2 points and a positive length in each direction, got {self}")

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance between neighbouring points in each direction."""
        gaps = (n if self.periodic else n - 1 for n in self.shape)
        return tuple(length / gap for length, gap in zip(self.lengths, gaps, strict=True))

    @property
    def space(self) -> tuple[int, ...]:
        """Negative indices of a field's axes of space, such as (-2, -1)."""
        return tuple(range(-len(self.shape), 0))

    @cached_property
    def coordinates(self) -> Float[Tensor, "dim ..."]:
        """Coordinates of every point, (direction, *shape), float64."""
        axes = [h * torch.arange(n, dtype=torch.float64) for h, n in zip(self.spacing, self.shape, strict=True)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))

    @cached_property
    def wave_numbers(self) -> tuple[Tensor, ...]:
        """Wave numbers 2 pi m / length in each direction, float64, shaped to broadcast with `transformed` fields.

        In the last direction m runs from 0 to n / 2, as in a real Fourier transform. With an even number n of points,
        derivatives of odd order take 0 for the highest wave number (`derivative`).
        """
        if not self.periodic:
            raise ValueError(f"a grid with edges has no wave numbers: {self}; make it periodic")
        found, last = [], len(self.shape) - 1
        for k, (n, h) in enumerate(zip(self.shape, self.spacing, strict=True)):
            make = torch.fft.rfftfreq if k == last else torch.fft.fftfreq
            m = make(n, h, dtype=torch.float64)
            found.append(2 * math.pi * m.reshape([-1 if j == k else 1 for j in range(last + 1)]))
        return tuple(found)

    @cached_property
    def squared(self) -> Float[Tensor, "*modes"]:
        """Squared wave number |k|^2 of every mode, float64."""
        total = torch.zeros((), dtype=torch.float64)
        for k in self.wave_numbers:
            total = total + k.square()
        return total

    @cached_property
    def kept(self) -> Tensor:
        """True for modes below two thirds of the highest wave number in each direction.

        Products of fields that have only these modes are not aliased onto these modes.
        """
        mask = torch.ones((), dtype=torch.bool)
        for k, n, h in zip(self.wave_numbers, self.shape, self.spacing, strict=True):
            mask = mask & (k.abs() * h * n / (2 * math.pi) < n / 3 - 1e-9)
        return mask

    def transformed(self, field: Float[Tensor, "*batch"]) -> Tensor:
        """Fourier coefficients of real fields (..., *space), by a real transform."""
        return torch.fft.rfftn(field, dim=self.space)

    def back(self, modes: Tensor) -> Tensor:
        """Real fields (..., *space) of Fourier coefficients."""
        return torch.fft.irfftn(modes, s=self.shape, dim=self.space)

    def slope(self, axis: int) -> Tensor:
        """Factor i k of the first derivative along a direction, complex128.

        With an even number of points the factor is 0 at the highest mode.
        """
        k, n, h = self.wave_numbers[axis], self.shape[axis], self.spacing[axis]
        highest = (k.abs() * h * n / (2 * math.pi)).round() * 2 == n
        return torch.where(highest, torch.zeros_like(k), k) * 1j

    def derivative(self, field: Tensor, axis: int, order: int = 1) -> Tensor:
        """Derivative of real fields (..., *space) along one direction of a periodic grid, by Fourier transform."""
        k = self.slope(axis) if order % 2 else 1j * self.wave_numbers[axis]
        return self.back(self.transformed(field) * (k**order).to(field.device, _complex(field.dtype)))


@dataclass(frozen=True)
class GridInterpolation:
    """Linear interpolation in each direction from a grid to fixed points.

    Args:
        grid: Grid of the fields.
        at: Coordinates of the points, one sequence of numbers for each point.

    Raises:
        ValueError: If a point has another number of coordinates than the grid has directions, or lies outside the box.
    """

    grid: BoxGrid
    at: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(_point(p) for p in self.at))
        for point in self.at:
            if len(point) != len(self.grid.shape):
                raise ValueError(f"the point {point} has not {len(self.grid.shape)} coordinates, as the grid has")
            if any(not 0 <= value <= length for value, length in zip(point, self.grid.lengths, strict=True)):
                raise ValueError(f"the point {point} lies outside the box of {self.grid.lengths}")

    def of(self, field: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch point"]:
        """Values of fields (..., *space) at the points, (..., point)."""
        lead = field.shape[: field.ndim - len(self.grid.shape)]
        at = torch.tensor(self.at, dtype=torch.float64, device=field.device).reshape(1, len(self.at), -1)
        return interpolated(self.grid, field.reshape(1, -1, *self.grid.shape), at).reshape(*lead, len(self.at))


def interpolated(
    grid: BoxGrid, fields: Float[Tensor, "batch channel *space"], at: Float[Tensor, "batch point dim"]
) -> Float[Tensor, "batch channel point"]:
    """Values of fields at points within the box, by linear interpolation in each direction.

    Args:
        grid: Grid of the fields.
        fields: Fields of each row.
        at: Coordinates of the points of each row.
    """
    at = at.double()
    index = torch.zeros(*at.shape[:2], 1, dtype=torch.int64, device=at.device)
    weight = torch.ones(*at.shape[:2], 1, dtype=torch.float64, device=at.device)
    for k, (n, h) in enumerate(zip(grid.shape, grid.spacing, strict=True)):
        low = (at[..., k] / h).floor().clamp_max(n - 1 if grid.periodic else n - 2)
        part = at[..., k] / h - low
        both = torch.stack([low, low + 1], -1).long()
        both = both % n if grid.periodic else both
        index = (index[..., :, None] * n + both[..., None, :]).flatten(2)
        weight = (weight[..., :, None] * torch.stack([1 - part, part], -1)[..., None, :]).flatten(2)
    flat = fields.flatten(2)
    picked = index.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
    return (flat.gather(2, picked).unflatten(2, index.shape[1:]) * weight.to(flat)[:, None]).sum(-1)


def _point(value: float | Sequence[float]) -> tuple[float, ...]:
    return tuple(float(v) for v in value) if isinstance(value, Sequence) else (float(value),)


def _complex(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype == torch.float64 else torch.complex64
