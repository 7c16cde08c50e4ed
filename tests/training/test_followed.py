"""Training that follows a store: what it reads and when, what never moves, and what it gives."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from brief import briefly_trained
from command_line import call
from growing import (
    BLOCK,
    EPOCHS,
    FIRST,
    RECIPE,
    ROWS,
    USABLE,
    Campaign,
    Numbered,
    hashes,
    opened,
    rows,
    running,
    seeded,
    soon,
)
from trainings import SIMULATOR

from sciinf.campaigns import arrivals
from sciinf.campaigns.simulation import simulate
from sciinf.campaigns.store import Store
from sciinf.core import load_simulator
from sciinf.core.files import read_json, write_json
from sciinf.training import Recipe, followed, train
from sciinf.training.estimators.flow import Flow
from sciinf.training.followed import Followed, following


@pytest.fixture(autouse=True)
def few(monkeypatch):
    soon(monkeypatch)


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "store", Numbered(), seed=5, block=BLOCK, rows=ROWS)


# --- which rows, and when -------------------------------------------------------------------------------------------


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_loss_on_fresh_rows_is_that_of_training_after_the_fact(ball, tmp_path, monkeypatch):
    fresh = simulate(ball, tmp_path / "fresh", 4_000, seed=99, progress=False)
    plain = after(ball, fresh, tmp_path)
    monkeypatch.setattr(followed, "LEAST", 400)
    assert above(found := during(ball, fresh, tmp_path, "paced"), plain) < T, (found, plain)
    monkeypatch.setattr(followed, "LEAST", 50)
    monkeypatch.setattr(Followed, "needed", lambda self, number: 0)  # the planted fault: epochs wait for no rows
    assert above(found := during(ball, fresh, tmp_path, "hasty"), plain) > T, (found, plain)


@pytest.mark.slow
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
from sciinf import load_simulator, simulate
from sciinf.campaigns import Store
sim = load_simulator(sys.argv[1])
full = Store(sys.argv[2])
store = Store.create(sys.argv[3], sim, seed=1, block=100, rows=2000)
for k in range(store.blocks):
    store.commit(k, *full.read(k), seconds=0.0)
    time.sleep(0.05)
"""


@pytest.mark.slow
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
