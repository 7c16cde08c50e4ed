"""What a training on a simulator begins with: its rows, how often each is used, and the recipe."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from sciinf.core import Learned, Simulator, identity
from sciinf.core.checks import is_whole
from sciinf.core.component import to_json
from sciinf.core.files import read_json, write_json
from sciinf.engine.online import Simulated, default_buffer
from sciinf.engine.probe import SETTINGS, online_settings
from sciinf.engine.recipe import Recipe
from sciinf.engine.schedule import scaled_rate

FRESH_BATCH, RATE, STEPS, FEWEST_EPOCHS = 500, 0.012, 7_500, 8
DECAY = 0.01  # fresh rows cannot be learnt by heart, so weights need hardly decay


def fresh_recipe(recipe: Recipe, source: Simulated) -> Recipe:
    """A recipe with what is None in it filled in for rows made during training; "auto" is left to its search.

    S = 7500 / sqrt(R) steps of b = 500 / R^0.2 rows, whatever the size of the buffer, for which b S / R rows are
    simulated: the dearer a row, the more steps it is to serve. The schedule is seen through to its end: no patience.

    Args:
        recipe: How to train.
        source: The rows, which say R.
    """
    batch = min(_batch(recipe, source.reuse), source.train)
    steps = STEPS / math.sqrt(source.reuse)
    epochs = recipe.epochs or max(FEWEST_EPOCHS, round(steps / (source.train // batch)))
    optimiser = recipe.optimiser or "muon"
    k = recipe.factor(batch, FRESH_BATCH, optimiser)
    rate = scaled_rate(RATE, 1.0, k) if recipe.learning_rate is None else recipe.learning_rate
    told = "auto" if recipe.batch == "auto" else batch
    usual = DECAY * (1.0 if recipe.batch_scaling is None else math.sqrt(k))
    decay = usual if recipe.weight_decay is None else recipe.weight_decay
    filled = replace(recipe, batch=told, epochs=epochs, learning_rate=rate, weight_decay=decay)
    filled = replace(filled, batch_scaling=None if recipe.batch_scaling is None else k)
    return replace(filled, patience=recipe.patience or epochs, optimiser=optimiser)


def prepared(
    estimator: Learned,
    simulator: Simulator,
    folder: Path,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> tuple[Simulated, Recipe]:
    """What an estimator is trained on and how, given a simulator and nothing else.

    The costs of simulating and of training are measured, and what follows from them (rows simulated at a time, reuse,
    size of the buffer) is kept in `online.json`, so that a training that is repeated or goes on in the same folder has
    the same rows. Another estimator, simulator, recipe or seed is measured anew.

    Args:
        estimator: What is to be trained; a copy is measured.
        simulator: What is to run.
        folder: Where the numbers are kept.
        recipe: How to train; `Recipe()` where left out. What is None in it is filled in by `fresh_recipe`.
        seed: Seed of the training and of the rows.

    Returns:
        The rows, and the recipe.

    Raises:
        TypeError, ValueError, MemoryError: As for `Simulated`, whose first rows are made here.
    """
    recipe, file = recipe or Recipe(), folder / "online.json"
    said = [to_json(estimator), identity(simulator), simulator.prior.to_json(), recipe.said(), seed]
    key = hashlib.sha256(json.dumps([*said, recipe.device], sort_keys=True).encode()).hexdigest()
    numbers = _kept(file, key)
    if numbers is None:
        numbers = _measured(estimator, simulator, recipe, seed)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, {"for": key, **numbers})
    settings = {name: int(numbers[name]) for name in SETTINGS}
    source = Simulated(simulator, seed=seed, device=recipe.device, **settings)
    return source, fresh_recipe(recipe, source)


def _kept(file: Path, key: str) -> dict[str, Any] | None:
    """The numbers in a file if they are whole and were measured for the same training."""
    try:
        known = read_json(file)
        if known["for"] != key:
            return None
        if not all(is_whole(known[name], 1) for name in SETTINGS):
            raise ValueError(f"expected integers of at least 1 as {list(SETTINGS)}")
        return known
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{file} cannot be read back, so its numbers are measured again: {error!r}", stacklevel=3)
        return None


def _measured(estimator: Learned, simulator: Simulator, recipe: Recipe, seed: int) -> dict[str, int | float]:
    """Costs per row, and the settings that follow."""
    batch, largest = _batch(recipe, 1), default_buffer(simulator)
    first = Simulated(simulator, seed=seed, device=recipe.device, buffer=batch, held_out=1)
    (rows,) = first.ordered(batch, validation=False)
    resolved = fresh_recipe(recipe, first).resolved(batch)
    simulated = functools.partial(_simulated, recipe)
    return online_settings(estimator, simulator, rows, resolved, seed=seed, simulated=simulated, largest=largest)


def _simulated(recipe: Recipe, reuse: int) -> int:
    return round(STEPS / reuse**1.5 * _batch(recipe, reuse))


def _batch(recipe: Recipe, reuse: int) -> int:
    return recipe.batch if isinstance(recipe.batch, int) else round(FRESH_BATCH / reuse**0.2)
