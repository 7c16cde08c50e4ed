"""Quantiles of sets and the memory of a variance: against loops, with a mask, and where they count."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sciinf import Normal, Observable, Prior, Simulator, Uniform, load_fit
from sciinf.core import Batch, save_fit
from sciinf.networks.summaries.quantiles import quantiles
from sciinf.networks.summaries.variance_memory import remembers, variance_memory
from sciinf.training.estimators.flow import Flow

PRIOR = Prior(place=Normal(0.0, 3.0), memory=Uniform(0.0, 0.9))
SET, SERIES = Observable((11,), dims=("item",)), Observable((120,), dims=("time",))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Sets(Simulator):
    """Items of a Cauchy law, or of a normal one."""

    prior, observables = PRIOR, {"x": SET}

    def __init__(self, *, heavy: bool) -> None:
        self.name, self.heavy = f"sets_{heavy}", heavy

    def __call__(self, theta, *, generator):
        draws = torch.randn(2, len(theta), 11, generator=generator)
        return {"x": theta[:, :1] + (draws[0] / draws[1] if self.heavy else draws[0])}


def volatile(n, *, remembered, length=120, seed=0):
    """Values whose variance follows their squares, with more memory in some rows than in others."""
    share, noise = remembered * torch.linspace(0.0, 0.9, n, dtype=torch.float64), normal(n, length, seed=seed)
    variance, found = torch.ones(n, dtype=torch.float64), []
    for t in range(length):
        found.append(variance.sqrt() * noise[:, t])
        variance = 1 - share + share * found[-1] ** 2
    return torch.stack(found, 1)


def fitted(simulator, **options):
    flow, generator = Flow(PRIOR, simulator.observables, **options), torch.Generator().manual_seed(1)
    theta = PRIOR.sample(2_000, generator=generator)
    batch = Batch(theta, simulator(theta, generator=generator))
    flow.standardise(lambda: iter([batch]))
    return flow.eval(), batch


def test_quantiles_are_those_of_numpy():
    x = normal(5, 11)
    found = quantiles(x, None, SET)
    wanted = np.quantile(x.numpy(), (np.arange(9) + 0.5) / 9, axis=1, method="hazen").T
    np.testing.assert_allclose(found[:, :9], wanted, atol=1e-12)
    np.testing.assert_allclose(found[:, 9:], np.log(np.diff(wanted) + 1e-3), atol=1e-12)


def test_quantiles_are_of_what_is_present():
    x, mask = normal(4, 11), torch.ones(4, 11, dtype=torch.bool)
    mask[1, 3:], mask[2, :2], mask[3] = False, False, False
    found = quantiles(torch.where(mask, x, torch.nan), mask, SET)
    for row, keep in enumerate(mask[:3]):
        wanted = np.quantile(x[row][keep].numpy(), (np.arange(9) + 0.5) / 9, method="hazen")
        np.testing.assert_allclose(found[row, :9], wanted, atol=1e-12)
    assert torch.equal(found[3, :9], torch.zeros(9, dtype=torch.float64))
    assert found.isfinite().all()


def test_the_memory_of_a_variance_is_the_likelihood_of_a_recursion():
    x = normal(2, 60, seed=3)
    found = variance_memory(x, None, Observable((60,), dims=("time",)))
    assert found.shape == (2, 24)
    from sciinf.networks.summaries.statistics import prediction_errors

    spec, there = Observable((60,), dims=("time",)), torch.ones(2, 1, 60, dtype=torch.float64)
    *_, (_, _, errors, _) = prediction_errors(x[:, None], there, spec)
    u = errors[0, 0, 0].numpy()
    u = (u - u.mean()) / u.std()
    decay, weight = 0.6, 0.4  # the second of each
    shares = decay ** np.arange(1, 65)
    shares /= shares.sum()
    total = 0.0
    for t in range(len(u)):
        past = sum(shares[lag - 1] * (u[t - lag] ** 2 if t >= lag else 1.0) for lag in range(1, 65))
        v = 1 - weight + weight * past
        total += (1 - np.log(v) - u[t] ** 2 / v) / 2
    place = 1 * 4 + 1  # weights one after another, each with four decays
    assert float(found[0, place]) == pytest.approx(np.sqrt(len(u)) * total / len(u), abs=1e-6)
    torch.testing.assert_close(found[:, 12:], found[:, :12] - found[:, :12].mean(1, keepdim=True))


def test_gaps_change_the_memory_by_no_more_than_they_hide():
    x, mask = volatile(40, remembered=1.0), torch.ones(40, 120, dtype=torch.bool)
    mask[:, 5] = False
    whole = variance_memory(x, None, SERIES)
    first, other = (variance_memory(torch.where(mask, x, hole), mask, SERIES) for hole in (0.0, 1e3))
    torch.testing.assert_close(first, other)
    assert float((first[:, :12] - whole[:, :12]).abs().median()) < 0.2


def test_many_gaps_are_no_memory():
    """Of errors of prediction few are known, where each needs four values before it."""
    x = normal(4_000, 120, seed=9)
    mask = torch.rand(4_000, 120, generator=torch.Generator().manual_seed(2)) < 0.5
    assert not remembers(variance_memory(torch.where(mask, x, 0.0), mask, SERIES), SERIES)


@pytest.mark.parametrize("seed", range(4))
def test_only_a_variance_that_remembers_is_said_to(seed):
    # Of 2,000 series without memory fewer than 1 % have 5 nats, where 10 % are asked for.
    assert remembers(variance_memory(volatile(2_000, remembered=1.0, seed=seed), None, SERIES), SERIES)
    plain = volatile(2_000, remembered=0.0, seed=seed)
    assert not remembers(variance_memory(plain, None, SERIES), SERIES)
    smooth = plain.clone()
    for t in range(1, 120):
        smooth[:, t] += 0.9 * smooth[:, t - 1]  # squares of these follow each other, those of its errors do not
    assert not remembers(variance_memory(smooth, None, SERIES), SERIES)


def test_quantiles_count_where_tails_are_heavy():
    for heavy in (True, False):
        flow, batch = fitted(Sets(heavy=heavy))
        told = flow.features(batch.x)[:, -17:]
        assert bool((told.std(0) > 0.1).all()) is heavy
        assert heavy or bool((told == 0).all())


def test_a_fit_comes_back_and_one_from_before_is_read_as_it_was(tmp_path):
    simulator = Sets(heavy=True)
    for further in (True, False):
        flow, batch = fitted(simulator, further=further)
        save_fit(tmp_path / str(further), flow, simulator={"name": simulator.name}, record={})
        file = tmp_path / str(further) / "fit.json"
        assert ("further" in json.loads(file.read_text())["estimator"]["arguments"]) is further  # as it was before
        found = load_fit(file.parent).estimator
        assert torch.equal(found.features(batch.x), flow.features(batch.x))


def test_weights_that_were_never_fitted_come_back_as_they_are():
    first, second = (Flow(PRIOR, {"x": SET}, seed=3).eval() for _ in range(2))
    second.load_state_dict(first.state_dict())
    x = {"x": normal(4, 11).float()}
    assert torch.equal(first.features(x), second.features(x))


def test_where_nothing_differs_a_fit_is_stored_as_before():
    from sciinf.core.component import to_json

    vector = {"x": Observable((30,), dims=("channel",))}
    assert "further" not in to_json(Flow(PRIOR, vector))["arguments"]
    assert "further" in to_json(Flow(PRIOR, {"x": SET}))["arguments"]
