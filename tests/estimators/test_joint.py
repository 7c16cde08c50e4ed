"""The joint model: its Gaussian beginning for every question, what is asked in training, and a task it has exactly."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf.core import Batch, Observable, Prior, Simulator, load_fit, save_fit
from sciinf.estimators._gaussian import JointGaussian
from sciinf.estimators.joint import Joint
from sciinf.inference.conditional import Conditional
from sciinf.simulation import simulate
from sciinf.training import train

MIX = torch.tensor([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
PRIOR = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(1.0, 2.0))
OBSERVABLES = {"x": Observable((2,)), "y": Observable()}
MEAN = torch.cat([torch.tensor([0.0, 1.0]).double(), MIX @ torch.tensor([0.0, 1.0]).double()])
_HALF = torch.diag(torch.tensor([1.0, 4.0]).double())
COVARIANCE = torch.cat(
    [
        torch.cat([_HALF, _HALF @ MIX.T], 1),
        torch.cat([MIX @ _HALF, MIX @ _HALF @ MIX.T + 0.25 * torch.eye(3).double()], 1),
    ]
)
NUMBERS = {"a": [0], "b": [1], "x": [2, 3], "y": [4]}


class Linear(Simulator):
    """Three numbers that depend linearly on two parameters."""

    name = "linear"
    prior = PRIOR
    observables = OBSERVABLES

    def __call__(self, theta, *, generator):
        data = theta @ MIX.float().T + 0.5 * torch.randn(len(theta), 3, generator=generator)
        return {"x": data[:, :2], "y": data[:, 2]}


def simulations(n):
    generator = torch.Generator().manual_seed(0)
    theta = PRIOR.sample(n, generator=generator)
    return Batch(theta, Linear()(theta, generator=generator))


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    """Standardised on many rows, and its network silent: what it says is the Gaussian law alone."""
    joint = Joint(PRIOR, OBSERVABLES, hidden=8, blocks=1, noisy=0.3)  # silent, so of any size
    joint.standardise(lambda: iter([simulations(200_000)]))
    for layer in (joint.network.leave, joint.network.beside):
        torch.nn.init.zeros_(layer.weight)
    folder = tmp_path_factory.mktemp("linear")
    save_fit(folder, joint, simulator={"name": "linear", "source": ""}, record={})
    return Conditional(load_fit(folder))


def exact(asked, given, errors=None):
    """The law of names given values of others, which have errors beside what the simulator does."""
    a = [i for name in asked for i in NUMBERS[name]]
    b = [i for name in given for i in NUMBERS[name]]
    value = torch.cat([torch.as_tensor(v).double().reshape(-1) for v in given.values()]) if b else torch.zeros(0)
    there = ~value.isnan()
    b, value = [i for i, keep in zip(b, there, strict=True) if keep], value[there].double()
    square = torch.zeros(5, dtype=torch.float64)
    for name, sd in (errors or {}).items():
        square[NUMBERS[name]] = torch.as_tensor(sd).double().reshape(-1) ** 2
    slope = COVARIANCE[a][:, b] @ torch.linalg.inv(COVARIANCE[b][:, b] + square[b].diag())
    mean = MEAN[a] + slope @ (value - MEAN[b])
    return td.MultivariateNormal(mean, COVARIANCE[a][:, a] - slope @ COVARIANCE[b][:, a])


QUESTIONS = {
    "posterior": (["a", "b"], {"x": [1.0, -1.0], "y": 2.0}),
    "likelihood": (["x", "y"], {"a": 0.5, "b": -1.0}),
    "a missing observable": (["b", "a"], {"y": 2.0}),
    "a missing number": (["a", "b"], {"x": [torch.nan, -1.0], "y": 2.0}),
    "a parameter given another": (["b"], {"a": 0.5, "x": [1.0, -1.0], "y": 2.0}),
    "prediction": (["x"], {"y": 2.0, "b": 0.0}),
    "everything": (["y", "a", "x", "b"], {}),
}


def side_by_side(values):
    return torch.cat([v.reshape(len(v), -1) for v in values.values()], dim=-1).double()


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_linear_gaussian_task_is_exact_from_the_start(linear, question):
    asked, given = QUESTIONS[question]
    law = exact(asked, given)
    draws = linear.sample(20_000, asked, given, generator=torch.Generator().manual_seed(1))
    assert list(draws) == asked
    found = side_by_side(draws)
    sd = law.variance.sqrt()
    # five standard errors, and the solver's steps: the chance of a false alarm is below 1e-5
    assert bool(((found.mean(0) - law.mean).abs() < 0.05 * sd).all())
    assert torch.allclose(found.T.cov().reshape(sd.numel(), -1) / sd / sd[:, None], scaled(law), atol=0.06)
    few = {name: value[:200] for name, value in draws.items()}
    assert torch.allclose(linear.log_prob(few, given), law.log_prob(side_by_side(few)), atol=0.1)


def scaled(law):
    sd = law.variance.sqrt()
    return law.covariance_matrix / sd / sd[:, None]


def test_the_wrong_question_is_told_apart(linear):
    # planted fault: what is left out counts as given
    law = exact(["a", "b"], {"x": [1.0, -1.0], "y": 2.0})
    found = side_by_side(linear.sample(20_000, ["a", "b"], {"y": 2.0}, generator=torch.Generator()))
    sd = law.variance.sqrt()
    assert not torch.allclose(found.T.cov() / sd / sd[:, None], scaled(law), atol=0.06)


def test_values_with_error_bars_are_data_at_a_noise_level(linear):
    """Without the errors, posterior means are many standard errors off."""
    asked, given, errors = ["a", "b"], {"x": [2.0, -3.0], "y": 2.0}, {"x": [1.5, 0.0], "y": 3.0}
    law = exact(asked, given, errors)
    found = side_by_side(linear.sample(20_000, asked, given, errors=errors, generator=torch.Generator().manual_seed(1)))
    sd = law.variance.sqrt()
    assert bool(((found.mean(0) - law.mean).abs() < 0.05 * sd).all())
    assert torch.allclose(found.T.cov() / sd / sd[:, None], scaled(law), atol=0.06)
    plain = side_by_side(linear.sample(20_000, asked, given, generator=torch.Generator().manual_seed(1)))
    assert bool(((plain.mean(0) - law.mean).abs() > 0.2 * sd).any())
    theta = law.sample((50,))
    names = {"a": theta[:, 0].float(), "b": theta[:, 1].float()}
    assert torch.allclose(linear.log_prob(names, given, errors=errors), law.log_prob(theta), atol=0.1)


def test_training_shows_errors_to_the_network_and_in_the_data():
    """A network that is told of no errors, or is shown none, has learned another question."""
    joint = Joint(PRIOR, OBSERVABLES, hidden=8, blocks=1, noisy=0.9)
    batch = simulations(4_000)
    joint.standardise(lambda: iter([batch]))
    shown = []
    joint.network.given.register_forward_hook(lambda _, told, made: shown.append(told[0].detach()))
    joint.loss(batch, generator=torch.Generator().manual_seed(0))
    seen, given, _, _, errors = shown[0].split(5, dim=-1)
    sd = errors / (1 - errors**2).clamp_min(1e-6).sqrt()
    assert float((errors > 0)[given > 0].float().mean()) == pytest.approx(0.9, abs=0.1)
    assert float(errors[given == 0].abs().max()) == 0.0
    loud = (sd[:, 2] > 1.0) & (given[:, 2] > 0)  # x, whose own sd is 1: shown at that of both
    assert float((seen[loud, 2] * (1 + sd[loud, 2] ** 2).sqrt()).var()) > 2.0


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({"a": 1.0}, r"errors are of observables that are given, got \['a'\]"),
        ({"x": [-1.0, 1.0]}, "sds of at least 0"),
        ({"x": [1e4, 0.0]}, "more than training had"),
    ],
)
def test_errors_that_make_no_sense_are_refused(linear, errors, words):
    with pytest.raises(ValueError, match=words):
        linear.sample(5, ["b"], {"a": 0.0, "x": [0.0, 0.0]}, errors=errors, generator=torch.Generator())


def test_a_model_that_learned_no_errors_says_so(tmp_path):
    joint = Joint(PRIOR, OBSERVABLES, hidden=8, blocks=1)
    joint.standardise(lambda: iter([simulations(100)]))
    save_fit(tmp_path, joint, simulator={"name": "linear", "source": ""}, record={})
    with pytest.raises(ValueError, match=r"train Joint\(\.\.\., noisy=0\.3\)"):
        Conditional(load_fit(tmp_path)).sample(5, ["a"], {"y": 0.0}, errors={"y": 1.0}, generator=torch.Generator())


@pytest.mark.slow
def test_a_trained_network_keeps_every_question_exact(tmp_path):
    """C2ST at most 0.55 against exact draws; its own spread at 4,000 draws is about 0.01 (a false alarm: 1e-5)."""
    from sbi.utils.metrics import c2st

    store = simulate(Linear(), tmp_path / "simulations", 10_000, seed=0, progress=False)
    conditional = Conditional(train(Joint(PRIOR, OBSERVABLES), store, tmp_path / "fit"))
    for question, (asked, given) in QUESTIONS.items():
        draws = side_by_side(conditional.sample(4_000, asked, given, generator=torch.Generator().manual_seed(1)))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            reference = exact(asked, given).sample((4_000,))
        assert float(c2st(draws.float(), reference.float())) <= 0.55, question


def test_questions_of_training_are_of_every_kind():
    joint = Joint(PRIOR, OBSERVABLES)
    asked, given = joint._questions(4_000, torch.Generator().manual_seed(0))
    assert asked.any(1).all()
    assert not (asked & given).any()
    parameter = torch.tensor([True, True, False, False, False])
    posterior = (asked == parameter).all(1)
    kinds = {
        "posterior": posterior & (given == ~parameter).all(1),
        "likelihood": (asked == ~parameter).all(1) & (given == parameter).all(1),
        "data missing": posterior & ~(given == ~parameter).all(1),
        "half an observable": given[:, 2] != given[:, 3],
        "a parameter given another": (asked & parameter).any(1) & (given & parameter).any(1),
        "something left out": ~(asked | given).all(1),
    }
    shares = {kind: float(rows.double().mean()) for kind, rows in kinds.items()}
    assert all(share > 0.05 for share in shares.values()), shares


def test_few_rows_have_no_correlations():
    gaussian = JointGaussian(5)
    rows = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    gaussian.fit(lambda: iter([rows]))
    assert torch.equal(gaussian.covariance, gaussian.covariance.diagonal().diag())


def test_names_must_differ():
    with pytest.raises(ValueError, match="name a parameter and an observable too"):
        Joint(Prior(x=td.Normal(0.0, 1.0)), {"x": Observable((2,))})


def test_long_data_are_refused():
    with pytest.raises(ValueError, match="an observation has 65 numbers, and Joint learns a density of at most 64"):
        Joint(PRIOR, {"x": Observable((65,))})
