"""Priors: sampling, densities, the bijection, joint laws, JSON, errors."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from astropy import units
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import distributions as td

from sciinf import Flow, Unknown
from sciinf.core import Observable, Prior, Truncated

CORRELATED = td.MultivariateNormal(torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.9], [0.9, 1.0]]))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixed() -> Prior:
    return Prior(
        rate=(td.LogNormal(0.0, 0.5), "1/h"),
        amplitude=(Truncated(td.Normal(1.0, 0.5), low=0.0), "mV"),
        shape=td.Gamma(2.0, 3.0),
        fraction=td.Beta(2.0, 3.0),
        phase=(td.Uniform(-1.0, 2.0), "rad"),
        angle=td.VonMises(1.0, 2.0),
        peak=td.MixtureSameFamily(td.Categorical(torch.ones(2)), td.Normal(torch.tensor([-1.0, 2.0]), 1.0)),
    )


PRIORS = {
    "mixed": mixed(),
    "correlated": Prior.joint(["a", "b"], CORRELATED, ["m", "s"]),
    "split": Prior.joint(["a", "b"], td.Independent(td.Uniform(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 9.0])), 1)),
    "joint mixture": Prior.joint(
        ["a", "b"],
        td.MixtureSameFamily(
            td.Categorical(torch.tensor([0.4, 0.6])),
            td.MultivariateNormal(torch.tensor([[0.0, 0.0], [3.0, 1.0]]), torch.eye(2).expand(2, 2, 2)),
        ),
    ),
}


@pytest.mark.parametrize("name", PRIORS)
def test_samples_have_finite_density_and_a_round_trip(name):
    prior = PRIORS[name]
    theta = prior.sample(3000, generator=seeded())
    assert theta.shape == (3000, len(prior))
    assert theta.dtype == torch.float32
    assert bool(torch.isfinite(prior.log_prob(theta)).all())
    z = prior.bijection.forward(theta.double())
    torch.testing.assert_close(prior.bijection.inverse(z), theta.double(), atol=1e-6, rtol=1e-6)
    assert prior.bijection.forward(theta).dtype == torch.float32


@pytest.mark.parametrize("name", PRIORS)
def test_the_jacobian_is_the_numerical_one(name):
    prior = PRIORS[name]
    theta = prior.sample(10, generator=seeded(1)).double()
    found = prior.bijection.log_abs_det_jacobian(theta)
    z = prior.bijection.forward(theta)
    for row in range(len(theta)):
        steps = torch.eye(len(prior), dtype=torch.float64) * 1e-5
        columns = (prior.bijection.inverse(z[row] + steps) - prior.bijection.inverse(z[row] - steps)) / 2e-5
        assert float(-torch.linalg.slogdet(columns).logabsdet) == pytest.approx(float(found[row]), abs=2e-4)


def test_the_jacobian_of_a_stretched_map_is_told_apart():
    """The planted fault: the density of a prior twice as wide misses the numerical Jacobian by log 2."""
    theta = torch.tensor([[0.4]], dtype=torch.float64)
    narrow, wide = Prior(a=td.Normal(0.0, 1.0)), Prior(a=td.Normal(0.0, 2.0))
    gap = narrow.bijection.log_abs_det_jacobian(theta) - wide.bijection.log_abs_det_jacobian(theta)
    assert float(gap) == pytest.approx(math.log(2), abs=1e-6)


def test_normal_priors_are_standard_normal_in_the_unbounded_space():
    """KS, false-alarm rate 1e-3 for each of three parameters; fixed seed."""
    prior = Prior(
        rate=td.LogNormal(0.0, 0.5), amplitude=Truncated(td.Normal(1.0, 0.5), low=0.0), phase=td.Uniform(-1.0, 2.0)
    )
    z = prior.bijection.forward(prior.sample(5000, generator=seeded(2)).double())
    for column in z.T:
        assert kstest(column.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("name", PRIORS)
def test_no_draws_are_no_rows(name):
    none = PRIORS[name].sample(0, generator=seeded())
    assert none.shape == (0, len(PRIORS[name]))


def test_draws_do_not_ask_a_law_again_what_it_can(monkeypatch):
    prior, asked = Prior(a=td.Normal(0.0, 1.0), b=td.Gamma(2.0, 1.0)), list[object]()
    monkeypatch.setattr(td.Normal, "cdf", lambda law, _: asked.append(law))
    assert prior.sample(3, generator=torch.Generator().manual_seed(0)).shape == (3, 2)
    assert not asked


def test_samples_follow_their_laws():
    """KS against scipy's laws, false-alarm rate 1e-3 for each of four parameters; fixed seed."""
    theta = mixed().sample(5000, generator=seeded(3)).double().numpy()
    for column, law in [
        (0, ("lognorm", (0.5,))),
        (1, ("truncnorm", (-2.0, math.inf, 1.0, 0.5))),
        (2, ("gamma", (2.0, 0.0, 1 / 3))),
        (3, ("beta", (2.0, 3.0))),
    ]:
        assert kstest(theta[:, column], law[0], args=law[1]).pvalue > 1e-3


def test_correlations_are_kept():
    theta = PRIORS["correlated"].sample(20_000, generator=seeded(4)).double()
    # standard errors below 0.03; 5 of them, false-alarm rate below 1e-5
    torch.testing.assert_close(torch.cov(theta.T), CORRELATED.covariance_matrix.double(), atol=0.15, rtol=0.0)
    torch.testing.assert_close(theta.mean(0), CORRELATED.loc.double(), atol=0.05, rtol=0.0)


def test_an_independent_joint_law_is_split_into_bounded_ones():
    prior = PRIORS["split"]
    assert len(prior.laws) == 2
    theta = torch.tensor([[0.5, 6.0], [1.5, 6.0]])
    assert prior.log_prob(theta).tolist() == pytest.approx([-math.log(4), -math.inf])


def test_log_prob_is_the_sum_and_minus_infinity_outside():
    prior = mixed()
    theta = prior.sample(5, generator=seeded(5))
    total = sum(law.log_prob(theta[:, i].double()).double() for i, law in enumerate(prior.laws))
    torch.testing.assert_close(prior.log_prob(theta), torch.as_tensor(total))
    for column, value in [(0, -1.0), (1, -1e-6), (2, 0.0), (3, 1.5), (4, 2.1), (5, 4.0), (6, math.nan), (0, math.inf)]:
        outside = theta[0].clone()
        outside[column] = value
        assert float(prior.log_prob(outside)) == -math.inf, (column, value)


def test_densities_keep_leading_axes():
    theta = mixed().sample(12, generator=seeded()).reshape(3, 4, 7)
    assert mixed().log_prob(theta).shape == (3, 4)
    assert mixed().bijection.log_abs_det_jacobian(theta).shape == (3, 4)
    assert mixed().bijection.forward(theta).shape == (3, 4, 7)


def test_extreme_values_of_the_unbounded_space_stay_inside_and_finite():
    prior = mixed()
    z = torch.tensor([-60.0, -9.0, 9.0, 60.0])[:, None].expand(4, 7)
    theta = prior.bijection.inverse(z)
    assert bool(torch.isfinite(theta[:, [1, 3, 4, 5, 6]]).all())
    assert bool((theta[:, 1] > 0).all())
    assert bool(((theta[:, 4] > -1) & (theta[:, 4] < 2)).all())
    assert bool((theta[:, 5].abs() < math.pi).all())


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(-6, 6, width=32), min_size=7, max_size=7))
def test_any_point_of_the_unbounded_space_goes_there_and_back(values):
    prior = PRIORS["mixed"]
    z = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(prior.bijection.forward(prior.bijection.inverse(z)), z, atol=1e-4, rtol=1e-6)


def test_the_seed_decides_and_the_global_state_is_left_alone():
    state = torch.get_rng_state()
    prior = mixed()
    joint = Prior.joint(["a", "b"], CORRELATED)
    assert torch.equal(prior.sample(9, generator=seeded(1)), prior.sample(9, generator=seeded(1)))
    assert not torch.equal(prior.sample(9, generator=seeded(1)), prior.sample(9, generator=seeded(2)))
    joint.sample(9, generator=seeded(1))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", PRIORS)
def test_json_round_trip_is_exact(name):
    prior = PRIORS[name]
    back = Prior.from_json(json.loads(json.dumps(prior.to_json(), allow_nan=False)))
    theta = prior.sample(50, generator=seeded(6))
    assert (back.names, back.units) == (prior.names, prior.units)
    assert torch.equal(back.log_prob(theta), prior.log_prob(theta))
    assert torch.equal(back.sample(50, generator=seeded(6)), theta)
    assert back.to_json() == prior.to_json()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", PRIORS)
def test_a_gpu_gives_the_same(name):
    prior = PRIORS[name]
    theta = prior.sample(200, generator=seeded(3))
    there = theta.cuda()
    z = prior.bijection.forward(there)
    found = {
        "log_prob": (prior.log_prob(there), prior.log_prob(theta)),
        "forward": (z, prior.bijection.forward(theta)),
        "inverse": (prior.bijection.inverse(z), prior.bijection.inverse(z.cpu())),
        "jacobian": (prior.bijection.log_abs_det_jacobian(there), prior.bijection.log_abs_det_jacobian(theta)),
    }
    for what, (gpu, cpu) in found.items():
        assert gpu.is_cuda, what
        torch.testing.assert_close(gpu.cpu(), cpu, msg=what, rtol=1e-5, atol=1e-5)


def test_only_laws_of_plain_numbers_leave_the_cpu(monkeypatch):
    """Where there is no GPU: the columns that are asked onto the CPU are those of every other law."""
    asked = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: asked.append(self.shape) or self)
    for law, where in ((td.Uniform(0.0, 1.0), 0), (Truncated(td.Normal(0.0, 1.0), low=0.0), 0), (td.Beta(2.0, 2.0), 1)):
        asked.clear()
        prior = Prior(a=td.Normal(0.0, 1.0), b=law)
        assert torch.isfinite(prior.log_prob(torch.full((4, 2), 0.3))).all()
        assert asked == [torch.Size([4])] * where
    asked.clear()
    assert torch.isfinite(Prior.joint(["a", "b"], CORRELATED).bijection.forward(torch.zeros(4, 2))).all()
    assert asked == [torch.Size([4, 2])]


def test_a_copy_works():
    theta = mixed().sample(3, generator=seeded())
    assert torch.equal(copy.deepcopy(mixed()).bijection.forward(theta), mixed().bijection.forward(theta))


def test_units_may_be_astropys_own():
    prior = Prior(a=(td.Normal(0.0, 1.0), units.km / units.s), b=td.Normal(0.0, 1.0))
    assert prior.units == ("km / s", "")
    assert repr(prior) == "Prior(a [km / s], b)"


def test_a_prior_of_no_parameters():
    prior = Prior.none()
    assert (len(prior), Prior.from_json(prior.to_json()).names) == (0, ())
    theta = prior.sample(3, generator=seeded())
    assert theta.shape == prior.bijection.inverse(prior.bijection.forward(theta)).shape == (3, 0)
    assert prior.sample_on_device(3, generator=seeded()).shape == (3, 0)
    assert torch.equal(prior.log_prob(theta), torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"a Flow learns of parameters, and the simulator has none"):
        Flow(prior, {"x": Observable((2,))})


def test_a_law_that_nobody_knows_keeps_values_and_has_no_density():
    prior = Prior.from_json(Prior(start=(Unknown(), "s"), b=td.Normal(0.0, 1.0)).to_json())
    theta = torch.tensor([[1126259462.4, 0.5]], dtype=torch.float64)
    assert prior.dtype == torch.float64
    assert torch.equal(prior.bijection.inverse(prior.bijection.forward(theta))[:, 0], theta[:, 0])
    with pytest.raises(ValueError, match=r"Unknown\(\), so it cannot be given a density"):
        prior.log_prob(theta)
    with pytest.raises(ValueError, match=r"Unknown\(\), so it cannot be drawn"):
        prior.sample(3, generator=seeded())


def test_a_law_in_a_batch_of_one_is_one_parameter():
    assert Prior(a=td.Normal(torch.zeros(1), torch.ones(1))).sample(2, generator=seeded()).shape == (2, 1)


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({}, ValueError, "none is Prior.none()"),
        ({"a": 1.0}, TypeError, "'a' is 1.0"),
        ({"a": (td.Normal(0.0, 1.0), "m", "s")}, TypeError, "expected a law"),
        ({"a": td.Poisson(torch.tensor([3.0, 4.0]))}, TypeError, "Prior.joint"),
        ({"a": td.Normal(torch.zeros(2), 1.0)}, TypeError, "Prior.joint"),
        ({"a": CORRELATED}, TypeError, "Prior.joint"),
        ({"a": (td.Normal(0.0, 1.0), "florps")}, ValueError, "'florps' of parameter 'a'"),
        ({"a": (td.Normal(0.0, 1.0), None)}, ValueError, "parameter 'a'"),
        (
            {
                "a": td.MixtureSameFamily(
                    td.Categorical(torch.ones(2)), td.Uniform(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0]))
                )
            },
            TypeError,
            "no bijection",
        ),
    ],
)
def test_wrong_parameters_are_refused(parameters, error, words):
    with pytest.raises(error, match=words):
        Prior(**parameters)


def test_wrong_joint_laws_are_refused():
    with pytest.raises(ValueError, match="3 names"):
        Prior.joint(["a", "b", "c"], CORRELATED)
    with pytest.raises(ValueError, match="as many units"):
        Prior.joint(["a", "b"], CORRELATED, ["m"])
    with pytest.raises(ValueError, match="must differ"):
        Prior.joint(["a", "a"], CORRELATED)
    with pytest.raises(ValueError, match="discrete"):
        Prior.joint(["a", "b", "c"], td.Multinomial(4, torch.ones(3)))
    low_rank = td.LowRankMultivariateNormal(torch.zeros(2), torch.ones(2, 1), torch.ones(2))
    with pytest.raises(ValueError, match="float64 tensors"):
        Prior.joint(["a", "b"], low_rank)


def test_theta_of_another_width_is_refused():
    for theta in (torch.zeros(3, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"expected \(\.\.\., 7\)"):
            mixed().log_prob(theta)
