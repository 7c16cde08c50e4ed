r"""Events in time: Poisson and Hawkes processes, their draws and exact likelihoods.

A process has the intensity lambda(t), events per unit of time given what was before t, and on (S, T) the log likelihood

    log p(t_1 ... t_n) = sum_i log lambda(t_i) - Lambda(T),     Lambda(t) = int_S^t lambda(u) du.

The intensity of a Poisson process is a function of time. In a Hawkes process each event calls for more, eta of them on
average, with delays ~ Exponential(beta):

    lambda(t) = mu + sum_{t_i < t} eta beta e^{-beta (t - t_i)},

so that with A_1 = 0, A_i = e^{-beta (t_i - t_{i-1})} (1 + A_{i-1}) all is known in n steps:

    lambda(t_i) = mu + eta beta A_i,     Lambda(T) = mu (T - S) + eta sum_i (1 - e^{-beta (T - t_i)}).

For eta < 1 there are mu / (1 - eta) events per unit of time in the long run; for eta >= 1 ever more.

Draws are thinned: candidates come at a rate that is never below the intensity, and one at t is an event with
probability lambda(t) / rate. If a model is right, Lambda(t_1), Lambda(t_2) - Lambda(t_1), ... are independent and
Exponential(1), which tests it on data (`compensator`, `rescaled`).

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

_NODES, _PIECES = 8, 32  # of the rule of Gauss and Legendre, in each of so many parts


class PointProcess(ABC):
    """Events in time, in each row of a batch by its own parameters."""

    @abstractmethod
    def draw(self, start: float, stop: float, *, generator: torch.Generator, most: int = 1_000_000) -> Events:
        """Events between two times: float64, and a mask.

        Args:
            start: Nothing was before it; a number, for all rows.
            stop: After the start; a number, for all rows.
            generator: Source of randomness.
            most: Candidates of a row, after which it is given up.

        Raises:
            TypeError: If a time is not a number.
            ValueError: If times run backwards, or a row has more than `most` candidates.
        """

    @abstractmethod
    def intensity(self, times: Times, mask: There) -> Times:
        """lambda just before each event, float64; any number where there is none."""

    @abstractmethod
    def compensator(self, times: Times, mask: There, start: float) -> Times:
        """Lambda at each event, float64; where there is none, at the time that stands there."""

    def log_prob(self, times: Times, mask: Tensor, start: float, stop: float) -> Float[Tensor, " row"]:
        """Log likelihood of events between two times, float64, exactly.

        Args:
            times: In order.
            mask: Which there are, the first ones of a row, (row, event), True or False.
            start: Nothing was before it; a number, for all rows.
            stop: After it nothing is known; a number, for all rows.

        Raises:
            TypeError: If a time is not a number.
            ValueError: If events are out of order or outside, or one comes after a gap.
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
    """Events that know nothing of each other.

    Args:
        rate: `rate(times)`, (row, any) -> (row, any): the intensity, finite and not negative.
        bound: At least as large at any time between start and stop, (row,).
        integral: `integral(start, times)`, the integral of the rate from the start to each time; where left out, a
            quadrature that is exact for polynomials of degree 15 in each of 32 equal parts of (start, time).

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
    """Events that call for more.

    Args:
        base: mu, of events that nothing has called for, per unit of time, (row,).
        branching: eta, how many each event calls for on average, (row,).
        decay: beta, one over the mean delay, (row,).

    Raises:
        ValueError: If one is negative or not finite, or they are not equally many.

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
            raise ValueError(f"there are {lengths}; expected one number of each for each row: expand what all share")
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
        # of each event before, what it has called for until now is eta (1 - e^(-beta (t - t_i)))
        before = mask.double().cumsum(-1) - mask.double()
        called = self.branching[:, None] * (before - self._called(times, mask))
        return self.base[:, None] * (times.double() - start) + called

    def _called(self, times: Tensor, mask: Tensor) -> Tensor:
        """A_i, (row, event)."""
        times, weight = times.double(), mask.double()
        if not times.shape[1]:
            return times
        found = [torch.zeros_like(times[:, 0])]
        for i in range(1, times.shape[1]):
            fade = (-self.decay * (times[:, i] - times[:, i - 1])).exp()
            found.append(fade * (weight[:, i - 1] + found[-1]))
        return torch.stack(found, 1)


def rescaled(process: PointProcess, times: Times, mask: There, start: float) -> Times:
    """Intervals told in the process's own time: 1 - exp(-(Lambda(t_i) - Lambda(t_{i-1}))), float64.

    If it is the right one, they are independent and Uniform(0, 1); where its parameters were fitted to these very
    events, they look more uniform than that. The first is from the start to the first event; the one that the end cuts
    off is left out, so that those of few events are too short. NaN where there is none.

    Args:
        process: Of which the events may be.
        times: In order.
        mask: Which there are, the first ones of a row.
        start: Nothing was before it; a number, for all rows.

    Raises:
        TypeError: If the start is not a number.
        ValueError: If events are out of order or before the start, or one comes after a gap.
    """
    _check(times, mask, start, max(float(times.max()), float(start)) if times.numel() else start)
    at = process.compensator(times, mask, start)
    passed = at.diff(dim=1, prepend=torch.zeros_like(at[:, :1]))
    return torch.where(mask, -torch.expm1(-passed), math.nan)


def _packed(times: Tensor, stop: float) -> Events:
    """Events in order, those that are infinite left out."""
    times = times.sort(-1).values
    mask = times < math.inf
    most = int(mask.sum(-1).max()) if len(times) else 0
    return torch.where(mask, times, stop)[:, :most], mask[:, :most]


def _rule() -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and weights of the quadrature."""
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
