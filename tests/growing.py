"""What tests of stores that grow have in common: rows that know their number, and a campaign that goes on slowly.

A campaign here commits a block whenever the training sleeps, in an order of its own: the slowest campaign that does not
stand still, on which every epoch waits.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf.campaigns import arrivals
from sciinf.campaigns.store import Store
from sciinf.core import Observable, Outcome, Prior, Simulator, Status
from sciinf.training import Recipe, followed
from sciinf.training.followed import Followed, following

BLOCK, ROWS, FIRST = 100, 1_950, 195  # the first of which are held out
EPOCHS = 8
RECIPE = Recipe(epochs=EPOCHS, batch=150, processes=1)


class Numbered(Simulator):
    """Rows that know their number; one in eleven fails."""

    name, block = "numbered", BLOCK
    prior = Prior(number=td.Normal(0.0, 1.0), other=td.Normal(0.0, 1.0))
    observables = {"v": Observable((3,)), "n": Observable((2,), dtype="int64")}

    def __call__(self, theta, *, generator):
        raise AssertionError("rows never simulate")


def content(index: int, rows: int, failing: bool = True) -> tuple[torch.Tensor, Outcome]:
    number = torch.arange(rows) + index * BLOCK
    noise = torch.randn(rows, 4, generator=torch.Generator().manual_seed(index))
    theta = torch.stack([number.float(), noise[:, 3]], 1)
    x = {"v": noise[:, :3] + number[:, None], "n": torch.stack([number, -number], 1)}
    return theta, Outcome(x, torch.where(number % 11 == 3, failing * int(Status.RAISED), 0).to(torch.uint8), {})


USABLE = [n for n in range(ROWS) if n % 11 != 3]


class Campaign:
    """Commits a block each time that somebody sleeps; `order` says which, and `stop` after how many."""

    def __init__(self, store: Store, commit=None, *, stop: int | None = None) -> None:
        self.store, self.slept = store, 0
        self._commit = commit or (lambda k: store.commit(k, *content(k, store.rows_of(k)), seconds=0.0))
        missing = store.missing()
        order = np.random.default_rng(5).permutation([k for k in missing if k > 1]).tolist()
        order[3:3] = [k for k in missing if k <= 1]
        self._waiting = iter(order[:stop])

    def sleep(self, seconds: float) -> None:
        self.slept += 1
        for index in itertools.islice(self._waiting, 1):
            self._commit(index)
            return
        raise KeyboardInterrupt  # nothing comes any more, and somebody has had enough

    def all(self) -> None:
        for index in self._waiting:
            self._commit(index)


@contextmanager
def running(campaign, monotonic=time.monotonic):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrivals, "time", SimpleNamespace(sleep=campaign.sleep, monotonic=monotonic))
        yield campaign


def opened(store, tmp_path, memory=2**30) -> Followed:
    found = following({}, Store(store.path), tmp_path / "out", recipe=Recipe(memory=memory), seed=0, shown=False)
    (tmp_path / "out").mkdir(parents=True, exist_ok=True)
    return found


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(batches) -> list[int]:
    """Which rows came, each looked at."""
    found = []
    for batch in batches:
        number = batch.theta[:, 0].long()
        assert torch.equal(batch.x["n"][:, 0], number)
        assert torch.equal(batch.x["n"][:, 1], -number)
        assert ((batch.x["v"] - number[:, None]).abs() < 10).all()
        found += number.tolist()
    return found


def hashes(batches) -> set[str]:
    """Of each row's parameters."""
    return {hashlib.sha256(row.numpy().tobytes()).hexdigest() for batch in batches for row in batch.theta}


def soon(monkeypatch) -> None:
    """Have trainings begin with fewer rows than users' do."""
    monkeypatch.setattr(followed, "LEAST", 100)
    monkeypatch.setattr(followed, "SHARE", 0.05)
    monkeypatch.setattr(followed, "FEW", 100)
