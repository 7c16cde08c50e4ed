r"""Two black holes that merge, as the LIGO detectors at Hanford (H1) and Livingston (L1) hear them.

In each detector d, at the F frequencies f of T = 4 s of data from 20 to 512 Hz, the whitened strain is

    x_d(f) = h_d(f) exp(i phi_d) + n(f),    h_d(f) = A(f) exp(-i phi(f) - 2 pi i f t_d) / D_d * 2 / sqrt(T S_d(f)),

with A and phi those of IMRPhenomD at 1 Mpc (`waveform`), t_d the time of coalescence after the trigger's, D_d the
effective distance (from which a source overhead and face on would be as loud), S_d the density of the noise, and n
complex, of independent real and imaginary parts N(0, 1). S_d is drawn anew for each simulation (`noise`), and is
observed too: as log sqrt(S_d / S_0). The phases phi_d are uniform and independent, for two detectors fix neither the
direction nor the inclination of the source, which tie them. Given S_d, with (a, b) = sum_f conj(a) b,

    log p(x | theta) = sum_d [log I_0(|(h_d, x_d)|) - (h_d, h_d) / 2 - (x_d, x_d) / 2 - F log 2 pi],    F = 1,968,

the integral over both phases (`log_likelihood`). The law of S_d does not depend on theta, and is left out.

Masses are the detector's: (1 + z) times the source's. chi_eff stands for both spins, equal and along the orbit. The
distances' laws are uniform in log D, to 1e-4 of the density: log-normal, with an sd of 100, between bounds.

References:
    | Parameter estimation for compact binaries with ground-based gravitational-wave observations using the LALInference
      software library, section II and appendix (Veitch et al., 2015), https://arxiv.org/abs/1409.7215
    | Observation of gravitational waves from a binary black hole merger (Abbott et al., 2016),
      https://arxiv.org/abs/1602.03837
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Prior, Simulator, Truncated, X
from sciinf.core.laws import bounds
from sciinf.simulators.poses import Pose, SpectrumShift

from .detectors import antenna, arrival_difference
from .noise import (
    LOW,
    RAMP,
    SECONDS,
    bins,
    central,
    draw_curves,
    frequencies,
    read_losc,
    seconds_of,
    spectrum,
    welch,
    whiten,
)
from .summary import Bands, Reduced
from .waveform import phenom_d

__all__ = ["Bands", "GravitationalWave", "Reduced", "antenna", "arrival_difference", "phenom_d", "simulator"]

NAMES = ("h1", "l1")
LATE = 0.05  # s by which a coalescence may miss the trigger
NEAR, FAR = 200.0, 4000.0  # Mpc
CHUNK = 128  # rows of waveforms at a time


class GravitationalWave(Simulator):
    """Whitened strain of two black holes in H1 and L1.

    Args:
        chirp_mass: Bounds of the prior of the chirp mass, solar masses, in the detectors' frame.
        seconds: T, s of data, the trigger in their middle. Waveforms of less mass are longer.

    Raises:
        ValueError: If T is too short for the lowest chirp mass, or no whole number of seconds.
    """

    name = "gravitational_wave"
    block = 1024
    derived: Mapping[str, Any] = {
        "mass_1": (lambda theta: heavier(theta["chirp_mass"], theta["mass_ratio"]), "solMass"),
        "mass_2": (
            lambda theta: theta["mass_ratio"] * heavier(theta["chirp_mass"], theta["mass_ratio"]),
            "solMass",
        ),
    }

    def __init__(self, chirp_mass: tuple[float, float] = (20.0, 45.0), seconds: float = SECONDS) -> None:
        count = len(frequencies(seconds))
        self.seconds = seconds
        self.observables: Mapping[str, Observable] = {
            **{f"strain_{d}": Observable((count, 2), "", ("frequency", "part")) for d in NAMES},
            **{f"noise_{d}": Observable((count,), "", ("frequency",)) for d in NAMES},
        }
        distance = Truncated(td.LogNormal(0.5 * math.log(NEAR * FAR), 100.0), NEAR, FAR)
        self.prior = Prior(
            chirp_mass=(td.Uniform(*chirp_mass), "solMass"),
            mass_ratio=td.Uniform(0.25, 1.0),
            chi_eff=td.Uniform(-0.8, 0.8),
            time_h1=(td.Uniform(-LATE, LATE), "s"),
            time_l1=(td.Uniform(-LATE, LATE), "s"),
            distance_h1=(distance, "Mpc"),
            distance_l1=(distance, "Mpc"),
        )
        check_length(self.prior, seconds)

    @property
    def poses(self) -> tuple[Pose, ...]:
        """The arrival times, which shift the strain of their detector."""
        shifts = {d: SpectrumShift(LOW, 1 / self.seconds, (f"strain_{d}",)) for d in NAMES}
        return tuple(Pose(f"time_{d}", shift, td.Normal(0.0, 1e-3)) for d, shift in shifts.items())

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        parts = [self._simulate(rows, generator) for rows in theta.split(CHUNK)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.observables}

    def _simulate(self, theta: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        f = frequencies(self.seconds)
        n, shape = len(theta), (len(theta), len(NAMES), len(f))
        middle = central(f.to(theta.device))
        off = draw_curves(2 * n, f, generator).view(shape).float() - middle.float()
        phase = 2 * math.pi * torch.rand(n, 2, 1, generator=generator, device=theta.device, dtype=torch.float64)
        noise = torch.randn(*shape, 2, generator=generator, device=theta.device)
        heard = templates(theta, off.double()) * torch.polar(torch.ones_like(phase), phase)
        strain = torch.view_as_real(heard).float() + noise
        return {f"strain_{d}": strain[:, k] for k, d in enumerate(NAMES)} | {
            f"noise_{d}": off[:, k] for k, d in enumerate(NAMES)
        }

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        """log p(x | theta) given the noise curves in x, integrated over the phases, float64.

        Args:
            theta: (n, 7). Of rows of which there is no waveform (a mass ratio above 1, a spin beyond 1), it is -inf.
            x: Observables of n rows, or of one.

        Returns:
            (n,).
        """
        return torch.cat([_log_density(rows, *data) for rows, data in _chunks(theta, x)])

    def projected(self, theta: Tensor, x: X) -> dict[str, Float[Tensor, "batch frequency 2"]]:
        """The whitened waveforms in the phases that fit the data best.

        Args:
            theta: (n, 7).
            x: Observables of n rows, or of one.

        Returns:
            "strain_h1" and "strain_l1", like those observables: real and imaginary part, (n, 1968, 2), float64.
        """
        found = []
        for rows, (data, curves) in _chunks(theta, x):
            h = templates(rows, curves)
            product = (h.conj() * data).sum(-1, keepdim=True)
            found.append(torch.view_as_real(h * product.sgn()))
        return {f"strain_{d}": torch.cat(found)[:, k] for k, d in enumerate(NAMES)}

    def observe(self, *paths: str | Path, gps: float | None = None) -> dict[str, Tensor]:
        """The observation in two strain files of the Gravitational Wave Open Science Center.

        Of each, the T seconds with the trigger in their middle are taken, under a Tukey window that rises and falls
        within 0.2 s, and whitened by what the rest of the file has of noise.

        Args:
            paths: Files of H1 and L1, in this order.
            gps: The trigger's GPS time, s; 1126259462.4 is GW150914's.

        Raises:
            ValueError: If `gps` is missing, the files are not two, one is not what it must be (`noise.read_losc`,
                `Strain.segment` and `welch` say what that is).
        """
        if gps is None:
            raise ValueError(
                "say when the trigger was: observe(h1, l1, gps=1126259462.4) for GW150914, say, or --observation "
                "H1.hdf5 L1.hdf5 --gps 1126259462.4"
            )
        if len(paths) != len(NAMES):
            raise ValueError(f"expected two files, of H1 and L1, got {len(paths)}")
        part, middle, seen = bins(self.seconds), central(frequencies(self.seconds)), {}
        for detector, path in zip(NAMES, paths, strict=True):
            strain = read_losc(path, detector.upper())
            density, _ = welch(strain, self.seconds, RAMP, without=strain.segment(gps, self.seconds))
            log_density = 0.5 * torch.from_numpy(density)[part].log()
            data = torch.from_numpy(spectrum(strain, gps, self.seconds, RAMP))[part]
            data = whiten(data, log_density, self.seconds)
            seen[f"strain_{detector}"] = torch.view_as_real(data).float()
            seen[f"noise_{detector}"] = (log_density - middle).float()
        return {name: seen[name] for name in self.observables}


def heavier(chirp_mass: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """The heavier mass, in the unit of the chirp mass (m_1 m_2)^{3/5} / (m_1 + m_2)^{1/5}, with ratio m_2 / m_1."""
    return chirp_mass * (1 + ratio) ** 0.2 / ratio**0.6


def templates(
    theta: Float[Tensor, "batch 7"], off: Float[Tensor, "batch 2 frequency"]
) -> Complex[Tensor, "batch 2 frequency"]:
    """h_d of H1 and L1, whitened.

    Args:
        theta: Parameters, (n, 7), within what `phenom_d` accepts.
        off: log sqrt(S_d / S_0), (n, 2, F) or (1, 2, F).
    """
    mass, ratio, chi = theta.double()[:, :3].unbind(-1)
    time, distance = theta.double()[:, 3:5, None], theta.double()[:, 5:7, None]
    seconds = seconds_of(off.shape[-1])
    f = frequencies(seconds).to(theta.device)
    amplitude, phase = phenom_d(f, mass, ratio, chi, chi)
    size = (amplitude.clamp_min(1e-300).log() - central(f) + math.log(2 / math.sqrt(seconds)))[:, None] - off
    return torch.polar(size.exp() / distance, -phase[:, None] - 2 * math.pi * f * time)


def check_length(prior: Prior, seconds: float) -> None:
    """Refuse a prior whose longest waveforms do not fit between the window's rise and the trigger.

    Raises:
        ValueError: If one needs longer from 20 Hz to its coalescence.
    """
    mass, ratio, chi = (torch.tensor([v for v in bounds(law) if v is not None]).double() for law in prior.laws[:3])
    low = float(mass.min())
    ratio, chi = torch.cartesian_prod(ratio, chi).unbind(-1)
    near = torch.tensor([LOW, LOW + 0.01], dtype=torch.float64)
    phase = phenom_d(near, torch.full_like(ratio, low), ratio, chi, chi)[1]
    needed = float(((phase[:, 0] - phase[:, 1]) / (2 * math.pi * 0.01)).max()) + LATE
    if needed > seconds / 2 - RAMP:
        enough = 2 ** math.ceil(math.log2(2 * (needed + RAMP)))
        raise ValueError(
            f"a chirp mass of {low:g} solar masses, the prior's lowest, needs {needed:.1f} s from {LOW:g} Hz to its "
            f"coalescence, and of {seconds:g} s of data {seconds / 2 - RAMP:g} are before the trigger; raise the "
            f"bound, or take {enough} s"
        )


def _chunks(theta: Tensor, x: X) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Rows of theta, each with its complex strain (n, 2, F) and curves, float64."""
    rows = len(x["strain_h1"])
    if rows not in (1, len(theta)):
        raise ValueError(f"theta has {len(theta)} rows and the data {rows}; give as many, or one observation")
    for first in range(0, max(len(theta), 1), CHUNK):
        part = slice(None) if rows == 1 else slice(first, first + CHUNK)
        strain, off = (
            torch.stack([x[f"{kind}_{d}"][part].to(theta.device).double() for d in NAMES], dim=1)
            for kind in ("strain", "noise")
        )
        yield theta[first : first + CHUNK], (torch.view_as_complex(strain), off)


def _log_density(theta: Tensor, strain: Tensor, off: Tensor) -> Tensor:
    mass, ratio, chi = theta[:, :3].unbind(-1)
    real = (mass > 0) & (ratio > 0) & (ratio <= 1) & (chi.abs() <= 1) & (theta[:, 5:] > 0).all(-1)
    some = theta.new_tensor([30.0, 1.0, 0.0, 0.0, 0.0, 1e3, 1e3])
    h = templates(torch.where(real[:, None], theta, some), off)
    product = (h.conj() * strain).sum(-1).abs()
    bessel = torch.special.i0e(product).log() + product
    squares = 0.5 * (h.abs().square().sum(-1) + strain.abs().square().sum(-1))
    value = (bessel - squares - strain.shape[-1] * math.log(2 * math.pi)).sum(-1)
    return torch.where(real, value, -torch.inf)


simulator = GravitationalWave()
