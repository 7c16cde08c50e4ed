"""Treatments as controls of a learned path, beside a model that knows the equations: a part of `dynamics.py`.

A drug in one compartment, and its effect, which is seen with noise at irregular visits. After each look at the effect
there may be a dose, most likely where the effect is low: doses depend on the state, by what was seen alone. Patients
differ in clearance, sensitivity and how fast the effect fades. Here the simulator knows what would have happened: from
the tenth visit on, the same patient has doses that a coin decides. Predictions of that, from what was seen until then,
are held against it at the next five visits.

The oracle knows the equations, the law of patients and the noise: draws of patients, weighted by the exact likelihood
of what was seen. A last row shows the fault that `Controlled` keeps out: a decoder that sees the dose of a time, which
was chosen after a look at the value of that time.

Phenobarbital in 59 newborns, real: the last sample of each infant, predicted by a path that was learned of simulated
infants. The population that these are drawn of was found in earlier samples alone (`dynamics_pheno`).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from dynamics_pheno import population
from reporting import SIMULATORS, check, clock
from torch import Tensor

from sciinf import Observable, Prior, Recipe, Simulator, simulate, train
from sciinf.core.simulator import load_module
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import Controlled
from sciinf.emulators.processes.controlled import LearnedControlled

Rows = list[dict[str, Any]]
VISITS, SEEN, NOISE = 15, 10, 0.15
MEDIAN, SPREAD = (0.5, 1.0, 0.35), (0.35, 0.35, 0.25)  # clearance 1/d, effect per concentration, fading 1/d
DRAWS, PARTICLES = 99, 20_000  # the 5th and the 95th of 99 draws hold 90 %, exactly
KINDS: tuple[tuple[str, dict[str, Any], float, bool], ...] = (  # process, share hidden, whether the decoder sees doses
    ("weights that wander", {"states": 3, "weights": 3}, 0.3, False),
    ("weights that are kept", {"states": 3, "weights": 3, "wander": False}, 0.0, False),
    ("no weights, 3 states", {"states": 3, "weights": 0}, 0.0, False),
    ("no weights, 6 states", {"states": 6, "weights": 0}, 0.0, False),
    ("weights that are kept, a decoder that sees doses", {"states": 3, "weights": 3, "wander": False}, 0.0, True),
)


def patients(rows: int, generator: torch.Generator) -> Tensor:
    """Clearance, sensitivity and fading of each, (row, 3)."""
    spread = torch.tensor(SPREAD) * torch.randn(rows, len(SPREAD), generator=generator)
    return torch.tensor(MEDIAN) * spread.exp()


def moved(who: Tensor, state: tuple[Tensor, Tensor], dose: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Concentration and effect after a dose and a time, exactly.

    Args:
        who: Patients, (row, 3).
        state: Concentration and effect, (row,) each.
        dose: Which is in the blood at once, (row,).
        step: Time, (row,).
    """
    clearance, strength, fading = who.unbind(-1)
    high, effect = state[0] + dose, state[1]
    gone, faded = (-clearance * step).exp(), (-fading * step).exp()
    apart = fading - clearance
    apart = torch.where(apart.abs() < 1e-3, 1e-3, apart)
    return high * gone, effect * faded + strength * high * (gone - faded) / apart


class Treated(Simulator):
    """Patients with doses that follow what was seen of them, and records of 4 to 15 visits.

    Args:
        whole: Whether all visits are in the record.
    """

    name = "treated"

    def __init__(self, *, whole: bool = False) -> None:
        self.whole, self.prior = whole, Prior.none()
        self.observables = {
            "x": Observable((VISITS,), dims=("visit",)),
            "x_mask": Observable((VISITS,), dtype="bool", dims=("visit",)),
            "x_times": Observable((VISITS,), "d", dims=("visit",), dtype="float64"),
            "dose": Observable((VISITS,), dims=("visit",)),
        }

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        who = patients(len(theta), generator)
        found = treated(who, visits(len(theta), generator), generator)
        least = VISITS if self.whole else 4
        count = torch.randint(least, VISITS + 1, (len(theta), 1), generator=generator)
        return {**found, "x_mask": torch.arange(VISITS) < count}


def visits(rows: int, generator: torch.Generator) -> Tensor:
    """Times of visits, (row, VISITS), d."""
    return (0.4 + 1.2 * torch.rand(rows, VISITS, generator=generator, dtype=torch.float64)).cumsum(1)


def policy(seen: Tensor, generator: torch.Generator) -> Tensor:
    """Doses after a look at noisy effects: likely where these are low."""
    low = torch.rand(len(seen), generator=generator) < torch.sigmoid(3 * (1.5 - seen))
    return torch.where(low, 0.5 + torch.rand(len(seen), generator=generator), 0.0)


def treated(
    who: Tensor, times: Tensor, generator: torch.Generator, *, set_doses: Tensor | None = None
) -> dict[str, Tensor]:
    """Records of patients: doses by the policy, but from visit `SEEN` on those that are set, (row, VISITS - SEEN + 1).

    With the same generator the first visits are the same, whatever is set later.
    """
    state = (torch.zeros(len(who)), torch.zeros(len(who)))
    seen, doses = list[Tensor](), list[Tensor]()
    for k in range(VISITS):
        if k:
            state = moved(who, state, doses[-1], (times[:, k] - times[:, k - 1]).float())
        seen.append(state[1] + NOISE * torch.randn(len(who), generator=generator))
        dose = policy(seen[-1], generator)
        doses.append(dose if set_doses is None or k < SEEN - 1 else set_doses[:, k - SEEN + 1])
    return {"x": torch.stack(seen, 1), "x_times": times, "dose": torch.stack(doses, 1)}


def asked(rows: int, seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Records whose later doses are set by a coin, not by what was seen, and what happens then, (row, horizon)."""
    g = torch.Generator().manual_seed(seed)
    who, times = patients(rows, g), visits(rows, g)
    given = torch.rand(rows, VISITS - SEEN + 1, generator=g) < 0.5
    doses = torch.where(given, 0.5 + torch.rand(rows, VISITS - SEEN + 1, generator=g), 0.0)
    x = treated(who, times, g, set_doses=doses)
    truth = x["x"][:, SEEN:]
    mask = (torch.arange(VISITS) < SEEN).expand(rows, -1)
    return {**x, "x": torch.where(mask, x["x"], 0.0), "x_mask": mask}, truth


def oracle(x: dict[str, Tensor], generator: torch.Generator, draws: int) -> Tensor:
    """Predictions by the equations, (draw, row, horizon)."""
    who, found = patients(PARTICLES, generator), []
    for row in range(len(x["x"])):
        times, doses, seen = x["x_times"][row].float(), x["dose"][row], x["x"][row]
        state, effects = (torch.zeros(PARTICLES), torch.zeros(PARTICLES)), [torch.zeros(PARTICLES)]
        for k in range(1, VISITS):
            state = moved(who, state, doses[k - 1].expand(PARTICLES), (times[k] - times[k - 1]).expand(PARTICLES))
            effects.append(state[1])
        path = torch.stack(effects, 1)
        log = -0.5 * ((seen[:SEEN] - path[:, :SEEN]) / NOISE).square().sum(1)
        kept = torch.multinomial(log.softmax(0), draws, replacement=True, generator=generator)
        found.append(path[kept, SEEN:])
    mean = torch.stack(found, 1)
    return mean + NOISE * torch.randn(mean.shape, generator=generator)


def crps(drawn: Tensor, truth: Tensor) -> Tensor:
    """Of draws (draw, *), without bias of few draws; (*)."""
    count, order = len(drawn), drawn.sort(0).values
    weight = (2 * torch.arange(1.0, count + 1) - count - 1).reshape(-1, *[1] * truth.ndim)
    return (drawn - truth).abs().mean(0) - (weight * order).sum(0) / (count * (count - 1))


def judged(name: str, drawn: Tensor, truth: Tensor) -> dict[str, Any]:
    """CRPS and how many 90 % intervals hold the truth, at the nearest horizon, the farthest, and of all."""
    order = drawn.sort(0).values
    low, high = order[len(order) // 20], order[len(order) - 1 - len(order) // 20]
    inside, score = ((low <= truth) & (truth <= high)).float(), crps(drawn, truth)
    told = {f"covered, {k + 1}": float(inside[:, k].mean()) for k in range(truth.shape[1])}
    told |= {"CRPS, 1": float(score[:, 0].mean()), f"CRPS, {truth.shape[1]}": float(score[:, -1].mean())}
    return {"doses by a coin": name, "covered": float(inside.mean()), "CRPS": float(score.mean())} | told


def treatments(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Patients and newborns."""
    found = [_patients(options, out), _newborns(options, out)]
    return [row for rows, _ in found for row in rows], [one for _, checks in found for one in checks]


def _fitted(simulator: Simulator, made: LatentDynamics, out: Path, rows: int, recipe: Recipe) -> LatentDynamics:
    """Trained on so many simulations."""
    store = simulate(simulator, out / "store", rows, seed=0, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that draws are unlike errors: what the tables are about
        learned = train(made, store, out / "fit", recipe=recipe, progress=False).surrogate
    assert isinstance(learned, LatentDynamics)
    return learned


def _patients(options: Any, out: Path) -> tuple[Rows, Rows]:
    """With and without weights of each row, and with a decoder that sees doses, beside the oracle."""
    simulator, quick, found = Treated(), options.quick, dict[str, dict[str, Any]]()
    x, truth = asked(100 if quick else 400, options.seed + 1)
    g = torch.Generator().manual_seed(options.seed + 2)
    found["oracle"] = judged("the equations, known", oracle(x, g, DRAWS), truth) | {"CPU s": "-"}
    recipe, theta = Recipe(epochs=6 if quick else 60, batch=50), torch.zeros(len(truth), 0)
    for name, told, hide, seeing in KINDS:
        started, process = clock("cpu"), Controlled(**told, impulses=(0,))
        with patch.object(LearnedControlled, "decodes_controls", seeing):
            made = LatentDynamics(
                simulator.prior, simulator.observables, process, given=("dose",), hide=hide, seed=options.seed
            )
            learned = _fitted(simulator, made, out / name, 300 if quick else 1_000, recipe)
            spent = clock("cpu") - started
            drawn = torch.stack([learned.complete(theta, x, generator=g)[:, SEEN:] for _ in range(DRAWS)])
        found[name] = judged(name, drawn, truth) | {"CPU s": spent}
    own, kept, best = (found[name] for name in (KINDS[0][0], KINDS[1][0], "oracle"))
    plain = min(found[name]["CRPS"] for name, told, *_ in KINDS if told["weights"] == 0)
    covered = [own[f"covered, {k + 1}"] for k in range(VISITS - SEEN)]
    return list(found.values()), [
        check("treatments: least coverage short of 1", 1 - min(covered), 0.6 if quick else 0.14),
        check("treatments: largest coverage of 90 % intervals", max(covered), 1.0 if quick else 0.97),  # 0.94 was hoped
        # 0.95 and 1.3 were hoped for, and are missed: docs/choosing.md
        check("treatments: CRPS / the best without weights", own["CRPS"] / plain, 2.0 if quick else 1.25),
        check("treatments: CRPS / the equations'", own["CRPS"] / best["CRPS"], 12.0 if quick else 2.2),
        check("treatments: kept weights, CRPS / the best without", kept["CRPS"] / plain, 2.0 if quick else 1.0),
    ]


class Newborns(Simulator):
    """Infants of a population, whose clearance and volume nobody tells.

    Args:
        infant: The simulator of one, given these.
    """

    name = "newborns"

    def __init__(self, infant: Any) -> None:
        self.infant, self.prior, self.observables = infant, Prior.none(), infant.observables

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        return dict(self.infant(self.infant.prior.sample(len(theta), generator=generator), generator=generator))


def _newborns(options: Any, out: Path) -> tuple[Rows, Rows]:
    """The last sample of each infant that has several."""
    started, of = clock("cpu"), load_module(SIMULATORS / "phenobarbital.py")
    clearance, volume, spread, other, noise = population(of)[0].tolist()
    prior = of.prior_of((clearance, spread), (volume, other), (noise, of.NOISE[1]))
    infant = of.simulator_of(prior)
    simulator = Newborns(infant)
    process = Controlled(2, weights=3, impulses=(0,), steps=2)
    made = LatentDynamics(
        simulator.prior, simulator.observables, process, target="sample", given=("dose",), seed=options.seed
    )
    recipe = Recipe(epochs=2 if options.quick else 15, batch=50)
    learned = _fitted(simulator, made, out / "newborns", 200 if options.quick else 1_000, recipe)
    chosen = [one for one in of.infants() if len(one.samples) > 1]
    records = [of.record_of(infant, one, hidden=1) for one in chosen]
    x = {name: torch.stack([each[name] for each in records]) for name in records[0]}
    whole = torch.stack([of.record_of(infant, one)["sample_mask"] for one in chosen])
    at, g = (whole & ~x["sample_mask"]), torch.Generator().manual_seed(options.seed)
    theta = torch.zeros(len(chosen), 0)
    drawn = torch.stack([learned.complete(theta, x, generator=g)[at] for _ in range(DRAWS)])
    truth = torch.tensor([one.samples[-1] for one in chosen], dtype=torch.float32)
    told = judged("", drawn[..., None], truth[:, None])
    off = drawn.median(0).values - truth
    row = {"last samples of newborns": len(chosen), "covered": told["covered"], "CRPS, mg/L": told["CRPS"]}
    row |= {"error, mg/L (rms)": float(off.square().mean().sqrt()), "CPU s": clock("cpu") - started}
    return [row], [
        check("newborns: last samples outside of 90 % intervals", 1 - told["covered"], 0.6 if options.quick else 0.18),
        check("newborns: last samples inside of 90 % intervals", told["covered"], 1.0 if options.quick else 0.98),
    ]
