"""Nothing wrong passes as right: numbers that float32 cannot hold (see test_nothing_wrong_passes.py)."""

from __future__ import annotations

import json

import pytest
import torch
from command_line import call

from sciinf.campaigns.store import Store
from sciinf.core.files import read_json
from sciinf.interfaces.draws_file import read_draws_h5

CLOCK = """
import torch
from torch.distributions import Normal

from sciinf import Observable, Prior, wrappers

prior = Prior(t=(Normal(LAW), "s"))
seen = {"x": Observable((), "s", dtype="DTYPE")}


simulator = wrappers.numpy(
    lambda t, rng: t + WIDTH * rng.normal(), prior, seen, block=500, name="clock"
)
"""
EXACT = "torch.tensor(LOC, dtype=torch.float64)"
UNITS = {"gps": (1126259462.4, 0.1), "jd": (2460000.5, 0.01), "mass": (1e-26, 1e-27), "length": (0.0, 1e20)}
ALL = """
import torch
from torch.distributions import Normal

from sciinf import Observable, Prior, wrappers


def exact(number):
    return torch.tensor(number, dtype=torch.float64)


units = UNITS
prior = Prior(**{name: Normal(exact(loc), exact(scale)) for name, (loc, scale) in units.items()})


def run(rng, **theta):
    return {f"of_{name}": theta[name] + scale / 2 * rng.normal() for name, (_, scale) in units.items()}


def log_likelihood(x, **theta):
    return sum(-2 * ((x[f"of_{name}"] - theta[name]) / scale) ** 2 for name, (_, scale) in units.items())


seen = {f"of_{name}": Observable((), dtype="float64") for name in units}
simulator = wrappers.numpy(run, prior, seen, block=500, name="units", log_likelihood=log_likelihood)
"""


def clock(law: str, width: float = 1.0, dtype: str = "float64") -> str:
    return CLOCK.replace("LAW", law).replace("WIDTH", repr(width)).replace("DTYPE", dtype)


def exactly(loc: float, scale: float) -> str:
    return f"{EXACT.replace('LOC', repr(loc))}, {EXACT.replace('LOC', repr(scale))}"


# --- 4: single precision -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_posteriors_in_the_units_of_the_field_are_exact(tmp_path):
    """A mean of 10,000 draws is off by .01 sd by chance: one of the eight figures is in 5e-4 of runs."""
    (tmp_path / "units.py").write_text(ALL.replace("UNITS", repr(UNITS)))
    names, values = zip(*((f"of_{name}", repr(loc + scale)) for name, (loc, scale) in UNITS.items()), strict=True)
    (tmp_path / "x.csv").write_text(f"{','.join(names)}\n{','.join(values)}\n")
    result = call(
        "infer", tmp_path / "units.py", "--observation", tmp_path / "x.csv", "-n", 500, "--calibration", 100,
        "--out", tmp_path / "run", "--ess", 10_000,
    )  # fmt: skip
    assert result.code in (0, 3), result.err
    draws = read_draws_h5(tmp_path / "run/answers/x/draws.h5")
    assert draws.theta.dtype == torch.float64
    assert Store(tmp_path / "run/simulations").load().theta.dtype == torch.float64
    for i, (loc, scale) in enumerate(UNITS.values()):
        sd = scale / 5**0.5
        assert abs(float(draws.mean()[i]) - (loc + 0.8 * scale)) < 0.04 * sd
        assert abs(float(draws.sd()[i]) / sd - 1) < 0.03


@pytest.mark.parametrize("law", ["1126259462.4, 0.1", "2460000.5, 0.01"])
def test_laws_that_torch_has_rounded_are_refused(tmp_path, law):
    (tmp_path / "clock.py").write_text(clock(law))
    for command in (["check"], ["simulate", "--out", tmp_path / "s", "-n", 8]):
        result = call(command[0], tmp_path / "clock.py", *command[1:])
        assert result.code == 2, result.out
        assert "parameter 't'" in result.error
        assert "dtype=torch.float64" in result.error
        assert "t = t0 + dt" in result.error
    assert not (tmp_path / "s").exists()


def test_data_whose_variation_float32_rounds_away_are_named(tmp_path):
    (tmp_path / "clock.py").write_text(clock(exactly(1126259462.4, 0.1), 0.05, dtype="float32"))
    result = call("check", tmp_path / "clock.py")
    assert "'x' has values near 1126259456 that vary by 0, where float32 has steps of 128" in result.out
    assert call("simulate", tmp_path / "clock.py", "--out", tmp_path / "s", "-n", 500).code == 0
    result = call("train", tmp_path / "clock.py", tmp_path / "s", "--out", tmp_path / "f")
    assert "what varies is rounded away" in result.err


def test_simulations_of_such_parameters_are_refused_too(tmp_path):
    (tmp_path / "clock.py").write_text(clock("0.0, 1.0"))
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
