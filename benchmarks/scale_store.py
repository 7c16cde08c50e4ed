"""A store of a million blocks: what it costs to open, to look again and to say what is missing; rows out of packs.

The blocks are made up: empty files, and true lines of journals. Nothing that is measured reads a file of a block. CPU
seconds of one process; on a network file system each call to it takes longer, so the calls are counted, too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from reporting import check

from sciinf import Normal, Observable, Prior, Simulator
from sciinf.campaigns import Store
from sciinf.campaigns.block import run_block
from sciinf.campaigns.campaign import Campaign
from sciinf.campaigns.slurm_array import SlurmArray, _Array
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.storage.naming import PER_FOLDER, SHARDS
from sciinf.campaigns.storage.packs import index_of
from sciinf.core import Outcome
from sciinf.core.files import sealed
from sciinf.core.observable import Status

_BLOCK, _JOURNALS = 100, 40


class Plain(Simulator):
    """Ten numbers around one parameter."""

    name = "plain"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((10,))}

    def __call__(self, theta: torch.Tensor, *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"v": theta + torch.randn(len(theta), 10, generator=generator)}


class Wide(Simulator):
    """Fields of 8,000 numbers, so that a block of 32 rows has a megabyte."""

    name = "wide"
    prior = Prior(a=Normal(0.0, 1.0))
    observables = {"v": Observable((8000,))}

    def __call__(self, theta: torch.Tensor, *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"v": theta + torch.randn(len(theta), 8000, generator=generator)}


def store(args: Any, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Seconds to open, refresh, and list what is missing; reading from packs beside files."""
    blocks = 10**5 if args.quick else 10**6
    rows, checks = list[dict[str, Any]](), list[dict[str, Any]]()
    for packed in (False, True):
        path = folder / f"{blocks}-{packed}"
        made = _made_up(path, blocks, packed=packed)
        held = _memory()
        opened, found = _timed(lambda path=path: Store(path))
        held = _memory() - held
        again, _ = _timed(found.refresh)
        lacking, missing = _timed(found.missing)
        counted, total = _timed(lambda found=found: len(found))
        calls = _calls(found)
        new, _ = _timed(lambda found=found: _one_more(found))
        rows.append(
            {
                "blocks": blocks,
                "files": "packs" if packed else "files",
                "make": made,
                "open": opened,
                "MiB": held,
                "refresh": again,
                "refresh calls": calls,
                "commit, refresh": new,
                "missing()": lacking,
                "len": counted,
            }
        )
        wrong = float(missing != [blocks - 1] or total != (blocks - 1) * _BLOCK)
        checks.append(check("blocks that are taken for others", wrong, 0.0))
        checks.append(check("seconds of a look when nothing has changed", again, 0.1))
    for more, tested in (_followed(folder, blocks), _reading(folder, 100 if args.quick else 400)):
        rows, checks = rows + more, checks + tested
    return rows, checks


def _made_up(path: Path, blocks: int, *, packed: bool) -> float:
    """A store all but the last block of which are there, as far as can be told without reading them; seconds."""
    started = time.process_time()
    found = Store.create(path, Plain(), seed=0, block=_BLOCK, rows=blocks * _BLOCK)
    entries = (_entry(k) for k in range(blocks - 1))
    if packed:
        (path / "packs").mkdir()
        for number, part in enumerate(_in_parts(entries, PER_FOLDER)):
            name = path / "packs" / f"{number:03d}-1-00000000"
            name.with_suffix(".tar").touch()
            name.with_suffix(".json").write_bytes(index_of([(entry, 512, 10**6) for entry in part]))
        return time.process_time() - started
    for number, part in enumerate(_in_parts(entries, PER_FOLDER)):
        (path / found.naming.folder(SHARDS, part[0].block)).mkdir(exist_ok=True)
        with open(path / "journal" / f"node-{number % _JOURNALS}-00000000.jsonl", "ab") as journal:
            for entry in part:
                journal.write(json.dumps(sealed(entry.to_json())).encode() + b"\n")
                os.close(os.open(path / found.naming.file(SHARDS, entry.block), os.O_CREAT | os.O_WRONLY))
    return time.process_time() - started


def _entry(index: int) -> Entry:
    conditions = {"python": "3.11.2", "torch": "2.13.0", "numpy": "2.4.6", "processor": "x86_64", "device": "cpu"}
    counts = {Status.OK: _BLOCK - index % 3, Status.RAISED: index % 3}
    return Entry(index, f"{index:064x}", _BLOCK, f"{index:064x}", 0.5, counts, conditions)


def _in_parts(entries: Iterator[Entry], size: int) -> Iterator[list[Entry]]:
    part = list[Entry]()
    for entry in entries:
        part.append(entry)
        if len(part) == size:
            yield part
            part = []
    yield part


def _followed(folder: Path, blocks: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What an array of jobs costs the process that follows it, each second, while all blocks are missing."""
    found = Store.create(folder / "followed", Plain(), seed=0, block=_BLOCK, rows=blocks * _BLOCK)
    array = _Array(SlurmArray("jobs=40"), Campaign(found, Plain(), found.missing(), device="cpu", timeout=None))
    whole, _ = _timed(lambda: list(array._new(all_blocks=True)))
    look = min(_timed(lambda: list(array._new()))[0] for _ in range(5))
    run_block(Plain(), Store(found.path), 5)
    landed, entries = _timed(lambda: list(array._new()))
    row = {"blocks": blocks, "look at all": whole, "look at what is new": look, "one block new": landed}
    return [row], [
        check(
            "blocks that a look at an array of jobs does not find", float([one.block for one in entries] != [5]), 0.0
        ),
        check("seconds of a look at an array of jobs", look, 0.05),
    ]


def _one_more(found: Store) -> None:
    """The last block is committed by somebody else, and noticed."""
    other = found.blocks - 1
    theta = torch.zeros(_BLOCK, 1)
    image = Outcome({"v": torch.zeros(_BLOCK, 10)}, torch.zeros(_BLOCK, dtype=torch.uint8))
    found.commit(other, theta, image, seconds=0.0)
    found.refresh()


def _calls(found: Store) -> int:
    """Calls to the file system of a look when nothing has changed, `os.stat` and `os.scandir` counted."""
    count, before = 0, (os.stat, os.scandir)

    def counting(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*given: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            return call(*given, **named)

        return counted

    os.stat, os.scandir = counting(os.stat), counting(os.scandir)
    try:
        found.refresh()
    finally:
        os.stat, os.scandir = before
    return count


def _reading(folder: Path, blocks: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows a second in order and shuffled, from files and from packs, verified before."""
    path, simulator = folder / "wide", Wide()
    found = Store.create(path, simulator, seed=0, block=32, rows=32 * blocks)
    for index in range(blocks):
        generator = torch.Generator().manual_seed(index)
        theta = simulator.prior.sample(32, generator=generator)
        outcome = Outcome(simulator(theta, generator=generator), torch.zeros(32, dtype=torch.uint8))
        found.commit(index, theta, outcome, seconds=1.0)
    digest, rows, speeds = found.digest, list[dict[str, Any]](), dict[str, float]()
    for kind in ("files", "packs"):
        opened = Store(path)
        opened.digest  # noqa: B018 - verifies every block
        best = min(_timed(lambda opened=opened: _read(opened))[0] for _ in range(5))
        speeds[kind] = len(opened) / best
        rows.append({"blocks": blocks, "files": kind, "rows/s": speeds[kind], "MB/s": speeds[kind] * 0.032})
        if kind == "files":
            spent, done = _timed(opened.compact)
            rows.append({"blocks": blocks, "files": "compact", "seconds": spent, "packs": done.packs})
    files = sum(1 for file in path.rglob("*") if file.is_file())
    return rows, [
        check("digests that differ after compacting", float(Store(path).digest != digest), 0.0),
        check("files that are left", files, 4),
        check("time from packs over that from files", speeds["files"] / speeds["packs"], 1.25),
    ]


def _read(found: Store) -> None:
    for _ in found.batches(256, generator=torch.Generator().manual_seed(0)):
        pass


def _memory() -> float:
    """MiB that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    result = call()
    return time.process_time() - started, result
