"""Jump processes: against laws in closed form, leaps against exact paths, and what is refused.

False-alarm rates: chi-square and KS tests alarm at p < 1e-4, means at 4 standard errors (6e-5). Seeds are fixed.
"""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from scipy import stats

from sciinf.simulators.dynamics.reactions import Reactions

BOYS = 763
BIRTH, DEATH = 6.0, 1.5


def birth_death(scale=1.0):
    return Reactions(
        {"birth": [1], "death": [-1]},
        lambda theta, n: torch.stack([theta["birth"], scale * theta["death"] * n[:, 0]], -1),
    )


def sir_rates(theta, n):
    return torch.stack([theta["beta"] * n[:, 0] * n[:, 1] / BOYS, theta["gamma"] * n[:, 1]], -1)


SIR = Reactions({"infection": [-1, 1], "recovery": [0, -1]}, sir_rates)


def constant(rows, **values):
    return {name: torch.full((rows,), value) for name, value in values.items()}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def stationary_p(process, rows=4_000):
    """p of a chi-square test of Poisson(birth / death), the law in the long run."""
    theta = constant(rows, birth=BIRTH, death=DEATH)
    found = process.exact(theta, torch.zeros(rows, 1), 0.0, 12.0, generator=generator())[:, 0].numpy()
    law = stats.poisson(BIRTH / DEATH)
    expected = [law.pmf(k) for k in range(10)] + [law.sf(9)]
    seen = [(found == k).sum() for k in range(10)] + [(found > 9).sum()]
    return stats.chisquare(seen, [rows * p for p in expected]).pvalue


def test_birth_and_death_come_to_their_stationary_law_and_a_wrong_rate_does_not():
    assert stationary_p(birth_death()) > 1e-4
    assert stationary_p(birth_death(scale=1.1)) < 1e-4


def test_pure_death_at_each_row_s_own_times_is_binomial():
    rows = 6_000
    theta = constant(rows, birth=0.0, death=0.7)
    stop = 2.0 + torch.arange(rows) % 3
    start = torch.full((rows,), 1.5)
    found = birth_death().exact(theta, torch.full((rows, 1), 20.0), start, stop, generator=generator())[:, 0]
    for k in range(3):
        p = math.exp(-0.7 * (0.5 + k))
        mean, sd = 20 * p, math.sqrt(20 * p * (1 - p))
        part = found[k::3]
        assert abs(float(part.mean()) - mean) < 4 * sd / math.sqrt(len(part))
        assert float(part.var()) == pytest.approx(sd**2, rel=0.15)


def test_rows_keep_their_own_parameters_when_others_are_put_aside():
    rows = 20_001  # more than are worked on at a time
    rates = torch.tensor([0.1, 0.7, 3.0])
    theta = {"birth": torch.zeros(rows), "death": rates[torch.arange(rows) % 3]}
    stop = 0.2 + torch.arange(rows) % 2
    found = birth_death().exact(theta, torch.full((rows, 1), 30.0), 0.0, stop, generator=generator())[:, 0]
    for k in range(6):
        p = math.exp(-float(rates[k % 3]) * (0.2 + k % 2))
        part = found[k::6]
        assert abs(float(part.mean()) - 30 * p) < 4 * math.sqrt(30 * p * (1 - p) / len(part))


def test_which_of_three_reactions_goes_with_their_rates():
    shares = torch.tensor([0.2, 0.5, 0.3])
    three = Reactions([[1, 0, 0], [0, 1, 0], [0, 0, 1]], lambda theta, n: (10 * shares).expand(len(n), 3))
    found = three.exact({}, torch.zeros(2_000, 3), 0.0, 1.0, generator=generator()).sum(0)
    assert (
        stats.chisquare(found.numpy(), (float(found.sum()) * shares.double() / shares.double().sum()).numpy()).pvalue
        > 1e-4
    )
    assert abs(float(found.sum()) - 20_000) < 4 * math.sqrt(20_000)


def test_small_epidemics_end_as_their_exact_law_says():
    # the chance that nobody else falls ill is gamma / (gamma + beta S / N)
    rows = 4_000
    theta = constant(rows, beta=1.8, gamma=0.5)
    start = torch.tensor([[BOYS - 1.0, 1.0]]).expand(rows, 2)
    found = SIR.exact(theta, start, 0.0, 1_000.0, generator=generator())
    assert torch.equal(found[:, 1], torch.zeros(rows))
    p = 0.5 / (0.5 + 1.8 * (BOYS - 1) / BOYS)
    assert stats.binomtest(int((found[:, 0] == BOYS - 1).sum()), rows, p).pvalue > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_seed_gives_one_result_and_stopping_on_the_way_keeps_the_law(dtype):
    rows = 3_000
    theta = {name: value.to(dtype) for name, value in constant(rows, beta=1.8, gamma=0.5).items()}
    start = torch.tensor([[BOYS - 5.0, 5.0]], dtype=dtype).expand(rows, 2)
    once = SIR.exact(theta, start, 0.0, 4.0, generator=generator(3))
    assert once.dtype == dtype
    assert torch.equal(once, SIR.exact(theta, start, 0.0, 4.0, generator=generator(3)))
    stopped = SIR.at(theta, start, [0.0, 1.0, 2.5, 4.0], generator=generator(4))
    assert stopped.shape == (rows, 4, 2)
    assert stats.ks_2samp(once[:, 0].numpy(), stopped[:, -1, 0].numpy()).pvalue > 1e-4
    untouched = SIR.exact(theta, start, 2.0, 2.0, generator=generator())
    assert torch.equal(untouched, start)


def seasonal(bound=2.0):
    return Reactions(
        {"arrival": [1]},
        lambda theta, n, time: (theta["rate"] * (1 + torch.sin(time).to(n)))[:, None],
        bound=lambda theta, n, start, stop: bound * theta["rate"],
    )


def test_rates_that_depend_on_time_are_thinned():
    # arrivals from t = 1 to 4 are Poisson with the mean rate (3 + cos 1 - cos 4)
    rows = 6_000
    found = seasonal().exact(constant(rows, rate=2.0), torch.zeros(rows, 1), 1.0, 4.0, generator=generator())[:, 0]
    mean = 2 * (3 + math.cos(1) - math.cos(4))
    assert abs(float(found.mean()) - mean) < 4 * math.sqrt(mean / rows)
    assert float(found.var()) == pytest.approx(mean, rel=0.1)
    with pytest.raises(ValueError, match="above their bound"):
        seasonal(1.1).exact(constant(100, rate=2.0), torch.zeros(100, 1), 1.0, 4.0, generator=generator())
    leapt = seasonal().leap(constant(rows, rate=2.0), torch.zeros(rows, 1), 1.0, 4.0, leap=0.01, generator=generator())[
        :, 0
    ]
    assert abs(float(leapt.mean()) - mean) < 0.02 + 4 * math.sqrt(mean / rows)


def leapt_mean(leap, rows=20_000):
    theta = constant(rows, birth=0.0, death=1.0)
    start = torch.full((rows, 1), 200.0)
    return float(birth_death().leap(theta, start, 0.0, 2.0, leap=leap, generator=generator()).mean())


@pytest.mark.slow
def test_leaps_are_wrong_in_first_order_and_a_long_one_is_told_apart():
    truth = 200 * math.exp(-2.0)
    error = 4 * math.sqrt(truth / 20_000)  # 4 standard errors of a mean
    # what a leap does to the mean is known: (1 - h)^(2 / h)
    for leap in (0.25, 0.125):
        assert abs(leapt_mean(leap) - 200 * (1 - leap) ** (2 / leap)) < error
    long, short = (truth - leapt_mean(leap) for leap in (0.25, 0.125))
    assert 0.8 < math.log2(long / short) < 1.5  # first order: 1.21 of what is known
    assert abs(leapt_mean(0.25) - truth) > 4 * error  # a leap too long is no exact path
    assert abs(leapt_mean(0.002) - truth) < error + 0.1


def test_a_leap_ends_at_each_row_s_stop_and_never_below_zero():
    rows = 5_000
    theta = constant(rows, beta=1.8, gamma=2.0)
    start = torch.tensor([[5.0, 3.0]]).expand(rows, 2)
    stop = torch.full((rows,), 1.0)
    stop[::2] = 0.0
    found = SIR.leap(theta, start, 0.0, stop, leap=0.4, generator=generator())
    assert torch.equal(found[::2], start[::2])
    assert float(found.min()) == 0
    assert torch.equal(found, found.round())


def test_rates_and_counts_that_cannot_be_are_refused_by_name():
    theta, start = constant(3, beta=1.0, gamma=-0.5), torch.tensor([[5.0, 3.0]]).expand(3, 2)
    with pytest.raises(ValueError, match=r"rate of recovery is -1.5 .* gamma=-0.5"):
        SIR.exact(theta, start, 0.0, 1.0, generator=generator())
    with pytest.raises(ValueError, match="rate of infection is nan"):
        SIR.leap(constant(3, beta=math.nan, gamma=0.5), start, 0.0, 1.0, leap=0.1, generator=generator())
    with pytest.raises(ValueError, match=r"counts \[-1.0, 3.0\]"):
        SIR.exact(constant(3, beta=1.0, gamma=0.5), start - torch.tensor([6.0, 0.0]), 0.0, 1.0, generator=generator())
    always = Reactions({"decay": [-1]}, lambda theta, n: torch.full_like(n, 3.0))
    with pytest.raises(ValueError, match="one of decay is not 0 where what it takes is used up"):
        always.exact({}, torch.ones(4, 1), 0.0, 50.0, generator=generator())
    with pytest.raises(ValueError, match=r"8.38861e\+06"):
        always.exact({}, torch.full((1, 1), 1e8), 0.0, 1.0, generator=generator())
    with pytest.raises(ValueError, match="after 20 jumps"):
        always.exact({}, torch.full((2, 1), 1e4), 0.0, 1e3, generator=generator(), most=20)


def test_shapes_and_times_that_do_not_fit_are_refused():
    theta, start = constant(3, beta=1.0, gamma=0.5), torch.tensor([[5.0, 3.0]]).expand(3, 2)
    with pytest.raises(ValueError, match="run backwards"):
        SIR.exact(theta, start, 2.0, 1.0, generator=generator())
    with pytest.raises(ValueError, match="a time for each of 3 rows"):
        SIR.exact(theta, start, 0.0, torch.ones(2), generator=generator())
    with pytest.raises(TypeError, match=r"pass state.float\(\)"):
        SIR.exact(theta, start.long(), 0.0, 1.0, generator=generator())
    with pytest.raises(ValueError, match=r"\(row, 2\)"):
        SIR.leap(theta, start[:, :1], 0.0, 1.0, leap=0.1, generator=generator())
    with pytest.raises(ValueError, match=r"'beta' is \(1,\), and the state has 3 rows"):
        SIR.exact(theta | {"beta": torch.ones(1)}, start, 0.0, 1.0, generator=generator())
    with pytest.raises(ValueError, match="leap of length 0"):
        SIR.leap(theta, start, 0.0, 1.0, leap=0.0, generator=generator())
    with pytest.raises(ValueError, match=r"rates are \(3,\)"):
        Reactions([[1]], lambda theta, n: n[:, 0]).exact({}, torch.ones(3, 1), 0.0, 1.0, generator=generator())
    with pytest.raises(ValueError, match="whole numbers"):
        Reactions(torch.tensor([[0.5]]), sir_rates)
    with pytest.raises(ValueError, match="each of the species"):
        Reactions({"a": [1], "b": [1, 2]}, sir_rates)
    assert SIR.exact(constant(0, beta=1.0, gamma=1.0), torch.zeros(0, 2), 0.0, 1.0, generator=generator()).shape == (
        0,
        2,
    )


def test_leaps_that_take_most_of_what_there_is_are_told_of():
    """Birth 0.2, death 1, 50 at first: 4.5 are left after 3; leaps of 1 leave 0.8, and those of 0.1 four."""
    theta = {"birth": torch.full((500,), 0.2), "death": torch.ones(500)}
    network = Reactions(
        {"birth": [1], "death": [-1]},
        lambda theta, n: torch.stack([theta["birth"] * n[:, 0], theta["death"] * n[:, 0]], -1),
    )
    with pytest.warns(UserWarning, match="leaps of 1 take more than half of what there is at once"):
        network.leap(theta, torch.full((500, 1), 50.0), 0.0, 3.0, leap=1.0, generator=generator())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network.leap(theta, torch.full((500, 1), 50.0), 0.0, 3.0, leap=0.1, generator=generator())


def test_leaps_in_which_rates_change_much_are_told_of():
    """Births 1 for each: 20 become 20 e^4 = 1,092 in 4, and in one leap of 4 they become 100."""
    growth = Reactions({"birth": [1]}, lambda theta, n: theta["birth"][:, None] * n)
    theta, begin = constant(300, birth=1.0), torch.full((300, 1), 20.0)
    with pytest.warns(UserWarning, match="leaps of 4 are too long: within one, a rate more than doubles"):
        found = growth.leap(theta, begin, 0.0, 4.0, leap=4.0, generator=generator())
    assert float(found.mean()) < 0.2 * 20 * math.exp(4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        growth.leap(theta, begin, 0.0, 4.0, leap=0.1, generator=generator())
        # one leap is exact where rates do not change, however many come; chance in handfuls is no change
        steady = Reactions({"birth": [1]}, lambda theta, n: theta["birth"][:, None].expand_as(n))
        steady.leap(constant(300, birth=50.0), begin, 0.0, 4.0, leap=4.0, generator=generator())
        growth.leap(constant(300, birth=0.1), torch.full((300, 1), 2.0), 0.0, 4.0, leap=1.0, generator=generator())


def test_a_rate_that_time_changes_is_no_long_leap():
    """On from time 1: leaps of 1 hold it still where it is, and none is too long for that."""
    on = Reactions(
        {"birth": [1]},
        lambda theta, n, time: (theta["birth"] * (time >= 1.0))[:, None],
        bound=lambda theta, n, start, stop: theta["birth"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = on.leap(constant(300, birth=50.0), torch.zeros(300, 1), 0.0, 3.0, leap=1.0, generator=generator())
    assert float(found.mean()) == pytest.approx(100.0, abs=4 * math.sqrt(100 / 300))
