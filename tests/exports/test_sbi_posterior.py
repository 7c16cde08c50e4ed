"""sbi's own diagnostics accept the posterior and find what is true of it.

The posterior here is exact: theta ~ N(0, 1)^2, v = theta + noise, total = theta_0 + theta_1 + noise, all Gaussian.
"""

from __future__ import annotations

import math

import pytest
import torch
from astropy import units
from scipy.stats import kstest
from torch import distributions as td

from sciinf import Flow, Recipe, build_posterior, simulate, train, wrappers
from sciinf.core import Draws, Observable, Posterior, Prior
from sciinf.interfaces.exports import to_sbi

pytest.importorskip("sbi")
from sbi.diagnostics import check_sbc, run_sbc, run_tarp
from sbi.diagnostics.sbc import check_uniformity_frequentist, get_nltp
from sbi.inference.posteriors.base_posterior import NeuralPosterior

from sciinf.interfaces.exports.sbi_posterior import UnboundedTransform, observations_of, rows_of

DESIGN = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
NOISE = 0.7
OBSERVABLES = {"v": Observable((2,), "mV"), "total": Observable((), "mV")}


class LinearGaussian(Posterior):
    """The exact posterior; `width` other than 1 makes it wrong on purpose."""

    def __init__(self, width: float = 1.0) -> None:
        self.name, self.digest = "linear-gaussian", ""
        self.prior = Prior(a=(td.Normal(0.0, 1.0), "mV"), b=(td.Normal(0.0, 1.0), "mV"))
        self.observables = OBSERVABLES
        covariance = torch.linalg.inv(torch.eye(2) + DESIGN.T @ DESIGN / NOISE**2)
        self.gain = covariance @ DESIGN.T / NOISE**2
        self.root = width * torch.linalg.cholesky(covariance)

    def law(self, x) -> td.MultivariateNormal:
        return td.MultivariateNormal(rows_of(OBSERVABLES, x) @ self.gain.T, scale_tril=self.root)

    def draw(self, x, n, *, generator):
        theta = self.draw_batched(x, n, generator=generator)[:, 0]
        return Draws(self.prior.names, self.prior.units, theta, torch.zeros(n))

    def draw_batched(self, x, n, *, generator):
        law = self.law(x)
        noise = torch.randn(n, *law.loc.shape, generator=generator)
        return law.loc + noise @ self.root.T

    def log_prob_batched(self, theta, x):
        return self.law(x).log_prob(theta)

    def features(self, x):
        return rows_of(OBSERVABLES, x)


def simulations(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(n, 2, generator=generator)
    return theta, theta @ DESIGN.T + NOISE * torch.randn(n, 3, generator=generator)


@pytest.fixture
def exact() -> LinearGaussian:
    return LinearGaussian()


def test_it_is_one_of_sbis(exact):
    assert isinstance(to_sbi(exact), NeuralPosterior)
    assert "linear-gaussian" in str(to_sbi(exact))


def test_draws_and_densities_are_ours(exact):
    """KS on whitened draws: each of two false-alarm rates 1e-3, fixed seed."""
    _, x = simulations(1)
    posterior = to_sbi(exact, generator=torch.Generator().manual_seed(1)).set_default_x(x)
    draws = posterior.sample((50, 40), show_progress_bars=False)
    assert draws.shape == (50, 40, 2)
    law = exact.law(observations_of(OBSERVABLES, x))
    white = torch.linalg.solve_triangular(exact.root, (draws.reshape(-1, 2) - law.loc).T, upper=False)
    for row in white:
        assert kstest(row.numpy(), "norm").pvalue > 1e-3
    torch.testing.assert_close(posterior.log_prob(draws[0]), law.log_prob(draws[0]))
    torch.testing.assert_close(posterior.potential(draws[0, 0]), law.log_prob(draws[0, :1]))


def test_batches_keep_observations_apart(exact):
    _, x = simulations(3)
    posterior = to_sbi(exact)
    draws = posterior.sample_batched((4000,), x)
    assert draws.shape == (4000, 3, 2)
    mean = x @ exact.gain.T
    error = exact.root.norm(dim=1) / math.sqrt(4000)
    assert bool(((draws.mean(0) - mean).abs() < 5 * error).all())  # false alarm: 6 means x 6e-7
    theta = draws[:5]
    expected = torch.stack([posterior.log_prob(theta[:, i], x=x[i]) for i in range(3)], dim=1)
    torch.testing.assert_close(posterior.log_prob_batched(theta, x), expected)


@pytest.mark.slow
def test_sbc_passes_the_exact_posterior_and_fails_a_narrow_one():
    """KS p-values of two ranks: false-alarm rate 2e-3, fixed seeds. The planted fault: widths halved."""
    theta, x = simulations(300)

    def ranks_of(width: float) -> tuple[torch.Tensor, torch.Tensor]:
        posterior = to_sbi(LinearGaussian(width), generator=torch.Generator().manual_seed(2))
        return run_sbc(theta, x, posterior, num_posterior_samples=200, show_progress_bar=False)

    ranks, dap = ranks_of(1.0)
    found = check_sbc(ranks, theta, dap, num_posterior_samples=200, num_c2st_repetitions=1)
    assert bool((found["ks_pvals"] > 1e-3).all())
    assert bool((check_uniformity_frequentist(ranks_of(0.5)[0], 200) < 1e-3).all())


def test_expected_coverage_by_log_prob_is_uniform(exact):
    """False-alarm rate 1e-3, fixed seeds."""
    theta, x = simulations(300, seed=4)
    posterior = to_sbi(exact, generator=torch.Generator().manual_seed(5))
    ranks, _ = run_sbc(
        theta, x, posterior, num_posterior_samples=200, reduce_fns=posterior.log_prob, show_progress_bar=False
    )
    assert kstest((ranks[:, 0] / 200).numpy(), "uniform").pvalue > 1e-3


def test_tarp_passes_the_exact_posterior_and_fails_a_narrow_one():
    """Largest distance of the coverage curve from the diagonal against KS at 1e-3 for 300 rows; fixed seeds."""
    theta, x = simulations(300)
    limit = 1.95 / math.sqrt(len(theta))

    def distance(width: float) -> float:
        posterior = to_sbi(LinearGaussian(width), generator=torch.Generator().manual_seed(2))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            ecp, alpha = run_tarp(theta, x, posterior, num_posterior_samples=200, show_progress_bar=False)
        return float((ecp - alpha).abs().max())

    assert distance(1.0) < limit
    assert distance(0.4) > limit


@pytest.mark.filterwarnings("ignore:Note that log probs")
def test_nltp_is_the_exact_density(exact):
    theta, x = simulations(20)
    found = get_nltp(theta, x, to_sbi(exact))
    torch.testing.assert_close(found, -exact.law(observations_of(OBSERVABLES, x)).log_prob(theta))


def test_map_climbs_to_the_mode(exact):
    _, x = simulations(1)
    posterior = to_sbi(exact, generator=torch.Generator().manual_seed(0)).set_default_x(x)
    mode = posterior.map(num_iter=200, num_to_optimize=5, num_init_samples=100, learning_rate=0.05)
    torch.testing.assert_close(mode.reshape(2), (x @ exact.gain.T)[0], atol=5e-3, rtol=0.0)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A posterior as the default flow learns it, of parameters with and without bounds."""
    folder = tmp_path_factory.mktemp("learned")
    prior = Prior(a=(td.Uniform(-2.0, 2.0), "mV"), b=(td.LogNormal(0.0, 0.5), "mV"))

    def simulate_rows(theta):
        return theta @ DESIGN.T + NOISE * torch.randn(len(theta), 3)

    simulator = wrappers.sbi(simulate_rows, prior)
    store = simulate(simulator, folder / "store", 400, progress=False)
    estimator = Flow(simulator.prior, simulator.observables)
    return build_posterior(train(estimator, store, folder / "fit", recipe=Recipe(epochs=4), progress=False))


def test_map_climbs_above_all_draws_of_the_default_flow(learned):
    posterior = to_sbi(learned, generator=torch.Generator().manual_seed(0)).set_default_x(torch.tensor([0.5, 1.0, 1.6]))
    draws = posterior.sample((2_000,), show_progress_bars=False)
    mode = posterior.map(num_iter=40, num_to_optimize=3, num_init_samples=500, learning_rate=0.05)
    assert float(posterior.log_prob(mode)) > float(posterior.log_prob(draws).max()) - 1e-3
    assert mode[0, 0].abs() < 2
    assert mode[0, 1] > 0
    theta = draws[:50].double().requires_grad_()
    (slope,) = torch.autograd.grad(posterior.log_prob(theta, track_gradients=True).sum(), theta)
    step = 1e-4 * torch.randn(50, 2, generator=torch.Generator().manual_seed(1)).double()
    rise = posterior.log_prob(theta.detach() + step) - posterior.log_prob(theta.detach() - step)
    torch.testing.assert_close(rise, 2 * (slope * step).sum(1), rtol=0.05, atol=2e-5)


def test_sbis_plots_can_be_imported_and_take_the_draws(learned):
    from sbi.analysis import pairplot

    figure, _ = pairplot(to_sbi(learned).sample((50,), x=torch.ones(3), show_progress_bars=False))
    assert len(figure.axes) == 4


def test_a_posterior_without_gradients_says_so(exact):
    class Detached(LinearGaussian):
        def log_prob_batched(self, theta, x):
            return super().log_prob_batched(theta, x).detach()

    posterior = to_sbi(Detached()).set_default_x(torch.zeros(1, 3))
    assert posterior.potential(torch.zeros(2, 2)).shape == (2,)
    with pytest.raises(NotImplementedError, match="largest `log_prob`"):
        posterior.map(num_iter=1, num_init_samples=10)


def test_torchs_global_seed_acts_where_no_generator_is_given(exact):
    _, x = simulations(1)
    posterior = to_sbi(exact)

    def draw(seed: int) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return posterior.sample((3,), x=x)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_observations_go_through_rows_and_back():
    specs = {"image": Observable((2, 3)), "n": Observable((), dtype="int64"), "n_mask": Observable((), dtype="bool")}
    x = {"image": torch.randn(4, 2, 3), "n": torch.arange(4), "n_mask": torch.tensor([True, False, True, True])}
    back = observations_of(specs, rows_of(specs, x))
    for name, value in x.items():
        assert torch.equal(back[name], value)
    only = {"image": specs["image"]}
    for rows in (x["image"], x["image"].flatten(1)):
        assert torch.equal(observations_of(only, rows)["image"], x["image"])
    assert torch.equal(observations_of(only, x["image"][0])["image"], x["image"][:1])


def test_wrong_observations_and_keywords_are_refused(exact):
    posterior = to_sbi(exact)
    with pytest.raises(ValueError, match=r"expected \(batch, 3\)"):
        posterior.sample((3,), x=torch.zeros(1, 4))
    with pytest.raises(ValueError, match="holds 2 observations"):
        posterior.sample((3,), x=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="holds 2 observations"):
        posterior.log_prob(torch.zeros(1, 2), x=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="set_default_x"):
        posterior.sample((3,))
    volts = torch.zeros(1, 3).numpy() * units.V
    with pytest.raises(TypeError, match="quantity in 'V'"):
        posterior.set_default_x(volts)
    with pytest.raises(TypeError, match="quantity in 'V'"):
        posterior.sample((3,), x=volts)
    with pytest.raises(TypeError, match="quantity in 'V'"):
        posterior.sample_batched((3,), volts)
    with pytest.raises(TypeError, match="quantity in 'V'"):
        posterior.log_prob(volts[:, :2], x=torch.zeros(1, 3))
    with pytest.raises(TypeError, match="reject_outside_prior"):
        posterior.sample((3,), x=torch.zeros(1, 3), reject_outside_prior=True)


def test_the_transform_has_the_determinant_of_its_own_derivative(prior):
    transform, theta = UnboundedTransform(prior.bijection), prior.sample(20, generator=torch.Generator().manual_seed(1))
    theta = theta.double()
    z = transform(theta)
    assert torch.allclose(transform.inv(z), theta)
    each = [torch.autograd.functional.jacobian(prior.bijection.inverse, row) for row in z]
    exact = -torch.stack([torch.linalg.slogdet(one).logabsdet for one in each])
    assert torch.allclose(transform.log_abs_det_jacobian(theta, z), exact, atol=1e-5)
    assert not torch.allclose(exact, -exact, atol=0.1)  # the planted fault: that of the inverse
