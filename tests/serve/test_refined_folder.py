"""The folder of a refined answer is served by itself, as `sciinf query` answers from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import call
from served import serving, source

from sciinf import Recipe, build_posterior, calibrate, load_fit, load_simulator, refine_around, simulate

SEEN, FAR = [0.2, 1.4, 1.9, 3.2, 3.8], [-4.0, -6.0, -8.0, -10.0, -12.0]


@pytest.mark.slow
def test_the_folder_of_a_refined_answer_is_served(line: Path, tmp_path: Path) -> None:
    simulator, near = load_simulator(line / "line.py"), line / "run" / "refined" / "seen"
    first, quiet = build_posterior(load_fit(line / "run" / "fit")), dict[str, Any](progress=False)
    how = {"simulations": [200], "recipe": Recipe(epochs=2), **quiet}
    found = refine_around(simulator, {"x": SEEN}, near / "rounds", first, **how)
    fresh = simulate(simulator, near / "calibration_simulations", 200, seed=9, proposal=found.mixture, **quiet)
    calibrate(found.local, fresh, near, **quiet)
    shutil.copytree(max((near / "rounds").glob("round_*")) / "fit", near / "fit")
    words = ["--observation", line / "seen.csv", "--without-simulator", "--json", "--out", tmp_path / "out"]
    expected = json.loads(call("query", near, *words).out)
    with serving([source(near)]) as client:
        (model,) = client.get("/models").json()["models"]
        assert (model["ready"], model["posterior"]) == (True, "refined")
        answer = client.post("/models/seen/answer", json={"x": {"x": SEEN}, "draws": 10_000}).json()
        assert answer["posterior"] == expected["posterior"] == "refined"
        assert answer["calibration"] == expected["calibration"]
        for name, one in expected["parameters"].items():
            assert answer["parameters"][name]["median"] == pytest.approx(one["median"], abs=1e-5)
        far = client.post("/models/seen/answer", json={"x": {"x": FAR}})
        assert (far.status_code, "refined around another observation" in far.json()["error"]) == (422, True)
