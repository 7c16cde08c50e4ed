"""Measuring: rows at a time, seconds a row, and how often a row is used."""

from __future__ import annotations

import json
import math
import time

import pytest
import torch
from torch import distributions as td

from sciinf import Flow
from sciinf.core import Batch, Estimator, Observable, Prior, Simulator
from sciinf.engine.online import FRESH, fresh_recipe, prepared
from sciinf.engine.probe import LARGEST, choose_reuse, probe_block, seconds_per_row, training_seconds_per_row
from sciinf.engine.recipe import Recipe


class Timed(Simulator):
    """Sleeps for `call` seconds and `row` seconds a row; at most `fits` rows at a time."""

    name = "timed"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"x": Observable((1,))}

    def __init__(self, call=0.0, row=0.0, fits=LARGEST):
        self.call, self.row, self.fits, self.sizes = call, row, fits, []

    def __call__(self, theta, *, generator):
        self.sizes.append(len(theta))
        if len(theta) > self.fits:
            raise torch.OutOfMemoryError("no room")
        time.sleep(self.call + self.row * len(theta))
        return {"x": theta}


def test_larger_blocks_while_they_pay_and_no_larger():
    # the time of a call is that of 300 rows: doubling fewer gains a half and more, fourfold 4,000 less than a tenth
    assert 512 <= probe_block(Timed(call=0.03, row=1e-4), LARGEST, seed=0, device="cpu") <= 16_384


def test_no_more_rows_than_are_of_use_fit_or_take_five_seconds():
    assert probe_block(Timed(call=0.01), 1000, seed=0, device="cpu") <= 1000
    assert probe_block(Timed(call=0.01), 5, seed=0, device="cpu") == 5
    assert probe_block(Timed(call=0.01, fits=600), LARGEST, seed=0, device="cpu") == 512
    slow = Timed(row=0.04)
    assert probe_block(slow, LARGEST, seed=0, device="cpu") == 64
    assert slow.sizes == [64]


def test_seconds_per_row():
    # sleeping takes longer than asked for, never less
    measured = seconds_per_row(Timed(call=0.02, row=1e-4), 400, seed=0, device="cpu")
    assert 1.5e-4 <= measured < 1e-3
    one = Timed(row=0.01)
    assert 0.01 <= seconds_per_row(one, 3, seed=0, device="cpu") < 0.1
    assert one.sizes == [3, 3, 3]
    slow = Timed(row=2e-3)
    seconds_per_row(slow, 100_000, seed=0, device="cpu")
    assert max(slow.sizes) <= 500  # about a second
    with pytest.raises(torch.OutOfMemoryError):
        seconds_per_row(Timed(fits=2), 3, seed=0, device="cpu")


def test_a_simulator_that_takes_long_is_not_measured_twice():
    slow = Timed(call=1.1)
    assert 1.1 / 64 <= seconds_per_row(slow, 1000, seed=0, device="cpu") < 0.1
    assert slow.sizes == [64]


class Sleeping(Estimator):
    """A loss that takes a tenth of a millisecond a row, and its first call a second."""

    def __init__(self):
        super().__init__()
        self.weight, self.called = torch.nn.Parameter(torch.ones(1)), False

    def standardise(self, batches):
        pass

    def loss(self, batch, *, generator):
        time.sleep(1e-4 * len(batch.theta) + (0.0 if self.called else 1.0))
        self.called = True
        return self.weight * batch.theta[:, 0]

    def features(self, x):
        return x["x"]

    def condition(self, x):
        raise NotImplementedError


def test_seconds_of_training_per_row():
    estimator, rows = Sleeping(), Batch(torch.ones(200, 1), {"x": torch.ones(200, 1)})
    # sleeping takes longer than asked for, never less; what is done once, a second, does not count
    assert 1e-4 <= training_seconds_per_row(estimator, rows, Recipe().resolved(200)) < 1e-3
    assert float(estimator.weight.detach()) == 1.0
    assert not estimator.called


def per_second(reuse, simulation, training):
    worth = sum(math.exp(-use / 15) for use in range(reuse))
    return worth / (simulation + reuse * training)


def check_rule(rule):
    """The rule learns as much per second as the best reuse factor does, to leading order."""
    for simulation in (1e-9, 1e-5, 1e-4, 3e-4, 1e-3):
        best = max(per_second(reuse, simulation, 1e-4) for reuse in range(1, 200))
        assert per_second(rule(simulation, 1e-4), simulation, 1e-4) > 0.98 * best


def test_a_row_is_used_more_often_the_longer_it_takes_to_simulate():
    check_rule(choose_reuse)
    with pytest.raises(AssertionError):  # the planted fault: the ratio upside down
        check_rule(lambda simulation, training: choose_reuse(training, simulation))
    assert (choose_reuse(1e-9, 1e-4), choose_reuse(1.0, 1e-4)) == (1, 50)
    for pair in ((0.0, 1.0), (1.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="seconds per row"):
            choose_reuse(*pair)


def test_costs_are_measured_once_for_a_training(tmp_path):
    estimator = Flow(Timed.prior, Timed.observables)
    weights = {name: value.clone() for name, value in estimator.state_dict().items()}
    quick, _ = prepared(estimator, Timed(), tmp_path / "other")
    assert quick.reuse == 1
    assert quick.train >= 16_384
    source, recipe = prepared(estimator, Timed(row=1e-3), tmp_path / "fit")
    costs = json.loads((tmp_path / "fit" / "online.json").read_text())
    simulation, training = (costs[f"{name} seconds per row"] for name in ("simulation", "training"))
    assert source.reuse == choose_reuse(simulation, training) > 1
    assert simulation >= 1e-3
    assert source.train < 16_384  # the first buffer would take longer than it is worth
    assert recipe == fresh_recipe(FRESH, source)
    again, _ = prepared(estimator, Timed(), tmp_path / "fit")  # the same name, source and prior
    assert again.digest == source.digest
    assert prepared(estimator, Timed(), tmp_path / "fit", seed=1)[0].reuse == 1
    assert all(torch.equal(value, weights[name]) for name, value in estimator.state_dict().items())
    assert all(parameter.grad is None for parameter in estimator.parameters())
    costs = json.loads((tmp_path / "fit" / "online.json").read_text())
    (tmp_path / "fit" / "online.json").write_text(json.dumps(costs | {"reuse": 0}))
    with pytest.warns(UserWarning, match="expected integers of at least 1"):
        assert prepared(estimator, Timed(), tmp_path / "fit", seed=1)[0].reuse == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_the_device_limits_a_block_even_after_more_was_in_use():
    class Large(Timed):
        def __call__(self, theta, *, generator):
            share = torch.cuda.mem_get_info()[1] // 50_000 // 4  # a batch of 50,000 rows takes all memory
            torch.zeros(len(theta), share, device=theta.device).sum()
            return {"x": theta}

    torch.zeros(torch.cuda.mem_get_info()[0] // 8, device="cuda").sum()
    assert probe_block(Large(), LARGEST, seed=0, device="cuda") <= 12_500
