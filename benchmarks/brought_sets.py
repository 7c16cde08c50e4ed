"""Sets of 10 and 50 independent observations of the same parameters: a part of `models_people_bring`.

"groups": three replicates of a group whose middle varies. "linear": a Gaussian linear model in five dimensions.
"waiting": times of a Gamma law, an exponential family of two parameters. `infer_set` is given simulations of single
observations, and `query` checks its answer. The exact posterior is known in closed form, or by `adaptive_references`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from adaptive_references import reference
from reporting import Rows
from torch import Tensor
from torch import distributions as td

from sciinf import LogNormal, Normal, Observable, Prior, Simulator, infer_set, load_answer, query
from sciinf.core import X
from sciinf.core.files import read_json, write_json
from sciinf.wrappers import sets

ITEMS, SEEDS = (10, 50), (0, 1)
MEAN_ERROR = {10: 0.15, 50: 0.25}
SD_RATIOS = (0.85, 1.15)


@dataclass(frozen=True)
class Task:
    """A model of single observations.

    Args:
        simulator: The model.
        log_density: Of a set (a batch of one) for parameters (n, D), up to a constant, (n,), float64.
    """

    simulator: Simulator
    log_density: Callable[[Tensor, X], Tensor]


class Groups(Simulator):
    """x_j = mu + tau u + sigma e_j, j = 1, 2, 3, with u and e_j standard normal."""

    name = "groups"
    prior = Prior(mu=Normal(0.0, 2.0), tau=LogNormal(0.0, 0.7), sigma=LogNormal(-0.5, 0.7))
    observables = {"x": Observable((3,))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        mu, tau, sigma = (theta[:, k : k + 1] for k in range(3))
        noise = torch.randn(len(theta), 4, generator=generator, dtype=theta.dtype)
        return {"x": mu + tau * noise[:, :1] + sigma * noise[:, 1:]}


def of_groups(theta: Tensor, x: X) -> Tensor:
    """Log density of a set of groups."""
    mu, tau, sigma = theta.double().unbind(1)
    values = x["x"][0].double()
    n, middle, variance = len(values), values.mean(1), tau.square() + sigma.square() / 3
    within = (values - middle[:, None]).square().sum()
    between = (middle - mu[:, None]).square().sum(1)
    return -0.5 * within / sigma.square() - 2 * n * sigma.log() - 0.5 * n * variance.log() - 0.5 * between / variance


class Linear(Simulator):
    """x = A theta + noise, in five dimensions, of a fixed A."""

    name = "linear"
    prior = Prior(**{f"theta_{k}": Normal(0.0, 1.0) for k in range(1, 6)})
    observables = {"x": Observable((5,))}
    matrix = torch.eye(5) + 0.4 * torch.randn(5, 5, generator=torch.Generator().manual_seed(5))

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return {"x": theta @ self.matrix.T + torch.randn(len(theta), 5, generator=generator, dtype=theta.dtype)}


def of_linear(theta: Tensor, x: X) -> Tensor:
    """Log density of a set of the linear model."""
    means = theta.double() @ Linear.matrix.double().T
    return -0.5 * (x["x"][0].double()[None] - means[:, None]).square().sum((1, 2))


class Waiting(Simulator):
    """One waiting time of a Gamma law of some shape and mean, as its logarithm."""

    name = "waiting_times"
    prior = Prior(shape=LogNormal(0.5, 0.7), mean=(LogNormal(1.0, 0.8), "s"))
    observables = {"log_time": Observable((1,))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        shape, mean = theta[:, :1].double(), theta[:, 1:].double()
        time = torch._standard_gamma(shape, generator=generator) * mean / shape
        return {"log_time": time.clamp_min(1e-30).log().to(theta.dtype)}


def of_waiting(theta: Tensor, x: X) -> Tensor:
    """Log density of a set of waiting times."""
    shape, mean = (theta.double()[:, k : k + 1] for k in range(2))
    return td.Gamma(shape, shape / mean).log_prob(x["log_time"][0, :, 0].double().exp()).sum(1)


TASKS = {"groups": Task(Groups(), of_groups), "linear": Task(Linear(), of_linear)}
TASKS |= {"waiting": Task(Waiting(), of_waiting)}


def graded(name: str, out: Path, n: int, seed: int) -> Rows:
    """Make what is missing of the answers to four sets, and a row for each.

    Args:
        name: The task.
        out: The folder of the benchmark.
        n: Single observations simulated in each round.
        seed: Seeds the sets.
    """
    rows, task = Rows(), TASKS[name]
    for items in ITEMS:
        for each in SEEDS:
            folder, generator = out / f"{name}_{items}_{each}", torch.Generator().manual_seed(70 + each + 10 * seed)
            theta = task.simulator.prior.sample(1, generator=generator)
            x = task.simulator(theta.expand(items, -1), generator=generator)
            assert isinstance(x, dict)
            spent = _answered(task, x, folder, n)
            answer = load_answer(folder / "answers" / "set")
            moments = reference(task.simulator.prior, task.log_density, {key: one[None] for key, one in x.items()})
            draws = answer.draws.of_parameters()
            mean, sd = draws.mean(), draws.sd()
            off = [(float(mean[k]) - moments.mean[p]) / moments.sd[p] for k, p in enumerate(draws.names)]
            ratios = [float(sd[k]) / moments.sd[p] for k, p in enumerate(draws.names)]
            right = (
                max(map(abs, off)) <= MEAN_ERROR[items] and SD_RATIOS[0] <= min(ratios) <= max(ratios) <= SD_RATIOS[1]
            )
            row: dict[str, Any] = {"model": name, "observation": f"{items} items, {each}", "answer": "last"}
            row |= {"right": right, "off": max(off, key=abs), "least ratio": min(ratios), "largest ratio": max(ratios)}
            rows.append(
                row | {"verdict": answer.verdict.word, "sentence": answer.verdict.sentence[:160], "CPU s": spent}
            )
    return rows


def _answered(task: Task, x: X, folder: Path, n: int) -> float:
    """Infer and ask, where that is not done; CPU seconds of both."""
    made = folder / "made.json"
    if not made.is_file():
        started, items = time.process_time(), len(next(iter(x.values())))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            posterior = infer_set(task.simulator, x, folder / "rounds", simulations=n, progress=False)
            query(posterior, x, simulator=sets(task.simulator, items, least=items), out=folder, name="set")
        write_json(made, {"cpu_seconds": time.process_time() - started})
    return float(read_json(made)["cpu_seconds"])
