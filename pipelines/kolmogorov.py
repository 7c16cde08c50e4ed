"""Kolmogorov's flow from a first frame and a caption; and its parameters from probes, through what has learned to draw.

sciinf run pipelines/kolmogorov.py --out runs/kolmogorov
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sciinf import Answer, Flow, Recipe, build_posterior, calibrate, query, simulate, train
from sciinf.core.simulator import load_module
from sciinf.emulators import Emulator, Frame, Generator
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import Frames, Pod
from sciinf.interfaces.figures.drawn import draw_drawn
from sciinf.lab import Grammar, Words
from sciinf.wrappers import Sensors, observed

FLUID = Path(__file__).parent.parent / "simulators" / "pde" / "navier_stokes.py"
PLACES = [0.125, 0.375, 0.625, 0.875]
PROBES = Sensors([(y, x) for y in PLACES for x in PLACES], sd=0.05, frames=[0, 3, 6])
SAME = [(0, 1), (8, 0)]  # points in y and x along which the forcing is the same
GRAMMAR = Grammar({"viscosity": ["thickness"], "strength": ["forcing", "push"]}, "flow")


def run(
    out: Path,
    *,
    seed: int = 0,
    caption: str = "flow with very high forcing and low viscosity",
    solutions: int = 800,
    epochs: int = 60,
    simulations: int = 2_000,
    draws: int = 32,
) -> Answer:
    """The posterior of viscosity and strength from probes, through a generator that is told by words.

    Args:
        out: Run folder.
        seed: Seeds everything.
        caption: Of the flow that is drawn.
        solutions: Runs of the solver that the generator learns from.
        epochs: Passes over them.
        simulations: Draws of the generator that the posterior is trained on.
        draws: For the caption.
    """
    module: Any = load_module(FLUID)
    flow = module.kolmogorov(points=32, times=tuple(t / 4 for t in range(7)))
    store = simulate(flow, out / "solutions", solutions, seed=seed)
    told, order, network = [Frame(0), Words(GRAMMAR)], Frames(1), TokenTransformer(128, 3)
    modes, fields = Pod(96, width=16), (flow.prior, flow.observables)
    generator = Generator(*fields, modes, order=order, given=told, network=network, moves=SAME, seed=seed)
    law: Any = train(generator, store, out / "law", recipe=Recipe(epochs=epochs), seed=seed)

    draw = torch.Generator().manual_seed(seed + 4)
    theta = law.surrogate.reader.captions.drawn(caption, 1, generator=draw)
    truth = flow(theta, generator=draw)
    given = {"initial": truth["initial"].expand(draws, -1, -1, -1)}
    given["words"] = law.surrogate.said([caption]).expand(draws, -1)
    drawn = law.surrogate.draw(theta.expand(draws, -1), given, generator=draw)
    draw_drawn(out / "drawn.png", flow.times, truth["u"][0], drawn, flow.observables["u"], title=f"“{caption}”")

    seen, emulated = observed(flow, PROBES), observed(Emulator(law, flow), PROBES)
    rows = simulate(emulated, out / "simulations", simulations, seed=seed + 1)
    fit = train(Flow(emulated.prior, emulated.observables, seed=seed), rows, out / "fit", seed=seed)
    fresh = simulate(seen, out / "calibration_simulations", 500, seed=seed + 2)
    calibration = calibrate(build_posterior(fit), fresh, out)  # of the generator's posterior on the solver's data
    data = simulate(seen, out / "observation", 1, seed=seed + 3).load()
    x = {name: value[0] for name, value in data.x.items()}
    return query(build_posterior(fit), x, calibration, simulator=seen, out=out, seed=seed)
