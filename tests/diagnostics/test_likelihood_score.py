"""A likelihood that tells less than a network is named in the answer."""

from __future__ import annotations

import pytest
import torch
from exact_ball import X_O, Exact, answer_of, findings_of, likelihood_of

from sciinf.core import Level, load_simulator
from sciinf.diagnostics.likelihood_score import score_gain
from sciinf.interfaces.answer import query
from sciinf.posteriors.reweighted import Reweighted


@pytest.fixture
def ball(root):
    return load_simulator(root / "simulators/linear_gaussian.py")


def gain_of(ball, network, log_likelihood, seed=0):
    generator = torch.Generator().manual_seed(seed)
    theta = network.draw({"x": X_O["x"][None]}, 1_000, generator=generator).theta
    ball.log_likelihood = log_likelihood
    gain = score_gain(network, ball, theta, ball(theta, generator=generator))
    assert gain is not None
    return float(gain.mean()), float(gain.sum())


def test_the_right_likelihood_is_never_worse_than_a_network(ball):
    """The exact network is as good as it, but for the share of 1 / m; wider ones are worse. False alarms: 3e-7."""
    right = likelihood_of()
    assert all(gain_of(ball, Exact(ball), right, seed)[1] < 15 for seed in range(3))
    assert all(gain_of(ball, Exact(ball, 1.5), right, seed)[1] < 0 for seed in range(3))
    shifted = likelihood_of(constant=9.2)
    assert gain_of(ball, Exact(ball), shifted) == pytest.approx(gain_of(ball, Exact(ball), right), abs=1e-9)


@pytest.mark.parametrize("wrong", [{"first": 3}, {"scale": 2.0}, {"scale": 0.5}])
def test_a_network_that_tells_more_is_seen(ball, wrong):
    mean, total = gain_of(ball, Exact(ball), likelihood_of(**wrong))
    assert mean > 0.1
    assert total > 15


def test_an_answer_by_a_right_likelihood_has_no_such_line(ball):
    assert not findings_of(answer_of(ball), "likelihood score")


def test_an_answer_by_a_part_of_the_data_is_not_to_be_relied_on_and_names_the_rest(ball):
    answer = answer_of(ball, first=3)
    (score,) = findings_of(answer, "likelihood score")
    assert score.level == Level.ALARM
    assert "does not use 2 of the 5 numbers of 'x'" in answer.verdict.sentence


def test_a_network_that_is_worse_does_not_excuse_data_that_are_left_out(ball):
    ball.log_likelihood = likelihood_of(first=4)
    answer = query(Reweighted(Exact(ball, 3.0), ball), X_O, simulator=ball, draws=2_000)
    (score,) = findings_of(answer, "likelihood score")
    assert score.level == Level.CAUTION
    assert "does not use 1 of the 5 numbers of 'x'" in score.words
    assert "they may matter" in score.words
