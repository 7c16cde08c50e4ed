"""Training: the same bits from the same inputs however often it is interrupted, and errors that say what to do."""

from __future__ import annotations

import csv
import json
import math
import warnings
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import distributions as td
from trainings import FILES, SHORT, SIMULATOR, losses, same, validation_loss

from sciinf.campaigns.simulation import simulate
from sciinf.core import Estimator, Observable, Prior, Simulator, load_fit, load_simulator
from sciinf.networks.flows.spline import SplineCoupling
from sciinf.networks.flows.zuko_flows import MAF
from sciinf.training import Recipe, rows, train
from sciinf.training.checkpoint import read_checkpoint, write_checkpoint
from sciinf.training.estimators.flow import Flow
from sciinf.training.rows import Rows


class Fused(Estimator):
    """A flow on slightly jittered parameters, whose loss can fail on demand.

    `fuse`: training steps after which the loss raises. `bad`: value of the loss while training is `when`. Both are set
    afterwards, so that the estimator is the same for `train` with and without them.
    """

    def __init__(self, prior, observables, width=16):
        super().__init__()
        self.prior, self.observables = prior, observables
        self.inner = Flow(prior, observables, flow=MAF(2, (width,)))
        self.fuse, self.bad, self.when = math.inf, None, True

    def standardise(self, batches):
        self.inner.standardise(batches)

    def loss(self, batch, *, generator):
        self.fuse -= self.training
        if self.fuse < 0:
            raise KeyboardInterrupt
        jitter = 1e-3 * torch.randn(batch.theta.shape, generator=generator, device=generator.device)
        loss = self.inner.loss(type(batch)(batch.theta + jitter, batch.x), generator=generator)
        return loss if self.bad is None or self.training is not self.when else loss + self.bad

    def condition(self, x):
        return self.inner.condition(x)

    def features(self, x):
        return self.inner.features(x)


@pytest.fixture(scope="module")
def ball():
    return load_simulator(SIMULATOR)


@pytest.fixture(scope="module")
def store(ball, tmp_path_factory):
    return simulate(ball, tmp_path_factory.mktemp("store"), 1_000, block=256, seed=3, progress=False)


@pytest.fixture(scope="module")
def plain(ball, store, tmp_path_factory):
    """What an uninterrupted training gives."""
    return train(new(ball), store, tmp_path_factory.mktemp("plain"), recipe=SHORT, seed=1)


@pytest.fixture
def small_buffers(monkeypatch):
    """Rows that are streamed come in several groups, also where there are few."""
    monkeypatch.setattr(rows, "SMALLEST", 4_000)


def new(ball, **settings):
    estimator = Fused(ball.prior, ball.observables)
    vars(estimator).update(settings)
    return estimator


# --- the same bits ----------------------------------------------------------------------------------------------------


def test_same_seed_same_bits_and_another_seed_others(ball, store, plain, tmp_path):
    again = train(new(ball), store, tmp_path / "a", recipe=SHORT, seed=1)
    assert same(again, plain)
    assert again.digest == plain.digest
    assert losses(again) == losses(plain)
    assert not same(train(new(ball), store, tmp_path / "b", recipe=SHORT, seed=2), plain)  # so `same` can fail


@pytest.mark.parametrize("steps", [3, 6, 15, 29])
@pytest.mark.parametrize("memory", [4 * 2**30, 0])
def test_resumed_after_an_interruption_to_the_same_bits(ball, store, tmp_path, steps, memory, small_buffers):
    if memory == 0:
        assert 4 * Rows(store, fraction=0.1, device="cpu", memory=0)._limit < 900  # rows of a group
    recipe = Recipe(epochs=5, batch=150, memory=memory, ema=0.9 if steps == 15 else None)
    whole = train(new(ball), store, tmp_path / "whole", recipe=recipe, seed=1)
    with pytest.raises(KeyboardInterrupt):
        train(new(ball, fuse=steps), store, tmp_path / "cut", recipe=recipe, seed=1)
    assert not (tmp_path / "cut" / "fit.json").exists()
    resumed = train(new(ball), store, tmp_path / "cut", recipe=recipe, seed=1)
    assert same(resumed, whole)
    assert losses(resumed) == losses(whole)
    assert sorted(f.name for f in (tmp_path / "cut").iterdir()) == FILES


def test_resuming_does_not_start_over(ball, store, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(new(ball, fuse=20), store, tmp_path, recipe=SHORT)
    train(new(ball, fuse=12), store, tmp_path, recipe=SHORT)  # the 6 steps of epoch 3 and the 6 of epoch 4 are left


def test_killed_between_the_last_epoch_and_the_fit(ball, store, tmp_path):
    # Patience ended the training, then the weights could not be written: nothing may be trained beyond that epoch.
    recipe = Recipe(epochs=40, batch=150, patience=1, learning_rate=0.3)
    whole = train(new(ball), store, tmp_path / "whole", recipe=recipe)
    assert len(whole.record["history"]) < 40
    (tmp_path / "cut" / "model.safetensors" / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match="."):
        train(new(ball), store, tmp_path / "cut", recipe=recipe)
    (tmp_path / "cut" / "model.safetensors" / "in the way").rmdir()
    (tmp_path / "cut" / "model.safetensors").rmdir()
    assert same(train(new(ball, fuse=0), store, tmp_path / "cut", recipe=recipe), whole)


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_not_used(ball, store, plain, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(new(ball, fuse=20), store, tmp_path, recipe=SHORT, seed=9)
    with pytest.warns(UserWarning, match="unfinished training of another"):
        assert same(train(new(ball), store, tmp_path, recipe=SHORT, seed=1), plain)
    with pytest.raises(KeyboardInterrupt):
        train(new(ball, fuse=20), store, tmp_path / "b", recipe=SHORT, seed=1)
    (tmp_path / "b" / "checkpoint.safetensors").write_bytes(b"half")
    with pytest.warns(UserWarning, match="starts anew"):
        assert same(train(new(ball), store, tmp_path / "b", recipe=SHORT, seed=1), plain)


def test_an_unfinished_training_of_an_older_version_begins_anew(ball, store, plain, tmp_path):
    """Its estimator had fewer buffers, and mixed with those of now they would be of no training at all."""
    with pytest.raises(KeyboardInterrupt):
        train(new(ball, fuse=20), store, tmp_path, recipe=SHORT, seed=1)
    file = tmp_path / "checkpoint.safetensors"
    with safe_open(file, "pt") as opened:
        about = json.loads(opened.metadata()["sciinf"])
    _, groups = read_checkpoint(file, about["inputs"], "cpu")
    del groups["buffers"][next(name for name in groups["buffers"] if name.endswith("_scale"))]
    write_checkpoint(file, about, groups)
    with pytest.warns(UserWarning, match="of an older version; training begins anew"):
        assert same(train(new(ball), store, tmp_path, recipe=SHORT, seed=1), plain)


def test_a_training_by_another_rule_for_its_batch_does_not_go_on(ball, store, tmp_path):
    given = replace(SHORT, learning_rate=5e-3, weight_decay=0.1)  # so that only the memories differ
    with pytest.raises(KeyboardInterrupt):
        train(new(ball, fuse=20), store, tmp_path, recipe=replace(given, batch_scaling=0.5), seed=1)
    with pytest.warns(UserWarning, match="unfinished training of another"):
        plain = train(new(ball), store, tmp_path, recipe=given, seed=1)
    with pytest.warns(UserWarning, match="a fit with another recipe"):
        assert not same(train(new(ball), store, tmp_path, recipe=replace(given, batch_scaling=0.5), seed=1), plain)


def test_the_estimator_handed_in_stays_as_it_is(ball, store, plain, tmp_path):
    estimator = new(ball)
    before = {k: v.clone() for k, v in estimator.state_dict().items()}
    train(estimator, store, tmp_path / "a", recipe=SHORT, seed=2)
    assert all(torch.equal(v, before[k]) for k, v in estimator.state_dict().items())
    assert same(train(estimator, store, tmp_path / "b", recipe=SHORT, seed=1), plain)


def test_nothing_global_moves(ball, store, tmp_path):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(new(ball, fuse=4), store, tmp_path, recipe=SHORT)
        assert torch.get_num_threads() == 2
        train(new(ball), store, tmp_path, recipe=SHORT)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)


# --- what is on disk --------------------------------------------------------------------------------------------------


def test_a_finished_fit_is_read_back_and_anything_new_trained(ball, store, tmp_path):
    first = train(new(ball), store, tmp_path, recipe=SHORT, seed=1)
    stamp = (tmp_path / "model.safetensors").stat().st_mtime_ns
    again = train(new(ball, fuse=0), store, tmp_path, recipe=SHORT, seed=1)
    assert same(again, first)
    assert again.digest == first.digest
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == stamp
    other = Recipe(epochs=6, batch=150)
    for what, changed in (("recipe", {"recipe": other, "seed": 1}), ("seed", {"recipe": SHORT, "seed": 2})):
        told = pytest.warns(UserWarning, match=f"a fit with another {what}.*; it stays until")
        with told, pytest.raises(KeyboardInterrupt):
            train(new(ball, fuse=0), store, tmp_path, **changed)
        train(new(ball), store, tmp_path, **changed)
    wider = Fused(ball.prior, ball.observables, width=8)
    wider.fuse = 0
    told = pytest.warns(UserWarning, match="a fit with another estimator, seed; it stays until")
    with told, pytest.raises(KeyboardInterrupt):
        train(wider, store, tmp_path, recipe=SHORT, seed=3)


def test_more_simulations_mean_a_new_fit(ball, tmp_path):
    small = simulate(ball, tmp_path / "s", 300, block=100, progress=False)
    first = train(new(ball), small, tmp_path / "f", recipe=SHORT)
    grown = simulate(ball, tmp_path / "s", 400, block=100, progress=False)
    with pytest.warns(UserWarning, match="a fit with another store"):
        second = train(new(ball), grown, tmp_path / "f", recipe=SHORT)
    said = second.record["store"]
    assert (first.record["store"]["rows"], said["rows"], said["digest"]) == (300, 400, grown.digest)


def test_a_finished_fit_stays_until_the_next_is_done(ball, store, tmp_path):
    kept = train(new(ball), store, tmp_path, recipe=SHORT, seed=1)
    with pytest.raises(TypeError):  # another training dies in its first step
        train(new(ball, loss=None), store, tmp_path, recipe=SHORT, seed=2)
    assert same(load_fit(tmp_path, trust=(__name__,)), kept)


def test_a_damaged_fit_is_trained_again(ball, store, plain, tmp_path):
    train(new(ball), store, tmp_path, recipe=SHORT, seed=1)
    (tmp_path / "model.safetensors").write_bytes(b"zeros")
    with pytest.warns(UserWarning, match="cannot be read back"):
        assert same(train(new(ball), store, tmp_path, recipe=SHORT, seed=1), plain)
    (tmp_path / "fit.json").write_text("{")
    with pytest.warns(UserWarning, match="cannot be read back"):
        assert same(train(new(ball), store, tmp_path, recipe=SHORT, seed=1), plain)


def test_the_folder_holds_weights_json_and_a_table(plain, store, ball):
    assert sorted(f.name for f in plain.folder.iterdir()) == FILES
    data = json.loads((plain.folder / "fit.json").read_text())
    assert data["simulator"] == dict(store.simulator)
    assert data["seed"] == 1
    assert data["recipe"]["epochs"] == 5
    assert data["store"]["digest"] == store.digest
    assert {"torch", "sciinf", "python"} <= set(data["versions"])
    assert same(load_fit(plain.folder, trust=(Fused.__module__,)), plain)
    assert not plain.estimator.training
    with pytest.raises(ValueError, match="outside sciinf"):
        load_fit(plain.folder)


def test_history_has_a_row_per_epoch_and_grows_while_training(ball, store, plain, tmp_path):
    with (plain.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "train_loss", "validation_loss", "learning_rate", "seconds"]
    assert [int(row["epoch"]) for row in rows] == list(range(5))
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert float(rows[-1]["learning_rate"]) < float(rows[1]["learning_rate"])
    for steps in (7, 13):
        with pytest.raises(KeyboardInterrupt):
            train(new(ball, fuse=steps), store, tmp_path / str(steps), recipe=SHORT)
        assert len((tmp_path / str(steps) / "history.csv").read_text().splitlines()) == 1 + steps // 6


def test_validation_may_be_rarer_than_epochs(ball, store, plain, tmp_path):
    fit = train(new(ball), store, tmp_path, recipe=replace(SHORT, validate_every=2), seed=1)
    history = fit.record["history"]
    assert [row["epoch"] for row in history] == [1, 3, 4]
    every = [loss for _, loss in losses(plain)]
    assert [row["validation_loss"] for row in history] == [every[1], every[3], every[4]]
    both = plain.record["history"][:2]
    assert history[0]["train_loss"] == pytest.approx(sum(row["train_loss"] for row in both) / 2, rel=1e-6)


# --- what is learned --------------------------------------------------------------------------------------------------


def test_streaming_is_as_good_as_memory(ball, tmp_path, small_buffers):
    # The order of the rows differs and with it the last digits: 0.15 nats are three times the spread over seeds.
    store = simulate(ball, tmp_path / "s", 2_000, block=300, progress=False)
    recipes = [Recipe(epochs=25, batch=100, learning_rate=0.01, memory=memory) for memory in (4 * 2**30, 0)]
    best = [train(new(ball), store, tmp_path / str(r.memory), recipe=r) for r in recipes]
    memory, streamed = (fit.record["best_validation_loss"] for fit in best)
    assert memory < 1.5
    assert abs(memory - streamed) < 0.15
    assert best[0].record["store"] == best[1].record["store"]


def test_best_weights_win_over_the_last(ball, tmp_path):
    store = simulate(ball, tmp_path / "s", 100, progress=False)
    recipe = Recipe(epochs=300, batch=30, patience=8, learning_rate=0.02)
    fit = train(Fused(ball.prior, ball.observables, width=64), store, tmp_path / "f", recipe=recipe)
    history = [row["validation_loss"] for row in fit.record["history"]]
    best = min(range(len(history)), key=history.__getitem__)
    assert len(history) == best + 1 + 8  # patience
    assert fit.record["best_validation_loss"] == history[best]
    assert validation_loss(fit, store) == pytest.approx(history[best], abs=1e-4)
    assert history[-1] > history[best] + 0.01  # the last weights would have failed the line above


def test_average_of_the_weights_is_what_is_validated_and_kept(ball, store, plain, tmp_path):
    fit = train(new(ball), store, tmp_path, recipe=Recipe(epochs=5, batch=150, ema=0.95), seed=1)
    assert validation_loss(fit, store) == pytest.approx(fit.record["best_validation_loss"], abs=1e-4)
    assert [a for a, _ in losses(fit)] == [a for a, _ in losses(plain)]  # the weights that are stepped do not change
    assert not same(fit, plain)


@pytest.mark.slow
def test_bfloat16_learns_as_well(ball, store, plain, tmp_path):
    for flow in (MAF(2, (16,)), SplineCoupling(2, 24)):
        estimator = Flow(ball.prior, ball.observables, flow=flow)
        recipes = [Recipe(epochs=8, batch=150, precision=p) for p in ("float32", "bfloat16")]
        fits = [train(estimator, store, tmp_path / f"{type(flow).__name__}{r.precision}", recipe=r) for r in recipes]
        single, half = (fit.record["best_validation_loss"] for fit in fits)
        assert single != half
        assert abs(single - half) < 0.2
        assert {p.dtype for p in fits[1].estimator.parameters()} == {torch.float32}


@pytest.mark.slow
def test_a_step_that_does_not_compile_runs_eagerly_and_says_so(ball, store, tmp_path, monkeypatch):
    import torch._inductor.config as inductor

    torch.compiler.reset()  # what an earlier test compiled
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    estimator = Flow(ball.prior, ball.observables, flow=MAF(1, (8,)))
    eager = train(estimator, store, tmp_path / "e", recipe=SHORT)
    told = pytest.warns(UserWarning, match=r"so it runs eagerly: .*No working C\+\+ compiler")
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}), told:
        assert same(train(estimator, store, tmp_path / "c", recipe=replace(SHORT, compile=True)), eager)


@pytest.mark.long
def test_a_compiled_step_learns_the_same(ball, store, tmp_path):
    torch.compiler.reset()  # what an earlier test failed to compile
    estimator = Flow(ball.prior, ball.observables, flow=MAF(2, (16,)))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the step does not compile")
        recipes = [SHORT, replace(SHORT, compile=True)]
        eager, compiled = (train(estimator, store, tmp_path / str(r.compile), recipe=r) for r in recipes)
    assert compiled.record["best_validation_loss"] == pytest.approx(eager.record["best_validation_loss"], abs=0.02)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_training_with_advice(ball, store, tmp_path):
    with pytest.raises(FloatingPointError, match=r"became nan in epoch 0; lower Recipe\(learning_rate="):
        train(new(ball, bad=math.nan), store, tmp_path / "a", recipe=SHORT)
    with pytest.raises(FloatingPointError, match="became inf in epoch 0"):
        train(new(ball, bad=math.inf), store, tmp_path / "b", recipe=SHORT)
    with pytest.raises(FloatingPointError, match="validation loss was nan after every epoch"):
        train(new(ball, bad=math.nan, when=False), store, tmp_path / "c", recipe=SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no average ends before the first epoch
        with pytest.raises(FloatingPointError, match="validation loss was nan after every epoch"):
            train(new(ball, bad=math.nan, when=False), store, tmp_path / "d", recipe=replace(SHORT, ema="post-hoc"))
    assert not list(tmp_path.glob("*/fit.json"))


class Failing(Simulator):
    """Not finite for one parameter in four."""

    name = "failing"
    prior = Prior(a=td.Uniform(0.0, 1.0))
    observables = {"x": Observable((2,))}

    def __call__(self, theta, *, generator):
        x = theta + 0.1 * torch.randn(len(theta), 2, generator=generator)
        return {"x": torch.where(theta > 0.75, torch.nan, x)}


@pytest.mark.parametrize("memory", [4 * 2**30, 0])
def test_rows_that_failed_are_left_out(tmp_path, memory, small_buffers):
    with pytest.warns(UserWarning, match="NON_FINITE|not finite|failed"):
        store = simulate(Failing(), tmp_path / "s", 400, block=64, progress=False)
    good = len(store.load())
    assert 250 < good < 350
    recipe = Recipe(epochs=30, batch=50, memory=memory)
    fit = train(Flow(store.prior, store.observables, flow=MAF(2, (16,))), store, tmp_path / "f", recipe=recipe)
    assert fit.record["store"]["used"] == good
    assert fit.record["store"]["rows"] == 400
    assert all(math.isfinite(v) for row in losses(fit) for v in row)
    # nothing above 0.75 was ever seen to give data; the prior alone would have a quarter of its mass there
    density = fit.estimator.condition({"x": torch.full((1, 2), 0.3)})
    draws = density.sample(500, generator=torch.Generator().manual_seed(0))
    assert float((draws > 0.75).double().mean()) < 0.05


def test_too_few_rows_are_told(ball, tmp_path):
    store = simulate(ball, tmp_path / "s", 15, progress=False)
    with pytest.raises(ValueError, match="at least 18 and 2 are needed"):
        train(new(ball), store, tmp_path / "f")
    enough = simulate(ball, tmp_path / "t", 20, progress=False)
    assert train(new(ball), enough, tmp_path / "g", recipe=Recipe(epochs=1)).record["store"]["used"] == 20


def test_what_holds_no_rows_is_refused(ball, tmp_path):
    for wrong in ("runs/store", tmp_path, None):
        with pytest.raises(TypeError, match=rf"expected a Store, .* got {type(wrong).__name__}; .* with Store\(path\)"):
            train(new(ball), wrong, tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_a_store_of_another_simulator_is_refused(ball, store, tmp_path):
    other = Flow(Prior(a=td.Normal(0.0, 1.0)), ball.observables, flow=MAF(1, (8,)))
    with pytest.raises(ValueError, match="simulator 'linear_gaussian'.*build the estimator from the store's own"):
        train(other, store, tmp_path)
    renamed = Flow(ball.prior, {"y": Observable((5,), "m", ("time",))}, flow=MAF(1, (8,)))
    with pytest.raises(ValueError, match="expects 'y'"):
        train(renamed, store, tmp_path)
    reshaped = Flow(ball.prior, {"x": Observable((5,), "cm", ("time",))}, flow=MAF(1, (8,)))
    with pytest.raises(ValueError, match="expects 'x'"):
        train(reshaped, store, tmp_path)
    assert not list(tmp_path.iterdir())
