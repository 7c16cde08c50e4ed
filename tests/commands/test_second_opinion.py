"""What a second network said of an answer is told again of an answer to the same data, and no more than it said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from sample_run import make_calibration

from sciinf.core import Answer, Draws, Finding, Observable, Trust
from sciinf.core.files import read_json, write_json
from sciinf.core.findings import Evidence
from sciinf.diagnostics.right import Kind, local_check
from sciinf.interfaces.answer import save_answer
from sciinf.interfaces.asking import recall, remember, undecided_in

NETWORK = cast(Any, SimpleNamespace(digest="0123456789", observables={"x": Observable((3,))}, names=("a",)))
SEEN = {"x": np.array([0.1, 0.2, 0.3])}
CHECKS = {
    "unseen": local_check(Kind.UNSEEN, "centres within 0.1 sds, widths within 7% (2,000)"),
    "lost": local_check(
        Kind.LOST, "the network leaves part of the data on a unused (3% of its error variance) (2,000)"
    ),
    "few": local_check(Kind.UNTOLD, "centres within 0.2 sds, widths within 14% (2,000)"),
}


def told(run: Path, check: Finding, differs: tuple[float, float], own: str, state: Any = "passed") -> Finding:
    """The check of a new answer to the same data, and that of its `answer.json`, which must be the same."""
    calibration = replace(make_calibration(NETWORK, torch.Generator().manual_seed(0)), state=state)
    draws = Draws(("a",), ("",), torch.zeros(2, 1), torch.zeros(2))
    answer = Answer({}, draws, calibration, Trust(None, "", "unknown"), checks=(check,), name="seen")
    save_answer(answer, run / "answers/seen")
    (folder := run / "refined/seen").mkdir(parents=True, exist_ok=True)
    x = {name: torch.as_tensor(value)[None].float() for name, value in SEEN.items()}
    remember(folder, NETWORK, x, differs, 500, own)
    found = recall(run, NETWORK, SEEN, answer, run)
    said = read_json(run / "answers/seen/answer.json")
    assert said["checks"] == [found.checks[0].to_json()]
    assert {key: said[key] for key in ("verdict", "sentence")} == found.verdict.to_json()
    return found.checks[0]


@pytest.mark.parametrize(
    ("check", "differs", "own", "kind"),
    [
        ("unseen", (0.05, 0.02), "", Kind.RIGHT), ("lost", (0.05, 0.02), "good", Kind.RIGHT),
        ("few", (0.05, 0.02), "good", Kind.RIGHT), ("unseen", (0.05, 0.02), "alarm", Kind.HINTED),
        ("lost", (0.3, 0.02), "", Kind.HINTED), ("few", (0.3, 0.02), "", Kind.HINTED),
        ("unseen", (0.12, 0.02), "", Kind.UNSETTLED),
    ],
)  # fmt: skip
def test_it_is_told_again(check: str, differs: Any, own: str, kind: Kind, tmp_path: Path) -> None:
    found = told(tmp_path, CHECKS[check], differs, own)
    assert (found.kind, found.evidence) == (kind, Evidence.NETWORK if kind == Kind.RIGHT else Evidence.CHECK)
    assert found.level == local_check(kind, "").level
    assert "a second network, trained on 500 simulations around it" in found.words


@pytest.mark.parametrize("check", ["lost", "few"])
def test_of_a_network_that_has_no_check_of_its_own_it_stays_open(check: str, tmp_path: Path) -> None:
    """It was asked where the first check saw no error; with another seed that check may find something."""
    found = told(tmp_path, CHECKS[check], (0.05, 0.02), "")
    assert found == CHECKS[check]
    written = read_json(file := tmp_path / "refined/seen/compared.json")
    write_json(file, {key: value for key, value in written.items() if key != "own"})
    answer = SimpleNamespace(checks=(found,), name="seen", calibration=None)
    assert recall(tmp_path, NETWORK, SEEN, replace(_answer(), checks=(found,)), tmp_path).checks == (found,)
    assert undecided_in(cast(Any, answer)) == found, "and it is asked for its own check"


def test_nothing_is_right_where_the_network_is_wrong_on_average(tmp_path: Path) -> None:
    """An answer was confirmed, and its network calibrated on more simulations afterwards."""
    for check in CHECKS.values():
        assert told(tmp_path, check, (0.05, 0.02), "good", state="not passed") == check


def test_of_two_rounds_for_the_same_data_one_that_settles_it_is_told(tmp_path: Path) -> None:
    assert told(tmp_path, CHECKS["lost"], (0.05, 0.02), "") == CHECKS["lost"]
    (folder := tmp_path / "refined/twin").mkdir()
    x = {name: torch.as_tensor(value)[None].float() for name, value in SEEN.items()}
    remember(folder, NETWORK, x, (0.05, 0.02), 500, "good")
    found = recall(tmp_path, NETWORK, SEEN, replace(_answer(), checks=(CHECKS["lost"],)), tmp_path)
    assert found.checks[0].kind == Kind.RIGHT


def test_another_observation_or_network_is_not_told(tmp_path: Path) -> None:
    assert told(tmp_path, CHECKS["unseen"], (0.05, 0.02), "").kind == Kind.RIGHT
    for network, x in ((NETWORK, {"x": SEEN["x"] + 0.1}), (SimpleNamespace(**vars(NETWORK) | {"digest": "b"}), SEEN)):
        assert recall(tmp_path, cast(Any, network), x, _answer(), tmp_path).checks == (CHECKS["unseen"],)


def _answer() -> Answer:
    draws = Draws(("a",), ("",), torch.zeros(2, 1), torch.zeros(2))
    return Answer({}, draws, None, Trust(None, "", "unknown"), checks=(CHECKS["unseen"],), name="seen")
