"""Agreements of processes that train together, besides the sum of gradients: same start, buffers, recipe and fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from sciinf.core import Fit, telling
from sciinf.training.learner import Learner, stream
from sciinf.training.parallel import Processes
from sciinf.training.recipe import Recipe
from sciinf.training.source import Source

ROWS = 256  # A trial on this many rows shows whether a loss compares rows.
_SHARED = "the folder must lie on a disk that all machines see"
NEAR = 1e-3  # Rounding does not cause a relative difference of losses this large.


def check_same_work(processes: Processes, said: Mapping[str, str]) -> None:
    """Refuse processes that train different things.

    Args:
        processes: All processes that train together.
        said: Values that must be the same in all processes, by their names.

    Raises:
        ValueError: If a value differs; the message names it.
    """
    if processes.count == 1:
        return
    first, _ = processes.told(lambda: (dict(said), {}))
    other = processes.total(torch.tensor([float(value != first.get(name)) for name, value in said.items()]))
    if found := [name for name, count in zip(said, other.tolist(), strict=True) if count]:
        raise ValueError(
            f"{processes.count} processes were started to train one network together (WORLD_SIZE), but they differ in "
            f"{', '.join(found)}: give all the same, or start each without torchrun to train networks of their own"
        )


def refuse_together(processes: Processes, what: str, way_out: str) -> None:
    """Refuse an operation that one process must do alone.

    Raises:
        ValueError: If there are several processes.
    """
    if processes.count > 1:
        raise ValueError(f"{what} works in one process alone, and {processes.count} train together here: {way_out}")


def same_recipe(processes: Processes, recipe: Recipe, search: dict[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """The first process's recipe, on this process's device, and the record of the first process's search.

    Each process has searched, and machines may round differently.
    """
    if processes.count == 1:
        return recipe, search
    (said, found), _ = processes.told(lambda: ((asdict(recipe), search), {}))
    return replace(Recipe(**said), device=recipe.device), found


def begin_alike(processes: Processes, learner: Learner) -> None:
    """Give all processes the first process's weights and buffers, because an estimator may have drawn its own."""
    if processes.count == 1:
        return
    _, groups = processes.told(lambda: (None, {"weights": {"now": learner.weights}, "buffers": learner.buffers()}))
    learner.weights.data.copy_(groups["weights"]["now"])
    learner.set_buffers({name: value.to(learner.weights.device) for name, value in groups.get("buffers", {}).items()})


def copied(buffers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of buffers, to compare them later with what a training has changed."""
    return {name: value.clone() for name, value in buffers.items()}


def average_changed(processes: Processes, learner: Learner, before: Mapping[str, Tensor]) -> None:
    """Replace buffers that an epoch has changed, such as running statistics, by their mean over processes.

    Args:
        processes: All processes that train together.
        learner: The learner that is trained.
        before: Its buffers at the beginning of the epoch.

    Raises:
        ValueError: If a buffer of integers or booleans has changed differently in the processes, because it has no
            mean.
    """
    if processes.count == 1 or not before:
        return
    now, names = copied(learner.buffers()), sorted(before)
    changed = processes.total(torch.tensor([float(not torch.equal(now[name], before[name])) for name in names]))
    for name, count in zip(names, changed.tolist(), strict=True):
        if not count:
            continue
        mean = (processes.total(now[name].flatten()) / processes.count).reshape(now[name].shape)
        odd = not now[name].is_floating_point() and not torch.equal(mean, now[name].cpu().double())
        if float(processes.total(torch.tensor([float(odd)]))):
            raise ValueError(
                f"the loss changes {name!r} otherwise in each process that trains, and it holds no real numbers, whose "
                "mean could be taken; train in one process"
            )
        now[name].copy_(mean)
    if changed.any():
        learner.set_buffers(now)


def tell_of_rows_compared(processes: Processes, learner: Learner, source: Source, device: str) -> None:
    """Report if a loss compares the rows of a batch, because each process then computes another loss, on its share
    alone.

    The loss is tried on a few rows, whole and in part. A loss that draws noise is not judged.
    """
    if processes.count == 1:
        return
    batch = next(iter(source.ordered(ROWS, validation=True)))
    noise, buffers, half = stream(0, 0, device), copied(learner.buffers()), len(batch) // 2
    before = noise.get_state()
    learner.mode(training=True)
    with torch.no_grad():
        whole, part = (learner.loss(rows, noise) for rows in (batch, batch.rows(slice(0, half))))
    learner.set_buffers(buffers)
    off = (whole[:, :half] - part).abs() > NEAR * part.abs().clamp_min(1.0)
    if processes.first and torch.equal(noise.get_state(), before) and bool(off.any()):
        telling.tell(
            f"note: this loss compares the rows of a batch with each other, and in each of {processes.count} processes "
            f"with those of its share alone: the training is not quite that of one process"
        )


def all_found(processes: Processes, found: Sequence[Fit | None]) -> list[Fit]:
    """The fits that are there already, if the first process finds all of them; otherwise an empty list.

    Raises:
        FileNotFoundError: If this process lacks some fits that the first one finds.
    """
    fits = [fit for fit in found if fit is not None]
    there, _ = processes.told(lambda: (len(fits) == len(found), {}))
    if there and len(fits) < len(found):
        raise FileNotFoundError(f"process {processes.rank} does not find what the first one has trained: {_SHARED}")
    return fits if there else []


def written(processes: Processes, save: Callable[[], Fit], read: Callable[[], Fit | None]) -> Fit:
    """The fit that the first process saves; the other processes read it when it is there.

    Raises:
        FileNotFoundError: If one of them does not find the fit.
    """
    made = save() if processes.first else None
    first, _ = processes.told(lambda: (None if made is None else [str(made.folder), made.digest], {}))
    if made is not None:
        return made
    fit = read()
    if fit is None or fit.digest != first[1]:
        raise FileNotFoundError(
            f"process {processes.rank} does not find the fit that the first one wrote, which is finished and whole in "
            f"{first[0]}: {_SHARED}"
        )
    return fit
