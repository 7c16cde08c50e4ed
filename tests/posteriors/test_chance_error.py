"""The chance error of a refined answer: what tells of it, when rounds end by it, and what is called right."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from narrow import NOISE, PRIOR, Narrow, Wrong, X, exactly_refined, fit_of, generator
from sample_run import make_calibration

from sciinf.campaigns.store import Store
from sciinf.core.findings import Evidence
from sciinf.diagnostics import around, here
from sciinf.diagnostics.around import simulate_around
from sciinf.diagnostics.here import check_here
from sciinf.diagnostics.right import Kind, local_check
from sciinf.interfaces.answer import query
from sciinf.interfaces.commands.refine import UntilSettled, gained
from sciinf.posteriors import refined
from sciinf.posteriors.around import Law, Mixture
from sciinf.posteriors.changes import agree, changes, error_left
from sciinf.posteriors.refined import Refined, refine_around
from sciinf.training import Recipe


@pytest.fixture(scope="module")
def known():
    return exactly_refined()


def test_rounds_end_where_the_last_hardly_moved_an_answer_that_no_check_doubts(known, monkeypatch):
    def after(posterior, error):
        return Refined(fit_of(known), posterior, known.last, X, frozenset(), error)

    words, settled = gained(Narrow(), after(known.mixture, (0.05, 0.05)))
    assert settled
    told = "chance error, by how far this round moved the answer: centres by up to 0.05 sds, widths by up to 5.13%"
    assert words.startswith(f"{told} (limits 0.1 sds, 6.67%); right at this observation")
    monkeypatch.setattr(around, "ROWS", 500)
    monkeypatch.setattr(here, "_BESIDE", 2.0)
    assert "(8,000 simulations around it)" in gained(Narrow(), after(known.mixture, (0.06, 0.0)))[0], "it looks twice"
    monkeypatch.setattr(here, "WIDTH", 0.001)
    assert gained(Narrow(), after(known.mixture, (0.06, 0.04)))[1], "it cannot be told, and hardly moved"
    monkeypatch.undo()
    monkeypatch.setattr(here, "_HEAVY", 0.0)
    words, settled = gained(Narrow(), after(known.mixture, (0.0, 0.0)))
    assert ("it may be off at this observation" in words, settled) == (True, False), "a caution goes on, too"
    monkeypatch.undo()
    words, settled = gained(Narrow(), after(known.mixture, (0.12, 0.0)))
    assert not settled
    assert "observation" not in words, "and is not checked"
    assert not gained(Narrow(), after(known.mixture, (0.0, 0.08)))[1], "its width changed"
    assert not gained(Narrow(), after(known.mixture, (math.nan, 0.0)))[1], "it cannot be told by how much it moved"
    moved = Mixture(PRIOR, [(weight, Law(law.centre + 0.15, law.factor)) for weight, law in known.mixture.parts], {})
    assert not gained(Narrow(), after(moved, (0.0, 0.0)))[1], "it is not right, though it did not move"


@pytest.mark.parametrize(("before", "new"), [(100, 100), (300, 100), (100, 200)])
def test_what_a_round_moved_tells_the_error_that_is_left(before, new):
    """Of means of so many numbers, 4,000 times over: the ratio of the two has a relative error of .016."""
    numbers = torch.randn(4_000, before + new, generator=generator(), dtype=torch.float64)
    after = numbers.mean(1)
    moved = after - numbers[:, :before].mean(1)
    times, _ = error_left((1.0, 0.0), before, before + new)
    assert float(times * moved.std() / after.std()) == pytest.approx(1.0, abs=0.07)
    assert error_left((0.3, 0.2), 0, new) == (0.3, 0.2), "the answer before was another network's"


def test_only_an_answer_that_hardly_moved_is_called_right_and_only_at_its_own_observation(known):
    said = {}
    for error in (0.05, 0.12, 0.2):
        posterior = Refined(fit_of(known), known.mixture, known.last, X, frozenset(), (error, 0.0))
        for name, x in (("own", X), ("other", {"x": X["x"] + 0.1 * NOISE})):
            theta = posterior.draw_batched(x, 2_000, generator=generator())[:, 0]
            simulated = simulate_around(posterior, Narrow(), theta, rows=4_000, generator=generator())
            (check,) = check_here(posterior, x, simulated, generator=generator())
            said[name, error] = check.kind, check.level, check.evidence
    assert said["own", 0.05] == (Kind.RIGHT, "good", Evidence.ROUNDS)
    assert said["other", 0.05] == (Kind.UNSEEN, "good", Evidence.CHECK)
    for name in ("own", "other"):
        for error in (0.12, 0.2):
            assert said[name, error] == (Kind.UNSETTLED, "unknown", Evidence.CHECK)
    unknown = Refined(fit_of(known), known.mixture, known.last, X, frozenset())
    assert not agree(unknown.error), "it is not called right where its error is not known"


def test_an_answer_that_the_last_round_still_moved_is_not_called_right(known):
    """Two rounds of a model of eight parameters were .4 sds apart, and the local check called the last right."""
    said = {}
    for moved in (0.12, 0.2):
        posterior = Refined(fit_of(known), known.mixture, known.last, X, frozenset(), (moved, 0.0))
        simulated = simulate_around(posterior, Narrow(), known.draw_batched(X, 2_000, generator=generator())[:, 0],
                                 rows=4_000, generator=generator())  # fmt: skip
        (said[moved],) = check_here(posterior, X, simulated, generator=generator())
    assert (said[0.12].level, said[0.2].level) == ("unknown", "unknown")
    assert said[0.12].kind == said[0.2].kind == Kind.UNSETTLED
    assert "its chance error, by how far the last round moved it, is large: centres by up to 0.2 sds" in said[0.2].words


@pytest.mark.parametrize(
    ("error", "level", "words"),
    [
        ((0.0, 0.05), "good", "right at this observation: centres within"),
        ((0.0, 0.08), "unknown", "widths by up to 8.33%"),
        ((0.0, 0.2), "unknown", "widths by up to 22.14%"),
        ((math.nan, 0.0), "unknown", "is large: centres by up to nan sds"),
    ],
)
def test_nor_is_one_whose_width_the_last_round_changed(known, error, level, words):
    posterior = Refined(fit_of(known), known.mixture, known.last, X, frozenset(), error)
    theta = known.draw_batched(X, 2_000, generator=generator())[:, 0]
    simulated = simulate_around(posterior, Narrow(), theta, rows=4_000, generator=generator())
    (said,) = check_here(posterior, X, simulated, generator=generator())
    assert (said.level, words in said.words) == (level, True)


class Failing(Narrow):
    """Half of the rows of its first three batches fail."""

    def __call__(self, theta, *, generator):
        x = super().__call__(theta, generator=generator)["x"]
        return {"x": torch.where((torch.arange(len(x)) % 2 == self.calls // 4)[:, None], math.nan, x)}


def test_simulations_that_fail_teach_nothing_and_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(refined, "changes", lambda before, after, x: (0.1, 0.0))
    how = {"simulations": (300, 400), "recipe": Recipe(epochs=1), "progress": False}
    found = refine_around(Failing(), X, tmp_path, Wrong(0.0, 1.0), **how)
    used = [len(Store(tmp_path / f"round_{k}/training")) for k in (1, 2)]
    assert used[0] == 150
    assert found.error[0] == pytest.approx(0.1 * math.sqrt(150 / (used[1] - 150)))


@pytest.mark.parametrize("state", ["passed", "not passed"])
@pytest.mark.parametrize("settled", [True, False])
def test_an_answer_of_a_network_that_is_wrong_on_average_is_right_only_where_rounds_have_settled_it(
    known, settled, state
):
    """Of data beside its own nothing but the local check tells, which does not speak against an average."""
    posterior = Refined(fit_of(known), known.mixture, known.last, X, frozenset(), (0.0, 0.0))
    calibration = replace(make_calibration(PRIOR, generator()), state=state, fit=posterior.digest)
    x = {"x": X["x"][0] + (0.0 if settled else 0.1) * NOISE}
    answer = query(posterior, x, simulator=Narrow(), calibration=calibration)
    (said,) = [check for check in answer.checks if check.name == here.NAME]
    others = [one for one in answer.findings if one.evidence is None and one.level != "good"]
    if settled:
        assert (said.kind, answer.verdict.evidence) == (Kind.RIGHT, Evidence.ROUNDS)
        assert answer.verdict.because == tuple(others)
    else:
        assert said.kind == (Kind.UNSEEN if state == "passed" else Kind.UNSETTLED)
        assert answer.verdict.level >= "caution"


@pytest.mark.parametrize(("shift", "ends"), [(0.0, 1), (0.4, 2)])
def test_the_first_round_confirms_an_answer_or_is_not_the_last(known, shift, ends):
    """Rounds that are there are asked about in turn; the first answer is .4 sds off or right."""
    unseen = local_check(Kind.UNSEEN, "centres within 0.1 sds, widths within 7%")
    until = UntilSettled(Narrow(), unseen, (1_000, 1_000, 2_000))
    after = Refined(fit_of(known), known.mixture, known.last, X, frozenset())
    told = []
    for after.error in (changes(Wrong(shift, 1.0), after, X), (0.0, 0.0))[:ends]:
        told.append(until(after))
    assert told == [False, True][-ends:]
    assert (until.ended, until.confirmed, until.check.level) == (ends, ends == 1, "good" if ends == 1 else "caution")


@pytest.mark.parametrize(
    ("kind", "heavy", "confirmed"), [(Kind.UNSEEN, 0.0, True), (Kind.LOST, 9.0, True), (Kind.LOST, 0.0, False)]
)
def test_an_answer_with_hints_is_confirmed_by_one_without(known, kind, heavy, confirmed, monkeypatch):
    """A heavy tail is said of the second network's answer where `heavy` is 0."""
    monkeypatch.setattr(here, "_HEAVY", heavy)
    until = UntilSettled(Narrow(), local_check(kind, "some words"), (1_000, 1_000, 2_000))
    found = Refined(fit_of(known), known.mixture, known.last, X, frozenset(), (0.05, 0.02))
    assert until(found) == until.confirmed == confirmed
    assert until.own == (None if kind == Kind.UNSEEN else "good" if confirmed else "caution")
    assert ("; its own check " in until.words) == (kind != Kind.UNSEEN)
    assert not UntilSettled(Narrow(), None, (1_000, 1_000, 2_000))(found), "it did not confirm"
