"""Generators that are trained and drawn from for a benchmark, and what their draws are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reporting import check, clock
from torch import Tensor

from sciinf import Recipe, train
from sciinf.core import Surrogate
from sciinf.diagnostics.distances import crps, energy_score, spread_skill
from sciinf.emulators import Generator
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import Order, TokenLaw

Rows = list[dict[str, Any]]
Laws = Mapping[str, tuple[Order, TokenLaw]]
MEMBERS, STARTS = 16, 200
SHOWN = (1, 5, 10, 20)


@dataclass(frozen=True)
class Asked:
    """Fresh parameters and solutions, and the solver's own draws of their starts.

    Attributes:
        theta: (start, parameter).
        x: What the simulator made of them.
        own: The draws, (member, start, frame, channel, *space).
        each: Milliseconds of one.
    """

    theta: Tensor
    x: Any
    own: Tensor
    each: float


def asked_of(options: Any, equation: Any) -> Asked:
    """What generators of an equation are asked, and judged by."""
    draw = torch.Generator().manual_seed(options.seed + 7)
    theta = equation.prior.sample(STARTS, generator=draw)
    x, started = equation(theta, generator=draw), clock("cpu")
    own = torch.stack([equation.solution(theta, x, generator=draw) for _ in range(MEMBERS)]).float()
    return Asked(theta, x, own, 1000 * (clock("cpu") - started) / (MEMBERS * STARTS))


def laws_beside_solver(options: Any, equation: Any, store: Any, asked: Asked, laws: Laws, out: Path) -> Rows:
    """The solver's row, and one of a generator of each law."""
    rows = [{"draws of": "solver", "ms a draw": asked.each, **judged(asked.own, asked)}]
    for name, (order, law) in laws.items():
        learned, spent = trained(options, equation, store, out / name, order=order, law=law)
        rows.append({"draws of": name, "training s": spent, **beside_solver(learned, asked)})
    return rows


def beside_solver(learned: Surrogate, asked: Asked) -> dict[str, float]:
    """What draws of a surrogate cost, and what they are."""
    drawn, each = drawn_by(learned, asked.theta, asked.x, MEMBERS)
    return {"ms a draw": each, **judged(drawn, asked)}


def spread_checks(part: str, rows: Rows, bound: float) -> Rows:
    """How far the spread of the first law's draws is off the solver's, in each frame that is shown."""
    own, first = rows[0], rows[1]
    name = f"{part}, {first['draws of']}"
    off = {k: abs(float(first[f"spread {k}"]) / float(own[f"spread {k}"]) - 1) for k in SHOWN}
    return [check(f"{name}, frame {k}: spread off 1 by", value, bound) for k, value in off.items()]


def judged(drawn: Tensor, asked: Asked) -> dict[str, float]:
    """CRPS and energy score over those of the solver's draws, the spread over the error of the mean, and changes.

    These are how far fields move from frame to frame, over the solver's: a seam between blocks would show.
    """
    own, true, found = asked.own, asked.x["u"], dict[str, float]()
    for frame in SHOWN:
        here, theirs, truth = drawn[:, :, frame], own[:, :, frame], true[:, frame]
        found[f"CRPS {frame}"] = float(crps(here, truth).mean() / crps(theirs, truth).mean())
        found[f"spread {frame}"] = spread_skill(here, truth)
    moved = (drawn.diff(dim=2).square().mean((0, 1, 3, 4)) / own.diff(dim=2).square().mean((0, 1, 3, 4))).sqrt()
    found["changes, least"], found["changes, most"] = float(moved.min()), float(moved.max())
    found["energy"] = float(
        energy_score(drawn[:, :, 1:], true[:, 1:]).mean() / energy_score(own[:, :, 1:], true[:, 1:]).mean()
    )
    return found


def drawn_by(learned: Surrogate, theta: Tensor, x: Any, members: int) -> tuple[Tensor, float]:
    """Draws of every start, (member, start, ...), and milliseconds of one."""
    draw, started = torch.Generator().manual_seed(5), clock("cpu")
    found = torch.stack([learned.draw(theta, x, generator=draw) for _ in range(members)])
    return found, 1000 * (clock("cpu") - started) / (members * len(theta))


def trained(options: Any, equation: Any, store: Any, out: Path, **told: Any) -> tuple[Any, float]:
    """A generator and its CPU seconds."""
    network = TokenTransformer(64, 4, heads=4)
    made = Generator(equation.prior, equation.observables, network=network, seed=options.seed, **told)
    return fitted(options, made, store, out)


def fitted(options: Any, surrogate: Any, store: Any, out: Path, recipe: Recipe | None = None) -> tuple[Any, float]:
    """A surrogate and its CPU seconds."""
    started, recipe = clock("cpu"), recipe or (Recipe(epochs=10) if options.quick else Recipe())
    fit = train(surrogate, store, out, recipe=recipe, seed=options.seed)
    return fit.surrogate, clock("cpu") - started
