r"""Point processes in time: Poisson and Hawkes processes, with simulation and exact likelihoods.

The intensity lambda(t) is the number of events per unit of time given the events before t. The log likelihood on the
interval (S, T) is

    log p(t_1 ... t_n) = sum_i log lambda(t_i) - Lambda(T),     Lambda(t) = int_S^t lambda(u) du.

The intensity of a Poisson process is a function of time. In a Hawkes process each event triggers eta further events on
average, with delays ~ Exponential(beta):

    lambda(t) = mu + sum_{t_i < t} eta beta e^{-beta (t - t_i)},

so that with A_1 = 0, A_i = e^{-beta (t_i - t_{i-1})} (1 + A_{i-1}) the likelihood takes n steps:

    lambda(t_i) = mu + eta beta A_i,     Lambda(T) = mu (T - S) + eta sum_i (1 - e^{-beta (T - t_i)}).

For eta < 1 there are mu / (1 - eta) events per unit of time in the long run. For eta >= 1 the rate grows without end.

Draws are made by thinning: candidates come at a rate that is never below the intensity, and a candidate at t is an
event with probability lambda(t) / rate. If a model is right, Lambda(t_1), Lambda(t_2) - Lambda(t_1), ... are
independent and Exponential(1). This property tests the model on data (`compensator`, `rescaled`).

References:
    | Simulation of nonhomogeneous Poisson processes by thinning (Lewis & Shedler, 1979),
      https://doi.org/10.1002/nav.3800260304
    | On Lewis' simulation method for point processes (Ogata, 1981), https://doi.org/10.1109/TIT.1981.1056305
    | Spectra of some self-exciting and mutually exciting point processes (Hawkes, 1971),
      https://doi.org/10.1093/biomet/58.1.83
    | The time-rescaling theorem and its application to neural spike train data analysis (Brown et al., 2002),
      https://doi.org/10.1162/08997660252741149
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Times = Float[Tensor, "row event"]
There = Bool[Tensor, "row event"]
Events = tuple[Times, There]
"""Times in order, and which of them there are: rows with fewer events than the most are filled with their stop."""

_NODES, _PIECES = 8, 32  # Nodes of Gauss-Legendre quadrature in each part of an interval, and number of parts.


class PointProcess(ABC):
    """A point process in time, with separate parameters for each row of a batch."""

    @abstractmethod
    def draw(self, start: float, stop: float, *, generator: torch.Generator, most: int = 1_000_000) -> Events:
        """Draw the events between two times: their times, float64, and a mask.

        Args:
            start: Start time, one number for all rows. There are no events before the start.
            stop: Stop time, one number for all rows, after the start.
            generator: Source of randomness.
            most: Largest number of candidates of a row. Beyond this number an error is raised.

        Raises:
            TypeError: If a time is not a number.
            ValueError: If times run backwards, or a row has more than `most` candidates.
        """

    @abstractmethod
    def intensity(self, times: Times, mask: There) -> Times:
        """Intensity lambda just before each event, float64. Places without an event hold an arbitrary number."""

    @abstractmethod
    def compensator(self, times: Times, mask: There, start: float) -> Times:
        """Integrated intensity Lambda from `start` to each entry of `times`, float64.

        Entries without an event are also evaluated, at the time that stands there.
        """

    def log_prob(self, times: Times, mask: Tensor, start: float, stop: float) -> Float[Tensor, " row"]:
        """Exact log likelihood of the events between two times, float64.

        Args:
            times: Times of the events in increasing order.
            mask: True where there is an event, (row, event). The events of a row come first.
            start: Start time, one number for all rows. There are no events before the start.
            stop: End of the record, one number for all rows.

        Raises:
            TypeError: If a time is not a number.
            ValueError: If events are out of order or outside the record, or an event comes after a place without one.
        """
        _check(times, mask, start, stop)
        last = times.new_full((len(times), 1), stop, dtype=torch.float64)
        filled = torch.where(mask, times.double(), stop)
        whole = self.compensator(
            torch.cat([filled, last], 1), torch.cat([mask, mask.new_zeros(len(mask), 1)], 1), start
        )
        logs = torch.where(mask, self.intensity(filled, mask).log(), 0.0)
        return logs.sum(-1) - whole[:, -1]


class PoissonProcess(PointProcess):
    """A Poisson process, whose events are independent of each other.

    Args:
        rate: Intensity, finite and not negative: `rate(times)`, (row, any) -> (row, any).
        bound: Upper bound of the rate at all times between start and stop, (row,).
        integral: Integral of the rate from the start to each time: `integral(start, times)`. If omitted, the integral
            is a quadrature that is exact for polynomials of degree 15 in each of 32 equal parts of (start, time).

    Examples:
        >>> tides = PoissonProcess(lambda t: 5 + 5 * torch.sin(t), torch.tensor([10.0]))
        >>> times, mask = tides.draw(0.0, 20.0, generator=torch.Generator().manual_seed(0))
        >>> tides.log_prob(times, mask, 0.0, 20.0).shape
        torch.Size([1])
    """

    def __init__(
        self,
        rate: Callable[[Tensor], Tensor],
        bound: Float[Tensor, " row"],
        integral: Callable[[float, Tensor], Tensor] | None = None,
    ) -> None:
        if bound.ndim != 1 or not bool(((bound >= 0) & (bound < math.inf)).all()):
            raise ValueError(f"bounds of a rate are {bound.tolist()}, expected (row,), finite and not negative")
        self.rate, self.bound, self.integral = rate, bound.double(), integral

    def draw(self, start: float, stop: float, *, generator: torch.Generator, most: int = 1_000_000) -> Events:
        _order(start, stop)
        count = torch.poisson(self.bound * (stop - start), generator=generator)
        longest = int(count.max()) if len(count) else 0
        if longest > most:
            raise ValueError(f"a row has {longest:,} candidates, more than {most:,}: lower the bound, or raise `most`")
        u = torch.rand(2, len(count), longest, generator=generator, dtype=torch.float64)
        times = (start + (stop - start) * u[0]).to(self.bound)
        rate = self._rate(times)
        if bool((rate > self.bound[:, None] * (1 + 1e-6)).any()):
            raise ValueError(f"the rate is {float(rate.max()):.6g} somewhere, above its bound; raise the bound")
        there = torch.arange(longest, device=times.device) < count[:, None]
        return _packed(torch.where(there & (u[1].to(rate) * self.bound[:, None] < rate), times, math.inf), stop)

    def intensity(self, times: Times, mask: There) -> Times:
        return self._rate(times.double())

    def compensator(self, times: Times, mask: There, start: float) -> Times:
        times = times.double()
        if self.integral is not None:
            return self.integral(start, times)
        nodes, weights = _rule()
        found = torch.zeros_like(times)
        for node, weight in zip(nodes, weights, strict=True):
            found = found + weight * self._rate(start + (times - start) * node)
        return found * (times - start)

    def _rate(self, times: Tensor) -> Tensor:
        rate = self.rate(times).double().expand(times.shape)
        wrong = ~((rate >= 0) & (rate < math.inf))
        if bool(wrong.any()):
            row, event = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"the rate is {float(rate[row, event])} at time {float(times[row, event])}; rates must be finite and "
                "not negative"
            )
        return rate


class Hawkes(PointProcess):
    """A Hawkes process, in which each event triggers further events.

    Args:
        base: Rate mu of events that no earlier event has triggered, per unit of time, (row,).
        branching: Mean number eta of events that each event triggers directly, (row,).
        decay: Decay rate beta, one over the mean delay, (row,).

    Raises:
        ValueError: If a value is negative or not finite, or the three tensors have different lengths.

    Examples:
        >>> quakes = Hawkes(torch.tensor([0.5]), torch.tensor([0.8]), torch.tensor([2.0]))
        >>> times, mask = quakes.draw(0.0, 100.0, generator=torch.Generator().manual_seed(0))
        >>> quakes.log_prob(times, mask, 0.0, 100.0).shape
        torch.Size([1])
    """

    def __init__(
        self, base: Float[Tensor, " row"], branching: Float[Tensor, " row"], decay: Float[Tensor, " row"]
    ) -> None:
        given = {"base": base, "branching": branching, "decay": decay}
        for name, value in given.items():
            if value.ndim != 1 or not bool(((value >= 0) & (value < math.inf)).all()):
                raise ValueError(f"{name} is {value.tolist()}, expected (row,), finite and not negative")
        if len({len(value) for value in given.values()}) > 1:
            lengths = ", ".join(f"{len(value)} of {name}" for name, value in given.items())
            raise ValueError(f"there are {lengths}; expected one number of each for each row: expand shared values")
        self.base, self.branching, self.decay = (value.double() for value in given.values())

    def draw(self, start: float, stop: float, *, generator: torch.Generator, most: int = 1_000_000) -> Events:
        _order(start, stop)
        excess = torch.zeros_like(self.base)
        now = torch.full_like(self.base, start)
        found: list[Tensor] = []
        while bool((now < stop).any()):
            if len(found) == most:
                raise ValueError(
                    f"a row has more than {most:,} candidates before time {float(now.min()):.6g}: each event calls "
                    f"for up to {float(self.branching.max()):.3g} more, and from 1 on there are ever more; lower the "
                    "branching, or raise `most`"
                )
            u = torch.rand(2, len(now), generator=generator, dtype=torch.float64).to(now)
            rate = self.base + excess
            wait = (-(1 - u[0]).log() / rate).nan_to_num(math.inf)
            now = now + wait
            excess = (excess * (-self.decay * wait).exp()).nan_to_num(0.0)
            happens = (u[1] * rate < self.base + excess) & (now < stop)
            excess = excess + happens * self.branching * self.decay
            found.append(torch.where(happens, now, math.inf))
        return _packed(torch.stack(found, 1) if found else now.new_zeros(len(now), 0), stop)

    def intensity(self, times: Times, mask: There) -> Times:
        return self.base[:, None] + (self.branching * self.decay)[:, None] * self._called(times, mask)

    def compensator(self, times: Times, mask: There, start: float) -> Times:
        # Each earlier event has triggered eta (1 - e^(-beta (t - t_i))) events until now on average.
        before = mask.double().cumsum(-1) - mask.double()
        called = self.branching[:, None] * (before - self._called(times, mask))
        return self.base[:, None] * (times.double() - start) + called

    def _called(self, times: Tensor, mask: Tensor) -> Tensor:
        """Decayed count A_i of the events before each event, (row, event)."""
        times, weight = times.double(), mask.double()
        if not times.shape[1]:
            return times
        found = [torch.zeros_like(times[:, 0])]
        for i in range(1, times.shape[1]):
            fade = (-self.decay * (times[:, i] - times[:, i - 1])).exp()
            found.append(fade * (weight[:, i - 1] + found[-1]))
        return torch.stack(found, 1)


def rescaled(process: PointProcess, times: Times, mask: There, start: float) -> Times:
    """Rescaled intervals between events, 1 - exp(-(Lambda(t_i) - Lambda(t_{i-1}))), float64.

    If the process is the right model, the intervals are independent and Uniform(0, 1). If its parameters were fitted to
    the same events, the intervals look more uniform than they should. The first interval is from the start to the first
    event. The last interval, which the end of the record cuts off, is left out. Therefore the intervals of a record
    with few events are too short. Places without an event are NaN.

    Args:
        process: Model to be tested.
        times: Times of the events in increasing order.
        mask: True where there is an event. The events of a row come first.
        start: Start time, one number for all rows. There are no events before the start.

    Raises:
        TypeError: If the start is not a number.
        ValueError: If events are out of order or before the start, or an event comes after a place without one.
    """
    _check(times, mask, start, max(float(times.max()), float(start)) if times.numel() else start)
    at = process.compensator(times, mask, start)
    passed = at.diff(dim=1, prepend=torch.zeros_like(at[:, :1]))
    return torch.where(mask, -torch.expm1(-passed), math.nan)


def _packed(times: Tensor, stop: float) -> Events:
    """Finite times of each row in increasing order, and their mask. Infinite times are left out."""
    times = times.sort(-1).values
    mask = times < math.inf
    most = int(mask.sum(-1).max()) if len(times) else 0
    return torch.where(mask, times, stop)[:, :most], mask[:, :most]


def _rule() -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights of the composite Gauss-Legendre quadrature."""
    import numpy

    nodes, weights = (torch.from_numpy(one) for one in numpy.polynomial.legendre.leggauss(_NODES))
    parts = torch.arange(_PIECES, dtype=torch.float64)[:, None]
    return ((parts + (nodes + 1) / 2) / _PIECES).flatten(), (weights / 2 / _PIECES).repeat(_PIECES)


def _order(start: float, stop: float) -> None:
    for name, time in (("start", start), ("stop", stop)):
        if isinstance(time, Tensor) and time.ndim:
            raise TypeError(f"{name} is {tuple(time.shape)}, expected a number: events of all rows have the same span")
    if not -math.inf < start <= stop < math.inf:
        raise ValueError(f"from {start} to {stop}: times must be finite and not run backwards")


def _check(times: Tensor, mask: Tensor, start: float, stop: float) -> None:
    _order(start, stop)
    if times.ndim != 2 or times.shape != mask.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"times are {tuple(times.shape)} and their mask is {tuple(mask.shape)}, {mask.dtype}, expected (row, "
            "event) of both, and a mask of True and False"
        )
    if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
        raise ValueError("an event stands after a place where there is none; put the events of a row first")
    outside = mask & ~((times >= start) & (times <= stop))
    backwards = mask[:, 1:] & (times[:, 1:] < times[:, :-1])
    if bool(outside.any()) or bool(backwards.any()):
        where = outside if bool(outside.any()) else torch.cat([mask[:, :1] & False, backwards], 1)
        row, event = where.nonzero()[0].tolist()
        raise ValueError(
            f"event {event} of row {row} is at {float(times[row, event])}, expected times in order from {start} to "
            f"{stop}"
        )
