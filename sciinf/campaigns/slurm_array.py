"""Run blocks as an array of SLURM jobs: each job is one `sciinf work STORE --share I/N` on the same store.

Only the store connects the jobs. The engine writes a batch script and submits it. Then it reads the store's journals
and the queue. Tasks that end while blocks are missing (walltime, `scancel`, a node that failed) are submitted again.
SLURM sends SIGTERM some time before the walltime. The worker then stops between two blocks or abandons its block, and
no block is blamed. A block that kills its workers is given up by the workers themselves (`campaigns.work`). If this
process is killed, the jobs go on. If it is started again, it finds the jobs in the queue and follows them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import final

from sciinf.campaigns.beginning import check_in_file
from sciinf.campaigns.campaign import TRIES, Campaign, Engine
from sciinf.campaigns.storage.durable import writing
from sciinf.campaigns.storage.folder import absolute, on_disk
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.storage.objects import folder_at
from sciinf.core import telling
from sciinf.core.files import sha256_of
from sciinf.core.simulator import Simulator

KEYS = (
    "account", "comment", "constraint", "cpus-per-task", "exclude", "gpus", "gres", "licenses", "mem",
    "mem-per-cpu", "nice", "nodelist", "partition", "qos", "reservation", "time", "tmp",
)  # fmt: skip
# Seconds between looks at the store, between looks at the queue, and until a silent queue is an error.
TICK, LOOK, SILENT = 1.0, 5.0, 600.0
# Most submissions in a row that bring no block. A single block may kill three workers meanwhile.
MOST = TRIES + 2
_KEPT = "SLURM jobs keep their logs and hints"
_LEAD = 60  # Seconds before the walltime at which the worker is asked to stop.
_ROOM = 100_000  # Bytes that must be free on the disk.
_TEMPLATE = """#!/bin/bash
# Written by sciinf. Each task of the array is a worker on one store; submit it again, with any shares, to go on.
#SBATCH --job-name={name}
#SBATCH --output={log}
#SBATCH --open-mode=append
#SBATCH --ntasks=1
#SBATCH --requeue
{options}
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMEXPR_NUM_THREADS=1
# exec, so that SIGTERM, which is sent to this shell alone, reaches the worker
exec {worker} --share "$SLURM_ARRAY_TASK_ID/{jobs}"
"""


@final
class SlurmArray(Engine):
    """An array of SLURM jobs that run the blocks.

    Args:
        options: Options as text, such as "partition=debug time=01:00:00 jobs=40". `jobs` is the number of tasks (8 by
            default); the other keys are options of sbatch, `KEYS`.

    Raises:
        ValueError: If a key is unknown, comes twice, or has no value, or `jobs` is no positive number.

    Examples:
        >>> SlurmArray("partition=short time=02:00:00 mem-per-cpu=2G jobs=100").jobs
        100
    """

    def __init__(self, options: str = "") -> None:
        found: dict[str, str] = {}
        for word in shlex.split(options.replace(",", " ") if "=" not in options else options):
            key, _, value = word.removeprefix("--").partition("=")
            if key not in (*KEYS, "jobs") or not value or key in found or not value.isprintable():
                raise ValueError(
                    f"{word!r} is no option of a SLURM array; write KEY=VALUE with spaces between them, each once: "
                    f"'partition=debug time=01:00:00 jobs=40'. KEY is jobs, or of sbatch: {', '.join(KEYS)}"
                )
            found[key] = value
        jobs = found.pop("jobs", "8")
        if not re.fullmatch(r"[1-9]\d{0,5}", jobs):
            raise ValueError(f"jobs={jobs!r} is no number of jobs; write jobs=40")
        self.jobs, self.options = int(jobs), found

    def check(self, simulator: Simulator, path: str | Path | None = None) -> None:
        check_in_file(simulator, "SLURM jobs")
        if path is not None:
            on_disk(folder_at(path), _KEPT)
        if lacking := [name for name in ("sbatch", "squeue", "scancel") if shutil.which(name) is None]:
            raise ValueError(
                f"SLURM's {', '.join(lacking)} is not found here. Run this where jobs are submitted (a login node); or "
                "begin the store with `sciinf simulate ... --plan`, and start `sciinf work STORE --share I/N` yourself"
            )

    def run(self, campaign: Campaign) -> Generator[Entry, None, None]:
        self.check(campaign.simulator)
        array = _Array(self, campaign)
        try:
            yield from array.follow()
            array.wait()
        finally:
            if not array.silent:  # With a silent queue the jobs go on, as scancel would fail too.
                array.cancel()


@final
class _Array:
    """The jobs of one campaign, and the blocks that they have committed."""

    def __init__(self, engine: SlurmArray, campaign: Campaign) -> None:
        self.store, self.blocks = campaign.store, set(campaign.queue)
        campaign.queue.clear()
        self.jobs = min(engine.jobs, len(self.blocks))
        place = on_disk(self.store.folder, _KEPT)
        self.name = f"sciinf-{sha256_of(str(place))[:12]}"
        self.logs, self.script = place / "logs", place / "logs" / "work.sbatch"
        self.tasks: dict[int, str] = {}  # Share -> the last job that was submitted for it.
        self.idle, self.landed, self.silent = 0, time.monotonic(), False
        with writing(place):
            self.logs.mkdir(exist_ok=True)
            self.script.write_text(script(engine, campaign, self.name, self.jobs))

    def follow(self) -> Iterator[Entry]:
        """Yield the entries of blocks as they are committed; replace jobs that have ended."""
        looked, answered, next_try = -LOOK, time.monotonic(), 0.0
        yield from self._new(all_blocks=True)
        while self.blocks:
            yield from self._new()
            if self.blocks and time.monotonic() - looked >= LOOK:
                looked = time.monotonic()
                living = self._queued()
                answered = looked if living is not None else max(answered, self.landed)
                if time.monotonic() - answered > SILENT:
                    self.silent = True
                    raise RuntimeError(
                        f"squeue has not answered for {SILENT:g} s. Jobs were left as they are; the same command "
                        "finds them when it answers again"
                    )
                ended = [] if living is None else [k for k in range(self.jobs) if k not in living]
                yield from self._new()  # Blocks committed before the jobs ended.
                if ended and self.blocks and (time.monotonic() >= next_try or self.idle == 0):
                    yield from self._new(all_blocks=True)
                    if self.blocks:
                        self._submit(ended)
                    next_try = time.monotonic() + LOOK * 2**self.idle
            time.sleep(TICK if self.blocks else 0)

    def wait(self) -> None:
        """Wait a short while for running workers to end by themselves, after all blocks are committed."""
        until = time.monotonic() + 3 * LOOK
        while time.monotonic() < until and self._queued(states="RUNNING,COMPLETING"):
            time.sleep(TICK / 2)

    def cancel(self) -> None:
        """Cancel the jobs of this campaign in the queue."""
        if self.tasks or self._queued():
            _call("scancel", "--quiet", f"--jobname={self.name}")

    def _new(self, *, all_blocks: bool = False) -> Iterator[Entry]:
        """Yield the entries of newly committed blocks.

        By default only new entries of journals are checked, because a store may have a million blocks.
        """
        news = self.store.refresh()
        there = self.blocks - set(self.store.missing()) if all_blocks else self.blocks & news
        for index in sorted(there):
            if self.store.lacks(index):
                continue
            self.blocks.discard(index)
            self.idle, self.landed = 0, time.monotonic()
            yield self.store.history(index)[-1]

    def _queued(self, states: str = "PENDING,RUNNING,SUSPENDED,COMPLETING,CONFIGURING") -> set[int] | None:
        """Shares whose jobs wait or run; None if the queue does not answer."""
        mine = [f"--name={self.name}", f"--user={os.getuid()}"]  # Other users may have jobs on this store.
        found = _call("squeue", "--noheader", "--array", *mine, f"--states={states}", "--format=%K")
        return None if found.returncode else {int(word) for word in found.stdout.split() if word.isdigit()}

    def _submit(self, shares: Sequence[int]) -> None:
        """Submit jobs for shares, for the first time or again.

        Raises:
            ValueError: If a worker ended with an error of its own, or sbatch refuses.
            OSError: If the store cannot be written, here or by a worker.
            RuntimeError: If more than `MOST` submissions in a row have brought no block.
        """
        again = [share for share in shares if share in self.tasks]
        self._try_disk()
        for share in again:
            if (error := _error_in(log := self._log(share))) is not None:
                kind = OSError if "cannot be written" in error else ValueError
                raise kind(f"{error} (the job's log is {log})")
        if again:
            self.idle += 1
        if self.idle > MOST:
            log = self._log(again[-1])
            raise RuntimeError(
                f"{len(again):,} SLURM jobs ended without a block, {MOST} times in a row, the last of them job "
                f"{self.tasks[again[-1]]}. Its log, {log}, ends with: {_end_of(log)!r}. {len(self.blocks):,} blocks "
                "are missing; those finished before are kept, and the same command goes on. A block must take less "
                "than the jobs' time limit: if it does not, begin another store with a smaller --block"
            )
        found = _call("sbatch", "--parsable", f"--array={_listed(shares)}", str(self.script))
        if found.returncode:
            raise ValueError(f"sbatch refuses {self.script}: {found.stderr.strip()}")
        job = found.stdout.split(";")[0].strip()
        why = "ended while blocks were missing and were submitted again" if again else "were submitted"
        telling.tell(f"tasks {_listed(shares)} {why}, as job {job}; logs in {self.logs}", telling.NOTE)
        self.tasks.update(dict.fromkeys(shares, job))

    def _try_disk(self) -> None:
        """Write a small file, to find a full disk: a worker on a full disk could not report it in its log."""
        probe = self.logs / ".room"
        try:
            with writing(self.store.path):
                probe.write_bytes(bytes(_ROOM))
        finally:
            probe.unlink(missing_ok=True)

    def _log(self, share: int) -> Path:
        return self.logs / f"{self.tasks[share]}_{share}.txt"


def script(engine: SlurmArray, campaign: Campaign, name: str, jobs: int) -> str:
    """Text of the batch script of a campaign."""
    place, given = absolute(campaign.store.folder), {"cpus-per-task": "1", **engine.options}
    lines = [f"#SBATCH --{key}={value}" for key, value in given.items()]
    if (lead := lead_before(engine.options.get("time"))) is not None:
        lines.append(f"#SBATCH --signal=B:TERM@{lead}")
    worker = [sys.executable, "-m", "sciinf.cli", "work", str(place), "--simulator", str(campaign.simulator.source)]
    worker += ["--device", str(campaign.device)]
    worker += [] if campaign.timeout is None else ["--timeout", f"{campaign.timeout:g}"]
    log = str(place).replace("%", "%%") + "/logs/%A_%a.txt"
    return _TEMPLATE.format(name=name, log=log, options="\n".join(lines), worker=shlex.join(worker), jobs=jobs)


def lead_before(limit: str | None) -> int | None:
    """Seconds before a walltime at which the worker is asked to stop; None to rely on SLURM's own SIGTERM.

    SLURM may send the signal up to a minute early, which would be a large part of a short limit.
    """
    seconds = None if limit is None else _seconds(limit)
    return None if seconds is not None and seconds < 10 * _LEAD else _LEAD


def _seconds(limit: str) -> int | None:
    """Seconds of a time limit as sbatch reads it: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S; None for other texts."""
    days, dash, rest = limit.rpartition("-")
    parts = rest.split(":")
    if not all(part.isdigit() for part in (*parts, *([days] if dash else []))) or len(parts) > 3:
        return None
    if dash:
        hours, minutes, seconds = (*map(int, parts), 0, 0)[:3]
    else:
        hours, minutes, seconds = map(int, {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)])
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _listed(shares: Sequence[int]) -> str:
    """Shares as text for sbatch: 0-3,7."""
    runs: list[list[int]] = []
    for share in sorted(shares):
        if runs and share == runs[-1][1] + 1:
            runs[-1][1] = share
        else:
            runs.append([share, share])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _error_in(log: Path) -> str | None:
    """Error of sciinf with which a worker ended, from its log; None if the log does not end with such an error."""
    end = _end_of(log)
    return end.removeprefix("sciinf: error: ") if end.startswith("sciinf: error: ") else None


def _end_of(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "(there is no log)"
    return lines[-1] if lines else "(it is empty)"


def _call(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 1, "", str(error))
