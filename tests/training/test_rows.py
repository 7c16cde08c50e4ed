"""Training rows: the same set in memory and streamed, shuffled, read ahead without a race, within the memory given."""

from __future__ import annotations

import shutil
import threading
from functools import cache

import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf.campaigns.storage import selection
from sciinf.campaigns.storage.selection import dealt, empty, grouped
from sciinf.campaigns.store import Store
from sciinf.core import Observable, Outcome, Prior, Simulator, Status
from sciinf.training import rows
from sciinf.training.rows import Rows

BLOCK, COUNT = 100, 1_930
BIG, TINY = 2**30, 100_000  # bytes: all rows fit, or about a third of them


class Kinds(Simulator):
    """Rows that know their number, with an observable of every dtype; one in eleven fails."""

    name, block = "kinds", BLOCK
    prior = Prior(number=td.Normal(0.0, 1.0), other=td.Normal(0.0, 1.0))
    observables = {
        "v": Observable((20,), dims=("time",)),
        "wide": Observable((2, 3), dtype="float64"),
        "n": Observable((2,), dtype="int64"),
        "v_mask": Observable((20,), dtype="bool"),
        "scalar": Observable(),
    }

    def __call__(self, theta, *, generator):
        raise AssertionError("rows never simulate")


@cache
def block_of(index: int, count: int) -> tuple[torch.Tensor, Outcome]:
    generator = torch.Generator().manual_seed(index)
    number = torch.arange(count) + index * BLOCK
    x = {
        "v": torch.randn(count, 20, generator=generator) + number[:, None],
        "wide": torch.randn(count, 2, 3, generator=generator, dtype=torch.float64),
        "n": torch.stack([number, -number], dim=1),
        "v_mask": torch.rand(count, 20, generator=generator) > 0.5,
        "scalar": number.float(),
    }
    theta = torch.stack([number.float(), torch.randn(count, generator=generator)], dim=1)
    status = torch.where(number % 11 == 3, int(Status.RAISED), 0).to(torch.uint8)
    return theta, Outcome(x, status, {})


@cache
def every() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    blocks = [block_of(index, min(BLOCK, COUNT - index * BLOCK)) for index in range(-(-COUNT // BLOCK))]
    x = {name: torch.cat([outcome.x[name] for _, outcome in blocks]) for name in Kinds.observables}
    return torch.cat([theta for theta, _ in blocks]), x


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    made = Store.create(tmp_path_factory.mktemp("rows") / "store", Kinds(), seed=5, block=BLOCK, rows=COUNT)
    for index in range(made.blocks):
        made.commit(index, *block_of(index, made.rows_of(index)), seconds=0.0)
    return made.path


@pytest.fixture
def store(original, tmp_path):
    return Store(shutil.copytree(original, tmp_path / "store"))


@pytest.fixture
def small_buffers(monkeypatch):
    monkeypatch.setattr(rows, "SMALLEST", 10_000)


def of(store, memory, device="cpu"):
    return Rows(store, fraction=0.2, device=device, memory=memory)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


USABLE = [n for n in range(COUNT) if n % 11 != 3]
TRAIN = [n for n in USABLE if n < COUNT - 386]
VALIDATION = USABLE[len(TRAIN) :]


def numbers(batches, whole=True, before=lambda: None) -> list[int]:
    """Which rows came, each looked at in full when it comes (or its number alone), and after `before`."""
    found = []
    for batch in batches:
        before()
        number = batch.theta[:, 0].long().cpu()
        found += number.tolist()
        if not whole:
            continue
        theta, x = every()
        assert torch.equal(batch.theta.cpu(), theta[number])
        assert all(torch.equal(batch.x[name].cpu(), value[number]) for name, value in x.items())
    return found


def readers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "sciinf read-ahead"]


# --- which rows ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("memory", [BIG, TINY, 0])
@pytest.mark.parametrize("size", [1, 64, 5_000])
def test_every_usable_row_comes_once(store, memory, size, small_buffers):
    found = of(store, memory)
    assert (found.train, found.held_out) == (len(TRAIN), len(VALIDATION))
    assert numbers(found.ordered(size, validation=True)) == VALIDATION
    assert numbers(found.ordered(size, validation=False)) == TRAIN
    batches = list(found.epoch(0, size, seeded()))  # batches that are kept stay as they are
    assert [len(b) for b in batches] == [size] * (len(TRAIN) // size)
    came = numbers(batches)
    assert len(set(came)) == len(came)
    assert set(came) <= set(TRAIN)
    assert came != sorted(came) or not came
    assert readers() == []


def test_parts_are_read_like_whole_blocks(store):
    """Runs of rows read straight from the file equal those that HDF5 reads and checks."""
    generator = np.random.default_rng(0)
    for part in store.parts():
        theta, outcome = store.read(part.block)
        wanted = generator.random(len(theta)) < generator.choice([0.02, 0.5, 1.0])
        for piece in [p for q in [part.only(wanted)] for p in q.split(int(generator.integers(1, 60)))]:
            into = empty(piece.rows + 2, store.prior, store.observables)
            store.read_into(piece, into, 1)
            chosen = np.arange(piece.start, piece.stop)[slice(None) if piece.wanted is None else piece.wanted]
            assert set(chosen) <= set(np.flatnonzero(wanted & (outcome.status.numpy() == 0)))
            for value, whole in [(into.theta, theta), *((into.x[k], outcome.x[k]) for k in outcome.x)]:
                assert torch.equal(value[1:-1], whole[torch.from_numpy(chosen)])
        assert sum(p.rows for p in part.only(wanted).split(7)) == (wanted & (outcome.status.numpy() == 0)).sum()


def test_chunks_of_a_file_smaller_than_the_part(tmp_path):
    """A block of 3,000 rows is three chunks of 1,024 rows; parts begin and end within them."""
    simulator = Kinds()
    simulator.observables = {"v": Observable((2,))}
    made = Store.create(tmp_path, simulator, seed=0, block=3_000, rows=3_000)
    theta, x = torch.randn(2, 3_000, 2, generator=seeded())
    made.commit(0, theta, Outcome({"v": x}), seconds=0.0)
    for start, stop in ((0, 3_000), (1_000, 1_050), (1_024, 2_048), (1_023, 2_049), (2_999, 3_000)):
        batch = made.load(slice(start, stop))
        assert torch.equal(batch.theta, theta[start:stop])
        assert torch.equal(batch.x["v"], x[start:stop])


# --- in which order -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("memory", [BIG, TINY])
def test_the_generator_decides(store, memory, small_buffers):
    found = of(store, memory)
    first = numbers(found.epoch(0, 64, seeded()))
    assert numbers(found.epoch(7, 64, seeded())) == first
    assert numbers(of(store, memory).epoch(0, 64, seeded())) == first
    assert numbers(found.epoch(0, 64, seeded(1))) != first


def test_reading_ahead_changes_nothing(store, small_buffers):
    found = of(store, TINY)
    groups = grouped(found._parts[False], found._limit, order := seeded())
    assert len(groups) > 5
    plain = numbers(dealt(found.stream._filled(groups, threading.Event()), 64, order))
    assert numbers(found.epoch(0, 64, seeded())) == plain[: len(plain) // 64 * 64]


def test_streamed_as_the_store_streams(store, monkeypatch, small_buffers):
    """With groups of the same bytes, and blocks that need not be split, the batches are those of `Store.batches`."""
    monkeypatch.setattr(rows, "PARTS", 1)
    found = of(store, memory := 300_000)
    kept = found.held_out * selection.row_bytes(store.prior, store.observables)
    monkeypatch.setattr(selection, "GROUP_BYTES", (memory - kept) // rows.SHARES)
    theirs = numbers(store.batches(64, rows=slice(0, COUNT - 386), generator=seeded()))
    assert numbers(found.epoch(0, 64, seeded())) == theirs[: len(theirs) // 64 * 64]


def test_groups_are_mixed(store, small_buffers):
    """Neighbours in the store are seldom neighbours in an epoch, and a group draws on parts all over it.

    Of n rows in groups of g, about n / g neighbours stay together, here 12; the bound is 5 standard deviations above.
    """
    found = of(store, TINY)
    came = np.array(numbers(found.epoch(0, 64, seeded())))
    expected = len(came) / found._limit * 2
    assert (np.abs(np.diff(came)) == 1).sum() < expected + 5 * expected**0.5
    groups = grouped(found._parts[False], found._limit, seeded())
    assert min(len(group) for group in groups[:-1]) >= rows.PARTS
    assert min(len({part.block for part in group}) for group in groups[:-1]) >= 4


# --- the thread ---------------------------------------------------------------------------------------------------


class Ahead:
    """How far the reader of some rows has come: groups that it has filled, and groups that have been handed over."""

    def __init__(self, found):
        self.total, self.filled, self.taken = 0, 0, 0
        self.changed = threading.Condition()
        stream = found.stream
        fill, move = stream._filled, stream._moved
        stream._filled = lambda groups, stop: self._counted(fill(groups, stop), len(groups))
        stream._moved = lambda groups: move(self._passed(groups))

    def _counted(self, groups, total):
        self.total = total
        for group in groups:
            with self.changed:
                self.filled += 1
                self.changed.notify_all()
            yield group

    def _passed(self, groups):
        for group in groups:
            self.taken += 1
            yield group

    def wait(self):
        """Until the reader has filled all that its permits allow."""
        with self.changed:
            far = min(self.total, self.taken + rows.ITEMS - 1)
            assert self.changed.wait_for(lambda: self.filled >= far, timeout=60)


def check_buffers(store):
    """A consumer slower than the reader finds its rows untouched, and each comes once."""
    found = of(store, TINY)
    came = numbers(found.epoch(0, 8, seeded()), whole=False, before=Ahead(found).wait)
    assert len(set(came)) == len(came) == len(TRAIN) // 8 * 8


@pytest.mark.slow
def test_two_buffers_are_enough_and_needed(store, monkeypatch, small_buffers):
    check_buffers(store)
    monkeypatch.setattr(rows, "ITEMS", 3)  # the planted fault: one permit too many, and rows are overwritten
    with pytest.raises(AssertionError):
        check_buffers(store)


def test_errors_come_out_where_the_rows_are_used(store, small_buffers):
    found = of(store, TINY)
    batches = found.epoch(0, 64, seeded())
    next(batches)
    for index in range(store.blocks):
        data = bytearray(store.file(index).read_bytes())
        data[len(data) // 2] ^= 1
        damaged = store.path / "damaged"
        damaged.write_bytes(bytes(data))
        damaged.rename(store.file(index))
    with pytest.raises(ValueError, match=r"\.h5 is damaged: .*--repair"):
        list(batches)
    assert readers() == []


@pytest.mark.parametrize("how", ["break", "close", "raise", "drop", "interrupt"])
def test_the_thread_ends_with_its_consumer(store, how, small_buffers):
    found = of(store, TINY)
    if how == "break":
        for _ in found.epoch(0, 64, seeded()):
            break
    elif how in ("raise", "interrupt"):
        error = ZeroDivisionError if how == "raise" else KeyboardInterrupt
        try:
            for _ in found.epoch(0, 64, seeded()):
                assert readers()
                raise error
        except error:
            assert readers() == []  # although the traceback is alive
    else:
        batches = found.epoch(0, 64, seeded())
        next(batches)
        assert len(readers()) == 1
        if how == "close":
            batches.close()
        del batches
    assert readers() == []


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("memory", [BIG, TINY])
def test_each_shard_is_verified_once(store, memory, small_buffers):
    fresh, judged = Store(store.path), []
    original = fresh.known._judge

    def watched(index, path):
        judged.append(index)
        return original(index, path)

    fresh.known._judge = watched
    found = of(fresh, memory)
    for number in range(3):
        list(found.epoch(number, 64, seeded(number)))
        list(found.ordered(64, validation=True))
    assert sorted(judged) == list(range(fresh.blocks))


@pytest.mark.slow
def test_validation_rows_that_fit_in_half_the_memory_are_kept(store, small_buffers):
    size = selection.row_bytes(store.prior, store.observables)
    for memory, kept in ((2 * len(VALIDATION) * size, True), (2 * len(VALIDATION) * size - 2, False)):
        found = of(store, memory)
        hidden = store.file(store.blocks - 1).rename(store.path / "hidden")  # the last block is all validation
        if kept:
            assert numbers(found.ordered(64, validation=True)) == VALIDATION
        else:
            with pytest.raises(ValueError, match="damaged: it is gone"):
                list(found.ordered(64, validation=True))
        hidden.rename(store.file(store.blocks - 1))
        assert len(numbers(found.epoch(0, 64, seeded()))) == len(TRAIN) // 64 * 64  # streamed in both cases


def test_the_record(store):
    expected = {"digest": store.digest, "seed": 5, "rows": COUNT, "used": len(USABLE), "held_out": len(VALIDATION)}
    for memory in (BIG, TINY):
        assert of(store, memory).record() == expected


def test_too_few_rows(tmp_path):
    made = Store.create(tmp_path, Kinds(), seed=5, block=BLOCK, rows=19)
    made.commit(0, *block_of(0, 19), seconds=0.0)
    with pytest.raises(ValueError, match="15 simulations for training and 2 for validation are usable of 19"):
        Rows(made, fraction=0.1, device="cpu", memory=BIG)


def test_where_the_rows_held_out_failed_that_is_told(tmp_path):
    made = Store.create(tmp_path, Kinds(), seed=5, block=BLOCK, rows=30)
    theta, outcome = block_of(0, 30)
    status = torch.zeros(30, dtype=torch.uint8)
    status[-3:] = int(Status.RAISED)
    made.commit(0, theta, Outcome(outcome.x, status, {}), seconds=0.0)
    words = "27 simulations for training and 0 .*: 3 of the last 3 rows, which are held out, failed"
    with pytest.raises(ValueError, match=words):
        Rows(made, fraction=0.1, device="cpu", memory=BIG)
    assert Rows(made, fraction=0.2, device="cpu", memory=BIG).held_out == 3


@pytest.mark.parametrize("memory", [BIG, TINY])
def test_wide_rows_come_in_small_batches_when_in_order(store, memory, monkeypatch, small_buffers):
    monkeypatch.setattr(rows, "LARGEST", 10 * selection.row_bytes(store.prior, store.observables))
    batches = list(of(store, memory).ordered(64, validation=True))
    assert 1 < max(len(batch) for batch in batches) <= 10
    assert numbers(batches) == VALIDATION


@pytest.mark.parametrize("memory", [TINY, 0])
def test_batches_in_order_are_small_when_memory_is(store, memory, small_buffers):
    """A network that validates takes no more than one that trains: batches are a quarter of a buffer at most."""
    found, size = of(store, memory), selection.row_bytes(store.prior, store.observables)
    for validation in (False, True):
        batches = list(found.ordered(5_000, validation=validation))
        assert max(len(batch) for batch in batches) * size <= max(memory / rows.SHARES, rows.SMALLEST) / 4
        assert numbers(batches) == (VALIDATION if validation else TRAIN)
    assert max(len(batch) for batch in of(store, BIG).ordered(5_000, validation=False)) == len(TRAIN)


# --- on a GPU -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("memory", [BIG, TINY])
def test_on_cuda_the_same_rows_without_a_sync_per_batch(store, memory, small_buffers):
    found, here = of(store, memory, "cuda"), of(store, memory)
    batches = list(found.epoch(0, 64, seeded()))
    assert {batch.theta.device.type for batch in batches} == {"cuda"}
    assert numbers(batches) == numbers(here.epoch(0, 64, seeded()))
    if memory == BIG:
        epoch = found.epoch(0, 64, seeded())
        next(epoch)  # one copy of the epoch's order
        torch.cuda.set_sync_debug_mode("error")
        try:
            list(epoch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
