"""numpyro models: prior, simulations, likelihood and posterior against closed forms, and models that are refused."""

from __future__ import annotations

import json
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import torch
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam
from scipy import stats

from sciinf.core import Observable, Outcome, Prior, Status
from sciinf.simulators.wrappers.numpyro_model import numpyro as wrap
from sciinf.simulators.wrappers.numpyro_model import torch_laws

pytestmark = pytest.mark.usefixtures("hasty_compiler")

TIMES = np.linspace(0.0, 1.0, 5)
DESIGN = np.stack([np.ones(5), TIMES], axis=1)
NOISE = 0.5


def line(times, y=None):
    """y = b_0 + b_1 t + noise, with the conjugate prior."""
    b = numpyro.sample("b", dist.Normal(jnp.array([1.0, -1.0]), jnp.array([2.0, 1.0])).to_event(1))
    mean = numpyro.deterministic("mean", b[0] + b[1] * times)
    with numpyro.plate("time", len(times)):
        numpyro.sample("y", dist.Normal(mean, NOISE), obs=y)


def mixed(counts=None, flag=None):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.1))
    odds = numpyro.sample("odds", dist.Beta(2.0, 3.0))
    with numpyro.plate("n", 4):
        numpyro.sample("counts", dist.Poisson(rate), obs=counts)
    numpyro.sample("flag", dist.Bernoulli(odds), obs=flag)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def simulator():
    return wrap(line, args=(TIMES,), observed={"y": Observable((5,), "mV", ("time",))}, units={"b": "mV"}, block=512)


def conjugate(y):
    """Exact posterior mean and covariance of (b_0, b_1)."""
    precision = DESIGN.T @ DESIGN / NOISE**2 + np.diag([1 / 4, 1.0])
    covariance = np.linalg.inv(precision)
    return covariance @ (DESIGN.T @ y / NOISE**2 + np.array([1 / 4, -1.0])), covariance


def test_prior_and_observables(simulator):
    assert (simulator.name, simulator.prior.names, simulator.prior.units) == ("line", ("b_0", "b_1"), ("mV", "mV"))
    theta = torch.tensor([[0.5, 2.0]])
    expected = stats.norm.logpdf(0.5, 1.0, 2.0) + stats.norm.logpdf(2.0, -1.0, 1.0)
    assert float(simulator.prior.log_prob(theta)) == pytest.approx(expected, rel=1e-6)
    assert simulator.observables == {"y": Observable((5,), "mV", ("time",))}


@pytest.mark.slow
def test_simulations_have_the_right_law(simulator):
    # 20,000 residuals are N(0, 0.5^2): KS at p < 1e-4, so that is the false-alarm rate; the seed is fixed.
    theta = simulator.prior.sample(4000, generator=generator())
    y = simulator(theta, generator=generator(1)).x["y"]
    residual = (y - theta @ torch.tensor(DESIGN.T).float()) / NOISE
    assert stats.kstest(residual.numpy().ravel(), "norm").pvalue > 1e-4
    assert abs(float(torch.corrcoef(residual.T).triu(1).abs().max())) < 0.08  # 5 sd of a correlation of 4000 pairs


@pytest.mark.slow
def test_simulations_are_reproducible_and_rows_independent_of_the_batch(simulator):
    theta = simulator.prior.sample(7, generator=generator())
    first = simulator(theta, generator=generator(1)).x["y"]
    assert torch.equal(first, simulator(theta, generator=generator(1)).x["y"])
    assert torch.equal(first[:3], simulator(theta[:3], generator=generator(1)).x["y"])
    assert not torch.equal(first, simulator(theta, generator=generator(2)).x["y"])


def worst_likelihood_error(simulator, theta, x, noise=NOISE):
    y = x["y"].double().numpy()
    truth = stats.norm.logpdf(y, theta.double().numpy() @ DESIGN.T, noise).sum(-1)
    return np.abs(simulator.log_likelihood(theta, x).numpy() - truth).max()


def test_log_likelihood(simulator):
    theta = simulator.prior.sample(700, generator=generator())  # more than a block
    x = simulator(theta, generator=generator(1)).x
    one = {"y": x["y"][:1]}
    assert simulator.log_likelihood(theta, x).dtype == torch.float64
    assert worst_likelihood_error(simulator, theta, x) < 1e-9
    assert worst_likelihood_error(simulator, theta, one) < 1e-9
    assert worst_likelihood_error(simulator, theta.double() / 3, x) < 1e-9
    assert worst_likelihood_error(simulator, theta, x, noise=0.51) > 0.01  # planted fault
    assert not jax.config.jax_enable_x64
    with pytest.raises(ValueError, match="3 rows"):
        simulator.log_likelihood(theta, {"y": x["y"][:3]})
    with pytest.raises(ValueError, match="missing"):
        simulator.log_likelihood(theta, {})


@pytest.mark.slow
def test_reference_is_the_conjugate_posterior(simulator):
    # 1,000 draws, some 600 effective: 0.16 sd is 3.9 standard errors; two means, so below 1 in 3000 (seeded).
    y = np.array([0.3, 0.1, -0.2, 0.4, -0.9])
    mean, covariance = conjugate(y)
    draws = simulator.reference({"y": torch.tensor(y)}, 1000, generator(2)).double().numpy()
    sd = np.sqrt(np.diag(covariance))
    assert draws.shape == (1000, 2)
    assert np.abs((draws.mean(0) - mean) / sd).max() < 0.16
    assert np.abs(draws.std(0) / sd - 1).max() < 0.15
    assert np.corrcoef(draws.T)[0, 1] == pytest.approx(covariance[0, 1] / sd.prod(), abs=0.1)
    wrong, _ = conjugate(y + 1.0)  # planted fault: the posterior of other data
    assert np.abs((draws.mean(0) - wrong) / sd).max() > 1.0


@pytest.mark.slow
def test_reference_draws_only_from_the_generator(simulator):
    x = {"y": torch.zeros(1, 5)}
    before = torch.get_rng_state()
    first = simulator.reference(x, 10, generator())
    assert torch.equal(first, simulator.reference(x, 10, generator()))
    assert not torch.equal(first, simulator.reference(x, 10, generator(1)))
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="shape"):
        simulator.reference({"y": torch.zeros(1, 4)}, 10, generator())


@pytest.mark.slow
def test_a_reference_of_what_has_its_slope_backwards_alone():
    """As of `odeint`: a ~ N(0, 1), y = a + e / 2, so a given y is N(.8 y, .2); bounds as of the conjugate posterior."""
    same = jax.custom_vjp(lambda a: a)
    same.defvjp(lambda a: (a, None), lambda _, slope: (slope,))

    def model(y=None):
        numpyro.sample("y", dist.Normal(same(numpyro.sample("a", dist.Normal(0.0, 1.0))), 0.5), obs=y)

    reference = wrap(model, observed={"y": Observable(())}).reference
    draws = reference({"y": torch.tensor([1.0])}, 1_000, generator()).double()
    assert abs(float(draws.mean()) - 0.8) < 0.16 * 0.2**0.5
    assert float(draws.std()) == pytest.approx(0.2**0.5, rel=0.15)


@pytest.mark.slow
def test_chains_that_disagree_are_no_reference():
    def two_modes(y=None):
        a = numpyro.sample("a", dist.Uniform(-10.0, 10.0))
        numpyro.sample("y", dist.Normal(a**2, 0.01), obs=y)

    with pytest.raises(RuntimeError, match="disagree about 'a'"):
        wrap(two_modes, observed="y").reference({"y": torch.tensor(49.0)}, 100, generator())


@pytest.mark.slow
def test_discrete_sites_and_several_observables():
    simulator = wrap(mixed, observed=["counts", "flag"], units={"rate": "1/s"})
    assert simulator.observables["counts"] == Observable((4,), dtype="int64")
    assert simulator.observables["flag"].dtype == "int64"
    theta = simulator.prior.sample(50, generator=generator())
    outcome = simulator(theta, generator=generator(1))
    assert outcome.x["counts"].dtype == torch.int64
    rate, odds = theta.double().numpy().T
    counts, flag = outcome.x["counts"].numpy(), outcome.x["flag"].numpy()
    truth = stats.poisson.logpmf(counts, rate[:, None]).sum(-1) + stats.bernoulli.logpmf(flag, odds)
    assert np.allclose(simulator.log_likelihood(theta, outcome.x).numpy(), truth, atol=1e-6)
    impossible = {"counts": torch.full((1, 4), -1), "flag": torch.zeros(1)}
    assert simulator.log_likelihood(theta, impossible).isneginf().all()


def test_values_that_are_not_finite_keep_their_row():
    def sometimes(y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Delta(jnp.log(a)), obs=y)

    outcome = wrap(sometimes, observed="y")(torch.tensor([[1.0], [-1.0]]), generator=generator())
    assert isinstance(outcome, Outcome)
    assert outcome.status.tolist() == [Status.OK, Status.OK]  # the store marks floats itself
    assert outcome.x["y"].isnan().tolist() == [False, True]


def test_it_pickles(simulator):
    again = pickle.loads(pickle.dumps(simulator))
    theta = simulator.prior.sample(3, generator=generator())
    x = simulator(theta, generator=generator(1)).x
    assert torch.equal(again(theta, generator=generator(1)).x["y"], x["y"])
    assert torch.allclose(again.log_likelihood(theta, x), simulator.log_likelihood(theta, x))


@pytest.mark.slow
def test_single_precision():
    simulator = wrap(line, args=(TIMES.copy(),), observed="y", double=False)
    theta = simulator.prior.sample(20, generator=generator())
    x = simulator(theta, generator=generator(1)).x
    assert 1e-9 < worst_likelihood_error(simulator, theta, x) < 1e-3


LAWS = [
    dist.Beta(2.0, 3.0),
    dist.Cauchy(0.5, 2.0),
    dist.Chi2(3.0),
    dist.Exponential(0.3),
    dist.Gamma(2.0, 0.7),
    dist.Gumbel(1.0, 2.0),
    dist.HalfCauchy(1.5),
    dist.HalfNormal(0.1),
    dist.InverseGamma(3.0, 2.0),
    dist.Laplace(0.2, 1.5),
    dist.LogNormal(0.1, 0.4),
    dist.Normal(-1.0, 0.1),
    dist.StudentT(4.0, 1.0, 2.0),
    dist.Uniform(-2.0, 3.0),
    dist.Weibull(2.0, 1.5),
    dist.TruncatedNormal(1.0, 0.5, low=0.0),
    dist.TruncatedNormal(1.0, 0.5, high=2.0),
    dist.TruncatedNormal(1.0, 0.5, low=0.5, high=2.0),
    dist.TruncatedCauchy(0.0, 1.0, low=-1.0),
    dist.TruncatedDistribution(dist.Laplace(0.0, 1.0), low=0.5, high=4.0),
]


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS, ids=lambda law: type(law).__name__)
def test_laws_are_those_of_numpyro(law):
    prior = Prior(a=torch_laws("a", law, ())[0])
    prior = Prior.from_json(json.loads(json.dumps(prior.to_json())))
    theta = prior.sample(200, generator=generator())
    expected = np.asarray(law.log_prob(jnp.asarray(theta[:, 0].numpy())))
    assert np.allclose(prior.log_prob(theta).numpy(), expected, rtol=1e-4, atol=1e-4)
    z = prior.bijection.forward(theta.double())
    assert torch.allclose(prior.bijection.inverse(z), theta.double(), rtol=1e-4, atol=1e-5)


def test_a_law_that_torch_cannot_truncate_is_refused():
    with pytest.raises(ValueError, match="cannot be truncated"):
        torch_laws("a", dist.TruncatedDistribution(dist.StudentT(3.0), low=0.0), ())


def test_a_vector_site_in_a_plate_of_a_truncated_law():
    def model(y=None):
        with numpyro.plate("k", 2):
            a = numpyro.sample("a", dist.TruncatedNormal(jnp.array([0.1, 5.0]), 1.0, low=0.0))
        numpyro.sample("y", dist.Normal(a.sum(), 1.0), obs=y)

    prior = wrap(model, observed="y", units={"a_1": "m"}).prior
    assert (prior.names, prior.units) == (("a_0", "a_1"), ("", "m"))
    expected = stats.truncnorm.logpdf([0.5, 4.0], [-0.1, -5.0], np.inf, loc=[0.1, 5.0]).sum()
    assert float(prior.log_prob(torch.tensor([0.5, 4.0]))) == pytest.approx(expected, rel=1e-5)
    assert "loc: 0.1" in repr(prior.laws[0])


@pytest.mark.slow
def test_a_hierarchy_written_with_standard_laws_is_fine():
    def model(y=None):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        effect = numpyro.sample("effect", dist.Normal(0.0, scale))
        numpyro.sample("y", dist.Normal(effect, 1.0), obs=y)

    with pytest.raises(ValueError, match="'effect' whose law depends on other latent sites"):
        wrap(model, observed="y")
    flat = wrap(handlers.reparam(model, config={"effect": LocScaleReparam(0)}), observed="y", name="flat")
    assert flat.prior.names == ("scale", "effect_decentered")
    theta = torch.tensor([[2.0, 0.5]])
    value = flat.log_likelihood(theta, {"y": torch.tensor([0.3])})
    assert float(value) == pytest.approx(stats.norm.logpdf(0.3, 1.0, 1.0), rel=1e-6)


def refused(statement):
    """A model with one statement too many."""

    def model(y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        statement(a)
        numpyro.sample("y", dist.Normal(a, 1.0), obs=y)

    return model


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (lambda a: numpyro.factor("f", -a), "numpyro.factor"),
        (lambda a: numpyro.sample("z", dist.Normal(a, 1.0), obs=0.5), "already holds its data"),
        (lambda a: numpyro.param("p", 1.0), "numpyro.param"),
        (lambda a: numpyro.sample("w", dist.Dirichlet(jnp.ones(3))), "distribution Dirichlet"),
        (lambda a: numpyro.sample("w", dist.Poisson(3.0)), "distribution Poisson"),
        (lambda a: numpyro.sample("w", dist.Uniform(0.0, jnp.abs(a))), "'w' whose law depends"),
        (lambda a: numpyro.sample("w", dist.Uniform(0.0, jnp.where(a > 1.5, 2.0, 1.0))), "'w' whose law depends"),
        (lambda a: float(a), "cannot be compiled"),
        (lambda a: numpyro.sample("key", dist.Normal(0.0, 1.0)), "'key'"),
        (
            lambda a: numpyro.sample("w", dist.TruncatedDistribution(dist.Logistic(0.0, 1.0), low=0.0)),
            "distribution Logistic",
        ),
    ],
)
def test_models_that_are_no_simulator_are_refused(statement, words):
    with pytest.raises(ValueError, match=words):
        wrap(refused(statement), observed="y")


def test_scaled_and_subsampled_sites_are_refused():
    def scaled(y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with handlers.scale(scale=2.0):
            numpyro.sample("y", dist.Normal(a, 1.0), obs=y)

    def subsampled(y=None):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("n", 10, subsample_size=3):
            numpyro.sample("y", dist.Normal(a, 1.0), obs=y)

    with pytest.raises(ValueError, match="scale"):
        wrap(scaled, observed="y")
    with pytest.raises(ValueError, match="subsample"):
        wrap(subsampled, observed="y")


@pytest.mark.slow
def test_mistakes_in_the_call():
    with pytest.raises(ValueError, match="must default to None"):
        wrap(line, observed="y")
    with pytest.raises(ValueError, match=r"no site 'yy' \(did you mean 'y'"):
        wrap(line, args=(TIMES,), observed="yy")
    with pytest.raises(ValueError, match="already holds its data"):
        wrap(line, args=(TIMES,), kwargs={"y": np.zeros(5)}, observed="y")
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        wrap(line, args=(TIMES,), observed={"y": Observable((4,))})
    with pytest.raises(ValueError, match="units name 'c'"):
        wrap(line, args=(TIMES,), observed="y", units={"c": "mV"})
    with pytest.raises(TypeError, match="Observable"):
        wrap(line, args=(TIMES,), observed={"y": (5,)})
    with pytest.raises(TypeError, match="function"):
        wrap("line", observed="y")
    with pytest.raises(ValueError, match="nothing to infer"):
        wrap(line, args=(TIMES,), observed=["b", "y"])


def test_real_data_are_read_by_the_site_name(simulator, tmp_path):
    (tmp_path / "y.csv").write_text("time,y [V]\n" + "\n".join(f"{t},0.001" for t in range(5)))
    assert torch.allclose(simulator.observe(tmp_path / "y.csv")["y"], torch.ones(5))
    assert math.isfinite(float(simulator.log_likelihood(torch.zeros(1, 2), {"y": torch.ones(1, 5)})))


def test_parameters_that_float32_cannot_tell_apart_need_double():
    def clock():
        numpyro.sample("x", dist.Normal(numpyro.sample("t", dist.Normal(1126259462.4, 0.1)), 1e-6))

    with pytest.raises(ValueError, match="double=True"):
        wrap(clock, observed={"x": Observable((), dtype="float64")}, double=False)
    simulator = wrap(clock, observed={"x": Observable((), dtype="float64")})
    theta = simulator.prior.sample(8, generator=torch.Generator().manual_seed(0))
    x = simulator(theta, generator=torch.Generator().manual_seed(1)).x["x"]
    torch.testing.assert_close(x, theta[:, 0], rtol=0, atol=1e-5)
    assert abs(float(theta.mean()) - 1126259462.4) < 0.2
