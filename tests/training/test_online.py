"""Rows simulated during training: which an epoch sees, how often each is used, what is left out, what is learned."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter

import pytest
import torch
from scipy import stats
from torch import distributions as td

from sciinf import Flow, Recipe, load_simulator, simulate, train
from sciinf.core import Observable, Outcome, Prior, Simulator, Status
from sciinf.training.online import Simulated
from sciinf.training.source import Source
from sciinf.training.training_inputs import fresh_recipe

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


class Noisy(Simulator):
    """x = theta + noise in two columns, done over by `change(theta, x)` where given; at most `fits` rows at a time."""

    name = "noisy"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0))
    observables = {"x": Observable((2,))}
    block = 64

    def __init__(self, change=None, fits=math.inf):
        self.change, self.fits, self.calls = change, fits, 0

    def __call__(self, theta, *, generator):
        self.calls += 1
        if len(theta) > self.fits:
            raise MemoryError(f"no room for {len(theta)} rows")
        noise = torch.randn(len(theta), 2, generator=generator, device=theta.device)
        x = theta + noise
        theta.fill_(0.0) if self.change is None else None  # works in place, as a simulator may
        return {"x": x} if self.change is None else self.change(theta, x)


def shuffle(number):
    return torch.Generator().manual_seed(number)


def batches(source, number, size=50):
    return list(source.epoch(number, size, shuffle(number)))


def same(these, those):
    return len(these) == len(those) and all(
        torch.equal(a.theta, b.theta) and all(torch.equal(a.x[k], b.x[k]) for k in a.x)
        for a, b in zip(these, those, strict=True)
    )


def rows(batch_list):
    """Each row's parameters; a pair of float32 numbers says which row it is."""
    return [tuple(row) for batch in batch_list for row in batch.theta.tolist()]


@pytest.fixture(params=["cpu", CUDA])
def device(request):
    return request.param


# --- which rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reuse", [1, 3, 4])
def test_an_epoch_is_the_same_reached_step_by_step_or_at_once(device, reuse):
    settings = {"seed": 5, "device": device, "buffer": 300, "reuse": reuse, "held_out": 40}
    walked = Simulated(Noisy(), **settings)
    list(walked.ordered(100, validation=False))
    seen = [batches(walked, number) for number in range(7)]
    for number in (6, 2, 0):
        assert same(batches(Simulated(Noisy(), **settings), number), seen[number])
    assert same(batches(walked, 3), seen[3])  # and going back
    assert not same(seen[5], seen[6])
    assert not same(batches(Simulated(Noisy(), **{**settings, "seed": 6}), 6), seen[6])
    first = next(walked.epoch(0, 50, shuffle(0)))
    assert first.theta.device.type == first.x["x"].device.type == device


def check_reuse(source, reuse, piece, epochs):
    """Every row is used `reuse` times; those of the first and last pieces as often as their epochs allow."""
    used = Counter(row for number in range(epochs) for row in rows(batches(source, number, size=piece)))
    pieces = range(epochs + reuse - 1)
    # piece k is there from epoch max(0, k - reuse + 1) to epoch min(k, epochs - 1)
    expected = Counter(min(k, epochs - 1) - max(0, k - reuse + 1) + 1 for k in pieces)
    assert Counter(used.values()) == {times: count * piece for times, count in expected.items()}


class Stale(Source):
    """The planted fault: a buffer that is never refreshed."""

    def __init__(self, source):
        self.source, self.train, self.held_out = source, source.train, source.held_out

    def epoch(self, number, size, generator):
        return self.source.epoch(0, size, generator)

    def ordered(self, size, *, validation):
        return self.source.ordered(size, validation=validation)

    def record(self):
        return self.source.record()


@pytest.mark.parametrize("reuse", [1, 3, 10])
def test_every_row_is_used_as_often_as_promised(reuse):
    source = Simulated(Noisy(), seed=1, buffer=300, reuse=reuse, held_out=10)
    check_reuse(source, reuse, 300 // reuse, epochs=14)
    assert source.record()["used"] == 10 + (13 + reuse) * 300 // reuse
    with pytest.raises(AssertionError):
        check_reuse(Stale(source), reuse, 300 // reuse, epochs=14)


def test_incomplete_pieces_and_batches():
    source = Simulated(Noisy(), seed=1, buffer=1000, reuse=7, held_out=10)
    assert source.train == 1001  # seven pieces of 143
    used = Counter(row for number in range(35) for row in rows(batches(source, number, size=80)))
    assert len(batches(source, 35, size=80)) == 12
    # 960 of 1,001 rows are drawn without replacement each epoch; long-lived rows are used 7 * 0.959 times on average
    assert max(used.values()) == 7
    assert sum(used.values()) == 35 * 960
    assert 6.4 < stats.trim_mean(list(used.values()), 0.2) <= 7


def test_rows_are_fresh_and_apart_from_validation_and_from_a_store_of_the_same_seed(tmp_path):
    source = Simulated(Noisy(), seed=2, buffer=200, reuse=2, held_out=150)
    kept = list(source.ordered(100, validation=True))
    assert [len(batch) for batch in kept] == [100, 50]
    seen = [row for number in range(0, 20, 2) for row in rows(batches(source, number))]
    assert len(set(seen)) == len(seen) == 2000  # every other epoch sees nothing twice
    assert len(set(rows(kept))) == 150
    assert not set(rows(kept)) & set(seen)
    assert same(list(source.ordered(100, validation=True)), kept)
    other = Simulated(Noisy(), seed=2, buffer=600, reuse=3, held_out=150)
    assert same(list(other.ordered(100, validation=True)), kept)
    store = simulate(Noisy(), tmp_path, 3000, seed=2, progress=False)
    assert not set(rows([store.load()])) & (set(seen) | set(rows(kept)))


def test_rows_are_draws_of_prior_and_simulator():
    source = Simulated(Noisy(), seed=3, buffer=4000, held_out=4000)
    for part in (next(source.ordered(4000, validation=True)), next(source.ordered(4000, validation=False))):
        noise = (part.x["x"] - part.theta).double()
        # six KS tests and two correlations on a fixed seed; false alarm 1e-4 each
        for values in (*part.theta.double().T, *noise.T):
            assert stats.kstest(values.numpy(), "norm").pvalue > 1e-4
        assert abs(float(torch.corrcoef(torch.stack([part.theta[:, 0].double(), noise[:, 0]]))[0, 1])) < 3.9 / 4000**0.5


# --- failures -------------------------------------------------------------------------------------------------------


def as_nan(theta, x):
    return {"x": torch.where(theta[:, :1] > 1, math.nan, x)}


def with_status(theta, x):
    flags = torch.where(theta[:, 0] > 1, int(Status.RAISED), int(Status.OK)).to(torch.uint8)
    return Outcome({"x": x}, flags, {int(row): "too large" for row in flags.nonzero()})


def raising(theta, x):
    if bool((theta[:, 0] > 1).any()):
        raise RuntimeError("too large")
    return {"x": x}


def check_share(failed, simulated):
    """Failures are binomial with P(theta > 1); false alarm 6e-5."""
    chance = stats.norm.sf(1.0)
    assert abs(failed - simulated * chance) < 4 * math.sqrt(simulated * chance * (1 - chance))


@pytest.mark.parametrize("change", [as_nan, with_status, raising])
def test_failed_rows_are_left_out_and_counted(device, change):
    settings = {"seed": 4, "device": device, "buffer": 800, "reuse": 2, "held_out": 100}
    source = Simulated(Noisy(change), **settings)
    seen = [batches(source, number, size=100) for number in range(6)]
    theta = torch.cat([batch.theta[:, 0] for number in (0, 2, 4) for batch in seen[number]]).cpu()
    assert float(theta.max()) <= 1
    assert all(bool(batch.x["x"].isfinite().all()) for batch in seen[3])
    # a KS test against the prior given success; false alarm 1e-4
    assert stats.kstest(theta.double().numpy(), stats.truncnorm(-math.inf, 1.0).cdf).pvalue > 1e-4
    record = source.record()
    assert record["rows"] == record["used"] == 100 + 7 * 400
    check_share(record["failed"], record["simulated"])
    with pytest.raises(AssertionError):  # the planted fault: surplus rows count where they failed only
        check_share(record["failed"], record["used"] + record["failed"])
    assert same(batches(Simulated(Noisy(change), **settings), 5, size=100), seen[5])


def test_a_simulator_that_fails_too_much_is_refused():
    def mostly_nan(theta, x):
        return {"x": torch.where(theta[:, :1] > -0.8, math.nan, x)}

    with pytest.raises(ValueError, match=r"of 'noisy' failed, refused above 50%.*NaN or infinite"):
        next(Simulated(Noisy(mostly_nan), seed=0).ordered(10, validation=True))

    def broken(theta, x):
        raise RuntimeError("the disk is upside down")

    with pytest.raises(ValueError, match="the disk is upside down"):
        next(Simulated(Noisy(broken), seed=0, held_out=3).epoch(0, 10, shuffle(0)))


def test_results_that_break_their_promise_are_explained_and_arrays_are_taken():
    for change, error, words in (
        (lambda theta, x: {"x": x[:, :1]}, ValueError, r"'x' has shape \(64, 1\), expected \(64, 2\)"),
        (lambda theta, x: {"y": x}, ValueError, r"missing: \['x'\]"),
        (lambda theta, x: None, TypeError, "returned NoneType"),
        (lambda theta, x: Outcome({"x": x}, torch.zeros(3)), ValueError, r"the status has shape \(3,\)"),
    ):
        with pytest.raises(error, match=words):
            next(Simulated(Noisy(change), seed=0).ordered(10, validation=False))
    for change in (lambda theta, x: x, lambda theta, x: {"x": x.numpy()}, lambda theta, x: {"x": x.double()}):
        made = Simulated(Noisy(change), seed=0, buffer=100, held_out=10)
        assert same(batches(made, 1), batches(Simulated(Noisy(), seed=0, buffer=100, held_out=10), 1))


class Counts(Simulator):
    name = "counts"
    prior = Prior(rate=td.LogNormal(1.0, 0.5))
    observables = {"n": Observable((3,), dtype="int64"), "n_mask": Observable((3,), dtype="bool"), "s": Observable(())}

    def __call__(self, theta, *, generator):
        n = torch.poisson(theta.expand(-1, 3), generator=generator)
        return {"n": n, "n_mask": n > 0, "s": n.sum(-1)}


def test_integers_masks_and_numbers():
    source = Simulated(Counts(), seed=0, buffer=100, held_out=10)
    batch = next(source.epoch(1, 100, shuffle(0)))
    dtypes = {"n": torch.int64, "n_mask": torch.bool, "s": torch.float32}
    assert {name: value.dtype for name, value in batch.x.items()} == dtypes
    assert torch.equal(batch.x["n"].sum(-1).float(), batch.x["s"])
    assert torch.equal(batch.x["n"] > 0, batch.x["n_mask"])


# --- memory ---------------------------------------------------------------------------------------------------------


def test_where_memory_runs_out_fewer_rows_are_simulated_at_a_time():
    settings = {"seed": 0, "buffer": 300, "reuse": 3, "held_out": 100}
    halved = Simulated(Noisy(fits=30), block=400, **settings)
    with pytest.warns(UserWarning, match="do not fit in memory"):
        next(halved.ordered(100, validation=True))
    assert halved.record()["block"] == 25  # 100 rows asked for, 50, 25
    small = Simulated(Noisy(), block=25, **settings)
    assert same(batches(halved, 4), batches(small, 4))
    none = Simulated(Noisy(fits=0), **settings).ordered(10, validation=True)
    with pytest.warns(UserWarning, match="do not fit"), pytest.raises(MemoryError, match="one row does not fit"):
        next(none)


def test_memory_that_runs_out_later_leaves_what_small_blocks_would_have_made():
    settings = {"seed": 0, "buffer": 300, "reuse": 3, "held_out": 100}
    simulator = Noisy()
    source = Simulated(simulator, block=100, **settings)
    before = batches(source, 2)
    assert same(before, batches(Simulated(Noisy(), block=100, **settings), 2))
    simulator.fits = 60
    with pytest.warns(UserWarning, match="100 rows of simulator 'noisy' do not fit"):
        after = batches(source, 3)
    assert same(after, batches(Simulated(Noisy(), block=50, **settings), 3))


def test_a_measured_block():
    source = Simulated(Noisy(), seed=0, buffer=2000, held_out=10, block="auto")
    assert 64 <= source.record()["block"] <= 2000
    simulator = Noisy()
    for wrong in ({"seed": -1}, {"buffer": 0}, {"buffer": "all"}, {"reuse": 3, "buffer": 2}):
        with pytest.raises(ValueError, match="seed must|buffer must|more than the 2 rows"):
            Simulated(simulator, **{"seed": 0, "block": "auto", **wrong})
    assert simulator.calls == 0  # refused before anything is measured


def test_the_same_rows_again():
    simulator = Noisy(fits=30)
    source = Simulated(simulator, seed=3, buffer=301, reuse=3, held_out=40, block=50)
    with pytest.warns(UserWarning, match="do not fit in memory"):
        seen = batches(source, 4)
    other = source.again()
    assert other.record() == Simulated(Noisy(), seed=3, buffer=301, reuse=3, held_out=40, block=50).record()
    with pytest.warns(UserWarning, match="do not fit in memory"):
        assert same(batches(other, 4), seen)


# --- records, errors ------------------------------------------------------------------------------------------------


def test_the_record_says_what_the_rows_follow_from(root):
    def record(**changes):
        settings = {"seed": 0, "buffer": 100, "reuse": 2, "held_out": 10, **changes}
        simulator = settings.pop("simulator", None) or Noisy()
        return Simulated(simulator, **settings).record()

    digest = record()["digest"]
    assert record() == json.loads(json.dumps(record()))
    counts = {"rows": 110, "used": 110, "held_out": 10, "simulated": 0, "failed": 0}
    made = {"online": True, "reuse": 2, "buffer": 100, "block": 64}
    assert record() == {"digest": digest, "seed": 0} | counts | made
    other = load_simulator(root / "simulators" / "linear_gaussian.py")
    changed = [{"seed": 1}, {"buffer": 102}, {"reuse": 4}, {"held_out": 11}, {"block": 10}, {"simulator": other}]
    assert len({digest, *(record(**change)["digest"] for change in changed)}) == 1 + len(changed)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"buffer": 0}, "buffer must be"),
        ({"reuse": 0}, "reuse must be"),
        ({"reuse": 2.5}, r"reuse must be an integer of at least 1, got 2\.5"),
        ({"held_out": 0}, "held_out must be"),
        ({"block": True}, "block must be"),
        ({"buffer": 10, "reuse": 11}, "more than the 10 rows of the buffer"),
    ],
)
def test_options_out_of_range(settings, words):
    with pytest.raises(ValueError, match=words):
        Simulated(Noisy(), **{"seed": 0, **settings})


def test_wrong_calls_say_what_is_wrong():
    with pytest.raises(TypeError, match="takes a Simulator, got function"):
        Simulated(as_nan, seed=0)
    source = Simulated(Noisy(), seed=0, buffer=100, held_out=10)
    with pytest.raises(ValueError, match="batches of 101 rows from a buffer of 100"):
        batches(source, 0, size=101)


def check_length(filled):
    """The schedule takes as many steps whatever the buffer: 7500 over the root of the reuse factor."""
    for reuse, buffer in itertools.product((1, 4, 25), (5_000, 20_000, 40_000)):
        recipe = filled(Recipe(), Simulated(Noisy(), seed=0, buffer=buffer, reuse=reuse))
        steps = recipe.epochs * (buffer // recipe.batch)
        assert abs(steps - 7500 / math.sqrt(reuse)) <= buffer / recipe.batch
        assert recipe.patience == recipe.epochs


def test_the_length_of_a_training_follows_from_the_reuse_and_not_from_the_buffer():
    check_length(fresh_recipe)
    with pytest.raises(AssertionError):  # the planted fault: the rule for a store of as many rows as the buffer has
        check_length(lambda recipe, source: recipe.resolved(source.train))
    filled = fresh_recipe(Recipe(), source := Simulated(Noisy(), seed=0, buffer=5_000, reuse=4))
    assert (filled.batch, filled.weight_decay, filled.optimiser) == (round(500 / 4**0.2), 0.01, "muon")
    assert filled.learning_rate == pytest.approx(0.012 * math.sqrt(filled.batch / 500))
    assert fresh_recipe(filled, source) == filled
    told = Recipe(epochs=7, batch=2_000, patience=3, optimiser="adan")
    assert fresh_recipe(told, source) == dataclasses.replace(told, learning_rate=0.024, weight_decay=0.01)
    searched = fresh_recipe(Recipe(batch="auto", learning_rate="auto"), source)
    assert (searched.batch, searched.learning_rate) == ("auto", "auto")
    assert fresh_recipe(Recipe(), Simulated(Noisy(), seed=0, buffer=60)).batch == 60


# --- training -------------------------------------------------------------------------------------------------------


def test_training_online_finds_the_exact_posterior(root, device, tmp_path):
    simulator = load_simulator(root / "simulators" / "linear_gaussian.py")
    source = Simulated(simulator, seed=0, device=device, buffer=8_000, held_out=2_000)
    recipe = Recipe(epochs=12, device=device)
    fit = train(Flow(simulator.prior, simulator.observables), source, tmp_path, recipe=recipe)
    (fresh,) = source.ordered(2_000, validation=True)
    learned = fit.estimator.condition(fresh.x).log_prob(fresh.theta[None])[0].cpu()
    mean, covariance = simulator.exact({name: value.cpu() for name, value in fresh.x.items()})
    exact = td.MultivariateNormal(mean, covariance).log_prob(fresh.theta.cpu().double())
    # the mean of log p - log q estimates the mean Kullback-Leibler divergence from the posterior
    assert float((exact - learned).mean()) < 0.1


def test_a_training_that_was_killed_goes_on_with_the_same_rows(tmp_path):
    def killed(theta, x):
        if simulator.calls > 30:
            raise KeyboardInterrupt
        return {"x": x}

    def trained(made, folder):
        source = Simulated(made, seed=0, buffer=600, reuse=3, held_out=100)
        return train(Flow(Noisy.prior, Noisy.observables), source, folder, recipe=Recipe(epochs=9, batch=100))

    whole = trained(Noisy(), tmp_path / "whole")
    simulator = Noisy(killed)
    with pytest.raises(KeyboardInterrupt):
        trained(simulator, tmp_path / "twice")
    assert (tmp_path / "twice" / "checkpoint.safetensors").is_file()
    twice = trained(Noisy(), tmp_path / "twice")
    own = {"simulated": 0}  # of the process that wrote the fit
    assert whole.record["store"] | own == twice.record["store"] | own
    for name, value in whole.estimator.state_dict().items():
        assert torch.equal(value, twice.estimator.state_dict()[name])
