"""How often known parameters lie within their intervals: right where the posterior is, wrong where it is not."""

from __future__ import annotations

import re

import pytest
import torch

from sciinf import query_all, simulate
from sciinf.core import Calibration, Prior
from sciinf.posteriors.learned import LearnedPosterior

ROWS = 600


class Exact(LearnedPosterior):
    """The exact posterior of the thrown ball, with sds that are `wide` times as large."""

    def __init__(self, simulator, wide=1.0):
        self.simulator, self.wide, self.name, self.digest = simulator, wide, "amortised", f"exact {wide}"
        self.prior, self.observables, self.trained_on = simulator.prior, simulator.observables, frozenset()

    def draw_batched(self, x, n, *, generator):
        mean, covariance = self.simulator.exact(x)
        noise = torch.randn(n, *mean.shape, generator=generator, dtype=torch.float64)
        return (mean + self.wide * noise @ torch.linalg.cholesky(covariance).T).float()

    def log_prob_batched(self, theta, x):
        raise NotImplementedError

    def features(self, x):
        return x["x"]


@pytest.fixture(scope="module")
def truths(ball, tmp_path_factory):
    return simulate(ball.simulator, tmp_path_factory.mktemp("truths") / "store", ROWS, seed=7, progress=False)


def covered(found) -> dict[str, tuple[float, float]]:
    """Share of truths in the outer interval of each parameter, and what it should be."""
    each = found.found["coverage"]
    return {n: (c["below"][-1] - c["below"][0], c["expected"][-1] - c["expected"][0]) for n, c in each.items()}


@pytest.mark.slow
def test_coverage_of_the_exact_posterior_is_nominal(ball, truths, tmp_path) -> None:
    found = query_all(Exact(ball.simulator), truths, tmp_path / "a", draws=200, progress=False)
    # Of 600 rows an exact 90 % interval holds 540 +- 7.3: beyond 4.5 sds for one of three in 2 of 100,000 tests
    for held, wanted in covered(found).values():
        assert abs(held - wanted) < 4.5 * (0.9 * 0.1 / ROWS) ** 0.5
    assert "coverage      90% intervals of height hold" in found.summary()
    assert "but" not in [line.split()[1] for line in found.summary().splitlines() if line.startswith("coverage")]


@pytest.mark.slow
def test_coverage_shows_a_posterior_that_is_too_sure(ball, truths, tmp_path) -> None:
    found = query_all(Exact(ball.simulator, 0.5), truths, tmp_path / "a", draws=200, progress=False)
    for held, _ in covered(found).values():
        assert held < 0.75  # 59 % of a normal law lie within half of its 90 % interval


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.5, 0.68])
def test_the_intervals_are_those_of_the_level(ball, truths, tmp_path, level) -> None:
    found = query_all(Exact(ball.simulator), truths, tmp_path / "a", draws=200, level=level, progress=False)
    lines = [line for line in found.summary().splitlines() if line.startswith("coverage")]
    assert len(lines) == 3
    for line in lines:
        held, wanted = (float(share) for share in re.findall(r"([\d.]+)% (?:of \d|\+-)", line))
        assert line.split()[1] == f"{level:.0%}"
        assert wanted == pytest.approx(100 * level, abs=1)
        assert abs(held - wanted) < 4.5 * 100 * (level * (1 - level) / ROWS) ** 0.5


def test_rows_of_another_simulator_say_so(ball, tmp_path) -> None:
    class Louder(type(ball.simulator)):
        name = "louder"

        def __call__(self, theta, *, generator):
            x = ball.simulator(theta, generator=generator)
            return {name: value + 3 * torch.randn(value.shape, generator=generator) for name, value in x.items()}

    for simulator, seed in ((Louder(), 3), (ball.simulator, 3)):
        store = simulate(simulator, tmp_path / simulator.name, 60, seed=seed, progress=False)
        found = query_all(ball.posterior, store, tmp_path / f"{simulator.name} answers", draws=5, progress=False)
        said = "coverage      but they are of another simulator than the network was trained on"
        assert (said in found.summary()) == (simulator.name == "louder")


def test_rows_that_were_trained_on_say_so(ball, tmp_path) -> None:
    found = query_all(ball.posterior, ball.trained_on, tmp_path / "a", draws=5, progress=False)
    assert "coverage      but the network was trained on these simulations" in found.summary()


def test_rows_of_another_prior_say_so(ball, tmp_path) -> None:
    class Other(type(ball.simulator)):
        name = "other"
        prior = Prior(**{n: (law, u) for (n, u), law in zip(
            [("height", "m"), ("velocity", "m/s"), ("acceleration", "m/s2")],
            [torch.distributions.Normal(3.0, 0.1)] * 3, strict=True)})  # fmt: skip

    class Named(type(ball.simulator)):
        name = "named"
        prior = Prior(**{n: torch.distributions.Normal(3.0, 0.1) for n in ("one", "two", "three")})

    for simulator in (Other(), Named()):
        store = simulate(simulator, tmp_path / simulator.name, 50, progress=False)
        found = query_all(ball.posterior, store, tmp_path / f"{simulator.name} answers", draws=5, progress=False)
        if simulator.name == "other":
            assert "not drawn from the prior of the posterior" in found.summary()
        else:
            assert "height_true" not in found.columns
            assert "coverage" not in found.summary()


def test_a_calibration_of_another_fit_is_refused(ball, truths, tmp_path) -> None:
    assert isinstance(ball.calibration, Calibration)
    with pytest.raises(ValueError, match="the calibration is of another fit"):
        query_all(Exact(ball.simulator), truths, tmp_path / "a", ball.calibration, progress=False)
