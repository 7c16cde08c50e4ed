r"""Events in cells of time, driven by an input and held back by the last event: spikes of a neuron, failures, bursts.

Time is cut into cells of the length d, such as a recorder's, with at most one event in each. With a drive r_k >= 0
of cell k (events per unit of time, were the last one long past) and a recovery w(t, age) from 0 to 1, which depends on
the time and on how long ago the last event was,

    h_k = d r_k w(t_k, age_k),    P(event in cell k | what was before) = 1 - exp(-h_k),

that of a rate h_k / d over the whole cell. w = 0 up to some age is absolute refractoriness; where d is short, this is a
point process of the rate r w. The log likelihood of a record is exact,

    log p = sum_{k with an event} log(1 - exp(-h_k)) - sum_{all other k} h_k,

and draws have this law: the next event is in the first cell at which the sum of h since the last one is above a number
~ Exponential(1).

If the model is right, the intervals between events, told in its own time, are independent and uniform: with A the sum
of h over the cells between two events, q = h of the second one's cell and v ~ Uniform(0, 1),

    u = 1 - exp(-A) (1 - v (1 - exp(-q))) ~ Uniform(0, 1).

v is the place within the cell. Without it, the times of a recorder would fail this test although the model is right.

References:
    | A point process framework for relating neural spiking activity to spiking history, neural ensemble, and extrinsic
      covariate effects (Truccolo et al., 2005), https://doi.org/10.1152/jn.00697.2004
    | Discrete time rescaling theorem: determining goodness of fit for discrete time statistical models of neural
      spiking (Haslinger, Pipa & Brown, 2010), https://doi.org/10.1162/NECO_a_00015
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciinf.simulators.dynamics.points import Events

_AHEAD = 64  # cells that are looked at together
_LEAST = 1e-300  # of a probability, where an event cannot be
_ROUNDING = 0.01  # of a cell, by which a time may be before its cell


@final
class DrivenEvents:
    """Events that an input drives and the last event holds back, in each row of a batch by its own parameters.

    Args:
        drive: Events per unit of time in each cell, were the last one long past, (row, cell), at least 0.
        recovery: `recovery(times, ages)`, (row or 1, any) and (row, any) -> (row, any), from 0 to 1: which part of the
            drive is left in cells that begin at these times, so long after the last event. Before the first event the
            age is infinite.
        step: Length of a cell.
        start: Where the first one begins.

    Raises:
        ValueError: If the drive is not (row, cell), finite and not negative, or a cell has no length.

    Examples:
        >>> tone = (5 + 5 * torch.sin(torch.arange(1000) / 50)).expand(2, -1)
        >>> rested = lambda times, ages: 1 - torch.exp(-ages / 0.05)
        >>> spikes = DrivenEvents(tone, rested, 0.01)
        >>> times, mask = spikes.draw(generator=torch.Generator().manual_seed(0))
        >>> spikes.log_prob(times, mask).shape
        torch.Size([2])
    """

    def __init__(
        self,
        drive: Float[Tensor, "row cell"],
        recovery: Callable[[Tensor, Tensor], Tensor],
        step: float,
        start: float = 0.0,
    ) -> None:
        if drive.ndim != 2 or not bool(((drive >= 0) & (drive < math.inf)).all()):
            raise ValueError(f"the drive is {tuple(drive.shape)}, expected (row, cell), finite and not negative")
        if not 0 < step < math.inf:
            raise ValueError(f"a cell has the length {step}, expected a number above 0")
        self.drive, self.recovery, self.step, self.start = drive.double(), recovery, step, start

    @property
    def stop(self) -> float:
        """Where the last cell ends."""
        return self.start + self.step * self.drive.shape[1]

    def draw(self, *, generator: torch.Generator, most: int | None = None) -> Events:
        """Events from start to stop, each at the beginning of its cell: float64, and a mask.

        Args:
            generator: Source of randomness.
            most: Events of a row, after which it ends; none where left out.

        Raises:
            ValueError: If the recovery is outside 0 to 1.
        """
        rows, cells = self.drive.shape
        here = torch.arange(min(_AHEAD, cells), device=self.drive.device)
        next_cell = torch.zeros(rows, dtype=torch.long, device=self.drive.device)
        last, left = torch.full_like(next_cell, -1), self._waits(rows, generator)
        count, found = torch.zeros_like(next_cell), [next_cell[:, None][:, :0]]
        while bool((next_cell < cells).any()):
            places = next_cell[:, None] + here
            inside = places.clamp(max=cells - 1)
            hazard = self._hazard_at(inside, last[:, None]).masked_fill(places >= cells, 0.0)
            total = hazard.cumsum(1)
            happens = (total[:, -1] > left) & (next_cell < cells)
            cell = next_cell + (total <= left[:, None]).sum(1)  # the first at which the sum is above
            found.append(torch.where(happens, cell, cells)[:, None])
            last = torch.where(happens, cell, last)
            left = torch.where(happens, self._waits(rows, generator), left - total[:, -1])
            next_cell = torch.where(happens, cell + 1, next_cell + len(here))
            if most is not None:
                count = count + happens
                next_cell = next_cell.masked_fill(count >= most, cells)
        return self._packed(torch.cat(found, 1))

    def rate(self, times: Float[Tensor, "row event"], mask: Bool[Tensor, "row event"]) -> Float[Tensor, "row cell"]:
        """Events per unit of time in each cell, given what was before it: h / d, float64.

        Args:
            times: In order, each within its cell.
            mask: Which there are, the first ones of a row.

        Raises:
            ValueError: As in `log_prob`.
        """
        return self._hazard(self._cells(times, mask), mask) / self.step

    def log_prob(
        self,
        times: Float[Tensor, "row event"],
        mask: Bool[Tensor, "row event"],
        until: Float[Tensor, " row"] | None = None,
    ) -> Float[Tensor, " row"]:
        """Log likelihood of all that happened from start to stop, float64; differentiable in drive and recovery.

        Args:
            times: In order, each within its cell.
            mask: Which there are, the first ones of a row.
            until: Of each row, after which cell nothing is known of it: a time in that cell. A record that ends with
                its last event, because that was the last to wait for, ends in its cell. The last cell where left out.

        Raises:
            ValueError: If events are outside or out of order, or two are in one cell, or one comes after a gap, or the
                recovery is outside 0 to 1.
        """
        cells = self._cells(times, mask)
        hazard = self._hazard(cells, mask)
        if until is not None:
            place = torch.arange(hazard.shape[1], device=hazard.device)
            hazard = torch.where(place <= self._cell(until)[:, None], hazard, 0.0)
        at = hazard.gather(1, cells)
        # an event's cell has log(1 - e^-h) in place of -h
        gain = torch.where(mask, at + (-torch.expm1(-at)).clamp_min(_LEAST).log(), 0.0)
        impossible = (mask & (at <= 0)).any(-1)
        return (gain.sum(-1) - hazard.sum(-1)).masked_fill(impossible, -math.inf)

    def rescaled(
        self,
        times: Float[Tensor, "row event"],
        mask: Bool[Tensor, "row event"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "row event"]:
        """Intervals told in the model's own time: independent, Uniform(0, 1) if it is right; NaN where there is none.

        The first is from the start to the first event. The one that the end of the record cuts off is left out, so that
        those of a record of few events are too short.

        Args:
            times: In order, each within its cell.
            mask: Which there are, the first ones of a row.
            generator: Of places within cells. Left out, they are in the middle: nearly uniform where an event in one
                cell is unlikely.

        Raises:
            ValueError: As in `log_prob`.
        """
        cells = self._cells(times, mask)
        hazard = self._hazard(cells, mask)
        until = hazard.cumsum(1).gather(1, cells)  # with the event's own cell
        own = hazard.gather(1, cells)
        before = torch.cat([torch.zeros_like(until[:, :1]), until[:, :-1]], 1)
        if generator is None:
            v = torch.full_like(own, 0.5)
        else:
            v = torch.rand(own.shape, generator=generator, dtype=torch.float64).to(own)
        lived = (-(until - own - before).clamp_min(0)).exp()
        return torch.where(mask, 1 - lived * (1 + v * torch.expm1(-own)), math.nan)

    def _hazard(self, cells: Int[Tensor, "row event"], mask: Bool[Tensor, "row event"]) -> Float[Tensor, "row cell"]:
        """h of each cell."""
        rows, count = self.drive.shape  # the event of each cell is marked one later
        marks = torch.full((rows, count + 1), -1, dtype=torch.long, device=cells.device)
        marks = marks.scatter(1, torch.where(mask, cells + 1, 0), torch.where(mask, cells, -1))
        last = marks[:, :count].cummax(1).values  # of cell k: the last event's cell before k
        places = torch.arange(count, device=cells.device)[None]
        return self._hazard_at(places, last, self.drive)

    def _hazard_at(self, places: Tensor, last: Tensor, drive: Tensor | None = None) -> Float[Tensor, "row any"]:
        """h of some cells, the last event before which was in others, -1 where there was none."""
        ages = ((places - last) * self.step).double().masked_fill(last < 0, math.inf)
        found = self.recovery(self.start + self.step * places.double(), ages).double()
        if not bool(((found >= 0) & (found <= 1)).all()):
            wrong = found[~((found >= 0) & (found <= 1))][0]
            raise ValueError(f"the recovery is {float(wrong):.6g} somewhere, expected a share from 0 to 1")
        return found * (self.drive.gather(1, places) if drive is None else drive) * self.step

    def _waits(self, rows: int, generator: torch.Generator) -> Float[Tensor, " row"]:
        """Exponential(1)."""
        u = torch.rand(rows, generator=generator, dtype=torch.float64, device=generator.device)
        return -torch.log1p(-u).to(self.drive.device)

    def _packed(self, places: Int[Tensor, "row any"]) -> Events:
        """Times of events in these cells, at the front of each row; beyond the last cell there is none."""
        cells = self.drive.shape[1]
        places = places.sort(-1).values
        mask = places < cells
        most = int(mask.sum(-1).max()) if len(mask) else 0
        times = torch.where(mask, self.start + self.step * places.double(), self.stop)
        return times[:, :most], mask[:, :most]

    def _cell(self, times: Tensor) -> Tensor:
        # a time that float32 holds may be below its cell's beginning by its rounding
        return ((times.double() - self.start) / self.step + _ROUNDING).floor()

    def _cells(self, times: Tensor, mask: Tensor) -> Int[Tensor, "row event"]:
        """The cell of each event; 0 where there is none."""
        rows, count = self.drive.shape
        if times.shape != mask.shape or len(times) != rows or mask.dtype != torch.bool:
            raise ValueError(
                f"times are {tuple(times.shape)} and their mask is {tuple(mask.shape)}, {mask.dtype}, expected "
                f"({rows}, event) of both, and a mask of True and False"
            )
        if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise ValueError("an event stands after a place where there is none; put the events of a row first")
        cells = self._cell(times)
        wrong = mask & ~((cells >= 0) & (cells < count))
        wrong[:, 1:] |= mask[:, 1:] & ~(cells[:, 1:] > cells[:, :-1])
        if bool(wrong.any()):
            row, event = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"event {event} of row {row} is at {float(times[row, event])}, expected times in order from "
                f"{self.start} to {self.stop}, at most one in each cell of {self.step}"
            )
        return torch.where(mask, cells, 0).long()
