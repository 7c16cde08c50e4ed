"""Files and large bodies are read in a process of their own, so that one that takes long holds up nobody."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from served import serving, source
from starlette.testclient import TestClient

from sciinf.interfaces.serve import reading
from sciinf.interfaces.serve.models import Models
from sciinf.interfaces.serve.reading import Body, asked_in, body_out, read
from sciinf.interfaces.serve.requests import RequestLimits, Unfit

SEEN = [0.2, 1.4, 1.9, 3.2, 3.8]
ASK = "/models/run/answer"
SLOW = """

def observe(path):
    text = open(path).read()
    if "forever" in text:
        while True:
            pass
    if "deadly" in text:
        import os
        os._exit(1)
    return {"x": np.array([float(line) for line in text.split()])}

simulator = wrappers.numpy(track, prior, simulator.observables, observe=observe)
"""


@pytest.fixture(scope="module")
def models(line_made: Path) -> Models:
    return Models([source(line_made / "run")])


def asked(models: Models, body: Body) -> Any:
    head, arrays = body_out(body, RequestLimits())
    return asked_in(read(models, {"model": "run", **head}, arrays))


def test_what_is_read_there_is_what_is_read_here(models: Models) -> None:
    said = {"observations": [{"x": SEEN}, {"x": SEEN[::-1]}], "draws": 7, "include": ["draws"], "name": "cell"}
    found = asked(models, Body([json.dumps(said).encode()]))
    assert (found.several, found.include) == (True, ("draws",))
    assert [one.x["x"].tolist() for one in found.each] == [pytest.approx(SEEN), pytest.approx(SEEN[::-1])]
    assert [one.wanted.name for one in found.each] == ["cell-1", "cell-2"]
    file = asked(models, Body([b"x [m]\n0.2\n1.4\n1.9\n3.2\n3.8\n"], ["seen.csv"], {"draws": "9"}))
    assert (file.several, file.each[0].wanted.draws, file.each[0].read) == (False, 9, ("x: 5 values, in m",))
    assert set(file.each[0].wanted.files) == {"seen.csv"}
    timed = asked(models, Body([b"t,x [m]\n0,0.2\n1,1.4\n2,1.9\n3,3.2\n4,3.8\n"], ["seen.csv"], {"draws": "9"}))
    assert [one.name for one in timed.each[0].findings] == ["coordinates"]


def test_what_takes_too_long_is_given_up(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SECONDS", 1.5)  # the process is killed at twice that
    words = "# %ECSV 1.0\n# ---\n# datatype:\n" + "# - {name: x, datatype: float64}\n" * 40_000 + "x\n1\n"
    with pytest.raises(Unfit, match=r"takes more than 1\.5 s"):
        asked(models, Body([words.encode()], ["seen.ecsv"]))
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)


def test_a_signal_that_was_lost_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SECONDS", 0.5)

    def spend(seconds: float) -> None:
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    def read() -> None:
        with reading._limited():
            with suppress(reading._TooLongError):  # as a callback of the garbage collector does
                spend(0.6)
            spend(0.2)

    with pytest.raises(reading._TooLongError):
        read()


def test_limits_begin_with_the_reading_whatever_the_process_spent_before() -> None:
    """A limit of all its seconds ended processes that had worked for minutes, for ticks run ahead of their clock."""
    before = resource.getrlimit(resource.RLIMIT_CPU)
    with reading._limited():
        assert resource.getrlimit(resource.RLIMIT_CPU) == before
        left = signal.getitimer(signal.ITIMER_PROF)[0], signal.getitimer(signal.ITIMER_VIRTUAL)[0]
        assert left == pytest.approx((reading.SECONDS, 2 * reading.SECONDS), abs=1)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_what_does_not_let_go_ends_its_process() -> None:
    words = (
        "from sciinf.interfaces.serve import reading\n"
        "reading.SECONDS = 0.3\n"
        "from hashlib import pbkdf2_hmac\n"
        "with reading._limited():\n"
        "    pbkdf2_hmac('sha256', b'x', b'x', 50_000_000)\n"
    )
    ended = subprocess.run([sys.executable, "-c", words], capture_output=True, check=False, timeout=60)
    assert ended.returncode == -signal.SIGVTALRM


@pytest.fixture(scope="module")
def service(line_made: Path) -> Iterator[TestClient]:
    with serving([source(line_made / "run")]) as client:
        yield client


def test_a_header_of_forty_thousand_equal_names_is_refused_at_once(service: TestClient) -> None:
    """Each name was compared with all before it, in Python, in the process that answers requests."""
    body = b",".join([b"a"] * 40_000) + b"\n" + b",".join([b"1"] * 40_000)
    started = time.process_time()
    found = service.post(ASK, files={"file": ("wide.csv", body)})
    assert found.status_code == 422
    assert "no column 'x'" in found.json()["error"]
    assert time.process_time() - started < 2


@pytest.mark.slow
def test_large_json_is_read_there_and_errors_name_the_field(service: TestClient) -> None:
    blank = " " * 70_000
    found = service.post(ASK, content=json.dumps({"x": {"x": SEEN}, "draws": 20}) + blank)
    assert (found.status_code, found.json()["count"]) == (200, 20), found.text
    for said, status, field in (({"x": {"x": SEEN}, "level": 2}, 422, "level"), ([1], 400, None),
                                ({"x": {"x": SEEN}, "draws": 10**9}, 413, None)):  # fmt: skip
        found = service.post(ASK, content=json.dumps(said) + blank)
        assert (found.status_code, found.json().get("field")) == (status, field)


@pytest.mark.slow
def test_one_body_that_never_ends_holds_up_nobody(line: Path) -> None:
    (line / "line.py").write_text((line / "line.py").read_text() + SLOW)
    with serving([source(line / "run", line / "line.py")]) as client, ThreadPoolExecutor(2) as threads:

        def sent(text: str) -> Any:
            return client.post(ASK, files={"file": ("seen.csv", text.encode())}, data={"draws": "20"})

        assert sent(" ".join(map(str, SEEN))).status_code == 200
        forever = threads.submit(sent, "forever")
        time.sleep(0.5)
        while not forever.done():
            started = time.monotonic()
            assert client.get("/health").status_code == 200
            assert client.post(ASK, json={"x": {"x": SEEN}, "draws": 20}).status_code == 200
            assert time.monotonic() - started < 2
            time.sleep(0.5)
        assert (forever.result().status_code, forever.result().json()["field"]) == (422, "file")
        deadly = sent("deadly")
        assert (deadly.status_code, deadly.json()["field"]) == (422, "file")
        assert sent(" ".join(map(str, SEEN))).status_code == 200
        os.kill(client.get("/health").json()["lanes"]["reading"]["pid"], signal.SIGKILL)
        assert sent(" ".join(map(str, SEEN))).status_code == 200
