"""Another answer beside one: where they disagree, what it is of, that it is kept, shown, and never taken for it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sciinf import Normal, Prior, load_answer, query
from sciinf.cli import cli
from sciinf.core import Answer, Draws, Finding, Observable, Posterior, Trust
from sciinf.core.beside import as_beside
from sciinf.core.estimates import estimates
from sciinf.core.files import read_json
from sciinf.interfaces.report import write_report

PRIOR = Prior(beta=(Normal(0.0, 1.0), "1/d"), gamma=(Normal(0.0, 1.0), "1/d"))
SEEN = {"y": np.arange(5.0)}
GOOD = Trust(0.5, "the observation looks like the simulations", "good")


def answer(
    beta=(1.9, 0.16), gamma=(0.5, 0.04), *, n=4_000, units=("1/d", "1/d"), names=("beta", "gamma"), **more
) -> Answer:
    noise = torch.randn(n, 2, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    noise = (noise - noise.mean(0)) / noise.std(0, correction=0)
    theta = torch.tensor([beta[0], gamma[0]]) + noise * torch.tensor([beta[1], gamma[1]])
    draws = Draws(names, units, theta, torch.zeros(n, dtype=torch.float64))
    told = {"observation": SEEN, "posterior": "reweighted", "name": "school", **more}
    return Answer(estimates(draws, 0.9), draws, None, GOOD, **told)


class Fixed(Posterior):
    """Gives the draws of an answer."""

    name, digest, trained_on = "fixed", "fixed", frozenset[str]()
    prior, observables = PRIOR, {"y": Observable((5,), "", ("time",))}

    def draw(self, x, n, *, generator):
        return answer().draws

    def draw_batched(self, x, n, *, generator):
        raise NotImplementedError

    def log_prob_batched(self, theta, x):
        raise NotImplementedError

    def features(self, x):
        return x["y"]


# --- what tells them apart --------------------------------------------------------------------------------------------


def test_where_two_answers_disagree_is_said_in_sds_of_both() -> None:
    mine, other = answer(), answer(beta=(1.737, 0.054))
    found = as_beside(mine, other)
    (name, cells, words), (_, none, agreed) = found.rows(mine.parameters, mine.draws.ess)
    assert (name, cells) == ("beta", ["-1.0", "-3.0", "0.34"])
    assert words == "is lower there by 1.0 of the sds here, 3.0 of its own and has an sd there of 0.34 times that here"
    assert (none, agreed) == (["+0.00", "+0.00", "1.0"], "")
    said = found.words(mine.parameters, mine.draws.ess)
    assert said.startswith(
        "Another posterior (reweighted), of the same data, not this one. The two DISAGREE: beta is lower"
    )
    assert "They agree on gamma, which confirms neither." in said
    assert said.endswith("Its own checks say: calibration UNKNOWN. Which of the two assumes more is for you to say.")


@pytest.mark.parametrize(
    ("beta", "n", "words"),
    [
        ((1.9 + 0.07, 0.16), 4_000, ""),  # less than half an sd
        ((1.9 + 0.10, 0.16), 4_000, "is higher there"),
        ((1.9 + 0.10, 0.16), 60, ""),  # three standard errors of so few draws
        ((1.9, 0.13), 4_000, ""),
        ((1.9, 0.12), 4_000, "has an sd there of 0.75"),
        ((1.9, 0.12), 30, ""),
        ((1.9, 0.21), 4_000, "has an sd there of 1.3"),
        ((1.9 + 0.06, 0.05), 4_000, "is higher there by 0.38 of the sds here, 1.2 of its own"),  # the narrower one's
        ((1.9 + 0.1, 0.05), 4_000, "is higher there by 0.63 of the sds here, 2.0 of its own and has an sd"),
    ],
)
def test_what_draws_scatter_is_no_disagreement(beta: tuple[float, float], n: int, words: str) -> None:
    found = as_beside(answer(), answer(beta=beta, n=n)).rows(answer().parameters, 4_000)
    assert found[0][2].startswith(words)
    assert bool(found[0][2]) == bool(words)


def test_it_is_told_whether_the_data_are_the_same() -> None:
    mine = answer()
    for seen, words in (
        (SEEN, "of the same data"),
        ({"y": np.arange(5.0) + 1}, "of OTHER data"),
        ({"y": np.arange(5.0), "z": np.zeros(2)}, "of data that are the same in part"),
        ({"counts": np.arange(5.0)}, "it cannot be told whether of the same data"),
    ):
        assert words in as_beside(mine, answer(observation=seen)).words(mine.parameters, 1.0)


def test_doubts_of_the_other_stand_with_it() -> None:
    checks = (Finding("residuals", "alarm", "no"), Finding("noise", "good", "yes"))
    other = answer(checks=checks)
    other = replace(other, trust=replace(GOOD, level="alarm", p_value=0.001))
    doubts = as_beside(answer(), other).doubts
    assert doubts == ("trust WARNING", "residuals WARNING"), "what decides its verdict"


def test_parameters_of_both_and_levels_of_the_one() -> None:
    mine = answer()
    other = answer(beta=(0.5, 0.1), gamma=(1.9, 0.16), names=("gamma", "delta"), units=("1 / d", "d"))
    found = as_beside(mine, replace(other, parameters=estimates(other.draws, 0.5)))
    assert list(found.parameters) == ["gamma"]
    assert found.parameters["gamma"].level == 0.9
    assert "It has no beta." in found.words(mine.parameters, 4_000)


def test_other_units_names_and_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="'beta' is in '1/d' here, and in '1/h' in the answer"):
        as_beside(answer(), answer(units=("1/h", "1/d")))
    with pytest.raises(ValueError, match="an answer of a, b cannot stand beside one of beta, gamma"):
        as_beside(answer(), answer(names=("a", "b")))


def test_an_sd_of_nothing_is_not_compared() -> None:
    one = answer().parameters["beta"]
    assert one.beside(replace(one, sd=0.0), 10, 10) == (["-"] * 3, "cannot be compared: an sd is 0, or not known")
    assert one.beside(replace(one, mean=math.nan), 10, 10)[1]
    flat = replace(one, sd=0.0)
    assert flat.beside(flat, 10, 10) == (["-"] * 3, "")


# --- kept and shown ---------------------------------------------------------------------------------------------------


def test_an_answer_keeps_those_beside_it_and_nothing_else_changes(tmp_path: Path) -> None:
    other = answer(beta=(1.737, 0.054))
    plain = query(Fixed(), SEEN, out=tmp_path / "plain", name="school")
    both = query(Fixed(), SEEN, out=tmp_path / "both", name="school", beside={"by equations": other})
    assert list(both.beside) == ["by equations"]
    assert "by equations" in both.table()
    assert "beside" not in plain.to_json()
    left_out = {k: v for k, v in both.to_json().items() if k != "beside"}
    assert left_out == plain.to_json()
    file = tmp_path / "both" / "answers" / "school" / "answer.json"
    assert read_json(file)["sha256"] == read_json(tmp_path / "plain" / "answers" / "school" / "answer.json")["sha256"]
    again = load_answer(tmp_path / "both")
    assert again.beside == both.beside
    assert again.table() == both.table()
    kept = query(Fixed(), SEEN, out=tmp_path / "both", name="school")
    assert kept.beside == both.beside  # asked again without a word of it
    with pytest.warns(UserWarning, match="made anew, and by equations no longer stands beside it"):
        query(Fixed(), SEEN, out=tmp_path / "both", name="school", draws=50)
    query(Fixed(), SEEN, out=tmp_path / "both", name="school", beside={"by equations": other})
    assert query(Fixed(), SEEN, out=tmp_path / "both", name="school", beside={}).beside == {}
    assert "beside" not in read_json(file)


def test_an_answer_that_cannot_stand_beside_is_refused_before_draws_are_made(tmp_path: Path) -> None:
    class Slow(Fixed):
        def draw(self, x, n, *, generator):
            raise AssertionError("drawn")

    with pytest.raises(ValueError, match="'beta' is in '1/d' here"):
        query(Slow(), SEEN, beside={"hours": answer(units=("1/h", "1/d"))})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two run folders."""
    folder = tmp_path_factory.mktemp("beside")
    query(Fixed(), SEEN, out=folder / "jumps", name="school")
    narrow = Fixed()
    narrow.draw = lambda x, n, generator: answer(beta=(1.737, 0.054)).draws
    narrow.digest = "narrow"
    query(narrow, SEEN, out=folder / "equations", name="school")
    return folder


def test_a_report_shows_both_and_says_that_they_are_not_one(runs: Path) -> None:
    page = write_report(runs / "jumps", beside={"by equations": runs / "equations"}).read_text()
    assert "Beside other answers" in page
    assert '<th scope="row">by equations</th>' in page
    assert "the two DISAGREE: beta is lower there by 1.0 of the sds here, 3.0 of its own" in page.replace(
        "The two", "the two"
    )
    assert "Nothing of this answer was taken from them" in page
    assert "another posterior (fixed), of the same data, not this one" in page
    again = write_report(runs / "jumps").read_text()
    assert "Beside other answers" not in again  # on that page alone


def test_a_report_of_an_answer_that_has_others_always_shows_them(runs: Path, tmp_path: Path) -> None:
    query(Fixed(), SEEN, out=tmp_path, name="school", beside={"<b>": runs / "equations"})
    page = write_report(tmp_path).read_text()
    assert '<th scope="row">&lt;b&gt;</th>' in page
    assert "<b><b>" not in page


def test_reports_beside_from_the_command_line(runs: Path) -> None:
    done = CliRunner().invoke(cli, ["report", str(runs / "jumps"), "--beside", str(runs / "equations")])
    assert done.exit_code == 0, done.output
    assert '<th scope="row">equations</th>' in (runs / "jumps" / "report.html").read_text()
    done = CliRunner().invoke(cli, ["report", str(runs / "jumps"), "--beside", f"ODE={runs / 'equations'}"])
    assert '<th scope="row">ODE</th>' in (runs / "jumps" / "report.html").read_text()
    done = CliRunner().invoke(cli, ["report", str(runs / "jumps"), "--beside", str(runs / "nowhere")])
    assert done.exit_code == 2
    assert "there is no run folder" in done.output


def test_of_several_answers_each_has_its_own_beside(runs: Path, tmp_path: Path) -> None:
    for name, add in (("one", 0.0), ("two", 1.0)):
        for run in ("jumps", "equations"):
            query(Fixed(), {"y": SEEN["y"] + add}, out=tmp_path / run, name=name)
    page = write_report(tmp_path / "jumps", beside={"ODE": tmp_path / "equations"}).read_text()
    assert page.count("of the same data, not this one") == 2
    with pytest.raises(ValueError, match="has no answer called 'one', and 2 are reported on"):
        write_report(tmp_path / "jumps", beside={"ODE": runs / "equations"})
    with pytest.raises(ValueError, match="'ODE' is one answer, and 2 are reported on"):
        write_report(tmp_path / "jumps", beside={"ODE": answer()})
