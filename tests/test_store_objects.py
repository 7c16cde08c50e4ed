"""Campaigns whose store lies on an S3 service: the same bits as on disk, whatever the service and the writers do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call

from sciinf import Recipe, load_simulator, simulate, train
from sciinf.campaigns import Store
from sciinf.campaigns.storage.objects import folder_at
from sciinf.core import Outcome
from sciinf.core.loading import load_module
from sciinf.training.estimators.flow import Flow

object_server: Any = load_module(Path(__file__).parents[1] / "benchmarks" / "object_server.py")

SIMULATOR = """
import os, time
import torch
from torch import distributions as td
from sciinf.core import Observable, Prior, Simulator


class Line(Simulator):
    name = "line"
    prior = Prior(a=td.Normal(0.0, 1.0))
    observables = {"v": Observable((5,))}
    block = 20

    def __call__(self, theta, *, generator):
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return {"v": theta + torch.randn(len(theta), 5, generator=generator) + (theta > 2).log().clamp(-1)}


simulator = Line()
"""
ROWS = 150  # seven blocks and a half


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("simulator") / "line.py"
    file.write_text(SIMULATOR)
    return file


@pytest.fixture(scope="module")
def local(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return simulate(load_simulator(source), tmp_path_factory.mktemp("local") / "store", ROWS, progress=False)


def written(server: Any, address: str, inside: str = "") -> dict[str, int]:
    """How often each object was written, or removed."""
    prefix = f"{address.removeprefix(f's3://{server.bucket}/')}/"
    return {key.removeprefix(prefix): n for key, n in server.versions(f"{prefix}{inside}").items()}


def test_a_campaign_is_that_of_a_folder(server: Any, address: str, source: Path, local: Store):
    simulator = load_simulator(source)
    store = simulate(simulator, address, ROWS, progress=False)
    assert (store.digest, len(store), store.counts) == (local.digest, ROWS, local.counts)
    assert torch.equal(store.load().x["v"], local.load().x["v"])
    assert torch.equal(store.load(slice(30, 50)).theta, local.load(slice(30, 50)).theta)
    assert address in repr(store)
    assert not Path("s3:").exists(), "nothing lies in a folder of that name"
    assert set(written(server, address).values()) == {1}
    again = simulate(simulator, Path(address), ROWS, progress=False)  # a Path has lost a slash
    assert again.digest == local.digest
    assert set(written(server, address).values()) == {1}


@pytest.mark.slow
def test_workers_write_their_own_blocks(server: Any, address: str, source: Path, local: Store):
    store = simulate(load_simulator(source), address, ROWS, workers=2, progress=False)
    assert store.digest == local.digest
    assert set(written(server, address).values()) == {1}
    writers = {key.split("/")[1] for key in written(server, address, "journal/")}
    assert 1 <= len(writers) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_service_that_refuses_at_random_changes_nothing(
    server: Any, address: str, source: Path, local: Store, seed: int
):
    faults = ("503", "done:500", "cut", "409", "429", "done:503")
    with server.failing(object_server.at_random(seed, 0.25, faults, ("PUT", "GET"))):
        store = simulate(load_simulator(source), address, ROWS, progress=False)
        assert store.digest == local.digest
    assert sum(server.met[fault] for fault in faults) >= 5
    counts = written(server, address)
    assert {counts[key] for key in counts} == {1}, "no object was written twice"
    assert sum(key.startswith("journal/") for key in counts) == store.blocks, "no block was acknowledged twice"


def test_of_two_campaigns_on_one_store_each_block_is_written_once(
    server: Any, address: str, source: Path, local: Store
):
    stores = [Store.create(address, load_simulator(source), seed=0, block=20, rows=ROWS) for _ in range(2)]
    both = threading.Barrier(2)

    def write(store: Store) -> None:
        for index in range(store.blocks):
            theta, outcome = local.read(index)
            both.wait()
            store.commit(index, theta, outcome, seconds=0.1)

    threads = [threading.Thread(target=write, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened = Store(address)
    assert opened.digest == local.digest
    assert len(written(server, address, "journal/")) == 2 * opened.blocks, "each acknowledges what it found there"
    assert set(written(server, address).values()) == {1}


def test_a_block_of_other_rows_is_refused(server: Any, address: str, source: Path, local: Store):
    store = Store.create(address, load_simulator(source), seed=0, block=20, rows=ROWS)
    theta, outcome = local.read(0)
    store.commit(0, theta, outcome, seconds=0.1)
    other = Outcome({"v": outcome.x["v"] + 1e-6}, outcome.status)
    with pytest.raises(ValueError, match="its rows differ from those simulated here: another state of the simulator"):
        store.commit(0, theta, other, seconds=0.1)
    opened = Store(address)
    assert len(opened.history(0)) == 1
    assert torch.equal(opened.read(0)[1].x["v"], outcome.x["v"])
    assert set(written(server, address).values()) == {1}


@pytest.mark.slow
def test_a_killed_campaign_goes_on(server: Any, address: str, source: Path, local: Store):
    code = (
        "import sys; from sciinf import load_simulator, simulate; "
        f"simulate(load_simulator(sys.argv[1]), sys.argv[2], {ROWS}, progress=False)"
    )
    folder, environment = folder_at(address), {**os.environ, "PAUSE": "0.05"}
    running = subprocess.Popen([sys.executable, "-c", code, str(source), address], env=environment)
    while len(list(folder.names("shards"))) < 3 and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not Store(address).damaged()
    before = len(Store(address))
    assert before < ROWS
    store = simulate(load_simulator(source), address, ROWS, progress=False)
    assert store.digest == local.digest
    assert set(written(server, address).values()) == {1}


def test_a_store_grows_and_its_last_block_with_it(server: Any, address: str, source: Path, tmp_path: Path):
    simulator = load_simulator(source)
    simulate(simulator, address, 50, progress=False)
    late = Store(address)
    store = simulate(simulator, address, 110, progress=False)
    assert store.digest == simulate(simulator, tmp_path / "store", 110, progress=False).digest
    twice = {key: n for key, n in written(server, address).items() if n > 1}
    assert list(twice.values()) == [2, 2], "the description, and the block that was not full"
    assert any(key == "store.json" for key in twice)
    theta, outcome = store.read(2)
    entry = late.commit(2, theta[:10], Outcome({"v": outcome.x["v"][:10]}), seconds=0.1)
    assert entry.rows == 20, "a writer that knows of fewer rows does not make the block shorter"
    assert Store(address).digest == store.digest


def test_of_two_that_ask_for_more_rows_the_larger_number_stays(address: str, source: Path):
    simulator = load_simulator(source)
    Store.create(address, simulator, seed=0, block=20, rows=20)
    both = threading.Barrier(3)

    def ask(rows: int) -> None:
        both.wait()
        Store.create(address, simulator, seed=0, block=20, rows=rows)

    threads = [threading.Thread(target=ask, args=(rows,)) for rows in (60, 100, 80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Store(address).rows == 100


def test_damage_is_found_and_repaired(server: Any, address: str, source: Path, local: Store):
    from sciinf.campaigns.simulation import repair

    simulator = load_simulator(source)
    store = simulate(simulator, address, ROWS, progress=False)
    client, keys = server.client(), sorted(written(server, address, "shards/"))
    prefix = address.removeprefix(f"s3://{server.bucket}/")
    client.put_object(Bucket=server.bucket, Key=f"{prefix}/{keys[1]}", Body=b"damaged")
    client.delete_object(Bucket=server.bucket, Key=f"{prefix}/{keys[3]}")
    opened = Store(address)
    assert [damage.block for damage in opened.damaged()] == [1, 3]
    with pytest.raises(ValueError, match=f"check {address} --repair"):
        opened.read(1)
    assert repair(opened, simulator) == [1, 3]
    assert Store(address).digest == local.digest == store.digest


@pytest.mark.slow
@pytest.mark.parametrize("memory", [2**30, 1])
def test_training_on_it_is_training_on_the_folder(
    address: str, source: Path, local: Store, tmp_path: Path, memory: int
):
    simulator = load_simulator(source)
    store = simulate(simulator, address, ROWS, progress=False)
    recipe = Recipe(epochs=2, batch=20, memory=memory, learning_rate=1e-3)
    states = []
    for name, rows in (("local", local), ("objects", store)):
        estimator = Flow(simulator.prior, simulator.observables)
        fit = train(estimator, rows, tmp_path / name, recipe=recipe, progress=False)
        states.append({**fit.learned.state_dict(), "loss": torch.tensor(fit.record["best_validation_loss"])})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_only_simulations_can_lie_there(address: str, source: Path, local: Store, tmp_path: Path):
    simulator = load_simulator(source)
    estimator = Flow(simulator.prior, simulator.observables)
    with pytest.raises(ValueError, match=f"{address} is an address of objects, where only simulations can lie"):
        train(estimator, local, address, progress=False)
    with pytest.raises(ValueError, match="gs://bucket/x: simulations lie in a folder"):
        simulate(simulator, "gs://bucket/x", ROWS, progress=False)
    with pytest.raises(FileNotFoundError, match=f"{address} holds no simulations"):
        Store(address)
    assert not list(Path().glob("*:"))


def test_what_is_said_of_a_followed_store_names_its_address(
    address: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from sciinf.campaigns import arrivals
    from sciinf.training import followed

    store = Store.create(Path(address), load_simulator(source), seed=0, block=20, rows=20)  # a Path loses a slash
    with pytest.raises(ValueError, match=f"1 simulations were asked for in {address};"):
        followed.Followed(store, tmp_path / "f", {"rows": 1}, recipe=Recipe())
    waiting = arrivals.Arrivals(store, 20, shown=False)
    monkeypatch.setattr(arrivals, "campaign_in", lambda store: "another")
    with pytest.raises(ValueError, match=f"^{address} holds another campaign"):
        waiting.committed()


def test_the_commands_take_addresses(address: str, source: Path, local: Store, tmp_path: Path):
    said = call("simulate", source, "--out", address, "-n", ROWS, "--workers", 1).out
    assert f"{ROWS} simulations in {address}" in said
    assert local.digest in said
    assert "no damage" in call("check", address).out
    assert f"{address}x holds no simulations" in call("check", f"{address}x").error
    (tmp_path / "x.csv").write_text("v\n" + "0\n" * 5)
    result = call("infer", source, "--observation", tmp_path / "x.csv", "--out", address, "-n", 100)
    assert result.code == 2
    assert "only simulations can lie" in result.error
    assert not Path("s3:").exists()


def test_a_compacted_store_is_read_by_few_requests(server: Any, address: str, source: Path, local: Store):
    store = simulate(load_simulator(source), address, ROWS, progress=False)
    before = len(written(server, address, "journal/"))
    store.compact()
    asked = server.asked["GET"]
    opened = Store(address)
    assert server.asked["GET"] - asked <= before, "two fewer on S3: moto lists folders of what was removed"
    assert (opened.digest, len(opened)) == (local.digest, ROWS)
    assert torch.equal(opened.load().x["v"], local.load().x["v"])
    assert simulate(load_simulator(source), address, ROWS, progress=False).digest == local.digest


def test_what_was_packed_is_known_to_be_no_file_any_more(
    address: str, source: Path, local: Store, monkeypatch: pytest.MonkeyPatch
):
    for module in ("description", "compact", "naming"):
        monkeypatch.setattr(f"sciinf.campaigns.storage.{module}.PER_FOLDER", 4)
    store = simulate(load_simulator(source), address, 160, progress=False)
    digest = store.digest
    done = store.compact()
    assert (done.blocks, done.removed, done.left) == (8, 8, 0)
    assert "stay files" not in done.words
    store.refresh()
    assert (store.digest, store.missing(), Store(address).digest) == (digest, [], digest)


def test_packs_are_small_where_each_is_sent_at_once(
    address: str, source: Path, local: Store, monkeypatch: pytest.MonkeyPatch
):
    for module in ("description", "compact", "naming"):
        monkeypatch.setattr(f"sciinf.campaigns.storage.{module}.PER_FOLDER", 8)
    store = simulate(load_simulator(source), address, 160, progress=False)
    digest, size = store.digest, len(store.folder.read(store.naming.file("shards", 0)))
    monkeypatch.setattr("sciinf.campaigns.storage.compact.MOST_SENT", 3 * size // 2)
    done = store.compact()
    assert (done.blocks, done.packs, done.left) == (8, 4, 0)
    assert Store(address).digest == digest


@pytest.mark.slow
def test_a_service_that_is_away_is_no_damage(server: Any, address: str, source: Path, monkeypatch: pytest.MonkeyPatch):
    from sciinf.campaigns.storage import objects
    from sciinf.campaigns.storage.folder import Unreachable

    monkeypatch.setattr(objects, "PATIENCE", 0.2)
    store = simulate(load_simulator(source), address, 40, progress=False)
    with server.failing(lambda *_: "503"):
        for ask in (store.load, store.damaged, store.refresh, lambda: store.digest, lambda: Store(address)):
            with pytest.raises(Unreachable, match="Nothing that was committed is lost"):
                ask()
    with server.failing(lambda method, path: "503" if "/shards/" in path else ""):
        for ask in (store.load, store.damaged, lambda: store.digest):
            with pytest.raises(Unreachable, match="Nothing that was committed is lost"):
                ask()
    with server.failing(lambda *_: "403"), pytest.raises(Unreachable, match="check the credentials"):
        store.load()
    assert not store.damaged()


def test_bytes_that_arrive_changed_are_no_rows(address: str, source: Path, monkeypatch: pytest.MonkeyPatch):
    from sciinf.campaigns.storage.objects import Objects

    store = simulate(load_simulator(source), address, 40, progress=False)
    assert store.digest
    read = Objects.read

    def garbled(self: Any, name: str, start: int = 0, stop: int | None = None) -> bytes:
        data = read(self, name, start, stop)
        return data[:-200] + bytes(1) + data[-199:] if name.endswith(".h5") else data

    monkeypatch.setattr(Objects, "read", garbled)
    with pytest.raises(ValueError, match="its content is not what was committed"):
        store.load()


@pytest.mark.slow
def test_with_a_cache_each_block_is_fetched_once(
    server: Any, address: str, source: Path, local: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SCIINF_CACHE", str(tmp_path / "cache"))
    store = simulate(load_simulator(source), address, ROWS, progress=False)
    assert store.digest == local.digest
    asked = server.asked["GET"]
    for _ in range(2):
        assert torch.equal(store.load().theta, local.load().theta)
    assert server.asked["GET"] == asked
    files = sorted((tmp_path / "cache").rglob("*.h5"))
    assert len(files) == store.blocks
    files[0].write_bytes(b"changed")
    assert torch.equal(store.load().theta, local.load().theta), "what was changed here is fetched again"
    grown = simulate(load_simulator(source), address, ROWS + 10, progress=False)
    assert len(grown.load().theta) == ROWS + 10 - sum(grown.counts.values()) + grown.counts[0]
    client, key = server.client(), sorted(written(server, address, "shards/"))[0]
    prefix = address.removeprefix(f"s3://{server.bucket}/")
    client.put_object(Bucket=server.bucket, Key=f"{prefix}/{key}", Body=b"damaged")
    assert [damage.block for damage in Store(address).damaged()] == [0], "a cache hides no damage from a check"


def test_stores_are_copied_to_a_service_and_back(server: Any, address: str, local: Store, tmp_path: Path):
    client, prefix = server.client(), address.removeprefix(f"s3://{server.bucket}/")
    for file in local.path.rglob("*.*"):
        if file.is_file():
            key = f"{prefix}/{file.relative_to(local.path).as_posix()}"
            client.put_object(Bucket=server.bucket, Key=key, Body=file.read_bytes())
    there = Store(address)
    assert (there.digest, there.seconds) == (local.digest, local.seconds)
    theta, outcome = local.read(0)
    there.commit(0, theta, outcome, seconds=0.1)
    for key in written(server, address):
        file = tmp_path / "back" / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(folder_at(address).read(key))
    assert Store(tmp_path / "back").digest == local.digest
