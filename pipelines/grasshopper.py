"""Spikes of a grasshopper's ear: what drives the cell and how it tires, from 7 s, and tested on the 3 s after them.

sciinf run pipelines/grasshopper.py --out runs/grasshopper

The likelihood of the spikes is exact, and so is the answer that it corrects. If the model is right, intervals between
spikes, told in its own time, are uniform; those of the last 3 s played no part in the answer.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciinf import Answer, Flow, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.figures.style import BLUE, MUTED, VERMILION, look

SIMULATORS = Path(__file__).parent.parent / "simulators"
SPIKES = SIMULATORS / "grasshopper_spikes.csv"
WINDOW = (8_000.0, 8_300.0)  # ms that are drawn


def run(out: Path, *, seed: int = 0, simulations: int = 8_000, fresh: int = 1_000, ess: float = 1_000) -> Answer:
    """What the cell hears, how it tires, and whether that tells its spikes.

    Args:
        out: Run folder.
        seed: Seeds everything.
        simulations: Simulations to train on.
        fresh: Simulations to calibrate with.
        ess: Effective sample size of the answer; a draw takes 4 ms of the likelihood.
    """
    simulator: Any = load_simulator(SIMULATORS / "grasshopper.py")
    parts: Any = sys.modules[type(simulator).__module__]
    store = simulate(simulator, out / "simulations", simulations, seed=seed)
    estimator = Flow(simulator.prior, simulator.observables, summary=parts.Tally(), seed=seed)
    fit = train(estimator, store, out / "fit", seed=seed)

    held = simulate(simulator, out / "calibration_simulations", fresh, seed=seed + 1)
    calibration = calibrate(build_posterior(fit), held, out)

    posterior = build_posterior(fit, simulator, ess=ess, budget=int(50 * ess))
    answer = query(posterior, simulator.observe(SPIKES), calibration, simulator=simulator, out=out, seed=seed)
    _held_out(out / "held_out.png", parts.Grasshopper(10.0), answer, simulator.seconds, seed)
    return answer


def _held_out(file: Path, whole: Any, answer: Answer, first: float, seed: int) -> None:
    """Intervals that end after the fit, in the time of each of 100 draws: printed, and drawn."""
    from matplotlib.figure import Figure
    from scipy import stats

    g, stop = torch.Generator().manual_seed(seed), 1e3 * whole.seconds
    times = whole.observe(SPIKES)["spikes"][None, 1:-1].double()
    mask, late = times < stop, ((times >= 1e3 * first) & (times < stop))[0]
    theta = answer.draws.of_parameters().resample(100, generator=g)
    each = [whole.process(row[None]) for row in theta]
    told = [np.sort(process.rescaled(times, mask, generator=g)[0, late].numpy()) for process in each]
    p = np.median([stats.kstest(u, "uniform").pvalue for u in told])
    print(
        f"{len(told[0])} intervals end in the last {whole.seconds - first:g} s: p of their law {p:.2g} (median of draws)"
    )

    shown = slice(round(10 * WINDOW[0]), round(10 * WINDOW[1]))
    rate = np.quantile([1e3 * process.rate(times, mask)[0, shown].numpy() for process in each], (0.05, 0.5, 0.95), 0)
    place, count = np.linspace(0, 1, len(told[0])), len(told[0])
    with look():
        figure = Figure(figsize=(9.6, 4.2), layout="constrained", facecolor="white")
        axes: Any = figure.subplot_mosaic([["level", "law"], ["rate", "law"]], width_ratios=(1.8, 1))
        at = np.arange(*WINDOW, 0.1)[: rate.shape[1]]
        axes["level"].plot(at, _level(whole)[shown], color=MUTED)
        axes["level"].set_ylabel("level (dB)")
        axes["rate"].fill_between(at, rate[0], rate[2], color=BLUE, alpha=0.35, linewidth=0)
        axes["rate"].plot(at, rate[1], color=BLUE, label="rate, median and 90 % of draws")
        seen = times[0, (times[0] >= WINDOW[0]) & (times[0] < WINDOW[1])].numpy()
        axes["rate"].vlines(seen, -0.12 * rate.max(), -0.02 * rate.max(), color=VERMILION, label="spikes")
        axes["rate"].set(xlabel="time (ms)", ylabel="rate (1/s)")
        axes["rate"].legend(loc="upper right", ncols=2)
        for u in told:
            axes["law"].plot(u, place - u, color=BLUE, alpha=0.08)
        bound = stats.kstwo.isf(0.01, count)
        axes["law"].hlines([-bound, bound], 0, 1, color=VERMILION, linestyle="--", label="99 % of right models")
        axes["law"].set(xlabel="rescaled interval u", ylabel="share below u, less u", title=f"last {10 - first:g} s")
        axes["law"].legend(loc="upper right")
        figure.savefig(file, dpi=100)


def _level(whole: Any) -> np.ndarray:
    """Of the sound in each cell, dB."""
    fine = torch.fft.irfft(torch.fft.rfft(whole.level), n=100_000)
    return (fine * (len(fine) / len(whole.level))).numpy()
