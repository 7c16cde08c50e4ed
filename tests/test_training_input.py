"""What `train` and `train_ensemble` refuse by name, and what they say before and after a training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td
from trainings import SIMULATOR

from sciinf.campaigns.simulation import simulate
from sciinf.core import Observable, Prior, Simulator, load_simulator
from sciinf.training import Recipe, train, train_ensemble
from sciinf.training.estimators.flow import Flow
from sciinf.training.online import Simulated


@pytest.fixture(scope="module")
def ball():
    return load_simulator(SIMULATOR)


@pytest.fixture(scope="module")
def store(ball, tmp_path_factory):
    return simulate(ball, tmp_path_factory.mktemp("input") / "s", 100, progress=False)


def test_what_is_no_estimator_recipe_seed_or_device_is_refused(ball, store, tmp_path):
    for wrong, kind in ((Flow, "the class Flow"), ("nsf", "str")):
        with pytest.raises(TypeError, match=f"expected an estimator to train, .* got {kind}"):
            train(wrong, store, tmp_path)
    with pytest.raises(TypeError, match=r"expected Recipe\(...\) as recipe, got dict"):
        train(Flow(ball.prior, ball.observables), store, tmp_path, recipe={"epochs": 3})
    for seed in (-1, 1.5, True):
        with pytest.raises(ValueError, match="seed must be an integer of at least 0"):
            train(Flow(ball.prior, ball.observables), store, tmp_path, seed=seed)
    with pytest.raises(ValueError, match=r"the device 'cuda:63' cannot be used here .* use Recipe\(device=.cpu.\)"):
        train(Flow(ball.prior, ball.observables), store, tmp_path, recipe=Recipe(device="cuda:63"))
    with pytest.raises(TypeError, match="an ensemble is a list of estimators, got Flow"):
        train_ensemble(Flow(ball.prior, ball.observables), store, tmp_path)
    assert not list(tmp_path.iterdir())


def test_members_that_begin_alike_are_refused(ball, store, tmp_path):
    twins = [Flow(ball.prior, ball.observables, seed=3) for _ in range(2)]
    with pytest.raises(ValueError, match=r"their seeds are \[3, 3\]; give each its own"):
        train_ensemble(twins, store, tmp_path)


class Cut(Simulator):
    """x = theta + noise, which fails where theta > 1."""

    name = "cut"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"x": Observable((1,))}

    def __call__(self, theta, *, generator):
        noise = torch.randn(theta.shape, generator=generator)
        return {"x": torch.where(theta > 1.0, math.nan, theta + noise)}


def test_a_training_says_how_many_rows_it_simulates_and_how_many_failed(tmp_path, capsys):
    source = Simulated(Cut(), seed=0, buffer=600, reuse=3, held_out=100)
    with pytest.warns(UserWarning, match=r"\d+ of 1,\d+ simulations failed .* the prior is cut off"):
        train(Flow(Cut.prior, Cut.observables), source, tmp_path, recipe=Recipe(epochs=4, batch=100))
    said = capsys.readouterr().err
    assert "simulating while training: 1,300 rows in 4 epochs, each used up to 3 times; Recipe(epochs=...)" in said
    assert source.record()["used"] == source.rows_of(4) == 1_300
