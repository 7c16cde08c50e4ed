"""Plain statistics against numpy's, with and without a mask, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciinf.core import Observable
from sciinf.networks.summaries.statistics import statistics

SET, SERIES = Observable((12,), dims=("item",)), Observable((40,), dims=("time",))


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_moments_are_those_of_numpy():
    x = normal(5, 12)
    found = statistics(x, None, SET).double().numpy()
    sd = x.double().numpy().std(1)
    u = (x.double().numpy() - x.double().numpy().mean(1, keepdims=True)) / sd[:, None]
    wanted = [x.mean(1).numpy(), np.log(sd), (u**3).mean(1), np.log((u**4).mean(1) + 0.1), u.min(1), u.max(1)]
    np.testing.assert_allclose(found, np.stack(wanted, axis=1), atol=1e-4)


def test_what_is_missing_counts_nowhere_but_in_the_share():
    x, mask = normal(3, 12), torch.arange(12) < 7
    short = statistics(x[:, :7], None, Observable((7,), dims=("item",)))
    found = statistics(torch.where(mask, x, 0.0), mask.expand(3, 12), SET)
    # least and largest are measured from the mean, where a missing entry lies: outside for none of these rows
    torch.testing.assert_close(found[:, :-1], short, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, -1], torch.full((3,), 7 / 12))


def test_the_order_of_a_set_does_not_matter_and_that_of_a_series_does():
    x = normal(4, 12)
    torch.testing.assert_close(statistics(x, None, SET), statistics(x.flip(1).roll(3, 1), None, SET))
    series = Observable((12,), dims=("time",))
    shuffled = x[:, torch.randperm(12, generator=torch.Generator().manual_seed(1))]
    assert not torch.allclose(statistics(x, None, series), statistics(shuffled, None, series), atol=0.1)


def test_steps_along_time_are_the_variogram():
    x = torch.arange(40.0).expand(2, 40)
    found = statistics(x, None, SERIES)[:, 6:10]
    torch.testing.assert_close(found.exp(), torch.tensor([[1.0, 4.0, 16.0, 64.0]]).expand(2, 4))


def test_steps_over_gaps_are_left_out():
    x, mask = torch.arange(40.0), torch.ones(1, 40, dtype=torch.bool)
    mask[0, 10:20] = False
    found = statistics(torch.where(mask, x, 0.0), mask, SERIES)[:, 6:10]
    torch.testing.assert_close(found.exp(), torch.tensor([[1.0, 4.0, 16.0, 64.0]]))


def burg(x, order):
    """Burg's recursion as it is written down in textbooks, with loops."""
    ahead, behind, found = list(x), list(x), []
    for _ in range(order):
        pairs = [(ahead[t], behind[t - 1]) for t in range(1, len(ahead))]
        k = 2 * sum(f * b for f, b in pairs) / sum(f * f + b * b for f, b in pairs)
        ahead, behind = [f - k * b for f, b in pairs], [b - k * f for f, b in pairs]
        found += [k, np.log(sum(f * f + b * b for f, b in zip(ahead, behind, strict=True)) / (2 * len(ahead)))]
    return found


def test_partial_autocorrelations_are_burgs():
    x = normal(3, 40).cumsum(1)
    found = statistics(x, None, SERIES)[:, 10:].numpy()
    np.testing.assert_allclose(found, [burg(row.tolist(), 4) for row in x], atol=1e-3)


def test_partial_autocorrelations_are_those_of_the_law_and_do_not_span_gaps():
    x, noise = torch.zeros(4, 3_000), normal(4, 3_000)
    for t in range(2, 3_000):
        x[:, t] = 0.4 * 0.7 * x[:, t - 1] + 0.3 * x[:, t - 2] + noise[:, t]  # partial: .4 and .3
    mask = torch.arange(3_000) % 100 < 60
    spec = Observable((3_000,), dims=("time",))
    level = statistics(torch.where(mask, 1.0, 0.0)[None], mask[None], spec)
    assert level[0, 10] == pytest.approx(1.0, abs=1e-4), "no step over a gap counts"
    whole, gaps = statistics(x, None, spec)[:, 10:], statistics(torch.where(mask, x, 0.0), mask.expand(4, -1), spec)
    for found in (whole, gaps[:, 10:-1]):  # sds of 1 / sqrt(3000) and of 1 / sqrt(1700)
        assert found[:, :6:2] == pytest.approx(torch.tensor([0.4, 0.3, 0.0]).expand(4, 3), abs=0.1)
        assert found[:, 3] == pytest.approx(torch.zeros(4), abs=0.14)  # the noise has variance 1


def test_pairs_of_channels_are_told_by_their_correlation():
    first = normal(2, 500)
    second = 0.6 * first + 0.8 * normal(2, 500, seed=1)
    x = torch.stack([first, second], dim=2)
    found = statistics(x, None, Observable((500, 2), dims=("item", "channel")))
    wanted = [np.corrcoef(a, b)[0, 1] for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    np.testing.assert_allclose(found[:, 12].numpy(), wanted, atol=1e-4)


def test_the_spread_between_groups_is_one_of_them():
    level = normal(3, 8, 1)
    x = level + 0.1 * normal(3, 8, 5, seed=1)
    found = statistics(x, None, Observable((8, 5), dims=("item", "channel")))
    wanted = x.mean(2).double().numpy().std(1)
    np.testing.assert_allclose(found[:, -3].exp().numpy(), wanted, atol=1e-4)


def test_what_the_means_of_two_axes_leave_is_one_of_them():
    spec = Observable((8, 5), dims=("item", "channel"))
    noise = normal(3, 8, 5, seed=1)
    noise = noise - noise.mean(1, keepdim=True)
    noise = noise - noise.mean(2, keepdim=True)
    x = 3 * normal(3, 8, 1) + 2 * normal(3, 1, 5, seed=2) + 0.1 * noise
    wanted = 0.1 * noise.square().mean((1, 2)).sqrt()
    torch.testing.assert_close(statistics(x, None, spec)[:, -1].exp(), wanted, atol=1e-4, rtol=1e-3)
    mask = torch.rand(3, 8, 5, generator=torch.Generator().manual_seed(3)) < 0.8
    found = statistics(torch.where(mask, x, 0.0), mask, spec)[:, -2].exp()
    assert (found < 0.2).all()


@pytest.mark.parametrize("spec", [Observable(), Observable((2,)), Observable((2, 3), dims=("time", "channel"))])
def test_too_few_entries_have_no_statistics(spec):
    assert statistics(normal(4, *spec.shape), None, spec).shape == (4, 0)


def test_numbers_that_do_not_vary_stay_finite():
    x = torch.zeros(2, 40, requires_grad=True)
    found = statistics(x, None, SERIES)
    assert found.isfinite().all()
    assert torch.autograd.grad(found.sum(), x)[0].isfinite().all()
