"""Phenobarbital in a newborn's blood: its clearance by few samples, and the concentration at the next one, in advance.

sciinf run pipelines/phenobarbital.py --out runs/phenobarbital

Doses are controls: known, and different for each infant. One network learns of all infants, and answers any of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciinf import Answer, Flow, Recipe, build_posterior, calibrate, query, simulate, train
from sciinf.core.simulator import load_module
from sciinf.interfaces.figures.style import COLUMN, INK, MUTED, VERMILION, look

RECIPE = Recipe(epochs=12)  # more only fit what these simulations have at random
SIMULATORS = Path(__file__).parent.parent / "simulators"


def run(out: Path, *, seed: int = 0, simulations: int = 40_000, fresh: int = 5_000, infant: int = 18) -> Answer:
    """One infant's parameters and concentration, without its last sample, which is then compared.

    Args:
        out: Run folder.
        seed: Seeds everything.
        simulations: Simulations to train on.
        fresh: Simulations to calibrate with.
        infant: Its number in the study, 1 to 59; one that has at least two samples.

    Raises:
        ValueError: If there is no such infant, or it has one sample only.
    """
    of: Any = load_module(SIMULATORS / "phenobarbital.py")
    if not 1 <= infant <= len(of.infants()) or len(of.infants()[infant - 1].samples) < 2:
        raise ValueError(f"infant {infant} is none of 1 to {len(of.infants())} with at least two samples")
    simulator, one = of.simulator, of.infants()[infant - 1]
    store = simulate(simulator, out / "simulations", simulations, seed=seed)
    estimator = Flow(simulator.prior, simulator.observables, seed=seed)
    fit = train(estimator, store, out / "fit", recipe=RECIPE, seed=seed)

    held = simulate(simulator, out / "calibration_simulations", fresh, seed=seed + 1)
    calibration = calibrate(build_posterior(fit), held, out)

    data = of.record_of(simulator, one, hidden=1)
    answer = query(build_posterior(fit, simulator), data, calibration, simulator=simulator, out=out, seed=seed)
    at_last = answer.paths["concentration"].draws[:, answer.paths["concentration"].times <= one.sampled[-1]][:, -1]
    generator = torch.Generator().manual_seed(seed)
    noise = answer.draws.resample(len(at_last), generator=generator)[:, answer.draws.names.index("noise")]
    sample = at_last + (noise * torch.randn(len(noise), generator=generator)).numpy()  # their noise, in any order
    low, high = np.quantile(sample, (0.05, 0.95))
    print(f"predicted [{low:.1f}, {high:.1f}] mg/L at {one.sampled[-1]:g} h, measured {one.samples[-1]:.1f}")
    _draw(out / "phenobarbital.png", answer, one, (float(low), float(high)))
    return answer


def _draw(file: Path, answer: Answer, infant: Any, predicted: tuple[float, float]) -> None:
    """The concentration along time, with samples, doses, and the sample that was left out."""
    with look():
        figure = answer.figure("paths")
        figure.set_size_inches(COLUMN, 3.4)
        axes, last = figure.axes[0], infant.sampled[-1]
        axes.vlines(last, *predicted, color=VERMILION, alpha=0.35, linewidth=5, label="last sample, predicted, 90%")
        axes.plot(last, infant.samples[-1], "D", color=VERMILION, markersize=5, label="last sample, measured")
        foot = np.full(len(infant.dosed), 0.02)
        axes.plot(infant.dosed, foot, "^", color=MUTED, transform=axes.get_xaxis_transform(), label="doses")
        figure.legends[0].remove()
        figure.legend(loc="outside upper left", ncols=4, fontsize=9, labelcolor=INK, frameon=False)
        figure.savefig(file, dpi=120, facecolor="white")
