"""Filters against exact references and peers: a part of `dynamics.py`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dynamics_level import MEAN, SD, nile_by_both
from reporting import check, clock, seconds
from torch import Tensor

from sciinf.simulators.dynamics.finite_states import FiniteStates
from sciinf.simulators.dynamics.state_space import Record, Theta
from sciinf.simulators.samplers import forward, kalman

Rows = list[dict[str, Any]]
PARAMETERS, PARTICLES = 100, 1_000  # of the comparison with the package particles


def filters(options: Any, out: Path) -> tuple[Rows, Rows]:
    """All comparisons."""
    found = [_statsmodels(), _joint(), _paths(), _particles(options), _speed(options)]
    return [row for rows, _ in found for row in rows], [one for _, checks in found for one in checks]


def _statsmodels() -> tuple[Rows, Rows]:
    """Kalman's filter and smoother beside those of statsmodels, whole and with 30 % missing."""
    exact, _, record = nile_by_both()
    structural = import_module("statsmodels.tsa.statespace.structural")
    theta = torch.tensor([[122.9, 38.3], [60.0, 120.0], [300.0, 4.0]], dtype=torch.float64)
    rows, checks = [], []
    for missing in (0.0, 0.3):
        gone = np.random.default_rng(1).random(100) < missing
        y = record["volume"][0].double()
        there = torch.tensor(~gone)[None]
        seen = Record(exact.times[None], {"volume": y.expand(3, -1)}, {"volume": there.expand(3, -1)})
        named = dict(zip(exact.prior.names, theta.T, strict=True))
        found = kalman.filtered(exact.model, named, seen)
        mean, covariance = kalman.smoothed(found)
        peer = structural.UnobservedComponents(np.where(gone, np.nan, y.numpy()), "local level")
        peer.ssm.initialize_known(np.array([MEAN]), np.array([[SD**2]]))
        peer.ssm.loglikelihood_burn = 0
        off: dict[str, float] = dict.fromkeys(("log-likelihood", "mean", "variance (relative)"), 0.0)
        for i, pair in enumerate(theta.square().tolist()):
            result = peer.smooth(pair)
            here = (
                abs(float(found.log_likelihood[i]) - result.llf),
                np.abs(mean[i, :, 0].numpy() - result.smoothed_state[0]).max(),
                np.abs(covariance[i, :, 0, 0].numpy() / result.smoothed_state_cov[0, 0] - 1).max(),
            )
            off = {name: max(value, float(new)) for (name, value), new in zip(off.items(), here, strict=True)}
        rows.append({"Kalman - statsmodels": f"{missing:.0%} missing", **off})
        checks += [check(f"Kalman off statsmodels, {missing:.0%} missing: {n}", v, 1e-8) for n, v in off.items()]
    return rows, checks


def _joint() -> tuple[Rows, Rows]:
    """The smoother beside the posterior of one Gaussian law of 100 levels and 100 volumes."""
    exact, _, record = nile_by_both()
    noise, level = 122.9, 38.3
    years = torch.arange(100.0, dtype=torch.float64)
    prior = SD**2 + level**2 * torch.minimum(years[:, None], years)
    gain = torch.linalg.solve(prior + noise**2 * torch.eye(100, dtype=torch.float64), prior).T
    mean = MEAN + gain @ (record["volume"][0].double() - MEAN)
    covariance = prior - gain @ prior
    named = {n: torch.tensor([v], dtype=torch.float64) for n, v in (("sd_noise", noise), ("sd_level", level))}
    seen = Record(exact.times[None], {"volume": record["volume"].double()}, {})
    ours = kalman.smoothed(kalman.filtered(exact.model, named, seen))
    off = float((ours[0][0, :, 0] - mean).abs().max())
    apart = float((ours[1][0, :, 0, 0] / covariance.diagonal() - 1).abs().max())
    rows = [{"smoother - joint Gaussian": "nile", "mean": off, "variance (relative)": apart}]
    checks = [check("smoother off the joint Gaussian: mean", off, 1e-8)]
    return rows, [*checks, check("smoother off the joint Gaussian: variance", apart, 1e-8)]


class Chain(FiniteStates):
    """Three states, seen with noise."""

    states = ("closed", "open", "inactive")

    def start(self, theta: Theta) -> Tensor:
        """Probabilities of the start."""
        return torch.tensor([[0.6, 0.3, 0.1]], dtype=torch.float64)

    def rates(self, theta: Theta) -> Tensor:
        """Rates of jumps."""
        a, b = theta["a"], theta["b"]
        none = torch.zeros_like(a)
        each = [[none, a, none], [b, none, 0.5 * a], [0.2 * b, none, none]]
        return torch.stack([torch.stack(row, -1) for row in each], -2)

    def observe(self, theta: Theta, state: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        """The current."""
        noise = torch.randn(len(state), generator=generator, dtype=state.dtype)
        return {"current": state[:, 0] + 0.4 * noise}

    def log_observe(self, theta: Theta, state: Tensor, x: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """Its log density."""
        return {"current": torch.distributions.Normal(state[:, 0], 0.4).log_prob(x["current"])}


def _paths() -> tuple[Rows, Rows]:
    """A chain's likelihood and smoother beside the sum over all 3^7 paths, at irregular times."""
    times = torch.tensor([[0.0, 0.1, 0.9, 1.0, 2.5, 2.6, 6.0]], dtype=torch.float64)
    named = {"a": torch.tensor([1.3]).double(), "b": torch.tensor([0.7]).double()}
    x = {"current": torch.tensor([[0.2, 0.9, 1.4, 1.9, 0.1, -0.3, 1.0]], dtype=torch.float64)}
    model, seen = Chain(), Record(times, x, {})
    found = forward.forward(model, named, seen)
    jumps = model.rates(named)[0]
    matrix = jumps - torch.diag(jumps.sum(-1))
    steps = [torch.matrix_exp(matrix * t) for t in times[0].diff()]
    density = torch.distributions.Normal(torch.arange(3.0).double(), 0.4).log_prob(x["current"][0][:, None]).exp()
    weight = torch.zeros((3,) * 7, dtype=torch.float64)
    for path in itertools.product(range(3), repeat=7):
        p = model.start(named)[0, path[0]] * density[0, path[0]]
        for k in range(1, 7):
            p = p * steps[k - 1][path[k - 1], path[k]] * density[k, path[k]]
        weight[path] = p
    off = abs(float(found.log_likelihood[0] - weight.sum().log()))
    law = weight / weight.sum()
    each = torch.stack([law.sum([j for j in range(7) if j != k]) for k in range(7)])
    apart = float((forward.smoothed(found)[0] - each).abs().max())
    rows = [{"chain - sum over paths": "2,187 paths", "log-likelihood": off, "probabilities": apart}]
    checks = [check("chain off the sum over paths: log-likelihood", off, 1e-6)]
    return rows, [*checks, check("chain off the sum over paths: probabilities", apart, 1e-6)]


def _particles(options: Any) -> tuple[Rows, Rows]:
    """Bias and spread of the estimate on the Nile at the likeliest sds, and what it costs."""
    exact, estimated, record = nile_by_both()
    repeats = 500 if options.quick else 4_000
    theta = torch.tensor([[122.9, 38.3]])
    truth = exact.log_likelihood(theta, record)
    rows, checks = [], []
    for count in sorted({64, 128, 256, estimated.particles, 1_000}):
        _, simulator, _ = nile_by_both(count)
        log = simulator.log_likelihood(theta.expand(repeats, -1), record) - truth
        ratio = log.exp()
        off = abs(float(ratio.mean()) - 1) / (float(ratio.std()) / math.sqrt(repeats))
        spread, many = float(log.std()), theta.expand(200, -1)
        ms = 5 * seconds(lambda s=simulator, t=many: s.log_likelihood(t, record), "cpu")
        chosen = " (chosen)" if count == estimated.particles else ""
        rows.append(
            {"particles": f"{count}{chosen}", "mean of exp off, in s.e.": off, "sd of log": spread, "CPU ms": ms}
        )
        checks.append(check(f"{count} particles: mean of the estimate off, in standard errors", off, 3.0))
        if chosen:
            checks += [check("chosen particles: sd of the log-likelihood", spread, 1.0)]
            checks += [check("chosen particles: CPU ms a parameter", ms, 15.0)]
    kalman_ms = seconds(lambda: exact.log_likelihood(theta.expand(4_000, -1), record), "cpu") / 4
    return [*rows, {"particles": "Kalman", "CPU ms": kalman_ms}], checks


def _speed(options: Any) -> tuple[Rows, Rows]:
    """100 parameters x 1,000 particles in one batch, and by the package particles one by one."""
    _, simulator, record = nile_by_both(PARTICLES)
    generator = torch.Generator().manual_seed(1)
    theta = torch.tensor([80.0, 10.0]) + torch.tensor([80.0, 70.0]) * torch.rand(PARAMETERS, 2, generator=generator)
    rounds = 2 if options.quick else 5
    try:
        peer = _package(record["volume"][0].numpy())
    except ImportError as error:
        return [{"peer": f"the package particles: {error}"}], []
    ours, theirs = math.inf, math.inf
    for _ in range(rounds):  # in turns, for other programs on the machine slow both
        ours = min(ours, _spent(lambda: simulator.log_likelihood(theta, record)) / PARAMETERS)
        few = theta[:10].tolist()
        theirs = min(theirs, _spent(lambda f=few: [peer(*pair) for pair in f]) / 10)
    row = {"ours": ours * 1e3, "particles": theirs * 1e3, "times": theirs / ours}
    floor = _spent(lambda: torch.randn(PARAMETERS * PARTICLES, 100, generator=generator)) / PARAMETERS * 1e3
    rows = [{"1,000 particles": "CPU ms a parameter", **row, "ours, of it the model's noise": floor}]
    return rows, [check("5 / (times faster than the package particles)", 5 * ours / theirs, 1.0)]


def _package(y: np.ndarray) -> Callable[[float, float], float]:
    """The log-likelihood by the package particles, which asks for numba."""
    particles, models = import_module("particles"), import_module("particles.state_space_models")
    laws = import_module("particles.distributions")

    class Peer(models.StateSpaceModel):  # type: ignore[name-defined, misc]
        """The same model."""

        default_params = {"noise": 120.0, "level": 40.0}

        def PX0(self) -> Any:
            """Law of the first level."""
            return laws.Normal(loc=MEAN, scale=SD)

        def PX(self, t: int, xp: Any) -> Any:
            """Law of the next."""
            return laws.Normal(loc=xp, scale=self.level)

        def PY(self, t: int, xp: Any, x: Any) -> Any:
            """Law of the volume."""
            return laws.Normal(loc=x, scale=self.noise)

    def log_likelihood(noise: float, level: float) -> float:
        run = particles.SMC(fk=models.Bootstrap(ssm=Peer(noise=noise, level=level), data=y), N=PARTICLES)
        run.run()
        return float(run.logLt)

    log_likelihood(120.0, 40.0)
    return log_likelihood


def _spent(call: Callable[[], Any]) -> float:
    started = clock("cpu")
    call()
    return clock("cpu") - started
