"""The store: what is committed is read back bit for bit, and damage is never read silently."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import distributions as td

from sciinf.campaigns.storage import selection
from sciinf.campaigns.store import Store
from sciinf.core import Observable, Outcome, Prior, Simulator, Status
from sciinf.core.files import write_json

ROWS, BLOCK = 47, 10


class Plain(Simulator):
    name = "plain"
    prior = Prior(rate=(td.LogNormal(0.0, 0.5), "1/h"), offset=td.Normal(0.0, 1.0))
    observables = {
        "v": Observable((3,), "mV", ("time",)),
        "wide": Observable((), "", (), "float64", "log"),
        "n": Observable((2,), dtype="int64"),
        "v_mask": Observable((3,), dtype="bool"),
    }

    def __call__(self, theta, *, generator):
        raise AssertionError("the store never simulates")


def block_of(index: int, rows: int, failed: tuple[int, ...] = ()) -> tuple[torch.Tensor, Outcome]:
    """Made-up simulations whose numbers tell their row: theta[:, 0] is block * 1000 + row."""
    row = torch.arange(rows) + 1000 * index
    generator = torch.Generator().manual_seed(index)
    theta = torch.stack([row.float(), torch.randn(rows, generator=generator)], dim=1)
    x = {
        "v": torch.randn(rows, 3, generator=generator),
        "wide": torch.rand(rows, generator=generator, dtype=torch.float64) + 1e-12,
        "n": torch.stack([row, -row], dim=1),
        "v_mask": torch.rand(rows, 3, generator=generator) > 0.5,
    }
    status = torch.zeros(rows, dtype=torch.uint8)
    status[list(failed)] = Status.RAISED
    return theta, Outcome(x, status, {r: f"ValueError: row {r}" for r in failed})


def fill(path: Path, order: list[int] | None = None, rows: int = ROWS, block: int = BLOCK) -> Store:
    store = Store.create(path, Plain(), seed=3, block=block, rows=rows)
    for index in order if order is not None else range(store.blocks):
        failed = (1, 4) if index == 2 else ()
        store.commit(index, *block_of(index, store.rows_of(index), failed), seconds=0.5)
    return store


def test_blocks_come_back_bit_for_bit(tmp_path):
    fill(tmp_path)
    store = Store(tmp_path)
    assert (len(store), store.rows, store.blocks, store.missing(), store.damaged()) == (ROWS, ROWS, 5, [], [])
    assert (store.seed, store.block, store.seconds) == (3, BLOCK, 2.5)
    assert store.counts == {Status.OK: 45, Status.NON_FINITE: 0, Status.RAISED: 2, Status.TIMED_OUT: 0}
    assert store.prior.to_json() == Plain.prior.to_json()
    assert store.observables == Plain.observables
    theta, outcome = store.read(2)
    wanted_theta, wanted = block_of(2, BLOCK, (1, 4))
    good = torch.tensor([r for r in range(BLOCK) if r not in (1, 4)])
    assert torch.equal(theta, wanted_theta)
    for name, value in wanted.x.items():
        assert outcome.x[name].dtype == value.dtype
        assert torch.equal(outcome.x[name][good], value[good])
    assert outcome.x["v"][1].isnan().all()
    assert outcome.x["n"][4].tolist() == [0, 0]
    assert outcome.messages == {1: "ValueError: row 1", 4: "ValueError: row 4"}
    found = store.failures()
    assert [(f.row, f.status, f.message) for f in found] == [
        (21, Status.RAISED, "ValueError: row 1"),
        (24, Status.RAISED, "ValueError: row 4"),
    ]
    assert found[0].theta[0] == 2001
    assert len(store.failures(limit=1)) == 1


def test_files_say_what_they_hold(tmp_path):
    store = fill(tmp_path)
    with h5py.File(store.file(0)) as file:
        assert file["theta"].dtype == np.float32
        assert list(file["theta"].attrs["units"]) == ["1/h", ""]
        assert file["x/v"].attrs["unit"] == "mV"
        assert list(file["x/v"].attrs["dims"]) == ["time"]
        assert file["x/wide"].attrs["scale"] == "log"
        assert file["x/v"].fletcher32
        assert file["x/v"].compression is None
        assert file["x/n"].compression == "gzip"


def test_the_digest_is_of_the_content_alone(tmp_path):
    first = fill(tmp_path / "a").digest
    assert fill(tmp_path / "b", [4, 0, 3, 1, 2]).digest == first
    assert Store(tmp_path / "a").digest == first
    # planted fault: one float in one row differs by one bit, or one status
    other = fill(tmp_path / "c")
    theta, outcome = block_of(3, BLOCK)
    outcome.x["v"][7, 2] = torch.nextafter(outcome.x["v"][7, 2], torch.tensor(9.0))
    other.commit(3, theta, outcome, seconds=0.0)
    assert other.digest != first
    last = fill(tmp_path / "d")
    last.commit(3, *block_of(3, BLOCK, (0,)), seconds=0.0)
    assert last.digest != first


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path) -> None:
    shutil.copy(path.with_name("00000001.h5"), path)


@pytest.mark.parametrize("damage", [flip_bit, truncate, empty, swap, Path.unlink])
@pytest.mark.parametrize("opened_before", [False, True])
def test_damage_is_reported_and_never_read(tmp_path, damage, opened_before):
    store = fill(tmp_path)
    if opened_before:
        store.load()
    damage(store.file(3))
    if not opened_before:
        store = Store(tmp_path)
    assert [(d.block, d.file.name) for d in store.damaged()] == [(3, "00000003.h5")]
    for read in (store.load, lambda: list(store.batches(5)), lambda: store.read(3), lambda: store.digest):
        with pytest.raises(ValueError, match=r"00000003\.h5 is damaged.*sciinf check .* --repair SIM\.py"):
            read()


@pytest.mark.parametrize("damage", [flip_bit, truncate, empty, swap])
def test_damage_without_a_journal_is_found_too(tmp_path, damage):
    store = fill(tmp_path)
    shutil.rmtree(tmp_path / "journal")
    (tmp_path / "journal").mkdir()
    assert Store(tmp_path).digest == store.digest  # sound files count by their own hash
    damage(store.file(3))
    found = Store(tmp_path)
    assert [d.block for d in found.damaged()] == [3]
    assert found.missing() == [3]
    with pytest.raises(ValueError, match="damaged"):
        found.load()


def test_a_file_of_another_store_is_not_adopted(tmp_path):
    first, other = fill(tmp_path / "a"), Store.create(tmp_path / "b", Plain(), seed=4, block=BLOCK, rows=ROWS)
    other.file(1).parent.mkdir()
    shutil.copy(first.file(1), other.file(1))
    found = Store(tmp_path / "b")
    assert len(found) == 0
    assert "another store" in found.damaged()[0].reason


def test_a_torn_journal_line_loses_nothing(tmp_path):
    store = fill(tmp_path, [0, 1, 2])
    journal = next((tmp_path / "journal").glob("*.jsonl"))
    journal.write_bytes(journal.read_bytes()[:-20])  # killed while acknowledging block 2
    again = Store(tmp_path)
    assert again.missing() == [3, 4]
    again.commit(3, *block_of(3, BLOCK), seconds=0.0)
    again.commit(4, *block_of(4, 7), seconds=0.0)
    assert Store(tmp_path).missing() == []
    assert len([line for line in journal.read_text().splitlines() if line.endswith("}")]) == 4
    assert Store(tmp_path).digest == fill(tmp_path / "whole").digest
    assert store.digest != again.digest


def test_another_process_s_blocks_are_noticed(tmp_path):
    ours, theirs = fill(tmp_path, [0]), Store(tmp_path)
    theirs.commit(1, *block_of(1, BLOCK), seconds=0.0)
    assert ours.missing() == [1, 2, 3, 4]
    ours.refresh()
    assert ours.missing() == [2, 3, 4]


# --- one folder, one campaign ---------------------------------------------------------------------------------------


def test_growing_runs_the_last_incomplete_block_again(tmp_path):
    fill(tmp_path)
    store = Store.create(tmp_path, Plain(), seed=3, block=BLOCK, rows=60)
    assert store.missing() == [4, 5]
    assert len(store.load()) == 45  # what is there can be read meanwhile
    for index in (4, 5):
        store.commit(index, *block_of(index, 10), seconds=0.0)
    assert len(store) == 60
    assert store.digest == fill(tmp_path / "fresh", rows=60).digest == Store(tmp_path).digest


def test_fewer_rows_change_nothing(tmp_path):
    digest = fill(tmp_path).digest
    before = (tmp_path / "store.json").read_bytes()
    store = Store.create(tmp_path, Plain(), seed=3, block=BLOCK, rows=5)
    assert (store.rows, len(store), store.digest) == (ROWS, ROWS, digest)
    assert (tmp_path / "store.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"seed": 4}, "seed: 3 -> 4"),
        ({"block": 11}, "block: 10 -> 11"),
        ({"name": "other"}, "name was plain, is other"),
        ({"prior": Prior(rate=(td.LogNormal(0.0, 0.6), "1/h"), offset=td.Normal(0.0, 1.0))}, "prior: laws"),
        ({"observables": {"v": Observable((3,), "V")}}, "observables"),
    ],
)
def test_another_campaign_is_refused(tmp_path, change, text):
    fill(tmp_path, [0])
    simulator = Plain()
    numbers = {"seed": 3, "block": BLOCK, "rows": ROWS}
    for key, value in change.items():
        if key in numbers:
            numbers[key] = value
        else:
            setattr(simulator, key, value)
    with pytest.raises(ValueError, match="another (campaign|simulator).*Choose another folder") as caught:
        Store.create(tmp_path, simulator, **numbers)
    assert re.fullmatch(rf"[^{{}}\"]*{re.escape(text)}[^{{}}\"]*", str(caught.value)), "words, no JSON"


def test_a_changed_source_file_is_another_campaign(tmp_path):
    source = tmp_path / "sim.py"
    simulator = Plain()
    simulator.source = source
    source.write_text("a = 1")
    Store.create(tmp_path / "s", simulator, seed=0, block=5, rows=5)
    source.write_text("a = 2")
    with pytest.raises(
        ValueError, match=r"sim\.py has changed since these 5 simulations .*another folder .*--accept-changes"
    ):
        Store.create(tmp_path / "s", simulator, seed=0, block=5, rows=5)


def test_newer_and_damaged_descriptions_are_refused(tmp_path):
    fill(tmp_path, [0])
    file = tmp_path / "store.json"
    data = json.loads(file.read_text())
    write_json(file, {**data, "schema": 3, "versions": {"sciinf": "9.9"}})
    with pytest.raises(ValueError, match=r"format 3, written by sciinf 9\.9.*update sciinf"):
        Store(tmp_path)
    write_json(file, {"schema": 1})
    with pytest.raises(ValueError, match="describes no store"):
        Store(tmp_path)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"store\.json is damaged"):
        Store(tmp_path)
    with pytest.raises(FileNotFoundError, match="sciinf simulate"):
        Store(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="cannot be written: .*choose a folder that can be written"):
        Store.create(tmp_path / "file" / "store", Plain(), seed=0, block=5, rows=5)


@pytest.mark.parametrize("numbers", [{"rows": 0}, {"rows": 2.5}, {"block": 0}, {"seed": -1}, {"seed": True}])
def test_numbers_out_of_range(tmp_path, numbers):
    with pytest.raises(ValueError, match=f"{next(iter(numbers))} must be an integer"):
        Store.create(tmp_path, Plain(), **{"seed": 0, "block": 5, "rows": 5, **numbers})


@pytest.mark.parametrize("names", [("a", "a/b"), ("",), ("a//b",), (".",)])
def test_names_that_hdf5_cannot_hold(tmp_path, names):
    simulator = Plain()
    simulator.observables = dict.fromkeys(names, Observable())
    with pytest.raises(ValueError, match="rename it"):
        Store.create(tmp_path, simulator, seed=0, block=5, rows=5)


def test_a_block_of_the_wrong_size_is_refused(tmp_path):
    store = fill(tmp_path, [])
    with pytest.raises(ValueError, match=r"block 4 takes theta of shape \(7, 2\), got \(10, 2\)"):
        store.commit(4, *block_of(4, 10), seconds=0.0)
    with pytest.raises(ValueError, match="block 5 does not exist"):
        store.commit(5, *block_of(5, 10), seconds=0.0)


# --- streaming ------------------------------------------------------------------------------------------------------


def usable() -> list[int]:
    every = [1000 * k + r for k in range(5) for r in range(10 if k < 4 else 7)]
    return [row for row in every if row not in (2001, 2004)]


def rows_in(batches) -> list[int]:
    found = []
    for batch in batches:
        assert (batch.x["n"][:, 0] == batch.theta[:, 0].long()).all()  # theta and x stay together
        found += batch.theta[:, 0].long().tolist()
    return found


@pytest.mark.parametrize("size", [1, 7, 10, 45, 1000])
@pytest.mark.parametrize("group", [1, 300, 2**28])
def test_every_usable_row_comes_once(tmp_path, size, group, monkeypatch):
    monkeypatch.setattr(selection, "GROUP_BYTES", group)  # one block, a few, or all in memory at a time
    store = fill(tmp_path)
    ordered = list(store.batches(size))
    assert rows_in(ordered) == usable()
    assert [len(b) for b in ordered[:-1]] == [size] * (len(ordered) - 1)
    shuffled = list(store.batches(size, generator=torch.Generator().manual_seed(0)))
    assert [len(b) for b in shuffled] == [len(b) for b in ordered]
    assert sorted(rows_in(shuffled)) == usable()
    assert rows_in(shuffled) != usable()
    again = rows_in(store.batches(size, generator=torch.Generator().manual_seed(0)))
    assert again == rows_in(shuffled)
    assert again != rows_in(store.batches(size, generator=torch.Generator().manual_seed(1)))


def test_shuffling_mixes_blocks(tmp_path):
    store = fill(tmp_path)
    first = next(iter(store.batches(20, generator=torch.Generator().manual_seed(0))))
    # 20 of 45 rows taken at random miss one of five blocks with probability below 1e-2; the seed is fixed
    assert len({row // 1000 for row in rows_in([first])}) >= 4


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (None, slice(None)),
        (22, slice(0, 22)),
        (slice(15, 40), slice(15, 40)),
        (slice(-9, None), slice(38, 47)),
        (range(0, 47, 3), slice(0, 47, 3)),
        (torch.tensor([46, 21, 3, 3]), [3, 21, 46]),
        ([], []),
    ],
)
def test_rows_are_positions_failed_ones_included(tmp_path, rows, wanted):
    store = fill(tmp_path)
    every = np.array([1000 * k + r for k in range(5) for r in range(10 if k < 4 else 7)])
    expected = [row for row in every[wanted].tolist() if row not in (2001, 2004)]
    batch = store.load(rows)
    assert batch.theta[:, 0].long().tolist() == expected
    assert all(len(v) == len(expected) for v in batch.x.values())
    assert rows_in(store.batches(4, rows=rows)) == expected
    assert sorted(rows_in(store.batches(4, rows=rows, generator=torch.Generator()))) == expected


def test_rows_that_do_not_exist(tmp_path):
    store = fill(tmp_path)
    for rows in (48, -5, [47], [-1], torch.tensor([0.5])):
        with pytest.raises(ValueError, match="rows"):
            store.load(rows)
    with pytest.raises(ValueError, match="at least one row"):
        next(store.batches(0))


def test_where_rows_lie_is_looked_up_again_when_a_file_is_replaced(tmp_path):
    ours = fill(tmp_path)
    ours.load()
    stale = dict(ours._layouts)
    theirs = Store.create(tmp_path, Plain(), seed=3, block=BLOCK, rows=60)  # its last block was short and is replaced
    for index in (4, 5):
        theirs.commit(index, *block_of(index, BLOCK), seconds=0.0)
    ours.refresh()
    found, fresh = ours.load(), Store(tmp_path).load()
    assert all(torch.equal(value, fresh.x[name]) for name, value in found.x.items())
    assert len(found) == 58
    ours._layouts.update({k: (ours._layouts[k][0], found) for k, (_, found) in stale.items()})  # the planted fault
    with pytest.raises(ValueError, match="it has 7 rows, rows 0 to 9 were asked for"):
        ours.load()


def test_only_the_blocks_asked_for_are_read(tmp_path):
    store = fill(tmp_path)
    read = []
    original = store.read_into

    def watched(part, batch, at):
        read.append(part.block)
        return original(part, batch, at)

    store.read_into = watched
    list(store.batches(5, rows=slice(12, 18)))
    assert read == [1]
    store.file(4).write_bytes(b"")  # damage elsewhere does not stop who does not read it
    assert len(Store(tmp_path).load(slice(12, 18))) == 6
