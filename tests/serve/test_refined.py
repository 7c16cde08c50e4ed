"""A refined answer of a run answers near its observation, in the service as in the command, and nowhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from served import serving, source
from starlette.testclient import TestClient

from sciinf import Recipe, build_posterior, calibrate, load_fit, load_simulator, refine_around, simulate
from sciinf.interfaces.serve.stored import NOT_MADE

SEEN, FAR = [0.2, 1.4, 1.9, 3.2, 3.8], [-4.0, -6.0, -8.0, -10.0, -12.0]


@pytest.fixture(scope="module")
def refined(line_made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with an answer that was refined around what was seen."""
    folder = shutil.copytree(line_made, tmp_path_factory.mktemp("refined") / "line")
    simulator, near = load_simulator(folder / "line.py"), folder / "run" / "refined" / "seen"
    first = build_posterior(load_fit(folder / "run" / "fit"))
    quiet: dict[str, Any] = {"progress": False}
    found = refine_around(
        simulator, {"x": SEEN}, near / "rounds", first, simulations=[300], recipe=Recipe(epochs=5), **quiet
    )
    fresh = simulate(simulator, near / "calibration_simulations", 300, seed=9, proposal=found.mixture, **quiet)
    calibrate(found.local, fresh, near, **quiet)
    return folder


@pytest.fixture(scope="module")
def service(refined: Path) -> Iterator[TestClient]:
    with serving([source(refined / "run")]) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize(("x", "posterior"), [(SEEN, "refined"), (FAR, "amortised")])
def test_what_answers_is_what_the_command_takes(
    x: list[float], posterior: str, service: TestClient, refined: Path, tmp_path: Path
) -> None:
    (file := tmp_path / "asked.csv").write_text("x [m]\n" + "\n".join(map(str, x)) + "\n")
    asked = call(
        "query", refined / "run", "--observation", file, "--without-simulator", "--json", "--out", tmp_path / "o"
    )
    assert asked.code == 0, asked.err
    expected = json.loads(asked.out)
    found = service.post("/models/run/answer", json={"x": {"x": x}, "draws": 10_000}).json()
    assert found["posterior"] == expected["posterior"] == posterior
    assert found["around"] == ("seen" if posterior == "refined" else "")
    assert found["calibration"] == expected["calibration"]
    assert found["trust"] == expected["trust"]
    made = [c["level"] for c in found["checks"] if c["kind"] != NOT_MADE]
    assert made == [c["level"] for c in expected["checks"]]
    for name, one in expected["parameters"].items():
        assert found["parameters"][name]["median"] == pytest.approx(one["median"], abs=1e-5)
        assert found["parameters"][name]["interval"] == pytest.approx(one["interval"], abs=1e-5)
