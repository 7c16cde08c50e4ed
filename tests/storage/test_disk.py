"""Of several writers of one name one writes, and two campaigns that begin at once in one folder never mix."""

from __future__ import annotations

import errno
import os
import secrets
import threading
from pathlib import Path

import pytest

from sciinf import Normal, Observable, Prior, Simulator
from sciinf.campaigns.storage import description, disk
from sciinf.campaigns.storage.folder import Changed, LocalFolder
from sciinf.campaigns.store import Store
from sciinf.core.files import write_json


class Plain(Simulator):
    name = "plain"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((3,))}

    def __call__(self, theta, *, generator):
        raise AssertionError("the store never simulates")


def made(path: Path, seed: int) -> Store:
    return Store.create(path, Plain(), seed=seed, block=5, rows=20)


@pytest.fixture(params=["links", "no links"])
def links(request, monkeypatch):
    def refused(source, target):
        raise PermissionError(errno.EPERM, "a file has one name here", str(target))

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refused)


def test_a_campaign_that_begins_while_another_does_is_refused(tmp_path, monkeypatch, links):
    named, others = secrets.token_hex, list[Store]()

    def slow(count):
        if not others:
            monkeypatch.setattr(secrets, "token_hex", named)
            others.append(made(tmp_path, 2))  # begins after we have looked, and is done before we write
        return named(count)

    monkeypatch.setattr(secrets, "token_hex", slow)
    with pytest.raises(ValueError, match=r"another campaign: another seed.*seed: 2 -> 1"):
        made(tmp_path, 1)
    assert others[0].seed == Store(tmp_path).seed == 2
    assert not list(tmp_path.glob(".*"))


def test_a_store_that_is_another_once_it_is_opened_is_refused(tmp_path, monkeypatch):
    made(tmp_path / "other", 2)
    opened = Store.__init__

    def late(self, path):
        (tmp_path / "s/store.json").write_bytes((tmp_path / "other/store.json").read_bytes())
        opened(self, path)

    monkeypatch.setattr(Store, "__init__", late)
    with pytest.raises(ValueError, match="made anew by another campaign at this very moment"):
        made(tmp_path / "s", 1)


@pytest.mark.slow
def test_of_processes_at_once_one_writes(tmp_path, links):
    for turn in range(60):
        name, begin = f"{turn}/x", os.pipe()
        (tmp_path / f"{turn}").mkdir()
        children = []
        for number in range(2):
            if (child := os.fork()) == 0:
                os.read(begin[0], 1)
                os._exit(LocalFolder(tmp_path).create(name, b"%d" % number * 1000))
            children.append(child)
        os.write(begin[1], b"gg")
        wrote = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        for end in begin:
            os.close(end)
        assert sorted(wrote) == [0, 1]
        assert (tmp_path / name).read_bytes() == b"%d" % wrote.index(1) * 1000
        assert os.listdir(tmp_path / f"{turn}") == ["x"]


def test_a_link_whose_answer_was_lost_is_ones_own(tmp_path, monkeypatch):
    link = os.link

    def lost(source, target):
        link(source, target)
        raise FileExistsError(errno.EEXIST, "asked again", str(target))

    monkeypatch.setattr(os, "link", lost)
    assert disk.created(tmp_path / "x", b"1") is True


def test_a_turn_that_nobody_takes_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOTSUP, "no links")))
    monkeypatch.setattr(disk, "_PATIENCE", 0.05)
    (tmp_path / ".x.made").mkdir()  # its maker was killed
    with pytest.raises(OSError, match=r"remove .*\.x\.made if none runs"):
        disk.created(tmp_path / "x", b"1")
    assert os.listdir(tmp_path) == [".x.made"]


def test_what_two_change_at_once_is_changed_by_both(tmp_path, monkeypatch):
    store = made(tmp_path, 1)
    about = {**description.read_description(store.folder), "schema": 1, "folders": 0}
    write_json(tmp_path / "store.json", about)
    replaced, others = LocalFolder.replace, list[threading.Thread]()

    def slow(self, name, data):
        if not others:
            grown = threading.Thread(
                target=lambda: Store.create(tmp_path, Plain(), seed=1, block=5, rows=400)  # while packs are noted
            )
            others.append(grown)
            grown.start()
            grown.join(0.5)
        replaced(self, name, data)

    monkeypatch.setattr(LocalFolder, "replace", slow)
    description.with_packs(store.folder)
    others[0].join()
    found = description.read_description(store.folder)
    assert (found["schema"], found["rows"]) == (2, 400)


def test_packs_are_noted_though_somebody_else_was_faster(tmp_path, monkeypatch):
    store = made(tmp_path, 1)
    about = {**description.read_description(store.folder), "schema": 1, "folders": 0}
    write_json(tmp_path / "store.json", about)
    replaced, refused = LocalFolder.replace, list[str]()

    def late(self, name, data):
        if not refused:
            refused.append(name)
            replaced(self, name, description.json_bytes({**about, "rows": 400}))
            raise Changed(errno.EAGAIN, "somebody else was faster", name)
        replaced(self, name, data)

    monkeypatch.setattr(LocalFolder, "replace", late)  # as a folder of objects does
    description.with_packs(store.folder)
    found = description.read_description(store.folder)
    assert (found["schema"], found["rows"]) == (2, 400)
