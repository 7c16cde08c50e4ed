"""Spikes of a grasshopper's ear: what drives the cell and how it tires, from 600 of them, tested on the last 3 s.

sciinf run pipelines/grasshopper.py --out runs/grasshopper

The likelihood of the spikes is exact, and so is the answer that it corrects. If the model is right, intervals between
spikes, told in its own time, are uniform; those of the last 3 s played no part in the answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciinf import Answer, Flow, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.interfaces.figures.style import BLUE, MUTED, VERMILION, look
from sciinf.networks.summaries import MLP

SIMULATORS = Path(__file__).parent.parent / "simulators"
SPIKES = SIMULATORS / "grasshopper_spikes.csv"
LATE, END = 7.0, 10.0  # s, between which intervals end that are tested
WINDOW = (8_000.0, 8_250.0)  # ms that are drawn


def run(out: Path, *, seed: int = 0, simulations: int = 6_000, fresh: int = 1_000, ess: float = 500) -> Answer:
    """What the cell hears, how it tires, and whether that tells its spikes.

    Args:
        out: Run folder.
        seed: Seeds everything.
        simulations: Simulations to train on.
        fresh: Simulations to calibrate with.
        ess: Effective sample size of the answer; a draw takes 4 ms of the likelihood.
    """
    simulator: Any = load_simulator(SIMULATORS / "grasshopper.py")
    store = simulate(simulator, out / "simulations", simulations, seed=seed)
    told = {"intervals": MLP(features=1, hidden=())}  # the other data say more
    estimator = Flow(simulator.prior, simulator.observables, summary=told, seed=seed)
    fit = train(estimator, store, out / "fit", seed=seed)

    held = simulate(simulator, out / "calibration_simulations", fresh, seed=seed + 1)
    calibration = calibrate(build_posterior(fit), held, out)

    posterior = build_posterior(fit, simulator, ess=ess, budget=int(100 * ess))
    answer = query(posterior, simulator.observe(SPIKES), calibration, simulator=simulator, out=out, seed=seed)
    _held_out(out / "held_out.png", simulator, answer, seed)
    return answer


def _held_out(file: Path, simulator: Any, answer: Answer, seed: int) -> None:
    """Intervals that end in the last 3 s, in the time of each of 100 draws: printed, and drawn beside the rate."""
    from matplotlib.figure import Figure
    from scipy import stats

    g = torch.Generator().manual_seed(seed)
    times = torch.from_numpy(np.loadtxt(SPIKES, skiprows=1))[None]
    mask, late = torch.ones_like(times, dtype=torch.bool), times[0] >= 1e3 * LATE
    shown = slice(round(10 * WINDOW[0]), round(10 * WINDOW[1]))
    told, rates = [], []
    for row in answer.draws.of_parameters().resample(100, generator=g):
        process = simulator.process(row[None], END)
        told.append(np.sort(process.rescaled(times, mask, generator=g)[0, late].numpy()))
        rates.append(1e3 * process.rate(times, mask)[0, shown].numpy())
    p = np.median([stats.kstest(u, "uniform").pvalue for u in told])
    print(f"{len(told[0])} intervals end in the last {END - LATE:g} s: p of their law {p:.2g} (median of draws)")
    low, middle, high = np.quantile(rates, (0.05, 0.5, 0.95), axis=0)
    count = len(told[0])
    bound = float(stats.kstwo.isf(0.01, count))
    with look():
        figure = Figure(figsize=(9.6, 4.2), layout="constrained", facecolor="white")
        axes: Any = figure.subplot_mosaic([["level", "law"], ["rate", "law"]], width_ratios=(1.8, 1))
        at = np.arange(len(middle)) / 10 + WINDOW[0]
        axes["level"].plot(at, simulator.fine[shown].numpy(), color=MUTED)
        axes["level"].set(ylabel="level of the sound (dB)", xlim=WINDOW)
        axes["rate"].fill_between(at, low, high, color=BLUE, alpha=0.35, linewidth=0)
        axes["rate"].plot(at, middle, color=BLUE, linewidth=0.9, label="rate, median and 90 % of draws")
        seen = times[0, (times[0] >= WINDOW[0]) & (times[0] < WINDOW[1])].numpy()
        axes["rate"].vlines(seen, -0.2 * high.max(), -0.04 * high.max(), color=VERMILION, label="spikes")
        axes["rate"].set(
            xlabel="time (ms)", ylabel="rate (1/s)", xlim=WINDOW, ylim=(-0.25 * high.max(), 1.3 * high.max())
        )
        axes["rate"].legend(loc="upper right", ncols=2)
        for u in told:
            axes["law"].plot(u, np.arange(1, count + 1) / count - u, color=BLUE, alpha=0.06)
        axes["law"].hlines([-bound, bound], 0, 1, color=VERMILION, linestyle="--", label="99 % of right models")
        axes["law"].set(xlabel="rescaled interval u", ylabel="share below u, less u", title=f"last {END - LATE:g} s")
        axes["law"].legend(loc="upper right")
        figure.savefig(file, dpi=100)
