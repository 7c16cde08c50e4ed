"""Posteriors of sets of independent observations, from rounds of single ones: against exact ones, stopped, refused."""

from __future__ import annotations

import json
import math

import pytest
import torch

from sciinf import load_answer, query
from sciinf.core import Choice, Observable, Prior, Simulator, Uniform, load_fit
from sciinf.core.named_laws import LogNormal, Normal
from sciinf.posteriors.mcmc import MCMC
from sciinf.posteriors.of_set import SetPosterior, infer_set, load_set
from sciinf.training import Recipe
from sciinf.training.estimators.flow import Flow
from sciinf.wrappers import sets

SHORT = Recipe(epochs=6, learning_rate=3e-3)


class Groups(Simulator):
    """Three replicates of a group whose middle varies: x_j = mu + tau u + sigma e_j."""

    name = "groups"
    block = 65_536
    prior = Prior(mu=Normal(0.0, 2.0), tau=LogNormal(0.0, 0.7), sigma=LogNormal(-0.5, 0.7))
    observables = {"x": Observable((3,))}

    def __call__(self, theta, *, generator):
        mu, tau, sigma = theta.unbind(1)
        noise = torch.randn(len(theta), 4, generator=generator)
        return {"x": mu[:, None] + tau[:, None] * noise[:, :1] + sigma[:, None] * noise[:, 1:]}


def exact(x, n=400_000):
    """Means and sds of the posterior of sets (items, 3), by importance weights around the most likely values."""
    x, generator = x.double(), torch.Generator().manual_seed(0)
    middle, within = x.mean(1), x.var(1, unbiased=True).mean().sqrt().log()
    items = len(x)
    start = torch.stack([middle.mean(), middle.std().clamp_min(0.05).log(), within])
    wide = torch.tensor([3.0, 3.0, 2.0], dtype=torch.float64) / math.sqrt(items)
    wide[0] = wide[0] * middle.std()
    degrees = 6.0
    normal = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    gamma = torch._standard_gamma(torch.full((n, 1), degrees / 2, dtype=torch.float64), generator=generator)
    u = normal / (2 * gamma / degrees).sqrt()
    z = start + wide * u
    log_q = -(degrees + 3) / 2 * (u.square().sum(1) / degrees).log1p()
    mu, tau, sigma = z[:, 0], z[:, 1].exp(), z[:, 2].exp()
    variance = tau.square() + sigma.square() / 3
    log_l = -0.5 * (x - middle[:, None]).square().sum() / sigma.square() - 2 * items * sigma.log()
    log_l = log_l - 0.5 * items * variance.log() - 0.5 * (middle[None] - mu[:, None]).square().sum(1) / variance
    log_p = -0.5 * ((mu / 2).square() + (z[:, 1] / 0.7).square() + ((z[:, 2] + 0.5) / 0.7).square())
    weight = (log_l + log_p - log_q).softmax(0)
    assert 1 / float(weight.square().sum()) > 5_000
    theta = torch.stack([mu, tau, sigma], 1)
    mean = weight @ theta
    return mean, (weight @ (theta - mean).square()).sqrt()


def off(posterior, x, truth, n=4_000):
    """Errors of means in sds, and ratios of sds."""
    theta = posterior.draw_batched({"x": x[None]}, n, generator=torch.Generator().manual_seed(1))[:, 0].double()
    mean, sd = truth
    return float(((theta.mean(0) - mean) / sd).abs().max()), theta.std(0) / sd


def observed(items, seed=70):
    generator = torch.Generator().manual_seed(seed)
    theta = Groups.prior.sample(1, generator=generator)
    return Groups()(theta.expand(items, -1), generator=generator)["x"]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    out, x = tmp_path_factory.mktemp("set") / "rounds", observed(8)
    return infer_set(Groups(), {"x": x}, out, rounds=2, simulations=2_000, recipe=SHORT, progress=False), x, out


@pytest.mark.slow
def test_it_is_read_back_and_goes_on(short):
    posterior, x, out = short
    again = load_set(out)
    assert (again.digest, again.error, again.trained_on) == (posterior.digest, posterior.error, posterior.trained_on)
    drawn = [one.sample((200,), x={"x": x}, generator=torch.Generator().manual_seed(0)) for one in (posterior, again)]
    assert torch.equal(*drawn)
    same = infer_set(Groups(), {"x": x}, out, rounds=2, simulations=2_000, recipe=SHORT, progress=False)
    assert same.digest == posterior.digest
    data = json.loads((out / "set.json").read_text())
    assert data["items"] == 8
    with pytest.raises(ValueError, match="another observation"):
        infer_set(Groups(), {"x": x + 1}, out, rounds=2, simulations=2_000, recipe=SHORT, progress=False)


@pytest.mark.slow
def test_a_stopped_call_goes_on_to_the_same_result(short, tmp_path, monkeypatch):
    posterior, x, _ = short
    how = {"rounds": 2, "simulations": 2_000, "recipe": SHORT, "progress": False}
    with monkeypatch.context() as broken:
        broken.setattr("sciinf.posteriors.of_set.law_in", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            infer_set(Groups(), {"x": x}, tmp_path, **how)
    with pytest.raises(ValueError, match="unfinished"):
        load_set(tmp_path)
    assert infer_set(Groups(), {"x": x}, tmp_path, **how).digest == posterior.digest


@pytest.mark.slow
def test_its_weights_are_those_of_the_posterior_under_the_last_law(short):
    """Weighted draws of the law and chains sample the same law; and log_prob is its density, normalised."""
    posterior, x, _ = short
    batch = {"x": torch.stack([x, x])}
    theta = posterior.prior.sample(2, generator=torch.Generator().manual_seed(3))
    drawn, log_w = posterior.weighted_batched(batch, 40_000, theta, generator=torch.Generator().manual_seed(4))
    assert drawn.shape == (40_001, 2, 3)
    assert torch.equal(drawn[0], theta)
    weight = log_w[1:, 0].softmax(0)
    mean = weight @ drawn[1:, 0].double()
    sd = (weight @ (drawn[1:, 0].double() - mean).square()).sqrt()
    shift, ratio = off(posterior, x, (mean, sd), n=8_000)
    assert shift < 0.1
    assert (ratio - 1).abs().max() < 0.1
    log_p = posterior.log_prob_batched(drawn[1:, :1], {"x": x[None]})[:, 0]
    log_r = posterior.prior.log_prob(drawn[1:, 0]) - posterior.law.log_ratio(drawn[1:, 0])
    assert float((log_p - log_r).exp().mean()) == pytest.approx(1.0, abs=0.06)


@pytest.mark.slow
def test_a_set_far_away_is_answered_with_a_warning(short, recwarn):
    posterior, x, _ = short
    generator = torch.Generator().manual_seed(0)
    posterior.draw({"x": x[None]}, 50, generator=generator)
    posterior.draw({"x": x[None] + 0.01}, 50, generator=generator)
    assert not [one for one in recwarn if "another set" in str(one.message)]
    with pytest.warns(UserWarning, match="another set of observations, too far"):
        posterior.draw({"x": x[None] + 20.0}, 50, generator=generator)


def test_what_it_is_not_for_is_refused(tmp_path):
    x = observed(5)
    with pytest.raises(ValueError, match="'x' is missing"):
        infer_set(Groups(), {"y": x}, tmp_path)
    for few in (3.0, x[:0]):
        with pytest.raises(ValueError, match="as many values"):
            infer_set(Groups(), {"x": few}, tmp_path)
    with pytest.raises(TypeError, match="learns no likelihood"):
        infer_set(Groups(), {"x": x}, tmp_path, estimator=Flow(Groups.prior, Groups.observables))
    with pytest.raises(ValueError, match="rounds"):
        infer_set(Groups(), {"x": x}, tmp_path, rounds=1)

    class Choosing(Groups):
        prior = Prior(model=Choice("a", "b"), mu=Uniform(0.0, 1.0))

    with pytest.raises(ValueError, match="posterior of a set"):
        infer_set(Choosing(), {"x": x}, tmp_path)
    with pytest.raises(FileNotFoundError, match="infer_set"):
        load_set(tmp_path / "nothing")


@pytest.mark.slow
def test_a_bare_array_is_a_set(short, tmp_path):
    posterior, x, _ = short
    how = {"rounds": 2, "simulations": 2_000, "recipe": SHORT, "progress": False}
    assert infer_set(Groups(), x, tmp_path, **how).digest == posterior.digest


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    x, out = observed(10), tmp_path_factory.mktemp("ten") / "rounds"
    infer_set(Groups(), {"x": x}, out, progress=False)
    return x, out


@pytest.mark.slow
def test_it_is_right_for_ten(ten):
    _check_right(*ten, least=0.15)


@pytest.mark.slow
def test_it_is_right_for_fifty_and_the_rounds_make_it_so(tmp_path):
    """What one round over the whole prior teaches is off by more."""
    x = observed(50)
    infer_set(Groups(), {"x": x}, tmp_path, progress=False)
    last = _check_right(x, tmp_path, least=0.25)
    first = MCMC(load_fit(tmp_path / "round_1" / "fit"), items=50)
    assert last < off(first, x, exact(x))[0]


def _check_right(x, out, least):
    shift, ratio = off(load_set(out), x, exact(x))
    assert shift < least
    assert 0.85 < ratio.min() <= ratio.max() < 1.15
    return shift


@pytest.mark.slow
def test_an_answer_is_checked_where_it_is_asked(ten, tmp_path):
    x, out = ten
    query(load_set(out), {"x": x}, simulator=sets(Groups(), 10, least=10), out=tmp_path, name="set", draws=2_000)
    answer = load_answer(tmp_path / "answers" / "set")
    (local,) = (one for one in answer.checks if one.name == "local check")
    assert local.level in ("good", "unknown"), "its 2,000 simulations cannot always tell"
    assert "simulations around it" in local.words
    assert answer.verdict.word != "do not rely"


class Tilted(SetPosterior):
    """Its weights put mu half an sd higher than it is."""

    def weighted_batched(self, x, n, also, *, generator):
        theta, log_w = super().weighted_batched(x, n, also, generator=generator)
        spread = theta[1:, 0, 0].std() / 2
        return theta, log_w + 0.6 * (theta[..., 0].double() - theta[1:, 0, 0].mean()) / spread


@pytest.mark.slow
def test_a_wrong_one_is_not_called_right(ten):
    x, out = ten
    posterior = load_set(out)
    posterior.__class__ = Tilted
    answer = query(posterior, {"x": x}, simulator=sets(Groups(), 10, least=10), draws=2_000)
    (local,) = (one for one in answer.checks if one.name == "local check")
    assert local.level == "alarm"
