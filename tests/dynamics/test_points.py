"""Events in time: likelihoods against direct sums, draws against them, and what is refused.

False-alarm rates: KS tests alarm at p < 1e-4, means at 4 standard errors (6e-5). Seeds are fixed.
"""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from sciinf.simulators.dynamics.points import Hawkes, PoissonProcess


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def full(value, rows):
    return torch.full((rows,), value, dtype=torch.float64)


def hawkes(rows, base=0.6, branching=0.7, decay=2.0):
    return Hawkes(full(base, rows), full(branching, rows), full(decay, rows))


def tides(rows, **known):
    return PoissonProcess(lambda t: 3 + 3 * torch.sin(2 * t), full(6.0, rows), **known)


def intervals(process, times, mask, start):
    """Of the compensator, those that end with an event."""
    at = process.compensator(times, mask, start)
    return torch.diff(at, prepend=torch.zeros_like(at[:, :1]))[mask].numpy()


def direct(events, stop, base, branching, decay):
    """The log likelihood of a Hawkes process as a double sum."""
    logs = [
        math.log(base + sum(branching * decay * math.exp(-decay * (t - s)) for s in events[:i]))
        for i, t in enumerate(events)
    ]
    return sum(logs) - base * stop - sum(branching * (1 - math.exp(-decay * (stop - t))) for t in events)


def test_the_likelihood_is_the_direct_sum_in_every_row():
    process = hawkes(5)
    times, mask = process.draw(0.0, 20.0, generator=generator())
    assert len({int(n) for n in mask.sum(-1)}) > 1
    found = process.log_prob(times, mask, 0.0, 20.0)
    for row in range(5):
        events = times[row][mask[row]].tolist()
        assert float(found[row]) == pytest.approx(direct(events, 20.0, 0.6, 0.7, 2.0), abs=1e-10)
        alone = hawkes(1).log_prob(times[row : row + 1], mask[row : row + 1], 0.0, 20.0)
        assert float(alone) == pytest.approx(float(found[row]), abs=1e-10)
    none = hawkes(2).log_prob(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), 0.0, 20.0)
    assert none.tolist() == pytest.approx([-12.0, -12.0])


def test_rescaled_times_are_exponential_and_those_of_a_wrong_model_are_not():
    right = hawkes(40)
    times, mask = right.draw(0.0, 60.0, generator=generator())
    assert stats.kstest(intervals(right, times, mask, 0.0), "expon").pvalue > 1e-4
    for wrong in (hawkes(40, decay=1.0), hawkes(40, branching=0.5), hawkes(40, base=2.0, branching=0.0)):
        assert stats.kstest(intervals(wrong, times, mask, 0.0), "expon").pvalue < 1e-4


def test_there_are_as_many_events_as_the_long_run_says():
    rows = 400
    _, mask = hawkes(rows).draw(0.0, 100.0, generator=generator())
    count = mask.sum(-1).double()
    # mu T / (1 - eta) less what is missing since nothing was before 0: mu eta / ((1 - eta)^2 beta)
    mean = 0.6 * (100 / 0.3 - 0.7 / (0.3**2 * 2.0))
    assert abs(float(count.mean()) - mean) < 4 * float(count.std()) / math.sqrt(rows)


def test_the_likelihood_tells_the_parameters_apart():
    times, mask = hawkes(1).draw(0.0, 2_000.0, generator=generator())
    grid = torch.linspace(0.4, 0.95, 12, dtype=torch.float64)
    process = Hawkes(full(0.6, 12), grid, full(2.0, 12))
    found = process.log_prob(times.expand(12, -1), mask.expand(12, -1), 0.0, 2_000.0)
    assert abs(float(grid[found.argmax()]) - 0.7) < 0.06


def test_poisson_events_are_thinned_from_their_bound():
    rows = 300
    times, mask = tides(rows).draw(1.0, 9.0, generator=generator())
    whole = 3 * 8 + 1.5 * (math.cos(2.0) - math.cos(18.0))
    count = mask.sum(-1).double()
    assert abs(float(count.mean()) - whole) < 4 * math.sqrt(whole / rows)
    assert stats.kstest(intervals(tides(rows), times, mask, 1.0), "expon").pvalue > 1e-4
    flat = PoissonProcess(lambda t: 3 + 0 * t, full(3.0, rows))
    assert stats.kstest(intervals(flat, times, mask, 1.0), "expon").pvalue < 1e-4
    assert bool((times[:, 1:] >= times[:, :-1]).all())


def test_the_likelihood_of_a_poisson_process_by_quadrature_is_that_by_the_integral():
    def known(start, times):
        return 3 * (times - start) + 1.5 * (math.cos(2 * start) - torch.cos(2 * times))

    times, mask = tides(3).draw(1.0, 9.0, generator=generator())
    by_rule, by_integral = (p.log_prob(times, mask, 1.0, 9.0) for p in (tides(3), tides(3, integral=known)))
    assert torch.allclose(by_rule, by_integral, atol=1e-10)
    events = times[0][mask[0]]
    truth = float((3 + 3 * torch.sin(2 * events)).log().sum()) - 3 * 8 - 1.5 * (math.cos(2.0) - math.cos(18.0))
    assert float(by_integral[0]) == pytest.approx(truth, abs=1e-10)


def test_one_seed_gives_the_same_events():
    for process in (hawkes(4), tides(4)):
        one, other = (process.draw(0.0, 10.0, generator=generator(5)) for _ in range(2))
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_a_rate_of_zero_has_no_events():
    times, mask = hawkes(2, base=0.0).draw(0.0, 10.0, generator=generator())
    assert times.shape == (2, 0)
    assert hawkes(2, base=0.0).log_prob(times, mask, 0.0, 10.0).tolist() == [0.0, 0.0]
    assert PoissonProcess(lambda t: 0 * t, full(0.0, 2)).draw(0.0, 5.0, generator=generator())[1].shape == (2, 0)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="branching is"):
        hawkes(2, branching=-0.1)
    with pytest.raises(ValueError, match="from 1 on there are ever more"):
        hawkes(2, branching=1.5).draw(0.0, 1e4, generator=generator(), most=500)
    with pytest.raises(ValueError, match="above its bound"):
        PoissonProcess(lambda t: 5 + 0 * t, full(4.0, 2)).draw(0.0, 10.0, generator=generator())
    with pytest.raises(ValueError, match=r"the rate is -1.0 at time"):
        PoissonProcess(lambda t: -1 + 0 * t, full(4.0, 2)).draw(0.0, 10.0, generator=generator())
    with pytest.raises(ValueError, match="lower the bound"):
        tides(2).draw(0.0, 100.0, generator=generator(), most=10)
    times, there = torch.tensor([[1.0, 3.0, 2.0]]), torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="event 2 of row 0 is at 2.0"):
        hawkes(1).log_prob(times, there, 0.0, 10.0)
    with pytest.raises(ValueError, match="event 1 of row 0 is at 3.0"):
        hawkes(1).log_prob(times, there, 0.0, 2.5)
    with pytest.raises(ValueError, match="put the events of a row first"):
        hawkes(1).log_prob(times, torch.tensor([[True, False, True]]), 0.0, 10.0)
    with pytest.raises(ValueError, match="a mask of True and False"):
        hawkes(1).log_prob(times, there.float(), 0.0, 10.0)
    with pytest.raises(ValueError, match="run backwards"):
        tides(1).draw(2.0, 1.0, generator=generator())


def test_what_rows_do_not_share_is_refused():
    with pytest.raises(
        ValueError, match="there are 1 of base, 2 of branching, 2 of decay; expected one number of each"
    ):
        Hawkes(full(0.6, 1), full(0.7, 2), full(2.0, 2))
    for process in (hawkes(2), tides(2)):
        with pytest.raises(TypeError, match=r"start is \(2,\), expected a number: events of all rows have the same"):
            process.draw(torch.zeros(2), 5.0, generator=generator())
        with pytest.raises(TypeError, match=r"stop is \(2,\)"):
            process.log_prob(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), 0.0, torch.ones(2))
    times, _ = hawkes(2).draw(torch.tensor(0.0), torch.tensor(5.0), generator=generator())
    assert torch.equal(times, hawkes(2).draw(0.0, 5.0, generator=generator())[0])
