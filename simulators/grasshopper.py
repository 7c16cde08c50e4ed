r"""Spikes of a grasshopper's ear: when one receptor cell of a locust fires, while it hears a tone that grows and fades.

The sound is a tone of 2.5 kHz whose level wanders at random, with frequencies up to 200 Hz. s(t) is the level in dB,
less its mean; what acts is the level of a moment before, smoothed, less a part of its own recent mean:

    f = L_smoothing (1 - share L_memory) s(t - latency),    L_tau s(t) = int_0^inf s(t - u) e^{-u/tau} du / tau.

The cell fires at a rate that grows with f and saturates, and not at once again,

    r(t) = rate / (1 + exp(-(f - threshold - shift a(t)) / width)),    a(t) = log(1 + t / 500 ms),
    w(t, age) = 1 - exp(-2 (age - c) / c) for age > c, else 0,         c(t) = refractory (1 + t / 500 ms)^growth.

r w is the rate of a spike `age` after the last one. Over seconds the cell tires: the threshold rises (shift), and so
does the time that it needs to recover (growth), both with a power of time. That recovery takes half as long again as
the refractory time, and 500 ms, are what the record's first seconds favour; they are fixed. Time comes in the cells of
the recorder, 0.1 ms each: the likelihood is exact (`sciinf.simulators.dynamics.driven_events`), and simulations follow
it.

The data are the first 600 spikes, as `intervals`: from the beginning of the sound to the first spike, and from each to
the next. A cell that is slower than that is heard for 8 s, and its missing intervals are 0; the likelihood is that of
both ways to end. In the sound's first cell there is no spike. What networks learn from stands beside them, and follows
from them: in each third of the spikes the mean level so many ms before one (`heard`), quantiles of the intervals
(`waits`) and, of a cell much like the recorded one (`LIKE`), how much likelier more of each parameter of r would make
this third (`slopes`): the sum over spikes of d log r / d log parameter, less what is expected.

`grasshopper_spikes.csv`, in ms from the beginning of the sound, and `grasshopper_level.csv`, 500 values in a second,
are of the package nitime 0.12.1 (`grasshopper_spike_times1.txt`, `grasshopper_stimulus1.txt`; its license is in
`grasshopper_license.txt`), recorded by Ariel Rokem, data set ia-1 of CRCNS. The level there has 20,000 values in a
second; that of 500 is within 0.3 dB of it in 99.4 % of the time and 2.4 dB off at worst, where it was clipped. The
silence before the sound is taken as its least level, 18 dB below the mean.

References:
    | Spike-timing precision underlies the coding efficiency of auditory receptor neurons (Rokem et al., 2006),
      https://epub.ub.uni-muenchen.de/60912/
    | Recordings from grasshopper auditory receptor cells (Rokem), https://crcns.org/data-sets/ia/ia-1/about-ia-1
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import HalfNormal, LogNormal, Normal, Observable, Prior, Simulator, Uniform, X
from sciinf.simulators.dynamics.driven_events import DrivenEvents

CELL, SECONDS, SPIKES = 0.1, 8.0, 600  # ms of a cell; s at most; spikes
TIRING, LONG = 500.0, 1e5  # ms; after which all is recovered
SILENCE, SILENT = -18.0, 120  # dB; values of it before the sound
LAGS = range(2, 18)  # ms before a spike
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95)  # of intervals
LIKE = (4_000.0, 5.0, 0.6, 1.6, 6.5, 0.6, 0.5, 10.0, 2.7, 0.25)
DEAD, DRIVING, STEP = 1.35, 8, 1e-3  # times c that a cell of `LIKE` is silent; parameters of r; of a derivative
FOLDER = Path(__file__).parent
_ROWS, _DRAWN = 4, 128  # at once


class Grasshopper(Simulator):
    """When the cell fires.

    Args:
        level: Of another sound of 10 s, in dB less its mean, at equal distances.
    """

    name = "grasshopper"
    prior = Prior(
        rate=(LogNormal(math.log(2_000.0), 0.7), "1/s"),
        threshold=(Normal(3.0, 3.0), "dB"),
        shift=(HalfNormal(1.0), "dB"),
        width=(LogNormal(math.log(2.0), 0.4), "dB"),
        latency=(LogNormal(math.log(6.5), 0.15), "ms"),
        smoothing=(LogNormal(math.log(0.5), 0.5), "ms"),
        share=Uniform(0.0, 1.0),
        memory=(LogNormal(math.log(10.0), 0.5), "ms"),
        refractory=(LogNormal(math.log(3.0), 0.25), "ms"),
        growth=HalfNormal(0.3),
    )
    observables: Mapping[str, Observable] = {
        "intervals": Observable((SPIKES,), "ms", ("spike",), scale="log"),
        "heard": Observable(
            (3, len(LAGS)), "dB", ("third", "lag"), coords={"lag": list(LAGS)}, coord_units={"lag": "ms"}
        ),
        "slopes": Observable((3, DRIVING), "", ("third", "parameter"), coords={"parameter": prior.names[:DRIVING]}),
        "waits": Observable((3, len(SHARES)), "ms", ("third", "share"), coords={"share": SHARES}, scale="log"),
    }
    block = 512
    files = (FOLDER / "grasshopper_level.csv",)

    def __init__(self, level: Tensor | None = None) -> None:
        heard = read(self.files[0]) if level is None else level.double()
        self.level = torch.nn.functional.pad(heard, (0, SILENT * len(heard) // 5_000), value=SILENCE)
        self.cells = round(1e4 / CELL) * len(self.level) // len(heard)  # round a circle: silence precedes the sound
        self.fine = upsampled(torch.fft.rfft(self.level), len(self.level), self.cells)
        self.slope, self.sums = self._slopes()

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        found = torch.full((len(theta), SPIKES), math.inf, dtype=torch.float64)
        for first in range(0, len(theta), _DRAWN):
            times, mask = self.process(theta[first : first + _DRAWN]).draw(generator=generator, most=SPIKES)
            found[first : first + _DRAWN, : times.shape[1]] = times.masked_fill(~mask, math.inf)
        return self.told(found)

    def told(self, times: Float[Tensor, "batch spike"]) -> X:
        """The data of spikes at these times, ms, infinite where there is none."""
        there = times.isfinite()
        number = there.sum(1)
        safe = torch.where(there, times, 0.0)
        away = torch.where(there, torch.cat([safe[:, :1], safe.diff(dim=1)], 1), 0.0)
        cells = (safe / CELL).round().long()
        third = torch.arange(SPIKES) * 3 // number.clamp_min(1)[:, None]
        weight = [(there & (third == k)).double() for k in range(3)]
        level = torch.stack([self.fine[(cells - round(lag / CELL)) % self.cells] for lag in LAGS], -1)
        heard = [(level * w[..., None]).sum(1) / w.sum(1, keepdim=True).clamp_min(1) for w in weight]
        waits = []
        for w in weight:
            ordered = torch.where(w > 0, away, math.inf).sort(1).values
            place = (w.sum(1, keepdim=True) * torch.tensor(SHARES)).long().clamp(0, SPIKES - 1)
            waits.append(ordered.gather(1, place).clamp(max=1e3 * SECONDS))
        data = {"intervals": away, "heard": torch.stack(heard, 1), "waits": torch.stack(waits, 1)}
        data["slopes"] = torch.stack([(self._gained(cells) * w[..., None]).sum(1) for w in weight], 1)
        return {name: value.float() for name, value in data.items()}

    def _gained(self, cells: Tensor) -> Float[Tensor, "batch spike parameter"]:
        """Of each interval, d log r / d log parameter at its end, less what `LIKE` expects of it."""
        before = torch.nn.functional.pad(cells[:, :-1], (1, 0))
        silent = DEAD * LIKE[8] * (before * (CELL / TIRING)).log1p().mul(LIKE[9]).exp() / CELL
        silent[:, 0] = 0.0
        awake = torch.minimum(before + silent.long(), cells)
        return self.slope[cells] - (self.sums[cells] - self.sums[awake])

    def _slopes(self) -> tuple[Tensor, Tensor]:
        """d log r / d log parameter in each cell, and the sums of r times it over all cells before, of `LIKE`."""
        like = torch.tensor([LIKE], dtype=torch.float64)
        here = self._drive(like, SECONDS)[0, 1:]
        found = []
        for j in range(DRIVING):
            ahead, behind = (like * torch.ones(1, 10).index_fill(1, torch.tensor([j]), 1 + e) for e in (STEP, -STEP))
            found.append((self._drive(ahead, SECONDS) / self._drive(behind, SECONDS))[0, 1:].log() / (2 * STEP))
        slope = torch.nn.functional.pad(torch.stack(found, 1), (0, 0, 1, 0))
        sums = (CELL * here[:, None] * slope[1:]).cumsum(0)
        return slope, torch.nn.functional.pad(sums, (0, 0, 1, 0))

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        def asked(process: DrivenEvents, times: Tensor, mask: Tensor) -> Tensor:
            full = mask[:, -1]  # then it ended with the last spike
            return process.log_prob(times, mask, torch.where(full, times[:, -1], 1e3 * SECONDS - CELL / 2))

        return self._over_rows(theta, x, asked)

    def rescaled(self, theta: Tensor, x: X) -> Tensor:
        """Intervals in the model's own time, (batch, spike); NaN where there is none."""
        return self._over_rows(theta, x, lambda process, times, mask: process.rescaled(times, mask))

    def observe(self, *paths: str | Path, columns: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """A file with the times of spikes in ms, one a line below a title; the first 600 count."""
        if len(paths) != 1 or columns:
            raise ValueError(f"expected one file with the times of spikes, got {len(paths)} and columns {columns}")
        return {name: value[0] for name, value in self.told(first(read(paths[0]))).items()}

    def _over_rows(self, theta: Tensor, x: X, asked: Any) -> Tensor:
        away = x["intervals"].double().expand(len(theta), -1)
        mask = away > 0
        times = (away / CELL).round().cumsum(1) * CELL  # of whole cells
        found = [
            asked(self.process(theta[k : k + _ROWS]), times[k : k + _ROWS], mask[k : k + _ROWS])
            for k in range(0, len(theta), _ROWS)
        ]
        return torch.cat(found)

    def process(self, theta: Tensor, seconds: float = SECONDS) -> DrivenEvents:
        """The process at parameters (batch, 10), over the first seconds of the sound."""
        value = dict(zip(self.prior.names, theta.double().T[..., None], strict=True))

        def recovery(times: Tensor, ages: Tensor) -> Tensor:
            c = value["refractory"] * torch.exp(value["growth"] * (times / TIRING).log1p())
            return -torch.expm1(-2 * (ages.clamp_max(LONG) / c - 1).clamp_min(0))

        few = range(0, len(theta), _ROWS)  # which fit into a processor's cache
        return DrivenEvents(torch.cat([self._drive(theta[k : k + _ROWS], seconds) for k in few]), recovery, CELL)

    def _drive(self, theta: Tensor, seconds: float) -> Float[Tensor, "batch cell"]:
        value = dict(zip(self.prior.names, theta.double().T[..., None], strict=True))
        cells = round(1e3 * seconds / CELL)
        tired = torch.arange(cells, dtype=torch.float64) * (CELL / TIRING)
        away = self.filtered(theta)[:, :cells] - value["threshold"] - value["shift"] * tired.log1p()
        rate = value["rate"] / 1e3 * torch.sigmoid(away / value["width"])
        return rate.index_fill(1, torch.zeros(1, dtype=torch.long), 0.0)

    def filtered(self, theta: Tensor) -> Float[Tensor, "batch cell"]:
        """f in each cell of the sound, dB."""
        value = dict(zip(self.prior.names, theta.double().T[..., None], strict=True))
        wave = torch.fft.rfft(self.level)
        omega = 2 * math.pi * torch.arange(len(wave), dtype=torch.float64) / (CELL * self.cells)
        passed = torch.exp(-1j * omega * value["latency"]) / (1 + 1j * omega * value["smoothing"])
        passed = passed * (1 - value["share"] / (1 + 1j * omega * value["memory"]))
        return upsampled(wave * passed, len(self.level), self.cells)


def upsampled(wave: Tensor, size: int, cells: int) -> Tensor:
    """What a Fourier series of `size` values is in each of so many cells."""
    return torch.fft.irfft(wave[..., : (size + 1) // 2], n=cells) * (cells / size)


def read(file: str | Path) -> Float[Tensor, " spike"]:
    """Times of spikes, ms."""
    return torch.from_numpy(np.loadtxt(file, skiprows=1))


def first(times: Float[Tensor, " spike"]) -> Float[Tensor, "1 spike"]:
    """The first spikes of a record, as a batch of one; infinite where there is none."""
    times = times[times < 1e3 * SECONDS][:SPIKES]
    return torch.nn.functional.pad(times, (0, SPIKES - len(times)), value=math.inf)[None]


simulator = Grasshopper()
