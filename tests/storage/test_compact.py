"""Compacting: nothing is lost, whoever is killed, reads, writes or compacts meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from watched_folder import Watched

from sciinf import Normal, Observable, Prior, Simulator, simulate
from sciinf.campaigns.simulation import repair
from sciinf.campaigns.storage.folder import LocalFolder
from sciinf.campaigns.store import Store
from sciinf.core import Outcome
from sciinf.core.files import write_json
from sciinf.diagnostics.checking import check_store

PER, BLOCK, ROWS = 4, 5, 58  # three folders of four blocks, the last block short


class Plain(Simulator):
    name = "plain"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((3,)), "n": Observable(dtype="int64")}
    block = BLOCK

    def __call__(self, theta, *, generator):
        v = theta + torch.randn(len(theta), 3, generator=generator)
        return {"v": v, "n": (10 * v[:, 0]).long()}


class Killed(BaseException):
    """What a test ends a process with."""


@pytest.fixture(autouse=True)
def few_blocks_a_folder(monkeypatch):
    for module in ("description", "compact", "naming"):
        monkeypatch.setattr(f"sciinf.campaigns.storage.{module}.PER_FOLDER", PER)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store as three processes have written it."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("description", "compact", "naming"):
            patch.setattr(f"sciinf.campaigns.storage.{module}.PER_FOLDER", PER)
        path = tmp_path_factory.mktemp("made") / "s"
        for number, rows in enumerate((20, 40, ROWS)):
            patch.setattr("sciinf.campaigns.storage.journal._token", lambda pid, number=number: f"{number:08x}")
            simulate(Plain(), path, rows, progress=False)
    return path


@pytest.fixture
def path(made, tmp_path):
    shutil.copytree(made, tmp_path / "s")
    return tmp_path / "s"


def files(path: Path) -> list[str]:
    found = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return [name.split("-")[0] + Path(name).suffix if name.startswith("packs/") else name for name in found]


def rows_of(store: Store):
    found = store.load()
    return [found.theta, *found.x.values()]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_many_files_become_few_and_nothing_else_changes(path):
    before = Store(path)
    held, digest, counts, seconds = rows_of(before), before.digest, before.counts, before.seconds
    assert len(files(path)) == 12 + 3 + 1
    done = before.compact()
    assert (done.blocks, done.packs, done.removed, done.journals, done.left) == (11, 3, 11, 3, 1)
    [journal] = (path / "journal").iterdir()
    assert journal.name.startswith("merged-")
    assert len(journal.read_text().splitlines()) == 1, "the other lines are in the indexes"
    packs = [f"packs/{k:03d}.{kind}" for k in range(3) for kind in ("json", "tar")]
    assert files(path) == sorted([f"journal/{journal.name}", *packs, "shards/002/00000011.h5", "store.json"])
    for store in (before, Store(path)):
        assert (store.digest, store.counts, store.missing(), len(store)) == (digest, counts, [], ROWS)
        assert store.seconds == pytest.approx(seconds)
        assert same(rows_of(store), held)
        shuffled = list(store.batches(7, generator=torch.Generator().manual_seed(0)))
        assert sum(map(len, shuffled)) == ROWS
    assert store.history(3)[0].conditions, "what it was made with is kept"
    assert check_store(store).lines()[-1] == "no damage"
    assert store.compact().blocks == 0, "there is nothing left to do"


def test_a_pack_is_a_plain_tar_that_puts_files_back_where_they_lay(path, made):
    Store(path).compact()
    for pack in path.glob("packs/*.tar"):
        with tarfile.open(pack) as tar:
            tar.extractall(path, filter="data")
    for file in made.glob("shards/*/*.h5"):
        assert (path / file.relative_to(made)).read_bytes() == file.read_bytes()
    assert Store(path).digest == Store(made).digest
    assert Store(path).compact().removed == 11, "they are in packs already"
    assert len(list(path.glob("packs/*.tar"))) == 3


def steps_of(path: Path, monkeypatch) -> list[str]:
    """Every step of a compaction that changes something."""
    found = list[str]()
    compact_watched(path, found.append, monkeypatch)
    return found


def compact_watched(path: Path, step: Callable[[str], None], monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sciinf.campaigns.store.folder_at", lambda given: Watched(LocalFolder(Path(given)), step))
        store = Store(path)
    store.compact()


@pytest.mark.slow
def test_a_kill_at_any_step_loses_nothing_and_running_it_again_finishes(made, tmp_path, monkeypatch):
    digest, entries = Store(made).digest, list(Store(made).entries())
    shutil.copytree(made, tmp_path / "whole")
    steps = steps_of(tmp_path / "whole", monkeypatch)
    assert {step.split()[1] for step in steps} == {"prepare", "write", "create", "remove", "settle"}
    for last in range(len(steps)):
        path, left = tmp_path / f"s{last}", iter(range(last))

        def step(_: str, left=left) -> None:
            if next(left, None) is None:
                raise Killed

        shutil.copytree(made, path)
        with pytest.raises(Killed):
            compact_watched(path, step, monkeypatch)
        found = Store(path)
        assert (found.digest, found.missing(), found.damaged()) == (digest, [], []), steps[last]
        assert list(found.entries()) == entries, steps[last]
        found.compact()
        os.utime(path, None)
        assert Store(path).digest == digest
        assert list(Store(path).entries()) == entries, steps[last]
        assert len(list(path.glob("shards/*/*.h5"))) == 1, steps[last]
        assert len(list(path.glob("journal/*"))) == 1, steps[last]
        shutil.rmtree(path)


@pytest.mark.slow
def test_readers_and_a_writer_of_other_blocks_at_every_step(made, tmp_path, monkeypatch):
    whole = Store(made)
    held, digest = rows_of(whole), whole.digest
    shutil.copytree(made, tmp_path / "s")
    store = Store.create(tmp_path / "s", Plain(), seed=0, block=BLOCK, rows=ROWS + 400)
    cached, looked = Store(tmp_path / "s"), []
    cached.load()
    writes = iter(range(12, 90))

    def step(what: str) -> None:
        looked.append(what)
        assert same([value[:ROWS] for value in rows_of(cached)], held), what
        fresh = Store(tmp_path / "s")
        assert set(range(12)) <= {index for index, _ in fresh.entries()}, what
        if len(looked) % 3 == 0:
            index = next(writes)
            theta = torch.zeros(BLOCK, 1)
            x = {"v": torch.zeros(BLOCK, 3), "n": torch.zeros(BLOCK, dtype=torch.int64)}
            store.commit(index, theta, Outcome(x, torch.zeros(BLOCK, dtype=torch.uint8)), seconds=0.0)

    compact_watched(tmp_path / "s", step, monkeypatch)
    assert len(looked) > 30
    found = Store(tmp_path / "s")
    assert len(found) == ROWS + BLOCK * (len(looked) // 3), "every block that was written is there"
    assert not found.damaged()
    assert len(found.journals.news()) == 0
    assert found.digest != digest


@pytest.mark.slow
def test_two_at_once(made, tmp_path, monkeypatch):
    digest, entries = Store(made).digest, list(Store(made).entries())
    shutil.copytree(made, tmp_path / "whole")
    for moment in range(len(steps_of(tmp_path / "whole", monkeypatch))):
        path, count = tmp_path / f"s{moment}", iter(range(10**6))
        shutil.copytree(made, path)

        def step(what: str, path=path, count=count, moment=moment) -> None:
            if next(count) == moment:
                Store(path).compact()

        compact_watched(path, step, monkeypatch)
        found = Store(path)
        assert (found.digest, found.missing(), found.damaged()) == (digest, [], []), moment
        assert list(found.entries()) == entries, moment
        shutil.rmtree(path)


def test_a_store_that_is_compacted_while_it_is_opened(made, tmp_path, monkeypatch):
    entries = list(Store(made).entries())
    for moment in range(4):  # three folders, and packs
        path, count = tmp_path / f"s{moment}", iter(range(10**6))
        shutil.copytree(made, path)
        listed = LocalFolder.listed

        def slow(self, inside, before=None, path=path, count=count, moment=moment, listed=listed):
            if next(count) == moment:
                Store(path).compact()
            return listed(self, inside, before)

        with monkeypatch.context() as patch:
            patch.setattr(LocalFolder, "listed", slow)
            found = Store(path)
        assert next(count) > 3
        assert list(found.entries()) == entries, moment
        assert found.digest == Store(made).digest


def test_a_disk_that_keeps_other_bytes_than_were_written_loses_nothing(path, made, monkeypatch):
    write = LocalFolder.write

    def wrong(self, name, parts):
        data = bytearray(b"".join(parts))
        data[len(data) // 2] ^= 1
        write(self, name, [bytes(data)])

    monkeypatch.setattr(LocalFolder, "write", wrong)
    with pytest.raises(OSError, match="does not hold what was written into it"):
        Store(path).compact()
    assert len(list(path.glob("shards/*/*.h5"))) == 12
    assert Store(path).digest == Store(made).digest


def test_growing_and_repair_afterwards(path, tmp_path):
    Store(path).compact()
    grown = simulate(Plain(), path, 120, progress=False)
    whole = simulate(Plain(), tmp_path / "whole", 120, progress=False)
    assert grown.digest == whole.digest == Store(path).digest
    grown.compact()
    assert Store(path).digest == whole.digest
    [pack] = path.glob("packs/000-*.tar")
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(bytes(data))
    store = Store(path)
    [damage] = store.damaged()
    assert damage.file == pack
    with pytest.raises(ValueError, match=rf"{pack.name} \(from byte \d+ on\) is damaged: its content is not what was"):
        store.load()
    assert repair(store, Plain()) == [damage.block]
    assert Store(path).digest == whole.digest
    assert not Store(path).damaged()
    Store(path).compact()
    assert len(list(path.glob("packs/000-2-*.tar"))) == 0, "a block alone stays a file"
    assert Store(path).digest == whole.digest


@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_an_index_that_is_damaged_or_lost_is_named_and_written_anew(path, made, how):
    Store(path).compact()
    [index] = path.glob("packs/001-*.json")
    data = index.read_text()
    if how == "gone":
        index.unlink()
    else:
        index.write_text(data.replace('"rows": [5', '"rows": [4') if how == "changed" else data[:-100])
    with pytest.warns(UserWarning, match=r"index of the pack 001-1-\w+ of .* is (damaged|lost) .*--repair SIM\.py"):
        found = Store(path)
    assert (found.digest, found.missing()) == (Store(made).digest, [])
    assert check_store(found).lines()[-1] == "1 indexes of packs are damaged"
    with pytest.raises(ValueError, match="repair it before it is compacted"):
        found.compact()
    assert repair(found, Plain()) == []
    assert check_store(Store(path)).ok
    assert Store(path).digest == Store(made).digest
    assert len(list(path.glob("shards/*/*.h5"))) == 1, "no block was simulated again"


def test_a_store_of_format_1_stays_in_one_folder_until_it_is_compacted(made, tmp_path):
    path = tmp_path / "flat"
    (path / "shards").mkdir(parents=True)
    shutil.copytree(made / "journal", path / "journal")
    for file in made.glob("shards/*/*.h5"):
        shutil.copy(file, path / "shards")
    about = json.loads((made / "store.json").read_text())
    about = {key: value for key, value in about.items() if key not in ("folders", "sha256_of_the_rest")}
    write_json(path / "store.json", {**about, "schema": 1})
    assert Store(path).digest == Store(made).digest
    assert simulate(Plain(), path, 70, progress=False).missing() == []
    assert json.loads((path / "store.json").read_text())["schema"] == 1
    assert (path / "shards/00000013.h5").is_file()
    digest = Store(path).digest
    Store(path).compact()
    about = json.loads((path / "store.json").read_text())
    assert (about["schema"], about["folders"]) == (2, 0), "versions that know of no packs refuse it"
    assert Store(path).digest == digest
    assert simulate(Plain(), path, 80, progress=False).missing() == []
    assert (path / "shards/00000015.h5").is_file()


def test_large_blocks_go_into_several_packs(path, made, monkeypatch):
    monkeypatch.setattr("sciinf.campaigns.storage.compact.MOST", 3 * Store(path).file(0).stat().st_size // 2)
    assert Store(path).compact().packs == 5, "two blocks in each"
    names = sorted(pack.name[:5] for pack in path.glob("packs/*.tar"))
    assert names == ["000-1", "000-2", "001-1", "001-2", "002-1"]
    assert Store(path).known.shelf.loose == {10, 11}, "one alone stays a file, as the short one does"
    assert Store(path).digest == Store(made).digest


def test_a_pack_that_was_deleted_or_cut_is_simulated_again(path, made):
    Store(path).compact()
    opened = Store(path)
    [gone], [cut] = path.glob("packs/000-*.tar"), path.glob("packs/001-*.tar")
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:1500])  # within its first block
    opened.refresh()
    for store in (opened, Store(path)):
        assert store.missing() == [0, 1, 2, 3]
        assert [damage.block for damage in store.damaged()] == list(range(8))
        with pytest.raises(ValueError, match="it is gone"):
            store.load()
    assert repair(opened, Plain()) == list(range(8))
    assert Store(path).digest == Store(made).digest
    assert not Store(path).damaged()


def test_what_is_damaged_or_not_finished_stays(path):
    Store.create(path, Plain(), seed=0, block=BLOCK, rows=200)
    file = path / "shards/001/00000006.h5"
    file.write_bytes(file.read_bytes()[:-9])
    done = Store(path).compact()
    assert (done.blocks, done.packs, done.left) == (7, 2, 5)
    assert file.is_file()
    assert [damage.block for damage in Store(path).damaged()] == [6]


KILLER = """
import os, random, shutil, signal, sys, time
from sciinf.campaigns.store import Store
import sciinf.campaigns.storage.compact as compact

compact.PER_FOLDER = 4
made, path = sys.argv[1], sys.argv[2]
delays, killed = random.Random(5), 0
digest, entries = Store(made).digest, list(Store(made).entries())
shutil.copytree(made, path)
for kill in range(20):
    process = os.fork()
    if process == 0:
        Store(path).compact()
        os._exit(0)
    time.sleep(delays.uniform(0.0, 0.12))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    killed += os.WIFSIGNALED(status)
    found = Store(path)
    assert (found.digest, found.missing(), found.damaged()) == (digest, [], []), kill
    assert list(found.entries()) == entries, kill
    if not os.WIFSIGNALED(status):
        shutil.rmtree(path)
        shutil.copytree(made, path)
Store(path).compact()
assert Store(path).digest == digest
print(killed)
"""


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(made, tmp_path):
    (tmp_path / "killer.py").write_text(KILLER)
    command = [sys.executable, str(tmp_path / "killer.py"), str(made), str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1, "of twenty, so many were killed before they were done"
