"""Values that an instrument repeats: at an end, one after the other, or anywhere."""

from __future__ import annotations

import math

import pytest
import torch

from sciinf.core import Observable
from sciinf.diagnostics.boxes import Box
from sciinf.diagnostics.localise import STATISTICS, repeats
from sciinf.diagnostics.residuals import log_rank

SERIES = Observable((30,), dims=("time",))
WHOLE = (Box("x", (0,), (30,)),)
TIME = torch.linspace(0.0, 4.0, 30)


def decays(rows, generator):
    rate = (0.3 * torch.randn(rows, 1, generator=generator)).exp()
    return 40 * (-rate * TIME).exp()


def test_equal_values_are_counted_anywhere_at_the_ends_and_in_a_row():
    spec, box = Observable((8,), dims=("time",)), (Box("x", (0,), (8,)),)
    x = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [7.0, 7.0, 7.0, 1.0, 4.0, 1.0, 4.0, 1.0]])
    assert repeats(x, None, box, spec)[:, -1].tolist() == [0.0, 3.0, 3.0, 3.0, 0.0]
    assert repeats(x, None, box, Observable((8,), dims=("item",)))[3].tolist() == [0.0, 0.0]  # these have no order
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[1, 0] = False
    assert repeats(x, mask, box, spec)[:, -1].tolist() == [0.0, 0.0, 3.0, 0.0, 0.0]
    mask[1] = False
    assert repeats(x, mask, box, spec)[:, -1].tolist() == [0.0] * STATISTICS


@pytest.mark.parametrize("fault", ["cut at 12", "saturated", "hanging", "rows twice", "none"])
def test_faults_of_an_instrument_repeat_a_value(fault):
    """Counts that are cut off, a limit that is reached, a sensor that hangs. Without one .4 of 40 are expected."""
    generator, found = torch.Generator().manual_seed(0), 0
    for _ in range(40):
        x = decays(300, generator)
        counts = fault in ("cut at 12", "none")
        x = torch.poisson(x, generator=generator) if counts else x + 0.3 * torch.randn(x.shape, generator=generator)
        if fault == "cut at 12":
            x[-1] = x[-1].clamp_max(12)
        if fault == "saturated":
            x[-1] = x[-1].clamp_max(float(x[-1].sort().values[-4]))
        if fault == "rows twice":
            x[-1, 15:] = x[-1, :15]
        if fault == "hanging":
            x[-1, 5:10] = x[-1, 5]
        log = log_rank(-log_rank(repeats(x, None, WHOLE, SERIES)).amin(0))
        found += float(log[-1]) < math.log(0.01)
    assert found <= 3 if fault == "none" else found >= 30  # 4 or more in one of 1,100 runs
