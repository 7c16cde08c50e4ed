"""A narrow peak, learned from its equation alone, with points placed in five ways: a part of `dynamics.py`.

-Laplace u = f on a square of side 2 with f such that u = exp(-1000 |x - c|^2), which fills three thousandths of it. All
ways have the same network, steps and number of points, 2,000 in an epoch of four steps; points are new in each step.
"even": drawn evenly. "refined": drawn from four times as many even ones with a probability of 1 + |r| / mean |r|.
"adversarial" and "following": by densities that learn the residual. "known": half of them around the peak, which nobody
knows; it tells what points can do at most. Errors are integrals over the square, of values on a grid that is finer at
the peak.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from reporting import check, clock
from torch import Tensor

from sciinf import Prior, Recipe, simulate, train
from sciinf.lab import AdversarialPoints, Collocation, CollocationPoints, EvenPoints, FollowingPoints, Unsolved
from sciinf.lab.placements import Placement, Placing
from sciinf.simulators.dynamics.field_equation import described
from sciinf.simulators.dynamics.grid import BoxGrid

Rows = list[dict[str, Any]]
SHARP, CENTRE, SIDE = 1000.0, 1.5, 2.0
AT_FIRST = 3_142.0  # the mean of f^2 over the square, 4,000 pi / 4


@final
class Peak(Unsolved):
    """The equation."""

    name, block, times = "peak", 512, (0.0,)

    def __init__(self) -> None:
        self.grid, self.prior = BoxGrid((129, 129), (SIDE, SIDE), periodic=False), Prior.none()
        _, self.observables = described({}, 1, 1, self.grid)

    def residual_at(self, u: Any, at: Tensor, theta: Any) -> Tensor:
        """-Laplace u - f."""
        far = SHARP * (at - CENTRE).square().sum(-1, keepdim=True)
        return -u.bend.sum(-1) - 4 * SHARP * (1 - far) * (-far).exp()

    def edge_at(self, u: Any, at: Tensor, theta: Any) -> Tensor:
        """u is that of the peak at the sides."""
        return u.value - solution(at)


def solution(at: Tensor) -> Tensor:
    """u at points, (point, 1)."""
    return (-SHARP * (at - CENTRE).square().sum(-1, keepdim=True)).exp()


@final
class RefinedPoints(Placement):
    """Points drawn from more of them, by their residual."""

    def build(self, size: int) -> Placing:
        """See `Placement`."""
        return _Refined()


@final
class _Refined(Placing):
    def points(self, even: Tensor, squares: Any, *, generator: torch.Generator) -> Tensor:
        more = torch.cat([even, torch.rand(3 * len(even), even.shape[-1], generator=generator)])
        size = squares(more).sqrt()
        return more[torch.multinomial(1 + size / size.mean(), len(even), generator=generator)]

    def loss(self, points: Tensor, squares: Tensor, *, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(squares)


@final
class KnownPoints(Placement):
    """Half of them around the peak."""

    def build(self, size: int) -> Placing:
        """See `Placement`."""
        return _Known()


@final
class _Known(Placing):
    def points(self, even: Tensor, squares: Any, *, generator: torch.Generator) -> Tensor:
        near = CENTRE / SIDE + 0.02 * torch.randn(even[::2].shape, generator=generator)
        return torch.cat([even[: len(even) - len(near)], near.clamp(0, 1)])

    def loss(self, points: Tensor, squares: Tensor, *, generator: torch.Generator) -> Tensor:
        return torch.zeros_like(squares)


WAYS: dict[str, Placement] = {
    "even": EvenPoints(),
    "refined": RefinedPoints(),
    "adversarial": AdversarialPoints(),
    "following": FollowingPoints(),
    "known": KnownPoints(),
}


def collocation(options: Any, out: Path) -> tuple[Rows, Rows]:
    """All ways; what the densities that learn are to gain is a target, which may be missed."""
    equation, rows = Peak(), Rows()
    store = simulate(CollocationPoints(equation), out / "store", 140, seed=options.seed, progress=False)
    recipe = Recipe(epochs=30 if options.quick else 500, batch=31, optimiser="muon", patience=10_000, processes=1)
    for name, placement in WAYS.items():
        started = clock("cpu")
        learned = Collocation(equation, placement, seed=options.seed)
        fit = train(learned, store, out / name, recipe=recipe, seed=options.seed, progress=False)
        spent = clock("cpu") - started
        last = fit.record["history"][-1]["train_loss"]
        rows.append({"points": name, **measured(fit.surrogate), "last loss": last, "CPU s": spent})
    found = {row["points"]: row for row in rows}
    even, refined = found["even"], found["refined"]
    if options.quick:  # too short to find anything: it runs, and nobody did worse than nothing
        return rows, [check("collocation: residual left by even points", even["residual"], 1.5)]
    checks = Rows()
    for name in ("adversarial", "following"):
        own, words = found[name], f"collocation, {name}:"
        checks += [
            check(f"{words} error beside that of even points (target)", own["error"] / even["error"], 0.2),
            check(f"{words} error beside that of refined points (target)", own["error"] / refined["error"], 1.2),
            check(f"{words} residual beside that of even points (target)", own["residual"] / even["residual"], 0.1),
        ]
    return rows, checks


@torch.no_grad()
def measured(learned: Any) -> dict[str, float]:
    """|u - f| / |u|, and the mean of r^2 over that of u = 0."""
    near, far = (
        torch.cartesian_prod(*2 * [torch.linspace(low, high, count)])
        for low, high, count in ((CENTRE - 0.15, CENTRE + 0.15, 101), (0.0, SIDE, 257))
    )
    far = far[((far - CENTRE).abs() > 0.15).any(-1)]
    at = torch.cat([near, far])
    weight = torch.cat([torch.full((len(near),), (0.3 / 100) ** 2), torch.full((len(far),), (SIDE / 256) ** 2)])
    true = solution(at)[:, 0]
    off = learned.scale * learned.network(at, at[:, :0])[:, 0] - true
    left = learned.residual_squares(at / SIDE) * learned.residual_size.square()
    error = ((weight @ off.square()) / (weight @ true.square())).sqrt()
    return {"error": float(error), "residual": float(weight @ left / weight.sum()) / AT_FIRST}
