"""Inputs of a training: checks of the call, the digest of the inputs, and the fit that its folder may already hold.

For a training on a simulator, the rows, their reuse and the recipe are prepared here as well.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from sciinf.campaigns.storage.description import without_coords
from sciinf.campaigns.store import Store
from sciinf.core import Fit, Learned, Simulator, identity, load_fit
from sciinf.core.checks import check_whole, is_whole
from sciinf.core.component import to_json
from sciinf.core.files import read_json, sha256_of, write_json
from sciinf.training.learner import check_alike
from sciinf.training.online import Simulated, default_buffer
from sciinf.training.recipe import Recipe, absent
from sciinf.training.reuse import SETTINGS, online_settings
from sciinf.training.schedule import scaled_rate

FRESH_BATCH, RATE, STEPS, FEWEST_EPOCHS = 500, 0.012, 7_500, 8
# Weight decay for rows that are simulated during training. A network hardly overfits them, so it is small.
DECAY = 0.01


def fresh_recipe(recipe: Recipe, source: Simulated) -> Recipe:
    """A recipe with every None filled in for rows made during training; "auto" entries are left to the search.

    The training has S = 7500 / sqrt(R) steps of b = 500 / R^0.2 rows, whatever the size of the buffer, for which b S /
    R rows are simulated. So an expensive row serves more steps. The schedule runs to its end, without patience.

    Args:
        recipe: How to train.
        source: The rows, with their reuse factor R.
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
    """Rows and recipe for training an estimator on a simulator.

    The costs of simulating and of training are measured. The settings that follow (rows simulated at a time, reuse,
    size of the buffer) are kept in `online.json`. A training that is repeated, or goes on in the same folder, then has
    the same rows. For another estimator, simulator, recipe or seed they are measured again.

    Args:
        estimator: Estimator to be trained. A copy is measured.
        simulator: Simulator to run.
        folder: Folder in which the settings are kept.
        recipe: How to train. Default: `Recipe()`. Every None is filled in by `fresh_recipe`.
        seed: Seed of the training and of the rows.

    Returns:
        The rows, and the recipe.

    Raises:
        TypeError, ValueError, MemoryError: As for `Simulated`, whose first rows are made here.
    """
    recipe, file = recipe or Recipe(), folder / "online.json"
    said = [to_json(estimator), identity(simulator), simulator.prior.to_json(), recipe.said(), seed]
    key = sha256_of([*said, recipe.device])
    numbers = _kept(file, key)
    if numbers is None:
        numbers = _measured(estimator, simulator, recipe, seed)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, {"for": key, **numbers})
    settings = {name: int(numbers[name]) for name in SETTINGS}
    source = Simulated(simulator, seed=seed, device=recipe.device, **settings)
    return source, fresh_recipe(recipe, source)


def _kept(file: Path, key: str) -> dict[str, Any] | None:
    """The settings in a file, if they are whole and were measured for the same training."""
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
    """Costs per row, and the settings that follow from them."""
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


def on_cores(recipe: Recipe | None, processes: int | Literal["auto"] | None) -> Recipe:
    """The recipe with the given number of cores for a step."""
    recipe = recipe or Recipe()
    return replace(recipe, processes=processes) if isinstance(recipe, Recipe) and processes is not None else recipe


def check_call(estimators: Sequence[Learned], recipe: Recipe, seed: int) -> None:
    """Refuse arguments that are no estimator, recipe or seed, and a device that is not available here."""
    if not isinstance(estimators, Sequence):
        raise TypeError(f"an ensemble is a list of estimators, got {type(estimators).__name__}")
    for estimator in estimators:
        if not isinstance(estimator, Learned):
            kind = f"the class {estimator.__name__}" if isinstance(estimator, type) else type(estimator).__name__
            raise TypeError(
                f"expected an estimator to train, such as Flow(prior, observables), or a surrogate, got {kind}"
            )
    if not isinstance(recipe, Recipe):
        raise TypeError(f"expected Recipe(...) as recipe, got {type(recipe).__name__}")
    check_whole("seed", seed, 0)
    if why := absent(recipe.device):
        raise ValueError(f'the device {recipe.device!r} cannot be used here ({why}); use Recipe(device="cpu")')


def warn_of_replacing(out: Path, built: Any, inputs: str, rows: str, seed: int) -> None:
    """Warn that a folder holds another fit, and name what differs."""
    try:
        known = read_json(out / "fit.json")
        if known["inputs"] == inputs:
            return  # The fit is read back, or `finished` warns that it is damaged.
        followed = known["store"].get("followed", {})
        parts = [
            name
            for name, old, new in (
                ("estimator", without_coords(known["estimator"]), without_coords(built)),
                ("store", followed.get("identity", known["store"]["digest"]), rows),
                ("seed", known["seed"], seed),
            )
            if old != new
        ]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return  # The folder holds no fit that could be lost.
    other = ", ".join(parts) or "recipe or set of members"
    warnings.warn(
        f"{out} holds a fit with another {other}; it stays until this training is finished, and is then replaced: "
        "choose another folder to keep it",
        stacklevel=3,
    )


def check_members(built: Sequence[Any]) -> None:
    """Refuse members whose descriptions differ in more than the argument `seed`."""
    if not built:
        raise ValueError("an ensemble needs at least one estimator")
    check_alike([{n: v for n, v in (b | b["arguments"]).items() if n not in ("arguments", "seed")} for b in built])
    seeds = [b["arguments"].get("seed") for b in built]
    if None not in seeds and len(set(seeds)) < len(seeds):
        raise ValueError(f"members begin with the same weights, for their seeds are {seeds}; give each its own seed")


def finished(out: Path, built: Any, inputs: str, device: str) -> Fit | None:
    """The fit in a folder, if it came from the same inputs and is whole; otherwise None."""
    try:
        if read_json(out / "fit.json")["inputs"] != inputs:
            return None
        return load_fit(out, device=device, trust=_modules(built))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f"the fit in {out} cannot be read back, so it is trained again: {error}", stacklevel=3)
        return None


def _modules(built: Any) -> Sequence[str]:
    """Names of the modules of the components in an estimator's description."""
    if isinstance(built, list):
        return [module for value in built for module in _modules(value)]
    if not isinstance(built, dict):
        return []
    own = [str(built[kind]).rpartition(".")[0] for kind in ("$class", "$function") if kind in built]
    return own + [module for value in built.values() for module in _modules(value)]


def inputs_digest(built: Any, rows: str, recipe: Recipe, seed: int) -> str:
    """SHA-256 of the inputs of a training: the estimator's description, the rows' digest, the recipe and the seed."""
    inputs = {"estimator": without_coords(built), "store": rows, "recipe": recipe.said(), "seed": seed}
    return sha256_of(inputs)


def check_same(estimator: Learned, store: Store | Simulator | Simulated) -> None:
    """Refuse rows whose parameters or observables differ from the estimator's.

    Raises:
        TypeError: If `store` is no Store, Simulator or Simulated.
        ValueError: If parameters or observables differ; the message names the difference.
    """
    if not isinstance(store, Store | Simulator | Simulated):
        raise TypeError(
            f"expected a Store, a Simulator or Simulated to train on, got {type(store).__name__}; open a folder with "
            "Store(path), a simulator's file with load_simulator(path)"
        )
    made = store.simulator if isinstance(store, Simulated) else store
    where = f"{made.folder.name} holds" if isinstance(made, Store) else f"{made.name!r} makes"
    name = made.simulator["name"] if isinstance(made, Store) else made.name
    if estimator.prior.to_json() != made.prior.to_json():
        raise ValueError(
            f"the estimator is for {estimator.prior}, {where} simulations of {made.prior} (simulator {name!r}); build "
            "the estimator from the store's own simulator"
        )
    for name, spec in estimator.observables.items():
        if name not in made.observables and estimator.needs is not None and name not in estimator.needs:
            continue
        if made.observables.get(name) != spec:
            raise ValueError(
                f"the estimator expects {name!r} as {spec}, {where} simulations with {made.observables.get(name)}"
            )
