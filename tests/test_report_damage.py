"""A report of a folder that lacks something, or holds what is damaged: it says so, and shows the rest."""

from __future__ import annotations

import json
import shutil

import pytest
from sample_run import Decay, Page, make_run, make_store

from sciinf.core.files import write_json
from sciinf.core.findings import Level
from sciinf.core.prior import Prior
from sciinf.core.unknown_law import Unknown
from sciinf.interfaces.figures.run_folder import read_runs
from sciinf.interfaces.figures.verdicts import verdict_of
from sciinf.interfaces.report import write_report


def test_what_is_missing_is_said_and_the_rest_is_shown(tmp_path):
    folder = make_run(tmp_path)
    sentences = {
        "draws.h5": "no posterior draws",
        "predictive.h5": "No data were simulated from the posterior",
        "calibration.json": "has not been checked on fresh simulations",
        "fit/history.csv": "no training history",
        "simulations/store.json": "holds no training simulations",
        "provenance.json": "was not recorded",
    }
    for file in sentences:
        (folder / file).unlink()
    text = Page(write_report(folder).read_text()).text
    for sentence in sentences.values():
        assert sentence in text
    assert "0.56 to 1.50" in text
    (folder / "answer.json").unlink()
    assert "No observation has been asked about" in Page(write_report(folder).read_text()).text


def test_what_is_damaged_is_said_and_the_rest_is_shown(tmp_path):
    folder = make_run(tmp_path)
    damaged = ["draws.h5", "predictive.h5", "calibration.json", "fit/history.csv", "simulations/store.json"]
    for file in damaged:
        (folder / file).write_bytes(b"{ not what it was")
    text = Page(write_report(folder).read_text()).text
    for file in damaged:
        assert f"{file} could not be read" in text
    assert "0.56 to 1.50" in text


def test_files_of_another_answer_are_not_shown(tmp_path):
    folder = make_run(tmp_path)
    answer = json.loads((folder / "answer.json").read_text())
    write_json(folder / "answer.json", {**answer, "sha256": {"draws.h5": "0" * 64}})
    page = Page(write_report(folder).read_text())
    assert "draws.h5 could not be read: it is damaged, or not of the answer in answer.json" in page.text
    assert page.tags.count("figure") == 3 + 2 + 1
    assert "corner" not in (folder / "report.html").read_text().partition("<body>")[2].partition("<script")[0]


@pytest.mark.slow
def test_a_file_that_is_not_to_be_relied_on_is_no_green_light(tmp_path):
    folder = make_run(tmp_path)
    assert "Rely on this answer: " in Page(write_report(folder).read_text()).text
    answer = json.loads((folder / "answer.json").read_text())
    answer["parameters"]["rate"]["median"] *= 2
    write_json(folder / "answer.json", answer)
    text = Page(write_report(folder).read_text()).text
    (found,) = verdict_of(next(iter(read_runs(folder).values()))).because
    assert (found.name, found.level) == ("files", Level.CAUTION)
    assert "Rely with care on this answer: answer.json is not of the draws in draws.h5" in text
    assert "answer.json is not of the draws in draws.h5" in text


def test_simulations_alone_make_a_page(tmp_path):
    make_store(tmp_path / "simulations", Decay(("rate",), ("1/h",)), 50, 0)
    text = Page(write_report(tmp_path).read_text()).text
    assert "decay" in text
    assert "ran longer than 60 s" in text


def test_numbers_that_are_null_are_shown_as_dashes(tmp_path):
    folder = make_run(tmp_path)
    answer = json.loads((folder / "answer.json").read_text())
    answer["parameters"]["rate"] |= {"mean": None, "sd": None, "interval": [None, None]}
    write_json(folder / "answer.json", answer)
    assert "– to –" in Page(write_report(folder).read_text()).text


def test_nothing_to_report_on_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds nothing to report on.*sciinf infer"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"checks": [{"name": "tails", "verdict": "fine"}]}, "the check 'tails' has no 'level'"),
        ({"checks": [{"level": "good", "verdict": "fine"}]}, "check 1 has no 'name'"),
        ({"parameters": {"rate": {"median": 1.0}}}, "the parameter 'rate' has no 'mean'"),
        ({"calibration": {"reasons": ["well"]}}, "the calibration has no 'passed'"),
        (
            {"calibration": {"reasons": ["well"], "state": "fine"}},
            "the calibration's state is 'fine', none of",
        ),
    ],
)
def test_an_answer_that_lacks_what_is_shown_is_named_with_the_way_out(tmp_path, damage, words):
    folder = make_run(tmp_path)
    answer = json.loads((folder / "answer.json").read_text())
    write_json(folder / "answer.json", {**answer, **damage})
    run = next(iter(read_runs(folder).values()))
    said = " ".join(run.doubts)
    assert f"answer.json could not be read: {words}" in said
    assert "; ask again with `sciinf query`" in said
    assert verdict_of(run).level != Level.GOOD


def test_a_calibration_that_lacks_a_part_is_named_with_the_way_out(tmp_path):
    folder = make_run(tmp_path)
    found = json.loads((folder / "calibration.json").read_text())
    del found["ranks"]
    write_json(folder / "calibration.json", found)
    run = next(iter(read_runs(folder).values()))
    said = "calibration.json could not be read: it has no 'ranks'; `sciinf calibrate` makes it again"
    assert said in run.doubts
    assert verdict_of(run).level != Level.GOOD


def test_a_run_whose_prior_nobody_knows_has_a_page(tmp_path):
    folder = make_run(tmp_path)
    shutil.rmtree(folder / "simulations")
    shutil.rmtree(folder / "calibration_simulations")
    fit = json.loads((folder / "fit" / "fit.json").read_text())
    fit["estimator"]["arguments"]["prior"]["$prior"] = Prior(amplitude=(Unknown(), "mV"), rate=Unknown()).to_json()
    write_json(folder / "fit" / "fit.json", fit)
    html = write_report(folder).read_text()
    assert "Rely on this answer: " in Page(html).text
    assert "<h2>Posterior</h2>" in html
