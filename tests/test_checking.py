"""The dry run finds the faults that spoil campaigns, and leaves sound simulators alone."""

from __future__ import annotations

import math
import random
import re

import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf import Uniform, wrappers
from sciinf.campaigns.simulation import simulate
from sciinf.core import Observable, Prior, Simulator, Status
from sciinf.diagnostics.checking import check_simulator, check_store


class Dry(Simulator):
    """A sound simulator, or `act(theta, x, generator)` of it."""

    name = "dry"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Gamma(2.0, 1.0))
    observables = {"v": Observable((4,)), "n": Observable((), dtype="int64")}
    block = 20

    def __init__(self, act=None):
        self.act = act

    def __call__(self, theta, *, generator):
        x = {
            "v": theta[:, :1] + torch.randn(len(theta), 4, generator=generator),
            "n": torch.poisson(theta[:, 1], generator=generator),
        }
        return x if self.act is None else self.act(theta, x, generator)


def test_a_sound_simulator_passes():
    report = check_simulator(Dry())
    assert report.ok, report.problems
    assert report.shapes == {"v": (4,), "n": ()}
    assert (report.finite, report.reproducible, report.random, report.rows) == (1.0, True, True, 256)
    assert report.rows_per_second > 1
    assert report.bytes_per_row >= 4 * 4 + 8
    assert report.notes == ()
    assert report.lines()[-1] == "no problem found"
    assert [line for line in report.lines() if line.startswith("learned as")] == [
        "learned as      v: 4 numbers, as they are",
        "learned as      n: one number",
    ]
    assert any("rows per second" in line for line in report.lines())


def test_sound_simulators_are_rarely_blamed():
    # each check blames a sound simulator with probability 1e-4 at most; 60 of them do with 6e-3, the seeds are fixed
    assert all(check_simulator(Dry(), rows=64, seed=seed).ok for seed in range(60))


def test_a_deterministic_simulator_is_warned_of():
    simulator = Dry(lambda theta, x, g: {"v": theta[:, :1] * torch.ones(4), "n": theta[:, 1].round()})
    report = check_simulator(simulator)
    assert report.ok, report.problems
    assert not report.random
    assert "no noise" in report.warnings[0]
    rare = Dry(lambda theta, x, g: {"v": torch.zeros(len(theta), 4), "n": torch.zeros(len(theta))})
    assert check_simulator(rare).warnings == (), "counts agree by chance"


def test_a_parameter_that_changes_no_data_is_named():
    simulator = Dry(lambda theta, x, g: {"v": x["v"], "n": (theta[:, 0] > 0).long()})
    named = [words for words in check_simulator(simulator).warnings if words.startswith("no data depend on")]
    unused = "no data depend on 'b': with the same seed, other values of it change nothing. Is it used?"
    assert named == [unused]
    assert not any("no data depend" in words for words in check_simulator(Dry()).warnings)


def test_a_parameter_that_is_clipped_is_named():
    def clipped(theta, x, g):
        return {"v": theta[:, :1].clamp(max=-0.5) + 0.1 * torch.randn(len(theta), 4, generator=g), "n": x["n"]}

    (named,) = (words for words in check_simulator(Dry(clipped)).warnings if "changes no data" in words)
    assert "another value of 'a' changes no data" in named
    assert not any("changes no data" in words for words in check_simulator(Dry()).warnings)


@pytest.mark.parametrize(
    ("unit", "factor", "named"), [("deg", 1.0, True), ("deg", math.pi / 180, False), ("rad", 1.0, False)]
)
def test_an_angle_in_degrees_that_is_taken_in_radians_is_named(unit: str, factor: float, named: bool):
    simulator = wrappers.numpy(
        lambda angle, rng: np.cos(factor * angle) + 0.1 * rng.normal(size=5),
        Prior(angle=(Uniform(0.0, 90.0 if unit == "deg" else 6.0), unit)),
        {"v": (5,)},
    )
    said = [words for words in check_simulator(simulator).warnings if "seems to take it in radians" in words]
    assert len(said) == named


def test_one_cause_is_one_problem():
    report = check_simulator(Dry(raising))
    (problem,) = report.problems
    assert "256 of 256 rows failed" in problem
    assert not report.notes
    assert not any("yes, bit for bit" in line for line in report.lines())


def test_data_outside_are_no_problem_of_the_simulator():
    report = check_simulator(Dry(), rows=64)
    assert report.lines(outside=True)[-1] == "found: data OUTSIDE what the prior predicts; the simulator has no problem"
    assert report.lines()[-1] == "no problem found"


def centred(theta, x, generator):
    return {**x, "v": x["v"] - x["v"].mean(0)}


def centred_without_noise(theta, x, generator):
    return {"v": (theta[:, :1] - theta[:, :1].mean()) * torch.ones(4), "n": theta[:, 1].round()}


def torch_global(theta, x, generator):
    return {**x, "v": theta[:, :1] + torch.randn(len(theta), 4)}


def numpy_global(theta, x, generator):
    return {**x, "v": x["v"] + torch.from_numpy(np.random.normal(size=(len(theta), 4)))}  # noqa: NPY002


def python_global(theta, x, generator):
    return {**x, "v": x["v"] + random.random()}


def unseeded(theta, x, generator):
    return {**x, "v": x["v"] + torch.from_numpy(np.random.default_rng().normal(size=(len(theta), 4)))}


def in_place(theta, x, generator):
    theta += 1
    return x


def squeezed(theta, x, generator):
    return {name: value.squeeze(0) for name, value in x.items()}


def short(theta, x, generator):
    return {**x, "v": x["v"][:, :3]}


def raising(theta, x, generator):
    raise RuntimeError("no licence")


def mostly_nan(theta, x, generator):
    x["v"][theta[:, 0] > -1] = float("nan")
    return x


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (centred, "'v' .* comes out otherwise one row at a time"),
        (centred_without_noise, "'v' .* comes out otherwise one row at a time"),
        (torch_global, "torch's global random state"),
        (numpy_global, "numpy's global random state"),
        (python_global, "Python's global random state"),
        (unseeded, "the same parameters and seed gave other data"),
        (in_place, "changes the parameters"),
        (squeezed, r"a batch of 1 rows?: .*shape \(4,\), expected \(1, 4\)"),
        (short, r"shape \(\d+, 3\), expected \(\d+, 4\)"),
        (raising, r"rows failed \(100%\); most often .*RuntimeError: no licence"),
        (mostly_nan, r"rows failed \(\d\d%\); most often .*NaN or infinite values in 'v'"),
    ],
)
def test_planted_faults_are_found(act, text):
    report = check_simulator(Dry(act), rows=128)
    assert not report.ok
    assert any(re.search(text, problem) for problem in report.problems), report.problems
    assert any(line.startswith("WARNING") for line in report.lines())


def test_a_few_failures_are_noted():
    def some(theta, x, generator):
        x["v"][theta[:, 0] > 1.5] = float("inf")
        return x

    report = check_simulator(Dry(some))
    assert report.ok, report.problems
    assert 0.8 < report.finite < 1.0
    assert report.notes == ()
    (told,) = report.warnings
    assert re.match(r"\d+ of 256 rows failed \(\d+%\); most often", told)
    assert "the posterior is that of the prior where the simulator works" in told
    assert report.lines()[-1] == "found: 1 to be thought about (caution)", "it was called no problem"

    def few(theta, x, generator):
        x["v"][theta[:, 0] > 2.0] = float("inf")
        return x

    report = check_simulator(Dry(few))
    assert 0.95 < report.finite < 1.0
    assert "They are left out" in report.notes[0]
    assert (report.warnings, report.lines()[-1]) == ((), "no problem found")


@pytest.mark.parametrize("act", [centred, in_place, squeezed, short, raising, mostly_nan])
def test_what_makes_results_wrong_is_fatal(act):
    report = check_simulator(Dry(act), rows=64)
    assert report.fatal
    assert set(report.fatal) <= set(report.problems)


@pytest.mark.parametrize("act", [torch_global, numpy_global, python_global, unseeded])
def test_what_cannot_be_made_again_is_right_all_the_same(act):
    report = check_simulator(Dry(act), rows=64)
    assert report.problems
    assert report.fatal == ()


def test_a_slow_simulator_is_looked_at_in_few_rows():
    seen = []

    def counted(theta, x, generator):
        seen.append(len(theta))
        return x

    assert check_simulator(Dry(counted), rows=2).ok
    assert sum(seen) < 20
    assert set(seen) == {1, 2}


def test_what_cannot_be_checked():
    with pytest.raises(TypeError, match="takes a Simulator"):
        check_simulator(lambda theta: theta)
    with pytest.raises(ValueError, match="at least 2 rows"):
        check_simulator(Dry(), rows=1)


@pytest.mark.slow
def test_the_state_of_a_store(tmp_path):
    store = simulate(Dry(), tmp_path, 100, progress=False)
    report = check_store(store)
    assert report.ok
    assert report.lines() == ["100 of 100 simulations (100 ok)", "no damage"]
    data = bytearray(store.file(3).read_bytes())
    data[len(data) // 2] ^= 1
    store.file(3).write_bytes(bytes(data))
    store.file(1).unlink()
    report = check_store(store)
    assert [d.block for d in report.damaged] == [1, 3]
    assert report.lines()[-1] == "2 blocks are damaged"
    assert report.counts[Status.OK] >= 80


def test_rows_that_fail_and_whole_numbers_are_no_sign_of_a_clipped_parameter_or_angle():
    def failing(theta, x, g):
        noise = 0.1 * torch.randn(len(theta), 4, generator=g)
        v = torch.where(theta[:, :1] < 0, torch.nan, theta[:, 1:] + noise)
        return {"v": v, "n": x["n"]}

    said = check_simulator(Dry(failing)).warnings
    assert not any("changes no data" in words for words in said)
    simulator = wrappers.numpy(
        lambda angle, rng: rng.poisson(3 * (1 + np.cos(np.deg2rad(angle)))),
        Prior(angle=(Uniform(0.0, 180.0), "deg")),
        {"n": ()},
    )
    assert not any("radians" in words for words in check_simulator(simulator).warnings)


class Solver:
    """A decay by rows, whose solver fails where it is fast and returns its last result or another in place of one."""

    def __init__(self, instead: str) -> None:
        self.instead, self.last, self.errors = (
            instead.removesuffix(" and errors"),
            np.zeros(6),
            instead.endswith("errors"),
        )

    def __call__(self, rate, size, rng):
        failed = rng.random() < 1 / (1 + math.exp((2.0 - rate) / 0.2))
        noise = 0.1 * rng.normal(size=6)
        if self.errors and noise[0] > 0.2:
            raise RuntimeError("another error")
        if self.instead == "rounded":
            noise += 1e-9 * self.last
        elif failed and self.instead != "nothing":
            if self.instead == "error":
                raise RuntimeError("no convergence")
            return (np.zeros(6) if self.instead == "zeros" else self.last) + noise
        self.last = size * np.exp(-rate * np.linspace(0.0, 2.0, 6))
        return self.last + noise


@pytest.mark.parametrize("instead", ["last", "last and errors", "rounded and errors", "zeros", "error", "nothing"])
def test_a_result_in_place_of_one_that_failed_is_told(instead) -> None:
    prior = Prior(rate=td.LogNormal(0.0, 0.5), size=td.LogNormal(1.0, 0.3))
    report = check_simulator(wrappers.numpy(Solver(instead), prior, {"v": Observable((6,))}))
    kept = any("the simulator keeps something" in words for words in report.problems)
    assert kept == instead.startswith("last")
    fixed = [one for one in report.findings if "fixed result" in one.words]
    assert bool(fixed) == (instead == "zeros")
    assert all(one.level == "good" for one in fixed)
