"""Simulate a few rows again in a new process, and compare them with the rows of this process.

A simulator may give the same data throughout one process, and other data in the next process. Its first calls may give
other data than later calls (a warm-up, a counter, a cache). Or its data may depend on `hash()` of a string, which
differs between Python processes. The new process simulates a block in its first calls (`campaigns.again`). Then it
simulates the block once more after other calls: all simulations of this process may stem from before the end of a
warm-up.

The new process is started early, because its imports take seconds. It simulates only when it is asked, because not
every simulator can run twice at the same time.
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
_PATIENCE = 60.0  # Seconds for the imports of the new process.
_WHILE, _FEW = 0.5, 8  # Seconds for the calls of the warm-up, and rows in each call.
_SALT = "PYTHONHASHSEED"
_WHY = (
    "What the simulator gives depends on what ran before in the process (a warm-up, a counter, a cache), on hash() of "
    "a string, which is another number in each process, or on an attribute that was set after the file was loaded"
)


@final
class NewProcess:
    """A new Python process that has not simulated yet, and whose `hash()` values differ from those of this process.

    Close it after use.

    Args:
        simulator: Simulator to check. No process is started if it is in no file.
        device: Device of the stored simulations. No process is started for any device but the CPU.
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
                env={_SALT: "1", **os.environ},  # A salt that the user has fixed stays.
                start_new_session=True,
            )

    def __enter__(self) -> NewProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def look(self, store: Store) -> Look:
        """Simulate some rows of the last block of a store in the new process, compare them, and end the process.

        Returns:
            Result of the comparison. "other" data may differ by rounding alone (`Look.apart`); "skipped" says why
                nothing was compared.
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
        """Simulate rows in this process, and compare them with those of the new process. The rows are not stored.

        Args:
            rows: Number of rows.
            seed: Seed of the rows.
        """
        if self.without:
            return Look("skipped", self.without)
        with tempfile.TemporaryDirectory(prefix="sciinf-") as folder, one_thread():
            store = Store.create(Path(folder) / "rows", self.simulator, seed=seed, block=rows, rows=rows)
            run_block(self.simulator, store, 0)
            return self.look(store)

    def checked(self, store: Store, *, accept_changes: bool) -> str:
        """Compare rows of a store with those of the new process, before the simulations are used.

        If the comparison was done before, nothing is done, and "" is returned.

        Args:
            store: Store of simulations from this process or its workers.
            accept_changes: Whether to report other data instead of refusing them.

        Returns:
            Message for the user; "" if the data are the same.

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
        """End the new process, if it is still waiting for a question."""
        process, self._process = self._process, None
        if process is not None:
            _end(process)


def problem_of(look: Look) -> str:
    """Describe the fault of a simulator that gives other data in a new process, in words; "" if there is no fault."""
    if look.verdict != "other" or look.apart <= ROUNDING:
        return ""
    return f"in a new process {look.words}. {_WHY}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process together with the programs that its simulator has started, and close the pipes to it."""
    if process.poll() is None:
        if os.name == "nt":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    with process:
        pass


# --- in the new process -------------------------------------------------------------------------------------------


def main() -> None:
    """Answer one question and end. What the simulator prints does not become part of the answer."""
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
    """Call a simulator repeatedly for a short time, so that its warm-up is over."""
    theta = store.read(block)[0][: _FEW if simulator.by_row else None]
    until, generator = time.monotonic() + _WHILE, torch.Generator().manual_seed(0)
    with one_thread():
        while time.monotonic() < until:
            with suppress(Exception, SystemExit):
                simulator(theta.clone(), generator=generator)
