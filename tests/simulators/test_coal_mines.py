"""Coal mines: the exact evidence and posterior against prior and likelihood alone, and the record against its sum."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from sciinf.core import load_simulator

FOLDER = Path(__file__).parents[2] / "simulators"


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FOLDER / "coal_mines.py")


@pytest.fixture(scope="module")
def module(simulator):
    return sys.modules[type(simulator).__module__]


@pytest.fixture(scope="module")
def record(simulator):
    return {k: v[None] for k, v in simulator.observe(FOLDER / "coal_mines_1851.csv").items()}


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_the_record_is_the_corrected_one(simulator, record):
    counts = record["disasters"][0]
    assert int(counts.sum()) == 191
    assert counts.shape == (112,)
    assert counts[:4].tolist() == [4, 5, 4, 1]  # five dates of 1852 and one of 1854 in R's boot::coal
    assert (int(counts.max()), int((counts == 0).sum())) == (6, 33)
    assert simulator.prior.names == ("k", "tau_1", "tau_2", "tau_3", "rate_1", "rate_2", "rate_3", "rate_4")
    assert simulator.prior.units == ("", "yr", "yr", "yr", "1/yr", "1/yr", "1/yr", "1/yr")


def test_rates_change_when_they_should(module):
    theta = torch.tensor([[2, 1852.0, 1900.5, math.nan, 1.0, 2.0, 3.0, math.nan]], dtype=torch.float64)
    rate = module.rates(theta)[0]
    assert rate[[0, 1, 49, 50, 111]].tolist() == [1.0, 2.0, 2.0, 3.0, 3.0]  # 1851, 1852, 1900, 1901, 1962


def by_hand(counts, k):
    """log p(x | k) by a sum over all places of k changes, years that share several among them."""
    ends, logs = range(1, 113), []
    total = np.concatenate([[0], np.cumsum(counts)])

    def stretch(a, b):
        s = total[b] - total[a]
        return math.log(0.5) + math.lgamma(s + 1) - (s + 1) * math.log(b - a + 0.5)

    for places in itertools.combinations_with_replacement(ends, k):
        edges = [0, *places, 112]
        many = math.lgamma(k + 1) - sum(math.lgamma(places.count(p) + 1) for p in set(places))
        logs.append(many + sum(stretch(a, b) for a, b in itertools.pairwise(edges)) - k * math.log(112))
    return np.logaddexp.reduce(logs) - sum(math.lgamma(c + 1) for c in counts)


def test_evidence_of_the_record(module, record):
    counts = record["disasters"]
    found = module.log_evidence(counts)[0]
    for k in range(3):
        assert float(found[k]) == pytest.approx(by_hand(counts[0].tolist(), k), abs=1e-8)
    assert found.tolist() == pytest.approx([-206.5792, -177.1848, -176.0493, -175.8795], abs=1e-4)
    assert found.softmax(0).tolist() == pytest.approx([0.0, 0.1282, 0.3990, 0.4728], abs=1e-4)
    assert float(found.logsumexp(0)) - math.log(4) == pytest.approx(-176.5168, abs=1e-4)


@pytest.mark.slow
def test_evidence_is_the_mean_of_the_likelihood(simulator, module):
    # of quiet years, where 200,000 draws of the prior say it to 0.2 for k below 3
    counts = torch.zeros(1, 112, dtype=torch.int64)
    counts[0, ::16] = 1
    theta = simulator.prior.sample(200_000, generator=generator(0))
    likelihood = simulator.log_likelihood(theta, {"disasters": counts})
    for k in range(3):
        some = likelihood[theta[:, 0] == k].double()
        mean = float(some.logsumexp(0)) - math.log(len(some))
        error = float(some.softmax(0).square().sum().sqrt())
        assert error < 0.2
        assert abs(mean - float(module.log_evidence(counts)[0, k])) < 4 * error  # false alarm 6e-5 each


def test_likelihood_is_of_poisson_counts(simulator, module, record):
    theta = simulator.prior.sample(5, generator=generator(1)).double()
    truth = stats.poisson.logpmf(record["disasters"].numpy(), module.rates(theta).numpy()).sum(-1)
    assert simulator.log_likelihood(theta, record).numpy() == pytest.approx(truth)


def ranks(draws, truth, cut=1.0):
    """Of truths (n,) among draws (n, 99), where they exist and in draws in which they exist; in (0, 1)."""
    below = ((draws * cut < truth[:, None]).sum(1) + torch.rand(len(truth), generator=generator(9))).numpy()
    return (below / ((~draws.isnan()).sum(1).numpy() + 1))[~truth.isnan().numpy()]


@pytest.mark.slow
def test_truths_are_draws_of_their_posteriors(simulator, module):
    # 200 records: ranks of a time and a rate, where they exist, are uniform (KS, p > 1e-4 each: 2 false alarms in
    # 10,000), and those of a rate that is half as high again are not
    theta = simulator.prior.sample(200, generator=generator(2))
    x, draw = simulator(theta, generator=generator(3)), generator(4)
    draws = torch.stack([module.draws(counts, 99, draw) for counts in x["disasters"]])
    time, rate = (simulator.prior.names.index(name) for name in ("tau_1", "rate_1"))
    for column in (time, rate):
        assert stats.kstest(ranks(draws[..., column], theta[:, column]), "uniform").pvalue > 1e-4
    assert stats.kstest(ranks(draws[..., rate], theta[:, rate], cut=1.5), "uniform").pvalue < 1e-4  # the fault


@pytest.mark.slow
def test_probabilities_are_those_of_the_truths(simulator, module):
    # 1,000 records: how often k is the truth, less what is said, within 4 standard errors (4 checks, false alarm 3e-4)
    theta = simulator.prior.sample(1_000, generator=generator(4))
    counts = simulator(theta, generator=generator(5))["disasters"]
    said = torch.cat([module.log_evidence(part).softmax(-1) for part in counts.split(250)])
    truth = theta[:, :1] == torch.arange(4)
    sure = said > 0.5
    off = (truth.double() - said) * sure
    assert bool((off.sum(0).abs() < 4 * (said * (1 - said) * sure).sum(0).sqrt()).all())
    worse = said.roll(1, 0)  # the fault: those of another record
    assert bool((((truth.double() - worse) * sure).sum(0).abs() > 4 * (said * (1 - said) * sure).sum(0).sqrt()).any())


def test_draws_of_the_record(simulator, module, record):
    # 20,000 draws: probabilities within 4 standard errors of the exact ones (false alarm 2e-4), the one change within
    # 4 of its mean on a grid of years
    draws = simulator.reference(record, 20_000, generator(6))
    exact = module.log_evidence(record["disasters"])[0].softmax(0)
    share = torch.stack([(draws[:, 0] == k).double().mean() for k in range(4)])
    assert bool(((share - exact).abs() <= 4 * (exact * (1 - exact) / 20_000).sqrt() + 1e-12).all())
    stretch = module.stretches(record["disasters"])[0]
    weight = (stretch[0, 1:] + stretch[1:, -1]).softmax(0)
    middle = 1851 + torch.arange(1, 113).double() - 0.5
    mean = float(weight @ middle)
    sd = math.sqrt(float(weight @ (middle - mean) ** 2) + 1 / 12)
    one = draws[draws[:, 0] == 1]
    assert abs(float(one[:, 1].mean()) - mean) < 4 * sd / len(one) ** 0.5
    assert float(one[:, 1].std()) == pytest.approx(sd, rel=0.1)
    assert bool((draws.isnan() == ~simulator.prior.present(draws)).all())
    assert bool(simulator.prior.log_prob(draws).isfinite().all())
