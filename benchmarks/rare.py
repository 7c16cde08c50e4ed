"""How probable events are by a generator, against the solver's own runs: a part of `generators.py`.

Three laws, each learned from 4,000 solutions and asked at parameters and, of the first, a start that it has not seen:
the highest wave of Burgers' equation with random forcing; Lorenz's three numbers, from random states of the attractor,
which stay on one side of it for three time units, or reach high; and a nerve cell of FitzHugh and Nagumo at rest, which
random states make fire once or leave at rest. "P" is the share of the solver's runs, "of draws" that of plain draws of
the generator: what it can know. KS is the distance between the event's number in its draws and in the solver's runs
inside of the event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import SIMULATORS, check, clock
from scipy import stats
from torch import Tensor
from torch import distributions as td

from sciinf import Recipe, load_simulator, simulate, train
from sciinf.emulators import Frame, Generator, conditioned
from sciinf.emulators.token_transformer import TokenTransformer
from sciinf.emulators.tokens import Frames
from sciinf.networks.diffusion.events import Event

Number = Callable[[Tensor], Tensor]
DRAWS, TOGETHER = 4_000, 4_000


@dataclass(frozen=True)
class Asked:
    """A law, and events of it.

    Attributes:
        equation: What is learned.
        events: Name -> its number, of frames (n, time, channel, *space), its level where it has one, and else how
            probable events are to be.
        start: Whether it goes on from a first frame that is known, then by two frames at a time.
        width: Of the network.
        epochs: Of training.
    """

    equation: Any
    events: dict[str, tuple[Number, float | None, Sequence[float]]]
    start: bool
    width: int
    epochs: int


def asked(quick: bool) -> dict[str, Asked]:
    """What is asked."""
    burgers: Any = type(load_simulator(SIMULATORS / "pde" / "forced_burgers.py"))
    lorenz: Any = type(load_simulator(SIMULATORS / "pde" / "lorenz_63.py"))
    cell: Any = type(load_simulator(SIMULATORS / "pde" / "fitzhugh_nagumo.py"))
    rest = cell(tuple(2.0 * k for k in range(31)), current=td.Uniform(0.0, 0.15))
    few = (0.03,) if quick else (0.03, 1e-3)
    found = {
        "Burgers, forced": Asked(
            burgers(32, tuple(k / 10 for k in range(11))),
            {"a high wave": (lambda u: u[:, -1, 0].amax(1), None, few)},
            True,
            64,
            80,
        ),
        "Lorenz": Asked(
            lorenz(tuple(k / 20 for k in range(61))),
            {
                "on one side": (lambda u: torch.maximum(u[:, :, 0].amin(1), -u[:, :, 0].amax(1)), 0.0, ()),
                "high": (lambda u: u[:, :, 2].amax(1), None, few),
            },
            False,
            64,
            60,
        ),
        "FitzHugh and Nagumo": Asked(rest, {"fires": (lambda u: u[:, 5:, 0].amax(1), 1.0, ())}, False, 64, 60),
    }
    return {"Burgers, forced": found["Burgers, forced"]} if quick else found


def rare(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of log probabilities, and what they are to be."""
    rows = list[dict[str, Any]]()
    for name, what in asked(options.quick).items():
        law, spent = _trained(what, out / name.split(",")[0].split()[0], options)
        draw = torch.Generator().manual_seed(options.seed + 1)
        for number in range(1 if options.quick else 2):
            theta = what.equation.prior.sample(1, generator=draw)
            start = what.equation.start(theta, generator=draw) if what.start else {}
            for row in _answers(what, law, theta, start, options.quick, draw):
                rows.append({"law": name, "place": number, "training s": spent, **row})
                print(rows[-1], flush=True)
    checks = []
    for row in rows:
        words = f"rare, {row['law']}, {row['event']}, P = {row['P']:.2g}, place {row['place']}"
        bound = (0.35 if row["P"] > 0.01 else 0.7) * (2 if options.quick else 1)
        checks.append(check(f"{words}: log P off by", abs(row["log P"] - math.log(row["P"])), bound))
        checks.append(check(f"{words}: KS", row["KS"], 0.3 if options.quick or row["P"] < 0.01 else 0.1))
    checks.append(check("rare: 0.95 / share of draws inside", 0.95 / min(row["inside"] for row in rows), 1.0))
    return rows, checks


def _trained(what: Asked, out: Path, options: Any) -> tuple[Any, float]:
    store = simulate(what.equation, out / "store", 1_000 if options.quick else 4_000, seed=options.seed)
    network, started = TokenTransformer(what.width, 4, heads=4), clock("cpu")
    told: dict[str, Any] = {"given": []}
    if what.start:
        told = {"given": [Frame(0)], "order": Frames(2)}
    made = Generator(what.equation.prior, what.equation.observables, network=network, seed=options.seed, **told)
    recipe = Recipe(epochs=30 if options.quick else what.epochs)
    return train(made, store, out / "fit", recipe=recipe, seed=options.seed).surrogate, clock("cpu") - started


def _answers(
    what: Asked, law: Any, theta: Tensor, start: dict[str, Tensor], quick: bool, draw: torch.Generator
) -> list[dict[str, Any]]:
    """One place's rows."""
    count, rows = 20_000 if quick else 400_000 if not what.start else 100_000, []
    runs = {name: [] for name in what.events}
    for _ in range(count // TOGETHER):
        many = theta.expand(TOGETHER, -1)
        given = repeated(start, TOGETHER) if what.start else what.equation.start(many, generator=draw)
        u = what.equation.solution(many, given, generator=draw).float()
        for name, (of, *_) in what.events.items():
            runs[name].append(of(u))
    plain = law.sample(theta.expand(DRAWS, -1), repeated(start, DRAWS), generator=draw)
    for name, (of, level, probable) in what.events.items():
        true = torch.cat(runs[name])
        for edge in (
            [level] if level is not None else [float(true.sort().values[int((1 - p) * len(true))]) for p in probable]
        ):
            started = clock("cpu")
            found = conditioned(law, theta, start, Event(of, edge), 400, generator=draw)
            rows.append(
                {
                    "event": name,
                    "P": float((true > edge).double().mean()),
                    "of draws": float((of(plain) > edge).double().mean()),
                    "log P": found.log_evidence,
                    "said": found.error,
                    "KS": float(np.asarray(stats.ks_2samp(of(found.x).numpy(), true[true > edge].numpy()))[0]),
                    "inside": float((of(found.x) > edge).double().mean()),
                    "s": clock("cpu") - started,
                }
            )
    return rows


def repeated(start: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    """The same start for n rows."""
    return {name: value.expand(n, *value.shape[1:]) for name, value in start.items()}
