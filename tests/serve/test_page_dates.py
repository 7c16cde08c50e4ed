"""A parameter that single precision cannot hold, a date: draws come as they are, and the page tells them apart."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brief import briefly_trained
from visits import answered, drop, ends, rows, set_level

from sciinf import Answer, Flow, build_posterior, calibrate, load_answer, load_simulator, query, simulate, train

SIMULATOR = """
import numpy as np

from sciinf import Observable, Prior, Uniform, wrappers

prior = Prior(t0=(Uniform(2450000.0, 2450001.0), "d"), depth=(Uniform(0.0, 1.0), ""))


def track(t0, depth, rng):
    late = (t0 - 2450000.0)[:, None].repeat(3, 1)
    return np.concatenate([late, depth[:, None].repeat(3, 1)], 1) + 0.02 * rng.normal(size=(len(t0), 6))


simulator = wrappers.numpy(track, prior, {"x": Observable((6,), "m", dims=("time",))}, vectorised=True)
"""
SEEN = "x [m]\n0.50\n0.51\n0.49\n0.52\n0.50\n0.53\n"


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose parameter is a date, with its answer to `seen`."""
    folder = tmp_path_factory.mktemp("dates")
    (folder / "late.py").write_text(SIMULATOR)
    simulator, run = load_simulator(folder / "late.py"), folder / "late"
    store = simulate(simulator, run / "simulations", 1_000, seed=0, progress=False)
    with briefly_trained(4):
        posterior = build_posterior(train(Flow(simulator.prior, simulator.observables), store, out=run / "fit"))
    found = calibrate(posterior, simulate(simulator, run / "calibration_simulations", 1_000, seed=1), out=run)
    x = {"x": [float(one) for one in SEEN.split()[2:]]}
    query(posterior, x, found, simulator=simulator, out=run, name="seen")
    return folder


@pytest.fixture(scope="module")
def service(late: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """`sciinf serve` of it."""
    pytest.importorskip("uvicorn", reason="needs sciinf[serve]")
    words = [sys.executable, "-m", "sciinf.cli", "serve", "late", "--simulator", "late.py", "--port", "0"]
    running = subprocess.Popen(words, cwd=late, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        yield running.stdout.readline().split(" at ")[1].strip(), running
    finally:
        running.terminate()
        running.communicate(timeout=20)


@pytest.fixture
def answer(late: Path) -> Answer:
    """The library's."""
    return load_answer(late / "late", name="seen")


@pytest.mark.slow
def test_draws_that_single_precision_cannot_hold_come_in_double(service: Any, answer: Answer) -> None:
    httpx = pytest.importorskip("httpx")
    body = {"observation": "seen", "draws": 10_000, "include": ["draws"]}
    sent = httpx.post(f"{service[0]}/models/late/answer", json=body, timeout=60).json()["draws"]
    assert "float32" not in sent
    found = np.frombuffer(base64.b64decode(sent["float64"]), "<f8").reshape(sent["count"], 2)
    assert len(np.unique(found[:, 0])) > 9_000
    expected = [answer.draws.quantile(q).numpy() for q in (0.16, 0.5, 0.84)]
    assert np.quantile(found, [0.16, 0.5, 0.84], axis=0) - expected == pytest.approx(np.zeros((3, 2)), abs=1e-3)


@pytest.mark.slow
def test_a_date_has_its_interval_at_any_level(visit: Any, answer: Answer) -> None:
    """With as many digits as its width asks for, and as the report gives."""
    shown = visit()
    drop(shown, "seen.csv", SEEN)
    answered(shown)
    set_level(shown, 68)
    middle = answer.parameters["t0"].median
    low, high = (float(answer.draws.quantile(q)[0]) for q in (0.16, 0.84))
    assert high - low > 1e-3
    assert {row[0]: row[2] for row in rows(shown)}["t0"] == ends((low, high), middle, "d")


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_long_numbers_lie_within_their_cells(visit: Any, width: int) -> None:
    """Of two answers, too; and the table need not be scrolled."""
    shown = visit(width=width)
    drop(shown, "seen.csv", SEEN)
    drop(shown, "other.csv", SEEN.replace("0.49", "0.55"))
    answered(shown, 2)
    script = """(table) => { const left = (one) => one.getBoundingClientRect().left;
        const out = (cell) => [...cell.querySelectorAll('.value')].some((one) => left(one) < left(cell) - 1);
        const over = [...table.querySelectorAll('td')].filter(out);
        return [over.length, table.scrollWidth - table.clientWidth]; }"""
    over, beyond = shown.locator("#tables .scroll:first-child").evaluate(script)
    assert over == 0
    assert beyond <= 0


@pytest.mark.slow
def test_axes_tell_late_digits_apart(visit: Any) -> None:
    """What is common to the numbers of an axis is taken off its ticks, and said in its name."""
    shown = visit()
    script = """async (windows) => {
        const { offsetOf, ticks, less, digitsOf } = await import(new URL('static/draws.js', document.baseURI));
        const told = ([window, values], from = offsetOf(window)) => [less('t', from), ...ticks(values, from)];
        return [windows.map((one) => told(one)), digitsOf([2450000.49, 2450000.51], 4)]; }"""
    windows = [
        ([2450000.488, 2450000.512], [2450000.49, 2450000.5, 2450000.51]),
        ([2449999.99, 2450000.01], [2449999.995, 2450000, 2450000.005]),
        ([-2450000.512, -2450000.488], [-2450000.51, -2450000.5]),
        ([1.6e9, 1.602e9], [1.6e9, 1.6005e9]),
        ([1.0, 4.0], [1.5, 2.0]),
        ([67.36, 67.42], [67.38, 67.4]),
        ([1.2345e9, 1.24e9], [1.235e9, 1.2355e9]),
    ]
    told, digits = shown.evaluate(script, windows)
    assert told[0] == ["t − 2,450,000", "0.49", "0.5", "0.51"]
    assert told[1] == ["t − 2,450,000", "−0.005", "0", "0.005"]
    assert told[2] == ["t + 2,450,000", "−0.51", "−0.5"]
    assert told[3] == ["t", "1.6×10⁹", "1.6005×10⁹"]
    assert told[4:6] == [["t", "1.5", "2"], ["t", "67.38", "67.4"]]
    assert told[6] == ["t", "1.235×10⁹", "1.2355×10⁹"]
    assert digits >= 10
