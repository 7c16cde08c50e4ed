"""Failures that depend on parameters are seen, placed and weighed; others are harmless."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import LogNormal, Normal

from sciinf import Prior
from sciinf.core import Calibration, DensityUnavailable, Draws, Observable, Posterior, X
from sciinf.diagnostics.failures import Failures, Reading, asked, check_failures, examine, independence, judge, mended
from sciinf.diagnostics.success import KINDS, fit_success

PRIOR = Prior(a=(Normal(5.0, 2.0), "m"), b=LogNormal(0.0, 0.5), c=Normal(0.0, 1e-20))


class Answering(Posterior):
    """The same normal law of z for every observation, to stand where a learned one does.

    With `fails`, a law of failures, it is what a perfect network makes of the successes.
    """

    def __init__(self, mean: float, sd: float, fails: Callable[[Tensor], Tensor] | None = None) -> None:
        self.name, self.digest, self.trained_on = "known", f"{mean} {sd}", frozenset()
        self.prior, self.observables, self.law, self.fails = PRIOR, {"x": Observable()}, (mean, sd), fails

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n, dtype=torch.float64))

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Tensor:
        z = torch.randn(20 * n, 3, generator=generator, dtype=torch.float64)
        z = z * self.law[1] + torch.tensor([self.law[0], 0.0, 0.0])
        if self.fails is not None:
            z = z[torch.rand(len(z), generator=generator) > self.fails(z)]
        return self.prior.bijection.inverse(z[:n, None])

    def log_prob_batched(self, theta: Tensor, x: X) -> Tensor:
        raise DensityUnavailable("not needed here")

    def features(self, x: X) -> Tensor:
        return x["x"][:, None]


def calibrated(said: Failures | None) -> Calibration | None:
    """A calibration that keeps what was found."""
    if said is None:
        return None
    none = np.zeros((0, 3))
    words: dict[str, Any] = {"of": "known", "fit": "", "simulations": "", "reasons": ()}
    return Calibration(
        PRIOR.names,
        none,
        1,
        none,
        none,
        none,
        {},
        {},
        **words,
        failed_rows=said.failed,
        state="passed",
        reference=said.tensors(),
    )


def answered(mean: float, sd: float, said: Failures | None = None, reading: Reading = "exclude") -> tuple[Any, Draws]:
    """A posterior around z = (mean, 0, 0), as `asked` by a reading, and its draws."""
    posterior = asked(Answering(mean, sd), calibrated(said), reading)
    return posterior, posterior.draw({"x": torch.zeros(1)}, 4_000, generator=torch.Generator().manual_seed(1))


def rows(fails: Callable[[Tensor], Tensor], n: int = 4_000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Parameters in R^D, and whether each row failed, given the probability of it."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return z, torch.rand(n, generator=generator) < fails(z)


def found(fails: Callable[[Tensor], Tensor], n: int = 4_000, seed: int = 0) -> Failures:
    z, failed = rows(fails, n, seed)
    return examine(PRIOR, PRIOR.bijection.inverse(z), failed)


def a_tenth(z: Tensor) -> Tensor:
    return torch.full_like(z[:, 0], 0.1)


def test_independent_failures_raise_no_alarm() -> None:
    ps = torch.tensor([independence(*rows(a_tenth, 200, seed)) for seed in range(100)])
    # At most 1 % below .01: more than 5 of 100 happen once in 2,000 times. The p-values are not constant either.
    assert int((ps < 0.01).sum()) <= 5
    assert int((ps < 0.5).sum()) > 10
    said = found(a_tenth)
    assert not said.depend
    assert "failures do not depend on the parameters (p = 0." in said.words(PRIOR)


CUTS: dict[str, tuple[Callable[[Tensor], Tensor], int, str]] = {
    "one side": (lambda z: z[:, 0] > 0.25, 1_000, "100% fail where a > 5.5 m (0% elsewhere)"),
    "one side, rare": (lambda z: z[:, 1] < -2.33, 2_000, "100% fail where b < 0.3"),
    "window": (lambda z: (z[:, 2] > 0.2) & (z[:, 2] < 0.7), 4_000, "100% fail where 2e-21 < c < 7e-21 (0% elsewhere)"),
    "not all": (lambda z: 0.5 * (z[:, 0] > 1), 2_000, "fail where a > 7.01 m (0% elsewhere)"),
    "product": (lambda z: z[:, 0] * z[:, 1] > 1.0, 2_000, "on a and b together"),
    "signs, which no single one shows": (lambda z: 0.05 + 0.3 * (z[:, 0] * z[:, 1] > 0), 2_000, "on a and b together"),
    "product, rare": (lambda z: z[:, 0] * z[:, 1] > 2.6, 10_000, "on a and b together"),
}


@pytest.mark.parametrize("name", CUTS)
def test_failures_that_depend_on_parameters_are_placed(name: str) -> None:
    fails, n, where = CUTS[name]
    said = found(fails, n)
    assert said.depend
    assert where in said.words(PRIOR)


def test_a_few_failures_cannot_be_told() -> None:
    z, failed = rows(lambda z: torch.zeros(len(z)), 400)
    failed[:4] = True
    said = examine(PRIOR, PRIOR.bijection.inverse(z), failed)
    assert judge(said, *answered(0.0, 0.5)).level == "unknown"


def test_the_probability_of_success_is_found() -> None:
    def fails(z: Tensor) -> Tensor:
        return torch.sigmoid(1.5 * z[:, 0] - 1 + 0.5 * z[:, 1] * z[:, 2])

    success = fit_success(*rows(fails, 10_000))
    z = rows(fails, 5_000, seed=1)[0]
    # About ten weights from 10,000 rows: errors of .01 are usual.
    assert float((success.log_prob(z).exp() - (1 - fails(z))).abs().mean()) < 0.03
    assert float(success.off) < 0.04
    assert KINDS[int(success.kind)] == "quadratic"
    assert KINDS[int(fit_success(*rows(a_tenth, 10_000)).kind)] in ("constant", "linear")


def test_what_was_found_survives_the_disk() -> None:
    said = found(lambda z: z[:, 0] > 0.25, 1_000)
    again = Failures.from_tensors({"other": torch.zeros(1), **said.tensors()})
    assert again is not None
    assert again.words(PRIOR) == said.words(PRIOR)
    z = rows(a_tenth, 10)[0]
    assert torch.equal(again.success.log_prob(z), said.success.log_prob(z))
    assert Failures.from_tensors({"other": torch.zeros(1)}) is None


def above(edge: float) -> Callable[[Tensor], Tensor]:
    return lambda z: z[:, 0] > edge


def softly(z: Tensor) -> Tensor:
    return torch.sigmoid(1.2 * z[:, 0] - 0.5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Pareto k")  # weights that stop at an edge
@pytest.mark.parametrize(
    ("fails", "mean", "sd", "reading", "level"),
    [
        (a_tenth, 0.0, 0.3, "exclude", "good"),
        (above(1.5), 0.9, 0.3, "exclude", "alarm"),  # leans on the edge
        (above(1.5), 0.6, 0.3, "exclude", "alarm"),  # 3 sds away from it: what is cut off could be wider
        (above(1.5), -1.0, 0.3, "exclude", "caution"),  # 8 sds
        (above(0.5), -1.5, 0.2, "exclude", "alarm"),  # as far, but a third of the prior is gone
        (above(2.9), -1.0, 0.3, "exclude", "good"),  # 2 in 1,000 of the prior
        (softly, 0.0, 0.5, "exclude", "alarm"),  # thinned where the answer is
        (softly, -2.0, 0.1, "exclude", "good"),  # no effect on so narrow an answer
        (above(1.5), 0.9, 0.3, "outcome", "good"),
        (above(1.5), 0.9, 0.3, "model", "alarm"),  # nothing to weight beyond the edge
        (above(1.5), -1.0, 0.3, "model", "caution"),
        (above(0.5), -1.5, 0.2, "model", "alarm"),
        (softly, 0.0, 0.5, "model", "good"),
    ],
)
def test_the_verdict_weighs_what_failures_do_to_this_answer(
    fails: Callable[[Tensor], Tensor], mean: float, sd: float, reading: Reading, level: str
) -> None:
    said = found(fails)
    check = judge(said, *answered(mean, sd, said, reading), reading)
    assert check.level == level
    assert check.name == "failures"
    assert check.words.startswith(said.words(PRIOR))


def test_unknown_readings_are_refused() -> None:
    with pytest.raises(ValueError, match="'exclude', 'outcome' or 'model', got 'drop'"):
        asked(Answering(0.0, 1.0), None, "drop")  # type: ignore[arg-type]


def test_a_model_of_success_gives_the_posterior_under_the_prior_as_written() -> None:
    # theta ~ N(0, 1) in z, x = theta + noise of sd .577 and x = .8: the posterior is N(.6, .5^2).
    def fails(z: Tensor) -> Tensor:
        return 0.9 * torch.sigmoid(3 * (z[:, 0] - 0.3))

    said = found(fails, 8_000)
    learned = Answering(0.6, 0.5, fails)
    answers, checks = {}, {}
    readings: tuple[Reading, ...] = ("exclude", "outcome", "model")
    for reading in readings:
        posterior = asked(learned, calibrated(said), reading)
        draws = posterior.draw({"x": torch.zeros(1)}, 4_000, generator=torch.Generator().manual_seed(1))
        z = PRIOR.bijection.forward(draws.theta.double())[:, 0]
        mean = draws.weights @ z
        answers[reading] = float(mean), float((draws.weights @ (z - mean).square()).sqrt())
        checks[reading] = judge(said, posterior, draws, reading)
    # 4,000 effective draws: an error of .016 sd of the mean; five times that, and what the classifier leaves.
    assert answers["model"][0] == pytest.approx(0.6, abs=0.05)
    assert answers["model"][1] == pytest.approx(0.5, rel=0.08)
    assert answers["exclude"] == answers["outcome"]
    assert answers["exclude"][0] < 0.6 - 0.4 * 0.5
    assert {reading: check.level for reading, check in checks.items()} == {
        "exclude": "alarm",
        "outcome": "good",
        "model": "good",
    }


@pytest.mark.filterwarnings("ignore:Pareto k")
def test_where_nothing_succeeds_nothing_is_made_up() -> None:
    said = found(above(1.0), 2_000)
    posterior = mended(Answering(1.0, 0.3), said, "model")
    draws = posterior.draw({"x": torch.zeros(1)}, 1_000, generator=torch.Generator().manual_seed(1))
    z = PRIOR.bijection.forward(draws.theta.double())[:, 0]
    assert float(z[draws.weights > 0].max()) < 1.1
    with pytest.raises(ValueError, match="next to no simulation succeeds where they are"):
        mended(Answering(3.0, 0.1), said, "model").draw({"x": torch.zeros(1)}, 100, generator=torch.Generator())


def test_calibrations_from_before_are_asked_for_again() -> None:
    calibration = calibrated(found(above(0.5), 1_000))
    assert calibration is not None
    old = replace(calibration, reference={})
    posterior, draws = answered(0.0, 0.5)
    [check] = check_failures(old, posterior, draws)
    assert check.level == "unknown"
    assert "308 fresh simulations failed, and nobody has looked" in check.words
    assert check_failures(replace(old, failed_rows=0), posterior, draws) == []
    assert check_failures(None, posterior, draws) == []
    with pytest.raises(ValueError, match="no calibration says which simulations fail"):
        asked(posterior, old, "model")
