"""Parameters that are parts of a whole: right where one number fewer is enough, refused in words where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import distributions as td

from sciinf import (
    Flow,
    Joint,
    Likelihood,
    Observable,
    Prior,
    Recipe,
    build_posterior,
    load_simulator,
    query,
    refine_around,
    simulate,
    train,
)
from sciinf.posteriors.around import Mixture
from sciinf.posteriors.mcmc import PriorInZ

ALPHA = torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64)
PRIOR = Prior.joint(("a", "b", "c"), td.Dirichlet(ALPHA))
DATA = {"x": Observable((3,))}


def test_chains_live_where_the_prior_is_the_dirichlet():
    """A chain's log prior is that of the first two parts and the slope of the map, whose determinant torch finds."""
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theta = PRIOR.join(z)
    found = PriorInZ(PRIOR).log_prob(z, theta)
    for row, (one, value) in enumerate(zip(z, theta, strict=True)):
        slope = torch.autograd.functional.jacobian(lambda free: PRIOR.join(free)[:2], one)
        expected = td.Dirichlet(ALPHA).log_prob(value / value.sum()) + slope.det().abs().log()  # type: ignore[union-attr]
        assert float(found[row]) == pytest.approx(float(expected), abs=1e-5)


def test_a_learned_likelihood_takes_them():
    theta = PRIOR.sample(5, generator=torch.Generator().manual_seed(0))
    potential = Likelihood(PRIOR, DATA).eval().condition({"x": torch.zeros(2, 3)})
    found = potential.log_likelihood(theta[:, None].expand(5, 2, 3))
    assert found.shape == (5, 2)
    assert bool(found.isfinite().all())


def test_what_needs_free_parameters_says_so():
    words = "some of a, b, c are parts of a whole"
    with pytest.raises(ValueError, match=words):
        Joint(PRIOR, DATA)
    with pytest.raises(ValueError, match=words):
        Mixture(PRIOR, [], {})


def test_an_answer_says_that_the_local_check_is_left_out(tmp_path):
    rock = load_simulator(Path(__file__).parents[2] / "simulators" / "mineral_fractions.py")
    store = simulate(rock, tmp_path / "store", 100, seed=0)
    fit = train(Flow(rock.prior, rock.observables), store, tmp_path / "fit", recipe=Recipe(epochs=1), seed=0)
    posterior = build_posterior(fit)
    x = {"points": torch.tensor([100, 120, 60, 20])}
    with pytest.raises(ValueError, match="some of quartz, feldspar, mica, rest are parts of a whole"):
        refine_around(rock, x, tmp_path / "rounds", posterior)
    answer = query(posterior, x, simulator=rock, draws=500)
    (local,) = [check for check in answer.checks if check.name == "local check"]
    assert local.level == "unknown"
    assert "parts of a whole" in local.words
