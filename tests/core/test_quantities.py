"""A unit given with parameters counts, or is refused; it is never dropped."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from astropy import units

from sciinf.campaigns.storage.outcome import normalise
from sciinf.core import Observable, Posterior, Prior
from sciinf.core.named_laws import Normal
from sciinf.core.quantities import theta_in, truth_in

PRIOR = Prior(rate=(Normal(0.0, 1.0), "1/h"), delay=(Normal(0.0, 1.0), "h"))
DELAY = Prior(delay=(Normal(0.0, 1.0), "h"))


class AsThePrior(Posterior):
    """The prior, whatever the data."""

    name, digest, prior, observables = "prior", "", DELAY, {"x": Observable()}

    def draw(self, x, n, *, generator): ...
    def draw_batched(self, x, n, *, generator): ...
    def features(self, x): ...
    def log_prob_batched(self, theta, x):
        return self.prior.log_prob(theta)


def test_a_density_at_a_quantity_is_that_at_its_value_in_the_priors_unit():
    found = AsThePrior().log_prob(np.array([[60.0], [0.0]]) * units.min, {"x": 0.0})
    assert torch.equal(found, DELAY.log_prob(torch.tensor([[1.0], [0.0]])))
    assert torch.equal(found, AsThePrior().log_prob(torch.tensor([[1.0], [0.0]]), {"x": 0.0}))
    with pytest.raises(ValueError, match=r"parameter 'delay' is given in 'm', which does not convert to 'h'"):
        AsThePrior().log_prob(np.ones((2, 1)) * units.m, {"x": 0.0})


def test_each_column_has_its_own_unit():
    with pytest.raises(ValueError, match="parameter 'rate' is given in 'min'"):
        theta_in(np.ones((3, 2)) * units.min, PRIOR.names, PRIOR.units)
    with pytest.raises(ValueError, match=r"shape \(3, 1\), expected \(\.\.\., 2\)"):
        theta_in(np.ones((3, 1)) * units.min, PRIOR.names, PRIOR.units)


def test_a_truth_with_a_unit_is_converted():
    found = truth_in({"delay": 30 * units.min, "rate": torch.tensor(2.0)}, PRIOR.names, PRIOR.units)
    assert found == {"delay": 0.5, "rate": 2.0}
    with pytest.raises(ValueError, match="the true 'rate' is given in 'min'"):
        truth_in({"rate": 30 * units.min}, PRIOR.names, PRIOR.units)
    with pytest.raises(ValueError, match="2 values of 'rate'"):
        truth_in({"rate": np.ones(2)}, PRIOR.names, PRIOR.units)


def test_data_that_a_simulator_returns_with_a_unit_are_converted_before_they_are_stored():
    found = normalise({"x": np.ones(3) * units.min}, {"x": Observable((), "h")}, 3)
    torch.testing.assert_close(found.x["x"], torch.full((3,), 1 / 60))
    with pytest.raises(ValueError, match="'x' is in 'm'"):
        normalise({"x": np.ones(3) * units.m}, {"x": Observable((), "h")}, 3)
