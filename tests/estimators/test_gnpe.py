"""Estimators that take poses out of the data: equivariance to the digit, and everything that a fit is asked for."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import kstest
from torch import distributions as td

from sciinf import build_posterior, calibrate, load_fit, load_simulator, simulate, train
from sciinf.core import Observable, Prior
from sciinf.networks.flows import SplineCoupling
from sciinf.networks.summaries.vector import MLP
from sciinf.simulators.poses import Additive, Periodic, Pose, TimeShift
from sciinf.training import Recipe
from sciinf.training.estimators.equivariant import Augmented, Canonical
from sciinf.training.estimators.gnpe import GNPE

OSCILLATOR = load_simulator(Path(__file__).parents[2] / "simulators" / "damped_oscillator.py")
MODULE = sys.modules[type(OSCILLATOR).__module__]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def built(kind, **options):
    small = {"summary": MLP(), "flow": SplineCoupling(3, 32)}
    return kind(OSCILLATOR.prior, OSCILLATOR.observables, MODULE.POSES, seed=1, **small, **options)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return simulate(OSCILLATOR, tmp_path_factory.mktemp("oscillator"), 2_000, seed=1, progress=False)


@pytest.fixture(scope="module")
def fit(store, tmp_path_factory):
    return train(
        built(GNPE, chains=256, iterations=100),
        store,
        tmp_path_factory.mktemp("fit"),
        recipe=Recipe(epochs=40),
    )


def curve(tau):
    return {"x": MODULE.deflection(torch.tensor([[6.0, 0.3, tau]], dtype=torch.float64))}


def test_data_and_starts_moved_by_whole_steps_move_every_chain_as_far(fit):
    estimator = load_fit(fit.folder).estimator.double()
    x, shift = curve(-3.5)["x"], 13
    moved = torch.cat([torch.zeros(1, shift, dtype=torch.float64), x[:, :-shift]], dim=1)
    start = -3.5 + 0.1 * torch.randn(50, 1, 1, generator=generator(2), dtype=torch.float64)
    ends = []
    for data, poses in ((x, start), (moved, start + shift * MODULE.STEP)):
        ends.append(estimator.condition({"x": data}).chains(poses, generator(3), iterations=5)[0])
    inside = (ends[0][..., 2] < -shift * MODULE.STEP).all()  # of the prior, to which nothing is moved
    assert inside
    step = torch.tensor([0.0, 0.0, shift * MODULE.STEP], dtype=torch.float64)
    torch.testing.assert_close(ends[1], ends[0] + step, atol=1e-6, rtol=0)
    other = estimator.condition({"x": x}).chains(start + shift * MODULE.STEP, generator(3), iterations=5)[0]
    assert float((other - ends[0] - step).abs().max()) > 0.01  # data that stay are told apart


def test_chains_from_the_posterior_stay_there(fit):
    # Of three parameters at p > 0.01 / 3 a right sampler fails once in a hundred seeds; this one is fixed.
    x = {"x": MODULE.deflection(torch.tensor([[6.0, 0.33, -2.5]]))}
    exact = OSCILLATOR.reference(x, 1_000, generator(4))
    density = fit.estimator.condition(x)
    last, _ = density.chains(exact[:, None, 2:], generator(5), iterations=30)
    other = OSCILLATOR.reference(x, 1_000, generator(6))
    off = (last[:, 0].mean(0) - exact.mean(0)).abs() / exact.std(0)
    assert float(off.max()) < 0.35
    assert kstest(last[:, 0, 2].numpy(), other[:, 2].numpy()).statistic < 0.2


@pytest.mark.slow
def test_it_is_a_posterior_like_any_other(fit, store, tmp_path):
    posterior = build_posterior(fit)
    fresh = simulate(OSCILLATOR, tmp_path / "fresh", 100, seed=2, progress=False)
    brief = load_fit(fit.folder)
    brief.estimator.chains, brief.estimator.iterations = 8, 3  # for each of a hundred
    calibration = calibrate(build_posterior(brief), fresh, draws=8)
    assert calibration.ranks.shape[1] == 3
    again = build_posterior(load_fit(fit.folder))
    x = curve(-3.0)["x"][0].float()
    one, two = (p.sample(50, x=x, generator=generator(7)) for p in (posterior, again))
    assert torch.equal(one, two)
    corrected = build_posterior(fit, OSCILLATOR, ess=400).sample(1_000, x=x, generator=generator(8))
    exact = OSCILLATOR.reference({"x": x[None]}, 4_000, generator(9))
    torch.testing.assert_close(corrected.mean(0) / exact.std(0), exact.mean(0) / exact.std(0), atol=0.2, rtol=0)
    torch.testing.assert_close(corrected.std(0) / exact.std(0), torch.ones(3), atol=0.15, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GNPE, Canonical, Augmented])
def test_density_integrates_to_one_within_the_prior(kind, request, store, tmp_path):
    if kind is GNPE:
        fit = request.getfixturevalue("fit")
    else:
        fit = train(built(kind), store, tmp_path / "fit", recipe=Recipe(epochs=3))
    posterior = build_posterior(fit)
    x = curve(-4.9)  # at the edge of the prior
    x = {"x": x["x"].float()}
    draws = posterior.draw_batched(x, 1_000, generator=generator(1))
    assert bool(torch.isfinite(OSCILLATOR.prior.log_prob(draws)).all())
    law = td.MultivariateNormal(draws[:, 0].double().mean(0), 2 * torch.cov(draws[:, 0].double().T))
    at = law.mean + torch.randn(1_000, 3, generator=generator(2), dtype=torch.float64) @ law.scale_tril.T
    weight = (posterior.log_prob_batched(at[:, None], x)[:, 0] - law.log_prob(at)).exp()
    error = float(weight.std()) / math.sqrt(len(weight))
    assert float(weight.mean()) == pytest.approx(1.0, abs=4 * error + 0.03)


def test_approximate_poses_are_seen_and_angles_wrap():
    prior = Prior(size=td.Normal(0.0, 1.0), phi=td.Uniform(-math.pi, math.pi), t=td.Uniform(0.0, 1.0))
    turn = Pose("phi", keep, td.Normal(0.0, 0.2), exact=False, group=Periodic(-math.pi))
    shift = Pose("t", TimeShift(0.1), td.Normal(0.0, 0.1), group=Additive())
    estimator = GNPE(prior, {"x": Observable((12,))}, [shift, turn], chains=32, iterations=4)
    assert estimator.conditional.observables["blurred_pose"].shape == (2,)
    assert estimator.conditional.prior.names == ("size", "t", "phi")
    with pytest.warns(UserWarning, match="have not forgotten"):
        draws = estimator.condition({"x": torch.randn(3, 12)}).sample(20, generator=generator())
    assert draws.shape == (20, 3, 3)
    assert bool(torch.isfinite(prior.log_prob(draws)).all())


def keep(x, pose):
    """An action that changes nothing."""
    return dict(x)


WRONG = {
    "no such parameter": ({"poses": [Pose("tau", keep, td.Normal(0.0, 1.0))]}, "the prior has"),
    "the same twice": ({"poses": [Pose("a", keep, td.Normal(0.0, 1.0))] * 2}, "share parameters"),
    "joint law": ({"poses": [Pose("b", keep, td.Normal(0.0, 1.0))]}, "shares a law"),
    "no pose": ({"poses": ["a"]}, r"expected Pose\("),
    "one alone": ({"poses": Pose("a", keep, td.Normal(0.0, 1.0))}, r"got one alone: write \[Pose\('a', "),
    "chains": ({"poses": [], "chains": 1}, "chains must be"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name):
    options, message = WRONG[name]
    joint = td.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    prior = Prior.of_laws(("a", "b", "c"), ("", "", ""), (td.Normal(0.0, 1.0), joint))
    with pytest.raises((TypeError, ValueError), match=message):
        GNPE(prior, {"x": Observable((3,))}, **options)


def test_an_action_that_changes_the_shape_is_refused():
    prior = Prior(a=td.Normal(0.0, 1.0))
    pose = Pose("a", lambda x, h: {"x": x["x"][:, :2]}, td.Normal(0.0, 1.0))
    estimator = GNPE(prior, {"x": Observable((3,))}, [pose])
    with pytest.raises(ValueError, match=r"action of the pose .* returns 'x' of shape"):
        estimator.at({"x": torch.zeros(2, 3)}, torch.zeros(2, 1))


def test_a_lambda_is_named_when_a_fit_cannot_be_saved(store, tmp_path):
    estimator = GNPE(OSCILLATOR.prior, OSCILLATOR.observables, [Pose("tau", lambda x, h: x, td.Normal(0.0, 0.1))])
    with pytest.raises(TypeError, match="lambda.* cannot be saved; define it by its name in a module"):
        train(estimator, store, tmp_path / "fit")
