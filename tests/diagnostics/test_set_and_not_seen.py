"""Times of a record and controls were set: no check of an answer judges them as data, however odd they are."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf import Normal, Observable, Prior, Simulator, query
from sciinf.core import Draws, Posterior
from sciinf.diagnostics.around import Around, simulate_around
from sciinf.diagnostics.localise import check_data
from sciinf.diagnostics.predictive import predictive_p
from sciinf.diagnostics.residuals import residual_p

TIMES, NOISE, ROWS = 12, 0.3, 500
JUDGES = ("residuals", "strange data", "predictive", "limits")


class Line(Simulator):
    """y = a + b t + noise, at times of its own, beside an inflow that is often 0 and does nothing; or at one plan."""

    def __init__(self, plan=None):
        self.prior, self.name, self.plan = Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0)), "line", plan
        along = {"dims": ("time",)}
        self.observables = {
            "y": Observable((TIMES,), **along),
            "y_times": Observable((TIMES,), **along, dtype="float64"),
            "inflow": Observable((TIMES,), **along, control=True),
            "blank": Observable((TIMES,), **along),
        }

    def __call__(self, theta, *, generator):
        rows, plan = len(theta), self.plan
        if plan is None:
            flow = torch.randn(rows, TIMES, generator=generator).clamp_min(0.0)
            plan = torch.rand(rows, TIMES, generator=generator).sort(-1).values.double(), flow
        times, flow = (part.expand(rows, -1).contiguous() for part in plan)
        noise = NOISE * torch.randn(rows, TIMES, generator=generator)
        return {
            "y": theta[:, :1] + theta[:, 1:] * times.float() + noise,
            "y_times": times,
            "inflow": flow,
            "blank": 0 * flow,
        }


class Exact(Posterior):
    """Its posterior, which is normal."""

    name, digest, trained_on = "exact", "exact", frozenset[str]()

    def __init__(self, simulator):
        self.prior, self.observables = simulator.prior, simulator.observables

    def normal(self, x):
        design = torch.stack([torch.ones_like(x["y_times"]), x["y_times"]], -1)
        covariance = torch.linalg.inv(design.mT @ design / NOISE**2 + torch.eye(2, dtype=torch.float64))
        return (covariance @ (design.mT @ x["y"].double()[..., None] / NOISE**2))[..., 0], covariance

    def features(self, x):
        return self.normal(x)[0]

    def draw_batched(self, x, n, *, generator):
        mean, covariance = self.normal(x)
        noise = torch.randn(n, len(mean), 2, generator=generator, dtype=torch.float64)
        return (mean + (torch.linalg.cholesky(covariance) @ noise[..., None])[..., 0]).float()

    def draw(self, x, n, *, generator):
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n, dtype=torch.float64))

    def log_prob_batched(self, theta, x):
        raise NotImplementedError


def odd():
    """Data of the model at times of which half are equal and late, under one inflow that no simulation has."""
    times = torch.cat([torch.linspace(0.0, 0.9, 6), torch.full((6,), 1.0)]).double()[None]
    return Line((times, torch.full((1, TIMES), -9.0)))


def made(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = odd()(torch.tensor([[0.3, 0.0]]), generator=generator)
    return x, generator


def test_an_odd_plan_is_no_fault_of_the_data():
    x, _ = made()
    answer = query(Exact(Line()), {name: value[0] for name, value in x.items()}, simulator=Line(), draws=1_000)
    found = {check.name: check for check in answer.checks if check.name in JUDGES}
    assert {"residuals", "strange data", "predictive"} <= set(found)
    assert [check.words for check in found.values() if check.level != "good"] == []


@pytest.mark.parametrize("like", [False, True])
def test_a_fault_of_the_data_is_said_of_the_data(like):
    """The last six values are too high and too low by turns, by four sds, so that each check has something to say."""
    x, generator = made(1)
    x["y"][0, 6:] += 4 * NOISE * torch.tensor([1.0, -1.0]).repeat(3)
    simulator, posterior = odd() if like else Line(), Exact(Line())
    theta = posterior.draw_batched(x, 400, generator=generator)[:, 0]
    around = simulate_around(posterior, simulator, theta, rows=ROWS, generator=generator)
    assert isinstance(around, Around)
    (check,) = check_data(posterior, x, around)
    assert {one["observable"] for one in check.figures["where"]} == {"y"}
    assert all(math.isfinite(one["z"]) for one in check.figures["where"])
    residual = residual_p(posterior, simulator, x, around)
    assert isinstance(residual, tuple)
    p, most = predictive_p(posterior, x, simulator(theta, generator=generator))
    assert max(p, residual[0]) < 0.05
    for words in (check.words, residual[1], most):
        assert "'y'" in words
        assert "y_times" not in words
        assert "inflow" not in words
        assert "nan" not in words.split()
