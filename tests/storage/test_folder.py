"""A store's folder: names that cannot collide, lines that are not lost, listings that are not out of date."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sciinf import Normal, Observable, Prior, Simulator
from sciinf.campaigns.storage import journal
from sciinf.campaigns.storage.folder import LocalFolder
from sciinf.campaigns.storage.shard import write_shard
from sciinf.campaigns.store import Store
from sciinf.core import Outcome
from sciinf.core.files import write_bytes
from sciinf.diagnostics.checking import check_store

BLOCK = 5


class Plain(Simulator):
    name = "plain"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}

    def __call__(self, theta, *, generator):
        raise AssertionError("the store never simulates")


def made(path: Path, rows: int) -> Store:
    return Store.create(path, Plain(), seed=0, block=BLOCK, rows=rows)


def rows_of(index: int, rows: int = BLOCK) -> tuple[torch.Tensor, Outcome]:
    generator = torch.Generator().manual_seed(index)
    theta = torch.randn(BLOCK, 1, generator=generator)[:rows]
    x = {"v": torch.randn(BLOCK, 3, generator=generator)[:rows]}
    return theta, Outcome(x, torch.zeros(rows, dtype=torch.uint8))


def commit(store: Store, index: int) -> None:
    store.commit(index, *rows_of(index, store.rows_of(index)), seconds=0.0)


# --- two containers with one host name and one process number -------------------------------------------------------


def test_two_containers_write_into_journals_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "worker")
    monkeypatch.setattr(os, "getpid", lambda: 1)
    store = made(tmp_path, 20)
    for index in range(4):
        journal._token.cache_clear()  # as in another container, which has drawn its own
        commit(Store(tmp_path), index)
    names = [file.name for file in (tmp_path / "journal").iterdir()]
    assert len(set(names)) == 4
    assert all(name.startswith("worker-1-") for name in names)
    store.refresh()
    assert store.missing() == []


def test_a_fork_draws_its_own_name():
    ours = journal._token(os.getpid())
    assert journal._token(os.getpid()) == ours, "drawn once for a process"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, journal._token(1 if os.getpid() == 1 else os.getppid()).encode())  # the number of the parent
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 64).decode() != ours


def test_what_another_container_is_writing_is_not_swept(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "worker")
    swept = list[bool]()
    rename = os.replace

    def replace(source, target):
        made(tmp_path, 20)  # another container begins while this one has written, and not renamed
        swept.append(not Path(source).exists())
        rename(source, target)

    store = made(tmp_path, 20)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(os, "kill", lambda pid, kind: (_ for _ in ()).throw(ProcessLookupError))  # not seen from here
    commit(store, 0)
    assert swept
    assert not any(swept)
    left = next(iter((tmp_path / "shards").glob("*"))) / ".00000001.h5.worker.1.0a1b2c3d.tmp"
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 3_500,) * 2)
    made(tmp_path, 20)
    assert left.exists()
    os.utime(left, (time.time() - 3_700,) * 2)
    made(tmp_path, 20)
    assert not left.exists()


def test_temporary_names_differ_within_a_process(tmp_path, monkeypatch):
    names = list[str]()
    monkeypatch.setattr(os, "replace", lambda source, target: names.append(str(source)))
    for _ in range(3):
        write_bytes(tmp_path / "a", b"1")
    assert len(set(names)) == 3


# --- journals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anew", [False, True])  # another thread of the process has begun a new one
def test_a_line_that_is_written_while_its_journal_is_settled_is_not_lost(tmp_path, monkeypatch, anew):
    folder = LocalFolder(tmp_path)
    folder.append("journal/a.jsonl", b'{"line": 1}')
    opened, settled = os.open, list[str]()

    def slow(path, flags, *given, **named):
        file = opened(path, flags, *given, **named)
        if str(path).endswith("a.jsonl") and not settled:
            name = folder.settle("journal/a.jsonl")
            settled.append(name)
            (tmp_path / name).unlink()  # merged already, without the line that is about to be written
            if anew:
                (tmp_path / "journal/a.jsonl").write_bytes(b"")
        return file

    monkeypatch.setattr(os, "open", slow)
    folder.append("journal/a.jsonl", b'{"line": 2}')
    monkeypatch.undo()
    assert settled
    assert folder.read("journal/a.jsonl") == b'{"line": 2}\n'


def test_news_of_journals_that_grow_are_mended_and_are_merged(tmp_path):
    folder, seen = LocalFolder(tmp_path), dict[str, Any]()
    assert list(folder.news("journal", seen)) == []
    folder.append("journal/a.jsonl", b"1")
    assert list(folder.news("journal", seen)) == [("journal/a.jsonl", 0, b"1\n")]
    assert list(folder.news("journal", seen)) == []
    with open(tmp_path / "journal/a.jsonl", "ab") as file:
        file.write(b"tor")
    assert list(folder.news("journal", seen)) == [("journal/a.jsonl", 2, b"")]
    folder.append("journal/a.jsonl", b"2")
    assert list(folder.news("journal", seen)) == [("journal/a.jsonl", 2, b"tor\n2\n")]
    folder.replace("journal/a.jsonl", b"2\n")
    assert list(folder.news("journal", seen)) == [("journal/a.jsonl", 0, b"2\n")]


@pytest.mark.parametrize("lines", [1, 2, 5])  # as long as before, or longer
def test_a_journal_that_is_begun_anew_is_read_from_its_beginning(tmp_path, lines):
    folder, seen = LocalFolder(tmp_path), dict[str, Any]()
    folder.append("journal/a.jsonl", b"a" * 300)
    folder.append("journal/a.jsonl", b"b" * 300)
    assert len(list(folder.news("journal", seen))) == 1
    os.unlink(tmp_path / folder.settle("journal/a.jsonl"))  # merged into another
    new = [b"%d" % number * (300 if lines > 1 else 601) for number in range(lines)]
    for line in new:
        folder.append("journal/a.jsonl", line)
    assert list(folder.news("journal", seen)) == [("journal/a.jsonl", 0, b"".join(line + b"\n" for line in new))]
    assert list(folder.news("journal", seen)) == []


def test_a_reader_keeps_its_place_while_a_store_is_compacted_and_its_writer_goes_on(tmp_path, monkeypatch):
    store = made(tmp_path, 500)
    for index in (50, 51, 52):
        commit(store, index)
    with monkeypatch.context() as patch:
        patch.setattr(journal, "_token", lambda pid: "other")
        commit(Store(tmp_path), 40)  # another process, so that there are two journals to merge
    reader = Store(tmp_path)
    Store(tmp_path).compact()
    for index in range(4):
        commit(store, index)
    reader.refresh()
    assert reader.journals.damaged == []
    assert set(reader.known._lines) == {0, 1, 2, 3, 40, 50, 51, 52}
    assert check_store(reader).ok


# --- listings -------------------------------------------------------------------------------------------------------


def test_a_folder_is_listed_again_only_when_something_came_or_went(tmp_path, monkeypatch):
    store = made(tmp_path, 20)
    commit(store, 0)
    inside = tmp_path / "shards/000"
    listed = list[str]()
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))

    def looks() -> int:
        listed.clear()
        store.refresh()
        return listed.count(str(inside))

    assert [looks(), looks()] == [1, 1], (
        "it was changed within the last seconds, and a stamp may not tell two changes apart"
    )
    os.utime(inside, (time.time() - 100,) * 2)
    assert [looks(), looks()] == [1, 0]
    commit(Store(tmp_path), 1)
    assert looks() == 1
    assert store.missing() == [2, 3]
    store.file(1).unlink()
    store.refresh()
    assert store.missing() == [1, 2, 3]
    assert [store.lacks(index) for index in range(4)] == [False, True, True, True]


def test_a_thousand_blocks_in_each_folder(tmp_path):
    store = made(tmp_path, 5 * 2_500)
    for index in (0, 999, 1_000, 2_499):
        commit(store, index)
    found = sorted(file.relative_to(tmp_path / "shards").as_posix() for file in tmp_path.glob("shards/*/*"))
    assert found == ["000/00000000.h5", "000/00000999.h5", "001/00001000.h5", "002/00002499.h5"]
    again = Store(tmp_path)
    assert [index for index, _ in again.entries()] == [0, 999, 1_000, 2_499]
    assert len(again.missing()) == 2_496
    assert again.digest == store.digest


# --- a store that grows while it is checked -------------------------------------------------------------------------


def test_what_lands_while_a_store_is_checked_is_no_damage_and_is_told(tmp_path, monkeypatch):
    store = made(tmp_path, 50)
    commit(store, 0)
    waiting, looked = iter(range(1, 5)), store.known._damage

    def look(index):
        for block in waiting:
            commit(Store(tmp_path), block)
        return looked(index)

    monkeypatch.setattr(store.known, "_damage", look)
    report = check_store(store)
    assert report.ok
    assert report.landed == 20
    assert "a campaign runs: 20 simulations landed while this was read" in report.lines()
    monkeypatch.undo()
    assert "a campaign runs" not in " ".join(check_store(Store(tmp_path)).lines())


@pytest.mark.slow
def test_a_short_block_that_is_being_replaced_is_no_damage(tmp_path):
    store = made(tmp_path, 8)
    for index in range(2):
        commit(store, index)
    grown = made(tmp_path, 10)
    image, _ = write_shard(grown.prior, grown.observables, grown._campaign, 1, *rows_of(1))
    grown.folder.replace("shards/000/00000001.h5", image)  # its writer is about to acknowledge it
    late = threading.Timer(0.8, lambda: commit(made(tmp_path, 10), 1))
    late.start()
    assert check_store(Store(tmp_path)).ok
    late.join()
    assert Store(tmp_path).missing() == []
    shutil.rmtree(tmp_path / "journal")
    for index in range(2):
        commit(store, index)  # whose journal knows the short block alone
    grown.folder.replace("shards/000/00000001.h5", image)
    assert check_store(Store(tmp_path)).ok, "its writer is slow"
    assert Store(tmp_path).missing() == [1], "and until then it does not count"
    os.utime(grown.file(1), (time.time() - 100,) * 2)
    [damage] = Store(tmp_path).damaged()
    assert damage.block == 1, "its writer died: the block is to be simulated again"


# --- a full disk ----------------------------------------------------------------------------------------------------

FULL = """
import os, subprocess, sys
from pathlib import Path
import torch
from sciinf import Normal, Observable, Prior, Simulator
from sciinf.core import Outcome
from sciinf.campaigns.store import Store

class Plain(Simulator):
    name = "plain"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((2000,))}
    def __call__(self, theta, *, generator): ...

path = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], check=True)
store = Store.create(path / "s", Plain(), seed=0, block=30, rows=300)
for index in range(10):  # 2.4 MB: there is no room for a pack beside them
    x = {"v": torch.full((30, 2000), float(index))}
    store.commit(index, torch.zeros(30, 1), Outcome(x, torch.zeros(30, dtype=torch.uint8)), seconds=0.0)
digest = store.digest
try:
    store.compact()
except OSError as error:
    assert "No space left" in str(error) and "goes on where it was" in str(error), error
else:
    raise SystemExit("nothing was refused")
found = Store(path / "s")
assert (found.digest, found.missing(), found.damaged()) == (digest, [], [])
assert not list(path.rglob(".*")), list(path.rglob(".*"))
subprocess.run(["mount", "-o", "remount,size=8m", str(path)], check=True)
assert Store(path / "s").compact().blocks == 10
assert Store(path / "s").digest == digest
subprocess.run(["umount", str(path)], check=True)
print("as if nothing had happened")
"""


@pytest.mark.slow
def test_a_full_disk_stops_compacting_and_loses_nothing(tmp_path):
    alone = ["unshare", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("may not mount")
    (tmp_path / "full.py").write_text(FULL)
    (tmp_path / "disk").mkdir()
    command = [*alone, sys.executable, str(tmp_path / "full.py"), str(tmp_path / "disk")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "permission denied" in done.stderr:
        pytest.skip("may not mount")
    assert done.stdout.strip() == "as if nothing had happened", done.stderr
