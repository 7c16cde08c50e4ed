"""The page and the service of a run about which model and how many: bars, what exists, pairs of one model, what if."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from brief import briefly_trained
from visits import answered, drop, rows, set_level

from sciinf import Mixed, build_posterior, load_answer, load_simulator, query, simulate, train
from sciinf.core.probabilities import told

pytestmark = pytest.mark.slow

SIMULATOR = """
import numpy as np

from sciinf import Choice, Counts, Each, LogNormal, Observable, Only, Prior, Uniform, wrappers

days = np.arange(1.0, 13.0)
prior = Prior(
    model=Choice("decay", "wave"),
    steps=Counts(0, 2),
    height=(LogNormal(0.0, 0.3), "mJy"),
    period=Only(LogNormal(1.5, 0.3), "d", model="wave"),
    time=Each("steps", Uniform(1.0, 12.0), "d", increasing=True),
)


def burst(model, steps, height, period, time, rng):
    shape = np.cos(2 * np.pi * days / period) if model == "wave" else np.exp(-days / 4)
    return height * shape + 0.4 * (days[:, None] > time).sum(1) + 0.1 * rng.normal(size=12)


simulator = wrappers.numpy(burst, prior, {"flux": Observable((12,), "mJy", ("time",))})
simulator.derived = {"waves": lambda theta: 11 / theta["period"]}
"""
WAVE = np.cos(2 * np.pi * np.arange(1.0, 13.0) / 5) + 0.4 * (np.arange(1.0, 13.0) > 6)
DECAY = np.exp(-np.arange(1.0, 13.0) / 4)
THETA = {"model": "wave", "steps": "1", "height": 1.0, "period": 5.0, "time_1": 6.0, "time_2": None}


def text(values: np.ndarray) -> str:
    return "flux [mJy]\n" + "\n".join(f"{value:.4f}" for value in values) + "\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    (folder / "burst.py").write_text(SIMULATOR)
    simulator, run = load_simulator(folder / "burst.py"), folder / "burst"
    store = simulate(simulator, run / "simulations", 3_000, seed=0)
    with briefly_trained(4):
        posterior = build_posterior(train(Mixed(simulator.prior, simulator.observables), store, out=run / "fit"))
    query(posterior, {"flux": WAVE}, simulator=simulator, out=run, name="wave")
    return folder


@pytest.fixture(scope="module")
def service(runs: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    for name in ("starlette", "uvicorn"):
        pytest.importorskip(name, reason="needs sciinf[serve]")
    words = [sys.executable, "-m", "sciinf.cli", "serve", "burst", "--simulator", "burst.py", "--port", "0"]
    running = subprocess.Popen(words, cwd=runs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        said = running.stdout.readline()
        assert " at http" in said, said + (running.stderr.read() if running.stderr else "")
        yield said.split(" at ")[1].strip(), running
    finally:
        running.terminate()
        running.communicate(timeout=20)


@pytest.fixture
def ask(service: tuple[str, subprocess.Popen]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{service[0]}/models/burst/", timeout=60) as client:
        yield client


def test_a_model_tells_labels_their_prior_and_what_exists_when(ask: httpx.Client) -> None:
    found = {one["name"]: one for one in ask.get(f"{str(ask.base_url).rstrip('/')}").json()["parameters"]}
    assert found["model"]["prior"]["values"] == ["decay", "wave"]
    assert found["model"]["prior"]["probabilities"] == pytest.approx([0.5, 0.5])
    assert found["model"]["prior"]["density"] == []
    assert found["period"]["prior"]["exists"] == {"model": ["wave"]}
    assert found["time_2"]["prior"]["exists"] == {"steps": ["2"]}
    assert found["time_1"]["prior"]["law"] == "Uniform(1, 12), in increasing order"
    assert "exists" not in found["height"]["prior"]


@pytest.mark.slow
def test_an_answer_has_probabilities_and_draws_with_their_labels(ask: httpx.Client, runs: Path) -> None:
    body = {"x": {"flux": WAVE.tolist()}, "draws": 10_000, "include": ["draws"], "seed": 0}
    said = ask.post("answer", json=body).json()
    answer = load_answer(runs / "burst", name="wave")
    for name, e in answer.parameters.items():
        assert said["parameters"][name]["unit"] == e.unit
    assert said["parameters"]["steps"]["probability"] == pytest.approx(answer.parameters["steps"].probability)
    assert said["draws"]["categories"]["model"]["labels"] == ["decay", "wave"]
    theta = np.frombuffer(base64.b64decode(said["draws"]["float32"]), "<f4").reshape(said["draws"]["count"], -1)
    np.testing.assert_array_equal(np.isnan(theta), np.isnan(answer.draws.theta.numpy()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["h5", "csv", "ecsv", "arrow", "nc"])
def test_draws_are_saved(ask: httpx.Client, kind: str) -> None:
    said = ask.post("answer", json={"x": {"flux": WAVE.tolist()}, "draws": 200}).json()
    found = ask.get(f"answers/{said['id']}/draws.{kind}")
    assert found.status_code == 200, found.text
    if kind == "csv":
        assert {line.split(",")[0] for line in found.text.splitlines()[1:]} <= {"decay", "wave"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "waves"}, "model is one of decay, wave, got 'waves'"),
        ({"model": None}, "model is a finite number, got None"),
        ({"period": None}, "period is a finite number, got None"),
        ({"time_2": 7.0}, "time_2 does not exist with these values: give null"),
        ({"model": "decay"}, "period does not exist with these values: give null"),
        ({"steps": 3}, "steps is one of 0, 1, 2, got 3"),
        ({"steps": 2, "time_2": 3.0}, "lies outside the prior's support"),
        ({"height": "high"}, "height is a finite number, got 'high'"),
    ],
)
def test_what_cannot_be_simulated_is_said(ask: httpx.Client, changed: dict, words: str) -> None:
    found = ask.post("simulate", json={"theta": {**THETA, **changed}, "seed": 0})
    assert found.status_code == 422, found.text
    assert words in found.json()["error"]


@pytest.mark.slow
def test_data_are_simulated_with_labels_and_what_exists(ask: httpx.Client) -> None:
    wave = ask.post("simulate", json={"theta": THETA, "seed": 0}).json()
    assert np.abs(np.array(wave["flux"]) - WAVE).max() < 0.6  # six sds of the noise
    theta = {**THETA, "model": "decay", "period": None, "steps": 0, "time_1": None}
    decay = ask.post("simulate", json={"theta": theta, "seed": 0}).json()
    assert np.abs(np.array(decay["flux"]) - DECAY).max() < 0.6


def test_the_page_shows_bars_numbers_and_one_model_s_pairs(visit: Any, runs: Path) -> None:
    shown = visit()
    shown.wait_for_selector("#drop", state="visible")
    assert "decay: 0.50, wave: 0.50" in shown.locator("#priors").inner_text()
    drop(shown, "wave.csv", text(WAVE))
    answered(shown)
    answer, tables = load_answer(runs / "burst", name="wave"), shown.locator("#tables .scroll")
    steps = {row[0]: row[1] for row in rows(shown, "#tables .scroll:nth-child(2)")}
    found = answer.parameters["steps"]
    assert steps == {v: told(p, e) for v, p, e in zip(found.values, found.probability, found.error, strict=True)}
    models, words = answer.parameters["model"], tables.nth(0).inner_text()
    assert "among the listed models" in words
    assert "log Bayes factor of wave against decay" in words
    assert "of the network alone: no likelihood corrects it" in words
    assert f"{models.log_bayes_factor('wave', 'decay')[0]:.1f}" in words
    numbers = {row[0].split()[0]: row[1:] for row in rows(shown, "#tables .scroll:nth-child(3)")}
    assert list(numbers) == ["height", "period", "time_1", "time_2", "waves"]
    assert numbers["height"][0] == "1"
    assert shown.locator("#marginals canvas").count() >= 3
    assert "Drawn of wave: where model = wave" in shown.locator("#corner").inner_text()
    assert "NaN" not in shown.locator("main").inner_text()


def test_a_level_is_of_the_draws_in_which_it_exists(visit: Any, runs: Path) -> None:
    """The browser's interval at 60 % is that of the library's draws, to the digits that are shown."""
    from sciinf.interfaces.figures.page import number

    shown = visit()
    shown.wait_for_selector("#drop", state="visible")
    drop(shown, "wave.csv", text(WAVE))
    answered(shown)
    set_level(shown, 60)
    draws = load_answer(runs / "burst", name="wave").draws
    numbers = {row[0].split()[0]: row[1:] for row in rows(shown, "#tables .scroll:nth-child(3)")}
    at = draws.names.index("time_2")
    low, middle, high = (float(draws.quantile(q)[at]) for q in (0.2, 0.5, 0.8))
    assert " ".join(numbers["time_2"][2].split()) == f"{number(low, middle - low)} to {number(high, high - middle)} d"


@pytest.mark.slow
def test_two_answers_of_different_models_lie_over_each_other(visit: Any) -> None:
    """The second is asked at the level of the first, wherever the slider is: their verdicts are of one level."""
    shown = visit()
    shown.wait_for_selector("#drop", state="visible")
    drop(shown, "wave.csv", text(WAVE))
    answered(shown)
    set_level(shown, 60)
    with shown.expect_response(lambda one: one.url.endswith("/answer")) as asked:
        drop(shown, "decay.csv", text(DECAY))
    answered(shown, 2)
    assert "60%" in shown.locator("#tables").inner_text()
    assert {one["level"] for one in asked.value.json()["parameters"].values()} == {0.9}
    words = shown.locator("main").inner_text()
    assert "Drawn of wave: where model = wave" in words
    assert "Drawn of decay: where model = decay" in words
    assert "NaN" not in words
    assert shown.locator(".chips label").all_inner_texts()[0] == "height"
    assert "period" not in shown.locator(".chips").inner_text()


def test_what_if_takes_a_label_and_sets_aside_what_does_not_exist(visit: Any) -> None:
    shown = visit()
    shown.wait_for_selector("#drop", state="visible")
    drop(shown, "wave.csv", text(WAVE))
    answered(shown)
    shown.locator("#whatif summary").click()
    assert shown.locator("#theta3").is_enabled()
    shown.locator("#theta0").select_option("decay")
    assert shown.locator("#theta3").is_disabled()
    assert "does not exist" in shown.locator(".theta:nth-child(4)").inner_text()
    shown.get_by_text("Purple: one simulation for these parameters").wait_for()
    shown.get_by_role("button", name="Back to the medians").click()
    assert shown.locator("#theta3").is_enabled()
    assert shown.locator("#theta0").input_value() == "wave"
