"""Hudson Bay: the likelihood against an independent solver along the reference posterior, and the real data."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from sciinf.core import load_simulator

FOLDER = Path(__file__).parents[2] / "simulators"
NAMES = [*(f"theta[{i}]" for i in (1, 2, 3, 4)), "z_init[1]", "z_init[2]", "sigma[1]", "sigma[2]"]


@pytest.fixture(scope="module")
def simulator():
    return load_simulator(FOLDER / "lotka_volterra.py")


@pytest.fixture(scope="module")
def observed(simulator):
    return {k: v[None] for k, v in simulator.observe(FOLDER / "hudson_bay.csv").items()}


@pytest.fixture(scope="module")
def draws(reference_data):
    """Reference posterior draws, (10000, 8), in the simulator's order."""
    path = reference_data / "posteriordb" / "hudson_lynx_hare-lotka_volterra.draws.json.zip"
    with zipfile.ZipFile(path) as file:
        chains = json.loads(file.read(file.namelist()[0]))
    return np.concatenate([np.stack([chain[name] for name in NAMES], axis=-1) for chain in chains])


def independent_log_posterior(theta, counts):
    """Prior and likelihood with scipy alone: adaptive solution of the plain equations at tolerance 1e-10."""
    from scipy import stats
    from scipy.integrate import solve_ivp

    alpha, beta, gamma, delta, hare, lynx, *sigma = theta

    def field(_, state):
        return [(alpha - beta * state[1]) * state[0], (-gamma + delta * state[0]) * state[1]]

    solved = solve_ivp(field, (0, 20), [hare, lynx], t_eval=range(21), rtol=1e-10, atol=1e-10).y.T
    likelihood = stats.lognorm.logpdf(counts, s=np.array(sigma), scale=solved).sum()
    prior = sum(stats.truncnorm.logpdf(v, -2, np.inf, loc=1, scale=0.5) for v in (alpha, gamma))
    prior += sum(stats.truncnorm.logpdf(v, -1, np.inf, loc=0.05, scale=0.05) for v in (beta, delta))
    prior += sum(stats.lognorm.logpdf(v, s=1, scale=10) for v in (hare, lynx))
    prior += sum(stats.lognorm.logpdf(v, s=1, scale=math.exp(-1)) for v in sigma)
    return likelihood + prior


def worst_difference(simulator, observed, theta, log_likelihood):
    """Largest distance, over rows, of log prior + log likelihood from the independent ones, in nats."""
    ours = simulator.prior.log_prob(torch.as_tensor(theta)) + log_likelihood
    counts = observed["counts"][0].double().numpy()
    truth = [independent_log_posterior(row, counts) for row in theta]
    return float((ours - torch.tensor(truth, dtype=torch.float64)).abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-3), (torch.float64, 1e-3)])
def test_likelihood_and_prior_along_the_reference_posterior(simulator, observed, draws, dtype, tolerance):
    theta = draws[::250]
    value = simulator.log_likelihood(torch.as_tensor(theta, dtype=dtype), observed)
    assert value.dtype == dtype
    assert worst_difference(simulator, observed, theta, value) < tolerance


def test_a_wrong_likelihood_is_noticed(simulator, observed, draws):
    theta = torch.as_tensor(draws[::1000])
    swapped = theta[:, [0, 1, 2, 3, 4, 5, 7, 6]]  # planted fault: the two sigmas exchanged
    assert worst_difference(simulator, observed, theta.numpy(), simulator.log_likelihood(swapped, observed)) > 0.1


def test_the_reference_posterior_is_ours(simulator, observed, draws):
    # Were the reference draws from another posterior, weights from a widened Gaussian (in R^8) to ours would move the
    # moments. 20,000 draws, some 6,000 effective; 0.08 sd is 5 standard errors.
    z = simulator.prior.bijection.forward(torch.as_tensor(draws))
    wide = torch.distributions.MultivariateNormal(z.mean(0), 1.5 * torch.cov(z.T))
    noise = torch.randn(20_000, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    proposed = wide.loc + noise @ wide.scale_tril.T
    theta = simulator.prior.bijection.inverse(proposed)
    prior = -0.5 * (proposed**2).sum(-1)
    weight = torch.softmax(prior + simulator.log_likelihood(theta.float(), observed) - wide.log_prob(proposed), dim=0)
    assert 1 / float((weight**2).sum()) > 4_000
    sd = z.std(0)
    mean = weight @ proposed
    assert float(((mean - z.mean(0)) / sd).abs().max()) < 0.08
    assert float(((weight @ (proposed - mean) ** 2).sqrt() / sd - 1).abs().max()) < 0.06


def test_the_solution_keeps_the_conserved_quantity(simulator):
    # delta u - gamma log u + beta v - alpha log v is constant along every solution
    theta = simulator.prior.sample(4096, generator=torch.Generator().manual_seed(0)).double()
    theta[:, 6:] = 1e-9  # no noise: the counts are the populations
    counts = simulator(theta, generator=torch.Generator())["counts"]
    alpha, beta, gamma, delta = theta[:, None, :4].unbind(-1)
    u, v = counts.unbind(-1)
    energy = delta * u - gamma * u.log() + beta * v - alpha * v.log()
    drift = (energy - energy[:, :1]).abs().amax(-1) / (energy.abs().amax(-1) + 1)
    assert float((drift < 1e-2).double().mean()) > 0.998


def test_nothing_explodes_under_the_prior(simulator):
    theta = simulator.prior.sample(20_000, generator=torch.Generator().manual_seed(1))
    counts = simulator(theta, generator=torch.Generator().manual_seed(2))["counts"]
    good = (counts.isfinite() & (counts > 0)).all(-1).all(-1)
    assert float((~good).double().mean()) < 0.005


def test_simulations_look_like_the_data(simulator, observed, draws):
    # The real counts among those simulated from the reference posterior: every one within the central 99.98 %
    # (false alarm for 42 numbers below 1 %).
    theta = torch.as_tensor(draws, dtype=torch.float32)
    counts = simulator(theta, generator=torch.Generator().manual_seed(3))["counts"]
    below = (counts < observed["counts"]).double().mean(0)
    assert float(below.min()) > 1e-4
    assert float(below.max()) < 1 - 1e-4


def test_real_data(simulator, observed, reference_data):
    with zipfile.ZipFile(reference_data / "posteriordb" / "hudson_lynx_hare.json.zip") as file:
        data = json.loads(file.read(file.namelist()[0]))
    assert torch.equal(observed["counts"][0], torch.tensor([data["y_init"], *data["y"]]))


def test_years_out_of_order_are_refused(simulator, tmp_path):
    lines = (FOLDER / "hudson_bay.csv").read_text().splitlines()
    lines[1], lines[2] = lines[2], lines[1]
    (tmp_path / "swapped.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="consecutive"):
        simulator.observe(tmp_path / "swapped.csv")
    (tmp_path / "short.csv").write_text("\n".join(lines[:5]))
    with pytest.raises(ValueError, match="year"):
        simulator.observe(tmp_path / "short.csv")
