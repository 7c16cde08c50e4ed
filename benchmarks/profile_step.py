"""Where the time of one training step goes: by phase, and by kernel.

    python benchmarks/profile_step.py                  SLCP and two moons, in batches of 250 and of 1,000 rows
    python benchmarks/profile_step.py --device cuda

Phases are timed one by one, without the profiler: loss (forward), slopes (backward), optimiser (norm, clipping, AdamW),
average (of the weights). Kernels are the profiler's, as shares of the kernel time of loss and slopes. "floor" is the
time of torch's matrix products of such a step alone, each in its own shape and order, on operands that are there
already. On a CPU the step itself is compiled loops, which have products of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from reporting import arguments, benchmark, finish, seconds
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from sciinf import Flow, Recipe
from sciinf.core import Batch
from sciinf.networks.kernels.library import without_loops
from sciinf.training.averaging import ExponentialAverage
from sciinf.training.learner import Single
from sciinf.training.step import Step, clip, step_settings

PRODUCTS = ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm")
SHOWN = 8  # kernels


class Products(TorchDispatchMode):
    """Notes the matrix products that run."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket._qualified_op_name in PRODUCTS:
            copied = tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in args)
            self.calls.append((func, copied, kwargs or {}))
        return func(*args, **(kwargs or {}))


def main() -> None:
    """Profile, and print."""
    parser = arguments(str(__doc__).splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=["slcp", "two_moons"])
    parser.add_argument("--batches", nargs="+", type=int, default=[250, 1_000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for task in options.tasks:
        for size in options.batches:
            rows.append({"task": task, "batch": size, **profiled(task, size, options.device, options.seed)})
    finish(rows, [], options.json)


def profiled(task: str, size: int, device: str, seed: int) -> dict[str, Any]:
    """Milliseconds of the phases; the kernels' shares are printed."""
    simulator = benchmark(task)
    generator = torch.Generator().manual_seed(seed)
    theta = simulator.prior.sample(size, generator=generator)
    x: Any = simulator(theta, generator=generator)
    batch = Batch(theta, x).to(device)
    estimator = Flow(simulator.prior, simulator.observables, seed=seed).to(device)
    estimator.standardise(lambda: iter([batch]))
    learner, recipe = Single(estimator), Recipe(device=device, graph=False, processes=1).resolved(10_000)
    step = Step(learner, step_settings(recipe), torch.Generator(device).manual_seed(seed))
    learner.mode(training=True)
    average = ExponentialAverage(learner.weights, 0.98)
    for _ in range(5):
        step(batch, 1e-4)

    def loss() -> Tensor:
        return step.losses(batch).sum()

    def optimise() -> None:
        if learner.weights.grad is not None:
            clip(learner.weights.grad, recipe.clip)
        step.optimiser.step()

    forward, both = seconds(loss, device), seconds(lambda: loss().backward(), device)
    phases = {
        "loss": forward,
        "slopes": both - forward,
        "optimiser": seconds(optimise, device),
        "average": seconds(lambda: average.update(learner.weights, 1), device),
        "step": seconds(lambda: step(batch, 1e-4), device),
        "floor": floor(lambda: loss().backward(), device),
    }
    shares(lambda: loss().backward(), f"{task}, {size} rows")
    return {f"{name}, ms": 1e3 * spent for name, spent in phases.items()}


def floor(call: Callable[[], Any], device: str) -> float:
    """Seconds of the matrix products of a call alone."""
    with without_loops(), Products() as noted:
        call()

    def again() -> None:
        for func, args, kwargs in noted.calls:
            func(*args, **kwargs)

    with torch.no_grad():
        return seconds(again, device)


def shares(call: Callable[[], Any], title: str, calls: int = 20) -> None:
    """Print the kernels that take most of a call's time."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=activities) as found:
        for _ in range(calls):
            call()
    events = found.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    print(f"{title}: {sum(event.count for event in events) / calls:.0f} operations")
    for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:SHOWN]:
        print(f"  {event.self_cpu_time_total / whole:6.1%}  {event.count / calls:5.0f} x {event.key}")


if __name__ == "__main__":
    main()
