"""Conditionals of a joint model against their exact values, on a grid of two parameters.

Bounds are some twice what this short training leaves; seeds are fixed, so no assertion fails by chance.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from astropy import units
from torch import distributions as td

from sciinf.campaigns.simulation import simulate
from sciinf.core import Observable, Prior, Simulator, load_fit, save_fit
from sciinf.posteriors.conditional import Conditional
from sciinf.training import Recipe, train
from sciinf.training.estimators.flow import Flow
from sciinf.training.estimators.joint import Joint

pytestmark = pytest.mark.slow

SD = 0.5


class Bent(Simulator):
    """x0 = a^2 + 0.5 e, x1 = a / 2 + b + 0.5 e, and a count of mean exp(b)."""

    name = "bent"
    prior = Prior(a=(td.Normal(0.0, 1.0), "m"), b=td.Uniform(0.0, 2.0))
    observables = {"x": Observable((2,), "m"), "n": Observable((), "", (), "int64", "log")}

    def __call__(self, theta, *, generator):
        a, b = theta.unbind(-1)
        x = torch.stack([a**2, 0.5 * a + b], dim=-1)
        return {
            "x": x + SD * torch.randn(x.shape, generator=generator),
            "n": torch.poisson(b.exp(), generator=generator).long(),
        }


SIMULATOR = Bent()
A, B = torch.meshgrid(torch.linspace(-3.5, 3.5, 36), torch.linspace(0.05, 1.95, 20), indexing="ij")
GRID = torch.stack([A, B], dim=-1).reshape(-1, 2).double()
TRUTH, X, N = (1.2, 0.6), (1.30, 1.10), 3


@pytest.fixture(scope="module")
def conditional(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bent")
    store = simulate(SIMULATOR, folder / "simulations", 6_000, seed=1, progress=False)
    estimator = Joint(SIMULATOR.prior, SIMULATOR.observables, hidden=48, blocks=2)
    return Conditional(train(estimator, store, folder / "fit", recipe=Recipe(epochs=40)))


def parts(theta):
    """log p of x0, x1 and the count N, each given rows of theta."""
    a, b = theta.unbind(-1)
    x0, x1 = td.Normal(a**2, SD).log_prob(torch.tensor(X[0])), td.Normal(0.5 * a + b, SD).log_prob(torch.tensor(X[1]))
    return x0, x1, td.Poisson(b.exp()).log_prob(torch.tensor(float(N)))


def excess(log_p, log_q):
    """KL(p | q) of laws on a grid, p up to a constant, q normalised where its sum says so."""
    log_p, log_q = log_p.log_softmax(0), log_q - log_q.logsumexp(0)
    return float((log_p.exp() * (log_p - log_q)).sum())


PRIOR = SIMULATOR.prior.log_prob(GRID)
X0, X1, COUNT = parts(GRID)
POSTERIORS = {
    "all data": ({"x": X, "n": N}, PRIOR + X0 + X1 + COUNT),
    "an observable missing": ({"x": X}, PRIOR + X0 + X1),
    "a number missing": ({"x": (X[0], torch.nan), "n": N}, PRIOR + X0 + COUNT),
    "no data": ({}, PRIOR),
}


@pytest.mark.slow
@pytest.mark.parametrize("question", POSTERIORS)
def test_posteriors_given_whatever_there_is(conditional, question):
    given, exact = POSTERIORS[question]
    cell = float((A[1, 0] - A[0, 0]) * (B[0, 1] - B[0, 0]))
    found = conditional.log_prob({"a": GRID[:, 0], "b": GRID[:, 1]}, given)
    assert abs(float(found.exp().sum()) * cell - 1) < 0.03
    assert excess(exact, found) < 0.2
    draws = conditional.sample(2_000, ["a", "b"], given, generator=torch.Generator().manual_seed(0))
    for k, name in enumerate("ab"):
        mean = (exact.softmax(0) * GRID[:, k]).sum()
        sd = (exact.softmax(0) * (GRID[:, k] - mean) ** 2).sum().sqrt()
        assert abs(float(draws[name].mean() - mean)) < 0.25 * float(sd)
        assert abs(float(draws[name].std() / sd) - 1) < 0.15


def test_an_answer_to_another_question_is_told_apart(conditional):
    # planted fault: the posterior given the data but one number in place of all
    found = conditional.log_prob({"a": GRID[:, 0], "b": GRID[:, 1]}, {"x": (torch.nan, X[1]), "n": N})
    assert excess(POSTERIORS["all data"][1], found) > 0.4


def test_some_parameters_given_others(conditional):
    b = torch.linspace(0.02, 1.98, 50).double()
    theta = torch.stack([torch.full_like(b, TRUTH[0]), b], dim=-1)
    _, x1, count = parts(theta)
    found = conditional.log_prob({"b": b}, {"x": X, "n": N, "a": TRUTH[0] * 100 * units.cm})
    assert abs(float(found.exp().sum()) * 0.04 - 1) < 0.03
    assert excess(x1 + count, found) < 0.1
    draws = conditional.sample(2_000, ["b"], {"x": X, "n": N, "a": TRUTH[0]}, generator=torch.Generator())["b"]
    mean = ((x1 + count).softmax(0) * b).sum()
    assert abs(float(draws.mean() - mean)) < 0.15 * float(draws.std())


def test_the_likelihood(conditional):
    generator = torch.Generator().manual_seed(2)
    given = {"a": TRUTH[0], "b": TRUTH[1]}
    exact = td.Normal(torch.tensor([TRUTH[0] ** 2, 0.5 * TRUTH[0] + TRUTH[1]]), SD)
    x = exact.mean + SD * torch.randn(800, 2, generator=generator)
    gap = exact.log_prob(x).sum(-1) - conditional.log_prob({"x": x}, given)
    assert abs(float(gap.mean())) < 0.1  # KL
    draws = conditional.sample(4_000, ["x", "n"], given, generator=generator)
    assert draws["n"].dtype == torch.int64
    assert torch.allclose(draws["x"].mean(0), exact.mean, atol=0.35 * SD)
    assert torch.allclose(draws["x"].std(0), torch.tensor(SD), rtol=0.2)
    counts = torch.arange(0, 14)
    found = conditional.log_prob({"n": counts}, given).exp()
    true = td.Poisson(torch.tensor(TRUTH[1]).exp()).log_prob(counts.float()).exp()
    assert abs(float(found.sum()) - 1) < 0.05
    assert 0.5 * float((found - true).abs().sum()) < 0.13
    assert int(draws["n"].min()) >= 0
    seen = torch.bincount(draws["n"].clamp(max=13), minlength=14) / 4_000
    assert 0.5 * float((seen - true).abs().sum()) < 0.13


def test_outside_the_prior_there_is_nothing(conditional):
    found = conditional.log_prob({"b": torch.tensor([-0.1, 1.0, 2.1])}, {"x": X})
    assert found.isinf().tolist() == [True, False, True]
    assert conditional.log_prob({"b": 1.0}, {"x": X}).shape == (1,)


@pytest.mark.parametrize(
    ("asked", "given", "message"),
    [
        (["c"], {}, "['c'] are neither parameters nor observables; there are ['a', 'b', 'n', 'x']"),
        ("ab", {}, "ask for a list of one or more of"),
        ([], {}, "ask for a list of one or more of"),
        (["a", "x"], {"x": X}, "['x'] are asked for and given too"),
        (["a"], {"b": 2.5}, "outside the prior's support"),
        (["a"], {"x": (1.0, 2.0, 3.0)}, "shape"),
        (["a"], {"b": torch.nan}, "the parameter 'b' is NaN; leave it out of what is given"),
        (["a"], {"n": 2.5}, "cannot hold"),
        (["a"], {"n": "two"}, "'n' holds no numbers"),
        (["a"], {"n": 1 * units.m}, "does not convert"),
    ],
)
def test_what_cannot_be_answered_is_said(conditional, asked, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        conditional.sample(10, asked, given)


def test_what_is_no_mapping_is_refused(conditional):
    with pytest.raises(TypeError, match=re.escape("given must name its values, as {'x': ...}")):
        conditional.sample(10, ["a"], torch.tensor(X))
    with pytest.raises(TypeError, match="asked must name its values"):
        conditional.log_prob(torch.zeros(3), {"x": X})


def test_masked_values_count_as_missing(conditional):
    masked = np.ma.array([X[0], 77.0], mask=[False, True])
    same = [conditional.log_prob({"a": 1.0}, {"x": x, "n": N}) for x in (masked, (X[0], torch.nan))]
    assert torch.equal(*same)
    tracked = torch.tensor(X, requires_grad=True)
    assert torch.equal(conditional.log_prob({"a": 1.0}, {"x": tracked}), conditional.log_prob({"a": 1.0}, {"x": X}))


def test_values_asked_for_must_agree_in_number_and_be_there(conditional):
    with pytest.raises(ValueError, match="different numbers of values"):
        conditional.log_prob({"a": torch.zeros(3), "b": torch.ones(2)})
    with pytest.raises(ValueError, match="NaN"):
        conditional.log_prob({"x": torch.tensor([[1.0, torch.nan]])})
    with pytest.raises(ValueError, match="n must be"):
        conditional.sample(0, ["a"])


def untrained(folder, estimator):
    save_fit(folder, estimator, simulator={"name": "toy", "source": ""}, record={})
    return load_fit(folder)


def test_only_a_joint_model_is_asked(tmp_path):
    with pytest.raises(TypeError, match="train a Joint"):
        Conditional(untrained(tmp_path, Flow(SIMULATOR.prior, SIMULATOR.observables)))


def test_parameters_of_one_bounded_law_go_together(tmp_path):
    law = td.MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    for kind, prior in {
        "free": Prior.joint(("p", "q"), law),
        "bounded": Prior.joint(
            ("p", "q"),
            td.MixtureSameFamily(
                td.Categorical(torch.ones(1).double()), td.Independent(td.Gamma(torch.ones(1, 2).double(), 1.0), 1)
            ),
        ),
    }.items():
        asked = Conditional(untrained(tmp_path / kind, Joint(prior, SIMULATOR.observables)))
        assert asked.sample(5, ["q", "p"], {"x": X})["p"].shape == (5,)
        if kind == "free":
            assert asked.log_prob({"q": torch.zeros(3)}, {"p": 1.0}).isfinite().all()
            assert len(asked.sample(5, ["q"], {"p": 1.0})["q"]) == 5
        else:
            with pytest.raises(ValueError, match="share one bounded law"):
                asked.sample(5, ["q"], {"p": 1.0})


@pytest.mark.parametrize(
    ("given", "far"),
    [
        ({"x": (1000 * X[0], 1000 * X[1])}, True),  # another unit
        ({"x": (X[0], X[1] + 30 * SD), "n": N}, True),
        ({"a": 9.0, "n": N}, True),
        ({"x": X, "n": N}, False),
        ({"x": (torch.nan, X[1]), "a": 2.5}, False),
        ({}, False),
    ],
)
def test_what_lies_far_from_all_simulations_is_told(conditional, given, far, recwarn):
    conditional.sample(5, ["b"], given)
    conditional.log_prob({"b": 1.0}, given)
    assert [w.filename == __file__ and "lies" in str(w.message) for w in recwarn.list] == [True, True] * far


def test_data_of_the_prior_are_not_called_far(conditional, recwarn):
    generator = torch.Generator().manual_seed(5)
    theta = SIMULATOR.prior.sample(40, generator=generator)
    for x, n in zip(*SIMULATOR(theta, generator=generator).values(), strict=True):
        conditional.sample(2, ["a"], {"x": x, "n": int(n)})
    assert not recwarn.list


def test_errors_of_a_value_excuse_that_it_lies_far(tmp_path, recwarn):
    noisy = Joint(SIMULATOR.prior, SIMULATOR.observables, hidden=8, blocks=1, noisy=0.3)
    asked = Conditional(untrained(tmp_path, noisy))
    asked.sample(2, ["a"], {"x": (60.0, 0.0)}, errors={"x": (60.0, 0.0)})
    assert not recwarn.list
    asked.sample(2, ["a"], {"x": (60.0, 0.0)}, errors={"x": (1.0, 0.0)})
    assert len(recwarn.list) == 1
