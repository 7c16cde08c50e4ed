"""An array of SLURM jobs: the store of a single process, whatever becomes of the jobs; errors that say the way out.

Each test runs on a cluster in a folder where SLURM is installed, and on programs that stand for its commands.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path

import pytest
from slurms import pretended

from sciinf.campaigns import slurm_array
from sciinf.campaigns.block import draw_theta, run_block
from sciinf.campaigns.campaign import Campaign
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.slurm_array import SlurmArray, lead_before
from sciinf.campaigns.store import Store
from sciinf.campaigns.work import plan
from sciinf.core import Status, load_simulator

ROOT = Path(__file__).parent.parent.parent
SIMULATOR = """
import os, signal, time
import torch
from torch import distributions as td
from sciinf.core import Observable, Prior, Simulator

if "DIE" in os.environ:
    print("no licence for the solver", flush=True)
    os._exit(9)


class Noisy(Simulator):
    name = "noisy"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}
    block = 5

    def __call__(self, theta, *, generator):
        if f"{float(theta[0, 0]):.9g}" == os.environ.get("KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ.get("NAP", 0)))
        return {"v": theta + torch.randn(len(theta), 3 + ("WRONG" in os.environ), generator=generator)}


simulator = Noisy()
"""
ROWS, BLOCKS = 60, 12


@pytest.fixture(scope="module", params=["pretended", "slurm"])
def queue(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SLURM's commands are there; which SLURM."""
    folder, monkey = tmp_path_factory.mktemp("slurm"), pytest.MonkeyPatch()
    monkey.setenv("PYTHONPATH", str(ROOT))
    monkey.setattr(slurm_array, "LOOK", 0.5)
    monkey.setattr(slurm_array, "TICK", 0.2)
    try:
        if request.param == "pretended":
            monkey.setenv("PATH", str(pretended(folder)), prepend=os.pathsep)
            yield request.param
        else:
            monkey.syspath_prepend(ROOT / "benchmarks")
            here = import_module("slurm_here")
            if reason := here.lacking():
                pytest.skip(reason)
            with here.cluster(folder / "cluster"):
                yield request.param
    finally:
        monkey.undo()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulator's file, and beside it the store of a single process."""
    folder = tmp_path_factory.mktemp("array")
    (folder / "noisy.py").write_text(SIMULATOR)
    simulate(load_simulator(folder / "noisy.py"), folder / "one", ROWS, seed=3, progress=False)
    return folder


@pytest.fixture
def campaign(made: Path, tmp_path: Path) -> Campaign:
    simulator = load_simulator(made / "noisy.py")
    store = plan(simulator, tmp_path / "store", ROWS, seed=3)
    return Campaign(store, simulator, store.missing(), device="cpu", timeout=None)


@pytest.mark.slow
def test_closed_it_cancels_its_jobs_run_again_it_goes_on_and_a_job_that_is_cancelled_is_replaced(
    queue: str, campaign: Campaign, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NAP", "0.6")
    engine = SlurmArray("jobs=1 time=00:05:00")
    engine.check(campaign.simulator)
    with closing(engine.run(campaign)) as entries:
        next(entries)
    until = time.monotonic() + 20
    while subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout:
        assert time.monotonic() < until
        time.sleep(0.1)
    store = Store(campaign.store.path)
    left, found = store.missing(), list[int]()
    assert 0 < len(left) < BLOCKS
    assert not list((store.path / "working").glob("*"))
    with closing(
        SlurmArray("jobs=1").run(Campaign(store, campaign.simulator, left, device="cpu", timeout=None))
    ) as entries:
        for entry in entries:
            found.append(entry.block)
            if len(found) == 1:
                subprocess.run(["scancel", "2_0"], check=True)
    assert sorted(found) == left
    store = Store(campaign.store.path)
    assert store.digest == Store(made / "one").digest
    assert not store.damaged()
    assert not (store.path / "working").exists()
    assert len(list((store.path / "logs").glob("*_0.txt"))) == 3  # closed, cancelled, and the successor
    assert "submitted again" in capsys.readouterr().err


def test_a_look_each_second_does_not_go_through_all_blocks(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    array, other = slurm_array._Array(SlurmArray("jobs=1"), campaign), Store(campaign.store.path)
    assert not list(array._new(all_blocks=True))
    run_block(campaign.simulator, other, 7)
    with monkeypatch.context() as blind:
        blind.delattr(Store, "missing")
        assert [entry.block for entry in array._new()] == [7]
        assert not list(array._new())
        run_block(campaign.simulator, other, 8)
        campaign.store.refresh()  # somebody else looks at the same store; so all are looked at before jobs are replaced
        assert not list(array._new())
    assert [entry.block for entry in array._new(all_blocks=True)] == [8]


@pytest.mark.long
def test_a_block_that_kills_its_jobs_is_given_up(
    queue: str, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KILL", f"{float(draw_theta(campaign.store, 5)[0, 0]):.9g}")
    with closing(SlurmArray("jobs=2").run(campaign)) as entries:
        found = sorted(entry.block for entry in entries)
    store = Store(campaign.store.path)
    assert found == list(range(BLOCKS))
    assert store.counts[Status.RAISED] == 5
    assert "after 3 tries" in store.failures()[0].message


@pytest.mark.slow
@pytest.mark.parametrize("queue", ["pretended"], indirect=True)
def test_a_simulator_that_breaks_its_promises_is_an_error_that_names_the_log(
    queue: str, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG", "1")
    with (
        pytest.raises(ValueError, match=r"'v'.*the job's log is .*logs/\d+_0.txt"),
        closing(SlurmArray("jobs=1").run(campaign)) as entries,
    ):
        list(entries)


@pytest.mark.slow
@pytest.mark.parametrize("queue", ["pretended"], indirect=True)
def test_jobs_that_only_die_are_an_error_that_names_the_log(
    queue: str, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIE", "1")
    monkeypatch.setattr(slurm_array, "MOST", 1)
    with (
        pytest.raises(RuntimeError, match=r"log, .*_0\.txt, ends with: 'no licence"),
        closing(SlurmArray("jobs=1").run(campaign)) as entries,
    ):
        list(entries)


@pytest.mark.slow
@pytest.mark.parametrize("queue", ["pretended"], indirect=True)
def test_jobs_that_are_in_the_queue_already_are_followed_and_no_others_are_submitted(
    queue: str, campaign: Campaign, made: Path
) -> None:
    with closing(SlurmArray("jobs=1").run(campaign)) as first:
        next(first)
        store = Store(campaign.store.path)
        again = Campaign(store, campaign.simulator, list(range(BLOCKS)), device="cpu", timeout=None)
        with closing(SlurmArray("jobs=1").run(again)) as entries:
            assert sorted(entry.block for entry in entries) == list(range(BLOCKS))
    assert len(list((store.path / "logs").glob("*_0.txt"))) == 1
    assert Store(store.path).digest == Store(made / "one").digest


def test_options_that_sbatch_refuses_are_told(queue: str, campaign: Campaign) -> None:
    with (
        pytest.raises(ValueError, match="sbatch refuses .*invalid partition"),
        closing(SlurmArray("partition=nowhere jobs=1").run(campaign)) as entries,
    ):
        next(entries)


@pytest.mark.parametrize(
    "words", ["part=debug", "debug", "time=", "jobs=0", "jobs=many", "time=1 time=2", "mem=1\nwrap=x", "output=x"]
)
def test_options_that_make_no_sense_are_refused(words: str) -> None:
    with pytest.raises(ValueError, match="jobs="):
        SlurmArray(words)


def test_a_simulator_without_a_file_and_a_machine_without_slurm_are_refused(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator = load_simulator(made / "noisy.py")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent / "nothing"))
    with pytest.raises(ValueError, match=r"sbatch, squeue, scancel is not found here.*--plan"):
        SlurmArray().check(simulator)
    simulator.source = None
    with pytest.raises(ValueError, match=r"Save it in a \.py file"):
        SlurmArray().check(simulator)


@pytest.mark.parametrize(
    ("limit", "lead"),
    [(None, 60), ("1", None), ("9:59", None), ("00:10:00", 60), ("30", 60), ("1-0", 60), ("0-0:5", None), ("odd", 60)],
)
def test_workers_are_asked_to_stop_a_minute_before_a_walltime_that_is_long_enough(
    limit: str | None, lead: int | None
) -> None:
    assert lead_before(limit) == lead


def test_the_script_gives_sigterm_to_the_worker_and_quotes_what_is_odd(made: Path, tmp_path: Path) -> None:
    simulator = load_simulator(made / "noisy.py")
    store = plan(simulator, tmp_path / "a store, 100%", ROWS)
    text = slurm_array.script(
        SlurmArray("time=01:00:00 mem=2G"), Campaign(store, simulator, [0], device="cpu", timeout=3.0), "name", 40
    )
    assert "#SBATCH --signal=B:TERM@60\n" in text
    assert "\nexec " in text
    assert "#SBATCH --mem=2G\n" in text
    assert f"'{store.path.resolve()}' --simulator" in text
    assert "--timeout 3 --share" in text
    assert '"$SLURM_ARRAY_TASK_ID/40"' in text
    assert "100%%/logs/%A_%a.txt" in text


def test_where_slurm_is_missing_a_store_that_is_begun_is_refused_at_once(
    campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent / "nothing"))
    with pytest.raises(ValueError, match="is not found here"):
        list(SlurmArray().run(campaign))
    with pytest.raises(ValueError, match="'clusters=far' is no option"):
        SlurmArray("clusters=far")


@pytest.mark.parametrize("queue", ["pretended"], indirect=True)
def test_a_queue_that_is_silent_ends_it_and_cancels_nothing(
    queue: str, campaign: Campaign, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_array, "SILENT", 0.1)
    called = list[tuple[str, ...]]()

    def dead(*words: str) -> subprocess.CompletedProcess[str]:
        called.append(words)
        return subprocess.CompletedProcess(words, 1, "", "")

    monkeypatch.setattr(slurm_array, "_call", dead)
    with pytest.raises(RuntimeError, match=r"has not answered for 0\.1 s\. Jobs were left as they are"):
        list(SlurmArray("jobs=1").run(campaign))
    assert {words[0] for words in called} == {"squeue"}
    assert all(f"--user={os.getuid()}" in words for words in called)
