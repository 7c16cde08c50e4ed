"""Training that follows a store: what it reads and when, what never moves, what it waits for, and what it gives.

A campaign here commits a block whenever the training sleeps, in an order of its own: the slowest campaign that does not
stand still, on which every epoch waits. One test has a campaign of its own process.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from brief import briefly_trained
from command_line import call
from torch import distributions as td
from trainings import SIMULATOR

from sciinf.core import Observable, Outcome, Prior, Simulator, Status, load_simulator
from sciinf.core.files import read_json, write_json
from sciinf.engine import arrivals, followed
from sciinf.engine.arrivals import Arrivals
from sciinf.engine.followed import Followed, following
from sciinf.engine.online import Simulated
from sciinf.estimators.flow import Flow
from sciinf.simulation import simulate
from sciinf.storage.shard import read_shard, write_shard
from sciinf.store import Store
from sciinf.training import Recipe, train

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


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(followed, "LEAST", 100)
    monkeypatch.setattr(followed, "SHARE", 0.05)
    monkeypatch.setattr(followed, "FEW", 100)


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store", Numbered(), seed=5, block=BLOCK, rows=ROWS)


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


# --- which rows, and when -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [2**30, 0])
def test_rows_that_are_held_out_never_train_while_the_store_grows(store, tmp_path, memory, monkeypatch):
    monkeypatch.setattr(followed, "SMALLEST", 10_000)
    with running(Campaign(store)):
        source = opened(store, tmp_path, memory)
        source.begin()
        source.pace(EPOCHS)
        assert (source._shelves[False].memory is None) == (memory == 0)
        first, trained, theirs = rows(source.ordered(64, validation=True)), set(), set()
        for number in range(EPOCHS):
            batches = list(source.epoch(number, 64, seeded(number)))
            assert len(batches) == source.train // 64
            assert all(len(batch) == 64 for batch in batches)
            trained, theirs = trained | set(rows(batches)), theirs | hashes(batches)
            held = list(source.ordered(64, validation=True))
            assert rows(held) == first
            assert not hashes(held) & theirs
    assert sorted(first) == [n for n in USABLE if n < FIRST]
    assert sorted(trained) == [n for n in USABLE if n >= FIRST]
    assert source.record()["digest"] == Store(store.path).digest
    assert source.record()["used"] == len(USABLE)
    assert source.record()["rows"] == ROWS


@pytest.mark.parametrize("memory", [2**30, 0])
def test_each_epoch_reads_the_rows_there_when_it_begins_evenly(store, tmp_path, memory, monkeypatch):
    monkeypatch.setattr(followed, "SMALLEST", 10_000)
    with running(Campaign(store)) as campaign:
        source = opened(store, tmp_path, memory)
        source.begin()
        source.pace(EPOCHS)
        for number in range(EPOCHS):
            batches = source.epoch(number, 50, seeded(number))
            came = rows(itertools.islice(batches, 1))
            there = source._shelves[False].rows
            for index in itertools.islice(campaign._waiting, 1):  # in the midst of an epoch
                campaign._commit(index)
            came += rows(batches)
            _, counts = np.unique(came, return_counts=True)
            assert len(counts) == min(there, len(came))
            assert counts.max() - counts.min() <= 1
            seen = source._seen[-1]
            assert seen[1] >= min(ROWS, 2 * (number + 1) / EPOCHS * ROWS)
    assert [epoch["epoch"] for epoch in source.record()["followed"]["epochs"]] == [0, 1, 2, 3]
    assert source.record()["followed"]["epochs"][-1] == {"epoch": 3, "rows": ROWS, "blocks": 20}
    assert source.settled == 3


def test_an_epoch_is_one_order_after_the_other(store, tmp_path):
    """When all rows are there, the batches are those of a training after the fact."""
    with running(Campaign(store)) as campaign:
        campaign.all()
        source = opened(store, tmp_path)
        source.begin()
        source.pace(4)
        some = source._shelves[False].memory.rows(slice(0, 100))
        again = rows(followed.repeated(some, 40, 10, seeded()))
        assert [len(set(again[k : k + 100])) for k in range(0, 400, 100)] == [100] * 4
        assert again[:100] != again[100:200]


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


def test_several_processes_do_not_follow(store, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="follow=True trains in one process"):
        opened(store, tmp_path)


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


# --- trainings ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ball():
    return load_simulator(SIMULATOR)


@pytest.fixture(scope="module")
def full(ball, tmp_path_factory):
    return simulate(ball, tmp_path_factory.mktemp("full") / "s", 2_000, seed=1, block=BLOCK, progress=False)


def growing(full, ball, folder, rows=2_000, **how) -> tuple[Store, Campaign]:
    store = Store.create(folder, ball, seed=1, block=BLOCK, rows=rows)
    return store, Campaign(store, lambda k: store.commit(k, *full.read(k), seconds=0.0), **how)


def flow(ball, seed=0):
    return Flow(ball.prior, ball.observables, seed=seed)


def follow(store, out, ball, recipe=RECIPE, seed=0):
    return train(flow(ball, seed), Store(store.path), out, recipe=recipe, seed=seed, follow=True, progress=False)


def test_an_interrupted_training_goes_on_with_the_same_held_out_rows_though_the_store_grew(
    full, ball, tmp_path, capsys
):
    store, campaign = growing(full, ball, tmp_path / "s", stop=12)
    with running(campaign), pytest.raises(KeyboardInterrupt):
        follow(store, tmp_path / "fit", ball)
    note = read_json(tmp_path / "fit" / "followed.json")
    assert note["rows"] == 2_000
    assert note["epochs"][-1][0] == 1
    assert (tmp_path / "fit/checkpoint.safetensors").is_file()

    store, campaign = growing(full, ball, tmp_path / "s", rows=20_000)
    campaign._waiting = iter(k for k in store.missing() if k < 20)
    with running(campaign):
        fit = follow(store, tmp_path / "fit", ball)
    history, told = fit.record["history"], fit.record["store"]
    assert [row["epoch"] for row in history] == list(range(EPOCHS))
    assert told["rows"] == told["used"] == 2_000
    assert told["held_out"] == 200
    assert told["digest"] == full.digest
    assert told["followed"]["standardised_by"] == BLOCK * len(note["start"]) - 200
    assert [one["epoch"] for one in told["followed"]["epochs"]] == [0, 1, 2, 3]
    assert not (tmp_path / "fit" / "followed.json").exists()

    with running(Campaign(store, stop=0)), pytest.raises(KeyboardInterrupt):  # a training of 20,000 waits for them
        train(flow(ball), Store(store.path), tmp_path / "fit", recipe=RECIPE, follow=True)
    assert "waiting for simulations: 2,000 of 20,000 are there, 2,900 are needed" in capsys.readouterr().err


def test_standardisation_is_that_of_the_start_when_it_goes_on(full, ball, tmp_path):
    store, campaign = growing(full, ball, tmp_path / "s")
    with running(campaign):
        source = following({}, Store(store.path), tmp_path, recipe=RECIPE, seed=0, shown=False)
        source.begin()
        before = torch.cat([batch.theta for batch in source.ordered(64, validation=False)])
        campaign.all()
        again = following({}, Store(store.path), tmp_path, recipe=RECIPE, seed=0, shown=False)
        again.begin()
    assert len(before) < 1_800
    assert torch.equal(torch.cat([batch.theta for batch in again.ordered(64, validation=False)]), before)


def test_held_out_rows_that_changed_and_a_damaged_note_are_told(full, ball, tmp_path):
    store, campaign = growing(full, ball, tmp_path / "s")
    campaign.all()
    following({}, Store(store.path), tmp_path, recipe=RECIPE, seed=0, shown=False).begin()
    note = read_json(tmp_path / "followed.json")
    write_json(tmp_path / "followed.json", {**note, "held_out": {**note["held_out"], "1": "0" * 64}})
    with pytest.raises(ValueError, match=r"are not those that this training began with \(block 1\)"):
        following({}, Store(store.path), tmp_path, recipe=RECIPE, seed=0, shown=False).begin()
    text = (tmp_path / "followed.json").read_text()
    (tmp_path / "followed.json").write_text(text.replace('"rows": 2000', '"rows": 3000'))
    with pytest.raises(ValueError, match=r"followed\.json is damaged"):
        following({}, Store(store.path), tmp_path, recipe=RECIPE, seed=0, shown=False)


def test_a_finished_fit_is_read_back_by_its_campaign_and_replaced_when_more_rows_are_asked_for(full, ball, tmp_path):
    store, campaign = growing(full, ball, tmp_path / "s")
    with running(campaign):
        fit = follow(store, tmp_path / "fit", ball)
    assert campaign.slept >= 19
    assert fit.record["store"]["digest"] == full.digest
    assert follow(store, tmp_path / "fit", ball).digest == fit.digest
    assert follow(full, tmp_path / "fit", ball).digest == fit.digest  # the same campaign in another folder
    store, campaign = growing(full, ball, tmp_path / "s", rows=2_100)
    said = pytest.warns(UserWarning, match="holds a fit with another store; it stays until")
    with running(Campaign(store, stop=0)), said, pytest.raises(KeyboardInterrupt):
        follow(store, tmp_path / "fit", ball, recipe=RECIPE)


def test_patience_counts_from_the_first_epoch_that_has_all_rows(full, ball, tmp_path, monkeypatch):
    """A learning rate of nothing never gets better, so that patience alone says when it ends."""
    recipe = Recipe(epochs=EPOCHS, batch=150, processes=1, patience=2, learning_rate=1e-30)
    store, campaign = growing(full, ball, tmp_path / "s")
    with running(campaign):
        fit = follow(store, tmp_path / "fit", ball, recipe)
    assert len(fit.record["history"]) == 3 + 2 + 1
    assert fit.record["store"]["rows"] == 2_000


def judged(fit, fresh) -> float:
    """Loss on fresh simulations."""
    with torch.no_grad():
        return float(fit.estimator.loss(fresh.load(), generator=seeded()).mean())


T = 3.747  # quantile 0.99 of Student's t with 4 degrees of freedom: the false-alarm rate is 1 %


SPREAD = Recipe(epochs=12, batch=75, processes=1)


def after(ball, fresh, folder) -> list[float]:
    """Loss on fresh rows of three trainings after the fact, each of its own campaign of 1,000 rows."""
    losses = []
    for seed in range(3):
        full = simulate(ball, folder / f"full{seed}", 1_000, seed=seed, block=50, progress=False)
        fit = train(flow(ball, seed), full, folder / f"after{seed}", recipe=SPREAD, seed=seed, progress=False)
        losses.append(judged(fit, fresh))
    return losses


def during(ball, fresh, folder, name) -> list[float]:
    """The same of three that follow the same campaigns."""
    losses = []
    for seed in range(3):
        full = Store(folder / f"full{seed}")
        store = Store.create(folder / f"{name}{seed}", ball, seed=seed, block=50, rows=1_000)
        with running(Campaign(store, lambda k, s=store, f=full: s.commit(k, *f.read(k), seconds=0.0))):
            losses.append(judged(follow(store, folder / f"{name}_fit{seed}", ball, SPREAD, seed), fresh))
    return losses


def above(some, others) -> float:
    """How far one mean is above another, in errors of the difference; the spread is that of data and of trainings."""
    spread = np.sqrt((np.var(some, ddof=1) + np.var(others, ddof=1)) / 3)
    return float((np.mean(some) - np.mean(others)) / spread)


def test_the_loss_on_fresh_rows_is_that_of_training_after_the_fact(ball, tmp_path, monkeypatch):
    fresh = simulate(ball, tmp_path / "fresh", 4_000, seed=99, progress=False)
    plain = after(ball, fresh, tmp_path)
    monkeypatch.setattr(followed, "LEAST", 400)
    assert above(found := during(ball, fresh, tmp_path, "paced"), plain) < T, (found, plain)
    monkeypatch.setattr(followed, "LEAST", 50)
    monkeypatch.setattr(Followed, "needed", lambda self, number: 0)  # the planted fault: epochs wait for no rows
    assert above(found := during(ball, fresh, tmp_path, "hasty"), plain) > T, (found, plain)


@briefly_trained(40)
def test_the_command_follows(full, ball, tmp_path):
    store, campaign = growing(full, ball, tmp_path / "s")
    with running(campaign):
        first = call("train", SIMULATOR, store.path, "--out", tmp_path / "run", "--follow")
    assert first.code == 0, first.err
    assert "following the store: " in first.err
    assert "waiting for simulations: 0 of 2,000 are there, 300 are needed to begin with" in first.err
    told = read_json(tmp_path / "run" / "fit" / "fit.json")["store"]
    assert told["digest"] == full.digest
    assert told["followed"]["asked"] == 2_000


LATE = """
import sys, time
from sciinf import Store, load_simulator, simulate
sim = load_simulator(sys.argv[1])
full = Store(sys.argv[2])
store = Store.create(sys.argv[3], sim, seed=1, block=100, rows=2000)
for k in range(store.blocks):
    store.commit(k, *full.read(k), seconds=0.0)
    time.sleep(0.05)
"""


def test_a_campaign_of_another_process_is_followed_to_its_end(full, ball, tmp_path, monkeypatch):
    monkeypatch.setattr(arrivals, "POLL", 0.02)
    monkeypatch.setattr(arrivals, "SHARE", 1.0)
    Store.create(tmp_path / "s", ball, seed=1, block=BLOCK, rows=2_000)
    with subprocess.Popen([sys.executable, "-c", LATE, str(SIMULATOR), str(full.path), str(tmp_path / "s")]) as other:
        fit = train(flow(ball), Store(tmp_path / "s"), tmp_path / "fit", recipe=RECIPE, follow=True, progress=False)
    assert other.returncode == 0
    told = fit.record["store"]
    assert told["digest"] == full.digest
    assert told["followed"]["waited"] > 0
    assert told["followed"]["epochs"][0]["rows"] < 2_000 == told["followed"]["epochs"][-1]["rows"]
