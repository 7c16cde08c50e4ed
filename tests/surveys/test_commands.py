"""`sciinf query --observations`: a folder, a table, a picture; and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from astropy.table import QTable
from command_line import call

from sciinf import build_posterior, load_answers
from sciinf.core.files import read_json, versions
from sciinf.interfaces.exports.answers_table import survey_table, write_answers
from sciinf.interfaces.figures.survey import survey_figure, write_picture
from sciinf.interfaces.surveys import asking


@pytest.fixture(scope="module")
def asked(ball, tmp_path_factory):
    """A run, and its answers."""
    folder = tmp_path_factory.mktemp("commands")
    run, out = folder / "run", folder / "answers"
    shutil.copytree(ball.trained_on.path / ".." / "fit", run / "fit")
    for name in ("calibration.json", "reference.safetensors"):
        shutil.copy(ball.trained_on.path / ".." / name, run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sciinf.interfaces.commands.querying._DRAWS", 100)
        words = ["query", run, "--observations", ball.store.path, "--out", out, "--draws", 2]
        yield run, out, call(*words, "--table", folder / "all.ecsv"), call(*words, "--json"), folder / "all.ecsv"


def test_a_survey_from_the_command_line(ball, asked) -> None:
    run, out, first, again, _ = asked
    assert first.code == again.code == 0
    verdicts, calibration, *_ = first.out.splitlines()
    assert verdicts.startswith("verdicts      ")
    assert calibration.startswith("calibration   ")
    assert "290 of 300 answered" in first.out
    said = json.loads(again.out)
    assert said["found"]["digest"] == load_answers(out).digest
    assert said["run"] == str(run)
    assert load_answers(out).draws(0).shape == (2, 3)
    assert (out / "summary.png").stat().st_size < 60_000
    assert (out / "log.txt").is_file()


def test_a_survey_says_where_it_came_from(ball, asked) -> None:
    run, out, *_ = asked
    said, answers = read_json(out / "provenance.json"), load_answers(out)
    assert said["digests"] == {
        "fit": ball.fit.digest,
        "calibration": answers.about["calibration_sha256"],
        "observations": ball.store.digest,
        "survey": answers.about["survey"],
        "answers": answers.digest,
    }
    assert (said["run"], said["observations"], said["seed"]) == (str(run), str(ball.store.path), 0)
    assert said["command"].startswith("sciinf ")
    assert said["versions"] == versions()
    assert len(said["history"]) == 2
    assert said["seconds"]["total"] > 0


def test_a_table_has_units_and_verdicts(ball, asked, tmp_path) -> None:
    _, out, *_, table = asked
    found = QTable.read(table)
    assert len(found) == 300
    assert str(found["velocity_q50"].unit) == "m / s"
    assert found["outside"].sum() == len(load_answers(out).outside)
    assert set(found["calibration"]) == {ball.calibration.state}
    assert "not done" in " ".join(found.meta["comments"])
    for suffix in (".fits", ".h5", ".csv"):
        write_answers(load_answers(out), tmp_path / f"all{suffix}")
    assert str(QTable.read(tmp_path / "all.fits")["height_sd"].unit) == "m"
    assert np.allclose(QTable.read(tmp_path / "all.h5")["height_sd"].value, found["height_sd"].value, equal_nan=True)
    assert "height_q5 [m]" in (tmp_path / "all.csv").read_text().splitlines()[0]
    with pytest.raises(ValueError, match="unknown kind of table"):
        write_answers(load_answers(out), tmp_path / "all.parquet")


def test_the_picture_says_that_nothing_was_checked(ball, asked, tmp_path) -> None:
    figure = survey_figure(load_answers(asked[1]))
    assert len(figure.axes) == 4
    assert " of 290 outside (" in figure.axes[0].get_title(loc="left"), "of the rows that were compared"
    unchecked = asking.query_all(ball.posterior, ball.store, tmp_path / "a", draws=5, progress=False)
    figure = survey_figure(unchecked)
    assert figure.get_suptitle() == "calibration: not checked"
    assert figure.axes[0].get_title(loc="left") == "never compared"
    assert write_picture(unchecked, tmp_path / "a.png").stat().st_size < 60_000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "a"), "Missing option '--observation'"),
        (("--observations", "store"), "takes a folder for the answers: --out"),
        (("--observations", "store", "--observation", "b.csv", "--out", "a"), "were both given"),
        (("--observations", "store", "--out", "a", "--draws", "b.h5"), "how many draws of each row to keep"),
        (("--observations", "store", "--out", "a", "--column", "x=b"), "--column is for --observation"),
        (("--observations", "store", "--out", "a", "--table", "b.parquet"), "unknown kind of table"),
        (("--observations", "store", "--out", "a"), "holds no simulations"),
        (("--observations", "c.h5", "--out", "a"), "there is no 'c.h5': observations are a file with a row for each"),
        (("--observations", "store", "--out", "s3://bucket/a"), "is an address of objects"),
        (("--observation", "b.csv", "--table", "b.fits"), "--table is of many observations"),
    ],
)
def test_what_is_refused(asked, tmp_path, monkeypatch, words, said) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    (tmp_path / "b.csv").write_text("x\n1\n")
    result = call("query", asked[0], *words)
    assert result.code == 2
    assert said in result.err
    assert not (tmp_path / "s3:").exists()


@pytest.mark.slow
def test_a_table_may_lie_in_the_folder_of_answers(ball, asked, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("sciinf.interfaces.commands.querying._DRAWS", 20)
    out = tmp_path / "answers"
    words = ["query", asked[0], "--observations", ball.store.path, "--out", out, "--table", out / "all.fits"]
    for _ in range(2):
        assert call(*words).code == 0
        assert len(QTable.read(out / "all.fits")) == 300


@pytest.mark.slow
def test_whose_calibration_it_is_is_said_everywhere(ball, tmp_path) -> None:
    exact = build_posterior(ball.fit, ball.simulator, ess=50)
    x = ball.store.load().x["x"][:4]
    found = asking.query_all(exact, {"x": x}, tmp_path / "a", ball.calibration, draws=50, progress=False)
    said = f"{ball.calibration.state} (of the amortised posterior)"
    assert found.summary().splitlines()[1].startswith("calibration   ")
    assert ": of the amortised posterior: " in found.summary().splitlines()[1]
    assert found.to_dataframe().attrs["calibration"] == said
    assert (np.asarray(survey_table(found)["calibration"]) == said).all()
    assert survey_figure(found).get_suptitle() == f"calibration: {said}"


def test_a_run_without_a_fit(tmp_path) -> None:
    result = call("query", tmp_path / "none", "--observations", "store", "--out", tmp_path / "a")
    assert result.code == 2
    assert "no fit.json" in result.error
