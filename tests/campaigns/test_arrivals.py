"""What has come of a campaign: what counts as committed, what is waited for and said, and what is refused."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from growing import BLOCK, EPOCHS, ROWS, Campaign, Numbered, content, opened, rows, running, seeded, soon

from sciinf.campaigns.arrivals import Arrivals
from sciinf.campaigns.storage.shard import read_shard, write_shard
from sciinf.campaigns.store import Store
from sciinf.core import Outcome
from sciinf.training import Recipe, followed, train
from sciinf.training.estimators.flow import Flow
from sciinf.training.followed import following
from sciinf.training.online import Simulated


@pytest.fixture(autouse=True)
def few(monkeypatch):
    soon(monkeypatch)


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store", Numbered(), seed=5, block=BLOCK, rows=ROWS)


# --- what is not committed ------------------------------------------------------------------------------------------


def plant(store: Store, index: int, kind: str) -> None:
    """Something in the place of a block, which nobody has committed."""
    theta, outcome = content(index, store.rows_of(index), failing=False)
    poison = theta + 1e6
    image, hashed = write_shard(store.prior, store.observables, store._campaign, index, poison, outcome)
    _, other = write_shard(store.prior, store.observables, store._campaign, index, theta, outcome)
    file = store.file(index)
    if kind == "torn":
        file.write_bytes(image[: len(image) * 2 // 3])
    elif kind == "changed":  # whole for HDF5, with the hash of other rows
        assert image.count(hashed.encode()) == 1
        file.write_bytes(image.replace(hashed.encode(), other.encode()))
    elif kind == "temporary":
        (file.parent / f".{file.name}.host.1.tmp").write_bytes(image)
    else:  # of another campaign
        file.write_bytes(write_shard(store.prior, store.observables, "0" * 64, index, poison, outcome)[0])


def check_never_read(store, tmp_path):
    """No planted row comes, however often is looked, until its block is committed; and then its own rows come."""
    planted = dict(zip((11, 13, 15, 17), ("torn", "changed", "temporary", "another"), strict=True))
    for index in range(20):
        if index not in planted:
            store.commit(index, *content(index, store.rows_of(index)), seconds=0.0)
    for index, kind in planted.items():
        plant(store, index, kind)
    with running(Campaign(store)) as campaign:
        source = opened(store, tmp_path)
        source.begin()
        source.pace(EPOCHS)
        for number in range(EPOCHS):
            came = list(source.epoch(number, 64, seeded(number)))
            assert max(float(batch.theta.max()) for batch in came) < ROWS
            there = {n // BLOCK for n in rows(came)}
            assert not there & set(Store(store.path).missing()), "rows of a block that nobody has committed"
    assert campaign.slept >= len(planted)
    assert source.record()["digest"] == Store(store.path).digest


def test_what_is_not_committed_is_never_read(store, tmp_path):
    check_never_read(store, tmp_path)


def naive(monkeypatch, store):
    """The planted fault: whatever lies in the folder of the shards, without a look at hashes or journals."""
    whole = SimpleNamespace(rows=BLOCK, content="")

    def committed(self):
        files = sorted(store.file(0).parent.glob("[0-9]*.h5"))
        return {int(file.stem): whole for file in files if int(file.stem) < 19}

    monkeypatch.setattr(Arrivals, "committed", committed)
    monkeypatch.setattr(Store, "read", lambda self, k: read_shard(self.file(k).read_bytes(), self.observables))


def test_a_reader_of_whatever_lies_there_is_found_out(store, tmp_path, monkeypatch):
    naive(monkeypatch, store)
    with pytest.raises((AssertionError, OSError)):
        check_never_read(store, tmp_path)
    shutil.rmtree(store.path)
    again = Store.create(store.path, Numbered(), seed=5, block=BLOCK, rows=ROWS)
    real = plant
    monkeypatch.setitem(globals(), "plant", lambda s, k, kind: real(s, k, "changed" if kind == "torn" else kind))
    with pytest.raises(AssertionError):  # HDF5 itself notices a file that is cut off, and none that was changed
        check_never_read(again, tmp_path / "again")


def test_a_block_that_is_being_replaced_is_waited_for_and_one_that_stays_damaged_is_told(store, tmp_path):
    for index in range(19):
        store.commit(index, *content(index, store.rows_of(index)), seconds=0.0)
    good = store.file(7).read_bytes()
    store.file(7).write_bytes(good[:-1])
    now = [0.0]

    def mend(seconds):
        now[0] += seconds
        if now[0] > 10:
            store.file(7).write_bytes(good)

    source = opened(store, tmp_path)
    with running(SimpleNamespace(sleep=mend), lambda: now[0]):
        source.begin()
    assert 7 in source.arrivals.read

    store.file(7).write_bytes(good[:-1])
    now[0] = 0.0
    source = opened(store, tmp_path / "stays")
    clock = SimpleNamespace(sleep=lambda s: now.__setitem__(0, now[0] + s))
    told = pytest.raises(ValueError, match=r"00000007.h5 is damaged: .*sciinf check .* --repair")
    with running(clock, lambda: now[0]), told:
        source.begin()
    assert 60 <= now[0] <= 121


# --- what it waits for, and says --------------------------------------------------------------------------------------


def test_it_says_what_it_waits_for_each_minute_and_that_nothing_comes(store, tmp_path, capsys):
    now, said = [0.0], []

    def sleep(seconds):
        assert seconds <= 60
        now[0] += seconds
        said.append(capsys.readouterr().err)
        if now[0] > 600:
            raise KeyboardInterrupt

    source = following({}, Store(store.path), tmp_path / "out", recipe=Recipe(), seed=0)
    with running(SimpleNamespace(sleep=sleep), lambda: now[0]), pytest.raises(KeyboardInterrupt):
        source.begin()
    lines = [line for text in said for line in text.splitlines()]
    assert 9 <= len(lines) <= 12
    assert lines[0] == (
        "waiting for simulations: 0 of 1,950 are there, 295 are needed to begin with, the first 195 among them"
    )
    assert "; none has come for 5 min. If the campaign has stopped, start it again" in lines[5]


def test_looks_at_a_large_store_are_far_between(store, tmp_path):
    now, pauses = [0.0], []

    def sleep(seconds):
        pauses.append(seconds)
        now[0] += seconds
        if len(pauses) == 3:
            raise KeyboardInterrupt

    source = opened(store, tmp_path)
    look = source.arrivals.committed
    source.arrivals.committed = lambda: now.__setitem__(0, now[0] + len(pauses)) or look()
    with running(SimpleNamespace(sleep=sleep), lambda: now[0]), pytest.raises(KeyboardInterrupt):
        source.begin()
    assert pauses == [1.0, 20.0, 40.0]


@pytest.mark.parametrize(
    ("wrong", "kind"), [(Numbered(), "Numbered"), (Simulated(Numbered(), seed=0, buffer=100), "Simulated")]
)
def test_only_a_store_is_followed(wrong, kind, tmp_path):
    with pytest.raises(TypeError, match=f"follow=True is for a Store that grows, got {kind}, .* leave follow out"):
        train(Flow(Numbered.prior, Numbered.observables), wrong, tmp_path / "f", follow=True)


def test_another_campaign_in_the_folder_is_refused(store, tmp_path):
    campaign = Campaign(store)

    def replace(seconds):
        shutil.rmtree(store.path)
        other = Store.create(store.path, Numbered(), seed=6, block=BLOCK, rows=ROWS)
        for index in range(20):
            other.commit(index, *content(index, other.rows_of(index)), seconds=0.0)

    campaign.sleep = replace
    with running(campaign), pytest.raises(ValueError, match="holds another campaign than when this training began"):
        opened(store, tmp_path).begin()
    campaign.sleep = lambda seconds: shutil.rmtree(store.path)
    shutil.rmtree(store.path)
    Store.create(store.path, Numbered(), seed=5, block=BLOCK, rows=ROWS)
    with running(campaign), pytest.raises(FileNotFoundError, match=r"store\.json"):
        opened(store, tmp_path).begin()


def test_too_few_rows_are_refused_at_once_and_too_few_usable_ones_when_they_are_there(tmp_path):
    few = Store.create(tmp_path / "few", Numbered(), seed=5, block=BLOCK, rows=19)
    with pytest.raises(ValueError, match=r"19 simulations were asked for .* simulate more"):
        opened(few, tmp_path)
    bad = Store.create(tmp_path / "bad", Numbered(), seed=5, block=BLOCK, rows=ROWS)

    def fail(index):
        theta, outcome = content(index, bad.rows_of(index))
        bad.commit(index, theta, Outcome(outcome.x, torch.full_like(outcome.status, 2), {}), seconds=0.0)

    with running(Campaign(bad, fail)), pytest.raises(ValueError, match="0 simulations for training and 0 for valid"):
        opened(bad, tmp_path).begin()


def test_it_warns_where_few_rows_standardise(store, tmp_path, monkeypatch):
    monkeypatch.setattr(followed, "FEW", 1_000)
    with running(Campaign(store)), pytest.warns(UserWarning, match="data are standardised by the 233 usable"):
        opened(store, tmp_path).begin()
