"""Predictive coding: its weight moves slopes and no figure, and after the last value the posterior is the prior."""

from __future__ import annotations

import pytest
import torch

from sciinf.emulators.processes import Series, Sizes
from sciinf.lab.predictive_coding import PredictiveCoding


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def series(length=8, seen=8, seed=1):
    there = (torch.arange(length) < seen).expand(4, -1)
    values = torch.where(there[..., None], torch.randn(4, length, 3, generator=generator(seed)), 0.0)
    return Series(values, there, torch.zeros(4, 0))


def built(weight=1.0):
    return PredictiveCoding(5, width=6, weight=weight).build(Sizes(3, 0, 0), seed=0)


def test_a_weight_moves_slopes_and_no_figure():
    found, slopes = [], []
    for weight in (1.0, 0.2):
        process = built(weight)
        found.append(process.posterior(series(), generator=generator()))
        slopes.append(torch.autograd.grad(found[-1].kl.sum(), process.moved.direct.weight)[0])
    assert torch.allclose(found[0].kl, found[1].kl)
    assert torch.equal(found[0].z, found[1].z)
    assert torch.equal(found[0].log_ratio, found[1].log_ratio)
    assert torch.allclose(slopes[1], 0.2 * slopes[0], atol=1e-6)


def test_after_the_last_value_the_posterior_is_the_prior():
    """KL of 20,000 draws is that of the times until then; 4.5 standard errors: a false alarm in about 100,000."""
    process, few = built(), series(seen=3)
    many = Series(*(torch.cat([part] * 5_000) for part in (few.seen, few.there, few.context)))
    shorter = Series(many.seen[:, :3], many.there[:, :3], many.context)
    with torch.no_grad():
        whole, part = (process.posterior(each, generator=generator(k)).kl for k, each in enumerate((many, shorter)))
        all_seen = process.posterior(series(), generator=generator()).kl
    error = ((whole.var() + part.var()) / len(part)).sqrt()
    assert abs(float(whole.mean() - part.mean())) < 4.5 * float(error)
    assert float(all_seen.mean()) > float(whole.mean())


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf")])
def test_a_weight_is_a_number_above_zero(weight):
    with pytest.raises(ValueError, match="only 1 trains a lower bound"):
        PredictiveCoding(weight=weight)
