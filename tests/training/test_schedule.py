"""Learning rates against the formulas at known points."""

from __future__ import annotations

import itertools
import math

import pytest

from sciinf.training.schedule import FLOORS, Schedule, scaled_rate


@pytest.mark.parametrize("shape", FLOORS)
def test_warm_up_is_linear_to_the_peak_and_what_follows_never_rises(shape):
    schedule = Schedule(shape, 0.3, 200, 0.1)
    rates = [schedule(step) for step in range(200)]
    assert rates[:20] == pytest.approx([0.3 * (step + 1) / 20 for step in range(20)])
    assert max(rates) == rates[19] == rates[20] == pytest.approx(0.3)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[20:]))


def check_values(made):
    # half-way down the cosine, and three quarters: (1 + cos pi/2) / 2 = 1/2, (1 + cos 3 pi/4) / 2 = 0.1464...
    one, slow, flat = (made(shape, 1.0, 1_000, 0.2) for shape in ("one-cycle", "cosine", "constant"))
    assert one(600) == pytest.approx(0.5)
    assert one(800) == pytest.approx(0.5 - math.sqrt(0.125))
    assert one(1_000) == pytest.approx(0.0, abs=1e-12)
    assert slow(600) == pytest.approx(0.55)
    assert slow(1_000) == pytest.approx(0.1)
    assert flat(600) == flat(999) == 1.0


def halved(shape, peak, steps, warm_up):
    """The planted fault: the cosine's angle is half of what it should be, so that 0.854 is left half-way."""
    right = Schedule(shape, peak, steps, warm_up)
    rise = round(warm_up * steps)
    return lambda step: right(step) if step < rise else right(rise + (step - rise) / 2)


def test_known_values():
    check_values(Schedule)
    with pytest.raises(AssertionError):
        check_values(halved)


def test_the_last_step_of_a_cycle_is_close_to_nothing_and_the_first_is_not():
    schedule = Schedule("one-cycle", 1.0, 500, 0.0)
    assert schedule(0) == 1.0
    assert 0 < schedule(499) < 1e-4


def test_short_trainings():
    assert Schedule("one-cycle", 1.0, 1, 0.1)(0) == 1.0
    assert Schedule("one-cycle", 1.0, 2, 0.9)(1) == 1.0


def test_the_rate_goes_with_the_root_of_the_batch():
    assert scaled_rate(5e-3, 1_000, 250) == pytest.approx(2.5e-3)
    assert scaled_rate(scaled_rate(1e-3, 7, 90), 90, 7) == pytest.approx(1e-3)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="'step' is not known; expected one of"):
        Schedule("step", 1.0, 10, 0.1)
