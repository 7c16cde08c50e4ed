r"""Events in cells of time, driven by an input and inhibited by the last event: spikes of a neuron, failures, bursts.

Time is divided into cells of length d, such as a recorder's time steps, with at most one event in each cell. The drive
r_k >= 0 of cell k is the number of events per unit of time if the last event were long past. The recovery w(t, age),
from 0 to 1, depends on the time and on the age of the last event,

    h_k = d r_k w(t_k, age_k),    P(event in cell k | what was before) = 1 - exp(-h_k),

which is the probability of an event at the constant rate h_k / d during the cell. w = 0 up to some age is absolute
refractoriness. For short d, the model is a point process of the rate r w. The log likelihood of a record is exact,

    log p = sum_{k with an event} log(1 - exp(-h_k)) - sum_{all other k} h_k,

and draws follow this distribution: the next event is in the first cell in which the sum of h since the last event is
above a random threshold ~ Exponential(1).

If the model is right, the intervals between events become independent and uniform after a rescaling of time. A is the
sum of h over the cells between two events, q = h is that of the second event's cell, and v ~ Uniform(0, 1),

    u = 1 - exp(-A) (1 - v (1 - exp(-q))) ~ Uniform(0, 1).

v is the random place of the event within its cell. Without v, times that are rounded to cells would fail this test
although the model is right.

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

_AHEAD = 64  # Number of cells in which the next event is searched at once.
_LEAST = 1e-300  # Smallest probability whose logarithm is taken.
_ROUNDING = 0.01  # Share of a cell by which a time may lie before its cell, because of rounding.


@final
class DrivenEvents:
    """Events that an input drives and the last event inhibits. Each row of a batch has its own drive and recovery.

    Args:
        drive: Events per unit of time in each cell if the last event were long past, (row, cell), at least 0.
        recovery: Factor of the drive, from 0 to 1: `recovery(times, ages)`, (row or 1, any) and (row, any) ->
            (row, any). Times are those at which cells begin, and ages are times since the last event. The age is
            infinite before the first event.
        step: Length of a cell, in the unit of time.
        start: Time at which the first cell begins.

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
        """Time at which the last cell ends."""
        return self.start + self.step * self.drive.shape[1]

    def draw(self, *, generator: torch.Generator, most: int | None = None) -> Events:
        """Draw the events from start to stop: their times, float64, and a mask.

        The time of an event is the beginning of its cell.

        Args:
            generator: Source of randomness.
            most: Number of events after which a row ends. If omitted, every row goes on until the stop.

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
            cell = next_cell + (total <= left[:, None]).sum(1)  # First cell at which the sum is above the threshold.
            found.append(torch.where(happens, cell, cells)[:, None])
            last = torch.where(happens, cell, last)
            left = torch.where(happens, self._waits(rows, generator), left - total[:, -1])
            next_cell = torch.where(happens, cell + 1, next_cell + len(here))
            if most is not None:
                count = count + happens
                next_cell = next_cell.masked_fill(count >= most, cells)
        return self._packed(torch.cat(found, 1))

    def rate(self, times: Float[Tensor, "row event"], mask: Bool[Tensor, "row event"]) -> Float[Tensor, "row cell"]:
        """Events per unit of time in each cell, given the events before the cell: h / d, float64.

        Args:
            times: Times of the events in increasing order, each within its cell.
            mask: True where there is an event. The events of a row come first.

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
        """Log likelihood of the events from start to stop, float64; differentiable in drive and recovery.

        Args:
            times: Times of the events in increasing order, each within its cell.
            mask: True where there is an event. The events of a row come first.
            until: A time in the last observed cell of each row; by default the last cell. A row that was recorded up
                to a fixed number of events is observed up to the cell of its last event.

        Raises:
            ValueError: If events are outside the cells or out of order, two events are in one cell, an event comes
                after a place without one, or the recovery is outside 0 to 1.
        """
        cells = self._cells(times, mask)
        hazard = self._hazard(cells, mask)
        if until is not None:
            place = torch.arange(hazard.shape[1], device=hazard.device)
            hazard = torch.where(place <= self._cell(until)[:, None], hazard, 0.0)
        at = hazard.gather(1, cells)
        # The cell of an event contributes log(1 - e^-h) instead of -h.
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
        """Rescaled intervals between events: independent and Uniform(0, 1) if the model is right.

        The first interval is from the start to the first event. The last interval, which the end of the record cuts
        off, is left out. Therefore the intervals of a record with few events are too short. Places without an event are
        NaN.

        Args:
            times: Times of the events in increasing order, each within its cell.
            mask: True where there is an event. The events of a row come first.
            generator: Source of the random places of events within their cells. If omitted, all events are in the
                middle of their cells, and intervals are nearly uniform if an event in a given cell is unlikely.

        Raises:
            ValueError: As in `log_prob`.
        """
        cells = self._cells(times, mask)
        hazard = self._hazard(cells, mask)
        until = hazard.cumsum(1).gather(1, cells)  # The sum includes the event's own cell.
        own = hazard.gather(1, cells)
        before = torch.cat([torch.zeros_like(until[:, :1]), until[:, :-1]], 1)
        if generator is None:
            v = torch.full_like(own, 0.5)
        else:
            v = torch.rand(own.shape, generator=generator, dtype=torch.float64).to(own)
        lived = (-(until - own - before).clamp_min(0)).exp()
        return torch.where(mask, 1 - lived * (1 + v * torch.expm1(-own)), math.nan)

    def _hazard(self, cells: Int[Tensor, "row event"], mask: Bool[Tensor, "row event"]) -> Float[Tensor, "row cell"]:
        """Hazard h of each cell, given the events before the cell."""
        rows, count = self.drive.shape  # An event in cell k is marked at k + 1, because it acts from the next cell on.
        marks = torch.full((rows, count + 1), -1, dtype=torch.long, device=cells.device)
        marks = marks.scatter(1, torch.where(mask, cells + 1, 0), torch.where(mask, cells, -1))
        last = marks[:, :count].cummax(1).values  # For cell k this is the cell of the last event before k.
        places = torch.arange(count, device=cells.device)[None]
        return self._hazard_at(places, last, self.drive)

    def _hazard_at(self, places: Tensor, last: Tensor, drive: Tensor | None = None) -> Float[Tensor, "row any"]:
        """Hazard h of some cells, given the cell of the last event before each of them.

        Args:
            places: Numbers of the cells.
            last: Number of the last event's cell; -1 if there was no event.
            drive: Drive in the cells; by default gathered from `self.drive`.
        """
        ages = ((places - last) * self.step).double().masked_fill(last < 0, math.inf)
        found = self.recovery(self.start + self.step * places.double(), ages).double()
        if not bool(((found >= 0) & (found <= 1)).all()):
            wrong = found[~((found >= 0) & (found <= 1))][0]
            raise ValueError(f"the recovery is {float(wrong):.6g} somewhere, expected a share from 0 to 1")
        return found * (self.drive.gather(1, places) if drive is None else drive) * self.step

    def _waits(self, rows: int, generator: torch.Generator) -> Float[Tensor, " row"]:
        """Draw a threshold ~ Exponential(1) for the next event of each row."""
        u = torch.rand(rows, generator=generator, dtype=torch.float64, device=generator.device)
        return -torch.log1p(-u).to(self.drive.device)

    def _packed(self, places: Int[Tensor, "row any"]) -> Events:
        """Times and mask of events in the given cells, with the events at the front of each row.

        A number beyond the last cell stands for no event.
        """
        cells = self.drive.shape[1]
        places = places.sort(-1).values
        mask = places < cells
        most = int(mask.sum(-1).max()) if len(mask) else 0
        times = torch.where(mask, self.start + self.step * places.double(), self.stop)
        return times[:, :most], mask[:, :most]

    def _cell(self, times: Tensor) -> Tensor:
        # Rounding to float32 may move a time before the beginning of its cell.
        return ((times.double() - self.start) / self.step + _ROUNDING).floor()

    def _cells(self, times: Tensor, mask: Tensor) -> Int[Tensor, "row event"]:
        """Number of each event's cell; 0 for places without an event."""
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
