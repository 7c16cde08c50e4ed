"""A few simulations once more in a new process, to be compared with those of this one.

A simulator may give the same data throughout one process, and other data in the next process. Its first calls may give
other data than later calls (a warm-up, a counter, a cache). Or its data may depend on `hash()` of a string, which
differs between Python processes.
The new process simulates a block in its first calls (`campaigns.again`), and once more after others, for all
simulations of this one may have been made before its warm-up was over.

It is started early, for its imports take seconds, and simulates only when it is asked, for not every simulator can run
twice at a time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, final

import torch

from sciinf.campaigns.again import ROUNDING, Look, affordable, look_again
from sciinf.campaigns.block import one_thread, run_block
from sciinf.campaigns.campaign import Campaign
from sciinf.campaigns.sent import Job, job_of, opened
from sciinf.campaigns.store import Store
from sciinf.core.simulator import Simulator

DEVICES = ("cpu",)
"""Kinds of devices whose simulations a new process makes again."""
_PROGRAM = "import sys; sys.path[:] = {path!r}; from sciinf.campaigns.new_process import main; main()"
_PATIENCE = 60.0  # s, for imports
_WHILE, _FEW = 0.5, 8  # s that calls after the first ones may take, and rows in each
_SALT = "PYTHONHASHSEED"
_WHY = (
    "What the simulator gives depends on what ran before in the process (a warm-up, a counter, a cache), on hash() of "
    "a string, which is another number in each process, or on an attribute that was set after the file was loaded"
)


@final
class NewProcess:
    """A Python process that has simulated nothing yet, and has other values of `hash()`. To be closed.

    Args:
        simulator: What it may be asked about. There is no process for one that is in no file.
        device: Where the simulations were made. There is no process for any but the CPU.
    """

    def __init__(self, simulator: Simulator, device: str | torch.device = "cpu") -> None:
        self.simulator = simulator
        self._process: subprocess.Popen[bytes] | None = None
        self.without = ""
        """Why there is no process; "" where there is one."""
        if simulator.source is None:
            self.without = "the simulator is in no file that a new process could load"
        elif torch.device(device).type not in DEVICES:
            self.without = "only simulations on the CPU are made again"
        else:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM.format(path=sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={_SALT: "1", **os.environ},  # a salt that the user has fixed stays
                start_new_session=True,
            )

    def __enter__(self) -> NewProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self, store: Store) -> Look:
        """Simulate some rows of the last block of a store there, and compare them; the process ends with it.

        Returns:
            "other" data may differ by rounding alone (`Look.apart`); "skipped" says why nothing was compared.
        """
        process, self._process = self._process, None
        if process is None:
            return Look("skipped", self.without or "the new process has ended")
        try:
            job = job_of(Campaign(store, self.simulator, [], device="cpu", timeout=None), Path())
            seconds = affordable(store)
            question = json.dumps({"job": asdict(job), "seconds": seconds}).encode()
            answer, _ = process.communicate(question, timeout=_PATIENCE + 2 * seconds)
        except subprocess.TimeoutExpired:
            return Look("skipped", f"a new process took more than {_PATIENCE:g} s")
        finally:
            _end(process)
        if process.returncode or not answer:
            return Look("skipped", f"a new process ended with code {process.returncode}")
        return Look(**json.loads(answer))

    def look_at(self, *, rows: int, seed: int) -> Look:
        """The same of rows that this process simulates now, and keeps nowhere.

        Args:
            rows: How many.
            seed: Their seed.
        """
        if self.without:
            return Look("skipped", self.without)
        with tempfile.TemporaryDirectory(prefix="sciinf-") as folder, one_thread():
            store = Store.create(Path(folder) / "rows", self.simulator, seed=seed, block=rows, rows=rows)
            run_block(self.simulator, store, 0)
            return self.look(store)

    def checked(self, store: Store, *, accept_changes: bool) -> str:
        """The same before simulations are used. Where it was done before, nothing is done, and nothing said.

        Args:
            store: What was simulated by this process, or its workers.
            accept_changes: Whether other data are told and not refused.

        Returns:
            What there is to be said about it, "" where the data are the same.

        Raises:
            ValueError: If the new process gives other data.
        """
        if self._process is None and not self.without:
            return ""
        look, rows = self.look(store), f"the simulations in {store.folder.name}"
        if look.verdict == "same":
            return ""
        if look.verdict == "skipped":
            return f"it was not checked that {rows} come out the same in another process ({look.words})"
        if (problem := problem_of(look)) and not accept_changes:
            raise ValueError(
                f"{rows} are not to be used: {problem}. They are kept. Mend the simulator and simulate into another "
                "folder (--out); or go on with --accept-changes (accept_changes=True)"
            )
        return f"{rows}, in a new process: {look.words}"

    def close(self) -> None:
        """End the process, if it was not asked."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)


def problem_of(look: Look) -> str:
    """What is wrong with a simulator that gives other data in a new process, in words; "" for a sound one."""
    if look.verdict != "other" or look.apart <= ROUNDING:
        return ""
    return f"in a new process {look.words}. {_WHY}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End it, with what its simulator has started, and close the pipes to it."""
    if process.poll() is None:
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    with process:
        pass


# --- in the new process -------------------------------------------------------------------------------------------


def main() -> None:
    """Answer one question, and end; what the simulator prints is no part of the answer."""
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    question = sys.stdin.buffer.read()
    if question:
        with answer:
            answer.write(json.dumps(asdict(_looked(**json.loads(question)))).encode())


def _looked(job: dict[str, Any], seconds: float) -> Look:
    try:
        known = tuple((name, value) for name, value in job["identity"])
        simulator, store = opened(Job(**{**job, "identity": known}))
        last = [index for index, entry in store.entries() if entry.ok][-1:]
        look = look_again(store, simulator, seconds=seconds, blocks=last)
        if look.verdict == "same":
            _warm(simulator, store, last[0])
            look = look_again(store, simulator, seconds=seconds, blocks=last)
    except (Exception, SystemExit) as error:
        return Look("skipped", f"in a new process: {type(error).__name__}: {error}")
    return look


def _warm(simulator: Simulator, store: Store, block: int) -> None:
    """Call a simulator as often as a short while allows."""
    theta = store.read(block)[0][: _FEW if simulator.by_row else None]
    until, generator = time.monotonic() + _WHILE, torch.Generator().manual_seed(0)
    with one_thread():
        while time.monotonic() < until:
            with suppress(Exception, SystemExit):
                simulator(theta.clone(), generator=generator)
