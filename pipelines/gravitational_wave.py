"""Two black holes in LIGO's strain, GW150914 to begin with: masses, spin, arrival times and effective distances.

sciinf run pipelines/gravitational_wave.py --out runs/gravitational_wave --h1 H1.hdf5 --l1 L1.hdf5
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciinf import Answer, Recipe, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.core.checks import check_whole
from sciinf.interfaces.figures.style import BLUE, MUTED, look
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.training.estimators.gnpe import GNPE
from sciinf.training.online import Simulated

SIMULATORS = Path(__file__).parent.parent / "simulators"


def run(
    out: Path,
    *,
    h1: str = "",
    l1: str = "",
    gps: float = 1126259462.4,
    lowest: float = 20.0,
    highest: float = 45.0,
    seconds: float = 4.0,
    seed: int = 0,
    epochs: int = 110,
    injections: int = 500,
    ess: float = 1_000,
) -> Answer:
    """The posterior of a binary black hole, corrected by the true likelihood.

    Args:
        out: Run folder.
        h1: Strain of Hanford, a file of the Gravitational Wave Open Science Center.
        l1: Strain of Livingston.
        gps: Time of the trigger in s; GW150914's where left out.
        lowest: Lowest chirp mass of the prior, solar masses in the detectors' frame.
        highest: Highest chirp mass.
        seconds: Length of the data, s; 8 or more for light systems, whose waveforms are longer.
        seed: Seeds everything.
        epochs: Passes over 16,384 simulations, an eighth of them new each time.
        injections: Simulated events on which the answer is calibrated, 100 at least.
        ess: Effective sample size of the answer.
    """
    if not (h1 and l1):
        raise ValueError("give the strain of both detectors: --h1 FILE --l1 FILE")
    check_whole("injections", injections, 100)  # before hours of training
    simulator: Any = load_simulator(SIMULATORS / "gravitational_wave")
    parts: Any = sys.modules[type(simulator).__module__]
    bounds = (lowest, highest)
    if (bounds, seconds) != ((20.0, 45.0), 4.0):
        source = simulator.source
        simulator = parts.GravitationalWave(chirp_mass=bounds, seconds=seconds)
        simulator.source = source
    data = simulator.observe(h1, l1, gps=gps)

    strain, noise = parts.Reduced(chirp_mass=bounds), parts.Bands()
    summary = {"strain_h1": strain, "strain_l1": strain, "noise_h1": noise, "noise_l1": noise}
    flow = SplineCoupling(transforms=8, hidden=96)
    estimator = GNPE(
        simulator.prior,
        simulator.observables,
        simulator.poses,
        summary=summary,
        flow=flow,
        chains=1_024,
        iterations=30,  # of weak signals arrival times are so uncertain that chains would need hundreds
        seed=seed,
    )
    rows = Simulated(simulator, seed=seed, buffer=16_384, reuse=8)
    fit = train(estimator, rows, out / "fit", recipe=Recipe(epochs=epochs, batch=256, learning_rate=3e-3), seed=seed)

    fresh = simulate(simulator, out / "calibration_simulations", injections, seed=seed + 1)
    calibration = calibrate(build_posterior(fit), fresh, out)
    posterior = build_posterior(fit, simulator, ess=ess, budget=50_000)
    answer = query(posterior, data, calibration, simulator=simulator, out=out, seed=seed)
    _draw(out / "strain.png", simulator, answer)
    return answer


def _draw(file: Path, simulator: Any, answer: Answer) -> None:
    """Whitened strain of both detectors around the event, and the band of waveforms of the posterior."""
    from matplotlib.figure import Figure

    data = {name: torch.as_tensor(value)[None] for name, value in answer.observation.items()}
    parts: Any = sys.modules[type(simulator).__module__]
    theta = answer.draws.of_parameters().resample(200, generator=torch.Generator().manual_seed(0))
    found = simulator.projected(theta, data)
    with look():
        figure = Figure(figsize=(9.6, 5.0), layout="constrained", facecolor="white")
        axes: Any = figure.subplots(2, 1, sharex=True, sharey=True)
        for ax, name in zip(axes, ("strain_h1", "strain_l1"), strict=True):
            seen, band = _series(data[name], parts), np.quantile(_series(found[name], parts), (0.05, 0.5, 0.95), axis=0)
            t = (np.arange(seen.shape[1]) / seen.shape[1] - 0.5) * simulator.seconds
            ax.plot(t, seen[0], color=MUTED, linewidth=0.8, label="whitened strain, 20 to 512 Hz")
            ax.fill_between(t, band[0], band[2], color=BLUE, alpha=0.35, linewidth=0, label="waveforms, 90 %")
            ax.plot(t, band[1], color=BLUE, linewidth=1.2)
            ax.set_ylabel(f"{name[-2:].upper()} (sd of noise)")
            ax.set_xlim(-0.25, 0.1)
        axes[1].set_xlabel("time after the trigger (s)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        figure.savefig(file, dpi=150)


def _series(spectrum: torch.Tensor, parts: Any) -> np.ndarray:
    """Time series of whitened spectra (n, F, 2), in sds of the noise, the trigger in the middle."""
    count = spectrum.shape[1]
    first = round(parts.LOW * parts.seconds_of(count))
    full = torch.zeros(len(spectrum), first + count + 1, dtype=torch.complex128)
    full[:, first : first + count] = torch.view_as_complex(spectrum.double().contiguous())
    series = torch.fft.irfft(full, norm="ortho")
    return torch.roll(series, series.shape[1] // 2, dims=1).numpy() * np.sqrt(full.shape[1] / (2 * count))
