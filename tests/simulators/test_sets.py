"""Sets of observations: sizes, masks, the law of the items, failures."""

from __future__ import annotations

import pytest
import torch
from torch import distributions as td

from sciinf import Observable, Prior
from sciinf.core import Outcome, Simulator, Status
from sciinf.wrappers import sets


class Pair(Simulator):
    """x = theta + noise; rows of negative theta fail if `brittle`."""

    name = "pair"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Normal(0.0, 1.0))
    observables = {"x": Observable((2,)), "count": Observable((), dtype="int64")}

    def __init__(self, *, brittle=False):
        self.brittle = brittle

    def __call__(self, theta, *, generator):
        x = theta + 0.1 * torch.randn(theta.shape, generator=generator)
        found = {"x": x, "count": torch.ones(len(theta), dtype=torch.int64)}
        if not self.brittle:
            return found
        bad = (x[:, 0] < theta[:, 0]).nonzero().flatten()  # every other item, by chance
        status = torch.zeros(len(theta), dtype=torch.uint8)
        status[bad] = int(Status.RAISED)
        return Outcome(found, status, {int(row): "below" for row in bad})


def test_every_size_is_as_frequent_and_items_are_of_their_theta():
    simulator = sets(Pair(), 4)
    theta = simulator.prior.sample(4_000, generator=torch.Generator().manual_seed(0))
    outcome = simulator(theta, generator=torch.Generator().manual_seed(1))
    mask = outcome.x["x_mask"]
    assert {name: tuple(v.shape[1:]) for name, v in outcome.x.items()} == {
        name: spec.shape for name, spec in simulator.observables.items()
    }
    sizes = mask.sum(1)
    counts = torch.bincount(sizes, minlength=5)[1:]
    assert ((counts - 1_000).abs() < 110).all()  # four sds of a count: 1 in 4,000
    assert torch.equal(mask, torch.arange(4) < sizes[:, None])
    assert torch.equal(outcome.x["count"], mask.long())
    off = outcome.x["x"] - theta[:, None]
    assert bool((outcome.x["x"][~mask] == 0).all())
    assert float(off[mask].std()) == pytest.approx(0.1, rel=0.05)
    # the planted fault: items of a neighbour's theta
    assert float((outcome.x["x"] - theta.roll(1, 0)[:, None])[mask].std()) > 1.0
    again = simulator(theta, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.x["x"], outcome.x["x"])


def test_a_set_fails_with_one_of_its_items():
    simulator = sets(Pair(brittle=True), 3)
    theta = simulator.prior.sample(2_000, generator=torch.Generator().manual_seed(0))
    outcome = simulator(theta, generator=torch.Generator().manual_seed(1))
    good = outcome.status == int(Status.OK)
    assert set(outcome.messages) == set((~good).nonzero().flatten().tolist())
    share = float(good.float().mean())
    assert share == pytest.approx((0.5 + 0.25 + 0.125) / 3, abs=0.04)  # four sds
    above = outcome.x["x"][..., 0] > theta[:, :1]
    assert bool(above[good][outcome.x["x_mask"][good]].all())


def test_sets_of_one_size_have_no_masks():
    simulator = sets(Pair(), 3, least=3)
    theta = simulator.prior.sample(200, generator=torch.Generator().manual_seed(0))
    x = simulator(theta, generator=torch.Generator().manual_seed(1)).x
    assert {name: tuple(v.shape) for name, v in x.items()} == {"x": (200, 3, 2), "count": (200, 3)}
    assert simulator.observables["count"].dims == ("item",)
    assert bool((x["count"] == 1).all())


def test_sizes_may_begin_above_one():
    simulator = sets(Pair(), 4, least=2)
    theta = simulator.prior.sample(300, generator=torch.Generator().manual_seed(0))
    mask = simulator(theta, generator=torch.Generator().manual_seed(1)).x["x_mask"]
    assert mask.sum(1).unique().tolist() == [2, 3, 4]
    assert len({sets(Pair(), most, least=least).name for most in (3, 4) for least in (1, 2, 3)}) == 6


def test_what_makes_no_sets_is_refused():
    with pytest.raises(TypeError, match="of a Simulator, got int"):
        sets(3, 2)
    with pytest.raises(ValueError, match="most"):
        sets(Pair(), 0)
    with pytest.raises(ValueError, match="most"):
        sets(Pair(), 2, least=3)
    with pytest.raises(ValueError, match="has masks of its own"):
        sets(sets(Pair(), 2), 2)
