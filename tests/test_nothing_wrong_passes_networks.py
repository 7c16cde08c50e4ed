"""Networks that learned nothing, as a user meets them: each of these passed without a word once.

The command line trains estimators with their defaults and no surrogate. So trainings here are by the Python API, into
the run folders that the commands use.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import call

from sciinf import Recipe, Score, load_fit, load_simulator, simulate, train
from sciinf.core.fit import save_fit
from sciinf.emulators import Operator
from sciinf.networks.diffusion import Diffusion, PredictScore

SIMULATORS = Path(__file__).parents[1] / "simulators"
LINEAR = SIMULATORS / "linear_gaussian.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a small fit, and the file of an observation."""
    folder, simulator = tmp_path_factory.mktemp("run"), load_simulator(LINEAR)
    store = simulate(simulator, folder / "simulations", 1_000, seed=0, progress=False)
    score = Score(simulator.prior, simulator.observables, hidden=16, blocks=1)
    train(score, store, folder / "fit", recipe=Recipe(epochs=2))
    np.savez(folder / "seen.npz", x=store.load().x["x"][0].numpy())
    return folder


# --- 8: a network trained to nonsense


@pytest.mark.slow
def test_score_prediction_with_its_default_weighting_trains(run):
    simulator = load_simulator(LINEAR)
    store = simulate(simulator, run / "simulations", 1_000, seed=0, progress=False)
    diffusion = Diffusion(parameterisation=PredictScore())
    score = Score(simulator.prior, simulator.observables, diffusion=diffusion, linear=False, hidden=32, blocks=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = train(score, store, run / "score", recipe=Recipe(epochs=40, batch=64, learning_rate=5e-3))
    rows = store.load().rows(slice(0, 100))
    draws = fit.estimator.density(rows.x).sample(50, generator=torch.Generator().manual_seed(0))
    off = (draws.mean(0) - simulator.exact(rows.x)[0]) / rows.theta.std(0)
    assert float(off.abs().median()) < 0.7  # of the prior's sds, 0.4 after so short a training; 3e6 for a bare score


def test_draws_that_are_no_numbers_are_no_answer_and_leave_the_folder_whole(run):
    seen = ["--observation", run / "seen.npz"]
    whole = load_fit(run / "fit")
    kept = {path.name: path.read_bytes() for path in (run / "fit").iterdir()}
    whole.learned.network.scale(1e38)
    save_fit(run / "fit", whole.learned, simulator=whole.simulator, record=whole.record)
    broken = call("query", run, *seen)
    assert broken.code == 2
    assert "posterior draws are not finite" in broken.error
    assert not list(run.rglob("answer.json"))
    assert call("report", run).code == 0
    for name, content in kept.items():
        (run / "fit" / name).write_bytes(content)
    assert call("query", run, *seen).code == 0
    answer = json.loads(next(run.rglob("answer.json")).read_text())
    assert all(np.isfinite(estimate["mean"]) for estimate in answer["parameters"].values())
    assert call("report", run).code == 0


# --- 12: a surrogate's error


@pytest.mark.slow
def test_a_surrogate_says_how_far_off_it_is_and_sees_the_edges_of_its_fields(tmp_path, capsys):
    darcy = type(load_simulator(SIMULATORS / "pde" / "darcy.py"))(points=12)
    store = simulate(darcy, tmp_path / "store", 80, seed=0, progress=False)
    with pytest.warns(UserWarning, match=r"'u' is off by \d+% for held-out simulations"):
        fit = train(
            Operator(darcy.prior, darcy.observables), store, tmp_path / "fit", recipe=Recipe(epochs=1, batch=16)
        )
    assert f"held-out fields: 'u' is off by {fit.record['relative_error']:.1%}" in capsys.readouterr().err
    network = json.loads((tmp_path / "fit" / "fit.json").read_text())["estimator"]["arguments"]["network"]
    assert network["arguments"]["coordinates"] is True
    assert network["arguments"]["padding"] == 0.1
