"""A thousand steps of turbulence, one after the other: a part of `surrogates.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check, clock
from torch import Tensor
from torch import distributions as td

from sciinf import Recipe, Simulator, load_simulator, simulate, train
from sciinf.core import Batch, Observable
from sciinf.diagnostics.distances import octaves
from sciinf.emulators import Stepwise
from sciinf.emulators.stable_rollout import Stable
from sciinf.networks.fields import FieldArchitecture
from sciinf.networks.spectral import Fourier
from sciinf.simulators.dynamics.random_field import RandomField

POINTS, FINER = 64, 2  # read on every other point of those it is solved on
SETTLED, EVERY, FRAMES = 12.0, 0.125, 81
TRAJECTORIES, PAIRS, EPOCHS = 40, 4, 32
STEPS, BEYOND, SEEN_EVERY = 1_000, 3.0, 50
HIGHEST = "waves 16 to 32"
OCTAVES = ("waves 1 to 4", "4 to 8", "8 to 16", HIGHEST)
NETS: dict[str, tuple[FieldArchitecture, float]] = {  # and the noise that it is trained with
    "plain": (Fourier(16, POINTS // 2, hidden=64), 0.0),
    "stable": (Stable(24, POINTS // 2, limit=1.5), 1.0),
}


class Settled(Simulator):
    """Frames of a flow from its second time on, on fewer points than it is solved on; and what drives it."""

    def __init__(self, equation: Any) -> None:
        self.equation, self.prior, self.name = equation, equation.prior, f"settled_{equation.name}"
        space, axes = (1, POINTS, POINTS), ("channel", "y", "x")
        frames = (len(equation.times) - 1, *space)
        fixed = Observable(space, "", axes)
        self.observables = {"initial": fixed, "forcing": fixed, "u": Observable(frames, "", ("time", *axes))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        frames = self.equation(theta, generator=generator)["u"][:, 1:, :, ::FINER, ::FINER]
        forcing = self.equation.forcing(self.equation.grid)[::FINER, ::FINER].float().expand(len(theta), 1, -1, -1)
        return {"initial": frames[:, 0], "forcing": forcing, "u": frames}


def stability(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows: error of one step, steps until a flow is none any more, energies; and what they are to be."""
    flow = turbulence()
    trajectories, epochs, seeds, count = (20, 2, 1, 2) if options.quick else (TRAJECTORIES, EPOCHS, 3, 4)
    store = simulate(flow, out / "store", trajectories, seed=options.seed)
    true = simulate(flow, out / "test", count, seed=options.seed + 1).load()
    recipe = Recipe(epochs=epochs, batch=1, learning_rate=3e-3)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seed, options.seed + seeds):
        for name, (net, noise) in NETS.items():
            step = Stepwise(flow.prior, flow.observables, net, stays=["forcing"], pairs=PAIRS, noise=noise, seed=seed)
            started = clock("cpu")
            fit = train(step, store, out / f"{name}_{seed}", recipe=recipe, seed=seed)
            row = {"network": name, "seed": seed, "training s": clock("cpu") - started}
            rows.append(row | rolled(fit.surrogate, true))
    plain, stable = ([row for row in rows if row["network"] == name] for name in NETS)
    error = torch.tensor([s["error"] / p["error"] for s, p in zip(stable, plain, strict=True)])
    kept, fewest = sum(row["half kept"] for row in plain), min(row["fewest"] for row in stable)
    highest = torch.tensor([row[HIGHEST] for row in stable]).clamp_min(1e-30).log().abs().exp()
    checks = [
        check("stability: seeds of 3 in which half of the plain operator's flows go on to the end", kept, 1),
        check("stability: steps / fewest of the bounded operator", STEPS / max(fewest, 1), 1.0),
        check("stability: energy of its highest octave, off by a factor", float(highest.max()), 2.0),
        check("stability: its error / the plain operator's, worst", float(error.max()), 1.1),
    ]
    return rows, [] if options.quick else checks


def turbulence() -> Settled:
    """The Kolmogorov flow at viscosity 1e-4."""
    made: Any = load_simulator(SIMULATORS / "pde" / "navier_stokes.py")
    parts: Any = sys.modules[type(made).__module__]
    equation = parts.NavierStokes(
        POINTS * FINER,
        (0.0, *(SETTLED + EVERY * k for k in range(FRAMES))),
        RandomField(1.0, tau=7.0, alpha=2.5),
        parts.shear,
        viscosity=td.Uniform(0.999e-4, 1.001e-4),
        strength=td.Uniform(0.04995, 0.05005),
        drag=0.1,
        longest=2.4 / POINTS / FINER,
    )
    return Settled(equation)


@torch.no_grad()
def rolled(step: Any, rows: Batch) -> dict[str, Any]:
    """What a thousand steps from the first frames come to; energies of octaves are means over frames, over the true."""
    true, z, stay = rows.x["u"], step.z(rows.theta), step.stacked(rows.x)[:, 1:]
    apart = [(true[:, k], true[:, k + 1]) for k in range(0, FRAMES - 1, 8)]
    error = torch.stack([size(step.step(before, stay, z) - after) / size(after) for before, after in apart]).mean()
    most = BEYOND * size(true.flatten(0, 1)).max()
    frame, kept, steps, seen = true[:, 0], torch.ones(len(true), dtype=torch.bool), torch.zeros(len(true)), []
    for k in range(1, STEPS + 1):
        frame = step.step(frame, stay, z)
        kept &= size(frame) < most  # a frame that is not finite is lost too
        steps += kept
        if k % SEEN_EVERY == 0:
            seen.append(energies(frame))
    ratio = torch.stack(seen).mean(0) / energies(true.flatten(0, 1))
    row = {"error": float(error), "half kept": bool(kept.float().mean() >= 0.5), "mean steps": float(steps.mean())}
    return row | {"fewest": int(steps.min())} | dict(zip(OCTAVES, ratio.tolist(), strict=True))


def size(frames: Tensor) -> Tensor:
    """Root mean squares."""
    return frames.flatten(1).square().mean(1).sqrt()


def energies(frames: Tensor) -> Tensor:
    """Of each octave, mean over frames."""
    first, second, *others = octaves(frames, 2).flatten(0, -2).mean(0)
    return torch.stack([first + second, *others])
