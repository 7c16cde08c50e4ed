"""Fields that are drawn frame by frame, by chance and in chaos: two parts of `generators.py`.

"Forced reaction": the bistable equation with random forcing, as "forced" for Burgers'. "Chaos": Kuramoto and
Sivashinsky's equation, whose solutions are settled at the first frame; of fresh ones, the mean time until the
correlation over the ring with the true solution falls below 0.8, of one draw, of the mean of some, and of a network of
as many weights that predicts one frame from the other, after as many CPU seconds of training on equal data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from drawn import SHOWN, asked_of, laws_beside_solver, spread_checks
from reporting import SIMULATORS, check, clock
from torch import Tensor
from torch import distributions as td

from sciinf import Observable, Prior, Recipe, Simulator, load_simulator, simulate, train
from sciinf.core import Batch
from sciinf.diffusion.solver import Exponential
from sciinf.nets.spectral import Fourier
from sciinf.nets.token_transformer import TokenTransformer
from sciinf.surrogates import Generator, Stepwise
from sciinf.tokens import AtOnce, Frames, Joint
from sciinf.trust.distances import spread_skill

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]
POINTS, LENGTH, SETTLED, EVERY = 64, 32.0, 60.0, 1.0
LEARNED, RUN = 20, 100  # frames after the first that are learned from, and rolled out
NEAR, DRAWS = 0.8, 8


def forced_reaction(options: Any, out: Path) -> Found:
    """Draws of three orders beside the solver's."""
    equation = load_simulator(SIMULATORS / "pde" / "forced_reaction_diffusion.py")
    store = simulate(equation, out / "store", 600 if options.quick else 2_000, seed=options.seed)
    laws = {
        "Frames, Joint": (Frames(1), Joint()),
        "two frames, four steps": (Frames(2), Joint(solver=Exponential(4, 2))),
        "AtOnce, Joint": (AtOnce(), Joint()),
    }
    rows = laws_beside_solver(options, equation, store, asked_of(options, equation), laws, out)
    slack = 2.0 if options.quick else 1.0
    checks, last = spread_checks("forced reaction", rows, 0.1 * slack), SHOWN[-1]
    name = f"forced reaction, Frames, Joint, frame {last}: CRPS over the solver's - 1"
    return rows, [*checks, check(name, float(rows[1][f"CRPS {last}"]) - 1, 0.05 * slack)]


class Settled(Simulator):
    """Solutions from a time on when they have forgotten their start.

    Args:
        frames: After the first.
    """

    name = "settled_kuramoto_sivashinsky"
    block = 512

    def __init__(self, frames: int) -> None:
        make: Any = type(load_simulator(SIMULATORS / "pde" / "kuramoto_sivashinsky.py"))
        times = tuple(SETTLED + EVERY * k for k in range(frames + 1))
        still = {"viscosity": td.Uniform(0.9999, 1.0001), "amplitude": td.Uniform(0.5, 1.5)}
        self.equation = make(POINTS, LENGTH, times, longest=0.05, **still)
        self.prior, field = Prior.none(), Observable((1, POINTS), "", ("channel", "x"))
        self.observables = {"initial": field, "u": Observable((len(times), 1, POINTS), "", ("time", "channel", "x"))}

    def settings(self) -> dict[str, str]:
        """What tells it apart."""
        return {"frames": str(self.observables["u"].shape[0])}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        told = self.equation.prior.sample(len(theta), generator=generator)
        u = self.equation(told, generator=generator)["u"]
        return {"initial": u[:, 0], "u": u}


def chaos(options: Any, out: Path) -> Found:
    """Rows of each seed's generator and its twin."""
    world, rows = Settled(LEARNED), []
    store = simulate(world, out / "store", 500 if options.quick else 2_000, seed=options.seed)
    test = simulate(Settled(RUN), out / "test", 64, seed=options.seed + 1).load()
    for seed in range(options.seed, options.seed + (1 if options.quick else 3)):
        rows += _seed(options, world, store, test, seed, out)
    checks = []
    for draws in ("mean of draws", "one draw"):
        near = {name: [row["time"] for row in rows if row["by"] == name] for name in (draws, "Stepwise")}
        share = sum(near["Stepwise"]) / sum(near[draws])
        checks.append(check(f"chaos: time that Stepwise stays near, over that of {draws}", share, 1.0))
    return rows, checks


def _seed(options: Any, world: Simulator, store: Any, test: Batch, seed: int, out: Path) -> list[dict[str, Any]]:
    """A generator, one draw of it and the mean of some, and its twin."""
    network = TokenTransformer(64, 4, heads=4)
    law = Generator(world.prior, world.observables, order=Frames(1), network=network, seed=seed)
    twin = Stepwise(world.prior, world.observables, Fourier(28, POINTS // 2), seed=seed)
    found, spent = {}, {}
    for name, made, epochs in (("law", law, 40), ("Stepwise", twin, 40)):
        started = clock("cpu")
        recipe = Recipe(epochs=epochs // 4 if options.quick else epochs, batch=32)
        found[name] = train(made, store, out / f"{name}_{seed}", recipe=recipe, seed=seed).surrogate
        spent[name] = clock("cpu") - started
    started, draw, true = clock("cpu"), torch.Generator().manual_seed(seed), test.x["u"][:, 1:]
    drawn = torch.stack([found["law"].rollout(test.theta, test.x, RUN, generator=draw) for _ in range(DRAWS)])
    each = 1000 * (clock("cpu") - started) / (DRAWS * len(true))
    with torch.no_grad():
        one = found["Stepwise"].rollout(test.theta, test.x, RUN)[:, 1:]
    spread = {f"spread {k}": spread_skill(drawn[:, :, k - 1], true[:, k - 1]) for k in (1, 20, RUN)}
    by = {"mean of draws": (drawn.mean(0), "law"), "one draw": (drawn[0], "law"), "Stepwise": (one, "Stepwise")}
    rows = []
    for name, (predicted, what) in by.items():
        row = {"seed": seed, "by": name, "training s": spent[what], "weights": weights(found[what])}
        first = float((predicted[:, 0] - true[:, 0]).norm() / true[:, 0].norm())
        row |= {"first frame off": first, "time": near_for(predicted, true)}
        rows.append(row | ({"ms a draw": each, **spread} if what == "law" else {}))
    return rows


def near_for(predicted: Tensor, true: Tensor) -> float:
    """Mean time until the correlation over the ring falls below `NEAR`, or of the run."""
    one, other = (u[:, :, 0].double() - u[:, :, 0].double().mean(-1, keepdim=True) for u in (predicted, true))
    together = torch.cosine_similarity(one, other, dim=-1)
    return EVERY * float((together >= NEAR).cumprod(1).sum(1).double().mean())


def weights(learned: Any) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in learned.parameters())
