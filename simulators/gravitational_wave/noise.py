r"""Noise of the detectors: measured from strain files, drawn at random, and divided out.

A detector's noise is Gaussian with one-sided power spectral density S(f); its root is the amplitude spectral density.
Of a segment of T seconds, with n(f) the integral of n(t) exp(-2 pi i f t) dt, real and imaginary part of

    2 n(f) / sqrt(T S(f))                                                                                    (`whiten`)

are N(0, 1) each, at frequencies 1 / T apart. Measured curves are medians of the periodograms of segments, divided by
what the median is of the mean of an exponential law (`welch`). Drawn curves (`draw_curves`) are

    log sqrt(S) = log sqrt(S_0) + o + d(log f) + 1/2 log(1 + sum_l h_l (1 + (f - f_l)^2 / w_l^2)^{-3}) + e(f),
    S_0 = 5e-47 / Hz ((54 / f)^7 + (80 / f)^{5/2} + 1 + (f / 480)^2),    f in Hz:

S_0 has one power law each for the ground, the thermal noise and light's shot noise, as the published fits do, with
constants that make it like the detectors' first observing run; o ~ N(0, 0.25^2) is the scale, d a Gaussian process of
sd 0.4 and length 0.25 in log f; lines are those of the mains, of calibration, of the suspensions' violin modes and
some of unknown cause; e ~ N(0, s^2), independent from bin to bin with s ~ U(0.05, 0.35), is what a measured curve
has of the finite number of its segments.

References:
    | Physics, astrophysics and cosmology with gravitational waves, table 1 (Sathyaprakash & Schutz, 2009), for the form
      of S_0, https://arxiv.org/abs/0903.0338
    | FINDCHIRP, appendix B (Allen et al., 2012), for medians of periodograms, https://arxiv.org/abs/gr-qc/0509116
    | Open data from the first and second observing runs of Advanced LIGO and Advanced Virgo (Abbott et al., 2021), for
      the files, https://arxiv.org/abs/1912.11716
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

SECONDS, RAMP = 4.0, 0.2  # of data, the trigger in their middle, and of the window's rise and fall
LOW, HIGH = 20.0, 512.0  # Hz
RATES = (4096, 16384)  # Hz, of public files
SCALE, BENT, LENGTH = 0.25, 0.4, 0.25
REACH = 100  # bins
# of each line: from where to where it may be in Hz, the largest logarithm of its height over the curve, largest width
LINES = (
    *[(34.0, 42.0, 4.5, 0.6)] * 3,  # calibration
    *[(20.0, 512.0, 2.5, 0.6)] * 6,  # unknown
    *[(496.0, 513.0, 7.0, 2.0)] * 6,  # violin modes
    *[(f - 0.05, f + 0.05, 4.0, 0.6) for f in (60.0, 120.0, 180.0, 240.0, 300.0)],  # mains
)


def bins(seconds: float) -> slice:
    """Where the frequencies from 20 to 512 Hz stand in a spectrum of that many seconds.

    Raises:
        ValueError: If it is no whole number of seconds.
    """
    if seconds != int(seconds) or seconds < 1:
        raise ValueError(f"data are taken of a whole number of seconds, such as 4, 8 or 16, got {seconds:g}")
    return slice(round(LOW * seconds), round(HIGH * seconds))


def frequencies(seconds: float) -> Float[Tensor, " frequency"]:
    """These frequencies, Hz, float64."""
    part = bins(seconds)
    return torch.arange(part.start, part.stop, dtype=torch.float64) / seconds


def seconds_of(count: int) -> float:
    """Of how many seconds so many frequencies are."""
    return count / (HIGH - LOW)


@dataclass(frozen=True)
class Strain:
    """Strain of one detector.

    Attributes:
        detector: "H1", "L1", ...
        start: GPS time of the first sample, s.
        rate: Samples per second.
        values: Dimensionless strain, (n,), float64.
        name: The file's, for messages.
    """

    detector: str
    start: float
    rate: int
    values: np.ndarray
    name: str = "the strain"

    @property
    def stop(self) -> float:
        return self.start + len(self.values) / self.rate

    def segment(self, gps: float, seconds: float) -> tuple[int, int]:
        """First sample and the one after the last of that many seconds around a GPS time.

        Raises:
            ValueError: If they are not all in the file.
        """
        first = round((gps - seconds / 2 - self.start) * self.rate)
        last = first + round(seconds * self.rate)
        if not self.start <= gps < self.stop:
            raise ValueError(
                f"{self.name} has GPS {self.start:.0f} to {self.stop:.0f}, which {gps:.2f} is not in; give the "
                "trigger's GPS time, or the file that holds it"
            )
        if first < 0 or last > len(self.values):
            raise ValueError(
                f"{self.name} has GPS {self.start:.0f} to {self.stop:.0f}, and {seconds:g} s around {gps:.2f} are "
                "needed; take a file that goes on"
            )
        return first, last


def read_losc(path: str | Path, detector: str | None = None) -> Strain:
    """Strain from an HDF5 file of the Gravitational Wave Open Science Center.

    Args:
        path: The file; 4096 or 16384 samples per second.
        detector: The one it must be of, "H1" or "L1"; any where left out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file, is of another detector or rate, or has gaps.
    """
    import h5py

    path = Path(path)
    try:
        with h5py.File(path) as file:
            data: Any = file["strain/Strain"]
            meta: Any = file["meta"]
            values, spacing = np.asarray(data, dtype=float), float(data.attrs["Xspacing"])
            start, found = float(meta["GPSstart"][()]), meta["Detector"][()]
        rate = round(1 / spacing)
    except FileNotFoundError:
        raise
    except (OSError, KeyError, ValueError, AttributeError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f"{path.name} is no strain file with strain/Strain, its Xspacing, meta/GPSstart and meta/Detector "
            f"({error}); take the HDF5 file of an event from gwosc.org"
        ) from error
    found = found.decode() if isinstance(found, bytes) else str(found)
    if detector is not None and found != detector:
        raise ValueError(f"{path.name} is of {found}, expected {detector}; give the files in the order H1, L1")
    if rate not in RATES or values.ndim != 1:
        raise ValueError(
            f"{path.name} has {1 / spacing:g} samples per second in the shape {values.shape}; take the file of 4096 "
            "or 16384 Hz"
        )
    missing = int((~np.isfinite(values)).sum())
    if missing:
        raise ValueError(
            f"{path.name} lacks {missing} of {len(values)} samples (NaN): the detector was off; take another stretch"
        )
    return Strain(found, start, rate, values, path.name)


def welch(
    strain: Strain, seconds: float, ramp: float, without: tuple[int, int] | None = None
) -> tuple[Float[np.ndarray, " bin"], int]:
    """One-sided power spectral density, by medians over segments under a Tukey window.

    The window must be that of the data which it is to whiten: strong lines leak through it into their neighbours.
    Segments overlap by three quarters. Of the files of GW150914, stretches that took no part are whitened to a
    variance of about 1.1, and to 1.2 with an overlap of a half: that is what the few segments cost.

    Args:
        strain: The data.
        seconds: Length of a segment: densities are at multiples of 1 / seconds.
        ramp: Seconds over which the window rises and falls.
        without: First sample and the one after the last of a stretch that no segment may touch: the event.

    Returns:
        S, (seconds * rate / 2 + 1,), 1/Hz, and the number of segments.

    Raises:
        ValueError: If fewer than five segments are left, or the strain is constant.
    """
    from scipy import signal

    size = round(seconds * strain.rate)
    first, last = (len(strain.values), len(strain.values)) if without is None else without
    each = [
        signal.spectrogram(part, strain.rate, ("tukey", 2 * ramp / seconds), size, size * 3 // 4, mode="psd")[2]
        for part in (strain.values[:first], strain.values[last:])
        if len(part) >= size
    ]
    n = sum(part.shape[1] for part in each)
    if n < 5:
        raise ValueError(
            f"{strain.name} has {len(strain.values) / strain.rate:g} s, which leave {n} segments of {seconds:g} s "
            f"beside the event to measure the noise by, and five are needed; take a file of {4 * seconds:g} s or more "
            "with the event in its middle, or fewer seconds"
        )
    k = 2 * np.arange(1, (n - 1) // 2 + 1)
    density = np.median(np.concatenate(each, axis=1), axis=1) / (1 + (1 / (k + 1) - 1 / k).sum())
    if not density[1:-1].min() > 0:
        raise ValueError(f"{strain.name} is constant over whole segments; the detector was off: take another stretch")
    return density, n


def spectrum(strain: Strain, gps: float, seconds: float, ramp: float) -> Complex[np.ndarray, " bin"]:
    """Fourier transform of the seconds around a GPS time, which is t = 0, under a Tukey window: 1/Hz.

    Args:
        strain: The data.
        gps: Time of the trigger; between samples, it is not rounded.
        seconds: T.
        ramp: Seconds over which the window rises and falls.
    """
    from scipy import signal

    first, last = strain.segment(gps, seconds)
    values = strain.values[first:last] * signal.get_window(("tukey", 2 * ramp / seconds), last - first)
    frequency = np.arange(len(values) // 2 + 1) / seconds
    begins = strain.start - gps + first / strain.rate
    return np.fft.rfft(values) / strain.rate * np.exp(-2j * math.pi * frequency * begins)


def central(frequency: Float[Tensor, " frequency"]) -> Float[Tensor, " frequency"]:
    """log sqrt(S_0) at frequencies in Hz, float64; of sqrt(S_0) in Hz^{-1/2}."""
    f = frequency.double()
    return 0.5 * (5e-47 * ((54 / f) ** 7 + (80 / f) ** 2.5 + 1 + (f / 480) ** 2)).log()


def draw_curves(
    n: int, frequency: Float[Tensor, " frequency"], generator: torch.Generator
) -> Float[Tensor, "batch frequency"]:
    """n random curves log sqrt(S), (n, F), float64, on the generator's device.

    Args:
        n: How many.
        frequency: Hz, (F,), increasing.
        generator: The only source of randomness.
    """
    like = {"generator": generator, "device": generator.device, "dtype": torch.float64}
    f = frequency.to(generator.device).double()
    log_f = f.log()
    first, last = (float(v) for v in log_f[[0, -1]])
    knots = torch.arange(first - 3 * LENGTH, last + 3 * LENGTH, LENGTH, device=f.device, dtype=f.dtype)
    kernel = (-((log_f[:, None] - knots) ** 2) / LENGTH**2).exp()
    kernel = kernel / kernel.square().sum(1, keepdim=True).sqrt()
    smooth = SCALE * torch.randn(n, 1, **like) + BENT * torch.randn(n, len(knots), **like) @ kernel.mT
    power = _lines(n, f, generator)
    spread = 0.05 + 0.3 * torch.rand(n, 1, **like)
    return central(f) + smooth + 0.5 * power.log1p() + spread * torch.randn(n, len(f), **like)


def _lines(n: int, f: Tensor, generator: torch.Generator) -> Tensor:
    """The sum over lines, (n, F), each within `REACH` bins of its centre; a fifth of them are absent."""
    low, high, top, widest = torch.tensor(LINES, dtype=f.dtype, device=f.device).mT
    u = torch.rand(4, n, len(low), generator=generator, device=f.device, dtype=f.dtype)
    centre = low * (high / low) ** u[0]
    height = torch.where(u[3] < 0.8, (2 * top * u[1]).exp(), 0.0)
    width = 0.2 + (widest - 0.2) * u[2]
    index = torch.searchsorted(f, centre)[..., None] + torch.arange(-REACH, REACH, device=f.device)
    known = (index >= 0) & (index < len(f))
    index = index.clamp(0, len(f) - 1)
    shape = 1 + ((f[index] - centre[..., None]) / width[..., None]) ** 2
    power = torch.where(known, height[..., None] / (shape * shape * shape), 0.0)
    return torch.zeros(n, len(f), dtype=f.dtype, device=f.device).scatter_add_(1, index.flatten(1), power.flatten(1))


def whiten(
    data: Complex[Tensor, "*batch frequency"], log_density: Float[Tensor, "*batch frequency"], seconds: float
) -> Complex[Tensor, "*batch frequency"]:
    """Spectra in units in which real and imaginary part of the noise are N(0, 1).

    Args:
        data: Fourier transform of a segment, 1/Hz.
        log_density: log sqrt(S), of sqrt(S) in Hz^{-1/2}.
        seconds: T, the segment's length.
    """
    return data * (math.log(2 / math.sqrt(seconds)) - log_density).exp()
