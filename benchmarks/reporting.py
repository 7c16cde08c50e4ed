"""What every benchmark prints and writes: rows, checks, machine, versions."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sciinf import Simulator, load_simulator
from sciinf.core.files import versions, write_json

Rows = list[dict[str, Any]]
SIMULATORS = Path(__file__).parent.parent / "simulators"
TASKS = (
    "two_moons",
    "slcp",
    "gaussian_mixture",
    "lotka_volterra",
    "sir",
    "bernoulli_glm",
    "gaussian_linear_uniform",
    "gaussian_linear",
)


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options all benchmarks have; programs of this Python are found without its environment."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="minutes on two cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--device", default="cpu", help="cpu or cuda; seconds are CPU seconds on the one, wall on the other"
    )
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    default = Path(os.environ.get("SCIINF_DATA") or Path(__file__).parent.parent.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=default, help="folder with reference posteriors")
    return parser


def clock(device: str) -> float:
    """CPU seconds of this process, or wall seconds when a GPU is done."""
    if torch.device(device).type != "cuda":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(call: Callable[[], Any], device: str, *, least: float = 0.2, rounds: int = 3) -> float:
    """The best of some rounds of calls that take at least `least` seconds together, per call."""
    started = clock(device)
    call()
    count = max(1, math.ceil(least / max(clock(device) - started, 1e-6)))
    best = math.inf
    for _ in range(rounds):
        started = clock(device)
        for _ in range(count):
            call()
        best = min(best, (clock(device) - started) / count)
    return best


def benchmark(task: str) -> Simulator:
    """The simulator of one of `TASKS`."""
    return load_simulator(SIMULATORS / "benchmarks" / f"{task}.py")


def in_parts(
    doc: str,
    parts: Mapping[str, Callable[[Any, Path], tuple[Rows, Rows]]],
    more: Callable[[argparse.ArgumentParser], Any] | None = None,
) -> None:
    """Run those parts of a benchmark that the command line names, each in its own folder, and print what they found.

    `more` adds options of its own to the parser.
    """
    parser = arguments(doc)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter  # what each part is stands there
    if more:
        more(parser)
    parser.add_argument(
        "--parts", nargs="+", choices=parts, default=list(parts), metavar="PART", help=f"some of {', '.join(parts)}"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, checks = [], []
    for name in options.parts:
        with tempfile.TemporaryDirectory() as scratch:
            found = parts[name](options, Path(scratch))
        rows += [{"part": name, **row} for row in found[0]]
        checks += found[1]
        print(f"{name}: done\n{table(found[0])}", file=sys.stderr, flush=True)
    finish(rows, checks, options.json)


def check(name: str, value: float, bound: float) -> dict[str, Any]:
    """A figure that must not exceed its bound."""
    return {"name": name, "value": value, "bound": bound, "passed": bool(value <= bound)}


def finish(rows: list[dict[str, Any]], checks: list[dict[str, Any]], file: Path | None) -> None:
    """Print the table and the checks, write the JSON, and exit non-zero when a check fails."""
    print(table(rows))
    for item in checks:
        mark = "passed" if item["passed"] else "FAILED"
        print(f"{mark}  {item['name']}: {item['value']:.4g} (bound {item['bound']:.4g})")
    machine: dict[str, Any] = {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        machine["card"] = torch.cuda.get_device_name()
    print(json.dumps(machine))
    if file is not None:
        data = {"rows": rows, "checks": checks, "machine": machine, "versions": versions()}
        write_json(file, data)
    raise SystemExit(0 if all(item["passed"] for item in checks) else 1)


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned text; a new table, with its own columns, begins at a row that has one which the last has not."""
    tables: list[list[dict[str, Any]]] = []
    for row in rows:
        if not tables or not row.keys() <= tables[-1][0].keys():
            tables.append([])
        tables[-1].append(row)
    return "\n\n".join(map(_aligned, tables))


def _aligned(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    cells = [names] + [[_cell(row.get(name, "-")) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in cells)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
