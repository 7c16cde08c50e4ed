"""Training of an estimator on simulations (`train`, `train_ensemble`), and a check of the trained network.

The rows are kept on the training device if they fit, and are streamed from the store otherwise. They may also be
simulated while the network trains, or be read as a campaign commits them (`training.followed`). A fixed validation set
is scored as a whole: the last rows of a store, or the first rows of a store that is followed. The weights with the best
validation loss are kept. A killed training goes on from its checkpoint, to the same bits, unless it follows a campaign.
The parts are in `sciinf.training`: recipe, schedule, optimisers, step, averaging and loop. `launched` and `parallel`
are for several processes, started by torchrun, that train together.

The trained network is tried on held-out rows (`looked_at`), so that a training that failed is reported.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from sciinf.campaigns.store import Store
from sciinf.core import (
    Adjusting,
    Batch,
    Density,
    Estimator,
    Fit,
    Learned,
    PairedDensity,
    Simulator,
    Surrogate,
    save_fit,
    telling,
)
from sciinf.core.component import to_json
from sciinf.core.files import local_path, versions
from sciinf.core.simulator import recorded
from sciinf.core.surrogate import ALIKE, UNLIKE
from sciinf.networks.spectral import FourierNet
from sciinf.training.followed import Followed, following
from sciinf.training.launched import joined, on_own_device
from sciinf.training.learner import Single, Stacked, stream
from sciinf.training.loop import VALIDATION, Loop
from sciinf.training.memory import retain_freed
from sciinf.training.online import Simulated
from sciinf.training.parallel import Processes
from sciinf.training.range_test import searched
from sciinf.training.recipe import Recipe as Recipe
from sciinf.training.rows import Rows
from sciinf.training.source import Source
from sciinf.training.step import reason
from sciinf.training.together import all_found, check_same_work, refuse_together, same_recipe, written
from sciinf.training.training_inputs import (
    check_call,
    check_members,
    check_same,
    finished,
    fresh_recipe,
    inputs_digest,
    on_cores,
    prepared,
    warn_of_replacing,
)


def train(
    estimator: Learned,
    store: Store | Simulator | Simulated,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    processes: int | Literal["auto"] | None = None,
    follow: bool = False,
    progress: bool = True,
) -> Fit:
    """Train an estimator on a store of simulations, or on a simulator that runs during training.

    If torchrun has started several processes that call this function with the same arguments, they train one network
    together (`training.parallel`). They work on shares of the same batches, on a store that all can read, into a folder
    that all can see. The losses equal those of one process up to rounding. If the loss draws noise, they differ as with
    another seed. A loss that compares the rows of a batch compares those of a share; a message says so, unless the loss
    draws noise as well. Each process holds or reads all rows.

    Args:
        estimator: A newly built estimator. A copy is trained, and the estimator itself is not changed.
        store: Simulations to train on. Failed rows of a store are left out. A simulator makes rows on the training
            device when they are needed, and each row is used as often as its cost suggests
            (`training.training_inputs`). `training.online.Simulated` sets these choices.
        out: Folder for `fit.json`, `model.safetensors` and `history.csv`. A finished fit of the same estimator, store,
            recipe and seed is read back. An unfinished one goes on from its last checkpoint.
        recipe: How to train. An entry of None is chosen from the rows (`Recipe.resolved`, or `fresh_recipe` of
            `training.training_inputs` for rows of a simulator).
        seed: Seed for the shuffling, for noise that the loss draws, and for the rows of a simulator.
        processes: Number of cores that share a step (default: `Recipe.processes`). The result does not depend on it.
        follow: Whether training begins while a campaign still fills the store. The first rows are then held out, and
            the last half of the epochs sees all rows that were asked for. Training waits for rows that are not there
            yet (`training.followed`). The result depends on when rows came, as on a seed. The fit is identified by the
            campaign and the number of rows asked for, so the same call later reads it back.
        progress: Whether to report progress on the standard error.

    Returns:
        The fit, with the weights of the best validation loss.

    Raises:
        ValueError: If the store's parameters or observables are not the estimator's, or fewer than 18 training rows or
            2 validation rows are usable. If more than half of a simulator's rows fail (rows that raise are left out
            like other failed rows), it does not return what its observables promise, or it runs on another device. If
            the seed is no int of at least 0, or the recipe's device cannot be used here. If processes were started to
            train together and differ in what they train, train on a simulator, or have fewer rows in a batch than
            there are processes. If a store that is followed becomes that of another campaign, or has a damaged block.
        ConnectionError: If another of these processes has ended. The same call goes on, on any number of processes.
        TypeError: If `estimator` is no estimator, or has an argument that cannot be written down. If `recipe` is no
            Recipe, or `store` is none of the types above, or no Store although it is to be followed. If a simulator
            returns no tensors.
        MemoryError: If the rows of a simulator do not fit in memory.
        FloatingPointError: If the loss is no longer finite.
        FileNotFoundError: If one of several processes does not see the files that the first one wrote.
        RuntimeError: If the weights of several processes come apart, because a loss changed them other than by
            gradients.
        BaseException: Any error that the estimator's loss raises. The unfinished training is kept.

    Warns:
        UserWarning: If a finished fit or a checkpoint in the folder is damaged, or belongs to another training, which
            is then replaced. If rows of a simulator failed. If the step does not compile. If draws for held-out rows
            are not finite or far from the truth, or a surrogate's fields are off by more than 10 %. If a store that is
            followed had few rows for standardisation.
    """
    recipe = on_cores(recipe, processes)
    check_call([estimator], recipe, seed)
    out, built = local_path(out), to_json(estimator)
    check_same(estimator, store)
    rows: Store | Simulated | Followed
    with _threads(recipe), joined(recipe.device) as group:  # what is measured, too
        _check_together(group, store)
        recipe = on_own_device(recipe, group)
        if follow:
            refuse_together(group, "follow=True", "others would see other rows; start it without torchrun")
            rows = following(built, store, out, recipe=recipe, seed=seed, shown=progress)
        else:
            rows, recipe = _with_rows(estimator, store, out, recipe, seed)
        inputs = inputs_digest(built, rows.digest, recipe, seed)
        _check_same(group, rows, [out], recipe, inputs)
        if found := all_found(group, [finished(out, built, inputs, recipe.device)]):
            return found[0]
        warn_of_replacing(out, built, inputs, rows.digest, seed)
        out.mkdir(parents=True, exist_ok=True)
        source = _opened(rows, recipe)
        copied = _standardised(estimator, source, recipe)
        resolved, search = same_recipe(group, *searched(copied, source, recipe, seed))
        if isinstance(source, Followed):
            source.pace(resolved.epochs or 1)
        _announce(source, resolved, shown=progress)
        loop = Loop(Single(copied), source, resolved, [seed], [out], inputs, shown=progress, processes=group)
        loop.run()
        trained, record = _released(loop, 0, inputs)
    fit = written(
        group,
        lambda: save_fit(out, trained, simulator=_simulator_of(rows), record=record | search),
        lambda: finished(out, built, inputs, recipe.device),
    )
    loop.clear()
    if isinstance(source, Followed):
        source.clear()
    if group.first:
        _warn_of_failures(source)
        tell(fit)
    return fit


def train_ensemble(
    estimators: Sequence[Learned],
    store: Store | Simulator | Simulated,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    seed: int = 0,
    processes: int | Literal["auto"] | None = None,
    progress: bool = True,
) -> list[Fit]:
    """Train several estimators (members) at once, which takes much less time than training them one after the other.

    Member k is trained as `train(estimators[k], ..., seed=seed + k)` would train it, up to rounding: with its own
    shuffling, gradient norm, best weights and patience. There are two exceptions. Rows that are streamed from a store
    come in another order, because the members divide the memory between them (`training.rows.Rows`, `readers`). And if
    a loss draws noise, the members' draws differ, but all come from the stream of the first member's seed.

    Args:
        estimators: Estimators built by the same call except for their `seed`. They are not changed.
        store: Simulations to train on, as for `train`.
        out: Folder in which each member gets a folder `member_<k>`, with the files that `train` writes.
        recipe: How to train. If an entry is "auto", the value found for the first member holds for all.
        seed: Seed of the first member. The others count on from it.
        processes: Number of cores that share a step, as for `train`.
        progress: Whether to report progress on the standard error.

    Returns:
        The fits, one per member.

    Raises:
        ValueError: As for `train`; or if the estimators differ in more than their seed, or have the same seed.
        TypeError: As for `train`; or if the estimators are no sequence.

    Warns:
        UserWarning: As for `train`; or if the members cannot be trained at once. They are then trained one after the
            other.
    """
    recipe = on_cores(recipe, processes)
    check_call(estimators, recipe, seed)
    out, built = local_path(out), [to_json(estimator) for estimator in estimators]
    check_members(built)
    check_same(estimators[0], store)
    with _threads(recipe), joined(recipe.device) as group:
        _check_together(group, store)
        recipe = on_own_device(recipe, group)
        store, recipe = _with_rows(estimators[0], store, out, recipe, seed)
        together = inputs_digest(built, store.digest, recipe, seed)
        folders = [out / f"member_{k}" for k in range(len(estimators))]
        inputs = [inputs_digest([together, k], store.digest, recipe, seed + k) for k in range(len(estimators))]
        _check_same(group, store, folders, recipe, together)
        found = [finished(f, b, i, recipe.device) for f, b, i in zip(folders, built, inputs, strict=True)]
        if fits := all_found(group, found):
            return fits
        source = _opened(store, recipe, len(estimators))
        copied = [_standardised(estimator, source, recipe) for estimator in estimators]
        why = _obstacle(copied, source)
        if why is None:
            for k, folder in enumerate(folders):
                warn_of_replacing(folder, built[k], inputs[k], store.digest, seed + k)
                folder.mkdir(parents=True, exist_ok=True)
            resolved, search = same_recipe(group, *searched(copied[0], source, recipe, seed))
            seeds = [seed + k for k in range(len(copied))]
            _announce(source, resolved, shown=progress)
            how: dict[str, Any] = {"shown": progress, "processes": group}
            loop = Loop(Stacked(copied), source, resolved, seeds, folders, together, **how)
            loop.run()
            released = [_released(loop, k, inputs[k]) for k in range(len(copied))]
    if why is not None:
        warnings.warn(f"the members are trained one after the other, for together fails: {why}", stacklevel=2)
        each = enumerate(zip(estimators, folders, strict=True))
        how = {"recipe": recipe, "progress": progress}
        return [train(e, _unread(store), folder, seed=seed + k, **how) for k, (e, folder) in each]
    fits, simulator = [], _simulator_of(store)
    for k, (trained, record) in enumerate(released):
        save = functools.partial(save_fit, folders[k], trained, simulator=simulator, record=record | search)
        fits.append(written(group, save, functools.partial(finished, folders[k], built[k], inputs[k], recipe.device)))
    loop.clear()
    if group.first:
        _warn_of_failures(source)
        for fit in fits:
            tell(fit)
    return fits


def _announce(source: Source, recipe: Recipe, *, shown: bool) -> None:
    """Report how many rows will be simulated, which only the number of epochs limits."""
    if shown and isinstance(source, Simulated):
        epochs = recipe.epochs or 1
        telling.tell(
            f"simulating while training: {source.rows_of(epochs):,} rows in {epochs} epochs, each used up to "
            f"{source.reuse} times; Recipe(epochs=...) sets how long"
        )


def _warn_of_failures(source: Source) -> None:
    record = source.record()
    if record.get("failed"):
        warnings.warn(
            f"{record['failed']:,} of {record['simulated']:,} simulations failed and others took their place: if "
            "failing depends on the parameters, the prior is cut off there, which `calibrate` finds out",
            stacklevel=3,
        )


def _obstacle(estimators: Sequence[Learned], source: Source) -> str | None:
    """Reason why the members cannot be trained at once, or None if they can."""
    try:
        learner = Stacked(copy.deepcopy(list(estimators)))
        rows = next(iter(source.ordered(8, validation=True)))
        for training in (False, True):
            learner.mode(training=training)
            learner.loss(rows, stream(0, 0, str(learner.weights.device))).sum().backward()
    except Exception as error:
        return reason(error)
    return None


def _released(loop: Loop, member: int, inputs: str) -> tuple[Learned, dict[str, Any]]:
    """A trained member, and the record of its training."""
    estimator, source = loop.learner.release(member), loop.source
    held_out = not (isinstance(estimator, Adjusting) and estimator.on_training_rows)
    told = looked_at(estimator, lambda: source.ordered(VALIDATION, validation=held_out))
    return estimator, told | {
        "inputs": inputs,
        "recipe": asdict(loop.recipe),
        "seed": loop.seeds[member],
        "store": loop.source.record(),
        **loop.record(member),
        "versions": versions(),
    }


def _check_together(processes: Processes, store: object) -> None:
    """Refuse rows that are made during training, because each process would simulate, or see, different rows."""
    if not isinstance(store, Store):
        way_out = "simulate into a store, `sciinf simulate SIM.py -n ROWS --out STORE`, and train on it when it is done"
        refuse_together(processes, "training on rows that are made meanwhile", way_out)


def _check_same(
    processes: Processes, store: Store | Simulated | Followed, out: Sequence[Path], recipe: Recipe, inputs: str
) -> None:
    """Refuse processes that were started together but train different things."""
    rows = f"{store.digest} {recipe.memory}"  # Both set the order of rows that are streamed.
    folders = " ".join(map(str, out))
    check_same_work(processes, {"the store or the memory for it": rows, "the folder": folders, "the training": inputs})


def _with_rows(
    estimator: Learned, store: Store | Simulator | Simulated, out: Path, recipe: Recipe, seed: int
) -> tuple[Store | Simulated, Recipe]:
    """The rows to train on and the recipe, both chosen here for a simulator and filled in for rows of `Simulated`."""
    if isinstance(store, Simulator):
        return prepared(estimator, store, out, recipe=recipe, seed=seed)
    if isinstance(store, Store):
        return store, recipe
    here, there = store.device, torch.device(recipe.device)
    if (here.type, here.index or 0) != (there.type, there.index or 0):
        raise ValueError(
            f"the rows are simulated on {str(here)!r} and the recipe trains on {recipe.device!r}; give "
            f"Recipe(device={str(here)!r}) or Simulated(..., device={recipe.device!r})"
        )
    return store, fresh_recipe(recipe, store)


def _opened(store: Store | Simulated | Followed, recipe: Recipe, readers: int = 1) -> Source:
    if isinstance(store, Simulated):
        return store
    if isinstance(store, Followed):
        store.begin()
        return store
    fraction, memory = recipe.validation_fraction, recipe.memory
    return Rows(store, fraction=fraction, device=recipe.device, memory=memory, readers=readers)


def _unread(store: Store | Simulated) -> Store | Simulated:
    """The same rows; rows of a simulator are reset, so that nothing is simulated or counted yet."""
    return store.again() if isinstance(store, Simulated) else store


def _simulator_of(store: Store | Simulated | Followed) -> dict[str, str]:
    if isinstance(store, Simulated):
        return recorded(store.simulator)
    return dict(store.store.simulator if isinstance(store, Followed) else store.simulator)


def _standardised(estimator: Learned, source: Source, recipe: Recipe) -> Learned:
    """Copy of the estimator on the training device, with statistics of the training rows."""
    copied = copy.deepcopy(estimator).to(recipe.device)
    copied.standardise(lambda: source.ordered(65_536, validation=False))
    if any(not math.isfinite(float(b.cpu().double().sum())) for b in copied.buffers()):
        raise FloatingPointError("the simulations' mean or spread is not finite; look at them with `sciinf check`")
    return copied


@contextmanager
def _threads(recipe: Recipe) -> Iterator[None]:
    retain_freed()
    before = torch.get_num_threads()
    torch.set_num_threads(recipe.threads if torch.device(recipe.device).type == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


COARSE = 0.1  # A surrogate with a larger relative error on held-out rows is of little use.
# Largest plausible median of |draw - truth|, in sds of the parameter. For a calibrated posterior
# E (draw - truth)^2 <= 2 sd^2, so the median is at most 2 sds.
ABSURD = 3.0
_ROWS, _DRAWS, _FEWEST = 64, 8, 16


def looked_at(learned: Learned, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
    """Adjust a trained network to rows if it is `Adjusting`, and test the draws of an estimator.

    Draws for up to 64 rows are compared with the true parameters, if the estimator draws fast.

    Args:
        learned: Trained network, with its best weights.
        batches: Function whose every call is one pass over the rows: held-out rows, unless it asks for others
            (`Adjusting.on_training_rows`).

    Returns:
        Figures for the fit's record: those of `Adjusting.adjust`, and those of the comparison of draws. Among
        them are

        * `relative_error` of a surrogate: mean over rows of |u - f| / |u|, with solution u and prediction f;
        * `spread_skill` of a surrogate that draws: spread of the draws over the error of their mean, 1 if
          right;
        * `spread_of_waves` of a surrogate that draws: this ratio for the worst waves or part of space;
        * `draws_not_finite` of an estimator: the share of draws that are not finite;
        * `draws_off` of an estimator: median of |draw - truth| over draws and rows, in sds of the
          true values, of the unbounded parameter where it is largest.
    """
    learned.eval()
    told = learned.adjust(batches) if isinstance(learned, Adjusting) else {}
    rows = next(iter(batches()))
    if isinstance(learned, Estimator) and learned.normalised and len(rows) >= _FEWEST:
        told = told | _drawn(learned, rows.rows(slice(0, _ROWS)))
    return told


@torch.no_grad()
def _drawn(estimator: Estimator, rows: Batch) -> dict[str, float]:
    density = estimator.condition(rows.x)
    # Draws of a PairedDensity are long chains, so they are not tried here.
    if not isinstance(density, Density) or isinstance(density, PairedDensity):
        return {}
    found = density.sample(_DRAWS, generator=torch.Generator().manual_seed(0)).cpu()
    bijection = estimator.prior.bijection
    true, drawn = bijection.forward(rows.theta.cpu()).double(), bijection.forward(found).double()
    good = drawn.isfinite().all(-1)
    off = (drawn - true).abs() / true.std(0).clamp_min(1e-12)
    told = {"draws_not_finite": float((~good).double().mean())}
    return told | ({"draws_off": float(off[good].median(0).values.max())} if bool(good.any()) else {})


def tell(fit: Fit) -> None:
    """Report what the record of a new fit says about held-out rows.

    Warns:
        UserWarning: If draws are not finite or far from the truth, or the fields of a surrogate are off by more than 10
            %, or its draws are too alike or unlike.
    """
    if isinstance(fit.learned, Surrogate) and "spread_skill" in fit.record:
        _tell_spread(fit.learned, fit.record["spread_skill"])
    elif isinstance(fit.learned, Surrogate) and "residual" in fit.record and "relative_error" not in fit.record:
        left = f"{fit.record['residual']:.2g} of what it left of the equation before training"
        telling.tell(f"{fit.learned.target!r} leaves {left}; no solution was there to say what it is off by")
    elif isinstance(fit.learned, Surrogate) and "bound" in fit.record:
        _tell_bound(fit.learned, fit.record)
    elif isinstance(fit.learned, Surrogate):
        _tell_error(fit.learned, fit.record.get("relative_error", 0.0))
    lost, off = fit.record.get("draws_not_finite", 0.0), fit.record.get("draws_off", 0.0)
    way_out = "look at history.csv, lower the learning rate, or leave settings of the estimator at their defaults"
    if lost > 0:
        warnings.warn(
            f"{lost:.1%} of the draws of {fit!r} are not finite for held-out simulations: {way_out}", stacklevel=3
        )
    if off > ABSURD:
        warnings.warn(
            f"the training of {fit!r} went astray: for held-out simulations the median draw is {off:.3g} standard "
            f"deviations off, and draws of the prior would be 1 off. Do not use it: {way_out}",
            stacklevel=3,
        )


def _tell_bound(surrogate: Surrogate, record: Mapping[str, float]) -> None:
    words = f"{surrogate.target!r} has a log likelihood of at least {record['bound']:.4g} nats a row"
    telling.tell(f"held-out series: {words}")


def _tell_error(surrogate: Surrogate, error: float) -> None:
    telling.tell(f"held-out fields: {surrogate.target!r} is off by {error:.1%}")
    if error > COARSE:
        warnings.warn(
            f"the surrogate's {surrogate.target!r} is off by {error:.0%} for held-out simulations, and posteriors by "
            f"it will be as wide as that makes them. Try more solutions; {_larger(surrogate)}",
            stacklevel=4,
        )


def _larger(surrogate: Surrogate) -> str:
    """Advice in words: how to enlarge a surrogate's network, and which of its options are off."""
    words, space = "a network of more width", surrogate.observables[surrogate.target].shape[2:]
    nets = [part for part in surrogate.modules() if isinstance(part, FourierNet)]
    if any(2 * m < n for net in nets for m, n in zip(net.modes, space, strict=True)):
        words += ", of more modes for fronts and jumps"
    options = {
        "coordinates=True": all(net.coordinates for net in nets),
        "padding=0.1": all(net.padding for net in nets),
    }
    if off := " and ".join(name for name, on in options.items() if not on):
        words += f", with {off} where fields have edges"
    return words


def _tell_spread(surrogate: Surrogate, ratio: float) -> None:
    words = f"spread {ratio:.2f} times as far as their mean is off (1 for the right law)"
    telling.tell(f"held-out fields: draws of {surrogate.target!r} {words}")
    if not ALIKE <= ratio <= UNLIKE:
        kind = "alike, and are widened by what is missing" if ratio < 1 else "unlike"
        warnings.warn(
            f"held-out simulations show that draws of the surrogate's {surrogate.target!r} {words}: they are too "
            f"{kind}. Try more solutions, a longer training, or another law",
            stacklevel=4,
        )
