"""The local check of discrete parameters, and of some that exist sometimes: of exact posteriors, and of faults."""

from __future__ import annotations

import pytest
import torch
from nested import Exact, Nested

from sciinf import query
from sciinf.diagnostics import here
from sciinf.diagnostics.around import simulate_around
from sciinf.diagnostics.here import NAME, check_here

SIMULATOR = Nested()


def checked(seed, rows=2_000, **fault):
    """The finding about an observation of the prior predictive distribution."""
    posterior, generator = Exact(SIMULATOR, **fault), torch.Generator().manual_seed(seed)
    x = SIMULATOR(SIMULATOR.prior.sample(1, generator=generator), generator=generator)
    theta = posterior.draw_batched(x, 4_000, generator=generator)[:, 0]
    around = simulate_around(posterior, SIMULATOR, theta, rows=rows, generator=generator, spread=True)
    (found,) = check_here(posterior, x, around, generator=generator)
    return found


def test_discrete_values_vary_among_the_simulations():
    generator = torch.Generator().manual_seed(1)
    posterior, x = Exact(SIMULATOR), SIMULATOR(torch.tensor([[1.0, 0.5, 0.6]]), generator=generator)
    theta = posterior.draw_batched(x, 4_000, generator=generator)[:, 0]
    around = simulate_around(posterior, SIMULATOR, theta, rows=2_000, generator=generator, spread=True)
    line = around.theta[:, 0] == 1
    assert 0.2 < line.double().mean() < 0.8
    assert bool((around.theta[:, 2].isnan() == ~line).all())
    assert around.z.shape == (2_000, 3)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"odds": 1.0}, "the probabilities of model are off"),
        ({"shift": 0.5}, "slope is too high by"),
        ({"width": 0.6}, "the sd of slope should be"),
    ],
)
def test_a_fault_is_named(fault, words):
    found = checked(1, **fault)
    assert found.level == "alarm"
    assert words in found.words


def test_an_exact_posterior_is_not_blamed():
    assert checked(1).level in ("good", "unknown")


@pytest.mark.slow
def test_of_exact_posteriors_one_in_a_hundred_is_blamed():
    """More than 4 of 60 in one of 3,000 runs; half and more of 4,000 rows are called good."""
    found = [checked(seed).level for seed in range(60)]
    assert found.count("alarm") <= 4
    found = [checked(seed, rows=4_000).level for seed in range(20)]
    assert found.count("alarm") <= 3
    assert found.count("good") >= 10


@pytest.mark.slow
@pytest.mark.parametrize("fault", [{"odds": 1.0}, {"shift": 0.5}, {"width": 0.6}, {"width": 1.5}, {"sure": 3.0}])
def test_what_is_wrong_is_not_called_right(fault):
    """Where data tell which model it is, a factor of the odds changes little: there it need not be an alarm."""
    found = [checked(seed, **fault).level for seed in range(8)]
    assert found.count("alarm") >= 5
    assert "good" not in found


def test_a_parameter_that_hardly_exists_is_left_out():
    """The flat model has nearly all of the probability, so that the slope's fault is none of this answer's."""
    one = torch.full((2_000, 1), 0.3, dtype=torch.float64)
    e = torch.cat([torch.randn(2_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), one], 1)
    e[60:, 1] = torch.nan
    design = torch.randn(2_000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    local = here._of_rows(e, design, torch.ones(2).double(), torch.ones(2).double())
    assert (float(local.shift[1]), float(local.width[1])) == (0.0, 1.0)
    e[:, 1] = 0.3
    e[1_000:, 1] = torch.nan
    local = here._of_rows(e, design, torch.ones(2).double(), torch.ones(2).double())
    assert float(local.shift[1]) == pytest.approx(0.3, abs=0.01)


def test_a_question_has_the_check():
    generator = torch.Generator().manual_seed(1)
    x = SIMULATOR(SIMULATOR.prior.sample(1, generator=generator), generator=generator)
    answer = query(Exact(SIMULATOR, odds=1.5), {"x": x["x"][0]}, simulator=SIMULATOR, draws=2_000)
    (found,) = (one for one in answer.checks if one.name == NAME)
    assert found.level == "alarm"
    assert "the probabilities of model are off" in found.words
