"""Diagonal recurrences: scans by chunks are the loop over times, whatever the times are."""

from __future__ import annotations

import pytest
import torch

from sciinf.emulators.processes.parallel import Recurrence, scanned


def looped(rate, drive, times, carry=None, since=None):
    """The recurrence, step by step."""
    h, found = torch.zeros_like(drive[:, 0]) if carry is None else carry, []
    for k in range(drive.shape[1]):
        if isinstance(times, float):
            gap = times
        else:
            gap = times[:, k : k + 1] - (times[:, k - 1 : k] if k else times[:, :1] if since is None else since)
        h = torch.exp(rate * gap) * h + drive[:, k]
        found.append(h)
    return torch.stack(found, 1)


def numbers(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("count", [1, 5, 16, 17, 300])
@pytest.mark.parametrize("rates", [1, 3])
@pytest.mark.parametrize("when", ["equal", "common", "each"])
def test_a_scan_is_the_loop(count, rates, when):
    rate = torch.complex(-numbers(rates, 4, seed=1).abs(), numbers(rates, 4, seed=2))
    drive = torch.complex(numbers(3, count, 4, seed=3), numbers(3, count, 4, seed=4))
    carry = torch.complex(numbers(3, 4, seed=5), numbers(3, 4, seed=6))
    rows = {"equal": 0, "common": 1, "each": 3}[when]
    times = numbers(rows, count, seed=7).abs().cumsum(1) if rows else 1.5
    since = times[:, :1] - 0.4 if rows else None
    for begin, at in ((None, None), (carry, since)):
        found = scanned(rate, drive, times, begin, at)
        assert torch.allclose(found, looped(rate, drive, times, begin, at), atol=1e-10)
    assert count == 1 or not torch.allclose(scanned(rate, drive, times), looped(0.9 * rate, drive, times), atol=1e-3)


@pytest.mark.parametrize("equal", [True, False])
def test_a_block_goes_on_from_where_it_ended(equal):
    torch.manual_seed(0)
    block = Recurrence(6, 5, 2, 20.0).double()
    x, context = numbers(3, 70, 6), numbers(3, 2, seed=1)
    times = 1.0 if equal else numbers(3, 70, seed=2).abs().cumsum(1)
    whole, last = block(x, times, context)
    first, state = block(x[:, :33], times if equal else times[:, :33], context)
    since = None if equal else times[:, 32:33]
    second, end = block(x[:, 33:], times if equal else times[:, 33:], context, state, since)
    assert torch.allclose(torch.cat([first, second], 1), whole, atol=1e-10)
    assert torch.allclose(end, last, atol=1e-10)


def test_a_state_is_as_large_whatever_the_gaps_are():
    """Driven by white noise, variances of a state are those of its start at all times: 20,000 rows, 5 % = 5 sds."""
    torch.manual_seed(0)
    block = Recurrence(1, 3, 0, 20.0).double()
    times = numbers(1, 12).abs().cumsum(1)
    _, last = block(numbers(20_000, 12, 1, seed=3), times, numbers(20_000, 0))
    _, first = block(numbers(20_000, 1, 1, seed=4), times[:, :1], numbers(20_000, 0))
    assert torch.allclose(last.abs().square().mean(0), first.abs().square().mean(0), rtol=0.05)
