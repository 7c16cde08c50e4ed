"""A simulator whose records differ in times and controls: what is laid over a record is simulated as that was seen."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brief import briefly_trained
from visits import answered

from sciinf import Flow, build_posterior, load_simulator, query, simulate, train

pytestmark = pytest.mark.slow

SIMULATOR = """
import torch

from sciinf import LogUniform, Observable, Prior, wrappers
from sciinf.simulators.dynamics.state_space import StateSpace
from sciinf.simulators.wrappers.hidden_plans import Plan


class Tank(StateSpace):
    latent = {"level": "m"}
    controls = {"fill": "m"}

    def initial(self, theta, rows, *, generator):
        return torch.zeros(rows, 1)

    def advance(self, theta, state, start, stop, *, generator):
        passed = torch.as_tensor(stop - start).float()
        return ((state[:, 0] + theta["fill"]) * (-theta["k"] * passed).exp())[:, None].float()

    def observe(self, theta, state, *, generator):
        return {"y": state[:, 0] + 0.01 * torch.randn(len(state), generator=generator)}


def plans(rows, generator):
    times = (5 * torch.rand(rows, 6, generator=generator)).sort(-1).values
    fill = 3 * torch.rand(rows, 6, generator=generator)
    return Plan(times, {"fill": fill}, torch.rand(rows, 6, generator=generator) < 0.8)


prior = Prior(k=(LogUniform(0.1, 1.0), "1/h"))
simulator = wrappers.state_space(Tank(), prior, plans, {"y": Observable((6,), "m", ("time",))}, time_unit="h")
"""
SEEN = {
    "y": [0.0, 8.2, 6.7, 5.5, 0.0, 3.7],
    "y_times": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
    "y_mask": [True, True, True, True, False, True],
    "fill": [10.0, 0.0, 0.0, 0.0, 0.0, 0.0],
}
THETA = {"k": 0.5}


@pytest.fixture(scope="module")
def tank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its answer to `seen`, which was filled with more than any plan has."""
    folder = tmp_path_factory.mktemp("records")
    (folder / "tank.py").write_text(SIMULATOR)
    simulator, run = load_simulator(folder / "tank.py"), folder / "tank"
    store = simulate(simulator, run / "simulations", 300, seed=0, progress=False)
    with briefly_trained(2):
        posterior = build_posterior(train(Flow(simulator.prior, simulator.observables), store, out=run / "fit"))
    query(posterior, {name: np.array(value) for name, value in SEEN.items()}, simulator=simulator, out=run, name="seen")
    return folder


@pytest.fixture(scope="module")
def service(tank: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """`sciinf serve` of it."""
    pytest.importorskip("uvicorn", reason="needs sciinf[serve]")
    words = [sys.executable, "-m", "sciinf.cli", "serve", "tank", "--simulator", "tank.py", "--port", "0"]
    running = subprocess.Popen(words, cwd=tank, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        yield running.stdout.readline().split(" at ")[1].strip(), running
    finally:
        running.terminate()
        running.communicate(timeout=20)


def simulated(service: Any, **body: Any) -> Any:
    httpx = pytest.importorskip("httpx")
    return httpx.post(f"{service[0]}/models/tank/simulate", json={"theta": THETA, **body}, timeout=60)


@pytest.mark.slow
def test_data_are_simulated_as_the_observation_was_seen(service: Any) -> None:
    """Ten sds of the noise, 0.01: no false alarms. Filled with 10, where plans have 3 at most."""
    found = simulated(service, x=SEEN, seed=3)
    assert found.status_code == 200, found.text
    x = found.json()
    assert {name: x[name] for name in ("y_times", "y_mask", "fill")} == {n: v for n, v in SEEN.items() if n != "y"}
    there = np.array(SEEN["y_mask"])
    expected = 10 * np.exp(-0.5 * np.arange(6.0))
    expected[0] = 0.0
    assert np.abs(np.array(x["y"]) - expected)[there] == pytest.approx(np.zeros(5), abs=0.1)


@pytest.mark.slow
def test_data_at_other_times_and_controls_are_refused(service: Any) -> None:
    found = simulated(service)
    assert (found.status_code, found.json()["field"]) == (422, "x")
    assert "give the observation as x" in found.json()["error"]
    short = simulated(service, x={"y": SEEN["y"]})
    assert (short.status_code, short.json()["field"]) == (422, "x")
    assert "missing: ['fill', 'y_mask', 'y_times']" in short.json()["error"]
    back = simulated(service, x={**SEEN, "y_times": SEEN["y_times"][::-1]})
    assert back.status_code == 422
    assert "times go backwards" in back.json()["error"]


def test_a_model_says_what_was_set_and_that_it_needs_the_record(service: Any) -> None:
    httpx = pytest.importorskip("httpx")
    model = httpx.get(f"{service[0]}/models/tank", timeout=60).json()
    assert model["as_seen"] is True
    assert {one["name"] for one in model["observables"] if one["set"]} == {"y_times", "fill"}
    paths = httpx.get(f"{service[0]}/openapi.json", timeout=60).json()["paths"]
    schema = paths["/models/tank/simulate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["theta", "x"]
    assert set(schema["properties"]["x"]["required"]) == set(SEEN)


@pytest.mark.slow
def test_the_page_shows_no_prediction_of_what_was_set_and_simulates_at_its_times(visit: Any) -> None:
    shown, asked = visit(), []
    shown.on("request", lambda one: asked.append(one) if one.url.endswith("/simulate") else None)
    shown.click("#observations button")
    answered(shown)
    assert shown.locator("#curves .plot").count() == 1
    assert "fill" not in shown.locator("#curves").inner_text()
    assert shown.locator("#curves table").count() == 1, "of y alone"
    shown.click("#whatif summary")
    shown.focus("#whatif input")
    shown.keyboard.press("PageUp")
    shown.wait_for_selector("#simulated", state="visible")
    assert "observed as seen was" in shown.locator("#whatif .caption").inner_text()
    assert asked[-1].post_data_json["x"]["fill"] == SEEN["fill"]
    assert asked[-1].response().json()["y_times"] == SEEN["y_times"]


def test_nothing_is_laid_where_a_value_is_missing(visit: Any) -> None:
    """What stands in the place of a missing value, 0 or 1000, changes nothing of the picture."""
    shown, filler, pictures = visit(), [0.0], []
    shown.route("**/simulate", lambda one: one.fulfill(json={**SEEN, "y": [*SEEN["y"][:4], filler[0], SEEN["y"][5]]}))
    shown.click("#observations button")
    answered(shown)
    shown.click("#whatif summary")
    shown.focus("#whatif input")
    for filler[0] in (0.0, 1000.0):
        with shown.expect_response("**/simulate"):
            shown.keyboard.press("PageUp")
        shown.wait_for_function("() => document.querySelector('#whatif .caption').textContent.startsWith('Purple')")
        shown.wait_for_timeout(200)
        pictures.append(shown.evaluate("() => document.querySelector('#curves canvas').toDataURL()"))
    assert pictures[0] == pictures[1]
