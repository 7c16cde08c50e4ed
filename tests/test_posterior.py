"""Posteriors as users meet them: sbi's words, densities that integrate to one, the right kind built."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf.core import Fit, Observable, Prior, Truncated, load_fit, load_simulator
from sciinf.core.files import read_json, write_json
from sciinf.core.laws import bounds
from sciinf.interfaces.asking import load_posterior
from sciinf.networks.flows.nflows_flows import CouplingNSF
from sciinf.networks.flows.zuko_flows import MAF, NSF
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.ensemble import Ensemble
from sciinf.posteriors.posterior import build_posterior
from sciinf.posteriors.reweighted import Reweighted
from sciinf.training.estimators.flow import Flow

FILE = Path(__file__).parents[1] / "simulators" / "linear_gaussian.py"
RECORD = {"store": {"digest": "store", "seed": 0}}
ONE = Prior(a=Truncated(td.Normal(0.0, 1.0), low=-0.5, high=2.0))
TWO = Prior(a=td.Uniform(-1.0, 3.0), b=(Truncated(td.LogNormal(0.0, 1.0), high=4.0), "s"))
GAMMA = Prior(a=td.Beta(2.0, 3.0), b=td.Uniform(0.0, 1.0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def fit_of(prior, flow, observables=None, seed=0):
    """A fit whose weights are random but far from zero, and whose z is neither centred nor scaled."""
    estimator = Flow(prior, observables or {"x": Observable((2,))}, flow=flow, seed=seed).eval()
    with torch.no_grad():
        for parameter in estimator.flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(seed)))
        estimator.z_mean.fill_(0.2)
        estimator.z_sd.fill_(0.7)
    return Fit(estimator, f"digest {seed}", {"name": "toy", "source": ""}, RECORD, Path())


def grid(prior, n):
    """Midpoints of n cells per dimension of the prior's box, (n^D, D), and the volume of a cell."""
    axes, volume = [], 1.0
    for law in prior.laws:
        low, high = bounds(law)
        axes.append(low + (high - low) * (torch.arange(n, dtype=torch.float64) + 0.5) / n)
        volume *= (high - low) / n
    return torch.cartesian_prod(*axes).reshape(-1, len(axes)), volume


CASES = [(ONE, MAF(2, (8,))), (ONE, CouplingNSF(2)), (TWO, CouplingNSF(2)), (TWO, NSF(2, (8,))), (GAMMA, MAF(2, (8,)))]


@pytest.mark.parametrize(("prior", "flow"), CASES)
def test_density_integrates_to_one(prior, flow):
    posterior = build_posterior(fit_of(prior, flow))
    theta, volume = grid(prior, 4_000 if len(prior) == 1 else 300)
    x = torch.tensor([0.3, -1.0])
    total = float(posterior.log_prob(theta, x=x).exp().sum() * volume)
    assert total == pytest.approx(1.0, abs=0.005)
    # planted fault: without the Jacobian of the prior's bijection the sum is far from one
    jacobian = prior.bijection.log_abs_det_jacobian(theta)
    wrong = float((posterior.log_prob(theta, x=x) - jacobian).exp().sum() * volume)
    assert abs(wrong - 1.0) > 0.02


@pytest.mark.parametrize(("prior", "flow"), CASES)
def test_draws_follow_the_density(prior, flow):
    # Histogram of the first parameter against its marginal on the grid: chi-squared, false alarm 1e-5.
    from scipy.stats import chisquare

    posterior = build_posterior(fit_of(prior, flow))
    n = 2_000 if len(prior) == 1 else 300
    theta, _ = grid(prior, n)
    x = torch.tensor([0.3, -1.0])
    marginal = posterior.log_prob(theta, x=x).exp().reshape(n, -1).sum(1)
    first = theta.reshape(n, -1, len(prior))[:, 0, 0]
    cell = float(first[1] - first[0])
    edges = np.linspace(float(first[0]) - cell / 2, float(first[-1]) + cell / 2, 11)
    expected = marginal.reshape(10, -1).sum(1) / marginal.sum() * 5_000
    draws = posterior.sample((5_000,), x=x, generator=generator(1))[:, 0].double().numpy()
    found = np.histogram(draws, edges)[0]
    many = expected.numpy() > 20
    assert (
        chisquare(found[many], expected.numpy()[many] * found[many].sum() / expected.numpy()[many].sum()).pvalue > 1e-5
    )


@pytest.fixture
def posterior():
    return build_posterior(fit_of(TWO, MAF(2, (8,))))


def test_reads_as_in_sbi(posterior):
    x_o = torch.tensor([0.3, -1.0])
    assert posterior.sample((7,), x=x_o).shape == (7, 2)
    assert posterior.sample((7, 2), x=x_o).shape == (7, 2, 2)
    assert posterior.sample((), x=x_o).shape == (2,)
    assert posterior.sample(x=x_o).shape == (1, 2)
    assert posterior.sample(np.int64(3), x_o[None]).shape == (3, 2)
    theta = posterior.sample(6, {"x": x_o.numpy()})
    assert posterior.log_prob(theta, x=x_o).shape == (6,)
    assert posterior.log_prob(theta.reshape(2, 3, 2), x=x_o).shape == (2, 3)
    assert posterior.log_prob(theta[0], x=x_o).shape == ()
    assert posterior.sample_batched((5,), x=torch.zeros(4, 2)).shape == (5, 4, 2)
    assert posterior.sample_batched(5, {"x": torch.zeros(4, 2)}).shape == (5, 4, 2)


def test_same_generator_same_draws_and_none_means_fresh_ones(posterior):
    x_o, before = torch.zeros(2), torch.get_rng_state()
    one, two = (posterior.sample((9,), x=x_o, generator=generator(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(posterior.sample((9,), x=x_o), posterior.sample((9,), x=x_o))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n", [0, -1, (3, 0)])
def test_no_draws_are_refused(posterior, n):
    with pytest.raises(ValueError, match="at least one draw"):
        posterior.sample(n, x=torch.zeros(2))
    with pytest.raises(ValueError, match="at least one draw"):
        posterior.sample_batched(n, x=torch.zeros(3, 2))


def test_observations_that_do_not_fit_are_refused(posterior):
    with pytest.raises(ValueError, match="mapping"):
        posterior.sample((3,))
    with pytest.raises(ValueError, match="shape"):
        posterior.sample((3,), x=torch.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        posterior.log_prob(torch.ones(2), x=torch.tensor([math.nan, 0.0]))
    with pytest.raises(ValueError, match="theta has shape"):
        posterior.log_prob(torch.ones(4, 3), x=torch.zeros(2))


def test_the_right_posterior_is_built():
    simulator = load_simulator(FILE)
    fits = [fit_of(simulator.prior, MAF(1, (8,)), simulator.observables, seed) for seed in (0, 1)]
    assert isinstance(build_posterior(fits[0]), Amortised)
    assert isinstance(build_posterior(fits[:1]), Amortised)
    assert isinstance(build_posterior(fits), Ensemble)
    corrected = build_posterior(fits, simulator, ess=50, budget=99)
    assert isinstance(corrected, Reweighted)
    assert isinstance(corrected.proposal, Ensemble)
    assert (corrected.target_ess, corrected.budget) == (50, 99)
    simulator.log_likelihood = None
    assert isinstance(build_posterior(fits[0], simulator), Amortised)
    with pytest.raises(ValueError, match="at least one posterior"):
        build_posterior([])


def test_a_posterior_comes_back_from_its_run(line):
    run, x = line / "run", [0.2, 1.4, 1.9, 3.2, 3.8]
    known = build_posterior(load_fit(run / "fit")).sample(5, x, generator=generator())
    for folder in (run, run / "fit"):
        assert torch.equal(load_posterior(folder).sample(5, x, generator=generator()), known)
    with pytest.raises(
        FileNotFoundError, match="no posterior that was refined around 'seen': it holds simulations, a fit"
    ):
        load_posterior(run, name="seen")
    (run / "fit" / "fit.json").unlink()
    with pytest.raises(
        FileNotFoundError, match="run holds no fit: it holds simulations, a calibration, answers; `infer`"
    ):
        load_posterior(run)
    with pytest.raises(FileNotFoundError, match="it is no run folder"):
        load_posterior(line)


def test_a_posterior_of_a_run_is_corrected_by_the_likelihood_of_a_simulator(line):
    """A simulator without one changes nothing."""
    simulator = load_simulator(line / "line.py")
    assert isinstance(load_posterior(line / "run", simulator), Amortised)
    simulator.log_likelihood = lambda theta, x: -(theta**2).sum(1)
    found = load_posterior(line / "run", simulator, ess=7, budget=9)
    assert isinstance(found, Reweighted)
    assert (found.target_ess, found.budget) == (7, 9)


def test_data_unlike_the_simulations_of_the_run_are_warned_of(line):
    posterior = load_posterior(line / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        posterior.sample(5, [0.2, 1.4, 1.9, 3.2, 3.8])
    with pytest.warns(UserWarning, match="unlike the simulations"):
        posterior.sample(5, [2e2, 1.4e3, 1.9e3, 3.2e3, 3.8e3])


def test_a_network_whose_answers_a_likelihood_weights_is_said_to_be_alone(line):
    file = next((line / "run" / "answers").glob("*/answer.json"))
    said = {key: value for key, value in read_json(file).items() if not key.startswith("sha256")}
    write_json(file, {**said, "amortised": said["parameters"]})
    with pytest.warns(UserWarning, match="that of the network alone"):
        load_posterior(line / "run")


def test_a_calibration_of_another_fit_tells_nothing_of_an_observation(line):
    file = line / "run" / "calibration.json"
    said = {key: value for key, value in read_json(file).items() if not key.startswith("sha256")}
    write_json(file, {**said, "fit": "0" * 64})
    assert load_posterior(line / "run").look is None
    (line / "run" / "reference.safetensors").write_bytes(b"damaged")
    load_posterior(line / "run").sample(5, [0.2, 1.4, 1.9, 3.2, 3.8])
