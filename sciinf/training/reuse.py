r"""How often to use a row that is simulated during training, from the costs of simulating and training.

With c_sim and c_train the seconds to simulate a row and to train on one, R uses of a row take R c_train + c_sim. Let
its r-th use be worth exp(-(r - 1) / R*) of its first use. R uses are then worth about R - R (R - 1) / (2 R*), and the
network learns most per second where

    R^2 = 2 R* c_sim / c_train,

to leading order, with R* = 15, which was found for the repetition of text: `choose_reuse`. Rows that cost nothing are
used once. Rows that take as long to simulate as to train on are used five times.

References:
    | Scaling data-constrained language models (Muennighoff et al., 2023), for what repeated rows are worth,
      https://arxiv.org/abs/2305.16264
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Callable

import torch

from sciinf.campaigns.probe import probe_block, seconds_per_row
from sciinf.core import Batch, Learned, Simulator
from sciinf.training.learner import Single
from sciinf.training.recipe import Recipe
from sciinf.training.step import WARM_UP, Step, step_settings

_ROUNDS, _STEPS = 3, 4
WORTH, MOST = 15.0, 50  # These are R* and the largest reuse factor.
LEAST_BUFFER, HELD_OUT = 16_384, 5_000
SETTINGS = ("reuse", "buffer", "held_out", "block")


def training_seconds_per_row(estimator: Learned, rows: Batch, recipe: Recipe) -> float:
    """Seconds of training per row: the fastest of three rounds of steps on a copy, after a few warm-up steps.

    Args:
        estimator: Estimator to be trained. It is not changed.
        rows: One batch.
        recipe: Resolved recipe. The step is measured with its optimiser, precision and device, but not compiled.
    """
    copied = copy.deepcopy(estimator).to(recipe.device)
    copied.standardise(lambda: iter([rows]))
    learner = Single(copied)
    learner.mode(training=True)
    step = Step(learner, step_settings(recipe), torch.Generator(recipe.device).manual_seed(0))
    rate = float(recipe.learning_rate or 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The training itself warns later.
        for _ in range(WARM_UP + 1):
            step(rows, rate)
    times = []
    for _ in range(_ROUNDS):
        step.total.tolist()  # This waits for the device.
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
    """Settings of `training.online.Simulated` for an estimator, and the costs that they follow from.

    A piece is a block of the simulator's best size, or more. The first buffer is at most a third of all rows that will
    be simulated, so that an expensive simulator does not keep the training waiting.

    Args:
        estimator: Estimator to be trained. It is not changed.
        simulator: Simulator to run.
        rows: One batch.
        recipe: Resolved recipe.
        seed: Seed of the rows.
        simulated: Function from the reuse factor to the total number of rows that will be simulated.
        largest: Number of rows of the largest buffer.

    Returns:
        Integers for `SETTINGS`, and "simulation seconds per row" and "training seconds per row".

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
