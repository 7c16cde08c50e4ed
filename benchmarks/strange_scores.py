"""Scores of an observation (`diagnostics.scores`) beside the statistics that an answer has: power, false alarms, cost.

`benchmarks/trust.py --only scores` prints the tables. Faults, and the classifier that knows which to look for, are
those of `localising`. "views" are the three plain views of `diagnostics.ood`, "default" these and planted faults, as
answers have them, "around the answer" is `diagnostics.localise`. Each cell is an area under the curve, of clean against
faulty data, and the share of these with p < .01. Seconds and milliseconds are of CPU time.

`PlantedFaults` knows none of these faults: it plants kinds in random places and sizes (`scores.faults`). "planted,
without it" leaves out the kind that is nearest to the fault, so that it has seen none of that kind.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from localising import EPOCHS, KINDS, Known, area, classified, known, observed, own, seen
from reporting import check
from torch import Tensor

from sciinf import simulate
from sciinf.campaigns import Store
from sciinf.core import X
from sciinf.diagnostics import PlantedFaults
from sciinf.diagnostics.ood import REFERENCE, make_reference, p_values
from sciinf.diagnostics.scores.known import SCORES
from sciinf.diagnostics.scores.planted import FAULTS, Fault
from sciinf.diagnostics.scores.score import DataScore

NEAREST: dict[str, Fault] = {"one number": "number", "dead": "repeated", "drift": "drift", "noise": "size"}
_LIMIT = 0.01
Judge = Callable[[X], tuple[Tensor, Tensor]]  # data -> how strange, and p


def scores(*, quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tables of power and cost."""
    rows, checks = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in EPOCHS:
            of = known(name, Path(folder) / name, quick=quick)
            fresh = simulate(of.simulator, Path(folder) / f"{name}_fresh", 10_000, seed=5, progress=False)
            found = of_one(of, fresh, quick=quick)
            rows, checks = rows + found[0], checks + found[1]
    return rows, checks


def of_one(of: Known, fresh: Store, *, quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The table of one simulator."""
    clean, count, name = observed(of, "clean", 1_000, 1), 500, of.simulator.name
    bad = {kind: observed(of, kind, count, 3) for kind in KINDS}
    rows, checks = [], []
    judges = {one: _by(of, fresh, score) for one, score in SCORES.items()}
    judges |= {one: _whole(of, fresh, given) for one, given in (("views", ()), ("default", None))}
    for one, (judge, seconds) in judges.items():
        started = time.process_time()
        far, p = judge(clean)
        each = 1_000 * (time.process_time() - started) / len(p)
        found = {kind: _told(far, *judge(x)) for kind, x in bad.items()}
        false = float((p < _LIMIT).double().mean())
        rows.append(_row(name, one, found) | {"false": false, "fit s": seconds, "ms": each})
        checks.append(check(f"{name}, {one}: false alarms", false, _LIMIT + 3 * (0.0099 / len(p)) ** 0.5))
    left_out = {}
    for kind, planted in NEAREST.items():
        judge, _ = _by(of, fresh, PlantedFaults(tuple(one for one in FAULTS if one != planted)))
        left_out[kind] = _told(judge(clean)[0], *judge(bad[kind]))
    rows.append(_row(name, "planted, without it", left_out))
    rows.append(_around(of, clean, bad, quick=quick))
    fitted = 1_000 if quick else 4_000
    some = seen(of, observed(of, "clean", 2 * fitted, 2))
    best = {kind: classified(some, seen(of, observed(of, kind, 2 * fitted, 4))) for kind in KINDS}
    rows.append(_row(name, "classifier", {kind: f"{value:.3f}" for kind, value in best.items()}))
    return rows, checks


def _row(name: str, one: str, found: dict[str, str]) -> dict[str, Any]:
    return {"simulator": name, "score": one, **{kind: found.get(kind, "-") for kind in KINDS}}


def _told(clean: Tensor, far: Tensor, p: Tensor) -> str:
    return f"{area(clean[:, None], far[:, None]):.3f} ({float((p < _LIMIT).double().mean()):.2f})"


def _by(of: Known, fresh: Store, score: DataScore) -> tuple[Judge, float]:
    """A score by itself, learned from a third of the simulations and ranked among the rest; and its seconds."""
    first = len(fresh) // 3
    x, rest = fresh.load(slice(0, first)).x, fresh.load(slice(first, len(fresh))).x
    started = time.process_time()
    learned = score.fit(of.posterior, x, generator=torch.Generator().manual_seed(0))
    seconds = time.process_time() - started
    ordered = score.distances(of.posterior, learned, rest).sort().values

    def judge(data: X) -> tuple[Tensor, Tensor]:
        far = score.distances(of.posterior, learned, data)
        return far, (1 + len(ordered) - torch.searchsorted(ordered, far)).double() / (1 + len(ordered))

    return judge, seconds


def _whole(of: Known, fresh: Store, given: tuple[DataScore, ...] | None) -> tuple[Judge, float]:
    started = time.process_time()
    reference = make_reference(of.posterior, fresh, given)
    seconds = time.process_time() - started
    if given is None and reference[REFERENCE].shape[1] != 4:
        raise RuntimeError("the default has learned nothing")

    def judge(data: X) -> tuple[Tensor, Tensor]:
        p = p_values(reference, of.posterior, data)
        return -p, p

    return judge, seconds


def _around(of: Known, clean: X, bad: dict[str, X], *, quick: bool) -> dict[str, Any]:
    """What is ranked around each answer, of fewer data: it takes a second each."""
    few = 20 if quick else 60
    started = time.process_time()
    right = own(of, {name: value[:few] for name, value in clean.items()}, quick=quick)
    each = 1_000 * (time.process_time() - started) / few
    found = {}
    for kind, x in bad.items():
        wrong = own(of, {name: value[:few] for name, value in x.items()}, quick=quick)
        found[kind] = _told(right[:, 0], wrong[:, 0], wrong[:, 1])
    false = float((right[:, 1] < _LIMIT).double().mean())
    return _row(of.simulator.name, f"around the answer ({few})", found) | {"false": false, "fit s": 0.0, "ms": each}
