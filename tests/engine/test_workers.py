"""Worker processes: the same bits as without them, and a worker that dies costs the block it had in hand."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from sciinf.core import Status, load_simulator
from sciinf.engine import campaign, sent, workers
from sciinf.engine.block import draw_theta, run_block
from sciinf.simulation import repair, simulate
from sciinf.store import Store

SIMULATOR = """
import os, signal, time
import torch
from torch import distributions as td
from sciinf.core import Observable, Prior, Simulator


class Noisy(Simulator):
    name = "noisy"
    prior = Prior(a=td.Normal(0.0, 1.0), b=td.Gamma(2.0, 1.0))
    observables = {"v": Observable((3,)), "n": Observable((), dtype="int64")}
    block = 25

    def __call__(self, theta, *, generator):
        first = f"{float(theta[0, 0]):.9g}"
        if first in KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if first in HANG:
            time.sleep(3600)
        if first in LEAVE:
            os._exit(0)
        z = torch.randn(len(theta), 3, generator=generator)
        w = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
        return {"v": theta[:, :1] + z @ w, "n": torch.poisson(theta[:, 1], generator=generator)}


simulator = Noisy()
"""


NOTEBOOK = """
from torch import distributions as td
from sciinf import Observable, Prior, Simulator, wrappers

prior, observables = Prior(a=td.Normal(0.0, 1.0)), {"x": Observable()}

class Plain(Simulator):
    name, prior, observables = "plain", prior, observables
    def __call__(self, theta, *, generator):
        return {"x": theta[:, 0]}

def plain(a, rng):
    return a

def inside():
    return lambda a, rng: a

made = {
    "class": Plain(),
    "function": wrappers.numpy(plain, prior, observables),
    "function in a function": wrappers.numpy(inside(), prior, observables, name="inside"),
}
"""


def source(folder: Path, **first: list[str]) -> Path:
    """A simulator's file; `first` names blocks, by their first parameter, that misbehave."""
    file = folder / "noisy.py"
    lists = "".join(f"{name} = {first.get(name, [])!r}\n" for name in ("KILL", "HANG", "LEAVE"))
    file.write_text(lists + SIMULATOR)
    return file


def test_workers_order_interruptions_and_growth_change_nothing(tmp_path):
    simulator = load_simulator(source(tmp_path))
    digest = simulate(simulator, tmp_path / "one", 260, progress=False).digest
    two = simulate(simulator, tmp_path / "two", 260, workers=2, progress=False)
    assert (two.digest, len(two)) == (digest, 260)

    backwards = Store.create(tmp_path / "back", simulator, seed=0, block=25, rows=260)
    for index in reversed(range(backwards.blocks)):
        run_block(simulator, backwards, index)
    assert backwards.digest == digest

    simulate(simulator, tmp_path / "grown", 110, progress=False)
    assert simulate(simulator, tmp_path / "grown", 260, progress=False).digest == digest
    (tmp_path / "grown/shards/000/00000004.h5").unlink()
    assert simulate(simulator, tmp_path / "grown", 260, progress=False).digest == digest
    # planted fault: another seed, or another block size, is another campaign
    assert simulate(simulator, tmp_path / "seed", 260, seed=1, progress=False).digest != digest
    assert simulate(simulator, tmp_path / "block", 260, block=26, progress=False).digest != digest


def test_workers_that_die_and_hang_cost_their_block_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_TICK", 0.3)
    monkeypatch.setattr(campaign, "TRIES", 2)
    plan = Store.create(tmp_path / "plan", load_simulator(source(tmp_path)), seed=0, block=25, rows=250)
    first = [f"{float(draw_theta(plan, k)[0, 0]):.9g}" for k in range(plan.blocks)]
    simulator = load_simulator(source(tmp_path, KILL=[first[2]], HANG=[first[4]], LEAVE=[first[0]]))
    # the limit is far above what a worker needs to start on a loaded machine, and is waited for by one block alone
    with pytest.warns(UserWarning, match=r"75 of 250 .*\(50 raised, 25 timed out\)"):
        store = simulate(simulator, tmp_path / "s", 250, workers=2, timeout=4, progress=False)
    status = [store.read(k)[1].status for k in range(store.blocks)]
    assert [k for k in range(10) if (status[k] != 0).any()] == [0, 2, 4]
    assert [int(status[k][0]) for k in (0, 2, 4)] == [Status.RAISED, Status.RAISED, Status.TIMED_OUT]
    messages = {k: store.read(k)[1].messages[24] for k in (0, 2, 4)}
    assert "quarantined after 2 tries: its worker process ended without a word" in messages[0]
    assert "killed by SIGKILL" in messages[2]
    assert "not finished within 4 s" in messages[4]
    # the other blocks are what they would have been
    plain = simulate(load_simulator(source(tmp_path)), tmp_path / "plain", 250, progress=False)
    for k in (1, 3, 5, 6, 7, 8, 9):
        assert torch.equal(store.read(k)[1].x["v"], plain.read(k)[1].x["v"])
    digest = store.digest
    source(tmp_path, KILL=[first[2]], HANG=[first[4]], LEAVE=[first[0]])
    store.file(4).unlink()
    assert repair(Store(tmp_path / "s"), simulator) == [4]  # without hanging again
    assert Store(tmp_path / "s").digest == digest


@pytest.mark.slow  # three more workers have to die
def test_repair_of_a_block_that_kills(tmp_path):
    plan = Store.create(tmp_path / "plan", load_simulator(source(tmp_path)), seed=0, block=25, rows=100)
    killer = f"{float(draw_theta(plan, 1)[0, 0]):.9g}"
    simulator = load_simulator(source(tmp_path, KILL=[killer]))
    with pytest.warns(UserWarning, match="25 of 100"):
        digest = simulate(simulator, tmp_path / "s", 100, workers=2, progress=False).digest
    Store(tmp_path / "s").file(1).unlink()
    assert repair(Store(tmp_path / "s"), simulator) == [1]
    assert Store(tmp_path / "s").digest == digest


def test_errors_in_workers_are_the_users(tmp_path):
    file = source(tmp_path)
    file.write_text(file.read_text().replace('"n": torch', '"m": torch'))
    with pytest.raises(ValueError, match=r"missing: \['n'\]; unknown: \['m'\]"):
        simulate(load_simulator(file), tmp_path / "s", 100, workers=2, progress=False)


@pytest.mark.parametrize("made", ["class", "function", "function in a function"])
def test_a_simulator_of_a_notebook_is_refused_at_once_with_the_way_out(made, tmp_path, monkeypatch):
    """And no store is left behind, for it would be of another simulator than the one in the file advised."""
    (tmp_path / "cell.py").write_text(NOTEBOOK)
    spec = spec_from_file_location("__main__", tmp_path / "cell.py")
    notebook = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    spec.loader.exec_module(notebook)
    notebook.__file__ = notebook.__spec__ = None  # as in a notebook: nothing that could be imported again
    simulator = notebook.made[made]
    with pytest.raises(ValueError, match=r"cannot be sent to worker .*Save it in a .py file .*, or use workers=1"):
        simulate(simulator, tmp_path / "store", 100, workers=2, progress=False)
    assert not (tmp_path / "store").exists()
    assert len(simulate(simulator, tmp_path / "store", 100, progress=False)) == 100
    with pytest.raises(ValueError, match="cannot be sent to worker processes"):
        simulate(simulator, tmp_path / "store", 200, timeout=9.0, progress=False)
    notebook.__file__ = __file__  # as in a script, which they run again
    if "in a" not in made:
        sent.check_sendable(simulator)


@pytest.mark.slow  # a broken pool is opened three times
def test_a_script_without_a_main_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from sciinf.core import load_simulator\nfrom sciinf.simulation import simulate\n"
        f"simulate(load_simulator({str(source(tmp_path))!r}), {str(tmp_path / 's')!r}, 100, workers=2)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "if __name__ == '__main__':" in done.stderr
