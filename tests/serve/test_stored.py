"""An observation that the run has answered is served with all that is known of it, also without the simulator."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from served import serving, source
from starlette.testclient import TestClient

from sciinf import (
    Recipe,
    build_posterior,
    calibrate,
    load_answer,
    load_fit,
    load_simulator,
    query,
    refine_around,
    simulate,
)
from sciinf.core import Answer, Evidence, Finding, Level, Observation
from sciinf.core.files import read_json, write_json
from sciinf.core.verdict import verdict_from
from sciinf.diagnostics.calibration import load_calibration
from sciinf.diagnostics.right import NAME, Kind, local_check
from sciinf.interfaces.question import QueryOptions
from sciinf.interfaces.run_answers import keep_checks
from sciinf.interfaces.serve.answering import whole_answer
from sciinf.interfaces.serve.models import Model, as_given
from sciinf.interfaces.serve.stored import NOT_MADE, not_made
from sciinf.interfaces.serve.wire import unpack

SEEN, OTHER = [0.2, 1.4, 1.9, 3.2, 3.8], [2.2, 1.1, 1.0, -0.1, -0.9]
UNCHECKED = "not checked at this observation"


def told(run: Path, finding: Finding) -> Answer:
    """The stored answer, of which the local check has found something else."""
    answer = load_answer(run)
    others = tuple(one for one in answer.checks if one.name != NAME)
    keep_checks(run, replace(answer, checks=(*others, finding)))
    return load_answer(run)


@pytest.fixture(scope="module")
def alarming(line_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose calibration passed, and whose answer is wrong at its observation."""
    folder = shutil.copytree(line_made, tmp_path_factory.mktemp("alarming") / "line")
    run, simulator = folder / "run", load_simulator(folder / "line.py")
    passed = {"state": "passed", "passed": True, "cautious": False, "reasons": ["regions hold what they should"]}
    write_json(run / "calibration.json", {**read_json(run / "calibration.json"), **passed})
    posterior = build_posterior(load_fit(run / "fit"))
    query(posterior, {"x": SEEN}, load_calibration(run), simulator=simulator, out=run, name="seen")
    told(folder / "run", local_check(Kind.WRONG, "its middle is 2 sds off"))
    return folder


@pytest.fixture(scope="module")
def service(alarming: Path) -> Iterator[TestClient]:
    """A service of it that has no simulator."""
    with serving([source(alarming / "run")]) as client:
        yield client


def ask(service: TestClient, name: str = "run", **question: Any) -> dict[str, Any]:
    found = service.post(f"/models/{name}/answer", json={"x": {"x": SEEN}, **question})
    assert found.status_code == 200, found.text
    return found.json()


def test_a_stored_answer_is_served_with_its_verdict_and_draws(service: TestClient, alarming: Path) -> None:
    answer = load_answer(alarming / "run")
    found = ask(service, include=["draws", "predictive"])
    assert answer.verdict.level == "alarm"
    assert (found["verdict"], found["sentence"]) == ("alarm", answer.verdict.sentence)
    assert [one["name"] for one in found["checks"]] == [one.name for one in answer.checks]
    draws = np.frombuffer(base64.b64decode(found["draws"]["float32"]), "<f4").reshape(-1, 2)
    assert np.array_equal(draws, answer.draws.theta.numpy())
    assert set(found["predictive"]) == {"x"}
    assert (found["stored"], found["checked"], found["around"]) == (True, True, "")


def test_it_is_served_however_the_observation_comes(service: TestClient, alarming: Path) -> None:
    """By its name, as a file, among others; it is called what it was called by who asked."""
    file = ("again.csv", (alarming / "seen.csv").read_bytes())
    sent = service.post("/models/run/answer", files={"file": file}, data={"draws": "10000"}).json()
    named = service.post("/models/run/answer", json={"observation": "seen"}).json()
    both = service.post("/models/run/answer", json={"observations": [{"x": OTHER}, {"x": SEEN}]}).json()["answers"]
    assert [one["stored"] for one in (sent, named, *both)] == [True, True, False, True]
    assert [one["name"] for one in (sent, named)] == ["again", "seen"]
    assert list(sent["files"]) == ["again.csv"]
    assert str(alarming) not in service.post("/models/run/answer", json={"observation": "seen"}).text
    link = service.get(f"/models/run/answers/{named['id']}").json()
    assert link["sentence"] == named["sentence"]


@pytest.mark.parametrize("x", [SEEN, OTHER])
def test_a_file_whose_times_are_compared_with_nothing_is_told(x: list[float], service: TestClient) -> None:
    """Of an answer that is stored, and of one that is made; and whoever follows its link sees it."""
    content = "t [s],x [m]\n" + "\n".join(f"{k},{value}" for k, value in enumerate(x))
    sent = service.post("/models/run/answer", files={"file": ("timed.csv", content.encode())}).json()
    link = service.get(f"/models/run/answers/{sent['id']}").json()
    for found in (sent, link):
        assert [one["level"] for one in found["checks"] if one["name"] == "coordinates"] == ["unknown"]


@pytest.mark.parametrize("more", [{"level": 0.5}, {"seed": 3}, {"draws": 300}])
def test_another_question_about_it_keeps_what_was_found(
    more: dict[str, Any], service: TestClient, alarming: Path
) -> None:
    found = ask(service, **more)
    assert found["stored"] is False
    assert (found["verdict"], found["sentence"]) == ("alarm", load_answer(alarming / "run").verdict.sentence)
    assert found["parameters"]["slope"]["level"] == more.get("level", 0.9)
    assert {one["name"] for one in found["checks"]} >= {one.name for one in load_answer(alarming / "run").checks}


def test_another_observation_is_said_to_be_unchecked(service: TestClient) -> None:
    found = ask(service, x={"x": OTHER})
    assert UNCHECKED in found["sentence"]
    assert "not checked whether the model reproduces these data" in found["sentence"]
    assert (found["stored"], found["checked"]) == (False, False)


def test_no_verdict_without_checks_says_to_rely(alarming: Path) -> None:
    """Weights by the likelihood say that the computation is right, and nothing of whether the model fits the data."""
    model = Model(source(alarming / "run"))
    weights = Finding("weights", Level.GOOD, "its draws are weighted", evidence=Evidence.LIKELIHOOD)
    assert verdict_from([weights]).level == Level.GOOD
    verdict = verdict_from([weights, not_made(model)])
    assert (verdict.level, verdict.evidence) == (Level.CAUTION, Evidence.LIKELIHOOD)
    assert verdict.sentence.startswith("Rely with care on this answer: not checked whether the model reproduces these")
    known, other = as_given(model.known["seen"]), Observation({"x": torch.tensor(OTHER)})
    kinds = []
    for x, predicted in ((known, False), (other, False)):
        head, _ = unpack(whole_answer(model, x, QueryOptions(seed=3, draws=50, predicted=predicted)))
        kinds.append([one["kind"] for one in head["answer"]["checks"] if one["name"] == "predictive"])
    assert NOT_MADE not in kinds[0]  # the stored answer has the check itself
    assert kinds[1] == [NOT_MADE]


@pytest.mark.slow
def test_with_the_simulator_the_check_can_be_asked_for(alarming: Path) -> None:
    """An observation is not checked unless that is asked for; the stored answer is."""
    with serving([source(alarming / "run", alarming / "line.py")]) as client:
        without, checked = (ask(client, x={"x": OTHER}, checks=checks) for checks in (False, True))
        assert UNCHECKED in without["sentence"]
        assert UNCHECKED not in checked["sentence"]
        assert NAME in {one["name"] for one in checked["findings"]}
        assert ask(client, checks=True)["stored"] is True


@pytest.mark.slow
def test_what_was_not_checked_is_checked_where_that_is_asked_for(line: Path) -> None:
    """A stored answer whose local check was not made is no answer to a question that wants it."""
    told(line / "run", local_check(Kind.UNCHECKED, "it takes too long"))
    with serving([source(line / "run", line / "line.py")]) as client:
        stored, checked = (ask(client, checks=checks) for checks in (False, True))
    assert (stored["stored"], checked["stored"]) == (True, False)
    assert [one["kind"] for one in stored["findings"] if one["name"] == NAME] == [Kind.UNCHECKED]
    (kind,) = [one["kind"] for one in checked["findings"] if one["name"] == NAME]
    assert kind != Kind.UNCHECKED


@pytest.mark.slow
def test_answers_of_another_network_and_damaged_ones_do_not_count(alarming: Path, tmp_path: Path) -> None:
    other, damaged = (shutil.copytree(alarming / "run", tmp_path / name) for name in ("other", "damaged"))
    file = other / "answers/seen/answer.json"
    said = read_json(file)
    write_json(file, {**said, "question": {**said["question"], "fit": "another"}})
    with (damaged / "answers/seen/draws.h5").open("ab") as opened:
        opened.write(b"0")
    with serving([source(other), source(damaged)]) as client:
        found = [ask(client, name, level=level) for name in ("other", "damaged") for level in (0.9, 0.5)]
    assert [one["stored"] for one in found] == [False] * 4
    assert all(UNCHECKED in one["sentence"] for one in found)


@pytest.mark.slow
def test_a_refined_answer_is_served_with_its_own_verdict(alarming: Path, tmp_path: Path) -> None:
    """At another level, too; and in place of the one before it, which was wrong."""
    folder = shutil.copytree(alarming, tmp_path / "line")
    simulator, near = load_simulator(folder / "line.py"), folder / "run/refined/seen"
    first = build_posterior(load_fit(folder / "run/fit"))
    quiet: dict[str, Any] = {"progress": False}
    how = {"simulations": [300], "recipe": Recipe(epochs=5), **quiet}
    found = refine_around(simulator, {"x": SEEN}, near / "rounds", first, **how)
    fresh = simulate(simulator, near / "calibration_simulations", 300, seed=9, proposal=found.mixture, **quiet)
    checked = calibrate(found.local, fresh, near, **quiet)
    query(found, {"x": SEEN}, checked, simulator=simulator, out=near, name="seen")
    finding = local_check(Kind.HINTED, "its middle is 0.2 sds off", second=True)
    answer = told(near, finding)
    with serving([source(folder / "run")]) as client:
        same, other = ask(client), ask(client, level=0.5)
    assert (same["stored"], other["stored"]) == (True, False)
    for one in (same, other):
        assert one["sentence"] == answer.verdict.sentence
        assert (one["posterior"], one["around"]) == ("refined", "seen")
        assert NAME in {each["name"] for each in one["checks"]}
        assert one["calibration"]["fit"] == checked.fit
