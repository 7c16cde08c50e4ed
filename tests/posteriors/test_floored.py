"""Weights of a network that is sure of the wrong model: with a floor under each value they find the right one.

Errors of probabilities by weights are binomial of at least 1,000 effective draws: 0.016; seeds do not change.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from nested import Exact, Nested

from sciinf.core import Batch, Fit, X
from sciinf.core.doubts import noting
from sciinf.diagnostics.calibration import reliabilities, values_of
from sciinf.posteriors import reweighted
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.ensemble import Ensemble
from sciinf.posteriors.marginal import exact_probabilities
from sciinf.posteriors.reweighted import Floored, Reweighted, doubt_values
from sciinf.training.estimators.mixed import Mixed


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def simulator() -> Nested:
    return Nested()


@pytest.fixture(scope="module")
def x(simulator: Nested) -> X:
    """An observation with P(line) between .25 and .35."""
    theta = simulator.prior.sample(200, generator=seeded(1))
    data = simulator(theta, generator=seeded(2))["x"]
    p = Exact(simulator).log_probabilities({"x": data})[:, 1].exp()
    return {"x": data[(p - 0.3).abs().argmin()][None]}


def told(simulator: Nested, x: X, p: float, ess: int = 4_000) -> tuple[float, float, float]:
    """P(line) by a network that says p, weighted; log evidence and its error."""
    right = Exact(simulator)
    odds = math.log(p) - math.log1p(-p) - float(torch.logit(right.log_probabilities(x)[0, 1].exp()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = Reweighted(Exact(simulator, odds=odds), simulator, ess=ess).draw(x, 4_000, generator=seeded())
    line = float(drawn.weights @ (drawn.theta[:, 0] == 1).double())
    assert drawn.log_evidence is not None
    assert drawn.log_evidence_error is not None
    return line, drawn.log_evidence, drawn.log_evidence_error


def corrected(simulator: Nested, x: X) -> bool:
    """Whether a probability of 1e-6 becomes the right one, about .3, within .02, and the evidence with it."""
    right = float(Exact(simulator).log_probabilities(x)[0, 1].exp())
    log_z = float(simulator.evidences(x["x"])[0].logsumexp(0)) - math.log(2)
    line, found, error = told(simulator, x, 1e-6, ess=8_000)
    return abs(line - right) < 0.02 and abs(found - log_z) < 4 * error


def test_a_model_that_is_never_drawn_comes_back(simulator: Nested, x: X) -> None:
    assert corrected(simulator, x)


def test_without_the_floor_it_does_not(simulator: Nested, x: X, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reweighted, "FLOOR", 0.0)
    assert not corrected(simulator, x)


def test_evidence_of_each_model_is_that_of_its_weights(simulator: Nested, x: X) -> None:
    right = simulator.evidences(x["x"])[0]
    line, log_z, _ = told(simulator, x, 0.5)
    for k, p in enumerate((1 - line, line)):  # prior probabilities are 1/2; errors of .02 are 3 sds
        assert log_z + math.log(p) + math.log(2) == pytest.approx(float(right[k]), abs=0.08)


def test_draws_have_the_density_that_is_told(simulator: Nested, x: X) -> None:
    law = Floored(Exact(simulator, odds=-20.0), x)
    theta, log_r = law.sample(20_000, generator=seeded(3))
    assert torch.equal(log_r, law.log_prob(theta))
    line = theta[:, 0] == 1
    assert abs(float(line.double().mean()) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 20_000)  # 6e-5
    own = simulator.prior.sample(20_000, generator=seeded(4))
    total = float((law.log_prob(own) - simulator.prior.log_prob(own)).exp().mean())
    assert total == pytest.approx(1.0, abs=0.1)  # it is normalised: E_p [r / p] = 1


def test_only_networks_that_know_probabilities_tell_them(simulator: Nested, x: X) -> None:
    assert exact_probabilities(Exact(simulator), x, "model") is None
    assert exact_probabilities(Ensemble([Exact(simulator)]), x, "model") is None


@pytest.fixture
def network(simulator: Nested) -> Amortised:
    """A network that was never trained, but is sure of the flat model."""
    estimator = Mixed(simulator.prior, simulator.observables, hidden=16)
    rows = Batch(*_rows(simulator))
    estimator.standardise(lambda: iter((rows,)))
    with torch.no_grad():
        estimator.logits.layers[0].bias[0] += 15.0
    return Amortised(Fit(estimator.eval(), "d", {}, {"store": {"digest": "d", "seed": 4}}, Path()))


def _rows(simulator: Nested) -> tuple[torch.Tensor, X]:
    theta = simulator.prior.sample(500, generator=seeded(7))
    return theta, simulator(theta, generator=seeded(8))


def test_a_network_has_its_floor_under_each_value(network: Amortised, simulator: Nested, x: X) -> None:
    p = exact_probabilities(network, x, "model")
    assert p is not None
    assert float(p[0, 1]) < 1e-5
    for posterior in (network, Ensemble([network, network])):
        law = Floored(posterior, x)
        theta, log_r = law.sample(4_000, generator=seeded(9))
        line = float((theta[:, 0] == 1).double().mean())
        assert abs(line - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 4_000)  # 6e-5
        assert torch.equal(log_r, law.log_prob(theta))
        both = exact_probabilities(posterior, x, "model")
        assert both is not None
        assert torch.allclose(both, p)


def test_calibration_takes_the_probabilities_that_a_network_knows(network: Amortised, simulator: Nested) -> None:
    theta, data = _rows(simulator)
    draws = network.draw_batched(data, 7, generator=seeded(10))
    values = values_of(network, data, draws)
    assert values["exact/model"].shape == (500, 2)
    test, shown = reliabilities(simulator.prior, theta, values, seeded(11))["model"]
    assert shown.predicted[1].max() < 1e-4  # no multiple of 1 / 7
    assert test.gap > 0.4
    del values["exact/model"]
    assert reliabilities(simulator.prior, theta, values, seeded(11))["model"][0].gap > 0.3


def said(simulator: Nested, theta: torch.Tensor, log_weight: torch.Tensor) -> list[str]:
    with noting() as noted, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        doubt_values(simulator.prior, theta, log_weight, stacklevel=1)
    return [f"{one.level}: {one.words}" for one in noted]


def test_values_with_few_effective_draws_are_told(simulator: Nested) -> None:
    theta = simulator.prior.sample(2_000, generator=seeded(5))
    line, even = theta[:, 0] == 1, torch.zeros(2_000, dtype=torch.float64)
    assert said(simulator, theta, even) == []
    flat = theta[~line]
    assert "only 0 of" in said(simulator, flat, even[: len(flat)])[0]
    heavy = even.clone()
    heavy[line.nonzero()[:3, 0]] = 9.0  # three draws that are nearly all of the line
    assert "by 3 effective draws" in said(simulator, theta, heavy - 6.0 * line)[0]
    many = simulator.prior.sample(40_000, generator=seeded(5))
    tail = 0.9 * torch.empty(40_000, dtype=torch.float64).exponential_(generator=seeded(6))
    words = said(simulator, many, torch.where(many[:, 0] == 1, tail, 0.0))
    assert words
    assert words[0].startswith("alarm: Pareto k")
    assert "model = line" in words[0]
