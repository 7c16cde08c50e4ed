"""Is the verdict at the observation right, and the answer? Planted errors, trained networks, and models of many kinds.

    python benchmarks/where_asked.py            200 observations for a planted error, 40 for a network, 10 for a model
    python benchmarks/where_asked.py --quick    40, 10, and 2 of one model at 8,000 simulations
    python benchmarks/where_asked.py --only models --models points,ar2 --observations 4 --peers 1
    python benchmarks/where_asked.py --only hares          hares and lynx of Hudson Bay, without their likelihood

Planted: a linear model whose exact posterior is made wrong, or is given a part of the data, which leaves it calibrated
over the prior. Networks: twenty normal points with unknown mean and sd, 20,000 simulations (5,000 with --quick), the
exact posterior on a grid; one of them sees their mean alone. Models: six (`asked_models`) at 40,000 simulations in all,
before and after rounds around an answer (`asked_answers`), beside sbi's NPE and its truncated sequential NPE for the
first observations (`--peers`). An answer is wrong where a mean is off by more than .15 sd, or an sd by a tenth. Hares:
60,000 simulations of the prior and three rounds of 20,000, beside the reference draws of posteriordb (`asked_hares`).
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from asked_answers import answers, summed_up, verdict_at
from asked_hares import hares
from asked_models import MODELS
from reporting import arguments, check, finish, table
from torch import Tensor
from torch import distributions as td

from sciinf import Flow, Observable, Prior, Simulator, build_posterior, refine_around, simulate, train
from sciinf.core.loading import load_module
from sciinf.core.summary import Summary, SummaryNetwork
from sciinf.diagnostics.second import undecided
from sciinf.interfaces.commands.refine import UntilSettled, sizes

PLANTED: list[dict[str, Any]] = [
    {}, {"used": 6}, {"used": 14}, {"shift": 0.1}, {"shift": 0.2}, {"shift": 0.4},
    {"width": 0.7}, {"width": 0.85}, {"width": 0.95}, {"width": 1.2},
]  # fmt: skip
POINTS = 20
PARTS = ("planted", "networks", "models", "hares")
HARES, HARES_QUICK = (60_000, 20_000), (4_000, 2_000)  # simulations of the prior, and of each round


class MeanAlone(Summary):
    """A summary that has lost the spread."""

    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        return _MeanAlone(spec.shape, masked)


class _MeanAlone(SummaryNetwork):
    features = 1

    def summarise(self, x: Tensor, mask: Tensor) -> Tensor:
        return x.mean(1, keepdim=True)


class Points(Simulator):
    """Twenty normal points: as a set, as numbers each of its own meaning, or their mean and log sd, which suffice."""

    name = "points"
    prior = Prior(mu=td.Normal(0.0, 3.0), sigma=td.LogNormal(0.0, 1.0))

    def __init__(self, kind: str) -> None:
        self.kind = kind
        size, axis = (2, "channel") if kind == "statistics" else (POINTS, "channel" if kind == "vector" else "item")
        self.observables = {"x": Observable((size,), dims=(axis,))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        x = theta[:, :1] + theta[:, 1:] * torch.randn(len(theta), POINTS, generator=generator)
        return {"x": torch.stack([x.mean(1), x.std(1).log()], dim=1) if self.kind == "statistics" else x}


def exact(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means and sds of mu and sigma on a grid."""
    log_sigma = torch.linspace(-4.0, 4.0, 1_601, dtype=torch.float64)[:, None]
    sigma, x = log_sigma.exp(), x.double()
    middle, around = (x[0], (2 * x[1]).exp() * (POINTS - 1)) if len(x) == 2 else (x.mean(), x.var() * (POINTS - 1))
    spread = sigma / math.sqrt(POINTS)
    mu = middle + spread * torch.linspace(-8.0, 8.0, 801, dtype=torch.float64)
    log = -POINTS * log_sigma - 0.5 * (around + POINTS * (mu - middle).square()) / sigma.square()
    log = log - 0.5 * (mu / 3.0).square() - 0.5 * log_sigma.square() + spread.log()
    weight = (log - log.max()).exp() / (log - log.max()).exp().sum()
    both = mu, sigma.expand_as(mu)
    mean = torch.stack([(weight * value).sum() for value in both])
    sd = torch.stack([(weight * (value - m).square()).sum().sqrt() for value, m in zip(both, mean, strict=True)])
    return mean, sd


def planted(times: int) -> list[dict[str, Any]]:
    """How often each verdict was given, for each planted error."""
    here = load_module(Path(__file__).parents[1] / "tests" / "diagnostics" / "test_here.py")
    rows = []
    for fault in PLANTED:
        simulator = here.Linear()
        posterior, found = here.Gaussian(simulator, **fault), Counter[str]()
        for seed in range(times):
            generator = torch.Generator().manual_seed(seed)
            x = simulator(simulator.prior.sample(1, generator=generator), generator=generator)
            found[verdict_at(posterior, simulator, x, generator).level] += 1
        said = ", ".join(f"{key} {value}" for key, value in fault.items()) or "exact"
        rows.append(
            {"planted": said, **{level: found[level] / times for level in ("good", "unknown", "caution", "alarm")}}
        )
    return rows


def trained(kind: str, simulations: int, times: int, seed: int) -> dict[str, Any]:
    """Verdicts of one network beside what is exact, with a second one around each answer that is not found wrong."""
    simulator, summary = Points(kind), MeanAlone() if kind == "mean alone" else None
    estimator = Flow(simulator.prior, simulator.observables, summary=summary, seed=seed)
    wrong, right, worst = Counter[str](), Counter[str](), []
    how: dict[str, Any] = {"rounds": 1, "simulations": sizes(simulations)[0], "seed": seed, "progress": False}
    how["estimator"] = estimator
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = simulate(simulator, folder / "s", simulations, seed=seed, progress=False)
        posterior = build_posterior(train(estimator, store, folder / "f"))
        observed = simulate(simulator, folder / "o", times, seed=seed + 1, progress=False).load().x["x"]
        for i, x in enumerate(observed):
            generator = torch.Generator().manual_seed(i)
            mean, sd = exact(x)
            draws = posterior.draw({"x": x[None]}, 10_000, generator=generator).theta.double()
            off, ratio = ((draws.mean(0) - mean) / sd).abs(), draws.std(0) / sd
            worst.append(float(off.max()))
            bad = bool((off > 0.15).any() | (ratio > 1.1).any() | (ratio < 0.9).any())
            told = verdict_at(posterior, simulator, {"x": x[None]}, generator)
            if undecided(told):
                asked = UntilSettled(simulator, told, (how["simulations"],))
                asked(refine_around(simulator, {"x": x}, folder / f"r{i}", posterior, **how))
                told = asked.check or told
            (wrong if bad else right)[told.level] += 1
            said = f"{kind} {i}: {'wrong' if bad else 'right'}, off {float(off.max()):.2f}, {ratio.tolist()}"
            print(f"{said}: {told.level}, {told.words}", flush=True)
    return {
        "network": kind, "simulations": simulations, "median off, sd": float(np.median(worst)), "wrong": wrong.total(),
        "told": wrong["alarm"] + wrong["caution"], "cannot tell": wrong["unknown"], "right": right.total(),
        "alarm": right["alarm"], "caution": right["caution"],
    }  # fmt: skip


def seen_planted(times: int) -> list[dict[str, Any]]:
    """Print the planted errors; what they must show."""
    rows = planted(times)
    by_name = {row["planted"]: row for row in rows}
    slack = 3 * math.sqrt(0.01 * 0.99 / times)
    checks = [check("exact: share of alarms", by_name["exact"]["alarm"], 0.01 + slack)]
    for name, least in (("used 6", 0.95), ("used 14", 0.95), ("shift 0.4", 0.95), ("width 0.7", 0.95)):
        checks.append(check(f"{name}: share without alarm", 1 - by_name[name]["alarm"], 1 - least))
    print(table(rows))
    return checks


def seen_networks(quick: bool, seed: int, said: Counter[str]) -> list[dict[str, Any]]:
    """Print the networks; what they must show; and count what is said of right and wrong first answers."""
    kinds = ("set", "vector", "statistics", "mean alone")
    rows = [trained(kind, 5_000 if quick else 20_000, 10 if quick else 40, seed) for kind in kinds]
    print(table(rows))
    *sound, crippled = rows
    silent = sum(row["wrong"] - row["told"] - row["cannot tell"] for row in sound)
    silent = silent / max(1, sum(row["wrong"] for row in sound))
    false = sum(row["alarm"] for row in sound) / max(1, sum(row["right"] for row in sound))
    for row in sound:
        said.update(wrong=row["wrong"], told=row["told"], right=row["right"], doubted=row["alarm"] + row["caution"])
    return [
        check("networks: wrong answers called right", silent, 0.2 if quick else 0.1),
        check("networks: right answers with alarm", false, 0.2 if quick else 0.1),
        check("mean alone: wrong answers that are not told", 1 - crippled["told"] / max(1, crippled["wrong"]), 0.05),
    ]


def seen_models(options: Any, said: Counter[str]) -> list[dict[str, Any]]:
    """Print the models; what they must show; and count what is said of right and wrong first answers."""
    names = ["points"] if options.quick else options.models.split(",")
    simulations, observations = (8_000, 2) if options.quick else (40_000, options.observations)
    rows = []
    for found in answers(names, simulations, observations, 0 if options.quick else options.peers, options.seed):
        rows.append(summed_up(found))
        print(table(rows[-1:]), flush=True)
    print(table(rows))
    wrong, right = sum(row["wrong"] for row in rows), sum(row["fair"] for row in rows)
    for row in rows:
        said.update(wrong=row["first wrong"], told=row["first told"], right=row["right"], doubted=row["first doubted"])
    silent = sum(row["wrong"] - row["not passed"] for row in rows) / max(1, wrong)
    checks = [check("models: wrong answers called good", silent, 0.5 if options.quick else 0.1)]
    claimed = sum(row["called right"] + row["fair called right"] for row in rows)
    false = sum(row["called right"] for row in rows) / max(1, claimed)
    checks.append(check("models: of answers called right, share wrong", false, 0.5 if options.quick else 0.05))
    checks.append(check("models: right answers with alarm", sum(row["alarms"] for row in rows) / max(1, right), 0.1))
    for row in () if options.quick else rows:
        checks.append(check(f"{row['model']}: share wrong when refined", 1 - row["refined right"] / observations, 0.1))
    return checks


def main() -> None:
    """Run it."""
    torch.set_num_threads(1)
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--only", choices=PARTS, default=None)
    parser.add_argument("--models", default=",".join(MODELS), help="names, with commas between")
    parser.add_argument("--observations", type=int, default=10, help="of each model")
    parser.add_argument("--peers", type=int, default=1, help="observations of each model that sbi answers, too")
    options = parser.parse_args()
    asked = [options.only] if options.only else PARTS
    checks = seen_planted(40 if options.quick else 200) if "planted" in asked else []
    said = Counter[str]()
    checks += seen_networks(options.quick, options.seed, said) if "networks" in asked else []
    checks += seen_models(options, said) if "models" in asked else []
    if not options.only and not options.quick:
        untold, doubted = 1 - said["told"] / max(1, said["wrong"]), said["doubted"] / max(1, said["right"])
        checks.append(check("first answers that are wrong: without caution or WARNING", untold, 0.1))
        checks.append(check("first answers that are right: with one", doubted, 0.1))
    if "hares" in asked:
        rows, found = hares(options.data, HARES_QUICK if options.quick else HARES, options.seed)
        print(table(rows))
        checks += [] if options.quick else found
    finish([], checks, options.json)


if __name__ == "__main__":
    main()
