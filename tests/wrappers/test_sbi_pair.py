"""Priors and simulators in sbi's convention."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from astropy import units
from sbi.utils import BoxUniform, MultipleIndependent
from sbi.utils.user_input_checks import process_prior
from torch import distributions as td

from sciinf import wrappers
from sciinf.core import Observable, Prior


def gaussian(theta):
    return theta + 0.1 * torch.randn_like(theta)


def with_three_sources(theta):
    noise = torch.randn(len(theta)).numpy() + np.random.normal(size=len(theta)) + random.random()  # noqa: NPY002
    return noise[:, None]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


BOX = BoxUniform(low=torch.tensor([-1.0, 0.0]), high=torch.tensor([1.0, 3.0]))
PARTS = [
    td.Gamma(torch.ones(1) * 2, torch.ones(1)),
    BoxUniform(torch.zeros(1), torch.ones(1)),
    td.MultivariateNormal(torch.ones(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]])),
]


@pytest.mark.parametrize(
    "law",
    [
        BOX,
        td.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]])),
        td.Independent(td.LogNormal(torch.zeros(2), torch.ones(2)), 1),
        MultipleIndependent(PARTS),
        process_prior(MultipleIndependent(PARTS))[0],
        process_prior(td.Exponential(torch.ones(1)))[0],
        process_prior(td.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()))[0],
    ],
    ids=["box", "normal", "independent", "parts", "processed_parts", "processed_one", "processed_double"],
)
def test_the_prior_is_the_same_law(law):
    simulator = wrappers.sbi(gaussian, law)
    theta = law.sample((50,))
    expected = law.log_prob(theta).reshape(50).double()
    torch.testing.assert_close(simulator.prior.log_prob(theta), expected, rtol=1e-5, atol=1e-5)
    assert simulator.prior.names == tuple(f"theta_{i}" for i in range(theta.shape[1]))
    copy = Prior.from_json(simulator.prior.to_json())
    assert torch.equal(copy.log_prob(theta), simulator.prior.log_prob(theta))


def test_a_list_of_laws_with_names_and_units():
    simulator = wrappers.sbi(gaussian, PARTS, names=("shape", "p", "a", "b"), units=("", "", "m", "m"), observable="y")
    assert simulator.prior.names == ("shape", "p", "a", "b")
    assert simulator.prior.units == ("", "", "m", "m")
    assert simulator.observables == {"y": Observable((4,))}
    assert simulator.name == "gaussian"


def test_values_shape_and_reproducibility():
    simulator = wrappers.sbi(gaussian, BOX)
    theta = simulator.prior.sample(500, generator=generator())
    first, again, other = (simulator(theta, generator=generator(s))["x"] for s in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    # sd of 1000 residuals of sd 0.1: 5 sd, false-alarm rate 6e-7; the seed is fixed
    assert abs(float((first - theta).std()) / 0.1 - 1) < 5 / 2000**0.5


def test_every_global_state_is_seeded_and_put_back():
    simulator = wrappers.sbi(with_three_sources, BOX)
    theta = torch.ones(4, 2)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    first = simulator(theta, generator=generator())["x"]
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert before[2] == random.getstate()
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    assert torch.equal(first, simulator(theta, generator=generator())["x"])
    assert first.dtype == torch.float32


def test_a_simulator_that_writes_into_theta_does_not_change_the_parameters():
    simulator = wrappers.sbi(lambda theta: theta.mul_(2.0), BOX)
    theta = torch.ones(4, 2)
    assert torch.equal(simulator(theta, generator=generator())["x"], 2 * theta)
    assert torch.equal(theta, torch.ones(4, 2))


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(ValueError, match="not batched"):
        wrappers.sbi(lambda theta: theta.sum(0), BOX)
    with pytest.raises(ValueError, match="2 dimensions, got 1 names"):
        wrappers.sbi(gaussian, BOX, names=("a",))
    with pytest.raises(ValueError, match=r"Independent\(law, 1\)"):
        wrappers.sbi(gaussian, td.Uniform(torch.zeros(3), torch.ones(3)))
    with pytest.raises(TypeError, match="no bijection"):
        wrappers.sbi(gaussian, gaussian)
    with pytest.raises(TypeError, match="it comes first, then the prior"):
        wrappers.sbi(BOX, BOX)
    simulator = wrappers.sbi(gaussian, BOX, spec=Observable((3,)))
    with pytest.raises(ValueError, match=r"\(4, 2\), expected \(4, 3\)"):
        simulator(torch.ones(4, 2), generator=generator())


def test_units_of_what_the_function_returns_are_converted():
    simulator = wrappers.sbi(lambda theta: theta.numpy() * units.mV, BOX)
    assert simulator.observables == {"x": Observable((2,), "mV")}
    volts = wrappers.sbi(lambda theta: theta.numpy() * units.mV, BOX, spec=Observable((2,), "V"))
    theta = torch.ones(4, 2)
    torch.testing.assert_close(volts(theta, generator=generator())["x"], 1e-3 * theta)
    with pytest.raises(ValueError, match=r"'x' is in 'm', which does not convert to the simulator's 'V'"):
        wrappers.sbi(lambda theta: theta.numpy() * units.m, BOX, spec=Observable((2,), "V"))(
            theta, generator=generator()
        )


def test_a_prior_of_ours_keeps_its_names_and_units():
    prior = Prior(a=(td.Normal(0.0, 1.0), "m"), b=td.Uniform(0.0, 1.0))
    assert wrappers.sbi(gaussian, prior).prior is prior
    with pytest.raises(ValueError, match="names and units of its own"):
        wrappers.sbi(gaussian, prior, names=("a", "b"))


def test_names_of_parameters_given_as_the_name_are_refused():
    prior = td.MultivariateNormal(torch.zeros(2), torch.eye(2))
    with pytest.raises(TypeError, match="parameters are called by `names`"):
        wrappers.sbi(lambda theta: theta, prior, name=("a", "b"))


def test_it_pickles_with_its_function():
    simulator = wrappers.sbi(gaussian, MultipleIndependent(PARTS))
    copy = pickle.loads(pickle.dumps(simulator))
    theta = simulator.prior.sample(4, generator=generator())
    assert torch.equal(copy.prior.bijection.forward(theta), simulator.prior.bijection.forward(theta))
    assert torch.equal(copy(theta, generator=generator())["x"], simulator(theta, generator=generator())["x"])
