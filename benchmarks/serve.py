"""`sciinf serve`: how many answers a second, who waits for whom, and what becomes of killed workers and broken bodies.

- *answers*: many clients on loopback ask for 200 draws each; beside them `sciinf.query` in a loop, and the fused lane
  alone, at 200 to 20,000 draws, in seconds of processor time.
- *mixed*: nine of ten clients ask for 200 draws and one for 20,000; latencies are processor time of the one process
  that answers, fused and by static batching.
- *killed*: the worker is killed while many ask; every question must be answered, or refused in words.
- *fuzzed*: bodies with bytes changed, and requests that schemathesis makes of the service's own OpenAPI document; none
  may have a status of 500 or above.
- *files*: CSV, FITS and npz files that are damaged or made to do harm, wide headers among them, beside 20 honest users.
  No status of 500 or above; the users wait less than twice as long; `/health` answers within a second; and SIGTERM ends
  the service in 5 s.
- *copied*: a network that is trained on 100, 1,000 and 10,000 answers of the service, and how far it is from others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import Rows, check, in_parts
from serve_copy import Answers, distances
from serve_fuzz import beside, form, good, send
from serve_loads import Fused, Static, load, mixed, one_request, post, questions

from sciinf import infer, query
from sciinf.core import Observation
from sciinf.interfaces.question import QueryOptions
from sciinf.interfaces.serve.models import Models, Served
from sciinf.interfaces.serve.wire import unpack
from sciinf.interfaces.serve.worker import Ticket

DECAY = """
import numpy as np

from sciinf import LogNormal, Observable, Prior, wrappers

prior = Prior(rate=(LogNormal(0.0, 0.5), "1/h"), amplitude=(LogNormal(1.0, 0.3), "mV"))
t = np.linspace(0, 5, 50)  # h


def voltage(rate, amplitude, rng):
    return amplitude * np.exp(-rate * t) + 0.1 * rng.normal(size=50)


simulator = wrappers.numpy(voltage, prior, {"v": Observable((50,), "mV", dims=("time",))})
"""
ASK = "/models/run/answer"
SIZES = (200, 2_000, 20_000)


def data(count: int, seed: int) -> dict[str, np.ndarray]:
    """Voltages of parameters drawn from the prior."""
    rng, t = np.random.default_rng(seed), np.linspace(0, 5, 50)
    rate, amplitude = np.exp(0.5 * rng.normal(size=(count, 1))), np.exp(1 + 0.3 * rng.normal(size=(count, 1)))
    return {"v": (amplitude * np.exp(-rate * t) + 0.1 * rng.normal(size=(count, 50))).astype(np.float32)}


def trained(scratch: Path, options: Any) -> Path:
    """A run folder."""
    (scratch / "decay.py").write_text(DECAY)
    n = 1_000 if options.quick else 10_000
    x = {name: value[0] for name, value in data(1, 10**6).items()}
    infer(
        scratch / "decay.py",
        x,
        out=scratch / "run",
        n=n,
        calibration=n,
        refine="off",
        seed=options.seed,
        progress=False,
    )
    return scratch / "run"


def started(run: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """A service of a run, with options of `sciinf serve`: its process and its address, when it can answer."""
    words = [sys.executable, "-m", "sciinf.cli", "serve", str(run), "--port", "0", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    url = (process.stdout.readline() if process.stdout else "").rpartition(" ")[2].strip()
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            if all(lane["alive"] for lane in health(url)["lanes"].values()):
                break
        time.sleep(0.1)
    return process, url


@contextlib.contextmanager
def served(run: Path, *options: str) -> Iterator[str]:
    """The address of a service of a run, with options of `sciinf serve`; the service ends when it is left."""
    process, url = started(run, *options)
    try:
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def health(url: str) -> dict[str, Any]:
    """How a service is."""
    with urllib.request.urlopen(f"{url}/health") as response:
        return json.load(response)


def answers(options: Any, scratch: Path) -> tuple[Rows, Rows]:
    """Answers a second."""
    run, rows, checks = trained(scratch, options), [], []
    models = Models([Served("run", str(run))])
    judge = models.get("run").first
    for size in SIZES:
        count = max(4, (40_000 if options.quick else 400_000) // (1_000 + size))
        xs = data(count, options.seed)["v"]
        started = time.process_time()
        lone = [query(judge.posterior, {"v": x}, judge.calibration, draws=size, seed=k) for k, x in enumerate(xs)]
        alone = (time.process_time() - started) / count
        found: dict[int, bytes] = {}
        started = time.process_time()
        fused(models, xs, size, found)
        together = (time.process_time() - started) / count
        pairs = ((unpack(found[k])[1]["theta"], one.draws.theta.numpy()) for k, one in enumerate(lone))
        differs = max(float(np.abs(a / b - 1).max()) for a, b in pairs)
        rows.append({"draws": size, "query ms": 1e3 * alone, "fused ms": 1e3 * together, "times": alone / together})
        rows[-1]["differs"] = differs
        checks.append(check(f"fused answers of {size:,} draws differ from lone ones", differs, 1e-5))
        checks.append(
            check(f"time of fused over lone, {size:,} draws", together / alone, 1 / 3 if size == 200 else 1.0)
        )
    clients, seconds = (50, 10.0) if options.quick else (200, 60.0)
    with served(run, "--without-simulator") as url:
        asked = [post(url, ASK, body) for body in questions(data, 400, 200, options.seed)]
        asyncio.run(load(url, asked, 8, 2.0))
        for many in (1, clients):
            told = asyncio.run(load(url, asked, many, seconds))
            quantiles = np.quantile(told.seconds, [0.5, 0.99])
            row = {"clients": many, "answers/s": told.statuses["200"] / seconds, "median ms": 1e3 * quantiles[0]}
            rows.append({**row, "99 % ms": 1e3 * quantiles[1], "statuses": dict(told.statuses)})
            wrong = sum(told.statuses.values()) - told.statuses["200"]
            checks.append(check(f"questions of {many} clients without an answer", wrong, 0))
    return rows, checks


def fused(models: Models, xs: np.ndarray, draws: int, found: dict[int, bytes]) -> None:
    """All answers, by the fused lane."""
    from sciinf.interfaces.serve.worker import Fusion

    def fail(id: int, error: Exception) -> None:
        raise error

    together = Fusion(models, found.__setitem__, fail, lambda id: None)
    for k, x in enumerate(xs):
        together.add(
            Ticket(
                k, "run", Observation({"v": torch.from_numpy(x)}), QueryOptions(draws=draws, seed=k, predicted=False)
            )
        )
    while together.busy:
        together.step()


def waiting(options: Any, scratch: Path) -> tuple[Rows, Rows]:
    """Who waits for whom."""
    models, x = Models([Served("run", str(trained(scratch, options)))]), data(200, options.seed)
    sizes = ([200] * 9 + [20_000]) * (2 if options.quick else 10)
    count, rows, medians = (600 if options.quick else 6_000), [], {}
    for name, engine in (("fused", Fused(models)), ("static", Static(models))):
        mixed(engine, x, sizes, len(sizes) // 2)
        started = time.process_time()
        found = mixed(type(engine)(models), x, sizes, count)
        spent = time.process_time() - started
        draws = sum(size * len(found[size]) for size in found)
        medians[name] = float(np.median(found[200])), draws / spent
        row = {
            "by": name,
            "short median ms": 1e3 * medians[name][0],
            "short 95 % ms": 1e3 * np.quantile(found[200], 0.95),
        }
        rows.append({**row, "long median ms": 1e3 * np.median(found[20_000] or [np.nan]), "draws/s": draws / spent})
    ratio = medians["fused"][0] / medians["static"][0]
    return rows, [
        check("median latency of short questions, fused over static", ratio, 0.25),
        check("draws a second, static over fused", medians["static"][1] / medians["fused"][1], 1 / 0.9),
    ]


def killed(options: Any, scratch: Path) -> tuple[Rows, Rows]:
    """Workers that are killed while many ask."""
    kills, clients = (2, 20) if options.quick else (10, 200)
    with served(trained(scratch, options), "--without-simulator") as url:
        asked = [post(url, ASK, body) for body in questions(data, 400, 200, options.seed)]

        async def disturbed() -> Any:
            seconds = 12.0 * kills
            loading = asyncio.create_task(load(url, asked, clients, seconds))
            for _ in range(kills):
                await asyncio.sleep(seconds / (kills + 1))
                pid = (await asyncio.to_thread(health_or_not, url)).get("lanes", {}).get("fused", {}).get("pid")
                if pid:
                    os.kill(pid, signal.SIGKILL)
            return await loading

        told = asyncio.run(disturbed())
        restarts = health_or_not(url).get("restarts", 0)
    lost = sum(count for status, count in told.statuses.items() if status not in ("200", "503"))
    rows = [{"kills": kills, "restarts": restarts, **told.statuses, "longest s": max(told.seconds)}]
    return rows, [
        check("questions that were neither answered nor refused in words", lost, 0),
        check("kills that no new worker followed", kills - restarts, 0),
    ]


def health_or_not(url: str) -> dict[str, Any]:
    """How a service is, also while it has no worker."""
    try:
        return health(url)
    except urllib.error.HTTPError as error:
        return json.load(error)


def fuzzed(options: Any, scratch: Path) -> tuple[Rows, Rows]:
    """Requests that nobody sane would send."""
    count, rng = (500 if options.quick else 10_000), random.Random(options.seed)
    good, broken = questions(data, 1, 20, 0)[0], 0
    statuses: dict[int, int] = {}
    with served(trained(scratch, options), "--without-simulator") as url:

        async def send() -> None:
            nonlocal broken
            host, port = url.rpartition("/")[2].split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            for _ in range(count):
                status, _ = await one_request(reader, writer, post(url, ASK, mutated(good, rng)))
                statuses[status] = statuses.get(status, 0) + 1
                broken += status >= 500

        asyncio.run(send())
        failed, said = _schemathesis(url, "20" if options.quick else "1000", scratch)
        alive = health_or_not(url).get("alive", False)
    rows: Rows = [{"mutated": count, **{str(status): statuses[status] for status in sorted(statuses)}}]
    rows.append({"schemathesis": said})
    return rows, [
        check("mutated bodies with a status of 500 or above", broken, 0),
        *([] if failed is None else [check("failures that schemathesis found", failed, 0)]),
        check("services that do not answer afterwards", 0 if alive else 1, 0),
    ]


def _schemathesis(url: str, examples: str, folder: Path) -> tuple[int | None, str]:
    """Its exit code and last line; no code, and why, where it is not installed."""
    if find_spec("schemathesis") is None:
        return None, "not run: the package schemathesis is not installed (pip install schemathesis)"
    words = ["run", f"{url}/openapi.json", "--checks", "not_a_server_error", "--max-examples", examples, "--no-color"]
    command = [sys.executable, "-m", "schemathesis.cli", *words]
    said = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return said.returncode, said.stdout.strip().splitlines()[-1] if said.stdout else said.stderr[-200:]


def files(options: Any, scratch: Path) -> tuple[Rows, Rows]:
    """Files that nobody sane would send, beside users who are."""
    count, seconds = (500, 20.0) if options.quick else (5_000, 60.0)
    xs, pool = data(40, options.seed)["v"], ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    process, url = started(trained(scratch, options), "--without-simulator")
    honest = [post(url, ASK, body) for body in questions(data, 20, 200, options.seed)]
    honest += [form(url, ASK, "cell.csv", good(x)[".csv"]) for x in xs[20:]]
    asyncio.run(beside(url, honest, asyncio.sleep(5.0)))
    alone, _ = asyncio.run(beside(url, honest, asyncio.sleep(seconds)))

    async def fuzzing() -> Any:
        sent = asyncio.get_running_loop().run_in_executor(pool, send, url, ASK, count, options.seed, xs[0])
        return await beside(url, honest, sent), await sent

    begun = time.monotonic()
    (users, looks), told = asyncio.run(fuzzing())
    took, restarts = time.monotonic() - begun, health_or_not(url).get("restarts", 0)
    pool.submit(send, url, ASK, 20, options.seed + 1, xs[0])
    time.sleep(1.0)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
    ended = time.monotonic() - begun
    process.kill()
    pool.shutdown()
    rows: Rows = [{"bodies": kind, "longest s": max(one.seconds), **one.statuses} for kind, one in sorted(told.items())]
    broken = sum(number for one in (*told.values(), users, looks) for status, number in one.statuses.items()
                 if not status.isdigit() or int(status) >= 500)  # fmt: skip
    medians = [float(np.median(one.seconds)) for one in (alone, users)]
    row = {"users": 20, "alone ms": 1e3 * medians[0], "fuzzed ms": 1e3 * medians[1], "health s": max(looks.seconds)}
    rows.append({**row, "statuses": dict(users.statuses), "restarts": restarts, "minutes": took / 60})
    return rows, [
        check(f"of {count:,} bodies and all honest questions, those with a status of 500 or above", broken, 0),
        check("honest questions without an answer", users.statuses.total() - users.statuses["200"], 0),
        check("median latency of honest users, fuzzed over alone", medians[1] / medians[0], 2),
        check("longest answer of /health, s", max(looks.seconds), 1),
        check("minutes that the bodies took", took / 60, 10),
        check("seconds from SIGTERM to the end", ended, 5),
    ]


def copied(options: Any, scratch: Path) -> tuple[Rows, Rows]:
    """What a network learns from answers."""
    models = Models([Served("run", str(trained(scratch, options)))])
    sizes = (100, 1_000, 10_000)
    xs = data(sizes[-1] + 500, options.seed + 1)["v"]

    def answers_to(some: np.ndarray, draws: int) -> Answers:
        found: dict[int, bytes] = {}
        fused(models, some, draws, found)
        return Answers(some, np.stack([unpack(found[k])[1]["theta"] for k in range(len(some))]))

    given, fresh = answers_to(xs[500:], 50), answers_to(xs[:500], 2_000)
    some = [(size, Answers(given.x[:size], given.draws[:size])) for size in sizes]
    return [{"answers": size, **distances(one, fresh, options.seed)} for size, one in some], []


def mutated(good: bytes, rng: random.Random) -> bytes:
    """A body with some bytes changed, cut out or put in."""
    body = bytearray(good)
    for _ in range(rng.randint(1, 5)):
        place = rng.randrange(len(body))
        kind = rng.randrange(3)
        if kind == 0:
            body[place] = rng.randrange(256)
        elif kind == 1:
            del body[place : place + rng.randint(1, 20)]
        else:
            piece = rng.choice([b"NaN", b"-1", b"1e999", b"[" * 300, b'{"', b"null", b"9" * 500, b'"\\ud800"', b"true"])
            body[place:place] = piece
        if not body:
            break
    return bytes(body)


if __name__ == "__main__":
    in_parts(
        __doc__ or "",
        {"answers": answers, "mixed": waiting, "killed": killed, "fuzzed": fuzzed, "files": files, "copied": copied},
    )
