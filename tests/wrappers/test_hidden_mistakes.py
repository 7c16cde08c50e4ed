"""What users of hidden states get wrong: each is told of, or is right."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from astropy import units
from samplers.hidden import OU, Channel
from torch import distributions as td

from sciinf import LogUniform, Observable, Prior, wrappers
from sciinf.diagnostics.likely import check_likelihood
from sciinf.simulators.dynamics.finite_states import FiniteStates
from sciinf.simulators.dynamics.state_space import StateSpace
from sciinf.simulators.wrappers.hidden_states import HiddenStates

PRIOR = Prior(s=LogUniform(0.5, 2.0))
OU_PRIOR = Prior(k=LogUniform(0.5, 2.0), s=LogUniform(0.5, 2.0), r=LogUniform(0.1, 0.5))
TIMES = (0.0, 1.0, 2.0, 3.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Walk(StateSpace):
    """A place that moves by steps of sd s, seen with noise of sd 0.5; or what a slip of the pen makes of it."""

    latent = {"place": "m"}

    def __init__(self, slip: str = "") -> None:
        self.slip = slip

    def initial(self, theta, rows, *, generator):
        return theta["s"].new_zeros(rows, 1)

    def advance(self, theta, state, start, stop, *, generator):
        s = theta["s"] if self.slip == "advance" else theta["s"][:, None]
        return state + s * torch.randn(state.shape, generator=generator)

    def observe(self, theta, state, *, generator):
        noise = 0.5 * torch.randn(len(state), generator=generator)
        return {"y": state + noise if self.slip == "observe" else (state[:, 0] + noise)}

    def log_observe(self, theta, state, x):
        middle = state if self.slip == "log_observe" else state[:, 0]
        return {"y": td.Normal(middle, 0.5).log_prob(x["y"])}


def walk(slip: str = "", **options) -> HiddenStates:
    told = {"particles": 64, **options}
    return wrappers.state_space(Walk(slip), PRIOR, TIMES, {"y": Observable((4,), "m", ("time",))}, **told)


def test_a_density_that_broadcasts_is_refused() -> None:
    x = {"y": torch.zeros(1, 4)}
    with pytest.raises(ValueError, match=r"log_observe gave .* for 'y'; it is to give one log density for each row"):
        walk("log_observe").log_likelihood(torch.ones(3, 1), x)


def test_a_step_that_broadcasts_is_refused() -> None:
    """Each row would move by the first row's parameter, without a word."""
    with pytest.raises(ValueError, match=r'Walk.advance gave \(5, 5\) for 5 rows.*theta\["name"\]\[:, None\]'):
        walk("advance", begin=-1.0)(torch.ones(5, 1), generator=generator())


def test_an_observation_that_broadcasts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"observes \(3, 3\) as 'y' at one time, of 3 rows"):
        walk("observe")


class Positive(Walk):
    """Seen with a factor: a density that refuses 0, which stands where a value is missing."""

    def observe(self, theta, state, *, generator):
        return {"y": (state[:, 0] + 0.2 * torch.randn(len(state), generator=generator)).exp()}

    def log_observe(self, theta, state, x):
        return {"y": td.LogNormal(state[:, 0], 0.2, validate_args=True).log_prob(x["y"])}


def test_what_stands_for_missing_values_is_never_asked_about() -> None:
    """A value that was seen stands there, and does not count: whatever x holds where it is missing."""
    model = wrappers.state_space(Positive(), PRIOR, TIMES, {"y": Observable((4,), "m", ("time",))}, missing=0.5)
    theta = PRIOR.sample(5, generator=generator())
    there = torch.tensor([[True, False, True, True]])
    x = {"y": torch.tensor([[1.0, 0.0, 2.0, 1.5]]), "y_mask": there}
    found = model.log_likelihood(theta, x)
    assert bool(found.isfinite().all())
    assert model.particles >= 64  # chosen on data of the prior, in which values are missing, too


def test_a_chain_counts_no_state_that_cannot_be() -> None:
    """45 sds from the only state it can be in, and near another: the likelihood is small, and not 0."""

    class Certain(FiniteStates):
        latent, states = {"state": ""}, ("a", "b")

        def start(self, theta):
            return theta["a"].new_tensor([[1.0, 0.0]])

        def rates(self, theta):
            none = torch.zeros_like(theta["a"])
            return torch.stack([torch.stack([-theta["a"], theta["a"]], -1), torch.stack([none, none], -1)], -2)

        def observe(self, theta, state, *, generator):
            return {"y": state[:, 0] + 0.02 * torch.randn(len(state), generator=generator)}

        def log_observe(self, theta, state, x):
            return {"y": td.Normal(state[:, 0], 0.02).log_prob(x["y"])}

    model = wrappers.state_space(
        Certain(), Prior(a=LogUniform(0.1, 1.0)), (0.0, 1.0), {"y": Observable((2,), "", ("time",))}
    )
    theta, x = torch.tensor([[0.5]]), {"y": torch.tensor([[0.9, 1.0]])}
    first = td.Normal(0.0, 0.02).log_prob(torch.tensor(0.9).double())
    second = math.log(-math.expm1(-0.5)) + td.Normal(0.0, 0.02).log_prob(torch.tensor(0.0).double())
    assert float(model.log_likelihood(theta, x)[0]) == pytest.approx(float(first + second), abs=1e-4)


def test_data_that_cannot_be_have_no_path() -> None:
    class Down(Channel):
        """It never opens again."""

        def start(self, theta):
            return torch.eye(len(self.states), dtype=theta["a"].dtype)[:1]

        def log_observe(self, theta, state, x):
            return {"current": torch.full((len(state),), -math.inf, dtype=torch.float64)}

    prior = Prior(a=LogUniform(0.1, 1.0), b=LogUniform(0.1, 1.0))
    model = wrappers.state_space(Down(0.15), prior, (0.0, 1.0), {"current": Observable((2,), "pA", ("time",))})
    with pytest.raises(ValueError, match="there is no path for row 0: the model cannot give these data"):
        model.smooth(torch.full((3, 2), 0.5), {"current": torch.zeros(1, 2)}, generator=generator())


def test_data_in_float64_keep_their_digits() -> None:
    prior = Prior(k=LogUniform(0.2, 2.0), s=LogUniform(0.5, 2.0), r=LogUniform(0.1, 0.5))
    seen = {"y": Observable((2,), "mV", ("time",), dtype="float64")}
    model, theta = wrappers.state_space(OU(), prior, (0.0, 1.0), seen), torch.tensor([[1.0, 1.0, 0.2]])
    near, far = (
        model.log_likelihood(theta, {"y": torch.tensor([[0.1 + e, 0.2]], dtype=torch.float64)}) for e in (0.0, 1e-9)
    )
    assert float(near - far) != 0


def test_records_take_times_with_units_where_the_simulator_has_one() -> None:
    def drawn(rows, generator):
        return torch.rand(rows, 4, generator=generator).cumsum(-1)

    seen = {"y": Observable((4,), "m", ("time",))}
    days = wrappers.state_space(Walk(), PRIOR, drawn, seen, particles=64, missing=0.5, time_unit="d")
    record = days.record([12.0, 24.0] * units.hour, {"y": [100.0, np.nan] * units.cm})
    assert record["y_times"].tolist() == [0.5, 1.0, 1.0, 1.0]
    assert record["y"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert days.observables["y_times"].unit == "d"
    plain = wrappers.state_space(Walk(), PRIOR, drawn, seen, particles=64, missing=0.5)
    with pytest.raises(ValueError, match="times are given in 'h', and the simulator does not say its own unit"):
        plain.record([1.0] * units.hour, {"y": [1.0]})
    with pytest.raises(ValueError, match="'y' has a value that is infinite"):
        days.record([1.0], {"y": [np.inf]})


@pytest.mark.slow
def test_the_likelihood_check_compares_what_both_have() -> None:
    """With other values missing, log densities would be of more or fewer numbers, and differ by that alone.

    Of 20 records with 6 of 30 values, beside simulations with 15 and more, 1 is expected below 0.05, and 6 or more in
    one of 3,000 runs; compared as they are all 20 would be. In records without a gap, noise of sd 2 for 0.5 is seen.
    """
    seen, theta = {"y": Observable((30,), "m", ("time",))}, torch.ones(400, 1)
    model = wrappers.state_space(Walk(), PRIOR, range(30), seen, particles=64, missing=0.5)
    whole = wrappers.state_space(Walk(), PRIOR, range(30), seen, particles=64)
    low, wrong = 0, 0
    for seed in range(20):
        simulated = model(theta, generator=generator(seed))
        x = {**whole(theta[:1], generator=generator(1_000 + seed)), "y_mask": torch.arange(30)[None] % 5 == 0}
        (found,) = check_likelihood(model, x, theta, simulated)
        low += found.level != "good"
        noise = 2.0 * torch.randn(1, 30, generator=generator(seed))
        far = {"y": x["y"] + noise, "y_mask": torch.ones(1, 30, dtype=torch.bool)}
        (found,) = check_likelihood(model, far, theta, simulated)
        wrong += found.level != "good"
    assert low <= 5
    assert wrong >= 18


def test_an_unknown_unit_of_a_hidden_quantity_is_refused() -> None:
    """Where the simulator is built, not when an answer is drawn."""

    class Furlongs(Walk):
        latent = {"place": "furlongz"}

    with pytest.raises(ValueError, match=r"the unit 'furlongz' of the hidden 'place' is not one astropy knows"):
        wrappers.state_space(Furlongs(), PRIOR, TIMES, {"y": Observable((4,), "m", ("time",))})


def linear() -> HiddenStates:
    return wrappers.state_space(OU(), OU_PRIOR, TIMES, {"y": Observable((4,), "", ("time",))})


@pytest.mark.parametrize("make", [walk, linear])
def test_no_rows_have_no_paths(make) -> None:
    model = make()
    none = torch.empty(0, len(model.prior))
    width = len(model.model.latent)
    for rows in (0, 1):
        x = {"y": torch.zeros(rows, 4)}
        weights, paths = model.weighed_paths(none, x, generator=generator())
        assert weights.shape == (0,)
        assert paths.shape == model.smooth(none, x, generator=generator()).shape == (0, 4, width)
        assert model.log_likelihood(none, x).shape == (0,)


def test_no_rows_of_a_model_without_a_density_are_refused_as_others_are() -> None:
    class Blind(Walk):
        log_observe = None

    model = wrappers.state_space(Blind(), PRIOR, TIMES, {"y": Observable((4,), "m", ("time",))})
    with pytest.raises(TypeError, match="has no log_observe"):
        model.smooth(torch.empty(0, 1), {"y": torch.zeros(1, 4)}, generator=generator())
