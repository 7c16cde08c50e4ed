"""Who pushes whom: learned posteriors over graphs beside exact ones and Euler regression: a part of `dynamics.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from dynamics_graphs_systems import LIKELY, NODES, SIZE, Lorenz, Nodes, euler, exact, graph
from reporting import check, clock
from torch import Tensor

from sciinf import Recipe, Simulator, simulate, train
from sciinf.emulators import LatentDynamics
from sciinf.lab import Interacting

Rows = list[dict[str, Any]]
SERIES = 20  # of 25 steps each: as many values as 10 of 50, of which training could hold too few out


def graphs(options: Any, out: Path) -> tuple[Rows, Rows]:
    """All comparisons."""
    found = [_linear(options, out), _hidden(options, out), _lorenz(options, out)]
    return [row for rows, _ in found for row in rows], [one for _, checks in found for one in checks]


def _learned(simulator: Simulator, out: Path, steps: int, **told: Any) -> tuple[Tensor, Tensor, float]:
    """Edge probabilities, the series that were learned from, and CPU seconds."""
    store = simulate(simulator, out / "rows", SERIES + 2, seed=0, progress=False)
    process = Interacting(simulator.observables["x"].shape[1], likely=LIKELY, size=SIZE, **told)
    made = LatentDynamics(simulator.prior, simulator.observables, process, width=0, columns=range(process.nodes))
    recipe = Recipe(
        epochs=steps, batch=SERIES, learning_rate=0.05, optimiser="adamw", weight_decay=0.0, validate_every=steps,
        patience=steps,
    )  # fmt: skip
    started = clock("cpu")
    fit = train(made, store, out / "fit", recipe=recipe, progress=False)
    spent = clock("cpu") - started
    surrogate = fit.surrogate
    assert isinstance(surrogate, LatentDynamics)
    edges = surrogate.process.edges()  # type: ignore[operator]
    return edges.probability, store.load().rows(slice(0, SERIES)).x["x"], spent


def auroc(probability: Tensor, true: Tensor) -> float:
    """How often a true edge has a larger probability than one that is not."""
    yes, no = probability[true], probability[~true]
    more = (yes[:, None] > no[None]).double() + 0.5 * (yes[:, None] == no[None]).double()
    return float(more.mean())


def _judged(name: str, found: list[Tensor], true: Tensor) -> dict[str, Any]:
    """Pooled over graphs, without the diagonal."""
    p = torch.cat([_off(each) for each in found])
    sure = p >= 0.9
    share = float(true[sure].double().mean()) if bool(sure.any()) else float("nan")
    return {
        "graphs": name,
        "AUROC": auroc(p, true),
        "p >= .9": int(sure.sum()),
        "of these true": share,
        "expected": float(p[sure].mean()) if bool(sure.any()) else float("nan"),
        "Brier": float((p - true.double()).square().mean()),
    }


def _off(each: Tensor) -> Tensor:
    return each.double()[~torch.eye(len(each), dtype=torch.bool)]


def _linear(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Linear systems of 5 nodes, one step apart: all values seen, and 30 % of them missing."""
    count, steps = (2, 200) if options.quick else (5, 400)
    names = ("exact", "learned", "Euler regression", "learned, 30 % missing")
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    true, cost, least = [], 0.0, float("inf")
    for seed in range(1, count + 1):
        field = graph(seed)
        true.append(_off((field != 0).double()) > 0)
        p, x, spent = _learned(Nodes(field), out / f"all {seed}", steps)
        reference, cost = exact(x), cost + spent / count
        least = min(least, reference.draws)
        found["exact"].append(reference.probability)
        found["learned"].append(p)
        found["Euler regression"].append(euler(x))
        found["learned, 30 % missing"].append(_learned(Nodes(field, 0.3), out / f"missing {seed}", steps)[0])
    edges = torch.cat(true)
    rows = [_judged(name, found[name], edges) for name in names]
    apart = {
        name: float((torch.stack(found[name]) - torch.stack(found["exact"])).abs().mean()) * NODES / (NODES - 1)
        for name in names
    }
    rows = [row | {"off exact (mean)": apart[row["graphs"]]} for row in rows]
    rows[0] |= {"effective draws, least": least}
    rows[1] |= {"CPU s a graph": cost}
    loss = rows[1]["AUROC"] - rows[3]["AUROC"]
    checks = [
        check("1 - AUROC, learned", 1 - rows[1]["AUROC"], 0.2 if options.quick else 0.1),
        check("edges with p >= .9 that are false", 1 - rows[1]["of these true"], 0.3 if options.quick else 0.06),
        check("AUROC that 30 % missing cost", loss, 0.2 if options.quick else 0.03),
        check("probabilities off the exact ones, mean", apart["learned"], 0.2 if options.quick else 0.1),
    ]
    return rows, checks


def _hidden(options: Any, out: Path) -> tuple[Rows, Rows]:
    """A node that nobody sees pushes two that are seen, and no other edge is there: what is then said of those two."""
    field = -0.7 * torch.eye(4).double()
    field[0, 3] = field[1, 3] = 1.5
    p, _, _ = _learned(Nodes(field, seen=3), out / "hidden", 100 if options.quick else 400)
    row = {
        "a common cause is not seen": "3 nodes, no edge between them",
        "p of 0 and 1, larger": float(max(p[0, 1], p[1, 0])),
    }
    return [row | {"p of others, largest": float(max(p[0, 2], p[1, 2], p[2, 0], p[2, 1]))}], []


def _lorenz(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Lorenz-96 of 6 nodes, which is not linear: what linear edges find of it. A target that is not met: no check."""
    true = _off(Lorenz.parents().double()) > 0
    p, x, spent = _learned(Lorenz(), out / "lorenz", 100 if options.quick else 400, center=2.3, unit=3.6)
    rows = [
        _judged("Lorenz-96, learned", [p], true) | {"CPU s a graph": spent},
        _judged("Lorenz-96, Euler regression", [euler((x - 2.3) / 3.6)], true),
    ]
    return rows, []
