"""Answers of the six models of `asked_models`, before and after rounds around them, beside exact ones and sbi's.

Rounds are made as `sciinf infer` makes them: where the local check finds the first answer wrong or has draws far out,
and one to confirm it elsewhere.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from asked_models import MODELS, Asked, Reference, reference
from sbi_peer import sbi_prior
from torch import Tensor

from sciinf import Flow, build_posterior, refine_around, simulate, train
from sciinf.core import Finding, Posterior, X
from sciinf.diagnostics.around import MANY, ROWS, simulate_around
from sciinf.diagnostics.here import check_here, doubted
from sciinf.diagnostics.right import Kind
from sciinf.diagnostics.second import undecided
from sciinf.interfaces.commands.refine import TIMES, UntilSettled, sizes

DRAWS = 20_000
OFF, RATIO = 0.15, 0.1
RARE = 1e-3  # share of the prior that a truncated one accepts, below which it is drawn from by importance resampling


def verdict_at(posterior: Posterior, simulator: Any, x: X, generator: torch.Generator) -> Finding:
    """The local check of an answer."""
    theta = posterior.draw(x, 2_000, generator=generator).theta
    made = partial(simulate_around, posterior, simulator, theta, generator=generator)
    around = made(rows=ROWS) or "too few simulations"
    (found,) = check_here(posterior, x, around, partial(made, rows=MANY[0]), generator=generator)
    return found


def compared(theta: Tensor, exact: Reference) -> tuple[float, float, bool]:
    """The largest error of a mean in sds, the sd ratio farthest from one, and whether both are small."""
    theta = theta.double()
    off = float(((theta.mean(0) - exact.mean) / exact.sd).abs().max())
    ratios = theta.std(0) / exact.sd
    worst = float(ratios[(ratios.log().abs()).argmax()])
    return off, worst, off <= OFF and bool(((ratios - 1).abs() <= RATIO).all())


def answers(
    names: list[str], simulations: int, observations: int, peers: int, seed: int
) -> Iterator[list[dict[str, Any]]]:
    """For each model a row for each observation.

    Args:
        names: Of models.
        simulations: In all, at most: a quarter of them from the prior, and as many rounds as `sciinf infer` has.
        observations: Of each model, drawn from the prior.
        peers: How many of them sbi answers, too.
        seed: Of everything.
    """
    for name in names:
        model = MODELS[name]()
        with tempfile.TemporaryDirectory() as folder:
            yield list(_of_model(model, Path(folder), simulations, (observations, peers), seed))


def _of_model(
    model: Asked, folder: Path, simulations: int, counts: tuple[int, int], seed: int
) -> Iterator[dict[str, Any]]:
    first = simulations // (1 + TIMES)
    planned = sizes(first)
    store = simulate(model, folder / "s", first, seed=seed + 1, progress=False)
    started = time.process_time()
    posterior = build_posterior(train(Flow(model.prior, model.observables, seed=seed), store, folder / "fit"))
    trained = time.process_time() - started
    observed = simulate(model, folder / "o", counts[0], seed=seed + 2, progress=False).load()
    npe, npe_seconds = _npe(model, simulations, seed) if counts[1] else (None, 0.0)
    for i, x in enumerate(observed.x["x"]):
        exact = reference(model, x)
        one, generator = {"x": x[None]}, torch.Generator().manual_seed(i)
        before = posterior.draw(one, DRAWS, generator=generator).theta
        told = verdict_at(posterior, model, one, generator)
        asked = UntilSettled(model, told if undecided(told) else None, planned)
        how: dict[str, Any] = {"simulations": planned, "seed": seed, "progress": False}
        theta, verdict, started = before, told, time.process_time()
        first_check, last = f"{told.level}: {told.words}", None
        if doubted(told) or undecided(told):
            refined = refine_around(model, {"x": x}, folder / f"r{i}", posterior, until=asked, **how)
            told = verdict = asked.check or told
        spent = time.process_time() - started
        if asked.ended and not asked.confirmed:
            theta = refined.draw(one, DRAWS, generator=generator).theta
            verdict = verdict_at(refined, model, one, generator)
            last = (refined.error, verdict.words)
        row: dict[str, Any] = {"model": model.name, "observation": i}
        row |= dict(zip(("off", "ratio", "right"), compared(before, exact), strict=True))
        row["verdict"] = _said(told)
        row |= dict(zip(("refined off", "refined ratio", "refined right"), compared(theta, exact), strict=True))
        row |= {
            "refined verdict": _said(verdict),
            "rounds": asked.ended,
            "confirmed": asked.confirmed,
            "first check": first_check,
            "differs": asked.differs,
            "own": asked.own,
            "chance error, check": last,
            "CPU s": trained,
            "refining CPU s": spent,
        }
        if i < counts[1]:
            row |= _beside(model, x, exact, simulations, (npe, npe_seconds), seed)
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        yield row


def _said(check: Finding) -> str:
    """The level of a check; "right" where it calls the answer right."""
    return "right" if check.kind == Kind.RIGHT else check.level


def _npe(model: Asked, simulations: int, seed: int) -> tuple[Any, float]:
    """sbi's NPE with its defaults."""
    from sbi.inference import NPE

    torch.manual_seed(seed)
    theta = model.prior.sample(simulations, generator=torch.Generator().manual_seed(seed))
    x = model(theta, generator=torch.Generator().manual_seed(seed + 1))["x"].flatten(1)
    started = time.process_time()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as logs:
        warnings.simplefilter("ignore")
        inference = NPE(prior=sbi_prior(model), show_progress_bars=False, tracker=_tracker(logs))
        inference.append_simulations(theta, x).train()
    return inference.build_posterior(), time.process_time() - started


def _beside(
    model: Asked, x: Tensor, exact: Reference, simulations: int, npe: tuple[Any, float], seed: int
) -> dict[str, Any]:
    """sbi's NPE and its truncated sequential NPE in four rounds, for one observation."""
    flat = x.flatten()[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theta = npe[0].sample((DRAWS,), x=flat, show_progress_bars=False)
        off, ratio, _ = compared(theta, exact)
        theta, seconds = _tsnpe(model, flat, simulations, seed)
    found = dict(zip(("TSNPE off", "TSNPE ratio"), compared(theta, exact)[:2], strict=True))
    return {"NPE off": off, "NPE ratio": ratio, "NPE CPU s": npe[1], **found, "TSNPE CPU s": seconds}


def _tsnpe(model: Asked, x: Tensor, simulations: int, seed: int, rounds: int = 4) -> tuple[Tensor, float]:
    from sbi.inference import NPE
    from sbi.utils import RestrictedPrior, get_density_thresholder

    torch.manual_seed(seed)
    prior = proposal = sbi_prior(model)
    how: dict[str, Any] = {}
    started = time.process_time()
    with tempfile.TemporaryDirectory() as logs:
        inference = NPE(prior=prior, show_progress_bars=False, tracker=_tracker(logs))
        for number in range(rounds):
            theta = proposal.sample((simulations // rounds,), **how)
            seen = model(theta, generator=torch.Generator().manual_seed(seed + 10 + number))["x"].flatten(1)
            inference.append_simulations(theta, seen).train(force_first_round_loss=True)
            posterior = inference.build_posterior().set_default_x(x)
            accept = get_density_thresholder(posterior, quantile=1e-4)
            proposal = RestrictedPrior(prior, accept, posterior)
            rare = float(accept(prior.sample((100_000,))).double().mean()) < RARE  # rejection would take hours
            how = {
                "sample_with": "sir" if rare else "rejection",
                "oversampling_factor": 64,
                "print_rejected_frac": False,
            }
    found = posterior.sample((DRAWS,), show_progress_bars=False)
    return found, time.process_time() - started


def _tracker(logs: str) -> Any:
    """Where sbi writes its logs; its default is the working folder."""
    from sbi.utils.tracking import TensorBoardTracker
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardTracker(SummaryWriter(logs))


def _told(rows: list[dict[str, Any]], *, right: bool) -> int:
    """How many first answers that are right, or are not, have a caution or a WARNING."""
    return sum(row["verdict"] in ("alarm", "caution") for row in rows if row["right"] == right)


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One model's rows as one."""

    def middle(key: str) -> float:
        return statistics.median(row[key] for row in rows)

    found = [(row["verdict"], row["right"]) for row in rows]
    found += [(row["refined verdict"], row["refined right"]) for row in rows if row["rounds"] and not row["confirmed"]]
    verdicts, fair = ([level for level, right in found if right == wanted] for wanted in (False, True))
    one = {
        "model": rows[0]["model"], "observations": len(rows), "right": sum(row["right"] for row in rows),
        "median off": middle("off"), "refined right": sum(row["refined right"] for row in rows),
        "refined median off": middle("refined off"), "worst off": max(row["refined off"] for row in rows),
        "worst ratio": max((row["refined ratio"] for row in rows), key=lambda r: max(r, 1 / r)),
        "wrong": len(verdicts), "told": sum(v in ("alarm", "caution") for v in verdicts),
        "not passed": sum(v not in ("good", "right") for v in verdicts), "called right": verdicts.count("right"),
        "first wrong": sum(not row["right"] for row in rows), "first told": _told(rows, right=False),
        "first doubted": _told(rows, right=True), "fair": len(fair),
        "fair called right": fair.count("right"), "alarms": fair.count("alarm"),
        "confirmed": sum(row["confirmed"] for row in rows), "rounds": middle("rounds"), "CPU s": rows[0]["CPU s"],
        "refining CPU s": middle("refining CPU s"),
    }  # fmt: skip
    beside = [row for row in rows if "NPE off" in row]
    for key in ("NPE off", "NPE CPU s", "TSNPE off", "TSNPE CPU s"):
        one[key] = statistics.median(row[key] for row in beside) if beside else "-"
    return one
