"""Flows in a plane by one network, told which one by its symbols: a part of `papers.py`.

Errors are relative L2 errors of the frames to come, over the channels that a family has, each in units of its sd over
the given frames, from their mean on; the mean over rows and frames of a family. Training sees seven tenths of the range
of each coefficient ("seen"); "unseen" are coefficients of the other three tenths, between them, where flows are a
little easier for all. `--quick` leaves out frames that are far apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from reporting import SIMULATORS, check, clock
from torch import Tensor

from sciinf import Recipe, load_simulator, simulate, train
from sciinf.core import Batch, Prior
from sciinf.core.proposal import Proposal
from sciinf.emulators import MultiFluid
from sciinf.simulators.dynamics.systems import Systems

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]
SEEN, UNSEEN = ((0.0, 0.2), (0.35, 0.65), (0.8, 1.0)), ((0.2, 0.35), (0.65, 0.8))  # parts of every range


class InParts(Proposal):
    """Families as in the prior, and every share in parts of what it goes over.

    Args:
        prior: Of the latent numbers.
        parts: Lower and upper ends, in order.
    """

    def __init__(self, prior: Prior, parts: Sequence[tuple[float, float]]) -> None:
        self.prior, self.parts = prior, parts

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        theta = self.prior.sample(n, generator=generator)
        edges = torch.tensor(self.parts)
        ends = (edges[:, 1] - edges[:, 0]).cumsum(0)
        along = theta[:, 1:].clamp(1e-4, 1 - 1e-4) * ends[-1]
        part = (along[..., None] > ends).sum(-1)
        return torch.cat([theta[:, :1], edges[part, 1] - (ends[part] - along)], 1)

    def to_json(self) -> dict[str, Any]:
        return {"parts": [list(part) for part in self.parts]}


def fluids(options: Any, out: Path) -> Found:
    """Errors with and without symbols, and of the last frame repeated, where coefficients are seen and where not."""
    kind: Any = type(load_simulator(SIMULATORS / "pde" / "mixed_fluids.py"))
    rows, checks = [], []
    for gap in (0.02,) if options.quick else (0.02, 0.1):
        simulator = kind(gap=gap)
        means = _compared(simulator, options, out / str(gap), rows)
        gain = 0.9 if gap < 0.1 else 1.1  # frames that are far apart tell the coefficients: symbols do not pay
        for name, ratio, bound in (
            ("with / without symbols", means["symbols", "seen"] / means["no symbols", "seen"], gain),
            ("unseen / seen coefficients", means["symbols", "unseen"] / means["symbols", "seen"], 1.5),
            ("symbols / last frame repeated", means["symbols", "seen"] / means["last frame", "seen"], 0.5),
        ):
            checks.append(check(f"fluids: frames {gap} apart, {name}", ratio, bound))
    return rows, checks


def _compared(simulator: Any, options: Any, out: Path, rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Mean errors by (way, part), and a row for each of them."""
    law = {name: InParts(simulator.prior, parts) for name, parts in (("seen", SEEN), ("unseen", UNSEEN))}
    store = simulate(simulator, out / "s", 900, seed=options.seed, proposal=law["seen"], progress=False)
    fresh = {
        name: simulate(simulator, out / name, 300, seed=options.seed + 1, proposal=each, progress=False).load()
        for name, each in law.items()
    }
    means = {}
    for way in ("last frame", "no symbols", "symbols"):
        started, surrogate = clock("cpu"), None
        if way != "last frame":
            untrained = MultiFluid(simulator.prior, simulator.observables, simulator.systems, symbols=way == "symbols")
            recipe = Recipe(batch=32, optimiser="muon", learning_rate=5e-3, epochs=12)
            surrogate = train(untrained, store, out / way, recipe=recipe, seed=options.seed, progress=False).surrogate
        took = clock("cpu") - started
        for part, batch in fresh.items():
            errors = _errors(simulator.systems, surrogate, batch)
            means[way, part] = sum(errors.values()) / len(errors)
            shown = {"gap": simulator.gap, "told": way, "coefficients": part, **errors, "mean": means[way, part]}
            rows.append({**shown, "seconds": took})
    return means


@torch.no_grad()
def _errors(systems: Systems, surrogate: Any, batch: Batch) -> Mapping[str, float]:
    """Of every family; without a surrogate, of the last frame repeated."""
    true, frames = batch.x["u"], batch.x["frames"]
    each = frames.unflatten(1, (-1, systems.fields))
    mean = each.mean((1, 3, 4), keepdim=True)
    sd = (each - mean).square().mean((1, 3, 4), keepdim=True).sqrt().clamp_min(1e-6)
    found = each[:, -1:] if surrogate is None else surrogate.eval().predict(batch.theta, batch.x)
    there = systems.there(batch.theta)[:, None, :, None, None]
    off, whole = ((value / sd * there).square().sum((2, 3, 4)) for value in (found - true, true - mean))
    error, number = (off / whole).sqrt().mean(1), systems.number(batch.theta)
    return {name: float(error[number == k].mean()) for k, name in enumerate(systems.equations)}
