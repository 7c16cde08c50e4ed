r"""What is measured before work begins: rows at a time that a simulator does best, and seconds a row of all kinds.

How often to use a row that is simulated during training. With c_sim and c_train the seconds to simulate a row and to
train on one, R uses of a row take R c_train + c_sim. Let its r-th use be worth exp(-(r - 1) / R*) of its first; R uses
are then worth about R - R (R - 1) / (2 R*), and the most is learned per second where

    R^2 = 2 R* c_sim / c_train,

to leading order, with R* = 15, which was found for the repetition of text: `choose_reuse`. Rows that cost nothing are
used once; rows that take as long to simulate as to train on, five times.

References:
    | Scaling data-constrained language models (Muennighoff et al., 2023), for what repeated rows are worth,
      https://arxiv.org/abs/2305.16264
"""

from __future__ import annotations

import copy
import math
import os
import sys
import time
import warnings
from collections.abc import Callable

import torch

from sciinf.core import Batch, Learned, Simulator
from sciinf.engine.block import Attempt, generator_for
from sciinf.engine.learner import Single
from sciinf.engine.recipe import Recipe
from sciinf.engine.step import WARM_UP, Step, step_settings

SMALLEST, LARGEST = 64, 65_536
_GAIN = 1.1
_LONGEST = 5.0
_BRIEF = 1.0
_SHARE = 0.25
_ROUNDS, _STEPS = 3, 4
WORTH, MOST = 15.0, 50  # R*, and the largest reuse factor chosen
LEAST_BUFFER, HELD_OUT = 16_384, 5_000
SETTINGS = ("reuse", "buffer", "held_out", "block")
_KEY = 2**31  # no campaign has this many blocks, so the probe shares no random numbers with it


def probe_block(simulator: Simulator, rows: int, *, seed: int, device: str | torch.device) -> int:
    """Rows per block, found by doubling until rows per second stop growing or memory would.

    A batch takes at most about five seconds and a quarter of the memory; rows that raise cost what it takes to find
    them. The result depends on the machine; the store records and keeps it.

    Args:
        simulator: What is measured.
        rows: Rows of the campaign; no larger block is of use.
        seed: Seed of the campaign.
        device: Where it runs.
    """
    best, size, speed = min(SMALLEST, rows), SMALLEST, 0.0
    while size <= min(LARGEST, rows):
        try:
            seconds, memory = _cost(simulator, size, seed, device)
        except Exception:
            break  # no memory, or a broken promise; the campaign meets the same fault, and says so
        if size / seconds > _GAIN * speed:
            best, speed = size, size / seconds
        elif size > 4 * best:
            break
        if 2 * seconds > _LONGEST or 2 * memory > _SHARE * _limit(device):
            break
        size *= 2
    return best


def seconds_per_row(simulator: Simulator, rows: int, *, seed: int, device: str | torch.device) -> float:
    """Seconds to draw and simulate one row in a batch: the faster of two batches, after smaller ones that warm up.

    Batches grow from 64 rows, since many simulators take little longer for a thousand rows than for one. Where already
    the first takes more than a second, it is not repeated. Where rows raise, the time it takes to find them in halves
    counts.

    Args:
        simulator: What is measured.
        rows: Rows of the batch; fewer, down to 64, where these would take longer than about a second.
        seed: Seed of what the rows are for; their random numbers are others.
        device: Where it runs.

    Raises:
        MemoryError, torch.OutOfMemoryError: If a batch does not fit in memory.
        ValueError, TypeError: If rows raise, and what the others return is not what the observables promise.
    """
    size = min(SMALLEST, rows)
    seconds, _ = _cost(simulator, size, seed, device)
    if seconds > _BRIEF:
        return seconds / size
    while size < rows and 2 * seconds < _BRIEF:
        size = min(rows, int(size * _BRIEF / seconds))
        seconds, _ = _cost(simulator, size, seed, device)
    return min(_cost(simulator, size, seed, device)[0] for _ in range(2)) / size


def training_seconds_per_row(estimator: Learned, rows: Batch, recipe: Recipe) -> float:
    """Seconds of training per row: the fastest of three rounds of steps on a copy, after some that warm up.

    Args:
        estimator: What is to be trained; it stays as it is.
        rows: One batch.
        recipe: Resolved. The step is measured as its optimiser, precision and device have it, not compiled.
    """
    copied = copy.deepcopy(estimator).to(recipe.device)
    copied.standardise(lambda: iter([rows]))
    learner = Single(copied)
    learner.mode(training=True)
    step = Step(learner, step_settings(recipe), torch.Generator(recipe.device).manual_seed(0))
    rate = float(recipe.learning_rate or 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training itself says what does not work
        for _ in range(WARM_UP + 1):
            step(rows, rate)
    times = []
    for _ in range(_ROUNDS):
        step.total.tolist()  # waits for the device
        started = time.perf_counter()
        for _ in range(_STEPS):
            step(rows, rate)
        step.total.tolist()
        times.append((time.perf_counter() - started) / _STEPS)
    return max(min(times), 1e-9) / len(rows)


def choose_reuse(simulation: float, training: float) -> int:
    """How many times to use a row: sqrt(30 c_sim / c_train), rounded, between 1 and 50.

    Args:
        simulation: Seconds to simulate one row, `seconds_per_row`.
        training: Seconds to train on one row once, `training_seconds_per_row`.

    Raises:
        ValueError: If either is not a positive, finite number.

    Examples:
        >>> choose_reuse(2e-7, 3e-5), choose_reuse(3e-5, 3e-5), choose_reuse(1.0, 3e-5)
        (1, 5, 50)
    """
    for name, value in (("simulation", simulation), ("training", training)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value!r} seconds per row, expected a positive, finite number")
    return min(MOST, max(1, round(math.sqrt(2 * WORTH * simulation / training))))


def online_settings(
    estimator: Learned,
    simulator: Simulator,
    rows: Batch,
    recipe: Recipe,
    *,
    seed: int,
    simulated: Callable[[int], int],
    largest: int,
) -> dict[str, int | float]:
    """The settings of `engine.online.Simulated` for an estimator, and the costs they follow from.

    A piece is a block that the simulator does best, or more. The first buffer is at most a third of all rows that will
    be simulated, so that an expensive simulator does not keep the training waiting.

    Args:
        estimator: What is to be trained; it stays as it is.
        simulator: What is to run.
        rows: One batch.
        recipe: Resolved.
        seed: Seed of the rows.
        simulated: Rows that will be simulated in all, by the reuse factor.
        largest: Rows of the largest buffer.

    Returns:
        Integers for `SETTINGS`, and "simulation" and "training seconds per row".

    Raises:
        MemoryError, ValueError, TypeError: As for `seconds_per_row`.
    """
    block = probe_block(simulator, largest, seed=seed, device=recipe.device)
    simulation = seconds_per_row(simulator, block, seed=seed, device=recipe.device)
    training = training_seconds_per_row(estimator, rows, recipe)
    reuse = choose_reuse(simulation, training)
    made = simulated(reuse)
    buffer = min(max(LEAST_BUFFER, reuse * block), largest, max(made // 3, 2 * len(rows)))
    held_out = min(HELD_OUT, max(1000, made // 10))
    costs = {"simulation seconds per row": simulation, "training seconds per row": training}
    return {"reuse": min(reuse, buffer), "buffer": buffer, "held_out": held_out, "block": block, **costs}


def _cost(simulator: Simulator, size: int, seed: int, device: str | torch.device) -> tuple[float, int]:
    """Seconds to draw and simulate a batch, and bytes by which it raised the peak of memory.

    A batch that raises is tried again in halves, as during training (`engine.online`), and all of that counts.
    """
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if on_cuda else memory_in_use(device)
    started = time.perf_counter()
    theta = simulator.prior.sample(size, generator=generator_for(seed, _KEY, size, 0))
    try:
        here = theta.to(device, copy=True)  # a copy: it may work in place
        simulator(here, generator=generator_for(seed, _KEY, size, 1, device=device))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit):
        Attempt(simulator, theta, seed, _KEY, torch.device(device)).outcome()
    if on_cuda:
        torch.cuda.synchronize(device)
    return max(time.perf_counter() - started, 1e-9), memory_in_use(device) - before


def memory_in_use(device: str | torch.device) -> int:
    """Bytes in use at the peak so far."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _limit(device: str | torch.device) -> int:
    """Bytes of the machine, or those of an accelerator that are free."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
