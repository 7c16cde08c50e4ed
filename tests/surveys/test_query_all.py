"""Answers to many observations are those of `query`, whatever blocks, kills and processes; and say what they lack."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from mixed_answers import Burst, ByWeights

from sciinf import build_posterior, load_answers, query, query_all
from sciinf.core.findings import Level
from sciinf.interfaces.surveys import asking
from sciinf.interfaces.surveys.block import Block, file_of, read_block, write_block
from sciinf.interfaces.surveys.drawing import RowAnswers, row_seed
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.ensemble import Ensemble

BAD_ROWS = [row for start in range(0, 300, 70) for row in (start + 3, start + 5) if row < 300]


@pytest.fixture(scope="module")
def answers(ball, tmp_path_factory):
    out = tmp_path_factory.mktemp("survey") / "answers"
    return query_all(ball.posterior, ball.store, out, ball.calibration, draws=600, kept=4, progress=False)


def like_query(answers, row, answer, *, draws=4):
    """Whether a row says what an answer says."""
    for name, e in answer.parameters.items():
        said = [float(answers.column(f"{name}_{what}")[row]) for what in ("mean", "sd", "q50", "q5", "q95")]
        assert said == pytest.approx([e.mean, e.sd, e.median, *e.interval], rel=1e-5, abs=1e-6)
    assert answers.column("trust")[row] == answer.trust.level
    assert answers.column("p_value")[row] == pytest.approx(answer.trust.p_value)
    worst = max((c.level for c in answer.checks if c.name != "few draws"), default=Level.GOOD)
    assert answers.column("checks")[row] == worst
    if draws:
        assert np.allclose(answers.draws(row), answer.draws.theta[:draws], rtol=1e-5, atol=1e-5)


def test_a_row_is_what_query_says_of_it(ball, answers) -> None:
    x = ball.store.load().x["x"]
    rows = [row for row in range(300) if row not in BAD_ROWS]
    for at in (0, 31, 100, 250, len(rows) - 1):
        row = rows[at]
        answer = query(ball.posterior, {"x": x[at]}, ball.calibration, draws=600, seed=row_seed(0, row))
        like_query(answers, row, answer)


def test_failed_rows_are_there_without_an_answer(ball, answers) -> None:
    assert len(answers) == 300
    status = answers.column("status")
    assert np.flatnonzero(status != "answered").tolist() == BAD_ROWS
    assert set(status[BAD_ROWS]) == {"not finite", "the simulation raised"}
    assert np.isnan(answers.column("height_q50")[BAD_ROWS]).all()
    assert set(answers.column("trust")[BAD_ROWS]) == set(answers.column("checks")[BAD_ROWS]) == {"none"}
    assert f"{300 - len(BAD_ROWS)} of 300 answered" in answers.summary()
    assert "the simulation raised: 5" in answers.summary()


@pytest.mark.slow
def test_the_digest_depends_on_no_block_order_or_stop(ball, answers, tmp_path, monkeypatch) -> None:
    asked = {"draws": 600, "kept": 4, "progress": False}

    def stopped(self, seen, start, whole=RowAnswers.block, left=[1]):
        if not left.pop() if left else True:
            raise KeyboardInterrupt
        return whole(self, seen, start)

    with monkeypatch.context() as patch:
        patch.setattr(RowAnswers, "block", stopped)
        with pytest.raises(KeyboardInterrupt):
            query_all(ball.posterior, ball.store, tmp_path / "a", ball.calibration, block=100, **asked)
    half = load_answers(tmp_path / "a")
    assert 0 < len(half) < 300
    assert not half.complete
    assert "unfinished" in half.summary()
    with pytest.raises(ValueError, match="rows; go on"):
        _ = half.found
    again = query_all(ball.posterior, ball.store, tmp_path / "a", ball.calibration, block=100, **asked)
    assert again.about["block"] == 109  # whole passes of 109 rows
    assert again.digest == answers.digest == answers.found["digest"]
    assert (
        again.digest != query_all(ball.posterior, ball.store, tmp_path / "b", draws=600, kept=4, progress=False).digest
    )


def test_a_pass_that_begins_elsewhere_would_show(ball, answers) -> None:
    """The seed of a row is its position's: the same rows at other positions have other draws."""
    x = ball.store.read(0)[1].x
    seen = asking.observations_of(ball.store, ball.posterior).read(0, 70)
    found = RowAnswers(answering_of(ball, answers).judge, answering_of(ball, answers).wanted)
    here, there = found.block(seen, 0), found.block(seen, 109)
    assert not np.array_equal(here.columns["mean"][0], there.columns["mean"][0])
    assert len(x["x"]) == 70


def answering_of(ball, answers):
    from sciinf.interfaces.question import judge_of
    from sciinf.interfaces.surveys.drawing import SurveyOptions

    return RowAnswers(
        judge_of(ball.posterior, ball.calibration, "exclude"), SurveyOptions(answers.levels, draws=600, kept=4)
    )


def test_two_processes_in_one_folder_do_no_harm(ball, answers, tmp_path, monkeypatch) -> None:
    asked = {"draws": 600, "kept": 4, "block": 100, "progress": False}
    made = []

    def meanwhile(self, seen, start, whole=RowAnswers.block):
        made.append(start)
        if len(made) == 1:  # another process does all of it while this one is at its first block
            query_all(ball.posterior, ball.store, tmp_path / "a", ball.calibration, **asked)
        return whole(self, seen, start)

    monkeypatch.setattr(RowAnswers, "block", meanwhile)
    found = query_all(ball.posterior, ball.store, tmp_path / "a", ball.calibration, **asked)
    assert found.digest == answers.digest
    assert len(made) == 4, "three blocks of the other, and one twice"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["torn", "changed", "of another block"])
def test_a_damaged_block_is_named_and_made_anew(ball, answers, tmp_path, fault) -> None:
    asked = {"draws": 600, "kept": 4, "block": 100, "progress": False}
    query_all(ball.posterior, ball.store, tmp_path / "a", ball.calibration, **asked)
    file = tmp_path / "a" / file_of(1)
    data = file.read_bytes()
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    other = (tmp_path / "a" / file_of(0)).read_bytes()
    file.write_bytes({"torn": data[:-100], "changed": bytes(changed), "of another block": other}[fault])
    with pytest.raises(ValueError, match=r"00000001\.h5 is damaged.*same command"):
        _ = load_answers(tmp_path / "a").digest
    again = query_all(ball.posterior, ball.store, tmp_path / "a", ball.calibration, **asked)
    assert again.digest == answers.digest


def test_each_block_is_read_once_for_all_columns(answers, monkeypatch) -> None:
    read = []
    monkeypatch.setattr(
        type(answers), "block", lambda self, k, *a, own=type(answers).block: read.append(k) or own(self, k, *a)
    )
    assert len(answers.to_dataframe()) == 300
    assert len(read) == len(set(read))


def test_rows_unlike_the_simulations_are_outside(ball, tmp_path) -> None:
    x = ball.store.load().x["x"][:60].clone()
    x[7] += torch.tensor([0.0, 40.0, -40.0, 40.0, 0.0])
    x[9, 2] = torch.nan
    found = query_all(ball.posterior, {"x": x}, tmp_path / "a", ball.calibration, draws=100, progress=False)
    assert 7 in found.outside
    assert found.column("trust")[7] == "alarm"
    assert len(found.outside) <= 5  # 1 % of 59 by chance: more than 4 beside the planted one in 4 of 10,000 tests
    assert found.column("status")[9] == "not finite"
    assert found.said(9) == "not finite: there is nothing to ask about"
    assert "do not believe their answers" in found.summary()


def test_without_a_calibration_it_says_so_first(ball, tmp_path) -> None:
    found = query_all(ball.posterior, ball.store, tmp_path / "a", draws=50, progress=False)
    verdicts, calibration, *_ = found.summary().splitlines()
    assert verdicts == f"verdicts      cannot tell: {300 - len(BAD_ROWS)} of 300 rows"
    assert calibration.startswith("calibration   UNKNOWN: never checked")
    assert set(found.column("trust")) == {"unknown", "none"}
    assert "run `sciinf calibrate`" in found.summary()
    assert "few draws" in found.summary(), "50 draws leave ends of 90 % intervals uncertain by .3 sd"


def test_what_is_not_done_is_said(answers) -> None:
    said = " ".join(answers.about["not_done"])
    each = "an average over the prior", "no data are simulated", "not corrected", "no row is refined"
    for words in (*each, "no likelihood weights them"):
        assert words in said
        assert words in answers.summary()


def test_refusals(ball, answers, tmp_path) -> None:
    ask = {"draws": 20, "progress": False}
    query_all(ball.posterior, ball.store, tmp_path / "a", ball.calibration, **ask)
    with pytest.raises(ValueError, match="another seed; give another folder"):
        query_all(ball.posterior, ball.store, tmp_path / "a", ball.calibration, seed=1, **ask)
    with pytest.raises(ValueError, match="answers with other observations and another number"):
        query_all(ball.posterior, {"x": torch.zeros(3, 5)}, tmp_path / "a", ball.calibration, **ask)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").write_text("")
    with pytest.raises(ValueError, match=r"holds other files \(mine\)"):
        query_all(ball.posterior, ball.store, tmp_path / "c", **ask)
    with pytest.raises(ValueError, match=r"'x' has shape \(3, 4\), expected \(rows, 5\)"):
        query_all(ball.posterior, {"x": torch.zeros(3, 4)}, tmp_path / "d", **ask)
    with pytest.raises(ValueError, match=r"has \['y'\], the posterior is for"):
        query_all(ball.posterior, {"y": torch.zeros(3, 5)}, tmp_path / "d", **ask)
    with pytest.raises(ValueError, match="draws must be an integer of at least 1, got 0"):
        query_all(ball.posterior, ball.store, tmp_path / "d", draws=0)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        query_all(ball.posterior, ball.store, tmp_path / "d", seed=-1)
    with pytest.raises(ValueError, match="address of objects"):
        query_all(ball.posterior, ball.store, "s3://bucket/answers")
    with pytest.raises(ValueError, match="address of objects"):
        load_answers("s3://bucket/answers")
    with pytest.raises(FileNotFoundError, match="holds no answers to many observations"):
        load_answers(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="there is no column 'mass'"):
        answers.column("mass")
    with pytest.raises(ValueError, match="row 300 is not there"):
        answers.draws(300)


def test_observations_that_change_meanwhile_are_told(ball, tmp_path, monkeypatch) -> None:
    data = {"x": ball.store.load().x["x"][:20].clone().numpy()}

    def meanwhile(self, seen, start, whole=RowAnswers.block):
        data["x"][19] += 1.0
        return whole(self, seen, start)

    monkeypatch.setattr(RowAnswers, "block", meanwhile)
    with pytest.raises(ValueError, match="changed while it was asked about"):
        query_all(ball.posterior, data, tmp_path / "a", draws=20, progress=False)


def test_an_unfinished_store_is_refused(ball, tmp_path) -> None:
    shutil.copytree(ball.store.path, tmp_path / "store")
    for file in [*tmp_path.glob("store/shards/**/00000001.h5"), *tmp_path.glob("store/journal/*")]:
        file.unlink()
    with pytest.raises(ValueError, match="is unfinished: 1 of 5 blocks are missing"):
        query_all(ball.posterior, tmp_path / "store", tmp_path / "a", progress=False)


def test_a_posterior_around_one_observation_is_refused(ball, tmp_path) -> None:
    near = build_posterior(ball.fit)
    near.only = "for data like the observation"
    with pytest.raises(ValueError, match="does not hold for every observation"):
        query_all(near, ball.store, tmp_path / "a", progress=False)


@pytest.mark.slow
def test_likelihoods_and_ensembles_are_asked_row_by_row(ball, tmp_path) -> None:
    x = ball.store.load().x["x"][:4]
    exact = build_posterior(ball.fit, ball.simulator, ess=200)
    both = Ensemble([ball.posterior, build_posterior(ball.fit)])
    for name, posterior in {"weighted": exact, "ensemble": both}.items():
        found = query_all(posterior, {"x": x}, tmp_path / name, draws=300, kept=2, progress=False)
        answer = query(posterior, {"x": x[2]}, draws=300, seed=row_seed(0, 2))
        for parameter, e in answer.parameters.items():
            assert found.column(f"{parameter}_mean")[2] == pytest.approx(e.mean, rel=1e-5)
            assert found.column(f"{parameter}_q95")[2] == pytest.approx(e.interval[1], rel=1e-5)
        told = any("an average over the prior" in words for words in found.about["not_done"])
        assert told == (name != "weighted")  # weights by a likelihood are right at a row, or say that they are not
        assert found.column("ess")[2] == pytest.approx(answer.draws.ess, rel=1e-4)
        assert np.isfinite(found.column("pareto_k")).all() == (name == "weighted")
    assert "no likelihood weights" not in load_answers(tmp_path / "weighted").summary()


def test_discrete_parameters_have_probabilities(tmp_path) -> None:
    simulator = Burst()
    posterior = ByWeights(simulator)
    theta = simulator.prior.sample(6, generator=torch.Generator().manual_seed(4))
    x = simulator(theta, generator=torch.Generator().manual_seed(1))
    found = query_all(posterior, x, tmp_path / "a", draws=500, kept=3, progress=False)
    answer = query(posterior, {"flux": x["flux"][3]}, draws=500, seed=row_seed(0, 3))
    for k, label in enumerate(("decay", "wave")):
        assert found.column(f"P(model={label})")[3] == pytest.approx(answer.parameters["model"].probability[k])
    assert found.column("period_exists")[3] == pytest.approx(answer.parameters["period"].exists)
    assert np.allclose(found.column("height_q50")[3], answer.parameters["height"].median)
    assert found.column("checks")[3] == "unknown", "nobody compared the data with the listed models"
    assert next(c.words for c in answer.checks if c.name == "listed models") in found.said(3)
    assert "leaves unexplained of a row" in found.summary()
    assert "model_mean" not in found.columns, "a mean of codes says nothing"
    assert found.draws(3).shape == (3, len(posterior.prior))


def test_a_row_that_the_posterior_cannot_answer_says_why(tmp_path, ball) -> None:
    class Astray(type(ball.posterior)):
        def draw_batched(self, x, n, *, generator):
            found = ball.posterior.draw_batched(x, n, generator=generator)
            found[:, x["x"][:, 0] > 3] = torch.nan
            return found

        draw_within = draw_batched

    posterior = Astray(ball.fit)
    x = ball.store.load().x["x"][:40]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sciinf.interfaces.surveys.drawing.pushed", lambda *_: None)
        found = query_all(posterior, {"x": x}, tmp_path / "a", draws=50, progress=False)
    lost = np.flatnonzero(x[:, 0].numpy() > 3)
    assert len(lost)
    assert np.flatnonzero(found.column("status") == "no answer").tolist() == lost.tolist()
    assert "not finite" in found.said(int(lost[0]))
    assert f"no answer: {len(lost)}" in found.summary()


class Odd(Amortised):
    """A posterior that breaks on some rows: at 1 its draws, at 2 its comparison with simulations."""

    def __init__(self, fit, error: type[Exception] = RuntimeError):
        self.beneath, self.error = Amortised(fit), error
        Amortised.__init__(self, fit)

    def draw(self, x, n, *, generator):
        if float(x["x"][0, 0]) == 1:
            raise self.error("the solver did not converge")
        return self.beneath.draw(x, n, generator=generator)

    def features(self, x):
        if bool((x["x"][:, 0] == 2).any()):
            raise self.error("the solver did not converge")
        return self.beneath.features(x)


def test_rows_that_break_the_posterior_end_no_survey(ball, tmp_path) -> None:
    x = ball.store.load().x["x"][:30].double()
    x[4, 0], x[9, 0], x[11, 0] = 1.0, 2.0, 1e300
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sciinf.interfaces.surveys.drawing.pushed", lambda *_: None)
        found = query_all(Odd(ball.fit), {"x": x}, tmp_path / "a", ball.calibration, draws=50, progress=False)
        with pytest.raises(MemoryError):  # which another row would meet as well
            query_all(Odd(ball.fit, MemoryError), {"x": x}, tmp_path / "b", draws=50, progress=False)
    assert found.complete
    assert np.flatnonzero(found.column("status") == "no answer").tolist() == [4, 9, 11]
    assert all("did not converge" in found.said(row) for row in (4, 9))
    assert set(found.column("checks")[[4, 9, 11]]) == {"none"}
    assert np.isnan(found.column("height_q50")[[4, 9, 11]]).all()
    assert np.isfinite(np.delete(found.column("height_q50"), [4, 9, 11])).all()
    assert "no answer: 3" in found.summary()


@pytest.mark.slow
def test_the_screen_leaves_no_row_that_query_would_speak_of(ball, tmp_path) -> None:
    """Rows at the edge of the prior, and elsewhere: each level of `checks` is that of `query`."""
    theta = ball.simulator.prior.sample(120, generator=torch.Generator().manual_seed(8))
    theta[:60] += torch.tensor([2.5, 12.0, -12.0]) * torch.linspace(0, 1, 60)[:, None]
    x = ball.simulator(theta, generator=torch.Generator().manual_seed(1))
    found = query_all(ball.posterior, x, tmp_path / "a", ball.calibration, draws=400, progress=False)
    said = found.column("checks")
    assert {"good", "caution"} <= set(said)
    for row in range(0, 120, 3):
        answer = query(ball.posterior, {"x": x["x"][row]}, ball.calibration, draws=400, seed=row_seed(0, row))
        like_query(found, row, answer, draws=0)
        words = next((c.words for c in answer.checks if c.level == "caution" and c.name != "few draws"), "")
        assert words in found.said(row)


def test_blocks_that_are_not_of_the_folder_are_refused() -> None:
    block = Block({"mean": np.zeros((2, 1)), "status": np.zeros(2, np.uint8)}, {1: "so"})
    data = write_block(block, 3, "mine", {"a": "m"})
    assert read_block(data, 3, "mine").messages == {1: "so"}
    for wrong in ((3, "yours"), (4, "mine")):
        with pytest.raises(ValueError, match="other answers"):
            read_block(data, *wrong)
    assert file_of(1_234) == "blocks/001/00001234.h5"
