"""Fields that are drawn frame by frame, by chance and in chaos: two parts of `generators.py`.

"Forced reaction": the bistable equation with random forcing, as "forced" for Burgers'. "Chaos": Kuramoto and
Sivashinsky's equation, whose solutions are settled at the first frame; of fresh ones, the mean time until the
correlation over the ring with the true solution falls below 0.8, of one draw, of the mean of some, and of a `Stepwise`
of as many weights, which predicts one frame from the other, after about as many CPU seconds on equal data.
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
from sciinf.diagnostics.distances import spread_skill
from sciinf.emulators import Generator, Stepwise
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import AtOnce, Frames, JointTokens, MixtureTokens, four_steps
from sciinf.networks.diffusion.objective import Diffusion, NormalLogs
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.networks.diffusion.solver import Exponential
from sciinf.networks.spectral import Fourier

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]
POINTS, LENGTH, SETTLED, EVERY = 64, 32.0, 60.0, 1.0
LEARNED, RUN = 20, 150  # frames after the first that are learned from, and rolled out
NEAR, DRAWS, TESTED = 0.8, 4, 32
MOVES = ((1,),)  # round the ring, which is the same everywhere; pieces of the grid alone do not show it
STEPWISE, EPOCHS = "Stepwise", (20, 28)  # of generators and the twin: about as many seconds
LAWS = {
    "Joint": JointTokens(),
    "three steps": JointTokens(Diffusion(NoiseLevel(0.02, 20.0), levels=NormalLogs(1.0, 2.0)), Exponential(3, 1)),
}
TWIN = "mean of Mixture"  # the same network, which learns to predict the next frame, and its sd


def forced_reaction(options: Any, out: Path) -> Found:
    """Draws of three orders beside the solver's."""
    equation = load_simulator(SIMULATORS / "pde" / "forced_reaction_diffusion.py")
    store = simulate(equation, out / "store", 600 if options.quick else 2_000, seed=options.seed)
    laws = {
        "Frames, Joint": (Frames(1), JointTokens()),
        "two frames, four steps": (Frames(2), four_steps()),
        "AtOnce, Joint": (AtOnce(), JointTokens()),
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
    """Rows of each seed's generators and their twins."""
    world, seeds, rows = Settled(LEARNED), 1 if options.quick else 3, []
    store = simulate(world, out / "store", 500 if options.quick else 1_000, seed=options.seed)
    test = simulate(Settled(RUN), out / "test", TESTED, seed=options.seed + 1).load()
    for seed in range(options.seed, options.seed + seeds):
        for name in (*LAWS, TWIN, STEPWISE):
            started, made = clock("cpu"), _made(name, world, seed)
            recipe = Recipe(epochs=EPOCHS[name == STEPWISE] // (1 + options.quick), batch=32)
            learned = train(made, store, out / f"{name}_{seed}", recipe=recipe, seed=seed).surrogate
            row = {"seed": seed, "by": name, "training s": clock("cpu") - started, "weights": _weights(learned)}
            rows.append(row | _rolled(learned, test, None if name == TWIN else seed))
    checks = []
    for twin in (TWIN, STEPWISE):
        one = sum(row["one"] for row in rows if row["by"] == twin)
        for name in LAWS:
            longest = max(sum(row[what] for row in rows if row["by"] == name) for what in ("one", "mean"))
            checks.append(check(f"chaos: time that {twin} stays near, over that of {name}", one / longest, 1.0))
    return rows, checks


def _made(name: str, world: Simulator, seed: int) -> Generator | Stepwise:
    """A generator of a law, or its twins."""
    if name == STEPWISE:
        return Stepwise(world.prior, world.observables, Fourier(28, POINTS // 2), moves=MOVES, seed=seed)
    told = {
        "law": LAWS.get(name, MixtureTokens()),
        "network": TokenTransformer(64, 4, heads=4),
        "members": DRAWS,
        "moves": MOVES,
        "seed": seed,
    }
    return Generator(world.prior, world.observables, order=Frames(1), **told)


@torch.no_grad()
def _rolled(learned: Any, test: Batch, seed: int | None) -> dict[str, float]:
    """How far one draw, and the mean of some, is off after one frame, how long it stays near, and the draws' spread.

    Without a seed, of what a generator draws without noise.
    """
    true, started = test.x["u"][:, 1:], clock("cpu")
    if isinstance(learned, Stepwise):
        drawn = learned.rollout(test.theta, test.x, RUN)[None, :, 1:]
    elif seed is None:
        drawn = learned.from_noise(torch.zeros(len(true), RUN * learned.law.noise), test.theta, test.x)[None]
    else:
        draw = torch.Generator().manual_seed(seed)
        drawn = torch.stack([learned.rollout(test.theta, test.x, RUN, generator=draw) for _ in range(DRAWS)])
    found = {"ms a run": 1000 * (clock("cpu") - started) / drawn.shape[0] / len(true)}
    found["first frame off"] = float((drawn[0, :, 0] - true[:, 0]).norm() / true[:, 0].norm())
    found |= {"one": near_for(drawn[0], true), "mean": near_for(drawn.mean(0), true)}
    return found | {f"spread {k}": spread_skill(drawn[:, :, k - 1], true[:, k - 1]) for k in (1, 10) if len(drawn) > 1}


def near_for(predicted: Tensor, true: Tensor) -> float:
    """Mean time until the correlation over the ring falls below `NEAR`, or of the run."""
    one, other = (u[:, :, 0].double() - u[:, :, 0].double().mean(-1, keepdim=True) for u in (predicted, true))
    together = torch.cosine_similarity(one, other, dim=-1)
    return EVERY * float((together >= NEAR).cumprod(1).sum(1).double().mean())


def _weights(learned: Any) -> int:
    """How many numbers are trained."""
    return sum(p.numel() for p in learned.parameters())
