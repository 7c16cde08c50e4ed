"""A discrete parameter that counts the steps of a series: told by both sides of each step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from sciinf import simulate, wrappers
from sciinf.core import Batch, Choice, Counts, Marginals, Normal, Observable, Only, Prior, Uniform
from sciinf.core.component import from_json, rebuilt, to_json
from sciinf.core.levels import Levels
from sciinf.training import train
from sciinf.training.estimators._places import Place, Places, places_in, series_in
from sciinf.training.estimators.mixed import Mixed
from sciinf.training.recipe import Recipe

STEPS = 24
SERIES = {"x": Observable((STEPS,), dims=("time",))}
PRIOR = Prior(
    kind=Choice("step", "pulse", "none"),
    place=Only(Counts(1, STEPS - 1), kind=("step", "pulse")),
    size=Normal(0.0, 1.0),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def found(law: Levels, observable: Observable) -> list[Place]:
    return places_in({"x": observable}, Prior(a=Normal(0.0, 1.0), n=law))


@pytest.mark.parametrize(
    ("law", "is_place"),
    [
        (Counts(1, 39), True),
        (Counts(0, 40), True),
        (Counts(10, 30), True),
        (Counts(0, 39), True),
        (Counts(0, 20), False),  # the number of something
        (Counts(16, 24), False),
        (Counts(0, 41), False),
        (Choice(*map(str, range(40))), False),
    ],
)
def test_values_say_which_counts_are_places(law, is_place):
    series = Observable((40,), dims=("time",))
    assert bool(found(law, series)) == is_place
    assert not found(law, Observable((40,))), "no series"
    assert not found(law, Observable((40,), dims=("item",))), "no order"


def test_the_axis_of_time_has_the_steps():
    (place,) = found(Counts(1, 39), Observable((3, 40), dims=("channel", "time")))
    assert (place.parameter, place.axis, place.series, place.edges) == ("n", 1, "x", tuple(range(1, 40)))


def test_both_sides_are_means_over_their_items():
    place = Place("place", 0, "x", 0, (0, 1, 5, 6), ((),))
    network = Places(place, Observable((6, 2), dims=("time", "channel")), [], 1, 8)
    seen = []
    network.before.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network.after.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = torch.randn(3, 6, 2, generator=seeded())
    mask = torch.rand(3, 6, 2, generator=seeded(1)) < 0.7
    mask[0] = True
    network(x, mask)
    left, right = (side[:, 0] for side in seen)
    for k, edge in enumerate(place.edges):
        for side, some in ((left, slice(0, edge)), (right, slice(edge, 6))):
            share = mask[:, some].double().mean(-1, keepdim=True)
            mean = (x[:, some] * mask[:, some] * share).sum(1) / share.sum(1).clamp_min(1)
            torch.testing.assert_close(side[:, k, :2].double(), mean.double(), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(side[:, k, -1].double(), share.sum((1, 2)) / 6, rtol=1e-5, atol=1e-6)


def test_each_row_is_told_by_its_own_series_and_the_parameters_before():
    (place,) = places_in(SERIES, PRIOR)
    assert place.states == ((0,), (1,)), "without `none`, where there is no place"
    network = Places(place, SERIES["x"], [3], 2, 8)
    x = torch.randn(5, STEPS, generator=seeded())
    logits, sides = network(x, None)
    assert logits.shape == (5, 2, STEPS - 1)
    torch.testing.assert_close(network(x[3:4], None)[0][0], logits[3])
    codes = torch.tensor([[0, -1], [1, -1], [1, -1], [2, -1], [0, -1]])
    flat = torch.full((5, STEPS - 1), -math.log(STEPS - 1))
    mixed = network.log_probs(logits, codes, flat)
    torch.testing.assert_close(mixed.exp().sum(1), torch.ones(5))
    network.odds.data.fill_(10.0)
    log_q = network.log_probs(logits, codes, flat)
    torch.testing.assert_close(mixed.exp(), (log_q.exp() + flat.exp()) / 2)
    torch.testing.assert_close(log_q[[0, 1, 4]], logits.log_softmax(-1)[[0, 1, 4], [0, 1, 0]])
    place = torch.tensor([4, 7, 7, -1, 0, 5, 4, 9, 1, -1])  # two draws of each of the five
    seen = network.see(sides, place)
    assert seen.shape == (2, 10, 8)
    assert not seen[:, [3, 9]].any()
    torch.testing.assert_close(seen[:, 5], network.see(sides[:1], place[5:6])[:, 0])


def test_all_columns_of_a_table_are_looked_at():
    prior = Prior(place=Counts(1, STEPS - 1), size=Normal(0.0, 1.0))
    mask = Observable((STEPS,), dims=("time",), dtype="bool")
    estimator = Mixed(prior, {**SERIES, "y": SERIES["x"], "y_mask": mask})
    theta = prior.sample(200, generator=seeded())
    x = {name: torch.randn(200, STEPS, generator=seeded(k)) for k, name in enumerate("xy")}
    x["y_mask"] = torch.rand(200, STEPS, generator=seeded(3)) < 0.8
    estimator.standardise(lambda: iter([Batch(theta, x)]))
    place = estimator.place(0)
    assert place is not None
    for name in "xy":
        other = {**x, name: x[name].where(~x["y_mask"], x[name] + 1)}
        assert not torch.equal(estimator.given(other)[1].places[0], estimator.given(x)[1].places[0])
    missing = {**x, "y": x["y"].where(x["y_mask"], torch.tensor(7.0))}
    torch.testing.assert_close(estimator.given(missing)[1].places[0], estimator.given(x)[1].places[0])


def test_series_with_times_or_controls_are_left_out():
    times = Observable((STEPS,), dims=("time",), dtype="float64")
    control = Observable((STEPS,), dims=("time",), control=True)
    assert list(series_in({**SERIES, "y": SERIES["x"]})) == ["x"], "which is a table of both"
    assert not series_in({**SERIES, "x_times": times})
    assert not series_in({**SERIES, "dose": control})
    for more in ({}, {"x_times": times}, {"dose": control}):
        observables = {**SERIES, **more}
        assert len(Mixed(PRIOR, observables).places) == len(places_in(series_in(observables), PRIOR))


def test_it_stays_without_places_when_it_is_built_anew():
    assert not len(rebuilt(Mixed(PRIOR, SERIES, places=False), seed=3).places)
    assert len(rebuilt(Mixed(PRIOR, SERIES), seed=3).places) == 1


def test_it_is_normalised_over_all_places():
    prior = Prior(kind=Choice("step", "none"), place=Only(Counts(1, STEPS - 1), kind="step"))
    estimator = Mixed(prior, SERIES, seed=2)
    for weight in estimator.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=seeded())
    theta = torch.cat(
        [torch.stack([torch.zeros(STEPS - 1), torch.arange(1.0, STEPS)], 1), torch.tensor([[1, math.nan]])]
    )
    x = torch.randn(2, STEPS, generator=seeded(1))
    log_q = estimator.condition({"x": x}).log_prob(theta[:, None].expand(-1, 2, -1))
    torch.testing.assert_close(log_q.exp().sum(0), torch.ones(2, dtype=torch.float64), rtol=1e-5, atol=1e-5)


def test_draws_have_the_probabilities_that_it_says():
    estimator = Mixed(PRIOR, SERIES, seed=1)
    theta = PRIOR.sample(400, generator=seeded())
    x = {"x": torch.randn(400, STEPS, generator=seeded(1)) + theta[:, 2:]}
    estimator.standardise(lambda: iter([Batch(theta, x)]))
    density = estimator.condition({"x": x["x"][:2]})
    theta = density.sample(20_000, generator=seeded(2))
    place, kind = theta[..., 1], theta[..., 0]
    assert torch.equal(place.isnan(), kind == 2)
    each = density.log_probabilities("place").exp().double()
    share = torch.stack([(place == value).double().mean(0) for value in range(1, STEPS)], 1)
    share = share / share.sum(1, keepdim=True)
    each = each / each.sum(1, keepdim=True)
    error = (each * (1 - each) / (~place.isnan()).sum(0)[:, None]).sqrt()
    assert float(((share - each) / error).abs().max()) < 5  # false alarms: one in 40,000
    assert density.log_prob(theta).isfinite().all()


def test_a_fit_that_was_made_before_comes_back_without_places():
    written = to_json(Mixed(PRIOR, SERIES))
    assert written["arguments"]["places"] is True
    del written["arguments"]["places"]
    assert not len(from_json(written).places)
    assert "places" not in to_json(Mixed(Prior(n=Counts(0, 3)), SERIES))["arguments"], "where there is none"


def stepping(place: np.ndarray, level: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean of a series steps by two sds after a place."""
    late = np.arange(STEPS) >= place[:, None]
    return level[:, None] + 2.0 * late + rng.normal(size=(len(place), STEPS))


def exact(x: Tensor) -> Tensor:
    """P(place | x), (batch, value): x is normal with a level whose prior is N(0, 1)."""
    precision = torch.eye(STEPS).double() - 1 / (1 + STEPS)
    places = torch.arange(1, STEPS)
    left = x[:, None].double() - 2.0 * (torch.arange(STEPS) >= places[:, None]).double()
    return (-0.5 * torch.einsum("bpi,ij,bpj->bp", left, precision, left)).softmax(1)


@pytest.mark.slow
@pytest.mark.parametrize("places", [True, False])
def test_it_finds_the_place_where_a_network_of_the_whole_series_does_not(places, tmp_path):
    prior = Prior(place=Counts(1, STEPS - 1), level=Normal(0.0, 1.0))
    simulator = wrappers.numpy(stepping, prior, SERIES, vectorised=True, name="stepping")
    store = simulate(simulator, tmp_path / "store", 4_000, progress=False)
    estimator = Mixed(prior, SERIES, places=places)
    fit = train(estimator, store, tmp_path / "fit", recipe=Recipe(epochs=12), progress=False)
    x = simulator(prior.sample(200, generator=seeded(5)), generator=seeded(6)).x["x"]
    density = fit.estimator.condition({"x": x})
    assert isinstance(density, Marginals)
    apart = 0.5 * (density.log_probabilities("place").exp().double() - exact(x)).abs().sum(1).mean()
    assert (float(apart) < 0.12) == places


def waves(period: np.ndarray, phase: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A count that is no place: means of both sides say nothing of a period."""
    angle = 2 * np.pi * (np.arange(STEPS) / period[:, None] + phase[:, None])
    return np.sin(angle) + 0.3 * rng.normal(size=angle.shape)


def periods(x: Tensor) -> Tensor:
    """P(period | x), (batch, value), from a grid of phases."""
    phase, period = torch.arange(200).double() / 200, torch.arange(2, STEPS - 1).double()
    mean = torch.sin(2 * math.pi * (torch.arange(STEPS) / period[:, None, None] + phase[:, None]))
    return (-0.5 * ((x[:, None, None].double() - mean) / 0.3).square().sum(-1)).logsumexp(-1).softmax(1)


@pytest.mark.slow
def test_a_count_that_is_no_place_is_learned_all_the_same(tmp_path):
    """By both sides alone the total variation is .67."""
    prior = Prior(period=Counts(2, STEPS - 2), phase=Uniform(0.0, 1.0))
    simulator = wrappers.numpy(waves, prior, SERIES, vectorised=True, name="waves")
    store = simulate(simulator, tmp_path / "store", 6_000, progress=False)
    estimator = Mixed(prior, SERIES)
    assert len(estimator.places) == 1
    fit = train(estimator, store, tmp_path / "fit", recipe=Recipe(epochs=12), progress=False)
    x = simulator(prior.sample(200, generator=seeded(5)), generator=seeded(6)).x["x"]
    density = fit.estimator.condition({"x": x})
    assert isinstance(density, Marginals)
    apart = 0.5 * (density.log_probabilities("period").exp().double() - periods(x)).abs().sum(1).mean()
    assert float(apart) < 0.25
