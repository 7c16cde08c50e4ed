"""Events in cells: likelihoods of every record there can be, draws against them, and what is refused.

False-alarm rates: chi-square and KS tests alarm at p < 1e-4. Seeds are fixed.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from sciinf.simulators.dynamics.driven_events import DrivenEvents

DRIVE = torch.tensor([[0.4, 2.0, 0.9, 3.0, 1.2]])
STEP = 0.5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tired(times, ages):
    """Recovery that slows down with time, and is none at all in the next cell."""
    return torch.where(ages > 0.6, 1 - torch.exp(-(ages - 0.6) * (2 - 0.5 * times)), 0.0)


def short(rows=1):
    return DrivenEvents(DRIVE.expand(rows, -1), tired, STEP, start=1.0)


def every_record():
    """Times and mask of all 32 records of five cells."""
    times, mask = torch.full((32, 5), 3.5, dtype=torch.float64), torch.zeros(32, 5, dtype=torch.bool)
    for row, bits in enumerate(itertools.product((0, 1), repeat=5)):
        cells = [cell for cell, bit in enumerate(bits) if bit]
        times[row, : len(cells)] = 1.0 + STEP * torch.tensor(cells, dtype=torch.float64)
        mask[row, : len(cells)] = True
    return times, mask


def by_hand(bits):
    """The probability of a record, cell by cell."""
    chance, last = 1.0, -math.inf
    for cell, bit in enumerate(bits):
        age = (cell - last) * STEP
        w = 1.0 if math.isinf(age) else 1 - math.exp(-(age - 0.6) * (2 - 0.5 * (1.0 + STEP * cell))) if age > 0.6 else 0
        stays = math.exp(-float(DRIVE[0, cell]) * w * STEP)
        chance *= 1 - stays if bit else stays
        last = cell if bit else last
    return chance


def test_the_likelihood_is_that_by_hand_and_adds_up_to_one():
    found = short(32).log_prob(*every_record()).exp()
    truth = [by_hand(bits) for bits in itertools.product((0, 1), repeat=5)]
    assert found.tolist() == pytest.approx(truth, abs=1e-12)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-12)
    assert min(truth) == 0.0  # two events in neighbouring cells cannot be


def test_draws_have_the_law_of_the_likelihood():
    rows = 20_000
    times, mask = short(rows).draw(generator=generator())
    cells = torch.where(mask, ((times - 1.0) / STEP).round().long(), 5)
    bits = torch.nn.functional.one_hot(cells, 6).sum(1)[:, :5]
    seen = torch.bincount((bits * torch.tensor([16, 8, 4, 2, 1])).sum(1), minlength=32)
    law = short(32).log_prob(*every_record()).exp()
    assert int(seen[law == 0].sum()) == 0
    kept = law > 0
    p = stats.chisquare(seen[kept].double().numpy(), (law[kept] * rows).numpy(), sum_check=False).pvalue
    assert float((law[kept] * rows).min()) > 5
    assert p > 1e-4


def rested(times, ages):
    return 1 - torch.exp(-ages)


def long(rows, rate=0.8, recovery=rested):
    wave = 1 + 0.9 * torch.sin(torch.arange(400) / 9)
    return DrivenEvents((rate * wave).expand(rows, -1), recovery, STEP)


def test_rescaled_intervals_are_uniform_and_those_of_a_wrong_model_are_not():
    right = long(60, recovery=rested)
    times, mask = right.draw(generator=generator())
    place = generator(1)
    u = right.rescaled(times, mask, generator=place)
    assert bool(u.isnan().eq(~mask).all())
    assert stats.kstest(u[mask].numpy(), "uniform").pvalue > 1e-4
    score = torch.special.ndtri(u)
    both = mask[:, 1:]
    together = torch.stack([score[:, :-1][both], score[:, 1:][both]])
    assert abs(float(torch.corrcoef(together)[0, 1])) < 4 / float(both.sum()) ** 0.5
    for wrong in (long(60, rate=1.1, recovery=rested), long(60, recovery=lambda times, ages: torch.ones_like(ages))):
        assert stats.kstest(wrong.rescaled(times, mask, generator=place)[mask].numpy(), "uniform").pvalue < 1e-4


def test_places_within_long_cells_are_needed():
    right = long(60, rate=2.0, recovery=rested)
    times, mask = right.draw(generator=generator())
    assert stats.kstest(right.rescaled(times, mask)[mask].numpy(), "uniform").pvalue < 1e-4
    assert stats.kstest(right.rescaled(times, mask, generator=generator())[mask].numpy(), "uniform").pvalue > 1e-4


def test_a_record_that_ends_with_its_last_event_is_as_likely_as_a_shorter_one():
    times, mask = long(5).draw(generator=generator(), most=6)
    assert mask.sum(1).tolist() == [6] * 5
    found = long(5).log_prob(times, mask, until=times[:, -1])
    for row in range(5):
        cells = round(float(times[row, -1]) / STEP) + 1
        cut = DrivenEvents(long(1).drive[:, :cells], rested, STEP)
        assert float(found[row]) == pytest.approx(float(cut.log_prob(times[row : row + 1], mask[row : row + 1])))
    assert bool((found > long(5).log_prob(times, mask)).all())  # as if nothing had come until the end


def test_the_rate_is_what_the_likelihood_is_made_of():
    times, mask = long(1).draw(generator=generator())
    rate = STEP * long(1).rate(times, mask)[0]
    cells = (times[0] / STEP).round().long()
    empty = torch.ones(400, dtype=torch.bool).index_fill(0, cells, False)
    found = (-torch.expm1(-rate[cells])).log().sum() - rate[empty].sum()
    assert float(long(1).log_prob(times, mask)) == pytest.approx(float(found), abs=1e-9)


def test_one_row_alone_is_as_in_a_batch_and_one_seed_gives_the_same_events():
    times, mask = long(4).draw(generator=generator(3))
    again = long(4).draw(generator=generator(3))
    assert torch.equal(times, again[0])
    assert torch.equal(mask, again[1])
    for row in range(4):
        one = slice(row, row + 1)
        assert float(long(1).log_prob(times[one], mask[one])) == float(long(4).log_prob(times, mask)[row])
    single = long(4).log_prob(times.float(), mask)
    assert torch.equal(single, long(4).log_prob(times, mask))  # rounding does not move an event


def test_the_likelihood_has_gradients():
    times, mask = long(1).draw(generator=generator())
    scale = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    DrivenEvents(scale * long(1).drive, rested, STEP).log_prob(times, mask).sum().backward()
    ahead, behind = (DrivenEvents(s * long(1).drive, rested, STEP).log_prob(times, mask) for s in (1.001, 0.999))
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(float((ahead - behind) / 0.002), rel=1e-4)


def test_no_drive_has_no_events():
    still = DrivenEvents(torch.zeros(3, 50), rested, STEP)
    times, mask = still.draw(generator=generator())
    assert times.shape == (3, 0)
    assert still.log_prob(times, mask).tolist() == [0.0] * 3
    assert still.log_prob(torch.tensor([[1.0]] * 3), torch.ones(3, 1, dtype=torch.bool)).tolist() == [-math.inf] * 3


def test_what_cannot_be_is_refused():
    there = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="finite and not negative"):
        DrivenEvents(-DRIVE, tired, STEP)
    with pytest.raises(ValueError, match="a cell has the length 0"):
        DrivenEvents(DRIVE, tired, 0.0)
    with pytest.raises(ValueError, match="the recovery is 2 somewhere"):
        DrivenEvents(DRIVE, lambda times, ages: torch.full_like(ages, 2.0), STEP).draw(generator=generator())
    with pytest.raises(
        ValueError, match="event 1 of row 0 is at 1.6.*, expected times in order from 1.0 to 3.5, at most"
    ):
        short().log_prob(torch.tensor([[1.5, 1.6]]), there)
    with pytest.raises(ValueError, match="event 1 of row 0 is at 3.5"):
        short().log_prob(torch.tensor([[1.5, 3.5]]), there)
    with pytest.raises(ValueError, match="put the events of a row first"):
        short().log_prob(torch.tensor([[1.5, 2.5]]), torch.tensor([[False, True]]))
    with pytest.raises(ValueError, match="a mask of True and False"):
        short().rescaled(torch.tensor([[1.5, 2.5]]), there.float())
