"""Controls of a hidden state: exact likelihoods and paths, records of any plan, networks that see them, mistakes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from astropy import units
from samplers.controlled import FILL, PRIOR, TIMES, WARMTH, Gate, Tank, planned_tank, tank
from samplers.hidden import OU
from samplers.ranked import ranks, worst

from sciinf import Flow, LogUniform, Observable, Prior, wrappers
from sciinf.core import Batch
from sciinf.core.simulator import identity
from sciinf.networks.summaries import Conv1d
from sciinf.simulators.dynamics.linear_states import LinearStates
from sciinf.simulators.wrappers.hidden_plans import Plan

THETA = torch.tensor([[0.4, 0.7, 0.3], [0.9, 0.3, 0.2], [0.2, 0.5, 0.4]], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(theta, fill, warmth, times) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of all y of one tank: by the sum over what came before, without any filter."""
    k, s, r = (float(v) for v in theta)
    t, fill, warmth = np.asarray(times, float), np.asarray(fill, float), np.asarray(warmth, float)
    mean = np.zeros(len(t))
    for n in range(len(t)):
        for j in range(n):  # the filling at t_j, and the warmth from t_j to t_{j+1}
            mean[n] += fill[j] * math.exp(-k * (t[n] - t[j]))
            mean[n] += 2 * warmth[j, 0] / k * (math.exp(-k * (t[n] - t[j + 1])) - math.exp(-k * (t[n] - t[j])))
        mean[n] += 0.5 * warmth[n, 1]
    one, two = np.meshgrid(t - t[0], t - t[0], indexing="ij")
    decayed = np.exp(-k * (one + two))
    covariance = 0.04 * decayed + s**2 / (2 * k) * (np.exp(-k * np.abs(one - two)) - decayed)
    return mean, covariance + r**2 * np.eye(len(t))


def log_normal(x: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    z = np.linalg.solve(np.linalg.cholesky(covariance), x - mean)
    return -0.5 * float(z @ z) - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]


# --- what is computed -------------------------------------------------------------------------------------------------


def test_kalman_has_the_likelihood_of_one_large_gaussian() -> None:
    """Controls of a step earlier or later, of the beginning of a step at its end, or of no effect would be far off."""
    x = torch.linspace(-1, 4, 6, dtype=torch.float64)[None]
    found = tank().log_likelihood(THETA, {"y": x})
    exact = [log_normal(x[0].numpy(), *gaussian(theta, FILL, WARMTH, TIMES)) for theta in THETA]
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-9)


def test_simulations_are_of_the_same_law() -> None:
    """Means of 20,000 within five standard errors: false alarms 1e-5 or so of all six."""
    y = tank()(THETA[:1].expand(20_000, -1), generator=generator())["y"].double()
    mean, covariance = gaussian(THETA[0], FILL, WARMTH, TIMES)
    error = np.sqrt(covariance.diagonal() / 20_000)
    assert (np.abs(y.mean(0).numpy() - mean) < 5 * error).all()
    np.testing.assert_allclose(np.cov(y.numpy().T), covariance, atol=0.05 * covariance.max())


def test_particles_agree_with_kalman() -> None:
    """Ratio of 2,000 estimates to the exact likelihood within 4 standard errors: false alarms 1e-4."""
    x = tank()(THETA[:1], generator=generator(3))
    found = tank(by_particles=True, particles=32).log_likelihood(THETA[:1].expand(2_000, -1), x)
    ratio = (found - tank().log_likelihood(THETA[:1], x)).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(2_000)


def test_a_chain_is_summed_over_its_paths() -> None:
    times, pulse = (0.0, 0.4, 1.0, 3.0), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    simulator = wrappers.state_space(Gate(), PRIOR, times, {"y": (4,)}, controls={"pulse": pulse})
    y = torch.tensor([[0.2, 0.9, 0.8, 0.1]], dtype=torch.float64)
    exact = []
    for k, s, r in THETA:
        law = torch.tensor([0.7, 0.3], dtype=torch.float64)
        log = 0.0
        for n in range(4):
            if n:
                up = s * pulse[n - 1].exp()
                rates = torch.stack([torch.stack([-up, up]), torch.stack([k, -k])])
                law = law @ torch.matrix_exp(rates * (times[n] - times[n - 1]))
            law = law * torch.distributions.Normal(torch.tensor([0.0, 1.0]).double(), r).log_prob(y[0, n]).exp()
            log, law = log + float(law.sum().log()), law / law.sum()
        exact.append(log)
    np.testing.assert_allclose(simulator.log_likelihood(THETA, {"y": y.float()}).numpy(), exact, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "truths", "draws"), [("Kalman", 200, 400), ("particles", 100, 200)])
def test_theta_and_path_are_calibrated_and_with_controls_of_the_next_time_are_not(
    kind: str, truths: int, draws: int
) -> None:
    """Ranks of truths among weighted draws; false alarms 1e-3 each. Two of the steps have length 0."""
    options = {"by_particles": True, "particles": 64} if kind == "particles" else {}
    right = tank(**options)
    late = tank(fill=(*FILL[1:], 0.0), warmth=(*WARMTH[1:], (0.0, 0.0)), **options)
    assert worst(ranks(right, right, truths, draws)) > 1e-3
    assert worst(ranks(right, late, truths, draws)) < 1e-3


def test_a_row_alone_is_that_row_of_a_batch() -> None:
    simulator = planned_tank()
    theta = simulator.prior.sample(5, generator=generator(1))
    x = simulator(theta, generator=generator(2))
    whole = simulator.log_likelihood(theta, x)
    each = [(theta[i : i + 1], {name: value[i : i + 1] for name, value in x.items()}) for i in range(5)]
    alone = torch.cat([simulator.log_likelihood(*one) for one in each])
    torch.testing.assert_close(whole, alone, rtol=1e-10, atol=0)
    for i, (one, _) in enumerate(each):
        there = x["y_mask"][i].numpy()
        mean, covariance = gaussian(one[0], x["fill"][i], x["warmth"][i], x["y_times"][i])
        exact = log_normal(x["y"][i].double().numpy()[there], mean[there], covariance[np.ix_(there, there)])
        assert float(whole[i]) == pytest.approx(exact, rel=1e-5, abs=1e-5)
    by_particles = planned_tank(by_particles=True, particles=20_000)
    torch.testing.assert_close(by_particles.log_likelihood(theta, x), whole, rtol=0, atol=0.15)


# --- plans and records ------------------------------------------------------------------------------------------------


def test_controls_that_differ_are_data_and_those_that_do_not_are_not() -> None:
    assert list(tank().observables) == ["y"]
    simulator = planned_tank()
    assert list(simulator.observables) == ["y", "y_mask", "y_times", "fill", "warmth"]
    assert simulator.observables["warmth"] == Observable((6, 2), "K", ("time", "part"), "float64", control=True)
    x = simulator(PRIOR.sample(400, generator=generator()), generator=generator(1))
    assert 0.6 < float(x["y_mask"].float().mean()) < 0.74
    shown = wrappers.state_space(
        Tank(),
        PRIOR,
        TIMES,
        {"y": Observable((6,), "m", ("time",))},
        controls=lambda rows, generator: {
            "fill": torch.rand(rows, 6, generator=generator),
            "warmth": torch.zeros(rows, 6, 2),
        },
    )
    assert list(shown.observables) == ["y", "fill", "warmth"]
    assert shown(PRIOR.sample(2, generator=generator()), generator=generator())["fill"].shape == (2, 6)


def test_models_without_controls_are_what_they_were() -> None:
    """No control in any record, no setting, no specification: stores and fits of before are those of now."""
    simulator = wrappers.state_space(OU(), PRIOR, (0.0, 1.0), {"y": Observable((2,), "mV", ("time",))})
    assert simulator.like is None
    assert "controls" not in identity(simulator)
    assert "control" not in Observable((2,), "mV").to_json()
    assert Observable.from_json(Observable((2,), control=True).to_json()).control
    assert not Observable.from_json({**Observable((2,)).to_json()}).control
    assert identity(tank())["controls"] != identity(tank(fill=(0.0, *FILL[1:])))["controls"]


def test_a_record_merges_impulses_that_came_at_times_of_their_own() -> None:
    """Before and after each; at equal times what was measured comes first; the end is repeated without a value."""
    simulator = _dosed(8)
    x = simulator.record([1.0, 4.0], {"y": [2.5, np.nan]}, {"fill": ([0.0, 1.0], [3.0, -1.0])})
    assert x["y_times"].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 4.0, 4.0, 4.0]
    assert x["fill"].tolist() == [3.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0]
    assert x["y_mask"].tolist() == [False, False, True, False, False, False, False, False]
    same = simulator.record([0.0, 1.0, 1.0, 4.0], {"y": [np.nan, 2.5, np.nan, np.nan]}, {"fill": [3.0, 0.0, -1.0, 0.0]})
    theta = THETA.float()
    torch.testing.assert_close(
        simulator.log_likelihood(theta, {n: v[None] for n, v in x.items()}),
        simulator.log_likelihood(theta, {n: v[None] for n, v in same.items()}),
    )
    # in other units
    fill = ([0.0, 60.0] * units.min, [300, -100] * units.cm)
    given = simulator.record([60.0, 240.0] * units.min, {"y": [2.5, np.nan] * units.m}, {"fill": fill})
    for name, value in given.items():
        torch.testing.assert_close(value, x[name])
    path = simulator.paths(theta, {n: v[None] for n, v in x.items()}, generator())
    assert path.times.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 4.0]
    risen = path["level"].draws[:, 1] - path["level"].draws[:, 0]
    np.testing.assert_allclose(risen, 3.0, atol=1e-6)  # the path shows the jump
    np.testing.assert_allclose(path["level"].draws[:, 4] - path["level"].draws[:, 3], -1.0, atol=1e-6)


class Dosed(LinearStates):
    """A tank that is not warmed."""

    latent, controls, impulses = {"level": "m"}, {"fill": "m"}, ("fill",)

    def start(self, theta):
        return Tank().start(theta)

    def step(self, theta, start, stop):
        return Tank().step({**theta, "warmth": torch.zeros(len(theta["k"]), 2).to(theta["k"])}, start, stop)

    def view(self, theta):
        return Tank().view({**theta, "warmth": torch.zeros(len(theta["k"]), 2).to(theta["k"])})


def _plan(rows, generator):
    times = torch.rand(rows, 8, generator=generator).cumsum(-1)
    return Plan(times, {"fill": torch.rand(rows, 8, generator=generator)}, times < 3)


def _dosed(count=8, times=_plan, **options):
    return wrappers.state_space(
        Dosed(), PRIOR, times, {"y": Observable((count,), "m", ("time",))}, time_unit="h", **options
    )


def test_what_is_predicted_of_a_record_is_predicted_under_its_own_plan() -> None:
    simulator = planned_tank(missing=0.3)
    theta = PRIOR.sample(50, generator=generator())
    x = {name: value[7:8] for name, value in simulator(theta, generator=generator(1)).items()}
    found = simulator.like(x)(theta, generator=generator(2))
    assert list(found) == list(x)
    for name in ("y_times", "y_mask", "fill", "warmth"):
        assert torch.equal(found[name], x[name].expand_as(found[name]))
    assert len(found["y"][:, x["y_mask"][0]].unique()) > 50
    other = simulator(theta, generator=generator(2))
    assert not torch.equal(other["fill"], found["fill"])
    assert simulator.own is None


def test_a_network_sees_controls_beside_each_value_and_where_none_was_seen() -> None:
    simulator = planned_tank()
    flow = Flow(simulator.prior, simulator.observables, summary=Conv1d())
    assert flow.data_names == ("y",)
    theta = simulator.prior.sample(300, generator=generator())
    x = simulator(theta, generator=generator(1))
    flow.standardise_all(lambda: iter([Batch(theta, x)]))
    before = flow.features(x)
    missing = ~x["y_mask"]
    assert bool(missing.any())
    for name, change in (("fill", 1.0), ("warmth", 0.5), ("y_times", 0.5)):
        wide = missing if x[name].ndim == 2 else missing[..., None]
        moved = {**x, name: torch.where(wide, x[name] + change, x[name])}  # only where no value was seen
        assert float((flow.features(moved) - before).detach().abs().max()) > 1e-3, name
    hidden = {**x, "y": torch.where(missing, torch.full_like(x["y"], 9.0), x["y"])}
    torch.testing.assert_close(flow.features(hidden), before)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def _of(name, shape):
    return {**{"fill": FILL, "warmth": WARMTH}, name: torch.zeros(shape)}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _tank(), "Tank has controls of which no values are given: 'fill', 'warmth'"),
        (lambda: _tank(controls={"fill": FILL}), "no values are given: 'warmth'"),
        (
            lambda: _tank(controls={"fill": FILL, "warmth": WARMTH, "wind": FILL}),
            "'wind' are given as controls, and Tank",
        ),
        (lambda: _tank(controls=_of("fill", 5)), "'fill' has 5 values, and there are 6 times"),
        (lambda: _tank(controls=_of("fill", ())), "'fill' has no axis of times"),
        (lambda: tank(fill=(3.0, math.nan, *FILL[2:])), "'fill' is not known at time 0 .number 1.: it is nan"),
        (lambda: tank(begin=-1.0), "the state begins at -1, and controls .fill, warmth. are known from the first time"),
        (lambda: tank(times=(*TIMES[:-1], 1.0)), "times go backwards: 2 is followed by 1"),
        (lambda: _dosed(8, lambda rows, g: torch.zeros(rows, 8)), "no values are given: 'fill'"),
        (lambda: _dosed(8, _plan, controls={"fill": torch.zeros(8)}), "fill: plans have these controls, and controls="),
        (lambda: _dosed(7), "times were drawn of shape .3, 8., expected .3, 7."),
        (
            lambda: wrappers.state_space(Tank(), _named("fill"), TIMES, {"y": (6,)}, controls=_of("fill", 6)),
            "'fill': controls that have the name of a parameter",
        ),
    ],
)
def test_mistakes_are_named(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def _tank(**options):
    return wrappers.state_space(Tank(), PRIOR, TIMES, {"y": (6,)}, **options)


def _named(name):
    return Prior(**{one: LogUniform(0.1, 1.0) for one in ("k", "s", "r", name)})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (([0.0, 1.0], {"y": [1.0, 2.0]}), "the control 'fill' is missing: a record of this simulator has 'fill'"),
        (([0.0, 1.0], {"y": [1.0, 2.0]}, {"fill": [1.0, 0.0], "wind": [0.0, 0.0]}), "'wind' is no control"),
        (([0.0, 1.0], {"y": [1.0, 2.0]}, {"fill": [1.0]}), r"'fill' has shape \(1,\) for 2 times.*one value for each"),
        (
            ([0.0, 1.0], {"y": [1.0, 2.0]}, {"fill": [1.0, math.nan]}),
            "'fill' is not known at time 1 .number 1.*dose that",
        ),
        (
            ([0.0, 1.0], {"y": [1.0, 2.0]}, {"fill": ([0.0, 1.0], [1.0])}),
            r"'fill' has shape \(1,\) for 2 times of its own",
        ),
        (
            ([0.0, 1.0], {"y": [1.0, 2.0]}, {"fill": ([1.0, 0.5], [1.0, 1.0])}),
            "times go backwards: 1 is followed by 0.5",
        ),
        (([1.0, 0.0], {"y": [1.0, 2.0]}, {"fill": [1.0, 0.0]}), "times go backwards: 1 is followed by 0"),
        (([0.0, 1.0], {"y": [1.0]}, {"fill": ([0.5], [1.0])}), "'y' has shape .1,. for 2 times"),
        (
            (list(range(5)), {"y": [1.0] * 5}, {"fill": ([0.5, 1.5], [1.0, 1.0])}),
            "5 times and 2 impulses take 9 lines.*simulations have 8",
        ),
    ],
)
def test_mistakes_in_a_record_are_named(given, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        _dosed().record(*given)


def test_a_control_of_data_that_is_not_known_is_named() -> None:
    simulator = _dosed()
    theta = PRIOR.sample(3, generator=generator())
    x = simulator(theta, generator=generator())
    with pytest.raises(ValueError, match=r"\['fill'\] are missing"):
        simulator.log_likelihood(theta, {name: value for name, value in x.items() if name != "fill"})
    x["fill"][1, 2] = math.inf
    with pytest.raises(ValueError, match="'fill' is not known at time .* .number 2.: it is inf"):
        simulator.log_likelihood(theta, x)


def test_a_dose_may_be_negative() -> None:
    """What takes away: whether that makes sense is the model's to say."""
    down = tank(fill=tuple(-value for value in FILL))
    mean, _ = gaussian(THETA[0], [-value for value in FILL], WARMTH, TIMES)
    y = down(THETA[:1].expand(4_000, -1), generator=generator())["y"].mean(0)
    np.testing.assert_allclose(y.numpy(), mean, atol=0.1)
