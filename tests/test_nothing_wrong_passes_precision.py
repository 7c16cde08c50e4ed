"""Nothing wrong passes as right: numbers that float32 cannot hold (see test_nothing_wrong_passes.py)."""

from __future__ import annotations

import json

import pytest
from command_line import call

from sciinf.core.files import read_json

CLOCK = """
from torch.distributions import Normal

from sciinf import Prior, wrappers

prior = Prior(t=(Normal(LAW), "s"))
simulator = wrappers.numpy(lambda t, rng: t + rng.normal(), prior, {"x": ()}, block=8, name="clock")
"""


# --- 4: single precision -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "says"),
    [("1126259462.4, 0.1", "makes it 1126259456 in steps of 128"), ("2460000.5, 0.01", "in steps of 0.25")],
)
def test_parameters_that_float32_cannot_tell_apart_are_refused(tmp_path, law, says):
    (tmp_path / "clock.py").write_text(CLOCK.replace("LAW", law))
    for command in (["check"], ["simulate", "--out", tmp_path / "s", "-n", 8]):
        result = call(command[0], tmp_path / "clock.py", *command[1:])
        assert result.code == 2, result.out
        assert "parameter 't'" in result.error
        assert says in result.error
        assert "t = t0 + dt" in result.error
    assert not (tmp_path / "s").exists()


def test_simulations_of_such_parameters_are_refused_too(tmp_path):
    (tmp_path / "clock.py").write_text(CLOCK.replace("LAW", "0.0, 1.0"))
    assert call("simulate", tmp_path / "clock.py", "--out", tmp_path / "s", "-n", 8).code == 0
    about = read_json(tmp_path / "s/store.json")
    about["prior"]["laws"][0]["arguments"] = {"loc": 2460000.5, "scale": 0.009999999776482582}
    about.pop("sha256", None)
    (tmp_path / "s/store.json").write_text(json.dumps(about))
    for command in (
        ["check", tmp_path / "s"],
        ["train", tmp_path / "clock.py", tmp_path / "s", "--out", tmp_path / "f"],
    ):
        result = call(*command)
        assert result.code == 2, result.out
        assert "parameter 't'" in result.error
