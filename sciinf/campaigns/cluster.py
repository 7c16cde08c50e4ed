"""Run blocks on other machines: the workers of a Dask cluster that is already running.

The cluster receives the numbers of blocks. Its workers load the simulator by the path of its file, commit the block to
the store themselves, and report what they committed (`campaigns.cluster_block`). So simulator and store lie on a disk
that all machines share. The number of blocks given out at a time is limited by the number of workers. Dask is not asked
to try lost blocks again. Claim files show which block was running when a process ended. Blocks that only waited in the
same process lose no try. If the scheduler was lost, the blocks that it had are looked up in the store. Missing ones are
given out again.

References:
    | Dask distributed, https://distributed.dask.org
"""

from __future__ import annotations

import json
import queue
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from sciinf.campaigns.beginning import check_in_file
from sciinf.campaigns.campaign import Campaign, Engine
from sciinf.campaigns.cluster_block import code, conditions_of, ended, forget, run_told
from sciinf.campaigns.conditions import conditions
from sciinf.campaigns.sent import job_of
from sciinf.campaigns.storage.durable import writing
from sciinf.campaigns.storage.folder import on_disk
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.storage.objects import folder_at
from sciinf.core.observable import Status
from sciinf.core.simulator import Simulator
from sciinf.core.telling import tell

if TYPE_CHECKING:
    from distributed import Future

_LOOK = 2.0  # Seconds between two looks at the cluster's workers.
_ANSWER = 10.0  # Seconds that the scheduler has to answer.
_WEEK = 604_800.0  # A week in seconds.
_CLAIMS = "claims-"
_OFTEN = 5
_KEPT = "a cluster notes which blocks it has begun"
_KINDS: dict[str, type[Exception]] = {"ValueError": ValueError, "TypeError": TypeError, "MemoryError": MemoryError}


@final
@dataclass(frozen=True)
class Cluster(Engine):
    """The workers of a Dask cluster, on any number of machines. The campaign does not stop the cluster at its end.

    Start workers with one thread each (`dask worker ADDRESS --nworkers 8 --nthreads 1`), because a process runs one
    block at a time.

    Args:
        address: Address of the scheduler, such as "tcp://node1:8786", or the path of its `--scheduler-file` (.json).
        resources: Amounts of a worker's own resources that a block takes, such as {"programs": 1}. Use them if a
            simulator starts an external program; start workers with `--resources programs=1` then.
        patience: Seconds to wait for a scheduler that has stopped answering.
    """

    address: str
    resources: Mapping[str, float] | None = field(default=None, kw_only=True)
    patience: float = field(default=600.0, kw_only=True)

    def check(self, simulator: Simulator, path: str | Path | None = None) -> None:
        check_in_file(simulator, "machines of a cluster")
        _check_address(self.address)
        if path is not None:
            on_disk(folder_at(path), _KEPT)
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "a cluster needs the package distributed, which is not installed: pip install 'sciinf[cluster]'"
            ) from error

    def run(self, campaign: Campaign) -> Generator[Entry, None, None]:
        self.check(campaign.simulator)
        with _claims(on_disk(campaign.store.folder, _KEPT)) as claims:
            given_out = _GivenOut(self, campaign, claims)
            try:
                yield from given_out.entries()
            finally:
                given_out.close()


class _GivenOut:
    """The blocks of a campaign that were given to the cluster and are not yet reported."""

    def __init__(self, engine: Cluster, campaign: Campaign, claims: Path) -> None:
        self.engine, self.campaign, self.claims = engine, campaign, claims
        self.told = {
            "code": code(),
            "job": asdict(job_of(campaign, claims)),
            "timeout": campaign.timeout,
            "conditions": conditions_of(campaign.simulator, campaign.device),
        }
        self.hand: dict[Future, tuple[int, Path]] = {}
        self.done: queue.SimpleQueue[Future] = queue.SimpleQueue()
        self.given = 0
        self.room, self.looked, self.heard = 0, -_LOOK, time.monotonic()
        self.waits = self.unlike = False
        self.left: Counter[int] = Counter()
        self.client: Any = None

    def entries(self) -> Iterator[Entry]:
        """Yield the entries of blocks as they are committed."""
        self._connect(first=True)
        while self.campaign.queue or self.hand:
            if self.client is None or self.client.status == "closed":
                self._connect()
            self._look()
            self._give_out()
            yield from self._collect()

    def close(self) -> None:
        """Close the connection. Waiting blocks are dropped; running blocks may or may not finish on their workers."""
        if self.client is not None:
            with suppress(Exception):
                self.client.close(timeout=2)

    # --- the scheduler ------------------------------------------------------------------------------------------------

    def _connect(self, *, first: bool = False) -> None:
        from distributed import Client

        self.close()
        address, started = self.engine.address, time.monotonic()
        how: dict[str, Any] = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        while True:
            try:
                self.client = Client(**how, set_as_default=False, timeout=f"{_ANSWER:g}s")
                break
            except (OSError, ValueError) as error:
                if first or time.monotonic() - started > self.engine.patience:
                    self._gone(error)
                time.sleep(1.0)
        self.heard = time.monotonic()
        if not first:
            tell(f"the scheduler at {address} answers again")

    def _gone(self, error: Exception | None = None) -> None:
        why = (str(error) or type(error).__name__) if error else "it is silent"
        raise RuntimeError(
            f"no scheduler answers at {self.engine.address} ({why}). Blocks committed so far are kept, and the same "
            "command goes on where it was, once a scheduler runs (`dask scheduler`, and on each machine "
            "`dask worker ADDRESS --nthreads 1`)"
        ) from error

    def _look(self) -> None:
        """Update the number of blocks that may be given out, from the cluster's workers."""
        if time.monotonic() - self.looked < _LOOK:
            return
        client = self.client
        try:
            found = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=_ANSWER)
        except Exception as error:  # The scheduler may answer later; a lost one shows in the client's status.
            if time.monotonic() - self.heard > self.engine.patience:
                self._gone(error)
            return
        self.looked = self.heard = time.monotonic()
        able = [worker for worker in found["workers"].values() if self._serves(worker["resources"])]
        self.room = 2 * len(able) + 2 if able else 0
        if self.waits != (not able):
            self.waits = not able
            kind = f" with the resources {dict(self.engine.resources)}" if self.engine.resources else ""
            where = f"at {self.engine.address}{kind}"
            tell(f"waiting for workers: there are none {where}" if self.waits else f"workers {where}: {len(able)}")

    def _serves(self, resources: Mapping[str, float]) -> bool:
        return all(resources.get(name, 0) >= amount for name, amount in (self.engine.resources or {}).items())

    # --- blocks -------------------------------------------------------------------------------------------------------

    def _give_out(self) -> None:
        while self.campaign.queue and len(self.hand) < self.room and self.client.status == "running":
            index = self.campaign.queue.popleft()
            self.given += 1
            claim = self.claims / f"{index}.{self.given}"
            told = json.dumps(self.told | {"block": index, "claim": claim.name})
            resources = dict(self.engine.resources) if self.engine.resources else None
            key = f"{self.claims.name}-{index}-{self.given}"
            future = self.client.submit(run_told, told, key=key, pure=False, retries=0, resources=resources)
            self.hand[future] = (index, claim)
            future.add_done_callback(self.done.put)

    def _collect(self) -> Iterator[Entry]:
        """Yield the entries of blocks that the cluster has returned; wait briefly for the first."""
        back: list[Future] = []
        first = True
        with suppress(queue.Empty):
            while True:
                back.append(self.done.get(timeout=_LOOK / 4 if first else 0.0))
                first = False
        cut = list[tuple[int, Path]]()
        for future in back:
            index, claim = self.hand.pop(future, (None, self.claims))
            if index is None:
                continue
            report = self._report(future, claim)
            if report is None:
                cut.append((index, claim))
                continue
            entry = self._reported(index, report)
            forget(claim)
            if entry is not None:
                yield entry
        if cut:
            yield from self._cut_off(cut)

    def _report(self, future: Any, claim: Path) -> dict[str, Any] | None:
        """A worker's report of a block; None if there is no report, because the scheduler was lost."""
        from distributed import KilledWorker

        try:
            if future.status == "finished":
                return json.loads(future.result(timeout=_ANSWER))
            if future.status == "error":
                error = future.exception(timeout=_ANSWER)
                if isinstance(error, KilledWorker):
                    return ended(claim)
                raise _Refused(error)
        except _Refused as refused:
            why = f"{type(refused.error).__name__}: {refused.error}"
            raise RuntimeError(
                f"workers at {self.engine.address} cannot run blocks ({why}); "
                "install the same version of sciinf on all machines"
            ) from refused.error
        except Exception:  # The scheduler was lost after it said that the block is done.
            return None
        return None

    def _reported(self, index: int, report: Mapping[str, Any]) -> Entry | None:
        if "entry" in report:
            entry = Entry.from_json(report["entry"])
            self._compare(entry)
            return entry
        if "error" in report:
            raise _error(report["error"])
        if "lost" in report:
            late = report["late"]
            reason = f"not finished within {self.campaign.timeout:g} s" if late else report["lost"]
            return self.campaign.failed(index, Status.TIMED_OUT if late else Status.RAISED, reason)
        self.campaign.back([index])
        self.left[index] += 1
        if self.left[index] == _OFTEN:
            tell(
                f"block {index} was left unfinished {_OFTEN} times because its workers were told to end. Where jobs of "
                "a queue end at their time limit, make blocks shorter than jobs (block=, in another folder)"
            )
        return None

    def _cut_off(self, cut: list[tuple[int, Path]]) -> Iterator[Entry]:
        """Handle blocks without a report: yield those that are in the store, and put the others back into the queue."""
        store = self.campaign.store
        store.refresh()
        self.campaign.back([index for index, _ in cut if store.lacks(index)])
        for index, _ in cut:
            if not store.lacks(index):
                yield store.history(index)[-1]

    def _compare(self, entry: Entry) -> None:
        """Report once that a block was simulated on another kind of processor, which may change the last bits."""
        mine = conditions(self.campaign.simulator, self.campaign.device)
        other = entry.conditions.get("processor", mine["processor"])
        if other != mine["processor"] and not self.unlike:
            self.unlike = True
            tell(
                f"note: blocks are simulated on {other}, and this machine has {mine['processor']}: the last bits of "
                "simulations may differ between them, and with them the store's digest"
            )


class _Refused(Exception):
    """Error with which Dask reports a task that could not begin."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def _error(told: Mapping[str, Any]) -> Exception:
    if told["kind"] == "OSError":
        return OSError(told["errno"], told["words"])
    return _KINDS.get(told["kind"], RuntimeError)(told["words"])


def _check_address(address: str) -> None:
    """Refuse an address that names no scheduler, because a client would wait for it.

    Raises:
        ValueError: If there is no such file, or the address has no port.
    """
    if address.endswith(".json"):
        if not Path(address).is_file():
            raise ValueError(
                f"there is no scheduler file {address}; `dask scheduler --scheduler-file {address}` writes it"
            )
    elif not re.search(r":\d+$", address):
        raise ValueError(
            f"{address!r} is no address of a scheduler: an address ends with its port, such as tcp://node1:8786, or is "
            "the path of a scheduler file (.json)"
        )


@contextmanager
def _claims(store: Path) -> Iterator[Path]:
    """Create a folder in the store for this campaign's claims, with a random name that no other folder has."""
    for old in store.glob(f"{_CLAIMS}*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > _WEEK:
                shutil.rmtree(old, ignore_errors=True)
    folder = store / f"{_CLAIMS}{secrets.token_hex(8)}"
    with writing(store):
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
