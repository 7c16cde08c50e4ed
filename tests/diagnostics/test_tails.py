"""Tails that are too light are seen and named, those that are right are not, and a small error is forgiven."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import distributions as td

from sciinf import calibrate, simulate
from sciinf.core import Batch, Calibration, Case, Draws, Observable, Posterior, Prior, Simulator, X
from sciinf.diagnostics.agreement import LEVELS, Agreement, agreements, judged, too_light
from sciinf.diagnostics.calibration import load_calibration
from sciinf.diagnostics.tails import Tails, beyond, odds, tail_agreements

NOISE = 0.01  # sds of the prior
WIDE = 20.0  # times, for a share of the data of `a`
NAMES = ("a", "b")


class Noisy(Simulator):
    """x = theta + noise, of which a share in `a` is 20 times as wide."""

    name = "noisy"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0))
    observables = {"x": Observable((2,), "", ("channel",))}

    def __init__(self, share: float = 0.0) -> None:
        self.share = share

    def __call__(self, theta: torch.Tensor, *, generator: torch.Generator) -> X:
        noise = NOISE * torch.randn(theta.shape, generator=generator)
        noise[:, 0] *= torch.where(torch.rand(len(theta), generator=generator) < self.share, WIDE, 1.0)
        return {"x": theta + noise}


class Gaussian(Posterior):
    """The posterior where no noise is wide, with its width multiplied; it counts the draws that it makes."""

    name, trained_on = "Gaussian", frozenset()
    prior, observables = Noisy.prior, Noisy.observables

    def __init__(self, width: float = 1.0) -> None:
        self.width, self.digest, self.made = width, f"Gaussian {width}", 0

    def _law(self, x: X) -> td.Normal:
        left = 1 / (1 + NOISE**2)
        return td.Normal(left * x["x"], self.width * NOISE * math.sqrt(left))

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        return Draws(NAMES, ("", ""), self.draw_batched(x, n, generator=generator)[:, 0], torch.zeros(n))

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> torch.Tensor:
        law = self._law(x)
        self.made += n * len(law.mean)
        return law.mean + law.stddev * torch.randn(n, *law.mean.shape, generator=generator)

    def log_prob_batched(self, theta: torch.Tensor, x: X) -> torch.Tensor:
        return self._law(x).log_prob(theta).sum(-1)

    def features(self, x: X) -> torch.Tensor:
        return x["x"]


def data(share: float, rows: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    theta = Noisy.prior.sample(rows, generator=generator)
    return Batch(theta, Noisy(share)(theta, generator=generator))


def looked(share: float, rows: int = 5_000, width: float = 1.0, seed: int = 0) -> dict[str, Agreement]:
    """All tests of a calibration but HPD and TARP."""
    fresh, generator, posterior = data(share, rows, seed), torch.Generator().manual_seed(seed), Gaussian(width)
    draws = posterior.draw_batched(fresh.x, 127, generator=generator)
    ranks = (draws < fresh.theta).sum(0)
    outside = beyond(posterior, fresh, ranks, 127, generator)
    log_q = posterior.log_prob_batched(fresh.theta[None], fresh.x)[0]
    found = agreements({"ranks": ranks}, NAMES, 127, generator, (fresh.theta, draws[:31]))
    return found | tail_agreements(outside, NAMES, posterior.prior.log_prob(fresh.theta), log_q)


def test_spans_of_an_exact_posterior_hold_99_9_per_cent_and_few_draws_tell() -> None:
    fresh, generator, posterior = data(0.0, 40_000), torch.Generator().manual_seed(1), Gaussian()
    ranks = torch.cat(
        [
            (posterior.draw_batched({"x": x}, 127, generator=generator) < theta).sum(0)
            for x, theta in zip(fresh.x["x"].split(5_000), fresh.theta.split(5_000), strict=True)
        ]
    )
    first, posterior.made = posterior.made, 0
    outside = beyond(posterior, fresh, ranks, 127, generator)
    assert outside.shape == (40_000, 2)
    # 80 of 80,000 on average: false alarms 1e-4, and a span of one draw in a hundred less would have 80 more
    low, high = binom.interval(1 - 1e-4, 80_000, 0.001)
    assert low <= outside.sum() <= high
    assert posterior.made < 2 * 9.0 * 40_000 < 0.15 * first  # 8 a parameter, sd .1


def test_more_than_sixteen_parameters_take_fewer_simulations() -> None:
    ranks = torch.full((1_000, 32), 5)
    assert beyond(Gaussian(), data(0.0, 1_000), ranks, 127, torch.Generator()).shape == (500, 32)


@pytest.mark.parametrize("size", [1, 4])
def test_odds_of_exact_posteriors_are_p_values(size: int) -> None:
    """1 / e is below alpha in at most alpha of 400 calibrations: false alarms of the test 1e-3."""
    generator, left = torch.Generator().manual_seed(2), 1 / (1 + NOISE**2)
    p = []
    for _ in range(400):
        x = math.sqrt(1 / left) * torch.randn(500, size, generator=generator, dtype=torch.float64)
        law = td.Normal(left * x, NOISE * math.sqrt(left))
        theta = law.mean + law.stddev * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        prior = td.Normal(0.0, 1.0).log_prob(theta).sum(1)
        p.append(math.exp(-odds(prior, law.log_prob(theta).sum(1))))
    for alpha in (0.05, 0.2):
        assert sum(each < alpha for each in p) <= binom.ppf(1 - 5e-4, 400, alpha)


def test_odds_of_one_truth_that_is_out_of_place() -> None:
    log_p, log_q = torch.zeros(1_000).double(), torch.full((1_000,), 3.0).double()
    assert odds(log_p, log_q) < 0
    log_q[5] = -40.0
    expected = torch.tensor([math.log(1 - w + w * math.exp(40)) + 999 * math.log(1 - w + w * math.exp(-3)) for w in
                             (1e-5, 1e-4, 1e-3, 1e-2)]).logsumexp(0) - math.log(4)  # fmt: skip
    assert odds(log_p, log_q) == pytest.approx(float(expected), rel=1e-5)
    log_q[5] = -math.inf
    assert odds(log_p, log_q) == math.inf
    log_q[5] = math.nan
    assert odds(log_p, log_q) < 0


@pytest.mark.slow
def test_exact_posteriors_are_not_called_too_light() -> None:
    # Holm-corrected at .003, of each of 20 calibrations; two or more: false alarms .0017
    assert sum(bool(too_light(looked(0.0, 2_000, seed=seed))) for seed in range(20)) < 2


def test_a_tail_that_is_much_too_light_does_not_pass_and_is_named_with_its_cure() -> None:
    """1 % of 20 times the width: the 99.9 % interval holds 99 %, those of 95 % and less what they should."""
    state, cautious, reasons = judged(looked(0.01))
    assert (state, cautious) == ("not passed", False)
    named = [reason for reason in reasons if reason.startswith("tail of a is too light: its 99.9% interval holds 9")]
    assert len(named) == 1
    assert not any(reason.startswith(("tail of b", "interval", "rank")) for reason in reasons)
    assert "StudentT" in reasons[-1]


def test_a_small_error_of_tails_is_told_and_forgiven() -> None:
    """.15 % of 20 times the width: 99.9 % intervals hold 99.77 %, and truths are where the posterior has no density."""
    tests = looked(0.0015)
    state, _, reasons = judged(tests)
    assert state == "passed"
    assert "tail of all parameters" in too_light(tests)
    assert "tail of all parameters is too light: truths lie where the density is down to" in reasons[1]
    assert "StudentT" in reasons[-1]


def test_a_tail_whose_interval_holds_enough_is_not_called_too_light() -> None:
    """Whatever its densities say: far out in a tail of 99.9 % nobody reads an answer."""
    for found, expected in ((0.9992, []), (0.9988, ["tail of all parameters"])):
        test = Agreement("tail", 1e-9, np.array([found]), 10_000, "the worst")
        assert list(too_light({"tail of all parameters": test})) == expected


def test_tails_take_no_power_from_the_other_tests() -> None:
    """Two tests at a p-value of .0049 are just significant at .01, with any number of tails beside them."""
    off = {f"rank of {n}": Agreement("rank", 0.0049, LEVELS + 0.05, 5_000) for n in NAMES}
    right = {f"tail of {n}": Agreement("tail", 0.5, np.array([0.999]), 5_000) for n in "abcdefgh"}
    assert judged(off | right)[0] == judged(off)[0] == "not passed"


def test_intervals_that_are_too_narrow_are_no_matter_of_tails_alone() -> None:
    state, _, reasons = judged(looked(0.0, width=0.8))
    assert state == "not passed"
    assert any(reason.startswith("interval of a is too narrow") for reason in reasons)
    assert not any("StudentT" in reason for reason in reasons)


def test_calibrate_keeps_what_it_found_and_answers_of_high_level_say_so(tmp_path: Path) -> None:
    fresh = simulate(Noisy(0.02), tmp_path / "fresh", 1_000, seed=4, progress=False)
    found = calibrate(Gaussian(), fresh, tmp_path / "run", progress=False)
    assert found.state == "not passed"
    assert any(words.startswith("tail of a is too light") for words in found.tails)
    assert load_calibration(tmp_path / "run").tails == found.tails
    (check,) = Tails()(Case(Gaussian(), cast(Any, None), 0.99, found))
    assert check.level == "caution"
    assert "tail of a is too light" in check.words
    assert Tails()(Case(Gaussian(), cast(Any, None), 0.9, found)) == ()
    assert Tails()(Case(Gaussian(1.1), cast(Any, None), 0.99, found)) == ()
    assert Tails()(Case(Gaussian(), cast(Any, None), 0.99, None)) == ()


def test_a_calibration_of_an_older_version_knows_of_no_tails() -> None:
    known = {"names": ["a"], "ranks": [[1]], "draws": 1, "levels": [], "coverage": [], "tarp": [], "p_values": {}}
    more = {"gaps": {}, "of": "", "fit": "", "simulations": "", "failed_rows": 0, "state": "passed", "reasons": []}
    assert Calibration.from_json({**known, **more}).tails == ()
