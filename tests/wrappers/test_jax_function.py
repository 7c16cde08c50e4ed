"""The JAX wrapper against the same formula in torch and against the numpy wrapper."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.distributions import LogNormal, Normal

from sciinf import wrappers
from sciinf.core import Observable, Prior, Status

pytestmark = pytest.mark.usefixtures("hasty_compiler")

TIMES = np.linspace(0, 5, 7).astype(np.float32)
PRIOR = Prior(rate=(LogNormal(0.0, 0.5), "1/h"), amplitude=(LogNormal(1.0, 0.3), "mV"))


def decay(rate, amplitude):
    return {"v": amplitude * jnp.exp(-rate * TIMES)}


def noisy(key, rate, amplitude):
    noise, count = jax.random.split(key)
    return {
        "v": amplitude * jnp.exp(-rate * TIMES) + jax.random.normal(noise, (7,)),
        "n": jax.random.randint(count, (), 0, 19),
    }


def log_likelihood(rate, amplitude, x):
    return -0.5 * ((x["v"] - amplitude * jnp.exp(-rate * TIMES)) ** 2).sum()


NOISY = {"v": ((7,), "mV"), "n": Observable((), dtype="int64")}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def theta():
    return PRIOR.sample(9, generator=generator(1))


def test_values_are_those_of_the_numpy_wrapper(theta):
    ours = wrappers.jax(decay, PRIOR, {"v": ((7,), "mV")})(theta, generator=generator())
    theirs = wrappers.numpy(lambda rate, amplitude: amplitude * np.exp(-rate * TIMES), PRIOR, {"v": ((7,), "mV")})
    torch.testing.assert_close(ours.x["v"], theirs(theta, generator=generator()).x["v"])
    assert ours.status.tolist() == [Status.OK] * 9


@pytest.mark.slow
def test_the_generator_decides_and_rows_stand_alone(theta):
    simulator = wrappers.jax(noisy, PRIOR, NOISY)
    first, again, other = (simulator(theta, generator=generator(s)).x for s in (5, 5, 6))
    assert torch.equal(first["v"], again["v"])
    assert not torch.equal(first["v"], other["v"])
    assert first["n"].dtype == torch.int64
    # a batch of three is compiled for another size than one of nine: equal up to rounding
    torch.testing.assert_close(simulator(theta[:3], generator=generator(5)).x["v"], first["v"][:3])


@pytest.mark.slow
def test_the_noise_is_standard_normal():
    x = wrappers.jax(noisy, PRIOR, NOISY)(torch.ones(1000, 2), generator=generator()).x
    residual = x["v"] - torch.exp(-torch.tensor(TIMES))
    # 7000 standard normals, and 1000 integers uniform on 0..18 (mean 9, variance 30): 5 sd,
    # false-alarm rate 6e-7 each; the seed is fixed
    assert abs(float(residual.mean())) < 5 / 7000**0.5
    assert abs(float(residual.var()) - 1) < 5 * (2 / 7000) ** 0.5
    assert abs(float(x["n"].float().mean()) - 9) < 5 * (30 / 1000) ** 0.5
    assert len(x["v"].unique(dim=0)) == 1000


def test_a_batch_of_none_and_of_one(theta):
    simulator = wrappers.jax(noisy, PRIOR, NOISY)
    assert simulator(theta[:0], generator=generator()).x["v"].shape == (0, 7)
    assert simulator(theta[:1], generator=generator()).x["v"].shape == (1, 7)


def test_the_log_likelihood_takes_one_observation_or_as_many_as_theta(theta):
    simulator = wrappers.jax(decay, PRIOR, {"v": ((7,), "mV")}, log_likelihood=log_likelihood)
    x = torch.randn(9, 7, generator=generator())
    mean = theta[:, 1:] * torch.exp(-theta[:, :1] * torch.tensor(TIMES))
    for data in (x, x[:1]):
        expected = -0.5 * ((data - mean) ** 2).sum(-1).double()
        torch.testing.assert_close(simulator.log_likelihood(theta, {"v": data}), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="4 rows of 'v'"):
        simulator.log_likelihood(theta, {"v": x[:4]})


def test_wrong_names_and_shapes_are_named(theta):
    with pytest.raises(ValueError, match=r"'ky'.*did you mean 'key'"):
        wrappers.jax(lambda ky, rate, amplitude: 0, PRIOR, {"v": ()})
    simulator = wrappers.jax(lambda rate, amplitude: jnp.zeros(6), PRIOR, {"v": (7,)})
    with pytest.raises(ValueError, match=r"'v' with shape \(\d+, 6\), expected \(\d+, 7\)"):
        simulator(theta, generator=generator())


def test_it_pickles_after_it_was_compiled(theta):
    simulator = wrappers.jax(noisy, PRIOR, NOISY, log_likelihood=log_likelihood)
    before = simulator(theta, generator=generator()).x["v"]
    simulator.log_likelihood(theta, {"v": before})
    copy = pickle.loads(pickle.dumps(simulator))
    assert torch.equal(copy(theta, generator=generator()).x["v"], before)
    assert torch.equal(copy.log_likelihood(theta, {"v": before}), simulator.log_likelihood(theta, {"v": before}))


def test_parameters_that_float32_cannot_tell_apart_need_x64():
    prior = Prior(t=Normal(torch.tensor(1126259462.4, dtype=torch.float64), 0.1))
    seen = {"x": Observable((), dtype="float64")}
    with pytest.raises(ValueError, match="jax_enable_x64"):
        wrappers.jax(lambda t: t, prior, seen)
    with jax.enable_x64(True):
        simulator = wrappers.jax(lambda t: t, prior, seen)
        theta = prior.sample(8, generator=generator())
        assert torch.equal(simulator(theta, generator=generator()).x["x"], theta[:, 0])
