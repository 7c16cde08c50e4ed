"""`sciinf work` and `sciinf simulate --plan`: workers of any queue from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import call

from sciinf.campaigns.store import Store

ROOT = Path(__file__).parent.parent
SIMULATOR = """
import os, time
import torch
from sciinf import Normal, Observable, Prior, Simulator


class Noisy(Simulator):
    name = "noisy"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}
    block = 5

    def __call__(self, theta, *, generator):
        time.sleep(float(os.environ.get("NAP", 0)))
        return {"v": theta + torch.randn(len(theta), 3, generator=generator)}


simulator = Noisy()
"""


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a simulator, the store of a single process, and one that was begun with --plan."""
    monkeypatch.chdir(tmp_path)
    Path("noisy.py").write_text(SIMULATOR)
    assert call("simulate", "noisy.py", "-n", 60, "--out", "one", "--seed", 7, "-q").code == 0
    result = call("simulate", "noisy.py", "-n", 60, "--out", "store", "--seed", 7, "--plan")
    assert result.code == 0, result.err
    assert "12 of 12 blocks of 5 rows are to be simulated" in result.out
    assert f"sciinf work {tmp_path / 'store'} --share I/40" in result.out
    assert len(Store("store")) == 0
    return tmp_path


def test_workers_go_through_a_plan_without_being_told_the_simulator(planned: Path) -> None:
    first = call("work", "store", "--share", "3/4")
    assert first.code == 0, first.err
    assert "60 simulations in 12 blocks were made here; store is complete" in first.out
    assert Store("store").digest == Store("one").digest
    again = call("work", planned / "store", "--share", "1/4")
    assert again.code == 0
    assert "nothing was to be done" in again.out
    grown = call("simulate", "noisy.py", "-n", 63, "--out", "store", "--seed", 7, "--plan")
    assert "1 of 13 blocks" in grown.out
    (planned / "elsewhere").mkdir()
    (planned / "noisy.py").rename(planned / "elsewhere" / "noisy.py")
    assert "elsewhere" not in call("work", "store").error
    moved = call("work", "store", "--simulator", "elsewhere/noisy.py")
    assert moved.code == 0, moved.err
    assert len(Store("store")) == 63


def test_what_makes_no_sense_is_refused_with_the_way_out(planned: Path) -> None:
    result = call("work", "store", "--share", "41/40")
    assert result.code == 2
    assert "worker I of N" in result.error
    assert "'41/40'" in result.error
    assert "begin it with `sciinf simulate SIM.py -n N --out nowhere --plan`" in call("work", "nowhere").error
    (planned / "store" / "work.json").unlink()
    result = call("work", "store")
    assert result.code == 2
    assert "sciinf work store --simulator SIM.py" in result.error
    (planned / "noisy.py").write_text(SIMULATOR.replace("theta + torch", "theta - torch"))
    result = call("work", "store", "--simulator", "noisy.py")
    assert result.code == 2
    assert "changed" in result.error
    assert len(Store("store")) == 0


def test_options_of_a_slurm_array_are_checked_before_there_is_a_store(planned: Path) -> None:
    result = call("simulate", "noisy.py", "-n", 60, "--out", "other", "--slurm", "queue=debug jobs=4")
    assert result.code == 2
    assert "'queue=debug' is no option of a SLURM array" in result.err
    both = call("simulate", "noisy.py", "-n", 60, "--out", "other", "--slurm", "jobs=4", "--plan")
    assert "--plan only begins the store" in both.error
    two = call(
        "infer",
        "noisy.py",
        "--observation",
        "x.csv",
        "--out",
        "other",
        "-n",
        200,
        "--slurm",
        "jobs=4",
        "--scheduler",
        "tcp://x:1",
    )
    assert "leave one out" in two.err
    assert not Path("other").exists()


@pytest.mark.slow
def test_sigterm_ends_a_worker_with_130_and_leaves_nothing_torn(planned: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "sciinf.cli", "work", "store"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "NAP": "0.2"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while len(Store("store")) == 0:
        assert time.monotonic() < until
        time.sleep(0.05)
    worker.send_signal(signal.SIGTERM)
    said = worker.communicate()[1]
    assert worker.returncode == 130, said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    store = Store("store")
    assert 0 < len(store.missing()) < 12
    assert not store.damaged()
    assert not (planned / "store" / "working").exists()
    assert call("work", "store").code == 0
    assert Store("store").digest == Store("one").digest
