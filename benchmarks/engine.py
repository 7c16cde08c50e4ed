"""How fast simulating and training are, against what the processor can do, and how cost and memory grow.

    python benchmarks/engine.py                  every simulator; training, streaming, growth
    python benchmarks/engine.py --quick          the same at smaller sizes, in minutes
    python benchmarks/engine.py --device cuda    adds the card, CUDA graphs and bfloat16
    python benchmarks/engine.py --only stream    one part, of those at the end of this file

One figure a row. Seconds are CPU seconds of the process, its reading thread included, on a CPU (one thread), and wall
seconds on a GPU or where it says so. The roofline is the number of rows per second at which a step would reach either
ceiling: operations, counted from the shapes of matrix products, at the rate of one large product; or bytes of all
operands and results, as if none stayed in a cache, at the rate of one large copy. A cache can bring the share of it
above one. "memory" is by how much the peak of the resident memory exceeds what is resident when training begins, in a
new process that has trained the same network on 500 rows before. What that first training takes, whatever the number
of rows (torch loads much of itself then), is said, too.
"""

from __future__ import annotations

import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import SIMULATORS, arguments, benchmark, check, clock, finish, seconds
from torch import Tensor
from torch import distributions as td
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from sciinf import Flow, Observable, Prior, Recipe, Simulator, load_simulator, simulate, train
from sciinf.campaigns import Store
from sciinf.core import Batch, Outcome
from sciinf.training import train_ensemble

BLOCKS = (1, 256, 4096, 16384)
WIDTH = 1_000
MEMBERS = 5
MEGABYTE = 2**20


@dataclass
class Report:
    """Rows and checks as they come."""

    device: str
    quick: bool
    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: str, case: str, value: float, unit: str) -> float:
        """A figure, which it returns."""
        self.rows.append({"part": part, "case": case, "value": value, "unit": unit})
        print(f"{part}: {case}  {value:.4g} {unit}", file=sys.stderr, flush=True)
        return value

    def check(self, name: str, value: float, bound: float) -> None:
        """A figure that must not exceed its bound."""
        self.checks.append(check(name, value, bound))


def main() -> None:
    """Run all parts."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(options.device, options.quick, options.seed)
    with tempfile.TemporaryDirectory() as scratch:  # what torch loads when it first trains is not to count
        write_wide(Path(scratch), 500)
        trained(Path(scratch), Recipe(batch=100, device=report.device))
    for name in options.only:
        PARTS[name](report)
    finish(report.rows, report.checks, options.json)


def exponent(sizes: list[int], costs: list[float]) -> float:
    """Slope of a straight line through log cost against log size."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def generator_on(device: str, seed: int) -> torch.Generator:
    """A seeded generator."""
    return torch.Generator(device).manual_seed(seed)


class Counted(TorchDispatchMode):
    """Operations run within, and the bytes of their operands and results."""

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.bytes = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            self.operations += 1
            tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in tensors)
        return result


def simulating(report: Report) -> None:
    """Simulations per second, by simulator and block size."""
    limit = 0.5 if report.quick else 2.0
    files = [f for folder in (SIMULATORS, SIMULATORS / "benchmarks") for f in sorted(folder.glob("*.py"))]
    for file in files:
        simulator, last, measured = load_simulator(file), 0.0, 0
        for block in BLOCKS:
            name = f"{file.relative_to(SIMULATORS).with_suffix('')}, block {block}"
            if measured > 1 and last * block / measured > limit:  # one row tells nothing of many
                print(f"simulate: {name}  left out, it would take {last * block / measured:.1f} s", file=sys.stderr)
                continue
            theta = simulator.prior.sample(block, generator=generator_on("cpu", report.seed)).to(report.device)
            generator = generator_on(report.device, report.seed)

            def call(theta: Tensor = theta, generator: torch.Generator = generator, s: Simulator = simulator) -> Any:
                return s(theta, generator=generator)

            last, measured = seconds(call, report.device, least=0.02, rounds=1 if report.quick else 3), block
            report.add("simulate", f"{name}, {report.device}", block / last, "simulations/s")


def ceilings(device: str) -> tuple[float, float]:
    """Floating-point operations per second of a large product, and bytes per second of a large copy."""
    n, long = (1024, 2**26) if torch.device(device).type == "cpu" else (8192, 2**29)
    a = torch.randn(n, n, device=device)
    source, target = torch.ones(long // 4, device=device), torch.empty(long // 4, device=device)
    return 2 * n**3 / seconds(lambda: a @ a, device), 2 * long / seconds(lambda: target.copy_(source), device)


def one_step(flow: Flow, batch: Batch, generator: torch.Generator) -> None:
    """Loss and slopes of a batch."""
    flow.zero_grad(set_to_none=True)
    flow.loss(batch, generator=generator).mean().backward()


def training(report: Report) -> None:
    """Training rows per second of the default estimator, and what share of the machine's ceilings that is."""
    product, bandwidth = ceilings(report.device)
    report.add("ceiling", "matrix product, float32", product / 1e9, "GFLOP/s")
    report.add("ceiling", "copy", bandwidth / 1e9, "GB/s")
    count, epochs = (5_000, 4) if report.quick else (10_000, 6)
    for name in ("slcp", "two_moons"):
        simulator = benchmark(name)
        flow = Flow(simulator.prior, simulator.observables, seed=report.seed)
        with tempfile.TemporaryDirectory() as scratch:
            store = simulate(simulator, Path(scratch) / "store", count, seed=report.seed, progress=False)
            speed, _ = rows_per_second([flow], store, Recipe(batch=500, device=report.device), epochs)
            batch = store.load(500).to(report.device)
        flow = flow.to(report.device)
        generator = generator_on(report.device, report.seed)
        with FlopCounterMode(display=False) as flops:
            one_step(flow, batch, generator)
        with Counted() as counted:
            one_step(flow, batch, generator)
        operations, size = flops.get_total_flops() / len(batch), counted.bytes / len(batch)
        roofline = 1 / max(operations / product, size / bandwidth)
        report.add("train", name, speed, "rows/s")
        report.add("train", f"{name}, matrix products", operations / 1e3, "kFLOP/row")
        report.add("train", f"{name}, operands and results", size / 1e3, "kB/row")
        report.add("train", f"{name}, share of matrix product ceiling", operations * speed / product, "")
        report.add("train", f"{name}, share of memory ceiling", size * speed / bandwidth, "")
        report.add("train", f"{name}, roofline", roofline, "rows/s")
        report.add("train", f"{name}, share of roofline", speed / roofline, "")
        report.add("train", f"{name}, operations of a step (but the optimiser's)", counted.operations, "")


def rows_per_second(flows: Sequence[Flow], store: Store, recipe: Recipe, epochs: int) -> tuple[float, float]:
    """Rows of more epochs over the time that more epochs take, so that what is done once does not count.

    Args:
        flows: What is trained; several are trained at once, and rows count for each.
        store: The rows.
        recipe: How; the number of epochs is not taken from it.
        epochs: How many more than one.

    Returns:
        By `clock`, and by the wall's; NaN where other work on the machine made more epochs take less time.
    """
    times = []
    for number in (1, 1 + epochs):
        told = replace(recipe, epochs=number, patience=1 + epochs, validate_every=1)
        with tempfile.TemporaryDirectory() as out:
            started = clock(recipe.device), time.perf_counter()
            if len(flows) == 1:
                fit = train(flows[0], store, out, recipe=told)
            else:
                fit = train_ensemble(flows, store, out, recipe=told)[0]
            times.append((clock(recipe.device) - started[0], time.perf_counter() - started[1]))
    rows = len(flows) * epochs * (fit.record["store"]["used"] - fit.record["store"]["held_out"])
    by_clock, by_wall = (rows / (more - one) if more > one else math.nan for one, more in zip(*times, strict=True))
    return by_clock, by_wall


class Wide(Simulator):
    """A series of 1,000 numbers, cheap to make."""

    name, block = "wide", 2_000
    prior = Prior(slope=td.Normal(0.0, 1.0), level=td.Normal(0.0, 1.0))
    observables = {"x": Observable((WIDTH,))}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> dict[str, Tensor]:
        noise = torch.randn(1, WIDTH, generator=generator, device=theta.device)
        return {"x": noise + theta[:, :1] * torch.linspace(-1, 1, WIDTH, device=theta.device) + theta[:, 1:]}


@dataclass(frozen=True)
class Trained:
    """Rows per second by `clock` and by the wall's; bytes by which a first training and this one raised the peak."""

    speed: float
    wall: float
    first: float
    memory: float
    on_device: float


def streaming(report: Report) -> None:
    """Memory and rows per second of training in memory and streamed, by number of rows."""
    cap, batch = (32 * MEGABYTE, 200) if report.quick else (64 * MEGABYTE, 500)
    whole = math.ceil(10 * cap / (4 * WIDTH + 8))
    spawn = multiprocessing.get_context("spawn")
    found: dict[tuple[int, str], Trained] = {}
    for count in (whole // 8, whole):
        with tempfile.TemporaryDirectory() as scratch:
            write_wide(Path(scratch), count)
            for name, memory in (("in memory", 2**34), ("streamed", cap)):
                with ProcessPoolExecutor(1, mp_context=spawn) as process:
                    one = process.submit(
                        trained, Path(scratch), Recipe(batch=batch, memory=memory, device=report.device)
                    ).result()
                found[count, name] = one
                case = f"{count} rows {name}"
                report.add("stream", case, one.speed, "rows/s")
                report.add("stream", f"{case}, by the wall's clock", one.wall, "rows/s")
                report.add("stream", f"{case}, memory", one.memory / MEGABYTE, "MiB")
                report.add("stream", f"{case}, memory of a first training", one.first / MEGABYTE, "MiB")
                if one.on_device:
                    report.add("stream", f"{case}, memory of the device", one.on_device / MEGABYTE, "MiB")
    streamed, kept = found[whole, "streamed"], found[whole, "in memory"]
    report.check(f"in memory over streamed, rows/s, {10 * cap >> 20} MiB of rows", kept.speed / streamed.speed, 1 / 0.7)
    report.check(f"memory of streamed over the cap of {cap >> 20} MiB", streamed.memory / cap, 1.0)


def write_wide(folder: Path, count: int) -> None:
    """A store of `Wide`, and a little one beside it."""
    for path, rows in ((folder / "store", count), (folder / "little", 500)):
        store, simulator = Store.create(path, Wide(), seed=0, block=Wide.block, rows=rows), Wide()
        for index in store.missing():
            theta = torch.randn(store.rows_of(index), 2, generator=generator_on("cpu", index))
            x = simulator(theta, generator=generator_on("cpu", index + 10_000))
            store.commit(index, theta, Outcome(x), seconds=0.0)


def trained(folder: Path, recipe: Recipe) -> Trained:
    """What training on a store takes; in a process of its own."""
    torch.set_num_threads(1)
    flow = Flow(Wide.prior, Wide.observables)
    with peak_of_memory() as first:
        rows_per_second([flow], Store(folder / "little"), recipe, 1)
    with peak_of_memory() as grew:
        speed, wall = rows_per_second([flow], Store(folder / "store"), recipe, 1)
    on_cuda = torch.device(recipe.device).type == "cuda"
    on_device = torch.cuda.max_memory_allocated(recipe.device) if on_cuda else 0
    return Trained(speed, wall, first[0], grew[0], float(on_device))


@contextmanager
def peak_of_memory() -> Iterator[list[float]]:
    """Bytes by which the peak of the resident memory exceeds what is resident at the start; NaN but on Linux."""
    status, grew = Path("/proc/self/status"), [math.nan]

    def bytes_of(name: str) -> int:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return 1024 * int(lines[name].split()[0])

    if not status.is_file():
        yield grew
        return
    Path("/proc/self/clear_refs").write_text("5")
    before = bytes_of("VmRSS")
    yield grew
    grew[0] = float(bytes_of("VmHWM") - before)


def growth(report: Report) -> None:
    """How the cost grows with rows, dimensions and observations: exponents of fits to logarithms."""
    device = report.device
    batch = 250 if report.quick else 1_000
    counts = [2_000, 4_000, 8_000] if report.quick else [4_000, 8_000, 16_000, 32_000]
    simulator = benchmark("two_moons")
    flow = Flow(simulator.prior, simulator.observables)
    costs = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in counts:
            store = simulate(simulator, Path(scratch) / str(count), count, seed=report.seed, progress=False)
            speed, _ = rows_per_second([flow], store, Recipe(batch=batch, device=device), 2)
            costs.append(report.add("grow", f"an epoch of {count} rows", count / speed, "s"))
    report.add("grow", "exponent in rows", exponent(counts, costs), "")
    dimensions = [2, 4, 8, 16, 32] if report.quick else [2, 4, 8, 16, 32, 64]
    costs = []
    for d in dimensions:
        wide = Flow(Prior(**{f"p{i}": td.Normal(0.0, 1.0) for i in range(d)}), {"x": Observable((d,))}).to(device)
        rows = Batch(torch.randn(batch, d, device=device), {"x": torch.randn(batch, d, device=device)})
        costs.append(seconds(lambda w=wide, r=rows: one_step(w, r, generator_on(device, report.seed)), device))
        report.add("grow", f"a step of {batch} rows, {d} parameters", costs[-1], "s")
    report.add("grow", "exponent in dimensions", exponent(dimensions, costs), "")
    flow, numbers, costs = flow.to(device), [1, 10, 100, 1000], []
    for number in numbers:
        x = {"x": torch.randn(number, 2, device=device)}
        draw = generator_on(device, report.seed)
        costs.append(
            seconds(lambda x=x, g=draw: flow.condition(x).sample(1_000, generator=g), device, least=0.05, rounds=1)
        )
        report.add("grow", f"1000 draws for each of {number} observations", costs[-1], "s")
    report.add("grow", "exponent in observations", exponent(numbers, costs), "")


def ensembles(report: Report) -> None:
    """Five members trained at once against one."""
    simulator = benchmark("two_moons")
    flows = [Flow(simulator.prior, simulator.observables, seed=k) for k in range(MEMBERS)]
    recipe = Recipe(batch=250, device=report.device)
    with tempfile.TemporaryDirectory() as scratch:
        count = 2_000 if report.quick else 5_000
        store = simulate(simulator, Path(scratch) / "store", count, seed=report.seed, progress=False)
        one, _ = rows_per_second(flows[:1], store, recipe, 2)
        all_of_them, _ = rows_per_second(flows, store, recipe, 2)
    report.add("ensemble", "one member", one, "rows/s")
    report.add("ensemble", f"{MEMBERS} members by train_ensemble, rows of each counted", all_of_them, "rows/s")
    report.add("ensemble", f"time for {MEMBERS} over time for one", MEMBERS * one / all_of_them, "")


def graphs(report: Report) -> None:
    """Steps as they are against steps captured as a CUDA graph, in float32 and bfloat16."""
    if torch.device(report.device).type != "cuda":
        print("graph: left out, CUDA graphs and bfloat16 are measured with --device cuda only", file=sys.stderr)
        return
    simulator = benchmark("slcp")
    flow = Flow(simulator.prior, simulator.observables, seed=report.seed)
    speed: dict[tuple[bool, str], float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        store = simulate(simulator, Path(scratch) / "store", 20_000, seed=report.seed, progress=False)
        for precision in ("float32", "bfloat16"):
            for graph in (False, True):
                recipe = Recipe(batch=500, device=report.device, precision=precision, graph=graph)
                speed[graph, precision], _ = rows_per_second([flow], store, recipe, 5)
                case = f"slcp, {'CUDA graph' if graph else 'eager'}, {precision}"
                report.add("graph", case, speed[graph, precision], "rows/s")
    report.check("eager over CUDA graph, rows/s", speed[False, "float32"] / speed[True, "float32"], 1.0)


PARTS: dict[str, Callable[[Report], None]] = {
    "simulate": simulating,
    "train": training,
    "stream": streaming,
    "grow": growth,
    "ensemble": ensembles,
    "graph": graphs,
}

if __name__ == "__main__":
    main()
