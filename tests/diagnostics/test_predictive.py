"""Data simulated from the posterior: the model's own observations hardly ever alarm, unexplained ones do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Case, Draws, Level, Observable, Posterior, Prior, Simulator, X
from sciinf.core.verdict import UNCHECKED, verdict_from
from sciinf.diagnostics.predictive import Predictive, check_predictive, predictive_p
from sciinf.posteriors.reweighted import Reweighted

N = 20


class Exact(Posterior):
    """x = A theta + noise, with a Gaussian prior and its exact posterior; its summaries are the first two numbers."""

    def __init__(self, strength: float) -> None:
        self.prior = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0))
        self.observables = {"x": Observable((N,), "", dims=("time",))}
        self.name, self.digest, self.trained_on = "exact", "exact", frozenset()
        self.generator = torch.Generator().manual_seed(0)
        self.design = strength * self.noise(N, 2)
        self.covariance = torch.linalg.inv(torch.eye(2) + self.design.T @ self.design)

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def predicted(self, x: Tensor, rows: int = 400) -> Tensor:
        theta = self.covariance @ self.design.T @ x + self.noise(rows, 2) @ torch.linalg.cholesky(self.covariance).T
        return theta @ self.design.T + self.noise(rows, N)

    def features(self, x: X) -> Tensor:
        return x["x"][:, :2]

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        raise NotImplementedError

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def log_prob_batched(self, theta: Tensor, x: X) -> Tensor:
        raise NotImplementedError


class Straight(Simulator):
    """What an exact posterior belongs to, with its likelihood."""

    def __init__(self, model: Exact) -> None:
        self.name, self.prior, self.observables, self.model = "straight", model.prior, model.observables, model

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return {"x": theta @ self.model.design.T + torch.randn(len(theta), N, generator=generator)}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        return td.Normal(theta @ self.model.design.T, 1.0).log_prob(x["x"]).sum(-1)


@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_false_alarms_for_the_models_own_observations(strength: float) -> None:
    """At most .01: of 600 observations 6 alarms at most are expected, and more than 14 in 1 of 760 runs."""
    model = Exact(strength)
    p = []
    for _ in range(600):
        x = model.design @ model.noise(2) + model.noise(N)
        p.append(predictive_p(model, {"x": x[None]}, {"x": model.predicted(x)})[0])
    found = torch.tensor(p)
    assert int((found < 0.01).sum()) <= 14
    assert int((found < 0.05).sum()) <= 50  # 30 at most are expected; more than 50 in 1 of 5,000 runs
    # A planted fault: what is predicted has less noise than nature has
    worse = [predictive_p(model, {"x": 1.5 * x[None]}, {"x": model.predicted(x)})[0] for x in model.noise(50, N)]
    assert sum(one < 0.01 for one in worse) > 5


def test_what_no_parameter_explains_alarms_and_the_observable_is_named() -> None:
    model = Exact(1.0)
    x = 3.0 * model.noise(N)
    (check,) = check_predictive(model, {"x": x[None]}, {"x": model.predicted(x).numpy()})
    assert check.level == "alarm"
    assert "'x' most, by up to" in check.words


def test_too_few_rows_cannot_tell_and_none_say_nothing() -> None:
    model = Exact(1.0)
    x = 3.0 * model.noise(N)
    (check,) = check_predictive(model, {"x": x[None]}, {"x": model.predicted(x, 99).numpy()})
    assert check.level == "unknown"
    assert check_predictive(model, {"x": x[None]}, {}) == ()


def test_numbers_that_never_vary_are_no_departure_unless_they_differ() -> None:
    model = Exact(1.0)
    x = model.design @ model.noise(2) + model.noise(N)
    rows = model.predicted(x)
    x[3], rows[:, 3] = 0.1, 0.1
    assert check_predictive(model, {"x": x[None]}, {"x": rows.numpy()})[0].level == "good"
    x[3] = 0.2
    assert check_predictive(model, {"x": x[None]}, {"x": rows.numpy()})[0].level == "alarm"


def test_an_observable_of_one_number() -> None:
    model = Exact(1.0)
    model.observables = {**model.observables, "y": Observable((), "")}
    x = {"x": (model.design @ model.noise(2))[None], "y": torch.full((1,), 9.0)}
    rows = {"x": model.predicted(x["x"][0]).numpy(), "y": model.noise(400).numpy()}
    (check,) = check_predictive(model, x, rows)
    assert check.level == "alarm"
    assert "'y' most, by up to" in check.words


def test_an_answer_by_a_likelihood_is_unchecked_until_data_are_simulated_from_it() -> None:
    model = Exact(1.0)
    simulator = Straight(model)
    x = {"x": (model.design @ model.noise(2))[None]}
    draws = Draws(model.prior.names, ("", ""), torch.zeros(9, 2), torch.zeros(9, dtype=torch.float64))
    weighted = Reweighted(model, simulator)
    (unchecked,) = Predictive().findings(Case(weighted, draws, 0.9, x=x))
    assert (unchecked.level, unchecked.kind) == (Level.UNKNOWN, UNCHECKED)
    assert verdict_from([unchecked]).level == Level.UNKNOWN
    assert Predictive().findings(Case(model, draws, 0.9, x=x)) == []
    rows = {"x": model.predicted(x["x"][0])}
    (checked,) = Predictive().findings(Case(weighted, draws, 0.9, x=x, simulator=simulator, predicted=rows))
    assert checked.level == Level.GOOD
