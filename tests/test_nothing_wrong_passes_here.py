"""Nothing wrong passes as right: an answer that is wrong at the observation, though right on average."""

from __future__ import annotations

from pathlib import Path

from command_line import call

from sciinf.core.files import read_json

POINTS = """
from torch.distributions import LogNormal, Normal

from sciinf import Observable, Prior, wrappers

prior = Prior(mu=Normal(0.0, 3.0), sigma=LogNormal(0.0, 1.0))


def points(mu, sigma, rng):
    return mu[:, None] + sigma[:, None] * rng.normal(size=(len(mu), 20))


seen = {"x": Observable((20,), dims=("item",))}
simulator = wrappers.numpy(points, prior, seen, vectorised=True, name="points")
"""
SEEN = [1.1, 0.7, 1.6, 1.3, 1.2, 0.9, 1.5, 1.0, 1.4, 1.2, 0.8, 1.3, 1.1, 1.7, 0.6, 1.2, 1.0, 1.4, 1.3, 1.1]


def test_an_sd_of_twenty_points_that_is_wrong_here_is_said(tmp_path: Path) -> None:
    """Its posterior was one sd too wide and too high, with "calibration passed, trust good"."""
    (tmp_path / "points.py").write_text(POINTS)
    (tmp_path / "seen.csv").write_text("x\n" + "\n".join(map(str, SEEN)))
    words = ["--observation", tmp_path / "seen.csv", "--out", tmp_path / "run", "-n", 2_000, "--calibration", 100]
    result = call("infer", tmp_path / "points.py", *words)
    answer = read_json(tmp_path / "run/answers/seen/answer.json")
    (check,) = [check for check in answer["checks"] if check["name"] == "here"]
    assert check["level"] == "alarm"
    assert "the data tell more of" in check["verdict"]
    assert "not right at this observation" in result.out
    assert "All checks passed" not in (tmp_path / "run/report.html").read_text()
