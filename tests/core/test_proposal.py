"""Simulations of a proposal: what the store says of it, who can run its blocks, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf.campaigns.block import propose, run_block
from sciinf.campaigns.simulation import repair, simulate
from sciinf.campaigns.store import Store
from sciinf.core import Observable, Prior, Proposal, Simulator, load_simulator


class Noisy(Simulator):
    """x = theta + noise."""

    name, block, observables = "noisy", 100, {"x": Observable((2,))}

    def __init__(self, law):
        self.prior = Prior(a=law, b=law)

    def __call__(self, theta, *, generator):
        return {"x": theta + torch.randn(theta.shape, generator=generator)}


NORMAL = Noisy(td.Normal(0.0, 1.0))


class Corner(Proposal):
    """Uniform within [0, high] in both parameters."""

    def __init__(self, high=0.5):
        self.high = high

    def sample(self, n, *, generator):
        return self.high * torch.rand(n, 2, generator=generator)

    def to_json(self):
        return {"kind": "corner", "high": self.high}


class Careless(Corner):
    """The same law, from entropy instead of the generator."""

    def sample(self, n, *, generator):
        return super().sample(n, generator=torch.Generator().manual_seed(torch.Generator().seed()))


def test_a_store_says_which_proposal_it_is_of(tmp_path):
    store = simulate(NORMAL, tmp_path, 250, proposal=Corner(), progress=False)
    assert store.proposal == Store(tmp_path).proposal == {"kind": "corner", "high": 0.5}
    assert json.loads((tmp_path / "store.json").read_text())["proposal"] == {"kind": "corner", "high": 0.5}
    theta = store.load().theta
    assert theta.min() >= 0
    assert theta.max() <= 0.5
    prior = simulate(NORMAL, tmp_path / "prior", 100, progress=False)
    assert prior.proposal is None
    assert "proposal" not in json.loads((tmp_path / "prior" / "store.json").read_text())


def test_another_proposal_is_another_campaign(tmp_path):
    simulate(NORMAL, tmp_path, 100, proposal=Corner(), progress=False)
    for other in (None, Corner(0.25)):
        with pytest.raises(ValueError, match="another campaign.*proposal"):
            simulate(NORMAL, tmp_path, 100, proposal=other, progress=False)


def test_blocks_of_a_proposal_can_be_run_by_anyone(tmp_path):
    """Whoever has the store alone, as a worker does, commits the same bytes; growing redraws the short block."""
    store = simulate(NORMAL, tmp_path / "one", 250, proposal=Corner(), progress=False)
    other = Store.create(tmp_path / "two", NORMAL, seed=0, block=100, rows=250, proposal=Corner())
    shutil.copytree(tmp_path / "one" / "proposed", tmp_path / "two" / "proposed")
    for index in (2, 0, 1):
        run_block(NORMAL, Store(tmp_path / "two"), index)
    other.refresh()
    assert other.digest == store.digest
    grown = simulate(NORMAL, tmp_path / "one", 300, proposal=Corner(), progress=False)
    whole = simulate(NORMAL, tmp_path / "three", 300, proposal=Corner(), progress=False)
    assert grown.digest == whole.digest
    grown.file(1).write_bytes(b"damaged")
    assert repair(Store(grown.path), NORMAL) == [1]
    assert Store(grown.path).digest == whole.digest
    # planted fault: draws that are not of the block's generator are others each time
    careless = [simulate(NORMAL, tmp_path / k, 100, proposal=Careless(), progress=False).digest for k in "ab"]
    assert careless[0] != careless[1]
    shutil.rmtree(tmp_path / "two" / "proposed")
    with pytest.raises(ValueError, match="come from a proposal and .* is missing"):
        run_block(NORMAL, Store(tmp_path / "two"), 0)


def test_damaged_parameters_of_a_proposal_are_named_and_drawn_again(tmp_path):
    store = Store.create(tmp_path / "s", NORMAL, seed=0, block=100, rows=250, proposal=Corner())
    propose(store, Corner(), [1])
    file = tmp_path / "s/proposed/000/00000001.npy"
    whole = file.read_bytes()
    data = bytearray(whole)
    data[200] ^= 1
    file.write_bytes(data)
    with (
        pytest.warns(UserWarning, match=r"00000001\.npy is damaged"),
        pytest.raises(ValueError, match="missing or damaged"),
    ):
        run_block(NORMAL, store, 1)
    with pytest.warns(UserWarning, match="is damaged"):
        simulate(NORMAL, tmp_path / "s", 250, proposal=Corner(), progress=False)
    assert file.read_bytes() == whole
    file.write_bytes(whole[:-32])
    with pytest.warns(UserWarning, match=r"00000001\.npy carries no hash"):
        run_block(NORMAL, store, 1)
    assert np.array_equal(np.load(file), store.read(1)[0].numpy())


def test_a_proposal_outside_the_prior_is_refused(tmp_path):
    with pytest.raises(ValueError, match="within the support.*some lie outside"):
        simulate(Noisy(td.Uniform(-1.0, 1.0)), tmp_path, 100, proposal=Corner(2.0), progress=False)


@pytest.mark.long
def test_workers_draw_what_one_process_draws(tmp_path, root):
    simulator = load_simulator(root / "simulators" / "linear_gaussian.py")

    class Near(Proposal):
        def sample(self, n, *, generator):
            return torch.rand(n, 3, generator=generator)

        def to_json(self):
            return {"kind": "near"}

    one, two = (
        simulate(simulator, tmp_path / str(w), 300, block=100, workers=w, proposal=Near(), progress=False)
        for w in (1, 2)
    )
    assert one.digest == two.digest
