"""Hidden paths that are learned, against exact answers and a recurrent encoder: a part of `dynamics.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from dynamics_latent_systems import ANGLES, MODULI, Oscillator, Pendulum, Recurrent, Two
from reporting import check, clock, seconds
from sbi_peer import c2st
from torch import Tensor

from sciinf import Recipe, Simulator, simulate, train
from sciinf.core import Fit
from sciinf.emulators import LatentDynamics
from sciinf.emulators.processes import Koopman, LinearGaussian, Process
from sciinf.emulators.processes.messages import smoothed
from sciinf.simulators.samplers import kalman

Rows = list[dict[str, Any]]
NONE = torch.empty(0, 0)


def latent(options: Any, out: Path) -> tuple[Rows, Rows]:
    """All comparisons."""
    found = [_oscillator(options, out), _pendulum(options, out), _koopman(options, out)]
    return [row for rows, _ in found for row in rows], [one for _, checks in found for one in checks]


def _trained(
    simulator: Simulator, process: Process, out: Path, epochs: int, rows: int = 1_000, **told: Any
) -> tuple[Fit, float]:
    """A fit, and the CPU seconds of its training."""
    store = simulate(simulator, out / "store", rows, seed=0, progress=False)
    started = clock("cpu")
    surrogate = LatentDynamics(simulator.prior, simulator.observables, process, **told)
    fit = train(surrogate, store, out / "fit", recipe=Recipe(epochs=epochs, batch=50), progress=False)
    return fit, clock("cpu") - started


def _fresh(simulator: Simulator, rows: int) -> tuple[Tensor, dict[str, Tensor]]:
    theta = NONE.new_empty(rows, 0)
    return theta, dict(simulator(theta, generator=torch.Generator().manual_seed(9)))  # type: ignore[arg-type]


def _oscillator(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Linear Gaussian data: the bound beside the likelihood; paths, and what they cost, beside the smoother's."""
    simulator = Oscillator()
    fit, cost = _trained(simulator, LinearGaussian(2), out / "oscillator", 20 if options.quick else 50, 2_000, width=0)
    learned, (theta, x) = fit.surrogate, _fresh(simulator, 500)
    assert isinstance(learned, LatentDynamics)
    exact = simulator.filtered(x)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        bound = learned.bound(theta, x, generator=g)
        gap = float((exact.log_likelihood - bound).mean()) / simulator.length
        series = learned.series(theta, x)
        found = learned.process.smoothed(series, generator=g)  # type: ignore[operator]
        seen = learned.decoder.direct.weight.double() @ found.mean[..., None]
        mean, covariance = kalman.smoothed(exact)
        view = torch.tensor([[2.0, 0.5]], dtype=torch.float64)
        true, sd = (view @ mean[..., None])[..., 0, 0], (view @ covariance @ view.mT)[..., 0, 0].sqrt()
        scale, center = learned.emission.scale.double(), learned.emission.center.double()  # type: ignore[union-attr]
        off = (center + scale * (seen[..., 0, 0] + learned.decoder.direct.bias.double())) - 3.0 - true
        chain, size = learned.process.chain(series), found.mean.shape  # type: ignore[operator]
        pull, precision = torch.randn(size, dtype=torch.float64), torch.eye(2, dtype=torch.float64).expand(*size, 2)
        costs = {
            "all times at once": seconds(lambda: smoothed(chain, pull, precision, generator=g), "cpu"),
            "step by step": seconds(lambda: kalman.smoothed(simulator.filtered(x)), "cpu"),
        }
    ms = {f"CPU ms, 500 rows, {name}": 1_000 * value for name, value in costs.items()}
    noise = float(learned.emission.log_sd.detach().exp() * scale)  # type: ignore[operator]
    row = {"linear Gaussian": "oscillator", "nats a step below": gap, "sd of noise (0.5)": noise}
    row["path off, in its sd"] = float((off / sd).square().mean().sqrt())
    bound_ = 0.03 if options.quick else 0.01
    return [row | ms | {"CPU s": cost}], [check("bound below the likelihood, nats a step", gap, bound_)]


def _pendulum(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Half of the times missing: what is filled in, beside that of a recurrent encoder."""
    simulator, rows, errors = Pendulum(), [], {}
    theta, x = _fresh(simulator, 300)
    gone = ~x["x_mask"]
    for name, process, hide in (
        ("messages", LinearGaussian(4), 0.0),
        ("messages, 30 % hidden", LinearGaussian(4), 0.3),
        ("recurrent", Recurrent(4), 0.0),
        ("recurrent, 30 % hidden", Recurrent(4), 0.3),
        ("messages of 8 states, 30 % hidden", LinearGaussian(8), 0.3),
        ("recurrent of 8 states, 30 % hidden", Recurrent(8), 0.3),
    ):
        if options.quick and hide:
            continue
        fit, cost = _trained(simulator, process, out / name.replace(",", ""), 8 if options.quick else 40, hide=hide)
        learned = fit.surrogate
        assert isinstance(learned, LatentDynamics)
        draws = [learned.complete(theta, x, generator=torch.Generator().manual_seed(k)) for k in range(16)]
        drawn = torch.stack(draws)
        errors[name] = float((drawn.mean(0) - x["x"])[gone].square().mean().sqrt())
        spread = float((drawn.var(0)[gone].mean() * 17 / 16).sqrt())
        nats = float(learned.bound(theta, x, generator=torch.Generator().manual_seed(1)).mean())
        told = {
            "RMSE of gaps": errors[name],
            "spread / RMSE": spread / errors[name],
            "bound, nats": nats,
            "CPU s": cost,
        }
        rows.append({"pendulum": name} | told)
    ratio = errors["messages"] / errors["recurrent"]  # 0.9 was hoped for, and is missed: docs/choosing.md
    return rows, [check("gaps by messages / by a recurrent encoder, nothing hidden", ratio, 1.0)]


def _koopman(options: Any, out: Path) -> tuple[Rows, Rows]:
    """Two oscillators: eigenvalues, and draws told from true series."""
    rows, checks = [], []
    for dropped in (0.0, 0.3) if options.quick else (0.0, 0.3, 0.5, 0.7):
        epochs = 20 if options.quick else 60
        fit, cost = _trained(Two(dropped), Koopman(4), out / f"two {dropped:g}", epochs, width=0)
        learned = fit.surrogate
        assert isinstance(learned, LatentDynamics)
        values = learned.process.eigenvalues()  # type: ignore[operator]
        values = values[values.angle().argsort()][-2:]
        off = [
            max(abs(float(f) / t - 1) for f, t in zip(found, true, strict=True))
            for found, true in ((values.abs(), MODULI), (values.angle(), ANGLES))
        ]
        theta, x = _fresh(Two(0.0), 1_000)
        drawn = learned.draw(theta, x, generator=torch.Generator().manual_seed(3))
        told = c2st(drawn.flatten(1), x["x"].flatten(1))
        row = {"Koopman": f"{dropped:.0%} missing", "moduli off": off[0], "angles off": off[1]}
        rows.append(row | {"C2ST": told, "CPU s": cost})
        allowed = 0.1 if options.quick else 0.02
        checks += [check(f"eigenvalues off, {dropped:.0%} missing", max(off), allowed)]
        checks += [check(f"C2ST of series, {dropped:.0%} missing", told, 0.6)]
    return rows, checks
