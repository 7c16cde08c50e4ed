"""Measuring a simulator: rows at a time, and seconds a row."""

from __future__ import annotations

import time

import pytest
import torch
from torch import distributions as td

from sciinf.core import Observable, Prior, Simulator
from sciinf.engine.probe import LARGEST, probe_block, seconds_per_row


class Timed(Simulator):
    """Sleeps for `call` seconds and `row` seconds a row; at most `fits` rows at a time."""

    name = "timed"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"x": Observable((1,))}

    def __init__(self, call=0.0, row=0.0, fits=LARGEST):
        self.call, self.row, self.fits, self.sizes = call, row, fits, []

    def __call__(self, theta, *, generator):
        self.sizes.append(len(theta))
        if len(theta) > self.fits:
            raise torch.OutOfMemoryError("no room")
        time.sleep(self.call + self.row * len(theta))
        return {"x": theta}


def test_larger_blocks_while_they_pay_and_no_larger():
    # the time of a call is that of 3,000 rows: doubling fewer gains more than a half, from 30,000 on less than a tenth
    assert 4096 <= probe_block(Timed(call=0.06, row=2e-5), LARGEST, seed=0, device="cpu") <= 32_768


def test_no_more_rows_than_are_of_use_fit_or_take_five_seconds():
    assert probe_block(Timed(call=0.01), 1000, seed=0, device="cpu") <= 1000
    assert probe_block(Timed(call=0.01), 5, seed=0, device="cpu") == 5
    assert probe_block(Timed(call=0.01, fits=600), LARGEST, seed=0, device="cpu") == 512
    slow = Timed(row=0.04)
    assert probe_block(slow, LARGEST, seed=0, device="cpu") == 64
    assert slow.sizes == [64]


def test_seconds_per_row():
    # sleeping takes longer than asked for, never less
    measured = seconds_per_row(Timed(call=0.02, row=1e-4), 400, seed=0, device="cpu")
    assert 1.5e-4 <= measured < 1e-3
    one = Timed(row=0.01)
    assert 0.01 <= seconds_per_row(one, 3, seed=0, device="cpu") < 0.1
    assert one.sizes == [3, 3, 3]
    slow = Timed(row=2e-3)
    seconds_per_row(slow, 100_000, seed=0, device="cpu")
    assert max(slow.sizes) <= 500  # about a second
    with pytest.raises(torch.OutOfMemoryError):
        seconds_per_row(Timed(fits=2), 3, seed=0, device="cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_of_the_device_limits_a_block_even_after_more_was_in_use():
    class Large(Timed):
        def __call__(self, theta, *, generator):
            share = torch.cuda.mem_get_info()[1] // 50_000 // 4  # a batch of 50,000 rows takes all memory
            torch.zeros(len(theta), share, device=theta.device).sum()
            return {"x": theta}

    torch.zeros(torch.cuda.mem_get_info()[0] // 8, device="cuda").sum()
    assert probe_block(Large(), LARGEST, seed=0, device="cuda") <= 12_500
