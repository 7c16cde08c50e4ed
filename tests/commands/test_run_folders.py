"""What a question without a simulator is told."""

from __future__ import annotations

import os

import pytest

from sciinf.core.files import write_json
from sciinf.interfaces.commands.run_folders import run_folder, run_of, tell_report_is_older, tell_what_lacks


@pytest.mark.parametrize(("amortised", "without", "told"), [({"a": 1}, "it is gone", True), ({"a": 1}, "", False)])
def test_a_question_without_a_simulator_is_told_that_others_were_corrected(tmp_path, capsys, amortised, without, told):
    folder = tmp_path / "answers" / "day"
    folder.mkdir(parents=True)
    write_json(folder / "answer.json", {"amortised": amortised})
    tell_what_lacks(tmp_path, without)
    said = capsys.readouterr().err
    assert ("not corrected by the likelihood, nor compared" in said) == told
    assert ("it is gone. To use one, give --simulator SIM.py" in said) == told


def test_answers_that_were_not_corrected_or_are_damaged_say_nothing(tmp_path, capsys):
    for name, text in (("plain", None), ("damaged", "{")):
        folder = tmp_path / "answers" / name
        folder.mkdir(parents=True)
        if text is None:
            write_json(folder / "answer.json", {"amortised": None})
        else:
            (folder / "answer.json").write_text(text)
    tell_what_lacks(tmp_path, "")
    assert capsys.readouterr().err == ""
    tell_what_lacks(tmp_path, "it is gone")
    assert "this answer is not compared with data" in capsys.readouterr().err


def test_a_report_that_is_older_than_the_calibration_is_told_of(tmp_path, capsys):
    (tmp_path / "calibration.json").touch()
    tell_report_is_older(tmp_path)
    (tmp_path / "report.html").touch()
    tell_report_is_older(tmp_path)
    assert capsys.readouterr().err == ""
    os.utime(tmp_path / "report.html", (0, 0))
    tell_report_is_older(tmp_path)
    assert "report.html does not show this calibration; renew it with `sciinf report" in capsys.readouterr().err


def test_a_run_is_named_by_its_folder_or_by_its_fit(tmp_path):
    run = run_folder(str(tmp_path / "run"))
    (run / "fit").mkdir()
    assert run_of(str(run / "fit")) == str(run / "fit")  # no fit in it
    (run / "fit" / "fit.json").touch()
    assert run_of(str(run / "fit")) == run_of(str(run)) == str(run)


def test_a_folder_of_runs_names_them(tmp_path):
    for name in ("decay", "early"):
        (tmp_path / "runs" / name / "fit").mkdir(parents=True)
        (tmp_path / "runs" / name / "fit" / "fit.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="is no run, but holds some: decay, early; name one of them: .*decay"):
        run_of(str(tmp_path / "runs"))
    assert run_of(str(tmp_path / "runs" / "decay" / "fit")) == str(tmp_path / "runs" / "decay")
    assert run_of(str(tmp_path / "none")) == str(tmp_path / "none")
