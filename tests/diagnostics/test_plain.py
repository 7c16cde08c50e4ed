"""Plain statistics of data: what they see, and what lines through all numbers tell."""

from __future__ import annotations

import pytest
import torch

from sciinf.core import Observable
from sciinf.diagnostics.plain import plain_statistics, told


def test_plain_statistics_see_what_a_mean_does_not():
    """The spread of twenty items stands among them, monotone in it, and the observation comes last."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(0.5, 2.0, 300)
    rows = {"x": spread[:, None] * torch.randn(300, 20, generator=generator)}
    x = {"x": 5.0 * torch.randn(1, 20, generator=generator)}
    found = plain_statistics({"x": Observable((20,), dims=("item",))}, rows, x)
    assert found.shape[0] == 301
    assert torch.corrcoef(torch.cat([found[:-1].T, spread[None].double()]))[-1, :-1].max() > 0.8
    assert float(found[-1].abs().max()) > 2.5


@pytest.mark.slow
def test_lines_tell_of_parameters_from_one_number_and_from_thousands():
    z = torch.randn(1_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = told({"y": Observable(())}, {"y": z[:, 0].float()}, {"y": torch.ones(1)}, z)
    assert one.shape == (1_001, 2)
    assert torch.corrcoef(torch.stack([one[:-1, 0], z[:, 0]]))[0, 1] > 0.95
    design = torch.randn(2, 3_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.randn(1_001, 3_000, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = torch.cat([z, torch.ones(1, 2)]).double() @ design + 5 * noise
    many = told({"y": Observable((3_000,))}, {"y": x[:-1]}, {"y": x[-1:]}, z)
    assert torch.corrcoef(torch.stack([many[:-1, 1], z[:, 1]]))[0, 1] > 0.9
