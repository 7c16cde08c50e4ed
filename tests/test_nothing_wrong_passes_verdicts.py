"""Nothing wrong passes as right: verdicts on weak checks, on stray draws, and on answers that were corrected.

Through the command line, as in `test_nothing_wrong_passes.py`.
"""

from __future__ import annotations

import html
import json
import math
import re
import shlex
from pathlib import Path

import pytest
from brief import briefly_trained
from command_line import call

from sciinf.diagnostics import ood, recalibrate

STEEP = """
import numpy as np
from torch.distributions import Cauchy, Normal

from sciinf import Observable, Prior, wrappers

prior = Prior(far=(Cauchy(0.0, 1.0), "m"), near=(Normal(0.0, 1.0), "m"))


def seen(far, near, rng):
    return near + 0.5 * rng.normal(size=3)


simulator = wrappers.numpy(seen, prior, {"x": Observable((3,), "m", dims=("item",))})
"""

EXACT = """
import torch
from torch.distributions import Normal

from sciinf import Observable, Prior, Simulator


class Exact(Simulator):
    name = "exact"
    prior = Prior(level=(Normal(0.0, 1.0), "V"))
    observables = {"x": Observable((1,), "V")}

    def __call__(self, theta, *, generator):
        return {"x": theta + 0.5 * torch.randn(len(theta), 1, generator=generator)}

    def log_likelihood(self, theta, x):
        return Normal(theta[:, 0], 0.5).log_prob(x["x"][:, 0])


simulator = Exact()
"""


FOUR = (
    EXACT.replace("Observable((1,)", "Observable((4,)")
    .replace("randn(len(theta), 1,", "randn(len(theta), 4,")
    .replace('Normal(theta[:, 0], 0.5).log_prob(x["x"][:, 0])', 'Normal(theta, 0.5).log_prob(x["x"]).sum(1)')
)
"""Enough numbers to see what the model leaves unexplained."""


def infer(folder: Path, code: str, data: str, *words: object) -> tuple[str, str, str]:
    """Output, notes and the headline of the report."""
    (folder / "sim.py").write_text(code)
    (folder / "seen.csv").write_text(data)
    told = ["infer", folder / "sim.py", "--observation", folder / "seen.csv", "--out", folder / "run", *words]
    result = call(*told)
    assert result.code == 0, result.err
    page = (folder / "run/report.html").read_text()
    (headline,) = re.findall(r'id="verdict"[^>]*><p class="headline">([^<]*)', page)
    return result.out, result.err, html.unescape(headline)


# --- 2: green by weakness -----------------------------------------------------------------------------------------


@pytest.mark.slow
@briefly_trained(2)
def test_a_hundred_fresh_simulations_cannot_tell_and_the_next_command_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run folder, so that its network is trained once."""
    monkeypatch.setattr(recalibrate, "_LEAST", math.inf)  # corrected intervals are not looked at,
    monkeypatch.setattr(ood, "_ENOUGH", math.inf)  # nor is what looks for planted faults
    few = ("-n", 1_000, "--calibration", 100)
    out, err, headline = infer(tmp_path, EXACT, "x\n0.3\n", *few)
    assert "calibration  weaker evidence: " in out
    assert "trust        UNKNOWN: too few" in out
    assert "Rely on this answer" not in headline
    said = json.loads((tmp_path / "run/answers/seen/answer.json").read_text())
    assert said["verdict"] != "good"
    assert (said["calibration"]["state"], said["calibration"]["passed"]) == ("cannot tell", False)
    command, cost = re.findall(r"next: (sciinf .*) \(about (.*) more\)", err)[0]
    assert re.fullmatch(r"[\d.]+ (s|min).*", cost)
    page = html.unescape(re.sub("<[^>]*>", "", (tmp_path / "run/report.html").read_text()))
    assert f"Next: {command} (about {cost} more)" in page

    out, err, _ = infer(tmp_path, EXACT, "x\n0.3\n", *few, "--until-calibrated", "--most", 2_000)
    assert "more than 2,000 simulations, the most allowed" in err
    assert "calibration  weaker evidence: " in out

    following = call(*shlex.split(command)[1:])
    assert "too few" not in following.out
    assert "UNKNOWN" not in following.out

    out, err, _ = infer(tmp_path, EXACT, "x\n0.3\n", *few, "--until-calibrated", "--most", 20_000)
    assert "going on with 1,000 simulations to train on and 3,000 fresh ones" in err
    assert "calibration  good" in out


@pytest.mark.slow
@briefly_trained()
def test_infer_goes_on_with_more_to_train_on_where_an_error_is_seen(tmp_path: Path) -> None:
    _, err, _ = infer(tmp_path, EXACT, "x\n0.3\n", "-n", 100, "--calibration", 300, "--until-calibrated", "--most", 300)
    assert "calibration caution: " in err, "tails alone"
    assert "going on with 200 simulations to train on and 300 fresh ones" in err


# --- 9: stray draws -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@briefly_trained()
def test_an_sd_that_a_few_draws_carry_is_named(tmp_path: Path) -> None:
    """The data say nothing of `far`, so its draws are Cauchy: sd and mean are those of the few farthest draws."""
    out, _, headline = infer(tmp_path, STEEP, "x\n0.1\n0.2\n0.3\n", "-n", 500, "--calibration", 300, "--refine", "off")
    assert out.splitlines()[0] == headline
    assert out.splitlines()[2].split()[:3] == ["parameter", "unit", "median"]
    assert re.search(r"stray draws  caution: 10 of 10,000 draws carry \d+% of the variance of far", out)
    assert "Rely on this answer" not in headline


# --- 10: the headline judges the answer that is given -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@briefly_trained()
def test_an_answer_that_its_likelihood_corrected_is_not_condemned_for_the_network(tmp_path: Path) -> None:
    out, _, headline = infer(tmp_path, FOUR, "x\n0.3\n1.0\n-0.2\n0.4\n", "-n", 100, "--calibration", 200)
    assert "calibration  weaker evidence: of the amortised posterior: " in out
    assert headline == "Rely on this answer: its draws are weighted by the simulator's likelihood."
    page = (tmp_path / "run/report.html").read_text()
    assert "Weaker evidence" in page


# --- 13: answers of several observations --------------------------------------------------------------------------

FIRST_ALONE = """
import numpy as np
import torch

from exact import Exact


class FirstAlone(Exact):
    def observe(self, *paths):
        return {"x": torch.tensor([float(np.loadtxt(paths[0]))])}


simulator = FirstAlone()
"""


@pytest.mark.slow
@briefly_trained()
def test_a_reader_that_takes_the_first_file_alone_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "exact.py").write_text(EXACT)
    (tmp_path / "sim.py").write_text(FIRST_ALONE)
    for name, value in (("one", "-1.0"), ("two", "1.0")):
        (tmp_path / f"{name}.txt").write_text(value)
    files = [tmp_path / "one.txt", tmp_path / "two.txt"]
    result = call("infer", tmp_path / "sim.py", "--observation", *files, "--out", tmp_path / "run", "-n", 200)
    assert result.code == 0, result.err
    found = {f.parent.name: json.loads(f.read_text()) for f in (tmp_path / "run/answers").glob("*/answer.json")}
    assert sorted(found) == ["one", "two"]
    assert found["one"]["parameters"]["level"]["median"] < 0 < found["two"]["parameters"]["level"]["median"]
