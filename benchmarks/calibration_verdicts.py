"""The three verdicts of a calibration against planted errors: what passes, what does not, what cannot be told.

    python benchmarks/calibration_verdicts.py [--quick] [--only tails]

Truths of two parameters are N(0, 1) given the data; the posterior is N(shift, width^2) for the first and right for the
second. Each error is checked on 100 to 10,000 fresh simulations, many times over. An error that moves the coverage of
the first parameter's 90 % interval by five points or more must never pass.

Then, on 1,000 fresh simulations of one and of four parameters, how often the verdict is "not passed": of posteriors
15 % too narrow (at least .9) and of exact ones (at most .085). And of posteriors whose ranks and intervals are right
while their middles are not: scattered about the right ones, drawn to the middle of the prior, or away from it, each
with as much more width as that makes them err. Only their average over the data is wrong, and they must be seen in at
least .9.

Tails: networks for Cauchy noise of a hundredth of the prior's width. Those that are trained for ten epochs have
intervals of 99.9 % that hold less, and must be flagged in at least .9. Those of the default and of `StudentT` must hold
99.9 % to within .1 point, and a flag must have a cause: of 100,000 other truths the density must be larger, in the mean
of its logarithm, with a small share of the prior mixed in. The exact posterior's never is.
"""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from reporting import arguments, check, finish
from torch import distributions as td

from sciinf import Flow, Observable, Prior, Recipe, Simulator, build_posterior, simulate, train
from sciinf.campaigns import Store
from sciinf.core import Batch, Fit, Posterior, X
from sciinf.diagnostics.agreement import Agreement, agreements, judged, too_light
from sciinf.diagnostics.tails import SPAN, beyond, tail_agreements
from sciinf.networks.flows import SplineCoupling, StudentT

DRAWS = 127
ROWS = (100, 300, 1_000, 3_000, 10_000)
WIDTHS = (0.7, 0.8, 0.875, 0.95, 1.0, 1.05, 1.19, 1.3)
SHIFTS = (0.1, 0.25, 0.5)
KNOWN = 0.5  # share of a parameter's variance that the data tell
SCATTER = 0.5  # of the posterior's variance
PULL = {"drawn in": -0.4, "pushed out": 0.4}  # by this share of their distance from the middle
Averaged = tuple[torch.Tensor, torch.Tensor]
FLOWS: dict[str, tuple[Any, Recipe]] = {
    "ten epochs": (None, Recipe(epochs=10)),
    "default": (None, Recipe()),
    "StudentT": (StudentT(SplineCoupling()), Recipe()),
}
SHARES = (1e-5, 1e-4, 1e-3, 1e-2)  # of the prior
TRAINED, FRESH, MANY = 5_000, (20_000, 5_000), 100_000


class Cauchy(Simulator):
    """Cauchy noise of a hundredth of the prior's width."""

    name = "cauchy"
    prior = Prior(mu=td.Normal(0.0, 1.0))
    observables: Mapping[str, Observable] = {"x": Observable((1,), "", ("channel",))}

    def __call__(self, theta: torch.Tensor, *, generator: torch.Generator) -> X:
        u = torch.rand(theta.shape, generator=generator, dtype=torch.float64)
        return {"x": (theta + 0.01 * torch.tan(math.pi * (u - 0.5))).float()}


def counts(rows: int, width: float, shift: float, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """What `calibrate` counts: ranks (rows, 2), draws of higher density and draws nearer to a reference (rows,)."""
    truth = torch.randn(rows, 2, generator=generator)
    scale, centre = torch.tensor([width, 1.0]), torch.tensor([shift, 0.0])
    draws = centre + scale * torch.randn(DRAWS, rows, 2, generator=generator)
    reference = 1.4 * torch.randn(rows, 2, generator=generator)
    higher = ((draws - centre) / scale).norm(dim=-1) < ((truth - centre) / scale).norm(dim=-1)
    nearer = (draws - reference).norm(dim=-1) < (truth - reference).norm(dim=-1)
    return {"ranks": (draws < truth).sum(0), "hpd": higher.sum(0), "tarp": nearer.sum(0)}


def modelled(
    rows: int, size: int, fault: str, generator: torch.Generator
) -> tuple[dict[str, torch.Tensor], Averaged, dict[str, Agreement]]:
    """Counts, truths and draws to average, tails: of parameters N(0, 1) of whose variance data tell KNOWN."""
    left = 1 - KNOWN
    right = math.sqrt(KNOWN) * torch.randn(rows, size, generator=generator)
    truth = right + math.sqrt(left) * torch.randn(rows, size, generator=generator)
    centre, scale = right.clone(), torch.full((size,), math.sqrt(left))
    if fault == "15 % too narrow":
        scale *= 0.85
    elif fault == "scattered":
        centre[:, 0] += math.sqrt(SCATTER * left) * torch.randn(rows, generator=generator)
        scale[0] *= math.sqrt(1 + SCATTER)
    elif fault in PULL:
        centre[:, 0] *= 1 + PULL[fault]
        scale[0] = math.sqrt(left + PULL[fault] ** 2 * KNOWN)
    draws = centre + scale * torch.randn(DRAWS, rows, size, generator=generator)
    reference = torch.randn(rows, size, generator=generator)
    higher = ((draws - centre) / scale).norm(dim=-1) < ((truth - centre) / scale).norm(dim=-1)
    nearer = (draws - reference).norm(dim=-1) < (truth - reference).norm(dim=-1)
    counts = {"ranks": (draws < truth).sum(0), "hpd": higher.sum(0), "tarp": nearer.sum(0)}
    u = td.Normal(centre, scale).cdf(truth).double()
    outside = torch.rand(u.shape, generator=generator, dtype=torch.float64) < u**SPAN + (1 - u) ** SPAN
    log_p, log_q = (td.Normal(*law).log_prob(truth).sum(1).double() for law in ((0.0, 1.0), (centre, scale)))
    return counts, (truth, draws[:31]), tail_agreements(outside, tuple("abcd"[:size]), log_p, log_q)


def flagged(size: int, fault: str, times: int) -> dict[str, float]:
    """How often the verdict was "not passed", with the average over data among the tests and without it."""
    found = {"with averages": 0.0, "without": 0.0}
    for seed in range(times):
        generator = torch.Generator().manual_seed(seed)
        counted, averaged, tails = modelled(1_000, size, fault, generator)
        names = tuple("abcd"[:size])
        for label, given in (("with averages", averaged), ("without", None)):
            tests = agreements(counted, names, DRAWS, torch.Generator().manual_seed(seed), given) | tails
            found[label] += (judged(tests)[0] == "not passed") / times
    return found


def covered(width: float, shift: float) -> float:
    """Coverage of the first parameter's 90 % interval."""
    low, high = (shift + side * 1.6449 * width for side in (-1, 1))
    return 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))


def states(rows: int, width: float, shift: float, times: int) -> Counter[str]:
    """How often each verdict was given."""
    found: Counter[str] = Counter()
    for seed in range(times):
        generator = torch.Generator().manual_seed(seed)
        tests = agreements(counts(rows, width, shift, generator), ("a", "b"), DRAWS, generator)
        found[judged(tests)[0]] += 1
    return found


def held(fit: Fit, simulator: Cauchy, seed: int) -> dict[str, float]:
    """What intervals hold, in per cent, by the flow's distribution function; what the prior adds, in nats."""
    generator, estimator = torch.Generator().manual_seed(seed), fit.estimator
    assert isinstance(estimator, Flow)
    theta = simulator.prior.sample(MANY, generator=generator)
    with torch.no_grad():
        x = simulator(theta, generator=generator)
        context = estimator.features(x)
        noise, _ = estimator.flow.encode(estimator.to_z(theta)[None], context)  # type: ignore[operator]
        log_q = estimator.condition(x).log_prob(theta[None])[0]  # type: ignore[union-attr]
    outside = 2 * torch.special.ndtr(-noise[0].double().abs())
    found = {f"{level:.2%} holds": 100 * float((outside > 1 - level).double().mean()) for level in (0.9, 0.99, 0.999)}
    ratio = (simulator.prior.log_prob(theta) - log_q).double().exp()
    return found | {"prior adds": max(float((1 - w + w * ratio).log().mean()) for w in SHARES)}


def called_light(posterior: Posterior, store: Store, seed: int) -> bool:
    """Whether tails are called too light, among ranks, intervals and averages: `calibrate` without HPD and TARP."""
    fresh, generator = store.load(slice(0, len(store))), torch.Generator().manual_seed(seed)
    draws = torch.cat([posterior.draw_batched(b.x, DRAWS, generator=generator) for b in _parts(fresh)], dim=1)
    log_q = torch.cat([posterior.log_prob_batched(b.theta[None], b.x)[0] for b in _parts(fresh)]).double()
    ranks, names = (draws < fresh.theta).sum(0), posterior.prior.names
    outside = beyond(posterior, fresh, ranks, DRAWS, generator)
    found = agreements({"ranks": ranks}, names, DRAWS, generator, (fresh.theta, draws[:31]))
    return bool(too_light(found | tail_agreements(outside, names, posterior.prior.log_prob(fresh.theta), log_q)))


def _parts(fresh: Batch) -> list[Batch]:
    return [fresh.rows(slice(start, start + 500)) for start in range(0, len(fresh), 500)]


def tails(times: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """How often tails are called too light, and what intervals hold."""
    simulator, rows, checks = Cauchy(), [], []
    for name, (flow, recipe) in FLOWS.items():
        coverage: list[dict[str, float]] = []
        light: dict[int, list[bool]] = {n: [] for n in FRESH}
        for seed in range(times):
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder)
                store = simulate(simulator, place / "simulations", TRAINED, seed=seed, progress=False)
                estimator = Flow(simulator.prior, simulator.observables, flow=flow, seed=seed)
                fit = train(estimator, store, place / "fit", recipe=recipe, seed=seed, progress=False)
                coverage.append(held(fit, simulator, seed + 20_000))
                for n in FRESH:
                    fresh = simulate(simulator, place / f"fresh{n}", n, seed=seed + n, progress=False)
                    light[n].append(called_light(build_posterior(fit), fresh, seed))
        shares = {f"too light, {n:,} rows": sum(each) / times for n, each in light.items()}
        middle = {key: sorted(one[key] for one in coverage)[times // 2] for key in coverage[0]}
        last = [one["99.90% holds"] for one in coverage]
        rows.append({"flow": name, "networks": times, **middle, "lowest": min(last), "highest": max(last), **shares})
        if name == "ten epochs":
            share = sum(light[FRESH[0]]) / times
            checks.append(check(f"{name}: tails not called too light", 1 - share, 0.1 + 2 * math.sqrt(0.09 / times)))
        else:
            idle = sum(said and one["prior adds"] <= 0 for one, said in zip(coverage, light[FRESH[0]], strict=True))
            checks.append(check(f"{name}: tails called too light without a cause", idle / times, 0.05))
            checks.append(check(f"{name}: 99.9 % off, points", abs(middle["99.90% holds"] - 99.9), 0.1))
    return rows, checks


def main() -> None:
    """Print the tables and check that no large error passed."""
    parser = arguments("The three verdicts of a calibration against planted errors.")
    parser.add_argument("--only", choices=("tails",), help="one table alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, checks = tails(2 if options.quick else 12)
    if options.only is None:
        more = _planted(quick=options.quick)
        rows, checks = more[0] + rows, more[1] + checks
    finish(rows, checks, options.json)


def _planted(*, quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Errors by width and place, and of averages."""
    sizes = ROWS[:-1] if quick else ROWS
    faults = [(width, 0.0) for width in WIDTHS] + [(1.0, shift) for shift in SHIFTS]
    rows: list[dict[str, Any]] = []
    wrong = 0
    for width, shift in faults:
        row: dict[str, Any] = {"width": width, "shift": shift, "90 % holds": f"{covered(width, shift):.1%}"}
        for n in sizes:
            times = 40 if quick else 200 if n < 10_000 else 60
            found = states(n, width, shift, times)
            row[f"{n:,} rows"] = " / ".join(
                f"{100 * found[state] / times:.0f}" for state in ("passed", "cannot tell", "not passed")
            )
            if abs(covered(width, shift) - 0.9) >= 0.0499:
                wrong += found["passed"]
        rows.append(row)
    checks = [check("passed with an error of five points or more", wrong, 0)]
    times = 40 if quick else 200
    for size in (1, 4):
        for fault in ("none", "15 % too narrow", "scattered", *PULL):
            found = flagged(size, fault, times)
            rows.append({"parameters": size, "fault": fault, **found})
            name = f"{fault}, {size} parameters: "
            if fault == "none":
                checks.append(check(name + "not passed", found["with averages"], 0.085))
            else:
                checks.append(check(name + "not seen", 1 - found["with averages"], 0.1))
    print("passed / cannot tell / not passed, of 100")
    return rows, checks


if __name__ == "__main__":
    main()
