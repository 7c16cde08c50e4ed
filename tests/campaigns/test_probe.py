"""Measuring: rows at a time, seconds a row, and how often a row is used."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import distributions as td

from sciinf import Flow
from sciinf.campaigns import probe
from sciinf.campaigns.probe import LARGEST, probe_block, seconds_per_row
from sciinf.core import Batch, Estimator, Observable, Prior, Simulator
from sciinf.core.files import read_json, write_json
from sciinf.training import reuse
from sciinf.training.online import Simulated
from sciinf.training.recipe import Recipe
from sciinf.training.reuse import choose_reuse, training_seconds_per_row
from sciinf.training.training_inputs import fresh_recipe, prepared


class Clock:
    """A clock that only those move who take time, so that what is measured is exact on any machine."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


CLOCK = Clock()


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(probe, "time", CLOCK)
    monkeypatch.setattr(reuse, "time", CLOCK)
    return CLOCK


class Timed(Simulator):
    """Takes `call` seconds and `row` seconds a row; at most `fits` rows at a time, and none above `most`."""

    name = "timed"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"x": Observable((1,))}

    def __init__(self, call=0.0, row=0.0, fits=LARGEST, most=math.inf):
        self.call, self.row, self.fits, self.most, self.sizes = call, row, fits, most, []

    def __call__(self, theta, *, generator):
        self.sizes.append(len(theta))
        if len(theta) > self.fits:
            raise torch.OutOfMemoryError("no room")
        CLOCK.sleep(self.call + self.row * len(theta))
        if bool((theta > self.most).any()):
            raise ArithmeticError("too large")
        return {"x": theta}


def test_larger_blocks_while_they_pay_and_no_larger(clock):
    # the time of a call is that of 300 rows: doubling fewer gains a half and more, fourfold 4,000 less than a tenth
    assert 512 <= probe_block(Timed(call=0.03, row=1e-4), LARGEST, seed=0, device="cpu") <= 16_384


def test_no_more_rows_than_are_of_use_fit_or_take_five_seconds(clock):
    assert probe_block(Timed(call=0.01), 1000, seed=0, device="cpu") == 512
    assert probe_block(Timed(call=0.01), 5, seed=0, device="cpu") == 5
    assert probe_block(Timed(call=0.01, fits=300), LARGEST, seed=0, device="cpu") == 256
    slow = Timed(row=0.04)
    assert probe_block(slow, LARGEST, seed=0, device="cpu") == 64
    assert slow.sizes == [64]


def test_seconds_per_row(clock):
    found = seconds_per_row(Timed(call=0.02, row=1e-4), 400, seed=0, device="cpu")
    assert found == pytest.approx(0.02 / 400 + 1e-4)
    one = Timed(row=0.01)
    assert seconds_per_row(one, 3, seed=0, device="cpu") == pytest.approx(0.01)
    assert one.sizes == [3, 3, 3]
    slow = Timed(row=2e-3)
    assert seconds_per_row(slow, 100_000, seed=0, device="cpu") == pytest.approx(2e-3)
    assert max(slow.sizes) in (499, 500)  # a second
    batched = Timed(call=0.05, row=1e-5)  # a thousand rows take hardly longer than 64
    assert seconds_per_row(batched, 8192, seed=0, device="cpu") == pytest.approx(0.05 / 8192 + 1e-5)
    with pytest.raises(torch.OutOfMemoryError):
        seconds_per_row(Timed(fits=2), 3, seed=0, device="cpu")


def test_a_simulator_that_takes_long_is_not_measured_twice(clock):
    slow = Timed(call=1.1)
    assert seconds_per_row(slow, 1000, seed=0, device="cpu") == pytest.approx(1.1 / 64)
    assert slow.sizes == [64]


class Sleeping(Estimator):
    """A loss that takes a tenth of a millisecond a row, and its first call a second."""

    def __init__(self):
        super().__init__()
        self.weight, self.called = torch.nn.Parameter(torch.ones(1)), False

    def standardise(self, batches):
        pass

    def loss(self, batch, *, generator):
        CLOCK.sleep(1e-4 * len(batch.theta) + (0.0 if self.called else 1.0))
        self.called = True
        return self.weight * batch.theta[:, 0]

    def features(self, x):
        return x["x"]

    def condition(self, x):
        raise NotImplementedError


def test_seconds_of_training_per_row(clock):
    estimator, rows = Sleeping(), Batch(torch.ones(200, 1), {"x": torch.ones(200, 1)})
    # what is done once, a second, does not count
    found = training_seconds_per_row(estimator, rows, Recipe().resolved(200))
    assert found == pytest.approx(1e-4)
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


def test_the_rule_for_another_batch_is_of_the_batch_for_fresh_rows():
    source = Simulated(Timed(row=0.0), seed=0, buffer=2_000)
    larger = fresh_recipe(Recipe(batch=1_000, batch_scaling="rule", optimiser="adamw"), source)
    assert (larger.batch_scaling, larger.weight_decay) == (2.0, pytest.approx(0.01 * 2**0.5))
    with pytest.raises(ValueError, match="by 'muon'"):
        fresh_recipe(Recipe(batch_scaling="rule"), source)


def test_costs_are_measured_once_for_a_training(tmp_path, clock):
    estimator = Sleeping()  # 1e-4 seconds a row
    quick, _ = prepared(estimator, Timed(row=1e-6), tmp_path / "other")
    assert quick.reuse == 1
    assert quick.train >= 16_384
    source, recipe = prepared(estimator, Timed(row=1e-2), tmp_path / "fit")
    costs = json.loads((tmp_path / "fit" / "online.json").read_text())
    simulation, training = (costs[f"{name} seconds per row"] for name in ("simulation", "training"))
    assert (simulation, training) == (pytest.approx(1e-2), pytest.approx(1e-4))
    assert source.reuse == choose_reuse(simulation, training) > 1
    assert source.train < 16_384  # the first buffer would take longer than it is worth
    assert recipe == fresh_recipe(Recipe(), source)
    for told in (Recipe(), Recipe(batch=700)):  # the first buffer is a third of all rows that are simulated
        source, recipe = prepared(estimator, Timed(row=1e-2), tmp_path / "told", recipe=told)
        made = 7_500 / source.reuse**0.5 * recipe.batch / source.reuse
        assert source.train == pytest.approx(made / 3, rel=0.02)
    source, recipe = prepared(estimator, Timed(row=1e-2), tmp_path / "fit")
    again, _ = prepared(estimator, Timed(row=1e-6), tmp_path / "fit")  # the same name, source and prior
    assert again.digest == source.digest
    assert prepared(estimator, Timed(row=1e-6), tmp_path / "fit", seed=1)[0].reuse == 1
    write_json(tmp_path / "fit" / "online.json", read_json(tmp_path / "fit" / "online.json") | {"reuse": 0})
    with pytest.warns(UserWarning, match="expected integers of at least 1"):
        assert prepared(estimator, Timed(row=1e-6), tmp_path / "fit", seed=1)[0].reuse == 1


def test_measuring_leaves_the_estimator_as_it_was(tmp_path):
    estimator = Flow(Timed.prior, Timed.observables)
    weights = {name: value.clone() for name, value in estimator.state_dict().items()}
    prepared(estimator, Timed(), tmp_path)  # with the clock of the machine; nothing follows from what it says
    assert all(torch.equal(value, weights[name]) for name, value in estimator.state_dict().items())
    assert all(parameter.grad is None for parameter in estimator.parameters())


@pytest.mark.slow
def test_rows_that_raise_are_measured_with_what_it_takes_to_find_them(tmp_path, clock):
    for seed in range(5):  # one row in 44 raises
        simulator = Timed(row=1e-3, most=2.0)
        source, _ = prepared(Sleeping(), simulator, tmp_path / str(seed), seed=seed)
        assert max(float(batch.theta.max()) for batch in source.ordered(4_096, validation=True)) <= 2.0
        assert min(simulator.sizes) == 1  # some did
    often = Timed(row=1e-3, most=1.0)  # one row in six: a batch once in vain, then again in halves
    assert seconds_per_row(often, 64, seed=0, device="cpu") > 2e-3
    assert probe_block(often, LARGEST, seed=0, device="cpu") >= 64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_the_device_limits_a_block_even_after_more_was_in_use():
    class Large(Timed):
        def __call__(self, theta, *, generator):
            share = torch.cuda.mem_get_info()[1] // 50_000 // 4  # a batch of 50,000 rows takes all memory
            torch.zeros(len(theta), share, device=theta.device).sum()
            return {"x": theta}

    torch.zeros(torch.cuda.mem_get_info()[0] // 8, device="cuda").sum()
    assert probe_block(Large(), LARGEST, seed=0, device="cuda") <= 12_500
