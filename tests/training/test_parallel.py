"""Several processes that train one network: the curves, weights and files of one, resuming on any number, and a death.

`together.py` runs all trainings once, by one, two and three processes. In float64 nothing but the order of sums tells
one process from several, so there is no false alarm. Of losses that draw, see the test.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import call
from safetensors import safe_open
from safetensors.torch import load_file
from together import RAGGED, SEEDS, SIMULATOR, short
from trainings import FILES

from sciinf.campaigns.simulation import simulate
from sciinf.core import Batch, load_fit, load_simulator
from sciinf.core.files import read_json
from sciinf.training import launched
from sciinf.training.checkpoint import read_checkpoint
from sciinf.training.learner import stream_seed
from sciinf.training.parallel import Several, SingleProcess
from sciinf.training.together import check_same_work, refuse_together

TESTS = Path(__file__).parents[1]
NEAR = 1e-6  # relative difference of training losses, whose sum over an epoch is kept in float32
NEARER = 1e-12  # of validation losses, and of weights
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the processes are forked and found in /proc")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = tmp_path_factory.mktemp("store")
    simulate(load_simulator(SIMULATOR), made, 1_000, block=256, seed=3, progress=False)
    return made


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    run = [sys.executable, TESTS / "together.py", store, folder]
    subprocess.run(run, check=True, timeout=550, env={**os.environ, "OMP_NUM_THREADS": "1"})
    codes = json.loads((folder / "codes.json").read_text())
    assert codes == {"one": [0], "two": [0] * 2, "three": [0] * 3, "alone": [0], "left": [0, 0, 9]}, said(folder)
    return folder


def said(folder):
    return {file.stem: file.read_text() for file in sorted(folder.glob("*.txt"))}


def curves(folder):
    history = read_json(folder / "fit.json")["history"]
    return torch.tensor([[row["train_loss"], row["validation_loss"]] for row in history], dtype=torch.float64)


def alike(one, two):
    """Whether curves of training and validation losses differ by rounding alone."""
    return one.shape == two.shape and bool((((one - two) / one).abs() < torch.tensor([NEAR, NEARER])).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow", "streamed", "post_hoc", "ensemble/member_0", "ensemble/member_1", "search"])
def test_two_processes_are_one_but_for_rounding(trained, name):
    assert alike(curves(trained / "one" / name), curves(trained / "two" / name))
    said_of = [read_json(trained / count / name / "fit.json") for count in ("one", "two")]
    assert said_of[0]["inputs"] == said_of[1]["inputs"]
    assert said_of[0].get("average") == said_of[1].get("average")
    assert sorted(file.name for file in (trained / "two" / name).iterdir()) == FILES


@pytest.mark.slow
def test_what_is_searched_for_is_found_alike(trained):
    one, two = (read_json(trained / count / "search" / "fit.json")["search"] for count in ("one", "two"))
    assert one["batch"]["batch"] == two["batch"]["batch"]
    assert one["learning_rate"]["learning_rate"] == pytest.approx(two["learning_rate"]["learning_rate"], rel=1e-9)


@pytest.mark.slow
def test_three_processes_are_one_but_for_rounding(trained):
    assert alike(curves(trained / "one" / "flow"), curves(trained / "three" / "flow"))
    one, three = (load_fit(trained / count / "flow").learned.state_dict() for count in ("one", "three"))
    assert all(torch.allclose(one[name].double(), three[name].double(), rtol=NEARER, atol=NEARER) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["one_two", "two_one", "two_three"])
def test_another_number_of_processes_goes_on_from_the_checkpoint(trained, way):
    cut, whole = trained / way.split("_")[0] / "cut", curves(trained / "one" / "flow")
    about, _ = read_checkpoint(cut / "checkpoint.safetensors", read_json(trained / way / "fit.json")["inputs"], "cpu")
    assert about["epochs"] == 6 < len(whole)
    assert alike(whole, curves(trained / way))
    assert sorted(file.name for file in (trained / way).iterdir()) == FILES


@pytest.mark.slow
def test_a_loss_that_draws_differs_as_with_another_seed(trained):
    """The best validation loss lies within 7 standard deviations of those of four seeds.

    A fifth normal value lies so far from the mean of four, t_3 > 7 / sqrt(1.25) = 6.3, in 0.8 % of cases; the seeds are
    fixed, and where this passed once it passes.
    """
    ends = [float(curves(trained / "one" / f"score_{seed}")[:, 1].min()) for seed in SEEDS]
    two = float(curves(trained / "two" / "score_0")[:, 1].min())
    assert two != ends[0]
    assert abs(two - statistics.mean(ends)) < 7 * statistics.stdev(ends)


@pytest.mark.slow
def test_each_process_draws_noise_of_its_own(trained):
    seeds = [stream_seed(3, 7, rank) for rank in range(4)]
    assert len(set(seeds)) == 4
    assert seeds[0] == stream_seed(3, 7)
    first, second = (json.loads((trained / f"drawn_{rank}.json").read_text()) for rank in range(2))
    assert set(first[-27:]) == {stream_seed(5, 2 * epoch + 1) for epoch in range(3)}
    assert set(second[-27:]) == {stream_seed(5, 2 * epoch + 1, 1) for epoch in range(3)}


@pytest.mark.slow
@pytest.mark.parametrize("count", ["two", "three"])
def test_running_statistics_are_the_mean_over_processes(trained, count):
    """A tenth of the way to the mean of a batch, averaged over shares of it, is a tenth of the way for the batch."""
    shares = {"two": 1e-5, "three": 0.05}[count]  # 100 rows are three shares of unequal size
    one, other = (load_file(trained / c / "running" / "model.safetensors") for c in ("one", count))
    assert torch.allclose(one["mean"], other["mean"], atol=shares * float(one["mean"].abs().max()))
    assert int(one["steps"]) == int(other["steps"]) == 9  # the best weights are those of the first epoch


@pytest.mark.slow
def test_a_loss_that_compares_rows_is_told_of_once(trained):
    texts = said(trained)
    assert texts["two_0"].count("compares the rows of a batch") == 2  # `Ratio`, and the running mean
    assert "compares" not in texts["one_0"]


@pytest.mark.slow
def test_the_first_process_alone_speaks(trained):
    texts = said(trained)
    assert "training  epoch 10/10" in texts["two_0"]
    assert [texts[name] for name in ("two_1", "three_1", "three_2")] == ["", "", ""]


@pytest.mark.slow
def test_what_cannot_be_trained_together_is_refused_by_all(trained):
    first, second = (json.loads((trained / f"refused_{rank}.json").read_text()) for rank in range(2))
    assert first == second
    words = {"seeds": "the training", "folders": "the folder", "memory": "the memory for it", "few": "Recipe(batch=2)"}
    words |= {"simulator": "sciinf simulate SIM.py", "follow": "start it without torchrun"}
    assert all(text in first[name] for name, text in words.items()), first


@pytest.mark.slow
def test_those_that_are_left_end_at_once(trained):
    died = float((trained / "died.txt").read_text())
    for rank in range(2):
        words, when = json.loads((trained / f"left_{rank}.json").read_text())
        assert "another process of this training has ended" in words
        assert when - died < 10  # nothing else that runs here may keep it longer
    assert not (trained / "left" / "fit.json").exists()


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with launched.joined("cpu") as group:
        assert isinstance(group, SingleProcess)
        batch = Batch(torch.zeros(3, 1), {"x": torch.zeros(3, 2)})
        assert group.share(batch) is batch
    check_same_work(group, {"all": "same"})
    refuse_together(group, "nothing", "none")


def test_an_environment_that_says_half_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="RANK, MASTER_ADDR, MASTER_PORT is not set.*unset WORLD_SIZE"):
        launched.launched()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_verbs_that_do_not_share_their_work_are_refused_once(monkeypatch, rank):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    result = call("infer", SIMULATOR, "--observation", "x.csv", "--out", "run", "-n", 100)
    assert result.code == 2
    assert ("`sciinf infer` without torchrun" in result.err) is (rank == "0")
    assert rank == "0" or result.err == ""


def shared(rows, count, members=0):
    parts = []
    for rank in range(count):
        group = object.__new__(Several)
        group.rank, group.count, group.local = rank, count, count
        numbers = torch.arange(float(rows))[:, None]
        batch = Batch(numbers, {"x": numbers}) if not members else None
        batch = batch or Batch(numbers.expand(members, -1, -1), {"x": numbers.expand(members, -1, -1)})
        parts.append(group.share(batch).theta)
    return parts


@pytest.mark.parametrize("members", [0, 2])
def test_shares_are_the_batch(members):
    for rows, count in ((RAGGED, 2), (RAGGED, 3), (3, 3)):
        parts = shared(rows, count, members)
        sizes = {part.shape[-2] for part in parts}
        assert max(sizes) - min(sizes) <= 1
        assert torch.equal(torch.cat(parts, dim=-2)[..., 0].reshape(-1, rows)[0], torch.arange(float(rows)))
    with pytest.raises(ValueError, match="2 rows cannot be shared by 3"):
        shared(2, 3, members)


@pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="nccl wants a CUDA device for each process, and here are fewer"
)
def test_devices_are_one_for_each_process(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert launched.own_device("cuda") == "cuda:1"


def test_devices_that_cannot_be_shared_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "99")
    assert launched.own_device("cpu") == "cpu"
    with pytest.raises(ValueError, match="no CUDA device of its own"):
        launched.own_device("cuda")
    for device in ("mps", "cuda:0"):
        with pytest.raises(ValueError, match="several processes cannot train on"):
            launched.own_device(device)


def children(parent):
    """Process ids of the processes below one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


def torchrun(*args):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@pytest.mark.slow
def test_a_killed_process_ends_the_others_and_the_command_goes_on_with_one(store, tmp_path, monkeypatch):
    """torchrun ... sciinf train, one of its processes killed in the middle of an epoch."""
    command = [TESTS / "together.py", "sciinf", "train", SIMULATOR, store, "--out", tmp_path / "run"]
    running = torchrun(*command)
    checkpoint = tmp_path / "run" / "fit" / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert running.poll() is None, running.communicate()
        time.sleep(0.05)
    victim = max(children(running.pid))
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    _, err = running.communicate(timeout=60)
    assert running.returncode != 0
    assert time.monotonic() - killed < 20
    assert err.count("another process of this training has ended") + err.count("interrupted; the same") == 1, err
    assert not (checkpoint.parent / "fit.json").exists()
    with safe_open(checkpoint, "pt") as file:
        inputs = json.loads(file.metadata()["sciinf"])["inputs"]
    about, _ = read_checkpoint(checkpoint, inputs, "cpu")  # warns if it is not whole
    monkeypatch.setattr("sciinf.Recipe", short)
    result = call(*command[2:])
    assert result.code == 0, result.err
    history = read_json(checkpoint.parent / "fit.json")["history"]
    assert history[: about["epochs"]] == about["histories"][0]
    assert len(history) == short("cpu").epochs
    assert sorted(file.name for file in checkpoint.parent.iterdir()) == FILES
