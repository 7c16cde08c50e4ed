"""Standardised inputs of surrogates of series: values with their mask, times, and conditioning values."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sciinf.core import Batch, Observable, Prior, X
from sciinf.core.summary import expand_mask
from sciinf.emulators._fields import FieldMoments
from sciinf.networks.summaries.timed import TIMES

MASK = "_mask"
_BEYOND = 0.1  # Values outside the training range by more than this share of its width cause a warning.


@final
class Inputs(nn.Module):
    """Standardisation and checks of the inputs of a surrogate of series.

    Args:
        prior: The simulator's prior.
        observables: The simulator's observables.
        target: Name of the series, (time, *event).
        given: Names of other observables that are known beforehand.

    Raises:
        ValueError: If a name is unknown or a layout does not suit.

    Attributes:
        used: The observables that the surrogate reads.
        channels, context, controls: How many values there are at a time, of the row as a whole, and known along time.
    """

    theta_mean: Tensor
    theta_sd: Tensor
    whole_mean: Tensor
    whole_sd: Tensor
    along_mean: Tensor
    along_sd: Tensor
    whole_ends: Tensor
    along_ends: Tensor
    origin: Tensor
    step: Tensor
    rows: Tensor

    def __init__(self, prior: Prior, observables: Mapping[str, Observable], target: str, given: Sequence[str]) -> None:
        super().__init__()
        _check(observables, target, given)
        self.target, self.event = target, observables[target].shape[1:]
        self.mask, self.times = (name if name in observables else "" for name in (target + MASK, target + TIMES))
        self.along = tuple(name for name in given if _follows(observables[name], observables[target]))
        self.whole = tuple(name for name in given if name not in self.along)
        names = [name for name in (target, self.mask, self.times, *given) if name]
        self.used = {name: observables[name] for name in names}
        self.channels = math.prod(self.event)
        self.controls = sum(math.prod(observables[name].shape[1:]) for name in self.along)
        known = sum(math.prod(observables[name].shape) for name in self.whole)
        self.parameters_of, self.context = prior.names, len(prior.names) + known
        sizes = {"theta": len(prior.names), "whole": known, "along": self.controls}
        for name, size in sizes.items():
            self.register_buffer(f"{name}_mean", torch.zeros(size, dtype=torch.float64))
            self.register_buffer(f"{name}_sd", torch.ones(size, dtype=torch.float64))
        for name in ("whole", "along"):  # The ends are the least and the largest value of the training rows.
            ends = torch.tensor([[-math.inf], [math.inf]], dtype=torch.float64)
            self.register_buffer(f"{name}_ends", ends.repeat(1, sizes[name]))
        self.register_load_state_dict_pre_hook(_from_before)
        for name, value in (("origin", 0.0), ("step", 1.0), ("rows", 1.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Take means and sds, the unit of time and the number of rows from the training rows.

        Raises:
            ValueError: If times go backwards in a row.
        """
        theta, whole, along = FieldMoments(), FieldMoments(), FieldMoments()
        ends = {name: list[Tensor]() for name in ("whole", "along")}
        count, start, span = 0, 0.0, 0.0
        for batch in batches():
            count += len(batch)
            theta.add(batch.theta, (0,))
            if self.whole:
                whole.add(self._whole(batch.x), (0,))
                ends["whole"].append(torch.stack(self._whole(batch.x).aminmax(dim=0)))
            if self.along:
                along.add(self._along(batch.x), (0, 1))
                ends["along"].append(torch.stack(self._along(batch.x).flatten(0, 1).aminmax(dim=0)))
            if self.times:
                times = self._checked_times(batch.x)
                start, span = start + float(times[:, 0].sum()), span + float((times[:, -1] - times[:, 0]).sum())
        theta.into(self.theta_mean, self.theta_sd)
        if self.whole:
            whole.into(self.whole_mean, self.whole_sd)
        if self.along:
            along.into(self.along_mean, self.along_sd)
        for name, found in ends.items():
            if found:
                every = torch.stack(found)
                self.get_buffer(f"{name}_ends").copy_(torch.stack([every[:, 0].amin(0), every[:, 1].amax(0)]))
        self.rows.fill_(count)
        if self.times and span > 0:
            self.origin.fill_(start / count)
            self.step.fill_(span / count / (self.used[self.target].shape[0] - 1))

    def values(self, x: X) -> tuple[Float[Tensor, "row time channel"], Bool[Tensor, "row time channel"]]:
        """Values of the target, 0 where they are missing, and the mask of the observed ones.

        Raises:
            ValueError: If the series or its mask is missing, or has other channels than in training.
        """
        if self.target not in x or (self.mask and self.mask not in x):
            wanted = " and ".join(repr(name) for name in (self.target, self.mask) if name)
            raise ValueError(
                f"{wanted} are needed, got {sorted(x)}: the observed values, and a mask that is True where observed"
            )
        value = x[self.target]
        if value.shape[2:] != self.event:
            raise ValueError(
                f"{self.target!r} has shape {tuple(value.shape)}; (row, time{''.join(f', {n}' for n in self.event)}) "
                "was learned"
            )
        there = torch.ones_like(value, dtype=torch.bool)
        if mask := self.mask or (self.target + MASK if self.target + MASK in x else ""):
            there = expand_mask(x[mask].to(torch.bool), value.shape)
        value = torch.where(there, value.to(torch.float32), 0.0)
        return tuple(part.reshape(*value.shape[:2], -1) for part in (value, there))  # type: ignore[return-value]

    def known(self, theta: Tensor, x: X) -> Float[Tensor, "row context"]:
        """Standardised parameters and other conditioning values of rows as a whole.

        Raises:
            ValueError: If theta does not have one column for each parameter.
        """
        if theta.ndim != 2 or theta.shape[1] != len(self.parameters_of):
            raise ValueError(
                f"theta has shape {tuple(theta.shape)}: (row, {len(self.parameters_of)}) is needed, a column for each "
                f"of {', '.join(self.parameters_of) or 'no parameters'}"
            )
        parts = [(theta.double() - self.theta_mean) / self.theta_sd]
        if self.whole:
            parts.append((self._whole(x) - self.whole_mean) / self.whole_sd)
        return torch.cat(parts, 1).float()

    def controlled(self, x: X) -> Float[Tensor, "row time control"] | None:
        """Standardised controls (conditioning values along time); None if there are none."""
        return ((self._along(x) - self.along_mean) / self.along_sd).float() if self.along else None

    def nought(self, rows: int) -> Float[Tensor, "row control"] | None:
        """The standardised value of controls that are 0 in their own units."""
        return (-self.along_mean / self.along_sd).float().expand(rows, -1) if self.along else None

    def when(self, x: X) -> Float[Tensor, "row time"] | None:
        """Times in mean steps of the training rows; None for equal steps."""
        if not self.times:
            return None
        return ((_named(x, self.times).double() - self.origin) / self.step).float()

    def check(self, theta: Tensor, x: X, *, target: bool) -> None:
        """Refuse rows of a query that cannot be answered sensibly.

        Args:
            theta: Parameters of rows.
            x: Observables of rows.
            target: Whether values of the target are used.

        Raises:
            ValueError: If a conditioning value or an observed value is not finite, times go backwards, or the series of
                a row differ in length.

        Warns:
            UserWarning: If a conditioning value lies far outside the range of the training rows, such as a dose twice
                the largest.
        """
        seen = {name: _named(x, name) for name in (*self.along, *self.whole)}
        if target:
            seen[self.target] = self.values(x)[0]
        long = [*self.along, *([self.times] if self.times else []), *([self.target] if target else [])]
        if len(lengths := {name: _named(x, name).shape[1] for name in long}) > 1 and len(set(lengths.values())) > 1:
            said = ", ".join(f"{name!r} has {length} times" for name, length in lengths.items())
            raise ValueError(f"{said}: give one value of each for each time")
        if not bool(theta.isfinite().all()):
            raise ValueError(f"a parameter is not finite in some rows of theta ({', '.join(self.parameters_of)})")
        for name, value in seen.items():
            if not bool(value.isfinite().all()):
                raise ValueError(
                    f"{name!r} is not finite in some rows: mark missing values with {self.target + MASK!r}"
                )
        if self.times:
            self._checked_times(x)
        self._warn_beyond(self.along, self.along_ends, x, 2)
        self._warn_beyond(self.whole, self.whole_ends, x, 1)

    def _warn_beyond(self, names: Sequence[str], ends: Tensor, x: X, first: int) -> None:
        """Warn about conditioning values outside the training range by more than a tenth of its width."""
        start = 0
        for name in names:
            value = x[name].double().flatten(0, first - 1)
            value = value.reshape(len(value), -1)
            low, high = ends[:, start : start + value.shape[1]]
            start += value.shape[1]
            slack = _BEYOND * (high - low)
            off = int(((value < low - slack) | (value > high + slack)).any(-1).sum()) if len(value) else 0
            if off:
                warnings.warn(
                    f"{name!r} lies beyond all training rows ({float(low.min()):.4g} to {float(high.max()):.4g}) at "
                    f"{off:,} of {len(value):,} places, up to {float(value.abs().max()):.4g}: there the network "
                    "extrapolates, and its answer is a guess. Simulate such rows and train on them",
                    stacklevel=2,
                )

    def clock(self, rows: int) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
        """One mean step, and time 0, in the simulator's unit of time, for each row."""
        return self.step.float().expand(rows), self.origin.float().expand(rows)

    def _checked_times(self, x: X) -> Tensor:
        times = _named(x, self.times).double()
        if not bool((times.diff(dim=1) >= 0).all()):
            raise ValueError(
                f"{self.times!r} goes backwards in some rows, or is not finite: put values in the order of time"
            )
        return times

    def _whole(self, x: X) -> Tensor:
        return torch.cat([_named(x, name).double().flatten(1) for name in self.whole], 1)

    def _along(self, x: X) -> Tensor:
        parts = [_named(x, name).double() for name in self.along]
        return torch.cat([part.reshape(*part.shape[:2], -1) for part in parts], 2)


def _from_before(module: Inputs, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Add infinite ranges to the state of older fits, which did not record the training range."""
    for name in ("whole_ends", "along_ends"):
        state.setdefault(
            f"{prefix}{name}", torch.full_like(module.get_buffer(name), math.inf) * torch.tensor([[-1], [1]])
        )


def _named(x: X, name: str) -> Tensor:
    if name not in x:
        raise ValueError(f"{name!r} is to be known beforehand, and is missing; there is {', '.join(x) or 'nothing'}")
    return x[name]


def _follows(spec: Observable, target: Observable) -> bool:
    """Whether an observable has the same time axis as the target."""
    times = spec.shape[:1] == target.shape[:1]
    return times and (not spec.dims or not target.dims or spec.dims[0] == target.dims[0])


def _check(observables: Mapping[str, Observable], target: str, given: Sequence[str]) -> None:
    for name in (target, *given):
        if name not in observables:
            raise ValueError(f"there is no observable {name!r}; there is {', '.join(observables)}")
        if name != target and f"{name}{MASK}" in observables:
            raise ValueError(f"{name!r} has a mask, and given values cannot be missing: fill it in, or leave it out")
    if target in given or target + MASK in given or target + TIMES in given:
        raise ValueError(
            f"given names what is known beforehand; {target!r}, its mask and times are always used: leave them out of "
            "given"
        )
    spec = observables[target]
    if not spec.shape or spec.shape[0] < 2:
        raise ValueError(f"{target!r} has shape {spec.shape}; a series is (time, *event), of at least 2 times")
    if spec.scale == "log":
        raise ValueError(f"{target!r} has a logarithmic scale; let the simulator give its logarithm")
    times = observables.get(target + TIMES)
    if times is not None and (times.dtype != "float64" or times.shape != spec.shape[:1]):
        raise ValueError(f"{target + TIMES!r} is to be float64 of shape {spec.shape[:1]}, got {times}")
