"""Which datum is strange (`diagnostics.localise`): faults of five kinds in three simulators, and one wrong sensor of
many.

`benchmarks/trust.py --only localise` prints the tables, of two of the simulators with `--quick`. The classifier that
knows what to look for sees, of clean and of faulty data, the residuals from what a network's posterior predicts,
sorted, and their means, slopes and sizes along every axis, and data of up to 100 numbers as they are: boosted trees,
for each kind of fault by itself. "with the prior" is the area of the product of two p-values: of the score, and of
the observation among simulations of the prior (`diagnostics.ood`), by planted faults as well: of both lines that an
answer has. It is what is compared with the classifier.

Faults, in the sds of the noise (of logarithms, where data are counts): one number is 10 off; a sensor is dead, which
stays where it was from a quarter of the time on, or a row of an image, which reads 0; a sensor drifts from 6 below to
6 above or the other way, an image from .4 to .4; noise of 5 (1 in an image) is added in the second half; data are
those of parameters .5 prior sds away.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reporting import SIMULATORS, check
from torch import Tensor
from torch import distributions as td

from sciinf import Flow, Observable, Recipe, Simulator, build_posterior, load_simulator, simulate, train
from sciinf.campaigns.block import simulate_from
from sciinf.core import Batch, Posterior, Prior, X
from sciinf.diagnostics.around import simulate_around
from sciinf.diagnostics.localise import judge, scores_of
from sciinf.diagnostics.ood import make_reference, p_values
from sciinf.networks.summaries.standardise import Standardise

EPOCHS = {"lotka_volterra": 20, "influenza": 20, "turned_spot": 10}
QUICK = ("influenza", "turned_spot")  # the third simulator takes longest
KINDS = ("one number", "dead", "drift", "noise", "along the model")
# Data sets of each kind: more where the areas say least and an answer takes least.
TIMES = {"lotka_volterra": 60, "influenza": 200, "turned_spot": 60}
_DRAWS = 20  # of what the posterior predicts
_TOP = 10


class Sensors(Simulator):
    """x = F theta + noise, of which all sensors share a part."""

    name = "sensors"

    def __init__(self, design: Tensor, shared: float = 0.0) -> None:
        self.design, self.shared = design, shared
        self.prior = Prior(**{f"a{i}": td.Normal(0.0, 3.0) for i in range(design.shape[1])})
        self.observables = {"x": Observable((len(design),), dims=("sensor",))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        own = torch.randn(len(theta), len(self.design), generator=generator)
        return {"x": theta @ self.design.T + own + self.shared * torch.randn(len(theta), 1, generator=generator)}


class Exact(Posterior):
    """Its posterior."""

    def __init__(self, simulator: Sensors) -> None:
        self.prior, self.observables = simulator.prior, simulator.observables
        design = simulator.design.double()
        noise = torch.eye(len(design), dtype=torch.float64) + simulator.shared**2
        whole = torch.linalg.solve(noise, design)
        self.covariance = torch.linalg.inv(design.T @ whole + torch.eye(design.shape[1]) / 9)
        self.gain = self.covariance @ whole.T
        self.marginal = (9 * design @ design.T + noise).diagonal().sqrt()

    def features(self, x: X) -> Tensor:
        return x["x"].double() @ self.gain.T

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Tensor:
        mean, root = self.features(x), torch.linalg.cholesky(self.covariance)
        return (mean + torch.randn(n, *mean.shape, generator=generator, dtype=mean.dtype) @ root.T).float()

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Any:
        raise NotImplementedError

    def log_prob_batched(self, theta: Tensor, x: X) -> Tensor:
        raise NotImplementedError


def designs() -> dict[str, tuple[Tensor, float]]:
    """Sensors of a level and a slope, of three random parameters, and with noise that they share."""
    t, g = torch.linspace(-1.0, 1.0, 24), torch.Generator().manual_seed(1)
    line = torch.stack([torch.ones(24), t], dim=1)
    many, few = torch.randn(50, 3, generator=g), torch.randn(20, 3, generator=g)
    found = {"line, 24": (line, 0.0), "line, shared noise": (line, 3.0)}
    return {**found, "3 random, 50": (many, 0.0), "3 random, 20": (few, 0.0)}


def sensors(*, quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One sensor that moves the answer by two sds: named first, by marginal scores, by exact conditional ones."""
    times = 60 if quick else 300
    rows, checks = [], []
    for name, (design, shared) in designs().items():
        simulator = Sensors(design, shared)
        posterior = Exact(simulator)
        noise = torch.eye(len(design), dtype=torch.float64) + shared**2
        precision = torch.linalg.inv(9 * design.double() @ design.double().T + noise)
        found = {"named": 0, "exactly": 0, "by marginals": 0, "alarms": 0, "false": 0}
        for seed in range(times):
            generator = torch.Generator().manual_seed(seed)
            x = simulator(simulator.prior.sample(1, generator=generator), generator=generator)
            clean = _scored(simulator, posterior, x, generator)
            found["false"] += clean is not None and judge(clean).p < 0.01
            k = int(torch.randint(len(design), (1,), generator=generator))
            moves = float((posterior.gain[:, k].abs() / posterior.covariance.diagonal().sqrt()).amax())
            x["x"][0, k] += 2 / moves
            scores = _scored(simulator, posterior, x, generator)
            judged = judge(scores)
            exact = x["x"][0].double() @ precision / precision.diagonal().sqrt()
            found["named"] += int(judged.logs["number"][:, -1].argmin()) == k
            found["exactly"] += int(exact.abs().argmax()) == k
            found["by marginals"] += int((x["x"][0] / posterior.marginal).abs().argmax()) == k
            found["alarms"] += judged.p < 0.01
        shares = {key: value / times for key, value in found.items()}
        rows.append({"one sensor, 2 posterior sds": name, **shares})
        slack = 2 * math.sqrt(0.09 / times)
        checks.append(check(f"{name}: share not named first", 1 - shares["named"], 0.1 + slack))
        checks.append(check(f"{name}: named by marginal scores", shares["by marginals"], 0.9))
        checks.append(check(f"{name}: false alarms", shares["false"], 0.01 + 2 * math.sqrt(0.0099 / times)))
    return rows, checks


def corrected(simulator: Simulator, posterior: Posterior, x: X, generator: torch.Generator) -> Tensor:
    """Draws of the exact posterior, by population Monte Carlo from the network's, (2,000, D)."""
    prior = simulator.prior
    draws = prior.bijection.forward(posterior.draw_batched(x, 4_000, generator=generator)[:, 0].double())
    log = _target(simulator, x, draws) - _normal(draws).log_prob(draws)
    for _ in range(8):
        weight = _tempered(log)
        law = _normal(draws, weight)
        own = torch.randn(2_000, draws.shape[1], generator=generator, dtype=torch.float64) @ law.scale_tril.T
        tail = torch.randn(2_000, 8, generator=generator, dtype=torch.float64).square().mean(1, keepdim=True).sqrt()
        draws = law.loc + own / tail
        log = _target(simulator, x, draws) - _student(law, draws)
    weight = log.softmax(0)
    chosen = draws[torch.multinomial(weight, 2_000, replacement=True, generator=generator)]
    return prior.bijection.inverse(chosen.to(prior.dtype))


def _target(simulator: Simulator, x: X, z: Tensor) -> Tensor:
    theta = simulator.prior.bijection.inverse(z.to(simulator.prior.dtype))
    data = {name: value.expand(len(z), *value.shape[1:]) for name, value in x.items()}
    likelihood = simulator.log_likelihood
    if likelihood is None:
        raise TypeError(f"{simulator.name!r} has no likelihood")
    log = likelihood(theta, data).double() - 0.5 * z.square().sum(1)
    return log.nan_to_num(nan=-1e30, neginf=-1e30).clamp_min(-1e30)


def _normal(z: Tensor, weight: Tensor | None = None) -> td.MultivariateNormal:
    weight = torch.full((len(z),), 1 / len(z), dtype=z.dtype) if weight is None else weight
    mean = weight @ z
    covariance = (z - mean).T @ ((z - mean) * weight[:, None]) + 1e-8 * torch.eye(z.shape[1], dtype=z.dtype)
    return td.MultivariateNormal(mean, covariance)


def _student(law: td.MultivariateNormal, z: Tensor) -> Tensor:
    """Of 8 degrees, but for a constant."""
    far = torch.linalg.solve_triangular(law.scale_tril, (z - law.loc).T, upper=False).square().sum(0)
    return -0.5 * (8 + z.shape[1]) * (far / 8).log1p()


def _tempered(log: Tensor) -> Tensor:
    """Weights to a power at which at least 200 draws count, 1 if it can be."""
    power = 1.0
    while power > 1e-9 and float(1 / (power * log).softmax(0).square().sum()) < 200:
        power *= 0.7
    return (power * log).softmax(0)


def _scored(simulator: Simulator, posterior: Posterior, x: X, generator: torch.Generator, rows: int = 2_000) -> Any:
    if isinstance(posterior, Exact):
        draws = posterior.draw_batched(x, 2_000, generator=generator)[:, 0]
    else:
        draws = corrected(simulator, posterior, x, generator)
    around = simulate_around(posterior, simulator, draws, rows=rows, generator=generator)
    return None if around is None else scores_of(posterior, x, around)


@dataclass(frozen=True)
class Known:
    """A simulator whose noise is known: the observable, and its sds in the units of `standard` of the logarithms."""

    simulator: Simulator
    posterior: Posterior
    observable: str
    noise: Callable[[X, Tensor], Tensor]

    def simulate(self, theta: Tensor, generator: torch.Generator) -> tuple[X, Tensor]:
        data, good = simulate_from(self.simulator, theta, generator=generator)
        return data, theta[good]


def known(name: str, folder: Path, *, quick: bool) -> Known:
    """A simulator with a network trained on 8,000 simulations (4,000 with `quick`)."""
    simulator = load_simulator(SIMULATORS / f"{name}.py")
    store = simulate(simulator, folder / "training", 4_000 if quick else 8_000, seed=0, progress=False)
    flow = Flow(simulator.prior, simulator.observables, seed=0)
    posterior = build_posterior(train(flow, store, folder / "fit", recipe=Recipe(epochs=EPOCHS[name]), seed=0))
    noises: dict[str, tuple[str, Callable[[X, Tensor], Tensor]]] = {
        "lotka_volterra": ("counts", lambda x, theta: theta[:, None, 6:8].expand(-1, 21, 2)),
        "influenza": ("in_bed", lambda x, theta: (1 / (x["in_bed"] + 1.0) + theta[:, 2:]).sqrt()),
        "turned_spot": ("image", lambda x, theta: torch.full_like(x["image"], 0.15)),
    }
    return Known(simulator, posterior, *noises[name])


def faulty(of: Known, kind: str, theta: Tensor, generator: torch.Generator) -> X:
    """Data with a fault, (batch, *event)."""
    if kind == "along the model":
        bijection = of.simulator.prior.bijection
        z = bijection.forward(theta.double())
        which = torch.randint(z.shape[1], (len(z),), generator=generator)
        signs = torch.randn(len(z), generator=generator, dtype=z.dtype).sign()
        z[torch.arange(len(z)), which] += 0.5 * signs
        return of.simulate(bijection.inverse(z.to(theta.dtype)), generator)[0]
    x, theta = of.simulate(theta, generator)
    value, noise = x[of.observable], of.noise(x, theta)
    log = of.simulator.observables[of.observable].scale == "log"
    y = value.double().clamp_min(1e-30).log() if log else value.double()
    y = _spoilt(kind, y, noise.double(), generator)
    new = y.clamp(-80, 80).exp() * (value > 0) if log else y
    new = new.round().clamp(max=1e9) if not value.is_floating_point() else new
    return {**x, of.observable: new.to(value.dtype)}


def _spoilt(kind: str, y: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Logarithms or values with a fault; images are large, so their faults are fainter for each number."""
    count, image = len(y), y[0].numel() > 100
    signs = torch.randn(count, generator=generator, dtype=y.dtype).sign()
    shape, rows = y.shape, torch.arange(count)
    channels = y.reshape(count, shape[1], -1)
    which = torch.randint(channels.shape[2], (count,), generator=generator)
    if kind == "one number":
        k = torch.randint(y[0].numel(), (count,), generator=generator)
        flat, size = y.reshape(count, -1).clone(), noise.reshape(count, -1)
        flat[rows, k] += 10 * signs * size[rows, k]
        return flat.reshape(shape)
    if kind == "noise":
        more = noise * torch.randn(shape, generator=generator, dtype=y.dtype)
        late = (torch.arange(shape[1]) >= shape[1] // 2).to(y.dtype).reshape(1, -1, *[1] * (y.ndim - 2))
        return y + more * (1.0 if image else 5.0) * late
    new, size = channels.clone(), noise.reshape(channels.shape)
    if kind == "dead":
        first = 0 if image else shape[1] // 4
        new[rows, first:, which] = 0.0 if image else new[rows, first, which][:, None]
        return new.reshape(shape)
    slope = torch.linspace(-1.0, 1.0, shape[1], dtype=y.dtype)
    if image:
        return y + 0.4 * noise * (signs[:, None] * slope).reshape(count, -1, 1)
    new[rows, :, which] += 6 * signs[:, None] * slope * size[rows, :, which]
    return new.reshape(shape)


def faults(*, quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Areas under the curve of the score and of the classifier, of clean and faulty data."""
    with tempfile.TemporaryDirectory() as folder:
        return _faults(Path(folder), quick=quick)


def _faults(folder: Path, *, quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    fitted, rows, checks = 1_000 if quick else 4_000, [], []
    for name in QUICK if quick else EPOCHS:
        times = 30 if quick else TIMES[name]
        of = known(name, folder / name, quick=quick)
        clean = observed(of, "clean", times, 1)
        right = own(of, clean, quick=quick)
        fresh = simulate(of.simulator, folder / f"{name}_fresh", 10_000, seed=5, progress=False)
        reference = make_reference(of.posterior, fresh)
        whole = right[:, 1].log() + p_values(reference, of.posterior, clean).double().log()
        some = seen(of, observed(of, "clean", 2 * fitted, 2))
        for kind in KINDS:
            x = observed(of, kind, times, 3)
            scores = own(of, x, quick=quick)
            best = classified(some, seen(of, observed(of, kind, 2 * fitted, 4)))
            found, alarms = area(right, scores), float((scores[:, 1] < 0.01).double().mean())
            both = scores[:, 1].log() + p_values(reference, of.posterior, x).double().log()
            together = area(-whole[:, None], -both[:, None])
            row = {"simulator": name, "fault": kind, "score": found, "with the prior": together}
            rows.append({**row, "classifier": best, "alarms": alarms})
            slack = 2 * math.sqrt(max(together * (1 - together), 0.01) / (2 * times))
            checks.append(check(f"{name}, {kind}: below the classifier by", best - together, 0.03 + slack))
        false = float((right[:, 1] < 0.01).double().mean())
        checks.append(check(f"{name}: false alarms", false, 0.01 + 3 * math.sqrt(0.0099 / times)))
    return rows, checks


def observed(of: Known, kind: str, count: int, seed: int) -> X:
    """Data from the prior, clean or with a kind of fault."""
    generator = torch.Generator().manual_seed(seed)
    theta = of.simulator.prior.sample(count, generator=generator)
    return of.simulate(theta, generator)[0] if kind == "clean" else faulty(of, kind, theta, generator)


def own(of: Known, x: X, *, quick: bool) -> Tensor:
    """Score and p-value of each observation, (count, 2)."""
    found = []
    for k in range(len(x[of.observable])):
        one = {name: value[k : k + 1] for name, value in x.items()}
        generator = torch.Generator().manual_seed(k)
        scores = _scored(of.simulator, of.posterior, one, generator, 1_000 if quick else 2_000)
        judged = None if scores is None else judge(scores)
        found.append((-judged.score, judged.p) if judged else (0.0, 1.0))
    return torch.tensor(found, dtype=torch.float64)


def area(clean: Tensor, fault: Tensor) -> float:
    """Area under the curve of scores in the first column."""
    above = fault[:, None, 0] - clean[None, :, 0]
    return float((above > 0).double().mean() + 0.5 * (above == 0).double().mean())


def seen(of: Known, x: X) -> Tensor:
    """What the classifier sees, (count, features)."""
    generator = torch.Generator().manual_seed(5)
    count = len(x[of.observable])
    kept = []
    standard = Standardise(of.simulator.observables)
    prior = of.simulate(of.simulator.prior.sample(2_000, generator=generator), generator)[0]
    standard.fit(lambda: iter((Batch(torch.empty(2_000, 0), prior),)))
    draws = of.posterior.draw_batched(x, _DRAWS, generator=generator)
    for one in draws:
        data, good = simulate_from(of.simulator, one, generator=generator)
        if bool(good.all()):
            kept.append(standard(data, dtype=torch.float64)[of.observable])
    mean, sd = torch.stack(kept).mean(0), torch.stack(kept).std(0).clamp_min(1e-3)
    y = standard(x, dtype=torch.float64)[of.observable]
    r = ((y - mean) / sd).clamp(-50, 50)
    flat = r.reshape(count, -1)
    parts = [
        flat.abs().sort(1, descending=True).values[:, :_TOP],
        flat.mean(1, keepdim=True),
        flat.std(1, keepdim=True),
    ]
    for axis in range(1, r.ndim):
        along = r.movedim(axis, 1).reshape(count, r.shape[axis], -1)
        slope = torch.linspace(-1.0, 1.0, along.shape[1], dtype=r.dtype)
        parts += [along.mean(2), along.square().mean(2).sqrt(), along.diff(dim=1).square().mean(2)]
        parts += [(along * slope[:, None]).mean(1)[:, :_TOP], along.mean(1)[:, :_TOP], (along.mean(2) @ slope)[:, None]]
        parts += [y.movedim(axis, 1).reshape(count, r.shape[axis], -1).diff(dim=1).abs().amin(2)]
    parts += [flat, y.reshape(count, -1)] if flat.shape[1] <= 100 else []
    return torch.cat(parts, dim=1)


def classified(clean: Tensor, fault: Tensor) -> float:
    """Area under the curve, of the half that the classifier has not seen."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    x = torch.cat([clean, fault]).numpy()
    label = torch.cat([torch.zeros(len(clean)), torch.ones(len(fault))]).numpy()
    first = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).numpy() % 2 == 0
    model = HistGradientBoostingClassifier(max_iter=300, learning_rate=0.05, random_state=0)
    model.fit(x[first], label[first])
    return float(roc_auc_score(label[~first], model.predict_proba(x[~first])[:, 1]))
