"""Damaged files of a run folder: each is named, made anew to the same bits, or changes nothing.

`run` makes a small run folder and damages one file after another (bits, digits, cuts, holes, insertions). Two verbs
that read the file are then called. A failure is a result that differs without a word, an error that does not name the
file, or a traceback.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fuzzed_observations import damage

from sciinf.core.files import SEAL
from sciinf.core.simulator import load_module

call = load_module(Path(__file__).parents[1] / "tests" / "command_line.py").call

LINE = """
import numpy as np
from torch.distributions import Normal

from sciinf import Observable, Prior, wrappers

prior = Prior(slope=(Normal(0.0, 1.0), "m/s"), offset=(Normal(0.0, 1.0), "m"))


def track(slope, offset, rng):
    return offset + slope * np.arange(5.0) + rng.normal(size=5)


simulator = wrappers.numpy(track, prior, {"x": Observable((5,), "m", dims=("time",))})
"""
SEEN, OTHER = "x [m]\n0.2\n1.4\n1.9\n3.2\n3.8\n", "x [m]\n0.1\n0.4\n0.9\n1.2\n2.8\n"
KINDS = ("bits", "digits", "cut", "hole", "insert")
FAILURES = ("silent", "unclear", "traceback")
_MEASURED_WORDS = r"\d{4}-\d\d-\d\d[^<]*|\b[\d.,]+ (ms|s|min|h)\b"  # dates and times in a page
_MEASURED = {"seconds", SEAL, "history.csv"}  # keys that differ between equal runs: times, and hashes over them


@dataclass(frozen=True)
class Row:
    """What became of one damaged file under one verb: one of "named", "anew", "same" or `FAILURES`."""

    file: str
    damage: str
    verb: str
    result: str
    said: str


# --- what a run folder holds ------------------------------------------------------------------------------------------


def write_inputs(folder: Path) -> None:
    """The simulator and two observations."""
    (folder / "line.py").write_text(LINE)
    (folder / "seen.csv").write_text(SEEN)
    (folder / "other.csv").write_text(OTHER)


def contents(folder: Path) -> dict[str, str]:
    """File -> hash of what two undisturbed runs have in common in it: all but times, process numbers and diaries."""
    found: dict[str, str] = {}
    blocks: dict[str, set[str]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        if file.name.startswith(".") and file.suffix == ".tmp":
            continue  # what a killed process has left; it goes when it is an hour old
        if file.parent.name == "journal":
            blocks.setdefault(str(file.parent.relative_to(folder)), set()).update(_blocks(file))
        elif file.name in ("provenance.json", "report.html", "log.txt", "events.jsonl"):
            found[name] = "there"
        else:
            found[name] = hashlib.sha256(_content(file)).hexdigest()
    return found | {name: " ".join(sorted(lines)) for name, lines in blocks.items()}


def _content(file: Path) -> bytes:
    data = file.read_bytes()
    if file.name == "history.csv":
        return b"\n".join(line.rpartition(b",")[0] for line in data.splitlines())
    try:
        return json.dumps(_unmeasured(json.loads(data))).encode() if file.suffix == ".json" else data
    except (ValueError, RecursionError):
        return data


def _unmeasured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unmeasured(item) for key, item in value.items() if key not in _MEASURED}
    return [_unmeasured(item) for item in value] if isinstance(value, list) else value


def _blocks(journal: Path) -> Iterator[str]:
    for line in journal.read_bytes().splitlines():
        try:
            entry = json.loads(line)
            yield f"{entry['block']}:{entry['content']}:{entry['sha256']}:{entry['rows']}"
        except (ValueError, KeyError, TypeError):
            continue  # torn or damaged, and passed over by the store too


# --- damage -----------------------------------------------------------------------------------------------------------


def verbs(file: str) -> dict[str, list[str]]:
    """Verb -> its words, for the verbs that read a file of the run folder."""
    part, _, rest = file.partition("/")
    name = rest.split("/")[0] if part == "answers" else "seen"
    ask = ["query", "run", "--observation", f"{name}.csv", *(["--simulator", "line.py"] if name == "other" else [])]
    every = {
        "query": ask,
        "report": ["report", "run"],
        "check": ["check", f"run/{part}"],
        "calibrate": ["calibrate", "line.py", "run", "-n", "300"],
        "infer": ["infer", "line.py", "--observation", "seen.csv", "--out", "run", "-n", "300"],
    }
    readers = {
        "answers": ("query", "report"),
        "calibration.json": ("query", "report", "calibrate"),
        "reference.safetensors": ("query", "report", "calibrate"),
        "fit": ("query", "report", "calibrate", "infer"),
        "simulations": ("check", "report", "infer"),
        "calibration_simulations": ("check", "report", "calibrate"),
    }
    return {verb: every[verb] for verb in readers.get(part, ("query", "report"))}


def run(count: int, seed: int) -> list[Row]:
    """Damage that many files of a run folder, each in turn; call the verb that reads it most and another that does."""
    dice, rows, clean = random.Random(seed), [], {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_inputs(folder)
        _make(folder)
        shutil.copytree(folder / "run", folder / "whole")
        files = [str(path.relative_to(folder / "whole")) for path in (folder / "whole").rglob("*") if path.is_file()]
        files = dice.sample(sorted(files), len(files))
        for index in range(count):
            file = files[index % len(files)]
            whole = (folder / "whole" / file).read_bytes()
            done, data = damage(whole, dice, KINDS)
            while data == whole:
                done, data = damage(whole, dice, KINDS)
            first, *others = verbs(file).items()
            for verb, words in (first, dice.choice(others)):
                key = " ".join(words)
                if key not in clean:
                    clean[key] = _after(folder, words)
                rows.append(Row(file, done, verb, *_judge(clean[key], folder, words, file, data)))
    return rows


def _make(folder: Path) -> None:
    words = ["--observation", folder / "seen.csv", "--out", folder / "run", "-n", 300, "--calibration", 300]
    ask = ["--observation", folder / "other.csv", "--simulator", folder / "line.py"]
    for made in (call("infer", folder / "line.py", *words), call("query", folder / "run", *ask)):
        if made.code:
            raise RuntimeError(f"the run folder could not be made: {made.err}")


def _after(folder: Path, words: list[str], file: str = "", data: bytes = b"") -> Any:
    """Exit code, both streams, the page and what the folder holds, after a command in a copy with one damaged file."""
    shutil.rmtree(folder / "run")
    shutil.copytree(folder / "whole", folder / "run")
    if file:
        (folder / "run" / file).write_bytes(data)
    paths = [str(folder / word) if word.split("/")[0] in ("run", *_INPUTS) else word for word in words]
    result = call(*paths)
    page = re.sub(_MEASURED_WORDS, "", (folder / "run/report.html").read_text(errors="replace"))
    return result, page if words[0] in ("report", "infer") else "", contents(folder / "run")


_INPUTS = ("line.py", "seen.csv", "other.csv")


def _judge(clean: Any, folder: Path, words: list[str], file: str, data: bytes) -> tuple[str, str]:
    """What the command came to with a damaged file, and what it said."""
    name = file.split("/")[-1]
    try:
        result, page, held = _after(folder, words, file, data)
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    (before, page_before, held_before), said = clean, result.err + result.out
    if "Traceback" in said:
        return "traceback", said
    told = said + page
    if told.count(name) > (before.err + before.out + page_before).count(name):
        return "named", said
    if result.code != before.code:
        return "unclear", said
    raw = (folder / "run" / file).read_bytes()
    key = str(Path(file).parent) if "/journal/" in file else file
    rest = {other for other in held | held_before if held.get(other) != held_before.get(other)} - {key}
    if result.out != before.out or page != page_before or rest:
        return "silent", f"{sorted(rest)} {'page' * (page != page_before)} {said}"
    if held.get(key) == held_before.get(key) and raw != data:
        return "anew", said
    return ("same", said) if raw == data else ("silent", f"another {file} {said}")


def main() -> None:
    """Print every failure of some damaged files: `python benchmarks/damaged_runs.py COUNT SEED`."""
    rows = run(int(sys.argv[1]), int(sys.argv[2]))
    for row in rows:
        if row.result in FAILURES:
            print(f"{row.result}  {row.file}, {row.damage}, {row.verb}: {row.said[:600]}")
    print({result: sum(row.result == result for row in rows) for result in ("named", "anew", "same", *FAILURES)})


if __name__ == "__main__":
    main()
