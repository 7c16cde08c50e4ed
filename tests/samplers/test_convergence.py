"""R-hat and effective sample size against arviz's."""

from __future__ import annotations

import math

import pytest
import torch
from samplers.targets import normal

from sciinf.simulators.samplers import Chains
from sciinf.simulators.samplers.chains import effective_sample_size, r_hat


def autoregressive(n, chains, phi, seed=0):
    x = normal(n, chains, 1, 2, seed=seed)
    for t in range(1, n):
        x[t] = phi * x[t - 1] + math.sqrt(1 - phi**2) * x[t]
    return x


ARRAYS = {
    "independent": normal(200, 4, 3, 2),
    "slow": autoregressive(400, 4, 0.95),
    "back and forth": autoregressive(400, 4, -0.7),
    "odd length": autoregressive(301, 3, 0.5),
    "short": normal(11, 2, 40, 1),
    "shorter": normal(8, 2, 40, 1, seed=1),
    "heavy tails": normal(300, 4, 2, 2) / normal(300, 4, 2, 2, seed=1),
    "ties": (2 * normal(300, 4, 2, 2)).round(),
    "apart": normal(300, 4, 2, 2) + torch.arange(4.0)[:, None, None],
    "of different spread": normal(300, 4, 2, 2) * torch.arange(1.0, 5.0)[:, None, None],
    "drifting": normal(300, 4, 2, 2) + torch.linspace(0, 2, 300)[:, None, None, None],
    "one chain": autoregressive(500, 1, 0.8),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_as_in_arviz(name):
    import arviz

    draws = ARRAYS[name].double()
    found_r, found_n = r_hat(draws), effective_sample_size(draws)
    for b in range(draws.shape[2]):
        for d in range(draws.shape[3]):
            one = draws[:, :, b, d].T.numpy()
            assert float(found_n[b, d]) == pytest.approx(float(arviz.ess(one)), rel=1e-9)
            if len(one) > 1:  # arviz gives none for one chain
                assert float(found_r[b, d]) == pytest.approx(float(arviz.rhat(one)), rel=1e-9)


def test_halves_of_one_chain_are_compared():
    assert float(r_hat(normal(400, 1, 1, 1))) < 1.02
    assert float(r_hat(normal(400, 1, 1, 1) + torch.linspace(0, 3, 400)[:, None, None, None])) > 1.2


def test_single_precision_and_monotone_transforms_change_nothing():
    draws = ARRAYS["slow"]
    torch.testing.assert_close(effective_sample_size(draws.float()), effective_sample_size(draws), rtol=1e-5, atol=0)
    torch.testing.assert_close(effective_sample_size(draws.exp()), effective_sample_size(draws))


def test_draws_that_say_nothing_give_nan_and_leave_others_alone():
    draws = normal(100, 4, 3, 1)
    draws[:, :, 0] = 1.7
    draws[5, 2, 1] = math.inf
    chains = Chains(draws, torch.ones(3, dtype=torch.float64), 1)
    for values in (chains.r_hat(), chains.ess()):
        assert values[:, 0].isnan().tolist() == [True, True, False]


def test_chains_that_never_move_but_differ_are_not_called_converged():
    draws = torch.arange(4.0)[None, :, None, None].expand(100, 4, 1, 1)
    assert not float(r_hat(draws)) < 1.01


def test_too_few_draws_are_refused():
    with pytest.raises(ValueError, match="there are 3 draws per chain, expected at least 4"):
        r_hat(normal(3, 2, 1, 1))
    with pytest.raises(ValueError, match="draw more"):
        effective_sample_size(normal(3, 2, 1, 1))
