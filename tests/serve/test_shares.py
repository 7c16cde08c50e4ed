"""Links to answers: a question is found again by its id, for as long as there is room, and no other answer for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sciinf.core import Finding, Level
from sciinf.interfaces.question import QueryOptions
from sciinf.interfaces.serve.models import UnknownName
from sciinf.interfaces.serve.requests import ObservationRequest
from sciinf.interfaces.serve.shares import Shares
from sciinf.interfaces.serve.wire import pack

ONE = ObservationRequest(
    {"x": np.arange(5.0, dtype=np.float32)}, ("x: 5 values",), QueryOptions(draws=7, seed=3, files={"a.csv": "00"})
)


def test_a_question_is_found_again_after_a_restart(tmp_path: Path) -> None:
    first = Shares(tmp_path)
    key = first.key("run", "digest", ONE)
    first.keep(key, "run", ONE, b"answer")
    assert first.find(key, "run", "digest")[1] == b"answer"
    first.close()
    second = Shares(tmp_path)
    found, message = second.find(key, "run", "digest")
    assert message is None
    assert (found.wanted, found.read) == (ONE.wanted, ONE.read)
    assert np.array_equal(found.x["x"], ONE.x["x"])
    second.close()


def test_the_id_says_all_that_was_asked() -> None:
    others = [replace(ONE, wanted=replace(ONE.wanted, **{k: v})) for k, v in
              {"level": 0.8, "draws": 8, "seed": 4, "predicted": False, "name": "b"}.items()]  # fmt: skip
    others.append(replace(ONE, x={"x": np.arange(5.0, dtype=np.float32) + 1e-6}))
    keys = {Shares.key("run", "digest", one) for one in (ONE, *others)}
    keys |= {Shares.key("run", "other", ONE), Shares.key("copy", "digest", ONE)}
    assert len(keys) == len(others) + 3


@pytest.mark.parametrize(("model", "digest", "words"), [("other", "digest", "ask"), ("run", "new", "trained anew")])
def test_an_answer_of_another_network_is_not_given(model: str, digest: str, words: str, tmp_path: Path) -> None:
    shares = Shares(tmp_path)
    key = shares.key("run", "digest", ONE)
    shares.keep(key, "run", ONE, b"answer")
    with pytest.raises(UnknownName, match=words):
        shares.find(key, model, digest)
    with pytest.raises(UnknownName):
        shares.find("../" + key, "run", "digest")
    shares.close()


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    shares = Shares(tmp_path, most=1_000, bytes_on_disk=2_000)
    asked = [replace(ONE, wanted=replace(ONE.wanted, seed=seed)) for seed in range(40)]
    for one in asked:
        shares.keep(shares.key("run", "digest", one), "run", one, b"a" * 100)
    assert shares.find(shares.key("run", "digest", asked[-1]), "run", "digest")[1] is not None
    shares.close()
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2_000
    with pytest.raises(UnknownName):
        Shares(tmp_path).find(Shares.key("run", "digest", asked[0]), "run", "digest")


def test_what_could_not_be_told_as_it_was_read_is_part_of_a_question(tmp_path: Path) -> None:
    shares, told = Shares(tmp_path), replace(ONE, findings=(Finding("coordinates", Level.UNKNOWN, "not compared"),))
    key = shares.key("run", "digest", told)
    assert key != shares.key("run", "digest", ONE)
    shares.keep(key, "run", told, b"answer")
    assert shares.find(key, "run", "digest")[0].findings == told.findings
    shares.close()


DAMAGE = [b"", b"x" * 9, b"\x07\0\0\0\0\0\0\0[[[[[[[", b"\x10\0\0\0\0\0\0\0" + b"[" * 100_000, pack({}),
          pack({"model": "run"}), pack({"model": "run", "read": 1, "wanted": {}}),
          pack({"model": "run", "read": [], "wanted": {"level": "a"}}),
          pack({"model": "run", "read": [], "wanted": {"files": 1}})]  # fmt: skip


@pytest.mark.parametrize("content", [*DAMAGE, None])
def test_a_damaged_file_is_written_again_when_it_is_asked_again(content: bytes | None, tmp_path: Path) -> None:
    first = Shares(tmp_path)
    key = first.key("run", "digest", ONE)
    first.keep(key, "run", ONE, b"answer")
    first.close()
    (file,) = tmp_path.iterdir()
    file.unlink() if content is None else file.write_bytes(content)
    second = Shares(tmp_path)
    with pytest.raises(UnknownName, match="ask the question again"):
        second.find(key, "run", "digest")
    second.keep(key, "run", ONE, b"answer")
    assert second.find(key, "run", "digest")[1] == b"answer"
    second.close()
    third = Shares(tmp_path)
    assert third.find(key, "run", "digest")[0].wanted == ONE.wanted
    third.close()
