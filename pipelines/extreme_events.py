"""How probable a wave is that is higher than any seen: forcing and viscosity from sensors, then the event itself.

sciinf run pipelines/extreme_events.py --out runs/extreme_events
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sciinf import Answer, Flow, Recipe, build_posterior, calibrate, load_simulator, query, simulate, train
from sciinf.core.files import write_json
from sciinf.emulators import Emulator, Generator, conditioned
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import Frames
from sciinf.interfaces.figures.events import draw_event
from sciinf.networks.diffusion.events import Event
from sciinf.wrappers import Sensors, observed

BURGERS = Path(__file__).parent.parent / "simulators" / "pde" / "forced_burgers.py"
SENSORS = Sensors([0.0625 + 0.125 * k for k in range(8)], sd=0.05, frames=[2, 4, 6, 8, 10])


def highest(u: Tensor) -> Tensor:
    """The highest wave of the last frame; frames (n, time, channel, point) to (n,)."""
    return u[:, -1, 0].amax(1)


def run(
    out: Path,
    *,
    seed: int = 0,
    solutions: int = 2_000,
    epochs: int = 80,
    simulations: int = 10_000,
    level: float = 0.6,
    places: int = 4,
    draws: int = 200,
    runs: int = 20_000,
) -> Answer:
    """The posterior of viscosity and forcing, and how probable the event is by it, from a calm start.

    Args:
        out: Run folder.
        seed: Seeds everything.
        solutions: Runs of the solver that the generator learns from.
        epochs: Passes over them.
        simulations: Draws of the generator that the posterior is trained on.
        level: What the event's wave is to exceed.
        places: Draws of the posterior at which the generator is asked for the event.
        draws: Of the event, at each of them.
        runs: Of the solver at each of them, to compare with.
    """
    burgers: Any = type(load_simulator(BURGERS))
    equation = burgers(points=32, times=tuple(k / 10 for k in range(11)))
    store = simulate(equation, out / "solutions", solutions, seed=seed)
    by_twos, network = Frames(2), TokenTransformer(64, 4)
    generator = Generator(equation.prior, equation.observables, order=by_twos, network=network, seed=seed)
    law: Any = train(generator, store, out / "law", recipe=Recipe(epochs=epochs), seed=seed)

    truth, drawn = observed(equation, SENSORS), observed(Emulator(law, equation), SENSORS)
    rows = simulate(drawn, out / "simulations", simulations, seed=seed + 1)
    fit = train(Flow(drawn.prior, drawn.observables, seed=seed), rows, out / "fit", seed=seed)
    fresh = simulate(truth, out / "calibration_simulations", 1_000, seed=seed + 2)
    calibration = calibrate(build_posterior(fit), fresh, out)  # of the generator's posterior on the solver's data
    seen = simulate(truth, out / "observation", 1, seed=seed + 3).load()
    data = {name: value[0] for name, value in seen.x.items()}
    answer = query(build_posterior(fit), data, calibration, simulator=truth, out=out, seed=seed)

    calm, draw = {"initial": torch.zeros(1, 1, 32)}, torch.Generator().manual_seed(seed + 4)
    said, true, inside = [], [], []
    for theta in answer.draws.theta[:places].float():
        found = conditioned(law.surrogate, theta[None], calm, Event(highest, level), draws, generator=draw)
        many = equation.solution(theta.expand(runs, -1), {"initial": torch.zeros(runs, 1, 32)}, generator=draw).float()
        said.append(math.exp(found.log_evidence))
        true.append(float((highest(many) > level).float().mean()))
        inside.append((found.x[:, :, 0].amax(2), many[highest(many) > level][:, 1:, 0].amax(2)))
    told = {"level": level, "probability": sum(said) / places, "of the solver's runs": sum(true) / places}
    write_json(out / "event.json", told)
    drawn_inside, runs_inside = (torch.cat(part) for part in zip(*inside, strict=True))
    draw_event(out / "event.png", equation.times[1:], drawn_inside, runs_inside, "highest wave")
    return answer
