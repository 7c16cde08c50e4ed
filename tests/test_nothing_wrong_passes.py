"""Nothing wrong passes as right: each case as a user meets it, through the command line.

A case is a way in which a wrong answer once came with a green verdict. Tests of the parts stand beside the parts.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from brief import briefly_trained
from command_line import call

from sciinf import load_fit
from sciinf.core.files import read_json
from sciinf.posteriors.amortised import Amortised

# --- 1: simulations of a simulator that has changed --------------------------------------------------------------


BESIDE = """
from pathlib import Path

import numpy as np
from torch.distributions import Normal

import helper
from sciinf import Prior, wrappers

HERE = Path(__file__).parent


def level(a, rng):
    return a + helper.NOISE * rng.normal() + np.loadtxt(HERE / "data.csv").sum()


function = wrappers.numpy(level, Prior(a=Normal(0.0, 1.0)), {"x": ()}, block=8)
argv = [HERE / "program", "{input}"]
program = wrappers.command(argv, Prior(a=Normal(0.0, 1.0)), {"x": ()}, template=HERE / "input.txt", block=8)
simulator = USED
"""


@pytest.fixture(params=["function", "program"])
def simulated(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, list[object]]:
    """A simulator of either kind, with simulations of it: its kind and the command that goes on with them."""
    (tmp_path / "sim.py").write_text(BESIDE.replace("USED", request.param))
    (tmp_path / "helper.py").write_text("NOISE = 1.0\n")
    (tmp_path / "data.csv").write_text("1 2\n")
    (tmp_path / "input.txt").write_text("{a}\n")
    (tmp_path / "program").write_text('#!/bin/sh\nexec cat "$1"\n')
    (tmp_path / "program").chmod(0o755)
    command: list[object] = ["simulate", tmp_path / "sim.py", "--out", tmp_path / "s", "-n", 16]
    result = call(*command)
    assert result.code == 0, result.err
    return request.param, command


CHANGES = {  # file -> what becomes of it, whose simulations depend on it, and what is said
    "helper.py": ("NOISE = 10.0\n", ("function", "program"), "helper.py has changed since these 16 simulations"),
    "data.csv": ("1 3\n", ("function",), "the same parameters and seed give other data now: 'x' of row"),
    "program": ("#!/bin/sh\necho 7\n", ("program",), "program has changed since these 16 simulations"),
    "input.txt": ("{a}e1\n", ("program",), "input.txt has changed since these 16 simulations"),
}


@pytest.mark.parametrize("file", CHANGES)
def test_simulations_made_before_a_change_are_not_reused(simulated, tmp_path, file):
    (kind, command), (text, concerned, says) = simulated, CHANGES[file]
    (tmp_path / file).write_text(text)
    result = call(*command)
    if kind not in concerned:
        assert result.code == 0, result.err
        return
    assert result.code == 2, result.out
    assert says in result.error
    assert "--out" in result.error, "the way on"
    accepted = call(*command, "--accept-changes")
    assert accepted.code == 0, accepted.err
    assert ("give other data now" in accepted.err) == ((kind, file) != ("program", "helper.py"))


def test_a_comment_refuses_neither_simulations_nor_a_question(simulated, tmp_path, line):
    command = simulated[1]
    for file in (tmp_path / "sim.py", tmp_path / "helper.py", line / "line.py"):
        file.write_text('"""A page."""\n\n' + file.read_text().replace(" = ", "  =  ") + "# and a comment\n")
    assert call(*command).code == 0
    question = ["query", line / "run", "--observation", line / "seen.csv", "--simulator", line / "line.py"]
    assert call(*question).code == 0
    (line / "line.py").write_text((line / "line.py").read_text().replace("rng.normal(size=5)", "0.1"))
    assert "line.py has changed since the fit" in call(*question).error


# --- 2: green by weakness -----------------------------------------------------------------------------------------


# --- 3: failures that depend on parameters ------------------------------------------------------------------------


CUT = """
import numpy as np
from torch.distributions import Normal

from sciinf import Observable, Prior, wrappers


def measured(theta, rng):
    x = theta + 0.577 * rng.normal(size=len(theta))
    return np.where(FAILS, np.nan, x)


prior = Prior(theta=(Normal(0.0, 1.0), "m"))
simulator = wrappers.numpy(measured, prior, {"x": Observable((), "m")}, vectorised=True)
"""


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run whose simulator fails where theta > .25, and what `infer` printed."""
    folder = tmp_path_factory.mktemp("cut")
    (folder / "cut.py").write_text(CUT.replace("FAILS", "theta > 0.25"))
    (folder / "seen.csv").write_text("x [m]\n0.8\n")
    words = ["--observation", folder / "seen.csv", "--out", folder / "run", "-n", 300, "--calibration", 300]
    result = call("infer", folder / "cut.py", *words)
    assert result.code == 0, result.err
    return folder, result.out


def test_a_prior_that_is_cut_off_by_failures_is_no_good_answer(cut: tuple[Path, str]) -> None:
    folder, printed = cut
    page = (folder / "run" / "report.html").read_text()
    assert re.search(r"Do not rely on this answer: [^<]*failing depends on the parameters", page)
    assert "Rely on this answer" not in page
    again = call("query", folder / "run", "--observation", folder / "seen.csv").out
    for table in (printed, again):
        [line] = [line for line in table.splitlines() if line.startswith("failures ")]
        assert line.startswith("failures     WARNING: ")
        assert re.search(r"failing depends on the parameters .*: 100% fail where theta > 0\.2\d m", line)
        assert "The prior is cut off there, and the answer leans on that edge" in line
    words = ["--observation", folder / "seen.csv", "--without-simulator", "--json"]
    answer = call("query", folder / "run", *words).out
    assert json.loads(answer)["verdict"] == "alarm"
    assert [(c["name"], c["level"]) for c in json.loads(answer)["checks"]] == [
        ("failures", "alarm"),
        ("prior bounds", "good"),
    ]


@pytest.mark.parametrize(("reading", "level"), [("model", "WARNING"), ("outcome", "good")])
def test_what_a_failure_is_can_be_said(cut: tuple[Path, str], reading: str, level: str) -> None:
    folder, _ = cut
    table = call("query", folder / "run", "--observation", folder / "seen.csv", "--failures", reading).out
    assert f"failures     {level}: " in table
    assert ("uncorrected median" in table) == (reading == "model")  # weights beyond nothing but the edge mend nothing


def test_failures_are_told_without_a_calibration_too(cut: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = cut
    shutil.copytree(folder / "run" / "fit", tmp_path / "run" / "fit")
    table = call("query", tmp_path / "run", "--observation", folder / "seen.csv").out
    assert re.search(r"failures     UNKNOWN: 1\d\d simulations to learn from failed, and nobody has looked", table)
    refused = call("query", tmp_path / "run", "--observation", folder / "seen.csv", "--failures", "model")
    assert "run `sciinf calibrate` first" in refused.error
    assert not Amortised(load_fit(folder / "run" / "fit")).whole  # so that weights come with draws from everywhere


def test_crashes_at_any_parameter_are_harmless(tmp_path: Path) -> None:
    (tmp_path / "crash.py").write_text(CUT.replace("FAILS", "rng.random(len(theta)) < 0.1"))
    result = call("simulate", tmp_path / "crash.py", "-n", 1_000, "--out", tmp_path / "store")
    assert "failures do not depend on the parameters (p = " in result.out
    (tmp_path / "cut.py").write_text(CUT.replace("FAILS", "theta > 0.25"))
    result = call("simulate", tmp_path / "cut.py", "-n", 1_000, "--out", tmp_path / "another")
    assert "failing depends on the parameters (p < 1e-12): 100% fail where theta > 0.25 m" in result.out


# --- 4: single precision ------------------------------------------------------------------------------------------


# --- 5: discrete data ---------------------------------------------------------------------------------------------


SWITCHES = """
import numpy as np
from torch.distributions import Normal

from sciinf import Observable, Prior, wrappers

prior = Prior(level=Normal(0.0, 1.0))


def switches(level, rng):
    return rng.normal(size=3) < level


simulator = wrappers.numpy(switches, prior, {"on": Observable((3,), "", dims=("switch",), dtype="bool")})
"""


@pytest.mark.slow
def test_data_that_take_few_values_are_like_themselves(tmp_path: Path) -> None:
    """Every one of eight possible observations was called unlike all simulations, half of which were equal to it."""
    (tmp_path / "switches.py").write_text(SWITCHES)
    (tmp_path / "seen.csv").write_text("on\n1\n0\n1\n")
    words = ["--observation", tmp_path / "seen.csv", "--out", tmp_path / "run", "-n", 300, "--calibration", 300]
    result = call("infer", tmp_path / "switches.py", *words)
    assert result.code == 0, result.err
    (answer,) = (tmp_path / "run").rglob("answer.json")
    assert read_json(answer)["trust"]["level"] == "good"
    assert "unlike the simulations" not in result.out + result.err


# --- 6: units in files --------------------------------------------------------------------------------------------


RATES = """
import numpy as np
from torch.distributions import LogNormal

from sciinf import Observable, Prior, wrappers


def flux(rate, rng):
    return rate + rng.normal(size=3)


prior = Prior(rate=(LogNormal(0.0, 1.0), "electron/s"))
simulator = wrappers.numpy(flux, prior, {"flux": Observable((3,), "electron/s", dims=("time",))})
"""


def test_units_that_fits_knows_only_from_astropys_notes_are_converted(tmp_path: Path) -> None:
    """electron / min is no unit of the FITS standard: TUNIT stays empty, and the values were taken as electron/s."""
    from astropy import units
    from astropy.table import QTable

    (tmp_path / "rates.py").write_text(RATES)
    QTable({"flux": [60.0, 120.0, 180.0] * units.electron / units.min, "id": [1, 2, 3]}).write(tmp_path / "seen.fits")
    result = call("check", tmp_path / "rates.py", "--observation", tmp_path / "seen.fits")
    assert result.code == 0, result.err
    assert "flux: 3 values, electron/min -> electron/s" in result.out
    assert "not used: id" in result.out
    (tmp_path / "bare.csv").write_text("flux\n60\n120\n180\n")
    result = call("check", tmp_path / "rates.py", "--observation", tmp_path / "bare.csv")
    assert "flux: 3 values, no unit: taken as electron/s" in result.out


@pytest.mark.slow
def test_an_answer_says_how_its_observation_was_read(line: Path) -> None:
    from astropy import units
    from astropy.table import QTable

    QTable({"x": [20.0, 140.0, 190.0, 320.0, 380.0] * units.cm}).write(line / "seen.fits")
    words = ["query", line / "run", "--json", "--observation"]
    given, other = (json.loads(call(*words, line / name).out) for name in ("seen.csv", "seen.fits"))
    assert other["read"] == ["x: 5 values, cm -> m"]
    assert given["read"] == ["x: 5 values, in m"]
    for key in ("slope", "offset"):
        assert other["parameters"][key]["mean"] == pytest.approx(given["parameters"][key]["mean"], abs=1e-5)
    result = call("query", line / "run", "--observation", line / "seen.fits", "--simulator", line / "line.py")
    assert "read         x: 5 values, cm -> m" in result.out
    assert json.loads((line / "run/answers/seen/answer.json").read_text())["read"] == other["read"]
    result = call("infer", line / "line.py", "--observation", line / "seen.fits", "--out", line / "run", "-n", 300)
    assert "read x: 5 values, cm -> m" in result.err
    assert "x: 5 values, cm -> m" in result.out


@pytest.mark.slow
def test_data_that_stand_there_twice_or_elsewhere_are_refused(line: Path, tmp_path: Path) -> None:
    import h5py

    (tmp_path / "twice.csv").write_text("x [m],x [cm]\n" + "1,100\n" * 5)
    (tmp_path / "twice.json").write_text('{"x": [1, 2, 3, 4, 5], "x": [5, 4, 3, 2, 1]}')
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["x"] = [1.0] * 5
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["x"] = h5py.ExternalLink(str(tmp_path / "theirs.h5"), "x")
    with h5py.File(tmp_path / "centimetres.h5", "w") as file:
        file["x"] = [20.0, 140.0, 190.0, 320.0, 380.0]
        file["x"].attrs["units"] = "cm"
    for name, words in (("twice.csv", "more than once"), ("twice.json", "more than once"), ("link.h5", "is a link")):
        result = call("query", line / "run", "--observation", tmp_path / name)
        assert result.code == 2
        assert words in result.error
        assert name in result.error
    result = call("query", line / "run", "--observation", tmp_path / "centimetres.h5")
    assert "x: 5 values, cm -> m" in result.out


# --- 7: files believed --------------------------------------------------------------------------------------------
# in test_nothing_wrong_passes_files.py


# --- 8: trainings that end in nonsense ----------------------------------------------------------------------------


# --- 9: stray draws -----------------------------------------------------------------------------------------------


# --- 10: the headline judges the answer that is given -------------------------------------------------------------


# --- 11: outside the prior ----------------------------------------------------------------------------------------


HEAVY = """
import numpy as np
from torch.distributions import Uniform

from sciinf import Observable, Prior, wrappers

prior = Prior(mass=(Uniform(20.0, 45.0), "solMass"))


def seen(mass, rng):
    return np.append(mass + rng.normal(size=3), rng.normal(size=27))  # the others see nothing


simulator = wrappers.numpy(seen, prior, {"x": Observable((30,), "", dims=("detector",))})
"""
NOISE = 3 * [0.3, -1.1, 0.4, 0.9, -0.2, -0.6, 1.2, 0.1, -0.8]


@pytest.mark.slow
@briefly_trained(2)
def test_a_value_beyond_a_bound_of_the_prior_is_said(tmp_path: Path) -> None:
    """A mass of 18.6 where the prior begins at 20 piled up at 20, with "passed" and "good" and no more."""
    (tmp_path / "heavy.py").write_text(HEAVY)
    for name, masses in (("seen", [18.9, 18.2, 18.7]), ("inside", [30.1, 29.8, 30.0])):
        (tmp_path / f"{name}.csv").write_text("\n".join(["x", *map(str, masses + NOISE)]))
    out = ["--out", tmp_path / "run"]
    words = ["--observation", tmp_path / "seen.csv", *out, "-n", 1_000, "--calibration", 200, "--refine", "off"]
    result = call("infer", tmp_path / "heavy.py", *words)
    assert result.code == 0, result.err
    (answer,) = (tmp_path / "run").rglob("answer.json")
    assert read_json(answer)["trust"]["level"] == "good"
    (check,) = [c for c in read_json(answer)["checks"] if c["name"] == "prior bounds"]
    assert check["level"] == "caution"
    assert "the lower bound of 20 solMass" in check["verdict"]
    assert "Widen the prior" in result.out
    assert "Prior bounds" in (tmp_path / "run" / "report.html").read_text()
    assert "none leans on a bound" in call("query", tmp_path / "run", "--observation", tmp_path / "inside.csv").out


# --- 12: a surrogate's error --------------------------------------------------------------------------------------


# --- 13: answers of several observations --------------------------------------------------------------------------


@pytest.mark.slow
def test_the_answer_of_another_observation_stays(line: Path) -> None:
    seen, other = line / "seen.csv", line / "sites" / "other.csv"
    other.parent.mkdir()
    other.write_text("x [m]\n1.2\n0.4\n0.9\n-0.2\n0.8\n")
    same_name = other.with_name("seen.csv")
    same_name.write_text("x [m]\n0.0\n0.1\n-0.9\n0.2\n0.3\n")
    kept = (line / "run/answers/seen/answer.json").read_bytes()
    result = call("query", line / "run", "--observation", other, same_name)
    assert result.code == 0, result.err
    assert (line / "run/answers/seen/answer.json").read_bytes() == kept
    folders = {f.name for f in (line / "run/answers").iterdir()}
    assert {"seen", "other"} < folders
    assert len(folders) == 3  # the other file called seen.csv has an answer of its own
    said = json.loads((line / "run/answers/other/answer.json").read_text())["observation"]
    assert said["files"] == {str(other): hashlib.sha256(other.read_bytes()).hexdigest()}
    assert [row.split()[:2] for row in result.out.splitlines()[5:7]] == [["other", "slope"], ["other", "offset"]]
    assert call("query", line / "run", "--observation", seen).code == 0
    assert call("report", line / "run").code == 0
    page = (line / "run/report.html").read_text()
    assert re.search(r"\d of 3 answers can be relied on", page)
    assert call("report", line / "run", "other").code == 0
    assert "answers can be relied on" not in (line / "run/report.html").read_text()
