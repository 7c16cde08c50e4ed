"""Resident memory of a training on more rows than its memory holds, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MEMORY_SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import distributions as td
from sciinf.core import Batch, Density, Estimator, Observable, Outcome, Prior, Simulator
from sciinf.training.rows import Rows
from sciinf.campaigns.store import Store
from sciinf.training import Recipe, train

torch.set_num_threads(1)
MEMORY, WIDTH, BLOCK = 32 * 2**20, 2_000, 1_000
ROWS = 10 * MEMORY // (4 * WIDTH + 4)


class Wide(Simulator):
    name, block = "wide", BLOCK
    prior = Prior(level=td.Normal(0.0, 1.0))
    observables = {"x": Observable((WIDTH,))}

    def __call__(self, theta, *, generator):
        raise NotImplementedError


class Linear(Estimator):
    def __init__(self, prior, observables):
        super().__init__()
        self.prior, self.observables = prior, observables
        self.net = torch.nn.Linear(WIDTH, 1)

    def standardise(self, batches):
        for _ in batches():
            pass

    def loss(self, batch, *, generator):
        return (self.net(batch.x["x"]) - batch.theta).square().sum(-1)

    def condition(self, x):
        raise NotImplementedError

    def features(self, x):
        return self.net(x["x"])


def written(path, rows):
    store = Store.create(path, Wide(), seed=0, block=BLOCK, rows=rows)
    shape = torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    for index in range(store.blocks):
        theta = torch.randn(store.rows_of(index), 1, generator=torch.Generator().manual_seed(index))
        store.commit(index, theta, Outcome({"x": theta * shape}), seconds=0.0)
    return store


def peak():
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines["VmHWM"].split()[0])


out = Path(sys.argv[1])
recipe = Recipe(epochs=2, batch=100, learning_rate=1e-3, memory=int(sys.argv[2]))
store, little = written(out / "store", ROWS), written(out / "little", 200)
estimator = Linear(store.prior, store.observables)
train(estimator, little, out / "first", recipe=recipe)
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
before = peak()
fit = train(estimator, Store(out / "store"), out / "fit", recipe=recipe)
print("GREW", peak() - before, fit.record["store"]["used"], fit.record["best_validation_loss"])
left_open = Rows(store, fraction=0.1, device="cpu", memory=MEMORY).epoch(0, 100, torch.Generator())
next(left_open)  # and the interpreter still ends
"""


@pytest.mark.long
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux, which can reset the peak")
def test_training_stays_within_the_memory_given(tmp_path):
    """Peak of the resident memory of a process that trains on ten times its memory, over what it had before.

    Before means: after all imports and a training of the same network on 200 rows, so that what grows is due to the
    rows. Kept in memory, the same rows are over the bound, or nothing would be measured.
    """
    grew = {}
    for memory in (32 * 2**20, 2**30):
        command = [sys.executable, "-c", MEMORY_SCRIPT, str(tmp_path / str(memory)), str(memory)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if line.startswith("GREW"))
        grew[memory] = int(line.split()[1])
    assert grew[32 * 2**20] < 32 * 2**20
    assert grew[2**30] > 300 * 2**20
