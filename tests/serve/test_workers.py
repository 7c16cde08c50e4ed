"""The processes that answer: what becomes of questions when one dies, of a damaged run, and of our own errors."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from served import serving, source

from sciinf.interfaces.question import QueryOptions
from sciinf.interfaces.serve.engine import Busy
from sciinf.interfaces.serve.models import Models
from sciinf.interfaces.serve.requests import ObservationRequest, Unfit
from sciinf.interfaces.serve.worker import _told, warmed
from sciinf.interfaces.serve.workers import AnsweringWorkers

SEEN: dict[str, Any] = {"x": {"x": [0.2, 1.4, 1.9, 3.2, 3.8]}, "draws": 50}
DIES = """

import os, time

def track(slope, offset, rng):
    time.sleep(0.5)
    return os._exit(1) if slope == 3.0 else offset + slope * np.arange(5.0) + rng.normal(size=5)

simulator = wrappers.numpy(track, prior, {"x": Observable((5,), "m", dims=("time",))})
"""


@pytest.mark.slow
def test_only_the_question_that_a_process_died_over_is_refused(line: Path) -> None:
    (line / "line.py").write_text((line / "line.py").read_text() + DIES)
    with serving([source(line / "run", line / "line.py")]) as client, ThreadPoolExecutor(4) as threads:

        def made(slope: float) -> Any:
            return client.post("/models/run/simulate", json={"theta": {"slope": slope, "offset": 0.0}})

        made(0.0)
        deadly = threads.submit(made, 3.0)
        others = [threads.submit(made, slope) for slope in (0.0, 1.0, 2.0)]
        assert [other.result().status_code for other in others] == [200] * 3
        refused = deadly.result()
        assert refused.status_code == 503
        assert "stopped twice while it worked on this question" in refused.json()["error"]


@pytest.mark.slow
@pytest.mark.parametrize("between", [False, True])
def test_the_end_refuses_what_is_out(between: bool, line_made: Path) -> None:
    one = ObservationRequest({"x": np.array(SEEN["x"]["x"], np.float32)}, (), QueryOptions(predicted=False))

    async def ended() -> None:
        workers = AnsweringWorkers([source(line_made / "run")])
        await workers.start()
        if between:  # two lives: one process is dead, and the next is not started yet
            pid = workers.state()["lanes"]["fused"]["pid"]
            os.kill(pid, signal.SIGKILL)
            while workers.state()["lanes"]["fused"]["pid"] is not None:
                await asyncio.sleep(0.01)
        asked = asyncio.create_task(workers.answer("run", one))
        await asyncio.sleep(0)
        await workers.stop()
        for waiting in (asked, workers.answer("run", one)):
            with pytest.raises(Busy, match="the service ends"):
                await asyncio.wait_for(waiting, 10)

    asyncio.run(ended())


@pytest.mark.slow
def test_a_damaged_run_leaves_the_others_served(line: Path) -> None:
    shutil.copytree(line / "run", line / "bad")
    (line / "bad" / "fit" / "model.safetensors").write_bytes(b"damaged")
    with serving([source(line / "bad"), source(line / "run", line / "line.py")]) as client:
        bad, good = client.get("/models").json()["models"]
        assert (bad["ready"], good["ready"]) == (False, True)
        assert "model.safetensors" in bad["reason"]
        found = client.post("/models/bad/answer", json=SEEN)
        assert (found.status_code, found.json()["error"]) == (409, bad["reason"])
        for checks in (False, True):
            assert client.post("/models/run/answer", json={**SEEN, "checks": checks}).status_code == 200


@pytest.mark.parametrize("error", [KeyError("weights"), TypeError("add() got an unexpected keyword")])
def test_an_error_of_our_own_is_logged_and_nobody_elses(error: Exception, capsys: pytest.CaptureFixture) -> None:
    try:
        raise error
    except Exception as caught:
        told = _told(caught)
    assert told == {"words": "something went wrong in the service; its log says what", "of": "own"}
    logged = capsys.readouterr().err
    assert "Traceback" in logged
    assert str(error) in logged
    assert _told(ValueError("x is not finite")) == {"words": "x is not finite", "of": "question", "field": None}
    assert _told(Unfit("no level", "level")) == {"words": "no level", "of": "question", "field": "level"}


def test_a_worker_has_answered_each_open_run_before_it_is_asked(line_made: Path) -> None:
    models = Models([source(line_made / "run")])
    assert warmed(models, "fused") == 0  # nothing is opened for it
    models.get("run")
    assert [warmed(models, lane) for lane in ("fused", "whole")] == [1, 1]


@pytest.mark.slow
def test_a_signal_ends_it_in_five_seconds_and_each_question_has_an_answer(line: Path) -> None:
    """Those that are out are answered, or refused with a word when to ask again."""
    words = [sys.executable, "-m", "sciinf.cli", "serve", "run", "--simulator", "line.py", "--port", "0"]
    running = subprocess.Popen(words, cwd=line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    url = running.stdout.readline().rpartition(" at ")[2].strip()

    def asked(seed: int) -> httpx.Response:
        return httpx.post(f"{url}/models/run/answer", json={**SEEN, "seed": seed, "checks": True}, timeout=300)

    with ThreadPoolExecutor(10) as threads:
        asked(1)  # the processes are there
        answers = [threads.submit(asked, seed) for seed in range(2, 12)]
        while not any(one.done() for one in answers):
            time.sleep(0.05)
        running.terminate()
        ended = time.monotonic()
        _, said = running.communicate(timeout=30)
        assert time.monotonic() - ended < 5
        found = [one.result() for one in answers]
    assert {one.status_code for one in found} == {200, 503}
    assert all("retry-after" in one.headers for one in found if one.status_code == 503)
    assert "Traceback" not in said
