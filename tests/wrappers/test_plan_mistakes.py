"""Plans, controls and simulators that do not go together: said where they are given, and never taken for data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from samplers.controlled import PRIOR, planned_tank
from samplers.hidden import OU

from sciinf import Observable, wrappers
from sciinf.core.simulator import as_seen
from sciinf.simulators.wrappers.hidden_plans import Plan
from sciinf.training.estimators.elements import suits
from sciinf.training.estimators.likelihood import Likelihood

Y = {"y": Observable((4,), "m", ("time",))}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Pushed(OU):
    """An Ornstein-Uhlenbeck process beside which a dose is told."""

    controls = {"dose": "mg"}


def plans(rows, g):
    return Plan(torch.arange(4.0).expand(rows, 4), {"dose": torch.zeros(rows, 4)}, torch.ones(1, 4) > 0)


def pushed(times, **options):
    return wrappers.state_space(Pushed(), PRIOR, times, Y, **options)


def test_a_plan_of_one_row_is_that_of_all():
    lists: Any = ([[0.0, 1.0, 2.0, 3.0]], {"dose": [[5.0, 0.0, 0.0, 0.0]]})
    plan = Plan(*lists)
    x = pushed(lambda rows, g: plan)(PRIOR.sample(3, generator=generator()), generator=generator())
    assert x["y_times"].tolist() == [[0.0, 1.0, 2.0, 3.0]] * 3
    assert x["dose"].tolist() == [[5.0, 0.0, 0.0, 0.0]] * 3


def test_plans_and_controls_of_another_form_are_refused_by_name():
    with pytest.raises(ValueError, match=r"times of a plan are \(row, T\)"):
        Plan(torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="controls were drawn as Tensor; give a mapping"):
        pushed((0.0, 1.0, 2.0, 3.0), controls=lambda rows, g: torch.zeros(rows, 4))
    as_tuple = pushed(lambda rows, g: Plan(torch.arange(4.0).expand(rows, 4), {"dose": torch.zeros(rows, 4)}))
    x = as_tuple.record([0, 1, 2, 3], {"y": [1.0, 2, 3, 4]}, {"dose": (1.0, 0.0, 2.0, 0.0)})
    assert x["dose"].tolist() == [1.0, 0.0, 2.0, 0.0]


@pytest.mark.parametrize("name", ["y_times", "y_mask", "y"])
def test_a_control_cannot_take_the_place_of_data(name):
    class Named(OU):
        controls = {name: "m"}

    with pytest.raises(ValueError, match=f"'{name}'.*call them differently"):
        wrappers.state_space(Named(), PRIOR, (0.0, 1.0, 2.0, 3.0), Y, controls={name: [0.0] * 4})


class Drip(OU):
    """The same, of which the dose comes and is over."""

    controls, impulses = {"dose": "mg"}, ("dose",)


def test_after_a_record_levels_hold_and_impulses_are_over():
    """What networks and models without a likelihood see of lines that a shorter record does not have."""
    ended = {}
    for model in (Pushed(), Drip()):
        simulator = wrappers.state_space(
            model,
            PRIOR,
            lambda rows, g: Plan(
                torch.arange(4.0).expand(rows, 4), {"dose": torch.zeros(rows, 4)}, torch.ones(1, 4) > 0
            ),
            Y,
        )
        x = simulator.record([0.0, 1.0], {"y": [1.0, 2.0]}, {"dose": [0.0, 3.0]})
        ended[type(model)] = x["dose"].tolist()
    assert ended == {Pushed: [0.0, 3.0, 3.0, 3.0], Drip: [0.0, 3.0, 0.0, 0.0]}


def test_only_impulses_have_times_of_their_own():
    given = {"dose": ([0.5], [3.0])}
    found = wrappers.state_space(Drip(), PRIOR, plans, Y).record([0.0, 1.0], {"y": [1.0, 2.0]}, given)
    assert found["y_times"].tolist() == [0.0, 0.5, 0.5, 1.0]
    assert found["dose"].tolist() == [0.0, 3.0, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"'dose' is given as a pair.*write `impulses = \('dose',\)` into the model"):
        wrappers.state_space(Pushed(), PRIOR, plans, Y).record([0.0, 1.0], {"y": [1.0, 2.0]}, given)
    with pytest.raises(ValueError, match="3 times and 1 impulses take 5 lines.*simulations have 4"):
        wrappers.state_space(Drip(), PRIOR, plans, Y).record([0.0, 1.0, 2.0], {"y": [1.0, 2.0, 1.0]}, given)
    with pytest.raises(ValueError, match="times go backwards"):
        wrappers.state_space(Drip(), PRIOR, plans, Y).record([1.0, 0.0], {"y": [1.0, 2.0]}, given)

    class Misspelt(OU):
        controls, impulses = {"dose": "mg"}, ("doze",)

    with pytest.raises(ValueError, match="Misspelt.impulses names 'doze'"):
        wrappers.state_space(Misspelt(), PRIOR, plans, Y)


def test_arrays_that_run_backwards_in_memory_are_read():
    simulator = wrappers.state_space(
        Drip(), PRIOR, lambda rows, g: Plan(torch.arange(4.0).expand(rows, 4), {"dose": torch.zeros(rows, 4)}), Y
    )
    x = simulator.record(np.arange(4.0), {"y": np.arange(4.0)[::-1]}, {"dose": np.arange(4.0)[::-1]})
    assert x["dose"].tolist() == x["y"].tolist() == [3.0, 2.0, 1.0, 0.0]


def test_controls_have_no_law_that_is_learned():
    """Estimators of a density of all numbers refuse them, and rounds of an answer do not ask for one."""
    simulator = pushed((0.0, 1.0, 2.0, 3.0), controls=lambda rows, g: {"dose": torch.rand(rows, 4, generator=g)})
    assert not suits(simulator.observables)
    assert suits({"y": simulator.observables["y"]})
    with pytest.raises(ValueError, match="'dose' is a control"):
        Likelihood(PRIOR, simulator.observables)


def test_sets_refuse_what_goes_with_each_record():
    assert Observable((3,), control=True).in_sets(4).control
    with pytest.raises(ValueError, match="times or controls that differ"):
        wrappers.sets(pushed((0.0, 1.0, 2.0, 3.0), controls=lambda rows, g: {"dose": torch.zeros(rows, 4)}), 3)
    with pytest.raises(ValueError, match="times or controls that differ"):
        wrappers.sets(wrappers.state_space(OU(), PRIOR, lambda rows, g: torch.arange(4.0).expand(rows, 4), Y), 3)


def test_what_is_no_observation_of_a_simulator_is_not_taken_for_one():
    """Then predictions are not made at its times, and whoever compares says what does not fit."""
    simulator = planned_tank()
    x = simulator(PRIOR.sample(2, generator=generator()), generator=generator())
    one = {name: value[:1] for name, value in x.items()}
    assert as_seen(simulator, one) is not simulator
    assert as_seen(simulator, {n: v for n, v in one.items() if n != "y_times"}) is simulator
    assert as_seen(simulator, x) is simulator


def test_models_that_all_know_their_events_know_them_together():
    """Each row's intervals by the model that it is of; those that one has fewer of are NaN."""

    def of(name, rate):
        simulator = wrappers.state_space(OU(), PRIOR, (0.0, 1.0, 2.0, 3.0), Y, name=name)
        wide = 2 if name == "slow" else 3
        simulator.rescaled = lambda theta, x: torch.full((len(theta), wide), rate)
        return simulator

    both: Any = wrappers.models({"slow": of("slow", 0.25), "fast": of("fast", 0.75)})
    theta = both.prior.sample(40, generator=generator())
    found = both.rescaled(theta, {"y": torch.zeros(1, 4)})
    slow = theta[:, 0] == 0
    assert bool((found[slow][:, :2] == 0.25).all() & found[slow][:, 2].isnan().all())
    assert bool((found[~slow] == 0.75).all())
