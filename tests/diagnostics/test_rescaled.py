"""Events that come when the model says, and others: no more alarms than are told, and faults that are seen."""

from __future__ import annotations

import pytest
import torch

from sciinf.core import Observable, Prior, Simulator
from sciinf.core.named_laws import Gamma
from sciinf.diagnostics.rescaled import check_rescaled, departure, neighbours

EVENTS, PAIRS = 80, 400
SHAPE, RATE = 4.0, 2.0


class Clicks(Simulator):
    """80 intervals ~ Exponential(rate), rate ~ Gamma(4, 2)."""

    name = "clicks"
    prior = Prior(rate=Gamma(SHAPE, RATE))
    observables = {"intervals": Observable((EVENTS,))}

    def __call__(self, theta, *, generator):
        u = torch.rand(len(theta), EVENTS, generator=generator, dtype=torch.float64)
        return {"intervals": (-torch.log1p(-u) / theta).float()}

    def rescaled(self, theta, x):
        return -torch.expm1(-theta.double() * x["intervals"].double())


def found(intervals, seed=0, simulator=None):
    """The finding with draws of the exact posterior."""
    generator = torch.Generator().manual_seed(seed)
    shape, rate = SHAPE + EVENTS, RATE + float(intervals.sum())
    sums = -torch.rand(PAIRS, round(shape), generator=generator, dtype=torch.float64).log().sum(1)
    theta = (sums / rate)[:, None]
    simulator = simulator or Clicks()
    return check_rescaled(
        simulator, {"intervals": intervals.float()[None]}, theta, Clicks()(theta, generator=generator)
    )


def exponential(seed):
    generator = torch.Generator().manual_seed(seed)
    return -torch.log1p(-torch.rand(EVENTS, generator=generator, dtype=torch.float64))


@pytest.mark.slow
def test_false_alarms_are_no_more_often_than_they_say():
    """Of 300 data sets of the model at most 1 % are alarms and 5 % cautions, but for chance (7, 23: 2 sd beyond)."""
    rates = -torch.rand(300, 4, generator=torch.Generator().manual_seed(1)).log().sum(1) / RATE
    levels = [found(exponential(seed) / rate, seed)[0].level for seed, rate in enumerate(rates.tolist())]
    assert levels.count("alarm") <= 7
    assert levels.count("caution") + levels.count("alarm") <= 23


def wandering():
    return exponential(2) * torch.exp(1.5 * torch.sin(torch.arange(EVENTS) / 10))


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        (0.5 + 0.2 * exponential(2), "shorter than those of which the model says"),  # a refractory time
        (wandering(), "neighbouring intervals between events"),
    ],
    ids=["refractory", "wandering"],
)
def test_what_the_rate_lacks_is_told(intervals, words):
    (check,) = found(intervals)
    assert check.name == "intervals"
    assert check.level == "alarm"
    assert words in check.words


def test_the_fit_to_the_same_data_is_allowed_for():
    """By its table, the law of intervals has a p-value that is hardly ever small; among simulations it is no larger."""
    times = [exponential(seed) for seed in range(200)]
    u = torch.stack([1 - torch.exp(-(EVENTS / float(t.sum())) * t) for t in times])  # at the likeliest rate
    assert float((departure(u).abs() > 1.36).double().mean()) < 0.01  # 5 % by the table


def test_neighbours_are_told_apart_from_the_law():
    u = torch.rand(200, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(neighbours(u).std()) == pytest.approx(1.0, abs=0.2)
    ordered = u[:1].sort(1).values
    assert float(neighbours(ordered)) > 15
    assert float(departure(ordered)) == pytest.approx(float(departure(u[:1])))
    gone = torch.cat([u, torch.full((200, 7), torch.nan, dtype=torch.float64)], 1)
    assert torch.allclose(departure(gone), departure(u))
    assert torch.allclose(neighbours(gone), neighbours(u))


def test_simulators_without_it_are_not_asked_and_few_intervals_are_not_judged():
    class Silent(Simulator):
        name, prior, observables = "silent", Clicks.prior, Clicks.observables

        def __call__(self, theta, *, generator):
            return Clicks()(theta, generator=generator)

    assert found(exponential(0), simulator=Silent()) == ()

    class Rare(Simulator):
        name, prior, observables = "rare", Clicks.prior, Clicks.observables

        def __call__(self, theta, *, generator):
            return Clicks()(theta, generator=generator)

        def rescaled(self, theta, x):
            return Clicks().rescaled(theta, x)[:, :3]

    assert found(exponential(0), simulator=Rare())[0].level == "unknown"

    class Wrong(Simulator):
        name, prior, observables = "wrong", Clicks.prior, Clicks.observables

        def __call__(self, theta, *, generator):
            return Clicks()(theta, generator=generator)

        def rescaled(self, theta, x):
            return 2 * Clicks().rescaled(theta, x)

    with pytest.raises(ValueError, match="numbers outside 0 to 1"):
        found(exponential(0), simulator=Wrong())
