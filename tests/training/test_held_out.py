"""A training that failed says so: its loss hangs on few noise levels, its draws are not finite or far off."""

from __future__ import annotations

from pathlib import Path

import pytest

from sciinf import Recipe, Score, load_simulator, simulate, train
from sciinf.networks.diffusion.objective import Diffusion, EvenLogs, NormalLogs, PredictScore, Weighting
from sciinf.networks.diffusion.schedule import NoiseLevel
from sciinf.training.fitting import looked_at

LINEAR = load_simulator(Path(__file__).parents[2] / "simulators" / "linear_gaussian.py")
RECIPE = Recipe(epochs=40, batch=64, learning_rate=5e-3)


class Unbalanced(Weighting):
    """w = 1 in the score, which grows as 1 / s."""

    def weight(self, level, size, density):
        return 1 / level**4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(LINEAR, tmp_path_factory.mktemp("store"), 1_000, seed=0, progress=False)


def score(diffusion):
    return Score(LINEAR.prior, LINEAR.observables, diffusion=diffusion, linear=False, hidden=32, blocks=1)


def test_weights_that_hang_on_few_levels_are_told_when_built_and_after_training(store, tmp_path):
    with pytest.warns(UserWarning, match=r"Unbalanced.*of the noise levels drawn carry the loss"):
        wrong = Diffusion(NoiseLevel(1e-3, 5.0), PredictScore(), NormalLogs(-0.7, 1.8), Unbalanced())
    with pytest.warns(UserWarning, match=r"went astray.* standard deviations off"):
        fit = train(score(wrong), store, tmp_path, recipe=RECIPE)
    assert fit.record["draws_off"] > 3


def test_draws_that_are_not_finite_are_counted(store):
    built = score(Diffusion(NoiseLevel(1e-3, 5.0), levels=EvenLogs()))
    rows = store.load()
    built.standardise(lambda: iter([rows]))
    assert looked_at(built, lambda: iter([rows]))["draws_not_finite"] == 0
    built.network.scale(1e38)
    assert looked_at(built, lambda: iter([rows]))["draws_not_finite"] == 1
