"""Priors in units whose numbers float32 can hardly hold, or tell apart: kilograms, metres, GPS seconds, Julian days."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf import Observable, simulate, wrappers
from sciinf.core import Prior, Truncated


def exact(number: object) -> torch.Tensor:
    return torch.tensor(number, dtype=torch.float64)


@pytest.mark.parametrize(("loc", "scale"), [(1e-26, 1e-27), (0.0, 1e20), (50.0, 1.0)])
def test_densities_keep_their_digits_in_any_unit(loc, scale):
    prior = Prior(m=td.Normal(loc, scale))
    theta = prior.sample(1000, generator=torch.Generator().manual_seed(0)).double()
    z = (theta[:, 0] - loc) / scale
    log = -0.5 * z.square() - math.log(scale) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(prior.log_prob(theta), log, rtol=0, atol=1e-5)  # 4.5 off, or NaN, in float32
    torch.testing.assert_close(prior.bijection.forward(theta)[:, 0], z, rtol=0, atol=1e-5)
    jacobian = torch.full_like(z, -math.log(scale))
    torch.testing.assert_close(prior.bijection.log_abs_det_jacobian(theta), jacobian, rtol=0, atol=1e-5)


GPS, JULIAN = 1126259462.4, 2460000.5
FINE = {
    "GPS": td.Normal(exact(GPS), 0.1),
    "Julian date": td.Normal(exact(JULIAN), 0.01),
    "below zero": td.Normal(exact(-JULIAN), 0.01),
    "flat": td.Uniform(exact(JULIAN - 0.5), JULIAN + 0.5),
    "cut": Truncated(td.Normal(exact(JULIAN), 1.0), low=JULIAN - 0.5, high=JULIAN + 0.5),
    "log": td.LogNormal(exact(20.8), 1e-6),
    "mixture": td.MixtureSameFamily(
        td.Categorical(exact([0.5, 0.5])), td.Normal(exact([JULIAN - 1.0, JULIAN]), exact([1.0, 0.01]))
    ),
    "no sd": td.StudentT(1.0, exact(GPS), 0.1),
    "no quantiles": td.Gamma(exact(1e12), 1.0),
}


@pytest.mark.parametrize("name", FINE)
def test_parameters_are_float64_where_float32_cannot_tell_them_apart(name):
    """Draws, density and bijection are those of the same law in numbers of order one, and z suits a float32 network."""
    law = FINE[name]
    prior = Prior(a=td.Normal(0.0, 1.0), t=(law, "s"))
    theta = prior.sample(1000, generator=torch.Generator().manual_seed(0))
    assert theta.dtype == prior.dtype == torch.float64
    assert len(theta[:, 1].unique()) > 990
    z = prior.bijection.forward(theta)
    back = prior.bijection.inverse(z.float())
    assert back.dtype == torch.float64
    middle = theta[:, 1].quantile(0.5)
    width = theta[:, 1].quantile(0.8) - theta[:, 1].quantile(0.2)
    near = (theta[:, 1] - middle).abs() < 5 * width
    assert near.double().mean() > 0.9
    assert float((back - theta)[near, 1].abs().max()) < 1e-5 * width  # 128 s, or a quarter of a day, in float32
    assert float(z[near, 1].std()) > 0.1
    at = theta[near].requires_grad_()
    prior.bijection.forward(at).sum().backward()
    torch.testing.assert_close(prior.bijection.log_abs_det_jacobian(at.detach()), at.grad.log().sum(-1))


def test_a_joint_law_far_from_zero_is_carried_to_numbers_of_order_one():
    law = td.MultivariateNormal(exact([0.0, GPS]), exact([[1.0, 0.05], [0.05, 0.01]]))
    prior = Prior.joint(("a", "t"), law)
    theta = prior.sample(1000, generator=torch.Generator().manual_seed(0))
    z = prior.bijection.forward(theta)
    assert z.mean(0).abs().max() < 0.2
    assert (z.std(0) - 1).abs().max() < 0.1
    torch.testing.assert_close(prior.bijection.inverse(z.float()), theta, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        prior.bijection.log_abs_det_jacobian(theta),
        torch.full((1000,), math.log(10.0), dtype=torch.float64),
        rtol=0,
        atol=1e-5,
    )


COARSE = {
    "GPS": td.Normal(GPS, 0.1),
    "Julian date": td.Normal(JULIAN, 0.01),
    "flat": td.Uniform(JULIAN - 0.5, JULIAN + 0.5),
    "cut": Truncated(td.Normal(JULIAN, 1.0), low=JULIAN - 0.5, high=JULIAN + 0.5),
    "mixture": td.MixtureSameFamily(
        td.Categorical(torch.ones(2)), td.Normal(torch.tensor([0.0, JULIAN]), torch.tensor([1.0, 0.01]))
    ),
    "no sd": td.StudentT(1.0, GPS, 0.1),
}


@pytest.mark.parametrize("name", COARSE)
def test_laws_that_torch_rounded_are_refused_with_the_way_out(name):
    says = (
        r"'t'.* s, and its numbers are float32, .* steps of .*dtype=torch.float64\).*t = t0 \+ dt.* prior on dt in s$"
    )
    with pytest.raises(ValueError, match=says):
        Prior(a=td.Normal(0.0, 1.0), t=(COARSE[name], "s"))


def test_laws_that_float64_cannot_resolve_are_refused_too():
    with pytest.raises(ValueError, match=r"'t'.*numbers are float64, .* steps of 16 there. Give .* as an offset"):
        Prior(t=td.Normal(exact(1e17), 0.1))


def test_the_parameter_of_a_joint_law_is_named():
    law = td.MultivariateNormal(torch.tensor([0.0, GPS]), torch.eye(2))
    with pytest.raises(
        ValueError, match="parameter 'b' has a distribution near 1126259456 of width 1, .* steps of 128"
    ):
        Prior.joint(("a", "b"), law)
    with pytest.raises(ValueError, match="parameter 'b'"):
        Prior.joint(("a", "b"), td.Independent(td.Normal(torch.tensor([0.0, GPS]), torch.ones(2)), 1))


@pytest.mark.parametrize("scale", [1e38, 1e-44])
def test_numbers_beyond_the_range_of_float32_are_held_in_float64(scale):
    prior = Prior(m=td.Normal(exact(0.0), exact(scale)))
    theta = prior.sample(1000, generator=torch.Generator().manual_seed(0))
    assert prior.dtype == torch.float64
    torch.testing.assert_close(theta[:, 0] / scale, prior.bijection.forward(theta)[:, 0])


def test_ordinary_laws_are_taken():
    laws = (td.Normal(0.0, 1.0), td.Uniform(2000.0, 2010.0), td.StudentT(1.0, 0.0, 1.0), td.Beta(1.0, 1.0))
    for law in (*laws, td.LogNormal(0.0, 20.0), td.InverseGamma(0.5, 1.0), td.Uniform(1900.0, 2000.0)):
        assert Prior(t=law).dtype == torch.float32
    assert Prior(t=td.Uniform(2459000.0, 2460000.0)).dtype == torch.float64


def test_what_is_written_of_a_prior_is_what_was_given():
    prior = Prior(a=td.Normal(0.1, 0.3), b=Truncated(td.Normal(exact(0.1), 0.3), low=0.0))
    said = prior.to_json()
    assert "dtype" not in said["laws"][0]
    assert said["laws"][1]["base"]["dtype"] == "float64"
    assert Prior.from_json(json.loads(json.dumps(said))).to_json() == said


def promised(seed: int, block: int) -> torch.Generator:
    """The generator of (seed, block, 0), as docs/data_format.md tells it."""
    sequence = np.random.SeedSequence(seed, spawn_key=(block, 0))
    generator = torch.Generator().manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
    words = sequence.generate_state(626, np.uint32)[2:]
    words[0] |= 0x80000000
    state = generator.get_state().numpy()
    state[24 : 24 + 8 * 624].view(np.uint64)[:] = words
    return generator.set_state(torch.from_numpy(state))


def test_blocks_draw_from_the_promised_generators_and_seeds_share_no_row(tmp_path):
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Gamma(2.0, 1.0))
    simulator = wrappers.numpy(lambda a, b, rng: a + b, prior, {"x": Observable(())}, name="sum", block=64)
    stores = [simulate(simulator, tmp_path / str(seed), 192, seed=seed, progress=False) for seed in (0, 1)]
    for seed, store in enumerate(stores):
        for block in range(3):
            assert torch.equal(store.read(block)[0], prior.sample(64, generator=promised(seed, block)))
    rows = torch.cat([store.load().theta for store in stores])
    assert len(rows[:, 0].unique()) >= len(rows) - 2  # two of 384 draws are equal by chance in about one of 100 runs
    assert len(rows.unique(dim=0)) == len(rows)
