"""The joint model: its Gaussian beginning for every question, what is asked in training, and a task it has exactly."""

from __future__ import annotations

import pytest
import torch
from astropy import units
from torch import distributions as td

from sciinf import Recipe
from sciinf.campaigns.simulation import simulate
from sciinf.core import Batch, Observable, Prior, Simulator, load_fit, save_fit
from sciinf.posteriors.conditional import Conditional
from sciinf.training import train
from sciinf.training.estimators._gaussian import JointGaussian
from sciinf.training.estimators.joint import Joint

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


def silent(folder, noisy=0.0):
    """Standardised on many rows, and its network silent: what it says is the Gaussian law alone."""
    joint = Joint(PRIOR, OBSERVABLES, hidden=8, blocks=1, noisy=noisy)  # silent, so of any size
    joint.standardise(lambda: iter([simulations(200_000)]))
    for layer in (joint.network.leave, joint.network.beside):
        torch.nn.init.zeros_(layer.weight)
    save_fit(folder, joint, simulator={"name": "linear", "source": ""}, record={})
    return Conditional(load_fit(folder))


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    return silent(tmp_path_factory.mktemp("linear"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    return silent(tmp_path_factory.mktemp("measured"), noisy=0.3)


def exact(asked, given, errors=None):
    """The law of names given values of others, which have errors beside what the simulator does."""
    a = [i for name in asked for i in NUMBERS[name]]
    b = [i for name in given for i in NUMBERS[name]]
    value = torch.cat([torch.as_tensor(v).double().reshape(-1) for v in given.values()]) if b else torch.zeros(0)
    there = ~value.isnan()
    b, value = [i for i, keep in zip(b, there, strict=True) if keep], value[there].double()
    square = torch.zeros(5, dtype=torch.float64)
    for name, sd in (errors or {}).items():
        square[NUMBERS[name]] = torch.as_tensor(sd).double().reshape(-1).nan_to_num() ** 2
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


@pytest.mark.slow
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


def agrees(conditional, asked, given, errors, *, mean=0.05, spread=0.06):
    """Whether draws are those of the exact law: means within a share of an sd, covariances in sds."""
    law = exact(asked, given, errors)
    draws = conditional.sample(20_000, asked, given, errors=errors, generator=torch.Generator().manual_seed(1))
    found, sd = side_by_side(draws), law.variance.sqrt()
    close = bool(((found.mean(0) - law.mean).abs() < mean * sd).all())
    return close and torch.allclose(found.T.cov() / sd / sd[:, None], scaled(law), atol=spread)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "errors"),
    [
        ({"x": [2.0, -3.0], "y": 2.0}, {"x": [0.0, 0.0], "y": 0.0}),
        ({"x": [2.0, -3.0], "y": 2.0}, {"x": [0.05, 0.1], "y": 0.05}),
        ({"x": [2.0, -3.0], "y": 2.0}, {"x": [1.5, 0.0], "y": 3.0}),
        ({"x": [21.0, torch.nan]}, {"x": [7.5, torch.nan]}),
        ({"x": [-9e3, 2e4], "y": 3e4}, {"x": [1e4, 1e4], "y": 2e4}),
    ],
    ids=["none", "small", "as large as the spread", "a wild value with a large error", "far larger than the spread"],
)
def test_values_with_error_bars_are_data_at_a_noise_level(measured, given, errors):
    """Exact, as above. A value that lies far outside, as one with such an error does, says what its error allows."""
    assert agrees(measured, ["a", "b"], given, errors)
    law, generator = exact(["a", "b"], given, errors), torch.Generator().manual_seed(0)
    theta = law.mean + torch.randn(50, 2, generator=generator, dtype=torch.float64) @ law.scale_tril.T
    names = {"a": theta[:, 0].float(), "b": theta[:, 1].float()}
    found = measured.log_prob(names, given, errors=errors)
    assert torch.allclose(found, law.log_prob(theta), atol=0.1)


def test_errors_that_are_ignored_are_told_apart(measured):
    # planted fault: the question without its errors
    given, errors = {"x": [2.0, -3.0], "y": 2.0}, {"x": [1.5, 0.0], "y": 3.0}
    law = exact(["a", "b"], given, errors)
    plain = side_by_side(measured.sample(20_000, ["a", "b"], given, generator=torch.Generator().manual_seed(1)))
    assert bool(((plain.mean(0) - law.mean).abs() > 0.2 * law.variance.sqrt()).any())


@pytest.mark.parametrize("huge", [1e7, 1e18, 1e30])
def test_an_error_without_end_is_a_value_left_out(measured, huge):
    """Of a placeholder as well as of a value like others: no overflow, and nothing told."""
    drawn = [
        measured.sample(100, ["a", "b"], {"x": [2.0, seen]}, errors=errors, generator=torch.Generator().manual_seed(1))
        for seen, errors in ((torch.nan, {"x": [0.5, 0.0]}), (-1.0, {"x": [0.5, huge]}), (-9999.0, {"x": [0.5, huge]}))
    ]
    assert all(torch.equal(draws[name], drawn[0][name]) for draws in drawn for name in ("a", "b"))
    assert bool(drawn[0]["a"].isfinite().all())
    with pytest.raises(ValueError, match="'x' has values that lie thousands of their errors from all simulations"):
        measured.sample(5, ["a"], {"x": [2.0, 1e35]}, errors={"x": [0.5, 1e7]}, generator=torch.Generator())


def test_no_error_is_none_at_all_and_a_missing_value_needs_none(measured):
    given, asked = {"x": [2.0, torch.nan], "y": 2.0}, ["a", "b"]
    drawn = [
        measured.sample(100, asked, given, errors=errors, generator=torch.Generator().manual_seed(1))
        for errors in (None, {}, {"x": [0.0, 0.0]}, {"x": [0.0, torch.nan], "y": 0.0})
    ]
    assert all(torch.equal(draws[name], drawn[0][name]) for draws in drawn for name in asked)


@pytest.mark.slow
def test_a_trained_network_keeps_questions_with_errors_exact(tmp_path):
    """Means within a fifth of an sd, covariances within a fifth, of a small network of 4,000 rows."""
    store = simulate(Linear(), tmp_path / "simulations", 4_000, seed=0, progress=False)
    joint = Joint(PRIOR, OBSERVABLES, hidden=32, blocks=1, noisy=0.5)
    fit = train(joint, store, tmp_path / "fit", recipe=Recipe(epochs=40, batch=200), progress=False)
    given = {"x": [2.0, -3.0], "y": 2.0}
    for each in (0.0, 0.2, 2.0, 300.0):
        errors = {"x": [each, each], "y": each}
        assert agrees(Conditional(fit), ["a", "b"], given, errors, mean=0.2, spread=0.2), each


def test_training_shows_errors_to_the_network_and_in_the_data():
    """A network that is told of no errors, or is shown none, has learned another question. Parameters have none."""
    joint = Joint(PRIOR, OBSERVABLES, hidden=8, blocks=1, noisy=0.9)
    batch = simulations(4_000)
    joint.standardise(lambda: iter([batch]))
    shown = []
    joint.network.given.register_forward_hook(lambda _, told, made: shown.append(told[0].detach()))
    joint.loss(batch, generator=torch.Generator().manual_seed(0))
    seen, given, _, _, errors = shown[0].split(5, dim=-1)
    sd = errors / (1 - errors**2).clamp_min(1e-6).sqrt()
    data = given * torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
    assert float((errors > 0)[data > 0].float().mean()) == pytest.approx(0.9, abs=0.1)
    assert float(errors[data == 0].abs().max()) == 0.0
    loud = (sd[:, 2] > 1.0) & (given[:, 2] > 0)  # x, whose own sd is 1: shown at that of both
    assert float((seen[loud, 2] * (1 + sd[loud, 2] ** 2).sqrt()).var()) > 2.0


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({"a": 1.0}, r"errors are of observables that are given, which are \['x'\], got errors of \['a'\]"),
        ({"y": 1.0}, r"errors are of observables that are given, which are \['x'\], got errors of \['y'\]"),
        ({"x": [-1.0, 1.0]}, "finite and at least 0"),
        ({"x": [torch.inf, 1.0]}, "errors of 'x' are sds, finite"),
        ({"x": [torch.nan, 1.0]}, "finite and at least 0"),
        ({"x": 1.0}, r"errors of 'x' have shape \(\), its values \(2,\): give a sd for each value"),
        ({"x": [1.0, 1.0] * units.mag}, "errors of 'x': .*does not convert"),
    ],
)
def test_errors_that_make_no_sense_are_refused(measured, errors, words):
    with pytest.raises(ValueError, match=words):
        measured.sample(5, ["b"], {"a": 0.0, "x": [0.0, 0.0]}, errors=errors, generator=torch.Generator())


def test_a_model_that_learned_of_no_errors_says_so(linear):
    for errors in ({"y": 1.0}, {"y": 0.0}):
        with pytest.raises(ValueError, match=r"train Joint\(\.\.\., noisy=0\.3\)"):
            linear.sample(5, ["a"], {"y": 0.0}, errors=errors, generator=torch.Generator())
    with pytest.raises(ValueError, match="noisy must be a number of at least 0, below 1"):
        Joint(PRIOR, OBSERVABLES, noisy=1.0)


class Scaled(Simulator):
    """y = exp(a + noise of sd 0.2), in metres: ln y is linear."""

    name = "scaled"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"y": Observable((), "m", scale="log")}

    def __call__(self, theta, *, generator):
        return {"y": (theta[:, 0] + 0.2 * torch.randn(len(theta), generator=generator)).exp()}


def test_errors_have_units_and_are_relative_on_a_logarithmic_scale(tmp_path):
    """A tenth of 2 m is 20 cm, and an error of 0.1 of the logarithm: means and sds within what 20,000 draws allow."""
    from astropy import units as u

    joint = Joint(Scaled.prior, Scaled.observables, hidden=8, blocks=1, noisy=0.3)
    generator = torch.Generator().manual_seed(0)
    theta = Scaled.prior.sample(200_000, generator=generator)
    joint.standardise(lambda: iter([Batch(theta, Scaled()(theta, generator=generator))]))
    for layer in (joint.network.leave, joint.network.beside):
        torch.nn.init.zeros_(layer.weight)
    save_fit(tmp_path, joint, simulator={"name": "scaled", "source": ""}, record={})
    scaled_up, given = Conditional(load_fit(tmp_path)), {"y": 2.0 * u.m}
    draws = scaled_up.sample(20_000, ["a"], given, errors={"y": 20.0 * u.cm}, generator=torch.Generator())["a"]
    noise = 0.2**2 + 0.1**2
    assert float(draws.mean()) == pytest.approx(0.6931 / (1 + noise), abs=0.015)
    assert float(draws.var()) == pytest.approx(noise / (1 + noise), rel=0.1)
    with pytest.raises(ValueError, match="at most 0.5 of it on its logarithmic scale"):
        scaled_up.sample(5, ["a"], given, errors={"y": 1.5 * u.m}, generator=torch.Generator())


class Counted(Simulator):
    """Counts of mean exp(2 + a / 2)."""

    name = "counted"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"n": Observable((2,), dtype="int64")}

    def __call__(self, theta, *, generator):
        return {"n": torch.poisson((2 + theta / 2).exp().expand(-1, 2), generator=generator).long()}


def test_errors_of_counts_need_not_be_whole(tmp_path):
    generator = torch.Generator().manual_seed(0)
    joint = Joint(Counted.prior, Counted.observables, hidden=8, blocks=1, noisy=0.3)
    theta = Counted.prior.sample(1_000, generator=generator)
    joint.standardise(lambda: iter([Batch(theta, Counted()(theta, generator=generator))]))
    save_fit(tmp_path, joint, simulator={"name": "counted", "source": ""}, record={})
    asked, spread = Conditional(load_fit(tmp_path)), []
    for each in (0.0, 0.5, 200.5):
        told = {"errors": {"n": [each, each]}, "generator": torch.Generator().manual_seed(1)}
        spread.append(float(asked.sample(2_000, ["a"], {"n": [7, 8]}, **told)["a"].std()))
    assert spread[0] < spread[1] < spread[2]


@pytest.mark.long
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


def test_errors_are_named_and_those_of_whole_numbers_need_not_be_whole(measured, tmp_path):
    with pytest.raises(TypeError, match="errors must name its values, .* got Tensor"):
        measured.sample(5, ["b"], {"x": [0.0, 0.0]}, errors=torch.ones(2))
    counts = Joint(PRIOR, {"n": Observable((2,), dtype="int64")}, hidden=8, blocks=1, noisy=0.3)
    save_fit(tmp_path, counts, simulator={"name": "toy", "source": ""}, record={})
    assert len(Conditional(load_fit(tmp_path)).sample(5, ["a"], {"n": [3, 2]}, errors={"n": [0.5, 0.0]})["a"]) == 5
