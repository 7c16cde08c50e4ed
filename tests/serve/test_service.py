"""The service over a run: its answers are those of `sciinf query`, and what cannot be answered is said in words."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import call
from served import serving, source
from starlette.testclient import TestClient

from sciinf import load_answer
from sciinf.core.files import SEAL
from sciinf.interfaces.draws_file import read_draws_h5
from sciinf.interfaces.question import QueryOptions
from sciinf.interfaces.serve.answering import whole_answer
from sciinf.interfaces.serve.limits import Limits
from sciinf.interfaces.serve.models import Model, NotReady, as_given
from sciinf.interfaces.serve.replies import reply
from sciinf.interfaces.serve.stored import NOT_MADE

SEEN = [0.2, 1.4, 1.9, 3.2, 3.8]
ASK = "/models/run/answer"


@pytest.fixture(scope="module")
def service(line_made: Path) -> Iterator[TestClient]:
    with serving([source(line_made / "run", line_made / "line.py")]) as client:
        yield client


def ask(service: TestClient, **question: Any) -> dict[str, Any]:
    found = service.post(ASK, json=question)
    assert found.status_code == 200, found.text
    return found.json()


def levels_of(answer: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["level"] for one in answer["checks"]}


def drawn(answer: dict[str, Any]) -> np.ndarray:
    said = answer["draws"]
    return np.frombuffer(base64.b64decode(said["float32"]), "<f4").reshape(said["count"], len(said["names"]))


@pytest.mark.slow
def test_a_file_is_answered_as_by_the_command(service: TestClient, line: Path) -> None:
    result = call("query", line / "run", "--observation", line / "seen.csv", "--without-simulator", "--json")
    assert result.code == 0, result.err
    expected, draws = json.loads(result.out), load_answer(line / "run").draws
    with (line / "seen.csv").open("rb") as file:
        fields = {"draws": "10000", "include": "draws"}
        found = service.post(ASK, files={"file": ("seen.csv", file)}, data=fields).json()
    for name, one in expected["parameters"].items():
        assert found["parameters"][name]["unit"] == one["unit"]
        for key in ("mean", "sd", "median", "interval"):
            assert np.allclose(found["parameters"][name][key], one[key], rtol=1e-5, atol=1e-5)
    for key in ("calibration", "trust", "read", "posterior"):
        assert found[key] == expected[key]
    assert levels_of(found).items() >= levels_of(expected).items()
    assert np.abs(drawn(found) - draws.theta.numpy()).max() < 1e-4
    assert found["files"]["seen.csv"] == next(iter(expected["observation"]["files"].values()))


@pytest.mark.slow
def test_checks_by_the_simulator_are_those_of_the_command(service: TestClient, line: Path) -> None:
    result = call("query", line / "run", "--observation", line / "seen.csv", "--json")
    expected = json.loads(result.out)
    found = ask(service, observation="seen", draws=10_000, checks=True, include=["predictive"])
    made = {c["name"] for c in expected["checks"]}
    assert {"predictive", "residuals"} <= made
    assert {c["name"] for c in found["checks"]} == made
    assert found["parameters"]["slope"] == expected["parameters"]["slope"]
    assert np.shape(found["predictive"]["x"]["values"]) == (5, 5)
    other = [2.2, 1.1, 1.0, -0.1, -0.9]
    without, checked = (ask(service, x={"x": other}, draws=300, checks=checks) for checks in (False, True))
    made = {c["name"] for c in without["checks"] if c["kind"] != NOT_MADE}
    assert not made & {"predictive", "residuals", "local check"}
    assert {c["name"] for c in checked["checks"]} >= {"predictive", "residuals", "local check"}
    assert (without["checked"], checked["checked"]) == (False, True)


@pytest.mark.slow
def test_an_answer_carries_calibration_and_verdict(service: TestClient) -> None:
    found = ask(service, x={"x": SEEN}, draws=300)
    assert found["calibration"]["state"] in ("passed", "not passed", "cannot tell")
    assert found["sentence"]
    findings = {one["name"]: one for one in found["findings"]}
    assert list(findings)[:2] == ["calibration", "trust"]
    assert {"level", "verdict", "kind", "text", "weaker"} <= set(findings["calibration"])
    passed = found["calibration"]["state"] == "passed"
    assert (findings["calibration"]["level"] == "good") == passed
    assert found["word"] in found["sentence"].lower()
    far = ask(service, x={"x": [1e6] * 5}, draws=300)
    assert far["trust"]["level"] in ("alarm", "unknown")
    assert far["verdict"] != "good"


def test_several_observations_are_answered_each_as_by_itself(service: TestClient) -> None:
    several = [{"x": SEEN}, {"x": [0.0, 0.1, 0.2, 0.3, 0.4]}, {"x": [2.0, 1.0, 0.0, -1.0, -2.0]}]
    found = ask(service, observations=several, draws=400, include=["draws"])["answers"]
    assert len(found) == 3
    for one, answer in zip(several, found, strict=True):
        alone = ask(service, x=one, draws=400, include=["draws"])
        assert np.abs(drawn(alone) - drawn(answer)).max() < 1e-5
        assert alone["trust"] == answer["trust"]


def test_files_of_one_stem_are_told_apart_by_their_endings(service: TestClient) -> None:
    text = "x [m]\n" + "\n".join(map(str, SEEN))
    files = [("file", ("cell.csv", text.encode())), ("file", ("cell.txt", "\n".join(map(str, SEEN)).encode()))]
    found = [service.post(ASK, files=files).json()["answers"] for _ in range(2)]
    assert [one["name"] for one in found[0]] == ["cell_csv", "cell_txt"]
    assert [one["id"] for one in found[0]] == [one["id"] for one in found[1]]


def test_a_link_finds_an_answer_again(service: TestClient) -> None:
    found = ask(service, x={"x": SEEN}, draws=300, seed=3, include=["draws", "predictive"])
    again = service.get(f"/models/run/answers/{found['id']}").json()
    assert again == found
    other = ask(service, x={"x": SEEN}, draws=300, seed=4)
    assert other["id"] != found["id"]
    assert service.get("/models/run/answers/0123").status_code == 404


@pytest.mark.parametrize("kind", ["h5", "csv", "ecsv", "arrow", "nc"])
def test_draws_are_downloaded(kind: str, service: TestClient, tmp_path: Path) -> None:
    found = ask(service, x={"x": SEEN}, draws=300, include=["draws"])
    response = service.get(f"/models/run/answers/{found['id']}/draws.{kind}")
    assert response.status_code == 200
    (file := tmp_path / f"draws.{kind}").write_bytes(response.content)
    if kind == "h5":
        assert np.array_equal(read_draws_h5(file).theta.numpy(), drawn(found))
    elif kind == "arrow":
        import pyarrow

        table = pyarrow.ipc.open_file(file).read_all()
        assert table.column_names == ["slope", "offset", "log_weight"]
        assert table.schema.field("slope").metadata == {b"unit": b"m/s"}
        assert np.array_equal(table["slope"].to_numpy(), drawn(found)[:, 0])
    else:
        assert len(response.content) > 1_000


def test_a_model_is_described(service: TestClient) -> None:
    (model,) = service.get("/models").json()["models"]
    assert model == service.get("/models/run").json()
    assert [(p["name"], p["unit"]) for p in model["parameters"]] == [("slope", "m/s"), ("offset", "m")]
    prior = model["parameters"][0]["prior"]
    assert prior["law"] == "Normal(0, 1)"
    assert len(prior["grid"]) == len(prior["density"]) == 64
    assert np.trapezoid(prior["density"], prior["grid"]) == pytest.approx(0.998, abs=2e-3)
    assert model["observables"][0]["shape"] == [5]
    assert model["observations"] == ["seen"]
    assert model["simulator"] is True


def test_the_simulator_answers_what_if(service: TestClient) -> None:
    theta = {"slope": 1.0, "offset": 2.0}
    one, two = (service.post("/models/run/simulate", json={"theta": theta, "seed": 5}).json() for _ in range(2))
    assert one == two
    assert np.shape(one["x"]) == (5,)
    for wrong in ({"slope": 1.0}, {"slope": "a", "offset": 0.0}, {**theta, "c": 1}, {"slope": 1e400, "offset": 0}):
        assert service.post("/models/run/simulate", content=json.dumps({"theta": wrong})).status_code == 422


WRONG: list[tuple[Any, int, str]] = [
    ({"x": {"x": [float("nan"), *SEEN[1:]]}}, 422, "observable 'x' has 1 values that are NaN or infinite"),
    ({"x": {"x": [*SEEN, 1.0]}}, 422, "has shape (6,), the simulator produces (5,)"),
    ({"x": {"x": [[1.0], [2.0, 3.0]]}}, 422, "rows of different lengths"),
    ({"x": {"x": ["a"] * 5}}, 422, "holds"),
    ({"x": {"y": SEEN}}, 422, "missing: ['x']; unknown: ['y']"),
    ({"x": None}, 422, "give one of x, observation or observations"),
    ({"x": {"x": SEEN}, "level": 1.0}, 422, "level is a probability between 0 and 1"),
    ({"x": {"x": SEEN}, "draws": 0}, 422, "an answer needs at least one draw"),
    ({"x": {"x": SEEN}, "draws": 10**9}, 413, "1,000,000,000 draws were asked for"),
    ({"x": {"x": SEEN}, "seed": -1}, 422, "seed is a whole number"),
    ({"x": {"x": SEEN}, "draw": 5}, 422, "there is no field 'draw'"),
    ({"x": {"x": SEEN}, "column": {"x": "y"}}, 422, "there is no field 'column'"),
    ({"x": {"x": SEEN}, "name": 5}, 422, "name is text, got 5"),
    ({"x": {"x": SEEN}, "\ud800": 5}, 422, "there is no field"),
    ({"observation": "../seen"}, 422, "answered no observation of that name"),
    ({"observations": [{"x": SEEN}] * 65}, 413, "65 observations were asked about"),
    ([1], 400, "the body is a JSON object"),
]


@pytest.mark.parametrize(("question", "status", "words"), WRONG)
def test_what_cannot_be_asked_is_said(question: Any, status: int, words: str, service: TestClient) -> None:
    found = service.post(ASK, content=json.dumps(question))
    assert (found.status_code, words in found.json()["error"]) == (status, True), found.text


FILES: list[tuple[str, bytes, str]] = [
    ("a.csv", b"", "a.csv is empty"), ("a.csv", b"y\n1\n", "'x': NAME}"), ("a.h5", b"no", "a.h5"),
    ("a.npz", b"PK\x03\x04", "a.npz"), ("a.fits", b"SIMPLE", "a.fits"), ("a.pt", b"x", "unknown kind of file"),
    ("../../a.csv", b"x\nnan\n1\n2\n3\n4\n", "a.csv"), ("a", b"1", "unknown kind of file"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "words"), FILES)
def test_files_that_are_none_are_named(name: str, content: bytes, words: str, service: TestClient) -> None:
    found = service.post(ASK, files={"file": (name, content)})
    assert found.status_code == 422
    assert words in found.json()["error"], found.text
    assert "/tmp" not in found.json()["error"]


@pytest.mark.parametrize(
    "path", ["/models/..%2f..%2fetc", "/models/run/answers/..%2f..%2frun", "/models/%00", "/static/..%2fpage.py",
             "/models/run/answers/a/draws.h5", "/models/run/calibration/..%2fx", "/nothing"],
)  # fmt: skip
def test_no_word_of_a_request_becomes_a_path(path: str, service: TestClient) -> None:
    assert service.get(path).status_code == 404


def test_mutated_questions_never_break_the_service(service: TestClient) -> None:
    rng, statuses = random.Random(0), set()
    good = json.dumps({"x": {"x": SEEN}, "level": 0.9, "draws": 20, "seed": 0, "include": ["draws"]}).encode()
    for _ in range(300):
        body = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(body))
            what = rng.choice(["flip", "cut", "insert", "swap"])
            if what == "flip":
                body[place] = rng.randrange(256)
            elif what == "cut":
                del body[place : place + rng.randint(1, 8)]
            else:
                piece = rng.choice([b"NaN", b"-1", b"1e999", b"[[", b'{"', b"null", b"9" * 400, b'"\\u0000"', b"true"])
                body[place : place + (what == "swap")] = piece
        found = service.post(ASK, content=bytes(body))
        statuses.add(found.status_code)
        assert found.status_code < 500, (body, found.text)
        assert found.status_code == 200 or found.json()["error"]
    assert {200, 400, 422} <= statuses


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_no_question(service: TestClient) -> None:
    found: list[int] = []

    def many(seed: int) -> None:
        for k in range(6):
            response = service.post(ASK, json={"x": {"x": SEEN}, "draws": 2_000, "seed": 100 * seed + k})
            found.append(response.status_code)

    threads = [threading.Thread(target=many, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    before = service.get("/health").json()
    os.kill(before["lanes"]["fused"]["pid"], signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len(found) == 36
    assert set(found) <= {200, 503}
    assert found.count(200) > 0
    after = service.get("/health").json()
    assert after["restarts"] == before["restarts"] + 1
    assert after["lanes"]["fused"]["pid"] != before["lanes"]["fused"]["pid"]


@pytest.mark.slow
def test_a_quota_says_when_to_ask_again(line_made: Path) -> None:
    """An answer that is there already is shown again; what would be made is refused."""
    with serving([source(line_made / "run")], limits=Limits(tokens=["a", "b"], questions=2)) as client:

        def asked(token: str) -> Any:
            headers = {"authorization": f"Bearer {token}"}
            return client.post(ASK, json={"x": {"x": SEEN}, "draws": 20}, headers=headers)

        assert [asked("a").status_code for _ in range(3)] == [200, 200, 429]
        refused = asked("a")
        assert 86_000 < int(refused.headers["retry-after"]) <= 86_400
        assert "of 2 questions a day 0 are left, and this asks for 1" in refused.json()["error"]
        found = asked("b")
        assert found.status_code == 200
        link = f"/models/run/answers/{found.json()['id']}"
        assert client.get(link, headers={"authorization": "Bearer a"}).status_code == 200


def test_numbers_are_there_for_who_watches(service: TestClient) -> None:
    ask(service, x={"x": SEEN}, draws=10)
    text = service.get("/metrics").text
    assert 'sciinf_requests_total{status="200"}' in text
    assert "sciinf_answer_seconds_count" in text
    schema = service.get("/openapi.json").json()
    asked = schema["paths"]["/models/run/answer"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert asked["properties"]["x"]["properties"]["x"]["maxItems"] == 5
    assert "5, m" in asked["properties"]["x"]["properties"]["x"]["description"]


@pytest.mark.slow
def test_a_run_that_is_not_trained_yet_says_so(line: Path, tmp_path: Path) -> None:
    (tmp_path / "young").mkdir()
    with serving([source(tmp_path / "young")]) as client:
        assert client.get("/models").json()["models"][0]["ready"] is False
        found = client.post("/models/young/answer", json={"x": {"x": SEEN}})
        assert (found.status_code, "not trained yet" in found.json()["error"]) == (409, True)
        shutil.copytree(line / "run" / "fit", tmp_path / "young" / "fit")
        assert client.get("/models/young").json()["ready"] is True
        assert client.post("/models/young/answer", json={"x": {"x": SEEN}, "draws": 20}).status_code == 200


def test_an_answer_of_another_network_is_not_given(line: Path) -> None:
    """A worker that is started anew opens what lies in the folder by then; its answers are judged by what lay there."""
    model = Model(source(line / "run"))
    message = whole_answer(model, as_given(model.known["seen"]), QueryOptions(draws=20, predicted=False))
    assert reply(model, message, {}, ())["parameters"]
    said = json.loads((line / "run" / "calibration.json").read_text())
    said["reasons"] = ["calibrated anew"]
    (line / "run" / "calibration.json").write_text(json.dumps({k: v for k, v in said.items() if k != SEAL}))
    with pytest.raises(NotReady, match="trained or calibrated anew"):
        reply(Model(source(line / "run")), message, {}, ())
