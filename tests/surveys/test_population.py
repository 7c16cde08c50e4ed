"""What all rows of a survey say together, where truths outside the prior have the data of truths within."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciinf import Observable, Prior, Simulator, Uniform, calibrate, load_answers, query_all, simulate
from sciinf.core import DensityUnavailable
from sciinf.diagnostics.views import Ranked
from sciinf.interfaces.surveys.population import LEAST, distance, judged, p_values_of
from sciinf.posteriors.learned import LearnedPosterior

NOISE, NUMBERS = 0.1, 5


class Folded(Simulator):
    """A frequency as it is sampled: 1 + f gives the data of 1 - f. Truths are from `low` to `high`."""

    observables = {"x": Observable((NUMBERS,))}

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        self.name, self.prior = f"folded_{low}_{high}", Prior(f=Uniform(low, high))

    def __call__(self, theta, *, generator):
        seen = 1 - (theta - 1).abs()
        return {"x": seen + NOISE * torch.randn(len(theta), NUMBERS, generator=generator)}


class Exact(LearnedPosterior):
    """Its exact posterior under a prior that knows frequencies up to 1: a normal law, cut off; or one that is wide."""

    def __init__(self, sd: float = NOISE / NUMBERS**0.5) -> None:
        self.sd = sd
        self.name, self.digest, self.trained_on = "amortised", "exact", frozenset()
        simulator = Folded()
        self.prior, self.observables = simulator.prior, simulator.observables

    def draw_batched(self, x, n, *, generator):
        mean, sd = x["x"].double().mean(1), self.sd
        low, high = (torch.special.ndtr((end - mean) / sd) for end in (0.0, 1.0))
        level = low + (high - low) * torch.rand(n, len(mean), generator=generator, dtype=torch.float64)
        theta = mean + sd * torch.special.ndtri(level.clamp(1e-300, 1 - 1e-16))
        return theta.clamp(0, 1).float()[..., None]

    def log_prob_batched(self, theta, x):
        raise DensityUnavailable("not needed")

    def features(self, x):
        return x["x"]


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    fresh = simulate(Folded(), tmp_path_factory.mktemp("folded") / "fresh", 3_000, seed=1, progress=False)
    return calibrate(Exact(), fresh, scores=[], progress=False)


def asked(rows, seed, calibration, path, *, low=0.0, high=1.0, **how):
    """The answers to rows whose truths are spread evenly, and what they say together."""
    store = simulate(Folded(low, high), path / f"{low} {seed}", rows, seed=seed, progress=False)
    how = {"draws": 20, "kept": 1, "progress": False} | how
    answers = query_all(Exact(), {"x": store.load().x["x"]}, path / f"answers {low} {seed}", calibration, **how)
    return answers, answers.found["population"]


@pytest.mark.slow
def test_truths_outside_the_prior_that_look_like_others_show_together(checked, tmp_path) -> None:
    """Frequencies from 1 to 1.4 look like those from 0.6 to 1: nothing else in the survey says so."""
    answers, said = asked(320, 2, checked, tmp_path, low=1.0, high=1.4)
    assert (answers.column("trust") == "good").mean() > 0.9
    assert answers.found["trust"]["alarm"] < 12  # 3 by chance; 12 or more in one of 8,000 surveys
    assert checked.passed
    assert said["level"] == "caution"
    assert "100% of the draws of f of" in said["verdict"]
    assert "That alone is no fault" in said["verdict"]
    assert "does not speak for these rows" in said["verdict"]
    line = next(line for line in answers.summary().splitlines() if line.startswith("population"))
    assert line.startswith("population    caution: the rows together are unlike the prior")
    assert load_answers(answers.folder).found["population"] == said


def test_rows_of_the_prior_are_as_it_is(checked, tmp_path) -> None:
    _, said = asked(320, 3, checked, tmp_path)
    assert said["level"] == "good"
    assert "tells of no single row" in said["verdict"]


def test_truths_outside_that_are_spread_as_the_prior_do_not_show(checked, tmp_path) -> None:
    """Which nobody can tell: their data are those of the prior."""
    assert asked(320, 4, checked, tmp_path, low=1.0, high=2.0)[1]["level"] == "good"


@pytest.mark.slow
def test_posteriors_as_wide_as_the_prior_do_not_make_the_rows_good(tmp_path) -> None:
    """All truths are at 0.9: narrow posteriors show it; of wide ones nobody can tell, which is not said to be good."""
    x = 0.9 + NOISE * torch.randn(400, NUMBERS, generator=torch.Generator().manual_seed(0))
    how = {"draws": 12, "kept": 1, "progress": False}
    found = {sd: query_all(Exact(sd), {"x": x}, tmp_path / str(sd), **how).found["population"] for sd in (0.04, 5.0)}
    assert found[0.04]["level"] == "caution"
    assert found[5.0]["level"] == "unknown"
    assert "the data say too little of f for any rows to differ" in found[5.0]["verdict"]


def test_parameters_of_which_the_data_say_little_are_named() -> None:
    rng = np.random.default_rng(0)
    pairs = {name: (rng.normal(size=500), rng.normal(size=2_000)) for name in "ab"}
    one, both = (judged(pairs, most=most) for most in ({"a": 0.05, "b": 0.4}, {"a": 0.05, "b": 0.02}))
    assert (one.level, both.level) == ("good", "unknown")
    assert "the data say too little of a for any rows" in one.words
    assert "of a, b for any rows" in both.words
    assert "too little" not in judged(pairs).words
    far = {"a": (rng.normal(size=500) + 1, pairs["a"][1])}
    assert judged(far, most={"a": 0.01}).level == "caution", "what differs is said, whatever was expected"


def test_a_network_draws_anew_where_nothing_is_kept(ball, tmp_path) -> None:
    x = simulate(ball.simulator, tmp_path / "store", 400, seed=5, progress=False).load().x["x"]
    how = {"draws": 9, "seed": 2**70, "progress": False}  # a seed that torch's generators do not take
    found = [query_all(ball.posterior, {"x": x}, tmp_path / str(k), **how) for k in range(2)]
    one, other = (answers.found["population"] for answers in found)
    assert one == other
    assert one["level"] != "unknown"
    assert "parameters were not compared" not in one["verdict"]


def test_rows_that_are_outside_tell_of_themselves(ball, tmp_path) -> None:
    """A hundred of 500 lie far off: marked as outside, and left out of what is compared."""
    x = simulate(ball.simulator, tmp_path / "store", 500, seed=6, progress=False).load().x["x"]
    x[::5] += 30.0
    found = query_all(ball.posterior, {"x": x}, tmp_path / "a", ball.calibration, draws=9, progress=False).found
    assert 100 <= found["trust"]["alarm"] < 117  # 4 more by chance; 17 or more in one of a million surveys
    assert found["population"]["level"] == "good"


@pytest.mark.slow
def test_what_cannot_be_compared_is_said(ball, checked, tmp_path) -> None:
    _, said = asked(320, 6, checked, tmp_path, kept=0)
    assert "parameters were not compared: no draws are kept" in said["verdict"]
    assert "whose distribution functions" in said["verdict"]  # the p-values are
    _, said = asked(320, 7, None, tmp_path, kept=0)
    assert said["level"] == "unknown"
    assert "nobody can tell" in said["verdict"]
    _, said = asked(LEAST - 1, 8, checked, tmp_path)
    assert (said["level"], "are too few" in said["verdict"]) == ("unknown", True)


@pytest.mark.parametrize("step", [1e-9, 0.5], ids=["no ties", "ties"])
def test_p_values_of_equal_data_are_equal(step) -> None:
    """Counts often give data that are the same. At most 1 % of surveys by chance; 5 of 60 in one test of 2,000."""
    generator, found = torch.Generator().manual_seed(0), list[str]()
    for _ in range(60):
        far, rows = ((torch.randn(n, 3, generator=generator).double() / step).round() * step for n in (200, 400))
        p = Ranked(far).p_values(rows).numpy()
        found.append(judged({"p-values": (p[p >= 0.01], p_values_of(far))}, gap=0.01).level)
    assert sum(level != "good" for level in found) < 5


@pytest.mark.slow
def test_chance_alone_is_as_rare_as_it_says() -> None:
    """Without the forgiven gap, in 1 % of surveys: of 1,000, more than 22 in one test of 4,000 (binomial)."""
    rng = np.random.default_rng(0)

    def level(shift=0.0, gap=0.0, n=500):
        pairs = {name: (rng.normal(size=n) + shift, rng.normal(size=2_000)) for name in "abc"}
        return judged(pairs, gap=gap).level

    assert sum(level() != "good" for _ in range(1_000)) <= 22
    assert level(shift=1.0, gap=0.05) == "caution"
    assert distance(np.arange(10.0), np.arange(10.0)) == 0
    assert distance(np.zeros(3), np.ones(7)) == 1
