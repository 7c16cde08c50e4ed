"""Worker processes: the same bits as without them; what is refused. What they survive is in `test_engines.py`."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from sciinf.campaigns import campaign, sent, work
from sciinf.campaigns.block import draw_theta, run_block
from sciinf.campaigns.simulation import repair, simulate
from sciinf.campaigns.store import Store
from sciinf.campaigns.workers import Here, Workers
from sciinf.core import load_simulator

SIMULATOR = """
import os, signal
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
        if first == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
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


def source(folder: Path, kill: str = "") -> Path:
    """A simulator's file; a block may kill, which is named by its first parameter."""
    file = folder / "noisy.py"
    file.write_text(f"KILL = {kill!r}\n" + SIMULATOR)
    return file


@pytest.mark.slow
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


@pytest.mark.long  # three more workers have to die
def test_repair_of_a_block_that_kills(tmp_path):
    plan = Store.create(tmp_path / "plan", load_simulator(source(tmp_path)), seed=0, block=25, rows=100)
    killer = f"{float(draw_theta(plan, 1)[0, 0]):.9g}"
    simulator = load_simulator(source(tmp_path, kill=killer))
    with pytest.warns(UserWarning, match="25 of 100"):
        digest = simulate(simulator, tmp_path / "s", 100, workers=2, progress=False).digest
    Store(tmp_path / "s").file(1).unlink()
    assert repair(Store(tmp_path / "s"), simulator) == [1]
    assert Store(tmp_path / "s").digest == digest


@pytest.mark.slow
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


def test_workers_are_told_of_the_store_wherever_a_simulator_has_gone_meanwhile(tmp_path, monkeypatch):
    """Some of its blocks may have been run here, and a simulator may stay in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    simulator = load_simulator(source(tmp_path))
    store = Store.create("s", simulator, seed=0, block=25, rows=100)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    here = campaign.Campaign(store, simulator, [0], device="cpu", timeout=None)
    assert sent.job_of(here, tmp_path).store == str((tmp_path / "s").resolve())
    work.note_of(store, simulator)
    assert (tmp_path / "s" / work.NOTE).is_file()


@pytest.mark.long  # a broken pool is opened three times
def test_a_script_without_a_main_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from sciinf.core import load_simulator\nfrom sciinf.campaigns.simulation import simulate\n"
        f"simulate(load_simulator({str(source(tmp_path))!r}), {str(tmp_path / 's')!r}, 100, workers=2)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "if __name__ == '__main__':" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("engine", [Here(), Workers(1)])
def test_blocks_that_somebody_else_has_committed_meanwhile_are_not_run_again(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "LOOK", 0.0)
    (tmp_path / "noisy.py").write_text(SIMULATOR.replace("== KILL", "== ''"))
    simulator = load_simulator(tmp_path / "noisy.py")
    store = Store.create(tmp_path / "s", simulator, seed=0, block=25, rows=250)
    other = Store(tmp_path / "s")
    here = campaign.Campaign(store, simulator, store.missing(), device="cpu", timeout=None)
    with closing(engine.run(here)) as entries:
        found = [next(entries).block]
        for index in range(5, 10):
            run_block(simulator, other, index)
        found += [entry.block for entry in entries]
    assert sorted(found) == list(range(10))
    store.refresh()
    assert not store.missing()
    assert all(len(Store(store.path).history(index)) == 1 for index in (8, 9))  # others may have been in hand
