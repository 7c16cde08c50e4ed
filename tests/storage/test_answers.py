"""Where the answers of a run folder lie."""

from __future__ import annotations

import shutil
from pathlib import Path

from sciinf import load_answer
from sciinf.core.files import read_json, write_json
from sciinf.interfaces.run_answers import newest_answers


def test_a_refined_answer_is_read_in_place_of_what_it_was(line: Path) -> None:
    """Unless the rounds began from another network than the run has."""
    run, refined = line / "run", line / "run/refined/seen"
    shutil.copytree(run / "answers", refined / "answers")
    (refined / "rounds").mkdir()
    write_json(refined / "rounds/refined.json", {"first": read_json(run / "fit/fit.json")["digest"]})
    assert newest_answers(run) == {"seen": run / "answers/seen"}, "it is not calibrated yet"
    (refined / "calibration.json").write_text("{}")
    for first, folder in ((read_json(run / "fit/fit.json")["digest"], refined), ("another", run)):
        write_json(refined / "rounds/refined.json", {"first": first})
        assert newest_answers(run) == {"seen": folder / "answers/seen"}
    assert load_answer(run).name == "seen"
