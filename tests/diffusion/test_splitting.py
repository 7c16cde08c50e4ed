"""Rare events of laws that are known: how probable they are, and what they are like."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from sciinf.networks.diffusion.events import Event
from sciinf.networks.diffusion.splitting import split

LIKE = torch.zeros(6)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def first(x):
    return x[:, 0]


@pytest.mark.parametrize("sds", [0.0, 2.0, 5.0])
def test_a_normal_number_is_as_rarely_high_as_it_is(sds):
    """Of ten estimates the mean is off by three of its standard errors once in 370; 5 sds are P = 3e-7.

    With 50 draws in a group a P of 3e-7 comes out a quarter too high, for which .3 is allowed.
    """
    exact, found = math.log(0.5 * math.erfc(sds / math.sqrt(2))), []
    for seed in range(10):
        found.append(split(lambda z: z, Event(first, sds), 400, LIKE, generator=generator(seed)))
        assert bool((found[-1].x[:, 0] > sds).all())
    off = torch.tensor([one.log_evidence - exact for one in found])
    errors = torch.tensor([one.error for one in found])
    assert abs(float(off.mean())) < 3 * float(errors.square().mean().sqrt()) / 10**0.5 + 0.3 * (sds == 5)
    assert 0.4 < float(off.std() / errors.square().mean().sqrt()) < 2.0


@pytest.mark.slow
def test_groups_of_ten_draws_are_right_on_average():
    """P of 150 estimates, over its own: three standard errors are .08; the mean of logarithms would be a third low."""
    exact, found = math.log(0.5 * math.erfc(1.5 / math.sqrt(2))), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(150):
            run = split(lambda z: z, Event(first, 1.5), 80, LIKE, generator=generator(seed))
            found.append(math.exp(run.log_evidence - exact))
    assert sum(found) / 150 == pytest.approx(1.0, abs=0.08)


def test_draws_of_an_event_follow_its_law():
    """Above 4 sds a normal number is 4.2256 on average, with an sd of 0.2177; the others do not hear of it."""
    found = split(lambda z: z, Event(first, 4.0), 4_000, LIKE, generator=generator(1))
    assert float(found.log_weight.exp().sum()) == pytest.approx(1.0)
    assert float(found.x[:, 0].mean()) == pytest.approx(4.2256, abs=0.02)
    assert float(found.x[:, 0].std()) == pytest.approx(0.2177, abs=0.03)
    assert float(found.x[:, 1:].mean(0).abs().max()) < 0.15
    assert torch.allclose(found.x[:, 1:].std(0), torch.ones(5), atol=0.1)


def test_that_one_of_many_is_high():
    """The largest of sixty: there are sixty ways, and one slope sees one of them."""
    exact = math.log(1 - (1 - 0.5 * math.erfc(4 / math.sqrt(2))) ** 60)
    event = Event(lambda x: x.amax(1), 4.0)
    found = split(lambda z: z, event, 2_000, torch.zeros(60), generator=generator(2))
    assert found.log_evidence == pytest.approx(exact, abs=0.3)
    assert found.least > 0.7


def test_an_event_that_is_not_rare_is_counted():
    found = split(torch.sigmoid, Event(first, 0.5), 4_000, LIKE, generator=generator(3))
    assert found.log_evidence == pytest.approx(math.log(0.5), abs=4 * found.error)
    assert found.error == pytest.approx(0.016, abs=0.01)
    assert found.x.shape == (4_000, 6)


def parts(x):
    """Far off on one side, and seldom on the other, where few draws begin."""
    return torch.where(x[:, 0] > 2.0, 10 + x[:, 0], -x[:, 0])


def test_draws_count_by_the_p_of_their_group():
    """Groups that see the near part of an event have all of the weight, of which the far one has 1.5e-4.

    One question in seven has a group that finds the far part alone, and says that P is not known.
    """
    exact, said = math.log(0.5 * math.erfc(2 / math.sqrt(2)) + 0.5 * math.erfc(4.5 / math.sqrt(2))), 0
    for seed in range(24):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = split(lambda z: z, Event(parts, 4.5), 80, LIKE, generator=generator(seed))
        assert float((found.x[:, 0] < 0).float() @ found.log_weight.exp()) < 0.01
        assert found.log_evidence == pytest.approx(exact, abs=4 * found.error)
        said += len(told)
    assert said >= 1


def test_numbers_that_many_draws_share():
    """Counts: a quarter of the draws and more have the largest; and the logarithm of none, for most."""
    exact = math.log(0.5 * math.erfc(3 / math.sqrt(2)))
    counts = split(
        lambda z: z, Event(lambda x: (x[:, 0] > 0.5).float() + (x[:, 0] > 3), 1.5), 8_000, LIKE, generator=generator()
    )
    assert counts.log_evidence == pytest.approx(exact, abs=4 * counts.error)
    assert counts.error < 0.4
    rare = Event(lambda x: torch.where(x[:, 0] > 0.7, x[:, 0], -math.inf), 3.0)
    found = split(lambda z: z, rare, 800, LIKE, generator=generator(1))
    assert found.log_evidence == pytest.approx(exact, abs=4 * found.error)


def test_what_is_impossible_or_no_number_is_refused():
    with pytest.raises(ValueError, match=r"come to 1 and no further, and the event is above 1.5"):
        split(torch.sigmoid, Event(lambda x: x[:, 0].round(), 1.5), 400, LIKE, generator=generator())
    with pytest.raises(ValueError, match=r"come to 1 and no further"):  # for each level is a little nearer, for ever
        split(lambda z: z, Event(lambda x: -1 / (1 + x[:, 0].double().exp()) + 1, 1.0), 80, LIKE, generator=generator())
    with pytest.raises(ValueError, match="n"):
        split(torch.sigmoid, Event(first, 0.5), 30, LIKE, generator=generator())
    with pytest.raises(FloatingPointError, match=r"NaN for \d+ of 400 draws"):
        split(torch.log, Event(first, 0.5), 400, LIKE, generator=generator())
    with pytest.raises(ValueError, match=r"\(400,\), and got \(400, 1\)"):
        split(torch.sigmoid, Event(lambda x: x[:, :1], 0.5), 400, LIKE, generator=generator())
