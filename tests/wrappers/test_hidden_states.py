"""Simulators of state-space models: which filter, what is missing, times of each record, and posteriors that hold."""

from __future__ import annotations

import math

import pytest
import torch
from samplers.hidden import OU, Channel, Level
from samplers.ranked import ranks, worst
from torch import Tensor
from torch import distributions as td

from sciinf import LogUniform, Observable, Prior, Uniform, wrappers
from sciinf.core.simulator import identity
from sciinf.simulators.dynamics.state_space import StateSpace
from sciinf.simulators.wrappers.hidden_states import HiddenStates

TIMES = (0.0, 0.05, 0.1, 2.5, 5.0, 5.05, 5.1, 9.0)
SWAPPED = (0.0, 2.5, 4.95, 5.0, 5.05, 5.1, 8.95, 9.0)  # other gaps, the same span
LONG = tuple(torch.tensor([0.0] + 8 * [0.05, 2.5]).double().cumsum(0).tolist())  # a chain tells less at a time
LONG_SWAPPED = tuple(torch.tensor([0.0] + 8 * [2.5, 0.05]).double().cumsum(0).tolist())
OU_PRIOR = Prior(k=LogUniform(0.2, 2.0), s=LogUniform(0.5, 2.0), r=LogUniform(0.1, 0.5))
CHANNEL_PRIOR = Prior(a=LogUniform(0.05, 4.0), b=LogUniform(0.05, 4.0))


class OUByParticles(StateSpace):
    """The same process, of which a filter may only know how to move and to weigh it."""

    latent = OU.latent

    def initial(self, theta, rows, *, generator):
        return OU().initial(theta, rows, generator=generator)

    def advance(self, theta, state, start, stop, *, generator):
        return OU().advance(theta, state, start, stop, generator=generator)

    def observe(self, theta, state, *, generator):
        return {"y": OU().observe(theta, state, generator=generator)["y"][:, 0]}

    def log_observe(self, theta, state, x):
        return {"y": OU().log_observe(theta, state, {"y": x["y"][:, None]})["y"][:, 0]}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ou(times=TIMES, *, by_particles: bool = False, **options) -> HiddenStates:
    model = OUByParticles() if by_particles else OU()
    return wrappers.state_space(model, OU_PRIOR, times, {"y": Observable((8,), "mV", ("time",))}, **options)


def channel(times=TIMES, **options) -> HiddenStates:
    return wrappers.state_space(
        Channel(0.15), CHANNEL_PRIOR, times, {"current": Observable((len(times),), "pA", ("time",))}, **options
    )


# --- which filter ---------------------------------------------------------------------------------------------------


def test_the_filter_is_the_best_that_the_model_admits() -> None:
    class Blind(OUByParticles):
        log_observe = None  # type: ignore[assignment]

    assert (ou().random_likelihood, channel().random_likelihood) == (False, False)
    assert ou(by_particles=True).random_likelihood
    assert (ou().particles, channel().particles) == (0, 0)
    blind = wrappers.state_space(Blind(), OU_PRIOR, TIMES, {"y": (8,)})
    assert blind.log_likelihood is None
    assert not blind.random_likelihood
    with pytest.raises(TypeError, match="Blind has no log_observe"):
        blind.smooth(OU_PRIOR.sample(2, generator=generator()), {"y": torch.zeros(1, 8)}, generator=generator())


def test_all_filters_agree() -> None:
    """Ratio of 2,000 estimates to the exact likelihood within 4 standard errors: false alarms 1e-4."""
    theta = torch.tensor([[0.7, 1.0, 0.4]])
    x = ou()(theta, generator=generator(3))
    exact = ou().log_likelihood(theta, x)
    found = ou(by_particles=True, particles=32).log_likelihood(theta.expand(2_000, -1), x)
    ratio = (found - exact).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / math.sqrt(2_000)


def test_one_question_has_one_answer_and_rows_have_noise_of_their_own() -> None:
    simulator = ou(by_particles=True, particles=16)
    theta = torch.tensor([[0.7, 1.0, 0.4]]).repeat(50, 1)
    x = simulator(theta[:1], generator=generator(3))
    state = torch.get_rng_state()
    one, two = simulator.log_likelihood(theta, x), simulator.log_likelihood(theta, x)
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(one.unique()) == 50
    # with the same noise, other theta or data that are nearly the same would have nearly the same errors
    near = [(theta * (1 + 1e-5), x), (theta, {"y": x["y"] + 1e-5})]
    others = torch.stack([one, *(simulator.log_likelihood(*asked) for asked in near)])
    assert float(torch.corrcoef(others).triu(1).abs().max()) < 0.6  # of 50 rows: false alarms 1e-5
    weighed, paths = simulator.weighed_paths(theta, x, generator=generator())
    assert torch.equal(weighed, one)
    assert paths.shape == (50, 8, 1)


@pytest.mark.parametrize("make", [ou, channel])
def test_a_row_alone_is_that_row_of_a_batch(make) -> None:
    simulator = make()
    theta = simulator.prior.sample(5, generator=generator(1))
    x = simulator(theta, generator=generator(2))
    whole = simulator.log_likelihood(theta, x)
    each = [(theta[i : i + 1], {name: value[i : i + 1] for name, value in x.items()}) for i in range(5)]
    alone = torch.cat([simulator.log_likelihood(*one) for one in each])
    torch.testing.assert_close(whole, alone, rtol=1e-10, atol=0)


def test_number_of_particles_is_chosen_by_the_spread_of_the_log_likelihood() -> None:
    """At theta and data like those it is chosen at, the sd is at most 1, give or take the error of 40 repeats."""
    simulator = ou(by_particles=True)
    assert simulator.particles in (64, 128, 256)
    assert ou(by_particles=True, particles=7).particles == 7
    theta = simulator.prior.sample(8, generator=generator(5))
    x = {k: v.repeat_interleave(40, 0) for k, v in simulator(theta, generator=generator(6)).items()}
    sd = simulator.log_likelihood(theta.repeat_interleave(40, 0), x).reshape(8, 40).std(-1)
    assert float(sd.median()) < 1.2


# --- missing values, times of each record ---------------------------------------------------------------------------


@pytest.mark.parametrize("by_particles", [False, True])
def test_what_is_missing_counts_nothing(by_particles: bool) -> None:
    simulator = ou(missing=0.6, by_particles=by_particles, particles=200_000 if by_particles else None)
    assert dict(simulator.observables)["y_mask"] == Observable((8,), "", ("time",), "bool")
    theta = torch.tensor([[0.7, 1.0, 0.4]])
    there = torch.tensor([True, True, False, True, False, False, True, True])
    y = torch.where(there, torch.linspace(-1, 1, 8), torch.tensor(99.0))
    kept = wrappers.state_space(
        OU(), OU_PRIOR, [t for t, seen in zip(TIMES, there.tolist(), strict=True) if seen], {"y": (5,)}
    )
    exact = kept.log_likelihood(theta, {"y": y[there][None]})
    found = simulator.log_likelihood(theta, {"y": y[None], "y_mask": there[None]})
    assert abs(float(found - exact)) < (0.03 if by_particles else 1e-9)


def test_each_simulation_has_its_own_share_of_missing_values() -> None:
    simulator = ou(missing=0.6)
    x = simulator(simulator.prior.sample(4_000, generator=generator()), generator=generator(1))
    gone = (~x["y_mask"]).float()
    assert abs(float(gone.mean()) - 0.3) < 0.01
    assert float(gone.mean(-1).var()) > 1.5 * 0.3 * 0.7 / 8  # more than if every value had the same chance
    assert bool((x["y"][~x["y_mask"]] == 0).all())


def test_records_with_times_of_their_own() -> None:
    def drawn(rows: int, generator: torch.Generator) -> Tensor:
        return (9 * torch.rand(rows, 8, generator=generator)).sort(-1).values

    simulator = ou(drawn, begin=-1.0)
    theta = simulator.prior.sample(3, generator=generator())
    x = simulator(theta, generator=generator(1))
    assert simulator.observables["y_times"] == Observable((8,), "", ("time",), "float64")
    whole = simulator.log_likelihood(theta, x)
    for row in range(3):
        fixed = ou(x["y_times"][row], begin=-1.0)
        found = fixed.log_likelihood(theta[row : row + 1], {"y": x["y"][row : row + 1]})
        torch.testing.assert_close(found, whole[row : row + 1], rtol=1e-9, atol=0)
    assert simulator.smooth(theta, x, generator=generator()).shape == (3, 8, 1)
    particles = ou(drawn, begin=-1.0, by_particles=True, particles=200_000)
    torch.testing.assert_close(particles.log_likelihood(theta, x), whole, rtol=0, atol=0.1)
    with pytest.raises(ValueError, match="times go backwards"):
        simulator.log_likelihood(theta, {**x, "y_times": x["y_times"].flip(-1)})
    with pytest.raises(ValueError, match="times were drawn of shape .3, 4., expected .3, 8."):
        ou(lambda rows, generator: torch.zeros(rows, 4))(theta, generator=generator())


def test_paths_as_observables() -> None:
    simulator = ou(missing=0.2)
    both = simulator.with_paths()
    theta = simulator.prior.sample(6, generator=generator())
    x = both(theta, generator=generator(1))
    assert list(both.observables) == ["z", "y", "y_mask"] == list(x)
    assert both.observables["z"] == Observable((8,), "mV", ("time",))
    assert both.log_likelihood is None
    data = simulator(theta, generator=generator(1))
    assert all(torch.equal(x[name], data[name]) for name in data)


def test_settings_tell_experiments_apart() -> None:
    assert identity(ou()) == identity(ou(particles=9)) != identity(ou(SWAPPED))
    assert identity(ou()) != identity(ou(begin=-1.0))


# --- posteriors of theta and path -----------------------------------------------------------------------------------


KINDS = {
    "OU": (ou(), ou(SWAPPED)),
    "particles": (ou(by_particles=True, particles=32), ou(SWAPPED, by_particles=True, particles=32)),
    "chain": (channel(LONG), channel(LONG_SWAPPED)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_theta_and_path_are_calibrated(kind: str) -> None:
    """Ranks of 250 truths among 250 weighted draws; false alarms 1e-3 each."""
    simulator, _ = KINDS[kind]
    assert worst(ranks(simulator, simulator, 250, 250)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_with_swapped_times_is_not(kind: str) -> None:
    assert worst(ranks(*KINDS[kind], 250, 250)) < 1e-3


# --- what is said of mistakes ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_particles_that_die_out_are_told_with_the_time() -> None:
    class Narrow(Level):
        def log_observe(self, theta, state, x):
            return {"volume": torch.where((x["volume"] - state[:, 0]).abs() < 900, 0.0, -math.inf)}

    prior = Prior(sd_level=Uniform(1.0, 2.0), sd_noise=Uniform(1.0, 2.0))
    simulator = wrappers.state_space(Narrow(), prior, [0.0, 1.0, 2.5], {"volume": (3,)}, particles=64)
    theta = prior.sample(4, generator=generator())
    good, bad = torch.full((1, 3), 1000.0), torch.tensor([[1000.0, 1000.0, 1e6]])
    assert bool(simulator.log_likelihood(theta, {"volume": good}).isfinite().all())
    mixed = torch.cat([good, bad, good, good])
    assert (simulator.log_likelihood(theta, {"volume": mixed}) == -math.inf).tolist() == [False, True, False, False]
    with pytest.warns(
        UserWarning, match="all 64 particles of each of 4 parameters died out, first at time 2.5 .number 2"
    ):
        found = simulator.log_likelihood(theta, {"volume": bad})
    assert bool((found == -math.inf).all())
    with pytest.raises(ValueError, match="no path for row 1: all .* died out, first at time 2.5 .*heavier tails"):
        simulator.smooth(theta, {"volume": mixed}, generator=generator())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ou((*TIMES[:-1], 1.0)), "times go backwards: 5.1 is followed by 1"),
        (lambda: ou((*TIMES[:-1], math.nan)), "a time is not finite"),
        (lambda: ou(begin=1.0), "begins at 1, after the first time 0"),
        (lambda: ou(TIMES[:5]), "'y' has shape .8,., and there are 5 times"),
        (lambda: ou(missing=1.0), "`missing` is a share"),
        (lambda: ou(particles=1), "particles"),
        (lambda: wrappers.state_space(OU(), OU_PRIOR, TIMES, {}), "its first axis"),
        (
            lambda: wrappers.state_space(OU(), OU_PRIOR, TIMES, {"v": (8,)}),
            "OU observes .'y'., and the observables are 'v'",
        ),
        (lambda: wrappers.state_space(OU(), OU_PRIOR, TIMES, {"y": (8, 2)}), "OU observes .3, 1. as 'y' at one time"),
        (lambda: wrappers.state_space(OU, OU_PRIOR, TIMES, {"y": (8,)}), r"the class OU; call it|hidden\.OU"),
        (lambda: wrappers.state_space(OU(), CHANNEL_PRIOR, TIMES, {"y": (8,)}), "asks for a parameter 's'.*'a', 'b'"),
    ],
)
def test_mistakes_are_named(make, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        make()


def test_a_state_of_another_width_is_named() -> None:
    class Wide(Level):
        latent = {"level": "", "slope": ""}

    with pytest.raises(ValueError, match=r"Wide.initial gave \(3, 1\) for 3 rows; `latent` names \['level', 'slope'\]"):
        wrappers.state_space(
            Wide(), Prior(sd_level=td.HalfNormal(1.0), sd_noise=td.HalfNormal(1.0)), [0.0], {"volume": (1,)}
        )


def test_data_without_their_mask_are_refused() -> None:
    simulator = ou(missing=0.3)
    with pytest.raises(ValueError, match="'y_mask'. are missing"):
        simulator.log_likelihood(simulator.prior.sample(2, generator=generator()), {"y": torch.zeros(1, 8)})
