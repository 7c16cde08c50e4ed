"""Shared functions of all rounds of simulations for one observation: folders, seeds, and rows of several campaigns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciinf.campaigns.block import one_thread
from sciinf.campaigns.storage.selection import dealt
from sciinf.campaigns.store import Store
from sciinf.core import Batch, Estimator, Outcome, Simulator, X
from sciinf.core.component import to_json
from sciinf.core.files import json_text, read_json, write_bytes, write_json
from sciinf.core.simulator import FILES, recorded, unlike
from sciinf.posteriors.truncated import observation_hash
from sciinf.training import Recipe

# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
ROUND = 2**31 + 1
_READ = 65_536
_KEPT = "observation.safetensors"


def round_folder(out: Path, number: int) -> Path:
    """The folder of one round."""
    return out / f"round_{number}"


def round_seed(seed: int, number: int) -> int:
    """Seed of a round's campaign, different from those of other rounds and of the user's own campaigns."""
    return int(np.random.SeedSequence(seed, spawn_key=(ROUND, number)).generate_state(1, np.uint64)[0]) >> 1


def campaigns_of(stores: Sequence[Store]) -> frozenset[str]:
    """Digests of these stores and of their campaigns (`Store.campaign`)."""
    return frozenset[str]().union(*(store.campaign for store in stores))


def _check_same(estimator: Estimator, simulator: Simulator) -> None:
    """Refuse an estimator that does not fit the simulator.

    Raises:
        ValueError: If the estimator is for another prior or other observables.
    """
    if estimator.prior.to_json() != simulator.prior.to_json():
        raise ValueError(
            f"the estimator is for {estimator.prior}, the simulator {simulator.name!r} has {simulator.prior}; build "
            "the estimator from the simulator's own prior"
        )
    for name, spec in estimator.observables.items():
        if simulator.observables.get(name) != spec:
            raise ValueError(
                f"the estimator expects {name!r} as {spec}, the simulator {simulator.name!r} gives "
                f"{simulator.observables.get(name)}; build the estimator from the simulator's own observables"
            )


def settings_of(
    simulator: Simulator, x: X, simulations: int | Sequence[int], estimator: Estimator, recipe: Recipe, seed: int
) -> dict[str, Any]:
    """Settings that rounds are made with, as JSON values.

    Raises:
        ValueError: If the estimator is for another prior or other observables than the simulator's.
    """
    _check_same(estimator, simulator)
    return {
        "observation": observation_hash(x),
        "simulator": recorded(simulator),
        "simulations": simulations,
        "estimator": to_json(estimator),
        "recipe": recipe.said(),
        "seed": seed,
    }


def claim(file: Path, settings: Mapping[str, Any], x: X, simulator: Simulator, *, accept_changes: bool = False) -> None:
    """Write down the settings of the rounds in a folder before the first round, and refuse a folder with other rounds.

    Args:
        file: File for the settings, in the folder of the rounds. The observation goes beside it.
        settings: Settings that the rounds are made with, as JSON values.
        x: The observation, name -> (1, *event).
        simulator: Simulator of the rounds.
        accept_changes: Whether the simulator's files may differ from those noted.

    Raises:
        ValueError: If the folder holds rounds with other settings; the message says what differs.
    """
    from safetensors.torch import save

    said = json.loads(json_text(settings))
    if file.is_file():
        found = dict(read_json(file))
        differ = [key for key, value in said.items() if key != "simulator" and found.get(key) != value]
        ignore = FILES if accept_changes else ()
        if words := unlike(found.get("simulator", {}), simulator, ignore=ignore):
            differ.append(f"simulator ({words})")
        if differ:
            raise ValueError(
                f"{file.parent} holds rounds of another {', '.join(differ)}; choose another folder: rounds hold for "
                "the observation and the settings they were made with"
            )
    file.parent.mkdir(parents=True, exist_ok=True)
    # Two masks may be the same tensor, which the format cannot hold.
    apart = {name: value.clone(memory_format=torch.contiguous_format) for name, value in x.items()}
    write_bytes(file.parent / _KEPT, save(apart))
    if not file.is_file():
        write_json(file, said)


def claimed(out: Path, digest: str, way_on: str) -> X:
    """The observation that a folder's rounds are for.

    Raises:
        ValueError: If the observation's file is damaged or missing.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load((out / _KEPT).read_bytes())
    except (OSError, SafetensorError):
        found = {}
    if observation_hash(found) != digest:
        raise ValueError(f"{out / _KEPT} is damaged or missing; {way_on}")
    return found


def gather(
    stores: Sequence[Store],
    path: Path,
    simulator: Simulator,
    proposal: Mapping[str, Any],
    contains: Callable[[Tensor], Tensor] | None = None,
    *,
    newest_too: bool = False,
) -> Store:
    """The rows of several campaigns as one store; failed rows are left out.

    Args:
        stores: Stores of the campaigns, the newest last.
        path: Folder of the new store. A store found there is continued.
        simulator: Simulator of the campaigns.
        proposal: Distribution of all rows together, as JSON values.
        contains: Function that tells which parameters (n, D) of the campaigns before the newest belong to the store.
            Default: all.
        newest_too: Whether `contains` is applied to the newest campaign as well. Parameters of a truncated prior are
            always inside, whatever the rounding of log q.
    """
    newest = stores[-1]
    if (path / "store.json").is_file():
        found = Store(path)
        if found.proposal == proposal and not found.missing():
            return found

    def pieces() -> Iterator[Batch]:
        for store in stores:
            everything = contains is None or (store is newest and not newest_too)
            for batch in store.batches(_READ):
                yield batch if everything or contains is None else batch.rows(contains(batch.theta))

    with one_thread():
        count = sum(len(batch) for batch in pieces())
        store = Store.create(path, simulator, seed=newest.seed, block=newest.block, rows=count, proposal=dict(proposal))
        missing = set(store.missing())
        for index, batch in enumerate(dealt(pieces(), store.block)):
            if index in missing:
                store.commit(index, batch.theta, Outcome(batch.x), seconds=0.0)
    return store
