"""Records with times of their own: a part of `dynamics.py`.

What is left of a dose, y = dose exp(-t) + base, is seen with noise of 0.1 at times that are uniform over 4; with these,
the posterior is normal and known. "own" simulates what an observation is compared with at its own times, "drawn" at
others, drawn anew: how often each check doubts records that also drift, which no parameter makes, and right ones.
Then records of 6 times, asked of networks whose simulations have 15 times less a share that is missing ("share"), or 5
to 15 ("shortest=5"): how often trust warns, and how far the network is from the exact posterior.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from reporting import Rows, check, clock
from torch import Tensor

from sciinf import Flow, Normal, Observable, Prior, Recipe, build_posterior, calibrate, query, simulate, train, wrappers
from sciinf.campaigns.block import simulate_from
from sciinf.core import Draws, Posterior, Simulator, X
from sciinf.core.simulator import as_seen
from sciinf.diagnostics.around import Around, simulate_around
from sciinf.diagnostics.localise import check_data
from sciinf.diagnostics.predictive import predictive_p
from sciinf.diagnostics.residuals import residual_p
from sciinf.simulators.dynamics.state_space import StateSpace, Theta, Time
from sciinf.simulators.wrappers.hidden_states import HiddenStates

NOISE, DRIFTS, MOST, SHORT = 0.1, (0.0, 0.3, 0.5), 15, 6
PRIOR = Prior(dose=Normal(5.0, 1.0), base=Normal(0.0, 1.0))
CHECKS = ("residuals", "predictive", "strange data")


class Decay(StateSpace):
    """What is left of a dose, and how much time has passed; with a drift of so much a unit of time."""

    latent = {"above": "", "passed": ""}

    def __init__(self, drift: float = 0.0) -> None:
        self.drift = drift

    def initial(self, theta: Theta, rows: int, *, generator: torch.Generator) -> Tensor:
        return torch.stack([theta["dose"], torch.zeros(rows)], -1)

    def advance(self, theta: Theta, state: Tensor, start: Time, stop: Time, *, generator: torch.Generator) -> Tensor:
        passed = torch.as_tensor(stop - start).float()
        return torch.stack([state[:, 0] * (-passed).exp(), state[:, 1] + passed], -1)

    def observe(self, theta: Theta, state: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        middle = theta["base"] + state[:, 0] + self.drift * (state[:, 1] - 2.0)
        return {"y": middle + NOISE * torch.randn(len(state), generator=generator)}


def visits(rows: int, generator: torch.Generator) -> Tensor:
    """Fifteen times."""
    return (4 * torch.rand(rows, MOST, generator=generator)).sort(-1).values


def decay(drift: float = 0.0, **options: Any) -> HiddenStates:
    """The simulator."""
    return wrappers.state_space(
        Decay(drift), PRIOR, visits, {"y": Observable((MOST,), "", ("time",))}, begin=0.0, **options
    )


def exact(x: X) -> tuple[Tensor, Tensor]:
    """Mean (row, 2) and covariance (row, 2, 2) of the posterior."""
    there = x["y_mask"].double()[..., None]
    design = torch.stack([(-x["y_times"]).exp(), torch.ones_like(x["y_times"])], -1) * there
    covariance = torch.linalg.inv(design.mT @ design / NOISE**2 + torch.eye(2, dtype=torch.float64))
    right = (design.mT @ x["y"].double()[..., None])[..., 0] / NOISE**2 + torch.tensor([5.0, 0.0])
    return (covariance @ right[..., None])[..., 0], covariance


class Exact(Posterior):
    """The posterior, which is known."""

    name, digest, trained_on = "exact", "exact", frozenset[str]()

    def __init__(self, simulator: Simulator) -> None:
        self.prior, self.observables = simulator.prior, simulator.observables

    def features(self, x: X) -> Tensor:
        return exact(x)[0]

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Tensor:
        mean, covariance = exact(x)
        noise = torch.randn(n, len(mean), 2, 1, generator=generator, dtype=torch.float64)
        return (mean + (torch.linalg.cholesky(covariance) @ noise)[..., 0]).float()

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        raise NotImplementedError

    def log_prob_batched(self, theta: Tensor, x: X) -> Tensor:
        raise NotImplementedError


def records(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Both."""
    at_times, wrong = _at_times(30 if options.quick else 100, options.seed)
    short, far = _short(options, out)
    return at_times + short, wrong + far


def _at_times(count: int, seed: int) -> tuple[Rows, Rows]:
    """How often each check doubts."""
    right = decay(shortest=SHORT)
    rows, found = [], dict[tuple[float, str], Tensor]()
    for drift in DRIFTS:
        for how in ("own", "drawn"):
            started = clock("cpu")
            p = torch.tensor([_doubts(right, decay(drift, shortest=SHORT), how, seed + k) for k in range(count)])
            share = found[drift, how] = (p < torch.tensor([0.05, 0.05, 0.01])).double().mean(0)
            said = {f"{name} doubted": float(s) for name, s in zip(CHECKS, share, strict=True)}
            spent = (clock("cpu") - started) / count
            rows.append({"records": f"drift {drift}", "times": how, **said, "CPU s": spent})
    clear, before = found[DRIFTS[-1], "own"], found[DRIFTS[-1], "drawn"]
    false = 0.05 + 4 * (0.05 * 0.95 / count) ** 0.5  # four standard errors
    return rows, [
        check("records: 0.5 / share of drifts of 0.5 found by residuals", 0.5 / max(float(clear[0]), 1e-9), 1.0),
        check("records: 0.5 / share of them found by predictions", 0.5 / max(float(clear[1]), 1e-9), 1.0),
        check("records: share found by predictions at other times (as it was)", float(before[1]), 0.1),
        check("records: share of right ones that residuals doubt", float(found[0.0, "own"][0]), false),
        check("records: share of right ones that predictions doubt", float(found[0.0, "own"][1]), false + 0.05),
        check("records: share of right ones that are strange", float(found[0.0, "own"][2]), 0.05),
    ]


def _doubts(right: HiddenStates, truth: HiddenStates, how: str, seed: int) -> tuple[float, float, float]:
    """p-values; of strange data 0 where they are, else 1."""
    g = torch.Generator().manual_seed(seed)
    x, posterior = truth(PRIOR.sample(1, generator=g), generator=g), Exact(right)
    theta = posterior.draw_batched(x, 400, generator=g)[:, 0]
    simulator = as_seen(right, x) if how == "own" else right
    around = simulate_around(posterior, simulator, theta, rows=1_000, generator=g)
    assert isinstance(around, Around)
    residual, drawn = residual_p(posterior, right, x, around), simulate_from(simulator, theta, generator=g)[0]
    assert isinstance(residual, tuple)
    strange = any(each.level == "alarm" for each in check_data(posterior, x, around))
    return residual[0], predictive_p(posterior, x, drawn)[0], float(not strange)


def _short(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Short records, asked of two networks."""
    asked = 40 if options.quick else 100
    whole = decay(shortest=SHORT)
    g = torch.Generator().manual_seed(options.seed + 1)
    x = whole(PRIOR.sample(40 * asked, generator=g), generator=g)
    x = {name: value[x["y_mask"].sum(-1) == SHORT][:asked] for name, value in x.items()}
    rows = []
    for how, told in {"share": {"missing": 0.6}, "shortest=5": {"shortest": 5}}.items():
        started = clock("cpu")
        simulator, folder = decay(**told), out / how
        n = 2_000 if options.quick else 6_000
        store = simulate(simulator, folder / "simulations", n, seed=options.seed, progress=False)
        recipe = Recipe(epochs=15 if options.quick else 40)
        fit = train(Flow(PRIOR, simulator.observables), store, folder / "fit", recipe=recipe, progress=False)
        fresh = simulate(simulator, folder / "fresh", n // 2, seed=options.seed + 1, progress=False)
        posterior = build_posterior(fit)
        calibration = calibrate(posterior, fresh, rows=n // 2, progress=False)
        warned, off, wide = [], [], []
        mean, covariance = exact(x)
        sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        for k in range(asked):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                one = {name: value[k] for name, value in x.items()}
                answer = query(posterior, one, calibration, draws=1_000, seed=k)
            drawn = answer.draws.theta.double()
            warned.append(answer.trust.level != "good")
            off.append(((drawn.mean(0) - mean[k]) / sd[k]).square())
            wide.append((drawn.std(0) / sd[k]).log())
        rows.append(
            {
                "records": f"of {SHORT} times",
                "simulations": how,
                "trust warns": sum(warned) / asked,
                "mean off, sds": float(torch.stack(off).mean().sqrt()),
                "sd over the exact": float(torch.stack(wide).mean().exp()),
                "CPU s": clock("cpu") - started,
            }
        )
    said = 0.05 + 4 * (0.05 * 0.95 / asked) ** 0.5
    return rows, [check("records: share of short ones of which trust warns, shortest=5", rows[1]["trust warns"], said)]
