"""Two nested linear models, whose evidence is known, beside sbi's MNPE: a part of `discrete.py`.

Of six numbers with noise, either a level or a level and a slope (`tests/nested.py`). Bayes factors of observations
whose logarithm is at most 6, as the network says them and as the likelihood corrects them; and for sbi's `MNPE` with
its defaults, on the same simulations, how far P(line) is from the exact one. sbi's parameters all exist: a slope that
does not is drawn from its prior there, continuous ones stand first, and probabilities are shares of 4,000 draws (those
that its categorical network says of itself are others, and further off).
"""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from reporting import check, clock
from torch import Tensor

from sciinf import Mixed, build_posterior, simulate, train
from sciinf.core.simulator import load_module

TESTS = Path(__file__).parent.parent / "tests"
OBSERVATIONS, ROWS = 300, 6_000


def nested(options: Any, out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Bayes factors, and both beside the exact probabilities."""
    simulator = load_module(TESTS / "nested.py").Nested()
    generator = torch.Generator().manual_seed(options.seed + 5)
    x = simulator(simulator.prior.sample(4_000, generator=generator), generator=generator)["x"]
    evidence = simulator.evidences(x)
    factor = evidence[:, 1] - evidence[:, 0]
    rows, checks = _factors(simulator, x, factor, options, out)
    return _beside(simulator, x[:OBSERVATIONS], factor[:OBSERVATIONS], options, out, rows, checks)


def _factors(simulator: Any, x: Tensor, factor: Tensor, options: Any, out: Path) -> tuple[list[Any], list[Any]]:
    chosen = (factor.abs() <= 6).nonzero().flatten()[: 40 if options.quick else 200]
    store = simulate(simulator, out / "factors", 10_000 if options.quick else 40_000, seed=options.seed)
    started = clock("cpu")
    fit: Any = train(Mixed(simulator.prior, simulator.observables), store, out / "fit of factors", seed=options.seed)
    spent = clock("cpu") - started
    said = fit.estimator.condition({"x": x[chosen]}).log_probabilities("model").double()
    raw = ((said[:, 1] - said[:, 0]) - factor[chosen]).abs()
    posterior, corrected = build_posterior(fit, simulator, ess=5_000, budget=60_000), []
    started = clock("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i in chosen:
            draws = posterior.draw({"x": x[i][None]}, 20_000, generator=torch.Generator().manual_seed(int(i)))
            found = evidence_by(draws, simulator.prior, "model")
            corrected.append(abs(found["line"] - found["flat"] - float(factor[i])))
    each = (clock("cpu") - started) / len(chosen)
    median = float(torch.tensor(corrected).median())
    row = {"Bayes factors": len(chosen), "training s": spent, "raw": float(raw.median()), "corrected": median}
    wide = 2.0 if options.quick else 1.0
    return [{**row, "s each": each}], [
        check("nested: log Bayes factor, median error, raw", row["raw"], 0.15 * wide),
        check("nested: log Bayes factor, median error, corrected", median, 0.03 * wide),
    ]


def evidence_by(draws: Any, prior: Any, name: str) -> dict[str, float]:
    """log p(x | value) of each value of a discrete parameter, of draws with weights."""
    law, column = prior.discrete()[name], prior.names.index(name)
    share = [float(draws.weights[draws.theta[:, column] == value].sum()) for value in law.values]
    parts = zip(law.labels, share, law.log_probs.tolist(), strict=True)
    return {label: draws.log_evidence + math.log(max(p, 1e-300)) - before for label, p, before in parts}


def _beside(
    simulator: Any, x: Tensor, factor: Tensor, options: Any, out: Path, rows: list[Any], checks: list[Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    truth, mine, theirs = torch.sigmoid(factor), [], []
    for seed in range(1 if options.quick else 5):
        store = simulate(simulator, out / f"store {seed}", ROWS, seed=seed)
        started = clock("cpu")
        fit: Any = train(
            Mixed(simulator.prior, simulator.observables, seed=seed), store, out / f"fit {seed}", seed=seed
        )
        spent = clock("cpu") - started
        said = fit.estimator.condition({"x": x}).log_probabilities("model").double().exp()[:, 1]
        mine.append((float((said - truth).abs().mean()), float((said - truth).abs().max()), spent))
        batch = store.load()
        said, spent = mnpe(simulator, batch.theta, batch.x["x"], x, seed)
        theirs.append((float((said - truth).abs().mean()), float((said - truth).abs().max()), spent))
    for name, found in (("Mixed", mine), ("sbi MNPE", theirs)):
        mean, worst, spent = (sum(column) / len(found) for column in zip(*found, strict=True))
        rows.append({"network": name, "seeds": len(found), "mean |P - exact|": mean, "max": worst, "training s": spent})
    ours, peer = rows[-2], rows[-1]
    key = "mean |P - exact|"
    checks.append(check("nested: mean |P - exact| / sbi's", ours[key] / peer[key], 1.5 if options.quick else 1.0))
    checks.append(check("nested: training CPU / sbi's", ours["training s"] / peer["training s"], 0.25))
    return rows, checks


def mnpe(simulator: Any, theta: Tensor, data: Tensor, x: Tensor, seed: int) -> tuple[Tensor, float]:
    """P(line) of observations x (n, 6) by sbi's MNPE, and the CPU seconds of its training."""
    from sbi.inference import MNPE
    from sbi.utils.tracking import TensorBoardTracker
    from torch.utils.tensorboard import SummaryWriter

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(theta), generator=generator)  # the prior of a slope is N(0, 1)
    slope = torch.where(theta[:, 2].isnan(), drawn, theta[:, 2])
    whole = torch.stack([theta[:, 1], slope, theta[:, 0]], dim=1)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as logs, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = time.process_time()
        inference = MNPE(show_progress_bars=False, tracker=TensorBoardTracker(SummaryWriter(logs)))
        network: Any = inference.append_simulations(whole, data).train()
        spent = time.process_time() - started
    with torch.no_grad():
        found = network.sample(torch.Size([4_000]), x)[..., -1].double().mean(0)
    return found, spent
