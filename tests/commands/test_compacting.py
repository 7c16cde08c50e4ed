"""`sciinf compact`: from the command line, for a store or a run folder."""

from __future__ import annotations

from pathlib import Path

import torch
from command_line import call

from sciinf import Normal, Observable, Prior, Simulator, simulate
from sciinf.campaigns.store import Store


class Plain(Simulator):
    name = "plain"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}
    block = 10

    def __call__(self, theta, *, generator):
        return {"v": theta + torch.randn(len(theta), 3, generator=generator)}


def test_a_store_and_the_simulations_of_a_run_are_compacted(tmp_path: Path) -> None:
    digest = simulate(Plain(), tmp_path / "run/simulations", 100, progress=False).digest
    done = call("compact", tmp_path / "run")
    assert done.code == 0
    assert done.out.splitlines() == [
        "10 blocks into 1 packs, 1 journals into one",
        f"100 simulations in {tmp_path / 'run/simulations'}",
    ]
    assert Store(tmp_path / "run/simulations").digest == digest
    assert "0 blocks into 0 packs" in call("compact", tmp_path / "run/simulations").out
    assert call("check", tmp_path / "run/simulations").out.splitlines()[-1] == "no damage"
    refused = call("compact", tmp_path / "nothing")
    assert refused.code == 2
    assert "holds no simulations" in refused.err
