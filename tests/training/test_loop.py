"""Averages, searches, ensembles and simulators in whole trainings: what is chosen, and the same bits again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import distributions as td
from torch import nn
from trainings import FILES, SHORT, SIMULATOR, losses, same, validation_loss

from sciinf.campaigns.simulation import simulate
from sciinf.core import Estimator, Observable, Prior, Simulator, load_fit, load_simulator
from sciinf.networks.flows.zuko_flows import MAF
from sciinf.training import Recipe, fitting, train, train_ensemble
from sciinf.training.estimators.flow import Flow
from sciinf.training.learner import Single, Stacked
from sciinf.training.online import Simulated


@pytest.fixture(scope="module")
def ball():
    return load_simulator(SIMULATOR)


@pytest.fixture(scope="module")
def store(ball, tmp_path_factory):
    return simulate(ball, tmp_path_factory.mktemp("store"), 1_000, block=256, seed=3, progress=False)


@pytest.fixture
def fuse(monkeypatch):
    """Let training raise after a number of steps; None for never. Returns a counter of steps."""
    state = {"left": None, "steps": 0}

    def fused(original, training):
        def loss(self, batch, generator):
            if training(self, batch):
                state["steps"] += 1
                if state["left"] is not None and state["steps"] > state["left"]:
                    raise KeyboardInterrupt
            return original(self, batch, generator)

        return loss

    monkeypatch.setattr(Single, "loss", fused(Single.loss, lambda self, batch: self.estimator.training))
    monkeypatch.setattr(Stacked, "loss", fused(Stacked.loss, lambda self, batch: batch.theta.ndim == 3))

    def set_to(steps):
        done, state["left"], state["steps"] = state["steps"], steps, 0
        return done

    return set_to


def flows(ball, count=3):
    return [Flow(ball.prior, ball.observables, flow=MAF(2, (16,)), seed=seed) for seed in range(count)]


def flow(ball):
    return flows(ball, 1)[0]


@pytest.mark.slow
def test_the_length_of_a_post_hoc_average_is_chosen_by_the_validation_loss(ball, store, tmp_path, fuse):
    recipe = Recipe(epochs=8, batch=50, ema="post-hoc", schedule="constant", learning_rate=0.02)
    fit = train(flow(ball), store, tmp_path / "a", recipe=recipe, seed=1)
    raw = train(flow(ball), store, tmp_path / "raw", recipe=replace(recipe, ema=0), seed=1)
    assert losses(fit) == losses(raw)
    assert fit.record["best_validation_loss"] < raw.record["best_validation_loss"]  # a constant rate leaves noise
    assert "average of relative width" in fit.record["average"]
    assert validation_loss(fit, store) == pytest.approx(fit.record["best_validation_loss"], abs=1e-4)
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == FILES
    fuse(100)
    with pytest.raises(KeyboardInterrupt):
        train(flow(ball), store, tmp_path / "cut", recipe=recipe, seed=1)
    fuse(None)
    assert same(train(flow(ball), store, tmp_path / "cut", recipe=recipe, seed=1), fit)


@pytest.mark.slow
def test_what_is_auto_is_found_recorded_and_found_again(ball, store, tmp_path):
    recipe = Recipe(epochs=2, batch="auto", learning_rate="auto")
    fit = train(flow(ball), store, tmp_path / "a", recipe=recipe, seed=1)
    told, used = fit.record["search"], fit.record["recipe"]
    assert told["batch"]["batch"] == used["batch"] in (32, 64, 128)
    assert 1e-4 < used["learning_rate"] < 0.1
    assert len(told["learning_rate"]["rates"]) == len(told["learning_rate"]["smoothed_losses"])
    assert same(train(flow(ball), store, tmp_path / "b", recipe=recipe, seed=1), fit)


def test_an_ensemble_is_its_members_trained_alone(ball, store, tmp_path):
    fits = train_ensemble(flows(ball), store, tmp_path / "e", recipe=SHORT, seed=4)
    for k, (member, fit) in enumerate(zip(flows(ball), fits, strict=True)):
        alone = train(member, store, tmp_path / str(k), recipe=SHORT, seed=4 + k)
        mine, other = fit.estimator.state_dict(), alone.estimator.state_dict()
        assert all(torch.allclose(mine[n].double(), other[n].double(), atol=1e-4) for n in mine)
        assert torch.allclose(torch.tensor(losses(fit)), torch.tensor(losses(alone)), atol=1e-4)
        assert sorted(f.name for f in fit.folder.iterdir()) == FILES
        assert same(load_fit(tmp_path / "e" / f"member_{k}"), fit)
        assert fit.record["seed"] == 4 + k
    assert abs(losses(fits[0])[-1][1] - losses(fits[1])[-1][1]) > 1e-3  # so the lines above can fail
    again = train_ensemble(flows(ball), store, tmp_path / "e", recipe=SHORT, seed=4)
    assert [fit.digest for fit in again] == [fit.digest for fit in fits]
    assert sorted(f.name for f in (tmp_path / "e").iterdir()) == ["member_0", "member_1", "member_2"]


def test_members_stop_by_their_own_patience_and_keep_their_best(ball, tmp_path):
    few = simulate(ball, tmp_path / "s", 100, progress=False)
    recipe = Recipe(epochs=60, batch=30, patience=3, learning_rate=0.05)
    fits = train_ensemble(flows(ball), few, tmp_path / "e", recipe=recipe)
    lengths = [len(fit.record["history"]) for fit in fits]
    assert len(set(lengths)) > 1
    for fit, length in zip(fits, lengths, strict=True):
        validation = [row["validation_loss"] for row in fit.record["history"]]
        best = min(range(length), key=validation.__getitem__)
        assert length == best + 1 + 3
        assert fit.record["best_validation_loss"] == validation[best]
        assert validation_loss(fit, few) == pytest.approx(validation[best], abs=1e-4)


@pytest.mark.slow
def test_a_member_that_has_stopped_may_diverge_and_another_is_named(ball, tmp_path, monkeypatch):
    few = simulate(ball, tmp_path / "s", 100, progress=False)
    recipe = Recipe(epochs=60, batch=30, patience=3, learning_rate=0.05, processes=1)  # three steps an epoch
    whole = train_ensemble(flows(ball), few, tmp_path / "whole", recipe=recipe)
    lengths = [len(fit.record["history"]) for fit in whole]
    first, last = lengths.index(min(lengths)), lengths.index(max(lengths))
    original, steps = Stacked.loss, [0, 0, 0]

    def spoiled(self, batch, generator):
        """Losses of which one, with its slopes, is NaN after so many steps of training: steps done, from, member."""
        steps[0] += batch.theta.ndim == 3
        factor = torch.ones(3, 1)
        factor[steps[2]] = torch.nan if steps[0] > steps[1] else 1.0
        return original(self, batch, generator) * factor

    monkeypatch.setattr(Stacked, "loss", spoiled)
    steps[:] = [0, 3 * lengths[first], first]
    fits = train_ensemble(flows(ball), few, tmp_path / "stopped", recipe=recipe)
    assert steps[0] == 3 * lengths[last] > steps[1]
    assert all(same(fit, other) and losses(fit) == losses(other) for fit, other in zip(fits, whole, strict=True))
    steps[:] = [0, 3 * lengths[first], last]
    with pytest.raises(FloatingPointError, match=rf"the training loss of member {last} became nan in epoch"):
        train_ensemble(flows(ball), few, tmp_path / "going", recipe=recipe)


def test_an_interrupted_ensemble_goes_on_to_the_same_bits(ball, store, tmp_path, fuse):
    recipe = replace(SHORT, ema=0.9)
    whole = train_ensemble(flows(ball), store, tmp_path / "whole", recipe=recipe, seed=1)
    assert fuse(20) == 30
    with pytest.raises(KeyboardInterrupt):
        train_ensemble(flows(ball), store, tmp_path / "cut", recipe=recipe, seed=1)
    assert not list(tmp_path.glob("cut/*/fit.json"))
    fuse(None)
    resumed = train_ensemble(flows(ball), store, tmp_path / "cut", recipe=recipe, seed=1)
    assert fuse(None) == 12  # of 30 steps
    assert all(same(one, other) for one, other in zip(resumed, whole, strict=True))


def test_members_that_cannot_be_trained_at_once_are_trained_in_turn(ball, store, tmp_path):
    recipe = Recipe(epochs=1, batch=300)
    members = [Branching(ball.prior, ball.observables, seed=k) for k in range(2)]
    with pytest.warns(UserWarning, match="trained one after the other, for together fails: .*(data-dependent|vmap)"):
        fits = train_ensemble(members, store, tmp_path / "e", recipe=recipe)
    with pytest.warns(UserWarning, match="trained one after the other") as told:
        again = train_ensemble(members, store, tmp_path / "e", recipe=recipe)
    assert same(again[1], fits[1])
    assert not [warning for warning in told if "replaced" in str(warning.message)]
    assert same(
        fits[1], train(Branching(ball.prior, ball.observables, seed=1), store, tmp_path / "a", recipe=recipe, seed=1)
    )


class Branching(Estimator):
    """A flow with a look at the data that no map over members can take."""

    def __init__(self, prior, observables, seed=0):
        super().__init__()
        self.prior, self.observables = prior, observables
        self.inner = Flow(prior, observables, flow=MAF(1, (8,)), seed=seed)

    def standardise(self, batches):
        self.inner.standardise(batches)

    def loss(self, batch, *, generator):
        loss = self.inner.loss(batch, generator=generator)
        return loss if loss.mean() > 0 else 2 * loss

    def condition(self, x):
        return self.inner.condition(x)

    def features(self, x):
        return self.inner.features(x)


def test_members_trained_in_turn_have_rows_of_their_own(ball, tmp_path):
    recipe, rows = Recipe(epochs=2, batch=100), Simulated(ball, seed=2, buffer=300, held_out=100)
    members = [Branching(ball.prior, ball.observables, seed=k) for k in range(2)]
    with pytest.warns(UserWarning, match="trained one after the other"):
        fits = train_ensemble(members, rows, tmp_path / "e", recipe=recipe)
    alone = train(members[1], rows.again(), tmp_path / "a", recipe=recipe, seed=1)
    assert same(fits[1], alone)
    assert fits[0].record["store"] == fits[1].record["store"] == alone.record["store"]
    assert alone.record["store"]["simulated"] == alone.record["store"]["used"] == 700


class Normed(Estimator):
    """Squared distance from a linear map of x after batch normalisation, which keeps running statistics."""

    def __init__(self, prior, observables):
        super().__init__()
        self.prior, self.observables = prior, observables
        self.map = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, len(prior)))

    def standardise(self, batches): ...

    def loss(self, batch, *, generator):
        return (self.map(batch.x["x"]) - batch.theta).square().sum(-1)

    def condition(self, x): ...

    def features(self, x): ...


def test_compiling_leaves_the_buffers_as_they_were(ball, store, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(torch, "compile", lambda function: tried.append(function) or function)
    estimator = Normed(ball.prior, ball.observables)
    fits = [train(estimator, store, tmp_path / str(c), recipe=replace(SHORT, compile=c)) for c in (False, True)]
    assert len(tried) == 1
    assert same(*fits)


class Threads(Simulator):
    """Notes how many threads its calls may use."""

    name = "threads"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"x": Observable((1,))}

    def __init__(self):
        self.seen = set()

    def __call__(self, theta, *, generator):
        self.seen.add(torch.get_num_threads())
        return {"x": theta + torch.randn(theta.shape, generator=generator)}


def test_costs_are_measured_with_the_threads_of_the_training(tmp_path):
    simulator, before = Threads(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        flow = Flow(simulator.prior, simulator.observables, flow=MAF(1, (8,)))
        train(flow, simulator, tmp_path, recipe=Recipe(epochs=1, batch=2_000))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert simulator.seen == {1}


def test_rows_on_another_device_than_the_training_are_refused(ball, tmp_path):
    rows = Simulated(ball, seed=0, device="cuda:1")
    words = r"simulated on 'cuda:1' and the recipe trains on 'cpu'; give Recipe\(device='cuda:1'\) or Simulated"
    with pytest.raises(ValueError, match=words):
        train(flow(ball), rows, tmp_path)
    with pytest.raises(ValueError, match="trains on 'cuda:0'"):
        fitting._with_rows(flow(ball), rows, tmp_path, Recipe(device="cuda:0"), 0)
    for here, there in (("cuda", "cuda:0"), ("cuda:0", "cuda"), ("cpu", "cpu")):
        rows = Simulated(ball, seed=0, device=here)
        assert fitting._with_rows(flow(ball), rows, tmp_path, Recipe(device=there), 0)[0] is rows


def test_ensembles_that_make_no_sense_are_refused(ball, store, tmp_path):
    with pytest.raises(ValueError, match="at least one estimator"):
        train_ensemble([], store, tmp_path)
    other = Flow(ball.prior, ball.observables, flow=MAF(2, (8,)))
    with pytest.raises(ValueError, match=r"members 0 and 1 of the ensemble differ in \['flow'\]"):
        train_ensemble([*flows(ball, 1), other], store, tmp_path)


def test_a_simulator_may_stand_in_for_a_store(ball, tmp_path):
    rows = Simulated(ball, seed=2, buffer=600, held_out=200)
    fit = train(flows(ball, 1)[0], rows, tmp_path / "a", recipe=SHORT, seed=1)
    assert fit.record["store"]["online"]
    assert fit.record["store"]["rows"] == rows.record()["rows"] >= 5 * 600
    assert losses(fit)[-1][1] < losses(fit)[0][1]
    assert fit.simulator["name"] == "linear_gaussian"
    again = Simulated(ball, seed=2, buffer=600, held_out=200)
    assert train(flows(ball, 1)[0], again, tmp_path / "a", recipe=SHORT, seed=1).digest == fit.digest
    assert train(flows(ball, 1)[0], again, tmp_path / "b", recipe=SHORT, seed=1).digest == fit.digest
    with pytest.raises(ValueError, match=r"the estimator is for .*'linear_gaussian' makes simulations of"):
        train(Flow(Prior(a=td.Normal(0.0, 1.0)), ball.observables, flow=MAF(1, (8,))), ball, tmp_path / "c")


@pytest.mark.parametrize("name", ["amsgrad", "adan", "muon"])
def test_other_optimisers_resume_to_the_same_bits(ball, store, tmp_path, fuse, name):
    recipe = replace(SHORT, optimiser=name, schedule="cosine", learning_rate=2e-3)
    whole = train(flow(ball), store, tmp_path / "whole", recipe=recipe)
    fuse(15)
    with pytest.raises(KeyboardInterrupt):
        train(flow(ball), store, tmp_path / "cut", recipe=recipe)
    fuse(None)
    assert same(train(flow(ball), store, tmp_path / "cut", recipe=recipe), whole)
    assert losses(whole)[-1][1] < losses(whole)[0][1]
