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
the recorder, 0.1 ms each: the likelihood is exact (`sciinf.dynamics.driven_events`), and simulations follow it.

The observable `spikes` holds 0, the times of the spikes in order and, for all spikes that there are not, the end of
the record, 7 s. So a network can tell both ends (`Tally`). `Grasshopper(seconds=10)` looks at the whole record.

`grasshopper_spikes.csv`, in ms from the beginning of the sound, and `grasshopper_level.csv`, 500 values in a second,
are of the package nitime 0.12.1 (`grasshopper_spike_times1.txt`, `grasshopper_stimulus1.txt`; its licence is in
`grasshopper_license.txt`), recorded by Ariel Rokem (data set ia-1 of crcns.org). The level there has 20,000 values in
a second; that of 500 is within 0.3 dB of it in 99.4 % of the time and 2.4 dB off at worst, where it was clipped. Before
the sound, of which no level is given, that of its end is taken, which the first 10 ms or so feel.

References:
    | Spike-timing precision underlies the coding efficiency of auditory receptor neurons (Rokem et al., 2006),
      https://doi.org/10.1152/jn.00891.2005
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import HalfNormal, LogNormal, Normal, Observable, Outcome, Prior, Simulator, Status, Uniform, X
from sciinf.dynamics.driven_events import DrivenEvents
from sciinf.summaries.perceptron import Perceptron
from sciinf.summaries.summary import Summary, SummaryNetwork, check_positive

CELL, SECONDS, MOST = 0.1, 7.0, 2_000  # ms of a cell; s that are looked at; spikes
TIRING = 500.0  # ms
FOLDER = Path(__file__).parent
_ROWS, _DRAWN = 4, 128  # at once
_FINE = 0.5  # ms, within which spikes are the same to the network


class Grasshopper(Simulator):
    """When the cell fires.

    Args:
        seconds: How much of the record is looked at.
        level: Of the sound in dB, less its mean, at equal distances over `period`, for another record; it goes on as it
            began.
        period: s that the level covers.
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
    block = 512
    files = (FOLDER / "grasshopper_level.csv",)

    def __init__(self, seconds: float = SECONDS, level: Tensor | None = None, period: float = 10.0) -> None:
        if level is None:
            level = torch.from_numpy(np.loadtxt(self.files[0], skiprows=1))
        self.seconds, self.level, self.period = seconds, level.double(), period
        self.most = math.ceil(MOST * seconds / SECONDS)
        self.observables: Mapping[str, Observable] = {"spikes": Observable((self.most + 2,), "ms", ("time",))}

    def settings(self) -> Mapping[str, str]:
        return {} if self.seconds == SECONDS else {"seconds": f"{self.seconds:g}"}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Outcome:
        out = torch.full((len(theta), self.most + 2), 1e3 * self.seconds)
        out[:, 0] = 0.0
        status = torch.zeros(len(theta), dtype=torch.uint8)
        for first in range(0, len(theta), _DRAWN):
            rows = slice(first, first + _DRAWN)
            times, mask = self.process(theta[rows]).draw(generator=generator)
            kept = min(times.shape[1], self.most)
            out[rows, 1 : kept + 1] = times[:, :kept].to(out)
            status[rows][mask.sum(-1) > self.most] = int(Status.RAISED)
        words = f"more than {self.most:,} spikes"
        return Outcome({"spikes": out}, status, dict.fromkeys(status.nonzero().flatten().tolist(), words))

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        return self._over_rows(theta, x, lambda process, times, mask: process.log_prob(times, mask)[:, None])[:, 0]

    def rescaled(self, theta: Tensor, x: X) -> Tensor:
        """Intervals in the model's own time, (batch, spike); NaN where there is none."""
        return self._over_rows(theta, x, lambda process, times, mask: process.rescaled(times, mask))

    def observe(self, *paths: str | Path, columns: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """A file with the times of spikes in ms, one a line below a title; those after `seconds` are left out."""
        if len(paths) != 1 or columns:
            raise ValueError(f"expected one file with the times of spikes, got {len(paths)} and columns {columns}")
        return self.record(torch.from_numpy(np.loadtxt(paths[0], skiprows=1)))

    def record(self, times: Tensor) -> dict[str, Tensor]:
        """An observation of spikes at these times, ms, in order."""
        kept = times[times < 1e3 * self.seconds]
        if len(kept) > self.most:
            raise ValueError(f"there are {len(kept):,} spikes in {self.seconds} s, expected at most {self.most:,}")
        out = torch.full((self.most + 2,), 1e3 * self.seconds)
        out[0], out[1 : len(kept) + 1] = 0.0, kept
        return {"spikes": out}

    def process(self, theta: Tensor) -> DrivenEvents:
        """The process at parameters (batch, 10)."""
        value = dict(zip(self.prior.names, theta.double().T[..., None], strict=True))

        def recovery(times: Tensor, ages: Tensor) -> Tensor:
            c = value["refractory"] * torch.exp(value["growth"] * (times / TIRING).log1p())
            return -torch.expm1(-2 * (ages / c - 1).clamp_min(0))

        few = range(0, len(theta), _ROWS)  # which fit into a processor's cache
        return DrivenEvents(torch.cat([self._drive(theta[k : k + _ROWS]) for k in few]), recovery, CELL)

    def _drive(self, theta: Tensor) -> Float[Tensor, "batch cell"]:
        value = dict(zip(self.prior.names, theta.double().T[..., None], strict=True))
        cells = round(1e3 * self.seconds / CELL)
        tired = torch.arange(cells, dtype=torch.float64) * (CELL / TIRING)
        away = self.filtered(theta)[:, :cells] - value["threshold"] - value["shift"] * tired.log1p()
        return value["rate"] / 1e3 * torch.sigmoid(away / value["width"])

    def filtered(self, theta: Tensor) -> Float[Tensor, "batch cell"]:
        """f in each cell of the sound, dB."""
        value = dict(zip(self.prior.names, theta.double().T[..., None], strict=True))
        size, cells = len(self.level), round(1e3 * self.period / CELL)
        wave = torch.fft.rfft(self.level)[: (size + 1) // 2]  # without the last, of which a delay has no half
        omega = 2 * math.pi * torch.arange(len(wave), dtype=torch.float64) / (1e3 * self.period)
        passed = torch.exp(-1j * omega * value["latency"]) / (1 + 1j * omega * value["smoothing"])
        passed = passed * (1 - value["share"] / (1 + 1j * omega * value["memory"]))
        return torch.fft.irfft(wave * passed, n=cells) * (cells / size)

    def _over_rows(self, theta: Tensor, x: X, asked: Any) -> Tensor:
        spikes = x["spikes"].expand(len(theta), -1)
        found = []
        for first in range(0, len(theta), _ROWS):
            times = spikes[first : first + _ROWS, 1:-1].double()
            found.append(asked(self.process(theta[first : first + _ROWS]), times, times < 1e3 * self.seconds))
        return torch.cat(found) if found else torch.zeros(0, self.most)


class Tally(Summary):
    """What a record of spikes is told by: how many, in which time, after which level, at which distances; two layers.

    Args:
        features: Width of the output.
        hidden: Width of the layer before.
    """

    def __init__(self, features: int = 64, hidden: int = 128) -> None:
        check_positive(features=features, hidden=hidden)
        self.features, self.hidden = features, hidden

    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        if spec.dims != ("time",) or masked:
            raise ValueError(f"the summary is for times of spikes along 'time', got {spec.dims or spec.shape}")
        return _Tally(self, spec)


class _Tally(SummaryNetwork):
    patterns: Tensor
    edges: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, plan: Tally, spec: Observable) -> None:
        super().__init__(spec.shape, False)
        self.seconds = SECONDS * (spec.shape[0] - 2) / MOST
        self.register_buffer("patterns", _patterns(self.seconds))
        self.register_buffer("edges", torch.logspace(math.log10(2.0), math.log10(30.0), 20))
        self.features = plan.features
        count = self.patterns.shape[1] + 3 * len(self.edges)
        self.layers = Perceptron([count, plan.hidden, plan.hidden, plan.features])

    def summarise(
        self, x: Float[Tensor, "batch time"], mask: Bool[Tensor, "batch time"]
    ) -> Float[Tensor, "batch feature"]:
        stop = 1e3 * self.seconds
        first, last = x[:, :1], x[:, -1:]
        times = (x[:, 1:-1] - first) / (last - first) * stop  # what was standardised has both ends
        there = (times < stop - CELL / 2).to(x.dtype)
        size = len(self.patterns)
        places = (times / _FINE).long().clamp(0, size - 1)
        raster = torch.zeros(len(x), size, dtype=x.dtype, device=x.device).scatter_add(1, places, there)
        number = there.sum(1, keepdim=True).clamp_min(1)
        told = raster @ self.patterns
        seventh = told[:, :7].clamp_min(0.5).log() - 4.0
        return self.layers(torch.cat([seventh, told[:, 7:] / number, self._intervals(times, there)], 1))

    def _intervals(self, times: Tensor, there: Tensor) -> Tensor:
        """Shares of intervals below each edge, in each third of the record, (batch, 3 edges)."""
        bins = len(self.edges) + 1
        away, both = times.diff(dim=1).contiguous(), there[:, 1:]
        third = (times[:, 1:] * (3e-3 / self.seconds)).long().clamp(0, 2)
        counts = torch.zeros(len(times), 3 * bins, dtype=times.dtype, device=times.device)
        counts = counts.scatter_add(1, third * bins + torch.bucketize(away, self.edges), both)
        counts = counts.reshape(len(times), 3, bins)
        below = (counts.cumsum(2)[..., :-1] + 0.5) / (counts.sum(2, keepdim=True) + 1)
        return (4 * below - 2).flatten(1)


def _patterns(seconds: float) -> Float[Tensor, "time pattern"]:
    """What the number of spikes is in each seventh, and the level before them, by 0.5 ms."""
    simulator = Grasshopper(seconds)
    every = round(_FINE / CELL)
    level = torch.fft.irfft(torch.fft.rfft(simulator.level), n=round(1e3 * simulator.period / CELL))
    level = level[::every] * (len(level) / len(simulator.level)) / 6.0
    count = round(1e3 * seconds / _FINE)
    seventh = torch.arange(count) * 7 // count
    columns = [(seventh == k).double() for k in range(7)]
    for lag in range(0, 60, 2):  # up to 30 ms
        columns += [level.roll(lag)[:count]]
    for lag in range(8, 24, 2):
        columns += [level.roll(lag)[:count].square(), level.roll(lag)[:count].square() * (seventh / 3 - 1)]
        columns += [level.roll(lag)[:count] * (seventh / 3 - 1)]
    return torch.stack(columns, 1).float()


simulator = Grasshopper()
