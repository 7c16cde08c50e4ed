"""One of many workers on a store, without a scheduler: each worker takes blocks that no other worker is running.

Worker i of n begins with the blocks k = i mod n and then takes any missing block. It reads the journals before each
block, and announces the block it runs (`Hints`). Blocks that other workers run are left until no other block is
missing. Then the worker waits for them. A block whose worker died is begun again after all others. After the third
death the block is given up (`campaigns.campaign`), by the first worker that takes it. So workers may be started,
stopped, killed and started again in any number and order. The store is the same as that of a single process.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import random
import re
import secrets
import sys
import time
import warnings
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, final

from sciinf.campaigns import heartbeat
from sciinf.campaigns.beginning import CampaignSpec, begin, check_in_file, check_own, joined
from sciinf.campaigns.block import one_thread, propose, run_block
from sciinf.campaigns.campaign import TRIES, Campaign
from sciinf.campaigns.devices import shared
from sciinf.campaigns.interrupts import interruptible
from sciinf.campaigns.storage.durable import writing
from sciinf.campaigns.storage.folder import on_disk
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.storage.objects import folder_at
from sciinf.campaigns.storage.own_mark import is_marked, mark_of
from sciinf.campaigns.store import Store
from sciinf.campaigns.tally import failed_of, mostly_failing, refuse
from sciinf.campaigns.watcher import Watcher
from sciinf.core.checks import is_whole
from sciinf.core.files import read_json, write_json
from sciinf.core.observable import Status
from sciinf.core.progress import Progress
from sciinf.core.simulator import Simulator

NOTE = "work.json"
_KEPT = "workers say which block they have in hand"
LOOK = 2.0  # Seconds between two looks at a store in which no block can be begun.
BEAT, FRESH = 10.0, 60.0  # Seconds between two touches of a hint, and age up to which a hint is fresh.
FOLDER = "working"


def work(
    store: Store,
    simulator: Simulator,
    *,
    share: tuple[int, int] = (0, 1),
    device: str = "cpu",
    timeout: float | None = None,
    progress: bool = True,
) -> list[Entry]:
    """Simulate the missing blocks of a store, beside any number of other workers, until no block is missing.

    Args:
        store: Store of a campaign that was begun by `plan` or `simulate`.
        simulator: The simulator with which the store was begun.
        share: Worker i of n, as (i, n): first the blocks k = i mod n, then the others. 0 to n - 1 and 1 to n both name
            all shares.
        device: Device on which the simulator runs. On "cuda" workers of one machine share its GPUs.
        timeout: Seconds after which a block ends this process, which counts as a try; None for never. The traceback
            goes to the standard error.
        progress: Whether to report progress on the standard error.

    Returns:
        Entries of the blocks that this worker committed.

    Raises:
        ValueError: If the share is invalid; if the simulator is not the one with which the store was begun, or has
            changed; if it gives other data than the stored rows, or does not return what its observables promise; or if
            most rows of the store failed. Committed simulations are kept.
        OSError: If the store cannot be written; committed simulations are kept.
        KeyboardInterrupt: On Ctrl-C, SIGTERM and SIGHUP; the same call continues where it stopped, and no block is
            blamed.

    Warns:
        UserWarning: If it is unknown whether the stored rows are of this state of the simulator, or they were made with
            other versions.
    """
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds or None, got {timeout!r}")
    first, of = checked_share(share)
    place = on_disk(store.folder, _KEPT)
    check_own(store, simulator)
    store.refresh()
    blocks, device = ordered(store.missing(), first, of), shared(device)
    done = store.rows - sum(map(store.rows_of, blocks))
    found = list[Entry]()
    with interruptible(hangup=True) as interrupts, one_thread(), closing(Hints(place, timeout)) as own_hints:
        judge = _Judge(store, simulator, device)
        judge.begin(blocks)
        worker = _Worker(Campaign(store, simulator, blocks, device=device, timeout=timeout), own_hints)
        with closing(worker.run()) as entries, Progress(store.rows, done, shown=progress) as bar:
            for entry, own in entries:
                bar.add(entry.rows, entry.rows - entry.ok)
                if own:
                    found.append(entry)
                judge.add(entry, own=own)
                interrupts.check()
        own_hints.sweep()
        judge.end()
    return found


@final
class _Judge:
    """Checks of a whole store, whoever made its rows: are they of one simulator, and did most of them not fail?

    A worker's own rows say little: the first block of a restarted worker may be a block that is given up. Such a block
    has no conditions, because it was not simulated, and is no reason to refuse at once.
    """

    def __init__(self, store: Store, simulator: Simulator, device: str) -> None:
        self.store, self.simulator, self.device = store, simulator, device
        self.counts, self.compared = Counter(store.counts), False

    def begin(self, blocks: Sequence[int]) -> None:
        """Compare the rows that are present, if blocks are missing."""
        if blocks and len(self.store):
            self._compare(None)

    def add(self, entry: Entry, *, own: bool) -> None:
        """Add the rows of a block to the counts, and refuse the store if most of its rows have failed.

        If the store was empty at the beginning, the first block of another worker is checked here: its rows
        must come out the same on this machine.

        Args:
            entry: Entry of the block.
            own: Whether this worker simulated the block. Only after such a block may the store be refused.

        Raises:
            ValueError: If the store is refused, or the checked rows are of another state of the simulator.
        """
        if not own and not self.compared and entry.ok:
            self._compare({entry.block})
        self.counts.update(entry.counts)
        if own and entry.conditions and mostly_failing(failed_of(self.counts), self.counts.total()):
            self.store.refresh()
            self.counts = Counter(self.store.counts)
            refuse(self.store, self.counts, done=False)

    def end(self) -> None:
        """Refuse a store in which most rows failed, after no block is missing."""
        self.store.refresh()
        refuse(self.store, self.store.counts, done=True)

    def _compare(self, blocks: set[int] | None) -> None:
        self.compared = True
        if words := joined(self.store, self.simulator, device=self.device, blocks=blocks):
            warnings.warn(words, stacklevel=4)


@final
class _Worker:
    """One worker: its waiting blocks, the blocks known to have killed workers, and the treatment of each block."""

    def __init__(self, campaign: Campaign, own: Hints) -> None:
        self.campaign, self.store, self.hints = campaign, campaign.store, own
        self.lines = {index: len(self.store.history(index)) for index in campaign.queue}
        self.last, self.held = set[int](), set[int]()

    def run(self) -> Generator[tuple[Entry, bool], None, None]:
        """Yield the entry of each finished block, and whether this worker simulated it."""
        passed = 0
        while (index := self.campaign.take()) is not None:
            self.store.refresh()
            entry, own = self._committed(index), False
            if entry is None and index not in self.held and self._may_begin(index):
                try:
                    entry, own = self._begun(index), True
                finally:
                    self.hints.end(index)
                self.hints.forget(index)
            if entry is not None:
                passed = 0
                yield entry, own
                continue
            self.campaign.queue.append(index)
            passed += 1
            if passed >= 2 * len(self.campaign.queue):  # Two rounds, because blocks that killed workers come last.
                passed = 0
                self._wait()

    def _wait(self) -> None:
        """Wait until a waiting block is committed, or no worker runs it; now and then check every block closely.

        A thousand workers may wait for a thousand blocks. So each worker lists one folder at a time, and does not check
        each block.
        """
        until = time.monotonic() + FRESH / 4
        while True:
            time.sleep(LOOK * random.uniform(0.5, 1.5))  # Random, so that two workers do not collide again.
            self.store.refresh()
            self.held = self.hints.held() if time.monotonic() < until else set()
            if any(index not in self.held or self._committed(index) for index in self.campaign.queue):
                return

    def _may_begin(self, index: int) -> bool:
        """Try to reserve a block for this worker; return whether it may begin.

        No other worker may be running the block. A block that has killed a worker is first put behind the others.
        """
        if not self.hints.begin(index):
            return False
        if self.hints.deaths(index) and index not in self.last:
            self.last.add(index)
            self.hints.end(index)
            return False
        return True

    def _begun(self, index: int) -> Entry:
        campaign, deaths = self.campaign, self.hints.deaths(index)
        self.store.refresh()
        if (entry := self._committed(index)) is not None:  # It was committed while the hint was made.
            return entry
        if len(deaths) >= TRIES:
            late = set(deaths) == {Status.TIMED_OUT}
            reason = f"not finished within {campaign.timeout or 0:g} s" if late else "its worker process died"
            status = Status.TIMED_OUT if late else Status.RAISED
            campaign.tries[index] = len(deaths) - 1
            if (given_up := campaign.failed(index, status, reason)) is not None:
                return given_up
        with _deadline(campaign.timeout):
            return run_block(campaign.simulator, self.store, index, device=campaign.device)

    def _committed(self, index: int) -> Entry | None:
        """Entry of a block that was committed since this worker began; None if there is none."""
        new = self.store.history(index)[self.lines[index] :]
        return next((entry for entry in reversed(new) if entry.rows >= self.store.rows_of(index)), None)


def ordered(missing: Sequence[int], first: int, of: int) -> list[int]:
    """Blocks in the order in which a worker takes them: its own share, then the next worker's, and so on."""
    return sorted(missing, key=lambda index: ((index - first) % of, index))


def checked_share(share: Any) -> tuple[int, int]:
    """Share as (i mod n, n), from a share (i, n) or a text "i/n".

    Raises:
        ValueError: If the share is invalid; the message says what a share is.
    """
    given = share
    if isinstance(share, str):
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", share)
        share = tuple(map(int, found.groups())) if found and max(map(len, found.groups())) < 10 else share
    good = isinstance(share, tuple | list) and len(share) == 2 and is_whole(share[0], 0) and is_whole(share[1], 1)
    if not good or share[0] > share[1]:
        raise ValueError(
            f"a share is I/N, worker I of N with I from 0 to N - 1 or from 1 to N, such as 3/40; got {given!r}. "
            "Workers of other shares also take the blocks of this share, so any N will do"
        )
    return share[0] % share[1], share[1]


def plan(simulator: Simulator, path: str | Path, n: int, **given: Any) -> Store:
    """Begin a campaign for later workers: create the store, draw the parameters of a proposal, and simulate nothing.

    Args:
        simulator: The simulator, which must be in a file.
        path: Folder of the store.
        n: Total number of rows wanted.
        **given: Other arguments of `campaigns.beginning.CampaignSpec`. Device and timeout are recorded for the workers.

    Raises:
        ValueError: If the simulator is in no file; or if the folder is on no disk, holds another campaign, or rows of
            another state of the simulator.
        OSError: If the folder cannot be written.

    Warns:
        UserWarning: As `simulate` does, about existing rows.
    """
    wanted = CampaignSpec(simulator, path, n, **given)

    def check(_: bool) -> None:
        check_in_file(simulator, "workers")
        on_disk(folder_at(path), _KEPT)

    store = begin(wanted, check)
    note_of(store, simulator, device=wanted.device, timeout=wanted.timeout)
    if wanted.proposal is not None:
        with one_thread():
            propose(store, wanted.proposal, store.missing())
    return store


def note_of(store: Store, simulator: Simulator, *, device: Any = "cpu", timeout: float | None = None) -> None:
    """Write a note beside a store for its workers: the simulator's file, the device, and the deadline.

    No note is written if the simulator is in no file, or the store is on no disk. The note carries a mark of this user
    (`campaigns.storage.own_mark`).

    Raises:
        OSError: If the note cannot be written.
    """
    place = store.folder.path(NOTE)
    if simulator.source is None or place is None:
        return
    source = str(Path(simulator.source).resolve())
    data = {"source": source, "device": str(device), "timeout": timeout, "mark": mark_of(source)}
    with suppress(OSError, ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if read_json(place) == data:
            return
    with writing(store.folder.name):
        write_json(place, data)


def noted(store: Store) -> dict[str, Any]:
    """Read the note that `note_of` wrote.

    Raises:
        ValueError: If there is no note, it is damaged, or another user made it. Code is run only if this user has named
            its file.
    """
    way = f"name the simulator's file: `sciinf work {store.path} --simulator SIM.py`"
    try:
        data = read_json(store.path / NOTE)
    except FileNotFoundError:
        raise ValueError(f"{store.path} does not say where its simulator is (no {NOTE}); {way}") from None
    if not isinstance(data, dict) or not isinstance(data.get("source"), str):
        raise ValueError(f"{store.path / NOTE} is damaged; {way}")
    if not is_marked(data["source"], data.get("mark")):
        raise ValueError(
            f"{store.path / NOTE} names {data['source']}, but was not written by you on this computer; if you trust "
            f"that file, {way}"
        )
    return data


@contextmanager
def _deadline(timeout: float | None) -> Iterator[None]:
    """End this process if the code within this context takes too long, even if the code holds Python's lock."""
    if timeout is None:
        yield
        return
    try:
        sys.stderr.fileno()
        file: Any = sys.stderr
    except (AttributeError, OSError, ValueError):
        file = sys.__stderr__
    faulthandler.dump_traceback_later(timeout, exit=True, file=file)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@final
class Hints:
    """Hint files of the workers on a store, which say which worker runs which block. Close the object after use.

    Hints are files beside a store, and never locks: `working/BLOCK.WRITER.TOKEN` says that a worker has begun
    a block. The heartbeat process (`campaigns.heartbeat`) touches it every `BEAT` seconds. A hint that was
    not touched for `FRESH` seconds is of a worker that died during the block. Such a hint stays until the
    block is committed, and counts as a try. A lost hint costs work done twice, never a wrong store. The age
    of a hint is measured by the clock of the file system, because clocks of machines differ. The hint's time
    is compared with that of a file that was just written. If the death was noticed, `.died` or `.late` (past
    its deadline) is added to the name.

    Args:
        store: Folder of the store.
        timeout: Deadline of a block in seconds; None for none.
    """

    def __init__(self, store: Path, timeout: float | None) -> None:
        self.folder, self.timeout = (store / FOLDER).resolve(), timeout
        self._mine = f"{platform.node()}-{os.getpid()}.{secrets.token_hex(8)}"  # Containers share names and numbers.
        self._watcher = Watcher(BEAT, signals=True)

    def begin(self, index: int) -> bool:
        """Announce that this worker begins a block, unless another worker runs it; return whether it was announced."""
        mine = self.folder / f"{index}.{self._mine}"
        self._watcher.begin(mine, self.timeout)  # First, so that no hint is ever without a watcher.
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            mine.touch()
            now = mine.stat().st_mtime
            if any(now - then <= FRESH for file, then in self._others(index) if file != mine and not _ended(file.name)):
                self.end(index)
                return False
        return True

    def end(self, index: int) -> None:
        """Withdraw the hint of a block that this worker no longer runs; it does not count as a death."""
        self._watcher.rest()
        with suppress(OSError):
            (self.folder / f"{index}.{self._mine}").unlink()

    def forget(self, index: int) -> None:
        """Remove all hints of a committed block."""
        self._watcher.rest()
        for file, _ in self._others(index):
            file.unlink(missing_ok=True)

    def deaths(self, index: int) -> list[Status]:
        """How dead workers of a block ended: a status for each death."""
        mine, found = self.folder / f"{index}.{self._mine}", []
        with suppress(OSError):
            now = mine.stat().st_mtime
            for file, then in self._others(index):
                if file != mine and (_ended(file.name) or now - then > FRESH):
                    found.append(Status.TIMED_OUT if file.name.endswith(heartbeat.LATE) else Status.RAISED)
        return found

    def held(self) -> set[int]:
        """Blocks with a hint whose worker is not known to be dead, from one listing of the folder."""
        with suppress(FileNotFoundError):
            names = [name for name in os.listdir(self.folder) if not _ended(name)]
            return {int(name.partition(".")[0]) for name in names if name.partition(".")[0].isdigit()}
        return set()

    def sweep(self) -> None:
        """Remove all hints, after no block is missing."""
        with suppress(FileNotFoundError):
            for file in list(self.folder.iterdir()):
                file.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the remaining hints of this worker, and end the process that touches them."""
        self._watcher.rest()
        for file in self.folder.glob(f"*.{self._mine}"):
            file.unlink(missing_ok=True)
        with suppress(OSError):  # It holds hints of other workers, or was never made.
            self.folder.rmdir()
        self._watcher.close()

    def _others(self, index: int) -> Iterator[tuple[Path, float]]:
        """Yield the hints of a block, those of this worker included, and the time of the last touch of each."""
        with suppress(FileNotFoundError):
            for name in os.listdir(self.folder):
                if name.startswith(f"{index}."):
                    with (
                        suppress(FileNotFoundError),
                        open(self.folder / name, "rb") as file,
                    ):  # Opening makes NFS ask its server again.
                        yield self.folder / name, os.fstat(file.fileno()).st_mtime


def _ended(name: str) -> bool:
    return name.endswith((heartbeat.DIED, heartbeat.LATE))
