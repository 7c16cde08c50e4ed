"""Verbs killed and interrupted at random moments: the same command again gives what it would have given anyway.

Simulate, train, infer, calibrate, query and report run as processes of their own. SIGKILL ends some of them, SIGINT
others, which must exit with 130 and say that the same command goes on. Then the same command runs to its end, and the
folder must hold what an undisturbed run leaves, and nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from damaged_runs import contents, write_inputs

INFER = "infer line.py --observation seen.csv --out run -n 300 --calibration 300"
VERBS = {  # verb -> its words, and what it starts from, of what `infer` leaves
    "infer": (INFER, ()),
    "simulate": ("simulate line.py -n 3000 --block 100 --out run", ()),
    "train": ("train line.py run/simulations --out run", ("simulations",)),
    "calibrate": ("calibrate line.py run -n 300", ("fit",)),
    "query": (
        "query run --observation other.csv --simulator line.py",
        ("fit", "calibration.json", "reference.safetensors"),
    ),
    "report": ("report run", ("fit", "calibration.json", "simulations", "answers")),
}
SENTENCE = "interrupted; the same command goes on where it was"
LOADED = [
    "sciinf.cli",
    "sciinf.training",
    "sciinf.diagnostics.calibration",
    "sciinf.interfaces.answer",
    "sciinf.interfaces.report",
    "sciinf.campaigns.simulation",
]
_POLL = 0.005


@dataclass(frozen=True)
class Row:
    """What became of one process: "equal" bits after the same command again, or what went wrong."""

    verb: str
    signal: str
    moment: float
    result: str
    said: str


def run(kills: int, interrupts: int, seed: int) -> list[Row]:
    """Disturb that many processes, the verbs in turn."""
    multiprocessing.set_forkserver_preload(LOADED)
    dice, rows = random.Random(seed), []
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / "infer" / "work" / "run"
        known = {verb: _Undisturbed(Path(place) / verb, made, *VERBS[verb]) for verb in VERBS}
        for name, count in (("SIGKILL", kills), ("SIGINT", interrupts)):
            for index in range(count):
                verb = list(VERBS)[index % len(VERBS)]
                rows.append(_disturbed(verb, known[verb], name, dice))
    return rows


class _Undisturbed:
    """A verb's start, what it leaves when nothing disturbs it, and when it first writes and ends."""

    def __init__(self, folder: Path, made: Path, words: str, parts: tuple[str, ...]) -> None:
        self.folder, self.words = folder, words
        self.start = folder / "start"
        self.start.mkdir(parents=True)
        write_inputs(self.start)
        for part in parts:
            (self.start / "run").mkdir(exist_ok=True)
            copy = shutil.copytree if (made / part).is_dir() else shutil.copy
            copy(made / part, self.start / "run" / part)
        work = self.fresh()
        began, empty, self.first = time.monotonic(), _seen(work), 0.0
        process = _forked(words, work, folder / "said")
        while process.exitcode is None:
            if not self.first and _seen(work) != empty:
                self.first = time.monotonic() - began
            process.join(_POLL)
        self.seconds = time.monotonic() - began
        if process.exitcode:
            raise RuntimeError(f"`sciinf {words}` failed: {(folder / 'said').read_text()}")
        self.left = contents(work)

    def fresh(self) -> Path:
        work = self.folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        return shutil.copytree(self.start, work)


def _disturbed(verb: str, known: _Undisturbed, name: str, dice: random.Random) -> Row:
    """Killed where it computes and writes, in a process that has loaded all; interrupted anywhere, in a new one."""
    said = known.folder / "said"
    while True:
        work = known.fresh()
        if name == "SIGKILL":
            moment = dice.uniform(0.5 * known.first, known.seconds)
            code = _kill(known, work, said, moment)
        else:
            moment = dice.uniform(0.5, 2.0 + known.seconds)
            code = _interrupt(known, work, said, moment)
        if code != 0:  # it had not ended before
            break
    told = said.read_text()
    if name == "SIGINT" and (code != 130 or SENTENCE not in told or "Traceback" in told):
        return Row(verb, name, moment, "unclear", f"exit {code}: {told}")
    try:
        _to_end(known.words, work)
    except RuntimeError as error:
        return Row(verb, name, moment, "stuck", str(error))
    held = contents(work)
    stray = sorted(held.keys() - known.left.keys())
    unlike = sorted(file for file in known.left if not _same(file, held.get(file, ""), known.left[file]))
    if stray or unlike:
        return Row(verb, name, moment, "stray" if stray else "unlike", ", ".join(stray + unlike))
    return Row(verb, name, moment, "equal", "")


def _same(file: str, held: str, left: str) -> bool:
    """Equal; of journals, one block may be in no line: its file was whole when the writer was killed, and is taken."""
    if not file.endswith("journal"):
        return held == left
    there, wanted = set(held.split()), set(left.split())
    return there <= wanted and len(wanted - there) <= 1


def _kill(known: _Undisturbed, work: Path, said: Path, moment: float) -> int:
    process = _forked(known.words, work, said)
    process.join(moment)
    process.kill()
    process.join()
    return process.exitcode


def _interrupt(known: _Undisturbed, work: Path, said: Path, moment: float) -> int:
    with open(said, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *known.words.split()],
            cwd=work,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.DEVNULL,
            stderr=file,
        )
    time.sleep(moment)
    process.send_signal(signal.SIGINT)
    return process.wait()


_PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with signals ignored
from sciinf.cli import main
main()
"""


def _to_end(words: str, work: Path) -> None:
    said = work.parent / "said"
    process = _forked(words, work, said)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"`sciinf {words}` ended with {process.exitcode}: {said.read_text()}")


def _forked(words: str, work: Path, said: Path) -> Any:
    process = multiprocessing.get_context("forkserver").Process(target=_verb, args=(words, work, said))
    process.start()
    return process


def _verb(words: str, work: Path, said: Path) -> None:
    from sciinf.cli import main

    os.chdir(work)
    sys.argv = ["sciinf", *words.split()]
    with open(said, "w") as sys.stderr, open(os.devnull, "w") as sys.stdout:
        main()


def _seen(folder: Path) -> set[tuple[str, int]]:
    found = set()
    for path in folder.rglob("*"):
        try:
            found.add((str(path), path.stat().st_mtime_ns))
        except FileNotFoundError:
            continue
    return found


def main() -> None:
    """Print what became of some: `python benchmarks/killed_verbs.py KILLS INTERRUPTS SEED`."""
    for row in run(*map(int, sys.argv[1:4])):
        print(f"{row.result}  {row.verb}, {row.signal} after {row.moment:.2f} s {row.said[:1000]}", flush=True)


if __name__ == "__main__":
    main()
