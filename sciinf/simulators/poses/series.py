"""Shifts in time of time series and of their spectra."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import X
from sciinf.core.component import Component
from sciinf.simulators.poses.pose import values_of


class TimeShift(Component):
    """Delays time series by a pose, with linear interpolation between samples.

    Args:
        step: Time between samples, in the pose's unit.
        names: Observables to be moved, whose first axis is time. All observables except masks by default.
        before: Value of samples that come from before the series.
        after: Value of samples that come from after the series.

    Raises:
        ValueError: If the step is not above 0.
    """

    def __init__(
        self, step: float, names: tuple[str, ...] | None = None, *, before: float = 0.0, after: float = 0.0
    ) -> None:
        if not step > 0:
            raise ValueError(f"the time between samples is above 0, got {step}")
        self.step, self.before, self.after = float(step), float(before), float(after)
        self.names = None if names is None else tuple(names)

    def __call__(self, x: X, pose: Float[Tensor, "batch 1"]) -> X:
        shift = pose[:, 0] / self.step
        return {name: self._moved(x[name], shift) for name in self.names or values_of(x)}

    def _moved(self, value: Tensor, shift: Float[Tensor, " batch"]) -> Tensor:
        """Series with the values at t - shift, by linear interpolation."""
        length = value.shape[1]
        whole = shift.floor()
        part = (shift - whole).to(value)[:, None, *([None] * (value.ndim - 2))]
        index = torch.arange(length, device=value.device) - whole[:, None].long()
        return (1 - part) * self._taken(value, index) + part * self._taken(value, index - 1)

    def _taken(self, value: Tensor, index: Tensor) -> Tensor:
        length = value.shape[1]
        shape = (*index.shape, *([1] * (value.ndim - 2)))
        inner = index.clamp(0, length - 1).view(shape).expand(value.shape)
        outside = torch.where(index < 0, self.before, self.after).to(value).view(shape)
        return torch.where(((index >= 0) & (index < length)).view(shape), value.gather(1, inner), outside)


class SpectrumShift(Component):
    """Delays time series by a pose through the phases exp(-2 pi i f pose) of their spectra.

    Spectra have the shape (frequency, 2), with real and imaginary parts.

    Args:
        first: Lowest frequency, in one over the pose's unit.
        step: Difference between consecutive frequencies, in one over the pose's unit.
        names: Observables to be moved. All observables except masks by default.

    Raises:
        ValueError: If the step is not above 0.
    """

    def __init__(self, first: float, step: float, names: tuple[str, ...] | None = None) -> None:
        if not step > 0:
            raise ValueError(f"the step between frequencies is above 0, got {step}")
        self.first, self.step = float(first), float(step)
        self.names = None if names is None else tuple(names)

    def __call__(self, x: X, pose: Float[Tensor, "batch 1"]) -> X:
        return {name: self._moved(x[name], pose) for name in self.names or values_of(x)}

    def _moved(self, value: Float[Tensor, "batch frequency 2"], pose: Tensor) -> Tensor:
        frequency = self.first + self.step * torch.arange(value.shape[1], device=value.device, dtype=value.dtype)
        angle = -2 * math.pi * frequency * pose.to(value)
        turn = torch.complex(angle.cos(), angle.sin())
        return torch.view_as_real(torch.view_as_complex(value.contiguous()) * turn)
