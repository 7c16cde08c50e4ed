"""Folders that behave alike, on disk and on an S3 service over HTTP; and what becomes of a service's errors."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sciinf.campaigns.storage import objects
from sciinf.campaigns.storage.folder import Changed, Folder, LocalFolder, Unreachable, absolute
from sciinf.campaigns.storage.objects import Objects, folder_at
from sciinf.core.loading import load_module

object_server: Any = load_module(Path(__file__).parents[2] / "benchmarks" / "object_server.py")


@pytest.fixture(params=["local", "objects"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, address: str) -> Folder:
    return folder_at(tmp_path / "folder" if request.param == "local" else address)


def test_a_folder_keeps_what_is_written(folder: Folder):
    assert folder.create("shards/a b.h5", bytes(range(256))) is True
    assert folder.read("shards/a b.h5") == bytes(range(256))
    assert folder.read("shards/a b.h5", 10, 20) == bytes(range(10, 20))
    assert folder.read("shards/a b.h5", 250) == bytes(range(250, 256))
    assert folder.read("shards/a b.h5", 250, 400) == bytes(range(250, 256))
    assert folder.read("shards/a b.h5", 400, 500) == b"" == folder.read("shards/a b.h5", 9, 9)
    assert folder.create("empty", b"")
    assert folder.read("empty") == b""


def test_what_is_there_is_not_created_again(folder: Folder):
    assert folder.create("x", b"first")
    assert folder.create("x", b"second") is False
    assert folder.create("x", b"first") is False
    assert folder.read("x") == b"first"


def test_a_replaced_file_has_another_stamp(folder: Folder):
    folder.create("store.json", b"1")
    before = folder.stamp("store.json")
    assert folder.stamp("store.json") == before
    folder.replace("store.json", b"22")
    assert folder.stamp("store.json") != before
    assert folder.read("store.json") == b"22"
    folder.replace("new", b"3")
    assert folder.read("new") == b"3"


def test_names_are_those_below_a_folder(folder: Folder):
    for name in ("shards/000/1", "shards/000/2", "shards/001/3", "shards2/4", "journal/5"):
        folder.create(name, b"")
    assert sorted(folder.names("shards")) == ["shards/000/1", "shards/000/2", "shards/001/3"]
    assert list(folder.names("nothing")) == []


def test_what_is_not_there_is_missed_by_name(folder: Folder):
    with pytest.raises(FileNotFoundError, match="nothing"):
        folder.read("nothing")
    with pytest.raises(FileNotFoundError):
        folder.stamp("nothing")
    folder.create("x", b"1")
    folder.remove("x")
    folder.remove("x")
    with pytest.raises(FileNotFoundError):
        folder.read("x")


def test_of_a_folder_and_what_lies_right_in_it(folder: Folder):
    folder.prepare("shards")
    assert not folder.listed("shards").names
    for name in ("shards/000/1", "shards/000/2", "shards/3", "store.json"):
        folder.create(name, b"")
    assert folder.listed("shards").names == {"000", "3"}
    assert folder.listed("").names == {"shards", "store.json"}
    assert 0 <= folder.age("store.json") < 60


def test_lines_that_are_added_are_news_once(folder: Folder):
    seen: dict[str, int] = {}
    assert list(folder.news("journal", seen)) == []
    for line in (b"one", b"two"):
        folder.append("journal/a.jsonl", line)
    folder.append("journal/b.jsonl", b"three")
    found = list(folder.news("journal", seen))
    assert [(start, data) for _, start, data in found] == [(0, b"one\ntwo\n"), (0, b"three\n")]
    assert list(folder.news("journal", seen)) == []
    folder.append("journal/a.jsonl", b"four")
    ((name, start, data),) = folder.news("journal", seen)
    assert (name, data) == (found[0][0], b"four\n")
    assert start > 0, "it goes on where it was"


def test_what_is_committed_stays_where_it_is_as_good(address: str):
    one, other = Objects(address), Objects(address)
    assert one.commit("x", b"1", lambda data: False) == b"1"
    assert other.commit("x", b"2", lambda data: data == b"1") == b"1" == other.read("x")
    assert other.commit("x", b"33", lambda data: False) == b"33" == one.read("x")

    def faster(data: bytes) -> bool:
        if data == b"33":
            one.replace("x", b"good")
        return data == b"good"

    assert other.commit("x", b"4", faster) == b"good" == one.read("x")


def test_paths_name_folders(tmp_path: Path, address: str):
    assert all(isinstance(folder_at(path), LocalFolder) for path in (tmp_path, "s3", "s3bucket/x"))
    for given in (address, f"{address}/", Path(address)):  # a Path has lost a slash
        found = folder_at(given)
        assert isinstance(found, Objects)
        assert (found.name, found.path("x")) == (address, None)
    assert absolute(folder_at(Path(address))) == address
    assert absolute(folder_at("x")) == str(Path("x").resolve())
    for wrong in ("s3://", "s3://bucket", "s3://bucket/"):
        with pytest.raises(ValueError, match="expected s3://BUCKET/PREFIX"):
            folder_at(wrong)


@pytest.mark.slow
def test_listing_goes_on_page_by_page(server: Any, address: str, monkeypatch: pytest.MonkeyPatch):
    folder, known = Objects(address), [f"many/{number:02d}" for number in range(40)]
    for name in known:
        folder.create(name, b"")
    for size in (1, 9, 20, 40, 41):
        monkeypatch.setattr(objects, "_PAGE", size)
        with server.failing(object_server.at_random(0, 0.3, ("503",), ("GET",))):
            assert list(folder.names("many")) == known


def test_of_writers_at_once_one_writes(server: Any, address: str):
    barrier, found = threading.Barrier(4), Counter[bool]()

    def write(number: int) -> None:
        own = Objects(address)
        for key in range(10):
            barrier.wait()
            found[own.create(f"{key}", b"%d" % number)] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {True: 10, False: 30}
    assert set(server.versions(f"{address.split('/')[-1]}/").values()) == {1}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["503", "429", "done:500", "cut", "409", "done:503"])
def test_errors_that_pass_are_met_by_trying_again(server: Any, address: str, fault: str):
    folder = Objects(address)
    folder.create("first", b"")
    faults = iter([fault, fault, ""])
    with server.failing(lambda method, path: next(faults, "") if method == "PUT" else ""):
        assert folder.create("x", b"1") is True, "a put that was answered by an error, and done, is one's own"
    assert server.met[fault] >= 1
    assert folder.read("x") == b"1"
    faults = iter([fault, ""])
    with server.failing(lambda method, path: next(faults, "") if method == "PUT" else ""):
        assert folder.create("x", b"2") is False, "what somebody else wrote is not taken for one's own"
    assert folder.read("x") == b"1"
    faults = iter(["" if "cut" in fault else fault, ""])
    with server.failing(lambda method, path: next(faults, "") if method == "PUT" else ""):
        if fault != "409":
            folder.replace("x", b"3")
            assert folder.read("x") == b"3"


def test_what_somebody_else_replaced_is_not_overwritten(address: str):
    one, other = Objects(address), Objects(address)
    one.create("store.json", b"1000")
    assert one.read("store.json") == other.read("store.json") == b"1000"
    other.replace("store.json", b"3000")
    with pytest.raises(Changed, match="somebody else"):
        one.replace("store.json", b"2000")
    assert one.read("store.json") == b"3000"
    one.replace("store.json", b"4000")
    assert other.read("store.json") == b"4000"


def test_journals_that_were_copied_here_are_read(address: str):
    folder, seen = Objects(address), {}
    folder.create("journal/host-1.jsonl", b"one\ntwo\ntorn")
    folder.create("journal/host-2/notes.txt", b"nothing of ours")
    folder.append("journal/host-3.jsonl", b"three")
    assert [data for _, _, data in folder.news("journal", seen)] == [b"one\ntwo\n", b"three\n"]
    assert list(folder.news("journal", seen)) == []


def test_lines_that_are_merged_while_they_are_read_are_not_lost(address: str, monkeypatch: pytest.MonkeyPatch):
    folder, other, seen = Objects(address), Objects(address), dict[str, Any]()
    for line in (b"one", b"two"):
        folder.append("journal/a.jsonl", line)
    folder.create("journal/merged-0.jsonl", b"zero\n")
    read, moved = Objects.read, list[str]()

    def late(self: Objects, name: str, start: int = 0, stop: int | None = None) -> bytes:
        if len(moved) < 2 and name.startswith(f"journal/{'merged' if moved else 'a'}"):
            moved.append(name)
            whole = b"zero\none\ntwo\n"
            other.create(f"journal/merged-{len(moved)}.jsonl", whole)
            for old in other.names("journal"):
                if old != f"journal/merged-{len(moved)}.jsonl":
                    other.remove(old)
        return read(self, name, start, stop)

    monkeypatch.setattr(objects, "_AT_ONCE", 1)
    monkeypatch.setattr(Objects, "read", late)
    found = b"".join(data for _, _, data in folder.news("journal", seen)).split()
    assert set(found) == {b"zero", b"one", b"two"}
    assert len(moved) == 2


def test_what_is_packed_while_it_is_committed_is_written(address: str):
    one, other = Objects(address), Objects(address)
    one.create("x", b"1")
    looked, whole = list[str](), one._whole

    def late(name: str) -> tuple[bytes, str | None]:
        looked.append(name)
        other.remove(name)
        return whole(name)

    one._whole = late
    assert one.commit("x", b"2", lambda data: True) == b"2" == other.read("x")
    assert looked == ["x"]


def test_a_lasting_refusal_ends_with_what_is_safe(server: Any, address: str):
    folder = Objects(address, patience=0.5)
    folder.create("x", b"1")
    with server.failing(lambda *_: "503"):
        with pytest.raises(OSError, match=r"tried again for .* s .*503.*Nothing that was committed is lost"):
            folder.create("y", b"1")
        with pytest.raises(OSError, match="cannot read x, tried again"):
            folder.read("x")
    assert folder.create("y", b"1")


def test_a_service_that_keeps_no_conditions_is_refused(server: Any, address: str):
    with server.failing(lambda method, path: "deaf"), pytest.raises(OSError, match="does not keep the conditions"):
        Objects(address).create("x", b"1")
    folder = Objects(address)
    folder.create("y", b"1")
    with server.failing(lambda method, path: "deaf"), pytest.raises(OSError, match="does not keep the conditions"):
        folder.replace("y", b"2")
    assert folder.read("y") == b"1"
    with server.failing(lambda method, path: "501"), pytest.raises(OSError, match="501"):
        Objects(address).create("z", b"1")


@pytest.mark.parametrize("first", ["503", "done:500", "cut"])
def test_a_service_that_keeps_none_is_refused_though_its_first_answer_was_an_error(
    server: Any, address: str, first: str
):
    faults, folder = iter([first]), Objects(address)
    with server.failing(lambda method, path: next(faults, "deaf") if method == "PUT" else ""):
        with pytest.raises(OSError, match="does not keep the conditions"):
            folder.create("x", b"1")
        with pytest.raises(OSError, match="does not keep the conditions"):
            folder.create("y", b"1")


def test_errors_that_stay_say_the_way_out(server: Any, address: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(OSError, match=r"no bucket 'no-such-bucket'; check its name") as found:
        Objects("s3://no-such-bucket/x").read("store.json")
    assert not isinstance(found.value, FileNotFoundError), "nothing there would mean a new store"
    for request in (lambda f: f.create("x", b""), lambda f: list(f.names("x")), lambda f: f.stamp("store.json")):
        with pytest.raises(OSError, match=r"no bucket 'no-such-bucket'"):
            request(Objects("s3://no-such-bucket/x"))
    with server.failing(lambda *_: "403"), pytest.raises(Unreachable, match="not allowed; check the credentials"):
        Objects(address).create("x", b"1")
    with server.failing(lambda *_: "301"), pytest.raises(OSError, match="AWS_REGION may be another"):
        Objects(address).read("x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"http://127.0.0.1:9 never answered: check AWS_ENDPOINT_URL"):
        Objects(address, patience=0.2).read("x")


def test_missing_credentials_are_told(address: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://169.254.1.1:1")
    with pytest.raises(Unreachable, match="no credentials were found; set AWS_ACCESS_KEY_ID"):
        Objects(address, patience=0.2).read("x")
    assert "AWS_ACCESS_KEY_ID" not in os.environ
