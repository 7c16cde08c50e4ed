"""What a learned law of hidden paths is asked about, and cannot answer: said, and never answered with a number."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from processes.kinds import PROCESSES, Drifting

from sciinf.core import Batch, Observable, Prior
from sciinf.emulators import Bernoulli, Categorical, LatentDynamics, Poisson
from sciinf.emulators.processes import Fractional, NeuralSDE


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def asked():
    simulator = Drifting()
    theta = simulator.prior.sample(3, generator=generator())
    x = simulator(theta, generator=generator(1))
    learned = LatentDynamics(simulator.prior, simulator.observables, PROCESSES["still"](), given=("u",), width=4)
    return learned, theta, x


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda theta, x: (theta, {**x, "x_times": x["x_times"].flip(1)}), "goes backwards"),
        (lambda theta, x: (theta, {**x, "x_times": x["x_times"][:, :5]}), "'x_times' has 5 times.*'x' has 8 times"),
        (lambda theta, x: (theta, {**x, "u": x["u"][:, :7]}), "'u' has 7 times"),
        (lambda theta, x: (theta * math.nan, x), "not finite.*rate"),
        (lambda theta, x: (theta, {**x, "x": x["x"] * math.nan}), "'x' is not finite"),
    ],
)
def test_rows_that_make_no_sense_have_no_bound(broken, words):
    learned, theta, x = asked()
    for ask in (learned.bound, learned.latent, learned.complete):
        with pytest.raises(ValueError, match=words):
            ask(*broken(theta, x), generator=generator())


@pytest.mark.parametrize(
    ("emission", "kind", "wrong"),
    [(Categorical(4), "int64", 9), (Poisson(), "int64", -3), (Bernoulli(), "int64", 2)],
)
def test_values_outside_a_law_are_impossible(emission, kind, wrong):
    """Not certain: a label that does not exist has the density 0, and where it is hidden it has no say."""
    observables = {"x": Observable((6,), dtype=kind, dims=("time",))}
    learned = LatentDynamics(Prior.none(), observables, PROCESSES["still"](), emission=emission, width=4)
    theta, right = torch.zeros(2, 0), torch.ones(2, 6, dtype=torch.int64)
    assert bool(learned.bound(theta, {"x": right}, generator=generator()).isfinite().all())
    broken = right.clone()
    broken[0, 2] = wrong
    found = learned.bound(theta, {"x": broken}, generator=generator())
    assert float(found[0]) == -math.inf
    assert math.isfinite(float(found[1]))
    masked = {"x": broken, "x_mask": broken != wrong}
    assert bool(learned.bound(theta, masked, generator=generator()).isfinite().all())


def test_rows_beyond_the_horizon_of_a_fractional_motion_are_told_of():
    observables = {"x": Observable((6,), dims=("time",))}
    made = NeuralSDE(1, noise=Fractional(5.0, 0.3), steps=1, width=4)
    learned = LatentDynamics(Prior.none(), observables, made, width=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned.latent(torch.zeros(2, 0), {"x": torch.zeros(2, 6)}, generator=generator())
    with pytest.warns(UserWarning, match=r"spans 11 mean steps.*Fractional\(horizon=11\)"):
        learned.latent(torch.zeros(2, 0), {"x": torch.zeros(2, 12)}, generator=generator())


def test_known_numbers_beyond_all_training_rows_are_told():
    """A dose larger than any, say: a network answers all the same, and nothing in the answer shows it."""
    learned, theta, x = asked()
    learned.standardise(lambda: iter([Batch(theta, x)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learned.complete(theta, x, generator=generator())
    u = x["u"].clone()
    u[1, 3] = 2 * u.max() + 1
    with pytest.warns(UserWarning, match=r"'u' lies beyond all training rows .* at 1 of 24 places"):
        learned.complete(theta, {**x, "u": u}, generator=generator())
    with pytest.warns(UserWarning, match="'u' lies beyond"):
        learned.draw(theta, {"u": u, "x_times": x["x_times"]}, generator=generator())
    before = {name: value for name, value in learned.state_dict().items() if "_ends" not in name}
    again, _, _ = asked()  # a fit of before these ends were kept
    again.load_state_dict(before)
    assert bool(again.inputs.along_ends.isinf().all())
