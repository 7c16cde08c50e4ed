"""Networks that denoise: parts of `papers.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from reporting import benchmark, check, clock
from torch import Tensor
from torch import distributions as td
from torch.nn import Linear

from sciinf import Observable, Prior, Recipe, Score, Simulator, simulate, train
from sciinf.campaigns import Store
from sciinf.core import Fit, X
from sciinf.lab.stochastic import ReverseEulerMaruyama
from sciinf.networks.diffusion.grid import Power
from sciinf.networks.diffusion.solver import Exponential
from sciinf.networks.preserving import Unit
from sciinf.posteriors.conditional import Conditional
from sciinf.training import distil
from sciinf.training.estimators._denoising import DenoisedDensity
from sciinf.training.estimators.joint import Joint

Found = tuple[list[dict[str, Any]], list[dict[str, Any]]]
NOISE = 0.75  # of `Mean`
DATA = ("given", "given.0", "enter", "clock")  # layers that take data, or a clock


@final
class Mean(Simulator):
    """x = theta + noise, in two columns; all is Gaussian."""

    name = "mean"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0))
    observables = {"x": Observable((2,))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        """See `Simulator`."""
        return {"x": theta + NOISE * torch.randn(theta.shape, generator=generator)}


@final
class Curved(Simulator):
    """x = (a + b^2, b^3 / 3) + noise: a banana, and data that a Gaussian law is wrong for."""

    name = "curved"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0))
    observables = {"x": Observable((2,))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        """See `Simulator`."""
        a, b = theta.unbind(-1)
        data = torch.stack([a + b.square(), b**3 / 3], -1)
        return {"x": data + 0.3 * torch.randn(data.shape, generator=generator)}


def levels(options: Any, out: Path) -> Found:
    """Posterior means and sds of `Curved` with error bars of 0.05 to 10, against a grid; seconds are of all of it."""
    started = clock("cpu")
    store = simulate(Curved(), out / "s", 3_000 if options.quick else 10_000, seed=options.seed, progress=False)
    fit = train(Joint(Curved.prior, Curved.observables, noisy=0.4), store, out / "fit", progress=False)
    ask, generator = Conditional(fit), torch.Generator().manual_seed(options.seed)
    found: dict[str, list[tuple[float, float]]] = {"told": [], "ignored": []}
    for k in range(12 if options.quick else 40):
        theta = Curved.prior.sample(1, generator=generator)
        sd = 0.05 * 200 ** torch.rand(2, generator=generator)
        x = Curved()(theta, generator=generator)["x"][0] + sd * torch.randn(2, generator=generator)
        mean, wide = _by_grid(x, (0.09 + sd.square()).sqrt())
        for name, errors in (("told", {"x": sd}), ("ignored", None)):
            draws = ask.sample(2_000, ["a", "b"], {"x": x}, errors=errors, generator=torch.Generator().manual_seed(k))
            both = torch.stack([draws["a"], draws["b"]], -1).double()
            off, ratio = (both.mean(0) - mean) / wide, both.std(0) / wide
            found[name].append((float(off.abs().mean()), float(ratio.log().abs().mean().exp())))
    apart = {name: torch.tensor(values) for name, values in found.items()}
    rows = [
        {"errors": name, "mean off, in sds": float(v[:, 0].mean()), "sd off by a factor": float(v[:, 1].mean())}
        for name, v in apart.items()
    ]
    told, ignored = (float(apart[name][:, 0].mean()) for name in ("told", "ignored"))
    rows = [row | {"seconds": clock("cpu") - started} for row in rows]
    return rows, [check("levels: means off, errors told / ignored", told / ignored, 0.5)]


def _by_grid(x: Tensor, sd: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sd of (a, b) by a grid."""
    axis = torch.linspace(-4.5, 4.5, 901, dtype=torch.float64)
    a, b = torch.meshgrid(axis, axis, indexing="ij")
    log = -0.5 * (a**2 + b**2)
    for value, seen, wide in zip((a + b**2, b**3 / 3), x.double(), sd.double(), strict=True):
        log = log - 0.5 * ((seen - value) / wide) ** 2
    weight = torch.softmax(log.flatten(), 0).reshape(log.shape)
    mean = torch.stack([(weight * a).sum(), (weight * b).sum()])
    square = torch.stack([(weight * a**2).sum(), (weight * b**2).sum()])
    return mean, (square - mean**2).sqrt()


def guided(options: Any, out: Path) -> Found:
    """Variances of guided draws, v^w for a Gaussian posterior of variance v; seconds are of the training."""
    started = clock("cpu")
    store = simulate(Mean(), out / "s", 4_000 if options.quick else 10_000, seed=options.seed, progress=False)
    score = Score(Mean.prior, Mean.observables, linear=False, dropped=0.15)
    fit = train(score, store, out / "fit", recipe=Recipe(epochs=60), progress=False)
    took = clock("cpu") - started
    variance, rows, worst = NOISE**2 / (1 + NOISE**2), [], 0.0
    law = fit.estimator.condition({"x": torch.tensor([[0.5, -1.0]])})
    if not isinstance(law, DenoisedDensity):
        raise TypeError(f"{type(law).__name__} has no guided draws")
    for weight in (1.0, 1.5, 2.0, 3.0):
        draws = law.guided(8_000, weight, generator=torch.Generator().manual_seed(0))
        ratio = float(draws.var(0).mean()) / variance**weight
        worst = max(worst, abs(ratio - 1)) if weight <= 2 else worst
        shown = {"weight": weight, "variance / posterior's": ratio * variance ** (weight - 1), "/ v^w": ratio}
        rows.append({**shown, "seconds": took})
    return rows, [check("guided: variances off v^w, w up to 2", worst, 0.45)]


def gap(options: Any, out: Path) -> Found:
    """How far draws with noise are from draws without, beside two sets of draws without."""
    rows, ratios = [], []
    for task in ("two_moons", "gaussian_mixture"):
        simulator, apart = benchmark(task), {}
        count = 2_000 if options.quick else 6_000
        store = simulate(simulator, out / task, count, seed=options.seed, progress=False)
        for weight in (0.0, 1.0):
            started = clock("cpu")
            score = Score(simulator.prior, simulator.observables, consistency=weight)
            recipe = Recipe(epochs=25) if options.quick else None
            fit = train(score, store, out / f"{task}_{weight}", recipe=recipe, progress=False)
            took = clock("cpu") - started
            apart[weight], chance = _apart(fit, store, 4 if options.quick else 10)
            rows.append(
                {"task": task, "consistency": weight, "ODE-SDE": apart[weight], "by chance": chance, "seconds": took}
            )
            rows[-1]["loss"] = fit.record["best_validation_loss"]
        ratios.append(apart[1.0] / apart[0.0])
    return rows, [check("gap: ODE-SDE with / without, mean of two tasks", sum(ratios) / 2, 0.95)]


def _apart(fit: Fit, store: Store, asked: int) -> tuple[float, float]:
    """Mean distance of draws of 1,000 (sliced Wasserstein, in sds) by both solvers, and of two sets by one."""
    x = {name: value[:asked] for name, value in store.load(slice(0, 2 * asked)).x.items()}
    owner, drawn = fit.estimator, []
    for seed, solver in ((0, Exponential(40, 2)), (1, ReverseEulerMaruyama(200)), (2, Exponential(40, 2))):
        owner.solver = solver
        drawn.append(owner.density(x).sample(1_000, generator=torch.Generator().manual_seed(seed)))
    return _sliced(drawn[0], drawn[1]), _sliced(drawn[0], drawn[2])


def _sliced(one: Tensor, other: Tensor) -> float:
    """Mean over directions and observations of the Wasserstein distance along a direction, in sds; (n, batch, D)."""
    generator = torch.Generator().manual_seed(3)
    way = torch.randn(50, one.shape[-1], generator=generator)
    way = way / way.norm(dim=1, keepdim=True)
    one, other = ((part / one.std(0)) @ way.T for part in (one, other))
    return float((one.sort(0).values - other.sort(0).values).abs().mean())


def preserving(options: Any, out: Path) -> Found:
    """Losses on fresh rows, and the heights of activations."""
    rows, ratios = [], []
    for task in ("two_moons", "slcp", "gaussian_linear_uniform"):
        simulator, losses = benchmark(task), {}
        store = simulate(simulator, out / task, 2_000 if options.quick else 6_000, seed=options.seed, progress=False)
        fresh = simulate(simulator, out / f"{task}_fresh", 4_000, seed=options.seed + 1, progress=False).load()
        for keeps in (False, True):
            started = clock("cpu")
            score = Score(simulator.prior, simulator.observables, preserving=keeps)
            recipe = Recipe(epochs=25) if options.quick else None
            fit = train(score, store, out / f"{task}_{keeps}", recipe=recipe, progress=False)
            took, height = clock("cpu") - started, list[float]()
            for name, layer in fit.estimator.named_modules():
                inside = name.startswith("network.") and name.removeprefix("network.") not in DATA
                if inside and isinstance(layer, Unit | Linear):
                    layer.register_forward_hook(
                        lambda _, shown, made, height=height: height.append(float(shown[0].square().mean().sqrt()))
                    )
            with torch.no_grad():
                loss = fit.estimator.eval().loss(fresh, generator=torch.Generator().manual_seed(0))
            losses[keeps] = float(loss.mean())
            row = {"task": task, "preserving": keeps, "loss": losses[keeps], "se": float(loss.std()) / len(loss) ** 0.5}
            rows.append(row | {"least rms": min(height), "largest rms": max(height), "seconds": took})
        ratios.append(losses[True] / losses[False])
    kept = [row for row in rows if row["preserving"]]
    far = max(max(row["largest rms"] - 1, 1 - row["least rms"]) for row in kept)
    return rows, [
        check("preserving: rms of activations off 1", far, 0.1),
        check("preserving: loss / plain, largest of three tasks", max(ratios), 1.1),
    ]


def distilled(options: Any, out: Path) -> Found:
    """Two evaluations of a draw of `two_moons`, beside those of the teacher's forty, at equal CPU seconds."""
    simulator = benchmark("two_moons")
    store = simulate(simulator, out / "s", 2_000 if options.quick else 6_000, seed=options.seed, progress=False)
    recipe = Recipe(epochs=25) if options.quick else None
    teacher = train(
        Score(simulator.prior, simulator.observables), store, out / "teacher", recipe=recipe, progress=False
    )
    x = {name: value[:10] for name, value in store.load(slice(0, 20)).x.items()}
    owner = teacher.estimator
    owner.solver = Exponential(40, 2)
    exact = owner.density(x).sample(2_000, generator=torch.Generator().manual_seed(0))
    chance = owner.density(x).sample(2_000, generator=torch.Generator().manual_seed(1))
    owner.solver = Exponential(2, 1, Power(3.0))
    hasty = owner.density(x).sample(2_000, generator=torch.Generator().manual_seed(1))
    owner.solver = Exponential(20, 2)
    rows = [
        {"way": "the teacher in forty again", "from its forty": _sliced(exact, chance), "seconds": 0.0},
        {"way": "the teacher in two steps", "from its forty": _sliced(exact, hasty), "seconds": 0.0},
    ]

    def student(name: str, epochs: int, stages: int) -> float:
        started = clock("cpu")
        recipe = Recipe(epochs=epochs)
        fit = distil(teacher, store, out / name, steps=2, stages=stages, recipe=recipe, seed=options.seed)
        took = clock("cpu") - started
        draws = fit.estimator.density(x).sample(2_000, generator=torch.Generator().manual_seed(1))
        rows.append({"way": name, "from its forty": _sliced(exact, draws), "seconds": took})
        return took

    took = student("by stages", 6 if options.quick else 20, 3)
    each = student("tried", 2, 0) / 2
    rows.pop()
    student("at once", max(1, round(took / each)), 0)
    hasty_off, *off = [float(row["from its forty"]) for row in rows[1:]]
    return rows, [
        check(f"distilled: {row['way']} / the teacher", each / hasty_off, 0.7)
        for row, each in zip(rows[2:], off, strict=True)
    ]
