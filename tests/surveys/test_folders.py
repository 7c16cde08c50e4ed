"""What a folder of answers says of itself: which survey it is of, by which version, and whether all of it is there."""

from __future__ import annotations

import shutil

import pytest

from sciinf import load_answers, query_all
from sciinf.campaigns.storage.folder import LocalFolder
from sciinf.interfaces.surveys.block import file_of
from sciinf.interfaces.surveys.description import NAME, as_bytes, identity, taken_up
from sciinf.interfaces.surveys.drawing import RowAnswers


def test_an_edited_description_is_refused(ball, tmp_path) -> None:
    query_all(ball.posterior, ball.store, tmp_path / "a", draws=20, progress=False)
    file = tmp_path / "a" / "answers.json"
    file.write_text(file.read_text().replace('"not checked"', '"passed"', 1))
    with pytest.raises(ValueError, match="damaged, or was edited by hand.*move it away and run the same command"):
        load_answers(tmp_path / "a")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*.h5")}
    file.unlink()
    assert query_all(ball.posterior, ball.store, tmp_path / "a", draws=20, progress=False).complete
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "a").rglob("*.h5")}


def test_a_folder_without_its_blocks_is_unfinished(ball, tmp_path) -> None:
    ask = {"draws": 20, "progress": False}
    query_all(ball.posterior, ball.store, tmp_path / "a", **ask)
    shutil.rmtree(tmp_path / "a" / "blocks")
    found = load_answers(tmp_path / "a")
    assert "unfinished    0 of 300" in found.summary()
    with pytest.raises(ValueError, match="0 of 300 rows; go on"):
        _ = found.found
    assert len(found.to_dataframe()) == len(found.column("row")) == len(found.outside) == 0
    assert query_all(ball.posterior, ball.store, tmp_path / "a", seed=1, **ask).about["seed"] == 1  # nothing is lost


def test_a_folder_that_is_taken_meanwhile_is_left_alone(ball, tmp_path, monkeypatch) -> None:
    ask = {"draws": 20, "progress": False}

    def meanwhile(self, seen, start, whole=RowAnswers.block, left=[1]):
        if left and left.pop():  # nothing is written yet
            query_all(ball.posterior, ball.store, tmp_path / "a", seed=1, **ask)
        return whole(self, seen, start)

    monkeypatch.setattr(RowAnswers, "block", meanwhile)
    with pytest.raises(ValueError, match="was taken for other answers meanwhile"):
        query_all(ball.posterior, ball.store, tmp_path / "a", **ask)
    assert load_answers(tmp_path / "a").complete


def test_another_version_of_the_checks_is_refused(ball, tmp_path, monkeypatch) -> None:
    ask = {"draws": 20, "progress": False}
    monkeypatch.setattr("sciinf.interfaces.surveys.description.CHECKS", 1)
    query_all(ball.posterior, ball.store, tmp_path / "a", **ask)
    monkeypatch.setattr("sciinf.interfaces.surveys.description.CHECKS", 2)
    assert load_answers(tmp_path / "a").complete
    with pytest.raises(ValueError, match="another version of what is checked; give another folder.*which began it"):
        query_all(ball.posterior, ball.store, tmp_path / "a", **ask)


def test_a_folder_of_the_first_version_is_read_and_not_gone_on_with(ball, tmp_path) -> None:
    answers = query_all(ball.posterior, ball.store, tmp_path / "a", draws=20, progress=False)
    about = {key: value for key, value in answers.about.items() if key not in ("found", "checked")}
    about["survey"] = identity(about)
    folder = LocalFolder(tmp_path / "b")
    folder.replace(NAME, as_bytes(about))
    folder.replace(file_of(0), b"")
    assert "unfinished" in load_answers(tmp_path / "b").summary()
    with pytest.raises(ValueError, match="another version of what is checked"):
        taken_up(folder, answers.about)
