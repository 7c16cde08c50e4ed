"""A Dask cluster: what is refused, and what is said. What campaigns survive there is in `test_engines.py`."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import distributions as td

from sciinf.campaigns import cluster, cluster_block
from sciinf.campaigns.campaign import Campaign
from sciinf.campaigns.cluster import Cluster
from sciinf.campaigns.sent import job_of
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store
from sciinf.campaigns.workers import Here, Workers
from sciinf.core import Observable, Prior, Simulator, load_simulator
from sciinf.core.files import read_json

distributed = pytest.importorskip("distributed")

SIMULATOR = """
import torch
from sciinf import Normal, Observable, Prior, Simulator


class Plain(Simulator):
    name, prior, observables, block = "plain", Prior(a=Normal(0.0, 1.0)), {"x": Observable((2,))}, 20

    def __call__(self, theta, *, generator):
        return {"x": theta + torch.randn(len(theta), 2, generator=generator)}


simulator = Plain()
"""


class Unfiled(Simulator):
    name, prior, observables = "unfiled", Prior(a=td.Normal(0.0, 1.0)), {"x": Observable()}

    def __call__(self, theta, *, generator):
        return {"x": theta[:, 0] + torch.randn(len(theta), generator=generator)}


@pytest.fixture
def simulator(tmp_path):
    (tmp_path / "plain.py").write_text(SIMULATOR)
    return load_simulator(tmp_path / "plain.py")


@pytest.fixture
def asked(simulator, tmp_path, monkeypatch):
    """What a worker is told of a block; it is called here, by nobody."""
    monkeypatch.setattr(distributed, "get_worker", lambda: SimpleNamespace(status=SimpleNamespace(name="closed")))
    store = Store.create(tmp_path / "s", simulator, seed=0, block=20, rows=60)
    (claims := tmp_path / "s/claims-1").mkdir()
    job = job_of(Campaign(store, simulator, [0, 1, 2], device="cpu", timeout=None), claims)
    conditions = cluster_block.conditions_of(simulator, "cpu")
    told = {"code": cluster_block.code(), "job": vars(job), "timeout": None, "conditions": conditions, "block": 1}
    return {**told, "claim": "1.1"}


def answer(asked: Mapping[str, object], **other) -> dict[str, object]:
    return json.loads(cluster_block.run_told(json.dumps({**asked, **other})))


def test_what_cannot_run_there_is_refused_at_once(simulator, tmp_path):
    with pytest.raises(ValueError, match=r"'unfiled' is in no file.* on a disk that they share"):
        simulate(Unfiled(), tmp_path / "s", 10, engine=Cluster("tcp://127.0.0.1:1"))
    assert not (tmp_path / "s").exists()
    with pytest.raises(ValueError, match=r"no scheduler file .*none.json"):
        simulate(simulator, tmp_path / "s", 10, engine=Cluster(str(tmp_path / "none.json")))
    with pytest.raises(ValueError, match="ends with its port"):
        simulate(simulator, tmp_path / "s", 10, engine=Cluster("127.0.0.1"))
    with pytest.raises(ValueError, match=r"give one of the two \(--workers, or --scheduler"):
        simulate(simulator, tmp_path / "s", 10, workers=2, engine=Workers(2))
    with pytest.raises(TypeError, match=r"such as Workers\(4\), got str"):
        simulate(simulator, tmp_path / "s", 10, engine="tcp://127.0.0.1:1")
    with pytest.raises(ValueError, match=r"Here\(\) cannot stop a block at its timeout"):
        simulate(simulator, tmp_path / "s", 10, timeout=3.0, engine=Here())
    with pytest.raises(ValueError, match="count must be an integer of at least 1"):
        Workers(0)


def test_a_worker_commits_and_reports_what_it_committed(asked, simulator, tmp_path):
    digest = simulate(simulator, tmp_path / "one", 60, progress=False).digest
    entries = [answer(asked, block=k, claim=f"{k}.1")["entry"] for k in range(3)]
    store = Store(tmp_path / "s")
    assert [entry["sha256"] for entry in entries] == [entry.sha256 for _, entry in store.entries()]
    assert store.digest == digest


def test_a_worker_that_is_not_like_the_campaign_says_how(asked):
    error = answer(asked, code="0" * 12)["error"]
    assert "runs another version of sciinf" in error["words"]
    error = answer(asked, conditions={**asked["conditions"], "torch": "1.0"})["error"]
    assert "versions are not those of the campaign (torch 1.0 -> " in error["words"]
    error = answer(asked, job={**asked["job"], "claims": asked["job"]["claims"] + "2"}, claim="1.2")["error"]
    assert "must lie on a disk that all machines share" in error["words"]
    Path(asked["job"]["source"]).write_text(SIMULATOR.replace("theta + ", "theta - "))
    error = answer(asked, job={**asked["job"], "device": "cpu:0"}, claim="1.3")["error"]
    assert "has changed since the campaign began" in error["words"]


def test_a_claim_that_cannot_be_written_says_what_is_safe(asked):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as if the disk were full
    try:
        error = answer(asked)["error"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (error["kind"], error["errno"]) == ("OSError", errno.EFBIG)
    assert re.search(r"/s cannot be written: File too large\. Blocks committed so far are safe; ", error["words"])


def test_who_had_a_block_before_decides_what_it_costs(asked):
    claim = Path(asked["job"]["claims"]) / "1.1"
    claim.write_text("the worker in process 7 of node3\n")
    assert answer(asked) == {"lost": "the worker in process 7 of node3 ended without a word", "late": False}
    claim.write_text("the worker in process 7 of node3\nTimeout (0:00:04)!\nThread 0x00007f (most recent call first):")
    assert answer(asked)["late"]
    claim.with_name("1.1.left").touch()  # it was told to end
    assert answer(asked) == {"left": True}
    done = answer(asked, claim="1.2")
    assert answer(asked) == done, "it ended after the block was committed"
    cluster_block.forget(claim)
    assert [file.name for file in claim.parent.iterdir()] == ["1.2"]


@pytest.mark.slow
def test_a_scheduler_that_is_gone_is_waited_for_and_then_said(simulator, tmp_path, monkeypatch, capsys):
    """And it says that it waits for workers meanwhile; a Ctrl-C would end it as well."""
    monkeypatch.setattr(cluster, "_ANSWER", 1.0)
    file = tmp_path / "scheduler.json"
    command = ["dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    command[0] = str(Path(sys.executable).with_name("dask"))
    scheduler = subprocess.Popen([*command, "--scheduler-file", str(file)], stderr=subprocess.DEVNULL)
    told = list[str]()
    monkeypatch.setattr(cluster, "tell", lambda words: (told.append(words), scheduler.send_signal(signal.SIGKILL)))
    try:
        while not file.exists():
            time.sleep(0.1)
        with pytest.raises(
            RuntimeError, match=r"no scheduler answers at .*scheduler\.json .* the same command goes on"
        ):
            simulate(simulator, tmp_path / "s", 60, progress=False, engine=Cluster(str(file), patience=2.0))
    finally:
        scheduler.kill()
        scheduler.wait()
    assert told == [f"waiting for workers: there are none at {file}"]
    assert not list((tmp_path / "s").glob("claims-*"))


def test_resources_decide_who_counts_as_a_worker(simulator, tmp_path):
    store = Store.create(tmp_path / "s", simulator, seed=0, block=20, rows=60)
    campaign = Campaign(store, simulator, [0], device="cpu", timeout=None)
    one = cluster._GivenOut(Cluster("tcp://a:1", resources={"programs": 1}), campaign, tmp_path)
    assert [one._serves(has) for has in ({}, {"programs": 0.5}, {"programs": 2}, {"GPU": 1})] == [
        False,
        False,
        True,
        False,
    ]


@pytest.mark.slow
def test_a_store_says_where_its_simulator_is(simulator, tmp_path):
    simulate(simulator, tmp_path / "s", 60, timeout=30.0, progress=False)
    note = read_json(tmp_path / "s/work.json")
    assert {key: note[key] for key in ("source", "device", "timeout")} == {
        "source": str(tmp_path / "plain.py"),
        "device": "cpu",
        "timeout": 30.0,
    }
    simulate(Unfiled(), tmp_path / "unfiled", 60, progress=False)
    assert not (tmp_path / "unfiled/work.json").exists()


def test_a_block_whose_process_runs_on_costs_no_try(asked):
    """The scheduler had given that worker up, for instance because a simulator in C did not let it answer."""
    claim = Path(asked["job"]["claims"]) / "1.1"
    claim.write_text(f"the worker in process {os.getpid()} of {platform.node()}\n")
    assert answer(asked) == {"left": True}
    claim.write_text(f"the worker in process {os.getpid()} of {platform.node()}\nTimeout (0:00:04)!")
    assert answer(asked)["late"]
    claim.write_text(f"the worker in process {2**22 + 1} of {platform.node()}\n")
    assert str(answer(asked)["lost"]).endswith("ended without a word")
