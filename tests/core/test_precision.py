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


def exact(number: float) -> torch.Tensor:
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


UNRESOLVED = {
    "GPS": td.Normal(1126259462.4, 0.1),
    "GPS in float64": td.Normal(exact(1126259462.4), exact(0.1)),
    "Julian date": td.Normal(2460000.5, 0.01),
    "below zero": td.Normal(-2460000.5, 0.01),
    "flat": td.Uniform(2460000.0, 2460001.0),
    "cut": Truncated(td.Normal(2460000.5, 1.0), low=2460000.0, high=2460001.0),
    "log": td.LogNormal(20.8, 1e-6),
    "mixture": td.MixtureSameFamily(
        td.Categorical(torch.ones(2)), td.Normal(torch.tensor([0.0, 2460000.5]), torch.tensor([1.0, 0.01]))
    ),
    "no sd": td.StudentT(1.0, 1126259462.4, 0.1),
    "no quantiles": td.Gamma(1e12, 1.0),
}


@pytest.mark.parametrize("name", UNRESOLVED)
def test_laws_that_float32_cannot_resolve_are_refused_with_the_way_out(name):
    with pytest.raises(ValueError, match=r"'t'.* s: .*float32.* in steps of .*t = t0 \+ dt.* the prior on dt in s$"):
        Prior(a=td.Normal(0.0, 1.0), t=(UNRESOLVED[name], "s"))


def test_the_parameter_of_a_joint_law_is_named():
    law = td.MultivariateNormal(torch.tensor([0.0, 1126259462.4]), torch.eye(2))
    with pytest.raises(ValueError, match="parameter 'b' .* makes it 1126259456 in steps of 128"):
        Prior.joint(("a", "b"), law)
    with pytest.raises(ValueError, match="parameter 'b'"):
        Prior.joint(("a", "b"), td.Independent(td.Normal(torch.tensor([0.0, 1126259462.4]), torch.ones(2)), 1))


def test_numbers_beyond_the_range_of_float32_need_another_unit():
    for scale, way in ((1e38, "larger"), (1e-44, "smaller")):
        with pytest.raises(ValueError, match=f"parameter 'm' .*{way} unit"):
            Prior(m=td.Normal(exact(0.0), exact(scale)))


def test_ordinary_laws_are_taken():
    laws = (td.Normal(0.0, 1.0), td.Uniform(2000.0, 2001.0), td.StudentT(1.0, 0.0, 1.0), td.Beta(1.0, 1.0))
    for law in (*laws, td.LogNormal(0.0, 20.0), td.InverseGamma(0.5, 1.0), td.Uniform(2459000.0, 2460000.0)):
        Prior(t=law)


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
