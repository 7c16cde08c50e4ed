"""Packs as a reader sees them whose listings are not of one moment, and what a store knows of them afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sciinf import Normal, Observable, Prior, Simulator
from sciinf.campaigns.storage.folder import Listing, LocalFolder
from sciinf.campaigns.store import Store
from sciinf.core import Outcome

PER, BLOCK = 4, 5


class Plain(Simulator):
    name = "plain"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}

    def __call__(self, theta, *, generator):
        raise AssertionError("the store never simulates")


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A store of two full folders."""
    for module in ("description", "compact", "naming"):
        monkeypatch.setattr(f"sciinf.campaigns.storage.{module}.PER_FOLDER", PER)
    store = Store.create(tmp_path / "s", Plain(), seed=0, block=BLOCK, rows=2 * PER * BLOCK)
    for index in range(store.blocks):
        commit(store, index)
    return tmp_path / "s"


def commit(store: Store, index: int, value: float = 0.0) -> None:
    x = {"v": torch.full((BLOCK, 3), value)}
    store.commit(index, torch.zeros(BLOCK, 1), Outcome(x, torch.zeros(BLOCK, dtype=torch.uint8)), seconds=0.1)


@pytest.mark.parametrize("known", [False, True])  # the packs, by then
def test_a_pack_whose_tar_was_not_listed_is_there_once_it_is(path: Path, monkeypatch, known):
    reader = Store(path)
    digest = reader.digest
    Store(path).compact()
    if known:
        reader.refresh()
    listed = LocalFolder.listed

    def half(self, inside, before=None):
        found = listed(self, inside, before)
        names = (name for name in found.names if not name.endswith(".tar"))
        return Listing(frozenset(names)) if inside == "packs" else found

    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "listed", half)
        for _ in range(2):
            reader.refresh()
            assert reader.missing() == list(range(2 * PER)), "no block counts that nobody sees"
            assert len(reader.history(3)) >= 1
            assert reader.known.shelf.packs.serial(0) == 2, "no number is given twice"
    reader.refresh()
    assert (reader.missing(), reader.damaged(), reader.digest) == ([], [], digest)


@pytest.fixture
def disputed(path: Path, monkeypatch) -> Store:
    """A store whose first three blocks two kinds of machines have written, so that journals disagree on them."""
    other = Store(path)
    with monkeypatch.context() as patch:
        patch.setattr("sciinf.campaigns.storage.journal._token", lambda pid: "another")
        for index in range(3):
            commit(other, index, value=index + 0.5)
    return Store(path)


def test_blocks_on_which_journals_disagree_are_looked_at_once(disputed: Store, monkeypatch):
    looks, verify = list[int](), disputed.known.verify
    monkeypatch.setattr(disputed.known, "verify", lambda index: looks.append(index) or verify(index))
    for index in range(disputed.blocks):
        assert not disputed.lacks(index)
    assert len(disputed) == disputed.rows
    assert looks == [0, 1, 2]
    disputed.file(1).write_bytes(disputed.file(2).read_bytes())
    disputed.refresh()
    assert len(disputed) == disputed.rows, "a damaged one is there, and named by a check"
    assert looks == [0, 1, 2] * 2
    assert [damage.block for damage in disputed.damaged()] == [1]


def test_a_block_on_which_journals_disagree_is_missed_once_it_is_gone(disputed: Store):
    disputed.file(1).unlink()
    assert disputed.missing() == [1]
    disputed.refresh()
    assert (disputed.missing(), disputed.lacks(0)) == ([1], False)
