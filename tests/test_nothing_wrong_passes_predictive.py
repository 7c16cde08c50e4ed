"""Nothing wrong passes as right, item 11: a truth outside the prior that hides among the simulations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from brief import briefly_trained
from command_line import call

from sciinf.core.files import read_json

PULSE = """
import numpy as np
from torch.distributions import Uniform

from sciinf import Observable, Prior, wrappers

prior = Prior(time=Uniform(0.2, 0.8), height=Uniform(-2.0, 2.0), width=Uniform(0.05, 0.09))
times = np.linspace(0.0, 1.0, 40)


def pulse(time, height, width, rng):
    return height * np.exp(-0.5 * ((times - time) / width) ** 2) + 0.1 * rng.normal(size=40)


simulator = wrappers.numpy(pulse, prior, {"x": Observable((40,), "", dims=("time",))})
"""


@pytest.mark.slow
@briefly_trained()
def test_an_observation_that_its_posterior_does_not_predict_is_said(tmp_path: Path) -> None:
    """A width of .15, four half widths of the prior away, was answered with "trust good" and no more."""
    (tmp_path / "pulse.py").write_text(PULSE)
    times, rng = np.linspace(0.0, 1.0, 40), np.random.default_rng(0)
    files = []
    for name, width in (("inside", 0.07), ("outside", 0.15)):
        x = np.exp(-0.5 * ((times - 0.58) / width) ** 2) + 0.1 * rng.normal(size=40)
        files.append(tmp_path / f"{name}.csv")
        files[-1].write_text("\n".join(["x", *(f"{value:.4f}" for value in x)]))
    words = ["--observation", *files, "--out", tmp_path / "run", "-n", 400, "--calibration", 300]
    result = call("infer", tmp_path / "pulse.py", *words)
    assert result.code == 0, result.err
    inside, outside = (read_json(tmp_path / "run/answers" / name / "answer.json") for name in ("inside", "outside"))
    assert inside["trust"]["level"] == outside["trust"]["level"] == "good"
    levels = [check["level"] for check in inside["checks"] if check["name"] == "predictive"]
    assert levels == ["good"]
    (check,) = [check for check in outside["checks"] if check["name"] == "predictive"]
    assert check["level"] in ("caution", "alarm")
    assert "the truth may lie outside the prior" in check["verdict"]
    kept = call("query", tmp_path / "run", "--observation", files[1], "--simulator", tmp_path / "pulse.py")
    assert check["verdict"] in kept.out
