"""The training loop: epochs of steps, occasional validations, the best weights so far, and a checkpoint.

A loop trains one estimator (member) or several at once. Each member has its own shuffling, its own best weights and its
own patience. When a member's patience is over, its best weights no longer change, while the other members go on. Its
loss is then ignored. Several processes may train together (`training.parallel`): each runs this loop, and the first of
them writes the files.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sciinf.core import telling
from sciinf.core.files import sha256_of, write_bytes
from sciinf.core.progress import Reached, reach
from sciinf.training.averaging import LENGTHS, Average, ExponentialAverage, PostHoc
from sciinf.training.checkpoint import Checkpoints, read_checkpoint
from sciinf.training.learner import Learner, stream, stream_seed
from sciinf.training.optimisers import load_tensors, tensors_of
from sciinf.training.parallel import Processes, SingleProcess
from sciinf.training.recipe import Recipe
from sciinf.training.schedule import Schedule
from sciinf.training.source import Source
from sciinf.training.step import Step, step_settings
from sciinf.training.together import average_changed, begin_alike, copied, tell_of_rows_compared

COLUMNS = ("epoch", "train_loss", "validation_loss", "learning_rate", "seconds")
VALIDATION = 4096  # Validation works on this many rows at a time.
_Value = TypeVar("_Value")


class Loop:
    """State of one training, which is saved while the training runs.

    Args:
        learner: Standardised estimator or estimators to train.
        source: Source of the training and validation rows.
        recipe: Resolved recipe.
        seeds: Seeds, one per member.
        folders: Folders for the histories, one per member. The checkpoint goes into the only folder, or into the parent
            folder of several.
        inputs: Digest of the training inputs.
        shown: Whether to report progress on the standard error.
        processes: Processes that train together. Default: this process alone.
    """

    def __init__(
        self,
        learner: Learner,
        source: Source,
        recipe: Recipe,
        seeds: Sequence[int],
        folders: Sequence[Path],
        inputs: str,
        *,
        shown: bool = True,
        processes: Processes | None = None,
    ) -> None:
        self.processes = processes or SingleProcess()
        begin_alike(self.processes, learner)
        self.learner, self.source, self.recipe = learner, source, recipe
        self._shown = shown and self.processes.first
        self.seeds, self.folders, self.inputs = list(seeds), list(folders), inputs
        above = folders[0] if len(folders) == 1 else folders[0].parent
        self._batch, self._total, self._every, self._patience = (
            int(value or 1) for value in (recipe.batch, recipe.epochs, recipe.validate_every, recipe.patience)
        )
        self._steps = max(1, source.train // self._batch)
        self.schedule = Schedule(
            recipe.schedule, float(recipe.learning_rate or 0.0), self._steps * self._total, recipe.warm_up
        )
        self._noise = torch.Generator(recipe.device)
        how: dict[str, Any] = {"shown": self._shown, "processes": self.processes}
        self.step = Step(learner, step_settings(recipe), self._noise, **how)
        self.average = _average(recipe, learner, above, writes=self.processes.first)
        self.best = learner.weights.detach().clone()
        self._best_buffers = {name: value.clone() for name, value in learner.buffers().items()}
        self.best_loss = [math.inf] * learner.members
        self.best_epoch = [-1] * learner.members
        self.histories: list[list[dict[str, float]]] = [[] for _ in folders]
        self.chosen: list[str] = ["the last epoch that was better than all before"] * learner.members
        self.epochs = 0
        self._checkpoints = Checkpoints(above / "checkpoint.safetensors")

    def run(self) -> None:
        """Train to the end, and leave the best weights in the learner.

        Raises:
            FloatingPointError: If the loss of a member that has not stopped is no longer finite.
        """
        self._resume()
        try:
            self._train()
            reach(None)
            self._checkpoints.flush()
            if isinstance(self.average, PostHoc):
                self._choose(self.average)
        except BaseException:
            if self._checkpoints.flush():
                self._write_histories()
            raise
        self._write_histories()
        for member, epoch in enumerate(self.best_epoch):
            if epoch < 0:
                raise FloatingPointError(
                    f"the validation loss{self._of(member)} was {self.histories[member][-1]['validation_loss']} after "
                    f"every epoch; look for extreme simulations among the last rows of the store, or lower "
                    f"{self._advice()}"
                )
        self.learner.weights.data.copy_(self.best)
        self.learner.set_buffers(self._best_buffers)

    def clear(self) -> None:
        """Remove the files that only an unfinished training needs."""
        if self.processes.first:
            self._checkpoints.clear()
        if isinstance(self.average, PostHoc):
            self.average.clear()

    def record(self, member: int) -> dict[str, Any]:
        """Record of a member's training, for its fit."""
        history = self.histories[member]
        record = {
            "history": history,
            "best_validation_loss": self.best_loss[member],
            "seconds": sum(row["seconds"] for row in history),
            "sha256": {"history.csv": sha256_of(_table(history))},
        }
        return record | ({"average": self.chosen[member]} if isinstance(self.average, PostHoc) else {})

    def _train(self) -> None:
        if self._done():
            return
        if self.recipe.compile:
            self._compile()
        tell_of_rows_compared(self.processes, self.learner, self.source, self.recipe.device)
        shown = time.monotonic()
        while not self._done():
            started, first = time.monotonic(), self.epochs
            losses = self._epoch()
            while self.epochs % self._every and self.epochs < self._total:
                losses = [a + b for a, b in zip(losses, self._epoch(), strict=True)]
            count = self.epochs - first
            self._judge([loss / count for loss in losses], started)
            if isinstance(self.average, PostHoc):
                self.average.keep(self.epochs * self._steps, last=self._done())
            self._keep()
            reach(Reached(self.epochs, self._total, "epochs", self._left(), self.histories[0]))
            shown = self._show(shown)

    def _compile(self) -> None:
        """Compile the step. The trial changes buffers that the loss updates, so they are restored."""
        if self._shown:
            telling.tell("compiling the step, which can take minutes")
        buffers = {name: value.clone() for name, value in self.learner.buffers().items()}
        self.learner.mode(training=True)
        with closing(self.learner.epoch(self.source, self.epochs, self._batch, self.seeds)) as batches:
            self.step.prepare(next(batches))
        self.learner.set_buffers(buffers)

    def _done(self) -> bool:
        return self.epochs >= self._total or all(self._stopped(member) for member in range(self.learner.members))

    def _stopped(self, member: int) -> bool:
        history = self.histories[member]
        since = max(self.best_epoch[member], self.source.settled)
        return bool(history) and int(history[-1]["epoch"]) - since >= self._patience

    def _of(self, member: int) -> str:
        return f" of member {member}" if self.learner.members > 1 else ""

    def _advice(self) -> str:
        return f"Recipe(learning_rate={self.schedule.peak:.1e})"

    def _epoch(self) -> list[float]:
        """Do one pass over the training rows, and return the mean loss of each member."""
        self.learner.mode(training=True)
        self._noise.manual_seed(stream_seed(self.seeds[0], 2 * self.epochs + 1, self.processes.rank))
        step, average, weights = self.step, self.average, self.learner.weights
        buffers = copied(self.learner.buffers()) if self.processes.count > 1 else {}
        step.total.zero_()
        count, before = 0, self.epochs * self._steps
        with closing(self.learner.epoch(self.source, self.epochs, self._batch, self.seeds)) as batches:
            for batch in batches:
                step(batch, self.schedule(before + count))
                count += 1
                if average is not None:
                    average.update(weights, before + count)
        average_changed(self.processes, self.learner, buffers)
        means = [total / max(count, 1) for total in self.processes.total(step.total).tolist()]
        for member, mean in enumerate(means):
            if not math.isfinite(mean) and not self._stopped(member):
                raise FloatingPointError(
                    f"the training loss{self._of(member)} became {mean} in epoch {self.epochs}; lower {self._advice()}"
                )
        self.epochs += 1
        return means

    def _judge(self, train_losses: Sequence[float], started: float) -> None:
        """Validate, keep better weights, and add a row to the history of each member that has not stopped."""
        self.processes.keep_alike(self.learner.weights)
        weights = (
            self.learner.weights.detach() if self.average is None else self.average.validated(self.learner.weights)
        )
        losses, epoch = self.validate(weights), self.epochs - 1
        rate, seconds = self.schedule(self.epochs * self._steps - 1), time.monotonic() - started
        for member, loss in enumerate(losses):
            if self._stopped(member):
                continue
            if loss < self.best_loss[member]:
                self.best_loss[member], self.best_epoch[member] = loss, epoch
                self._take(member, weights)
            row = (epoch, train_losses[member], loss, rate, seconds)
            self.histories[member].append(dict(zip(COLUMNS, row, strict=True)))

    def _take(self, member: int, weights: Tensor) -> None:
        self.best[member].copy_(weights.detach()[member])
        for name, value in self.learner.buffers().items():
            self._best_buffers[name][member].copy_(value[member])

    @torch.no_grad()
    def validate(self, weights: Tensor) -> list[float]:
        """Mean loss of each member over the validation rows, with the given weights (K, P) instead of the learner's."""
        self.learner.mode(training=False)
        own = self.learner.weights
        kept = None if weights.data_ptr() == own.data_ptr() else own.detach().clone()
        own.data.copy_(weights)
        batches, seed = enumerate(self.source.ordered(VALIDATION, validation=True)), self.seeds[0]
        taken = ((number, batch) for number, batch in batches if self.processes.takes(number))
        # The random streams are numbered -1, -4, -7 ..., because `range_test` uses -2 and -3.
        losses = self.step.losses_of_rows(taken, lambda k: stream(seed, -1 - 3 * k, self.recipe.device))
        if kept is not None:
            own.data.copy_(kept)
        # The sum is taken on the CPU, because not every device has float64. One copy waits for the device only once.
        found = torch.cat(losses, dim=-1).cpu() if losses else torch.zeros(self.learner.members, 0)
        return (self.processes.total(found.double().sum(-1)) / self.source.held_out).tolist()

    def _choose(self, average: PostHoc) -> None:
        """Take the average of the weights that validates best, if its loss is lower than that of the best weights."""
        for end in sorted({self.epochs, *(epoch + 1 for epoch in self.best_epoch if epoch >= 0)}):
            found = self._synthesised(average, end * self._steps)
            for width, weights in zip(LENGTHS, found, strict=True):
                for member, loss in enumerate(self.validate(weights)):
                    if loss < self.best_loss[member]:
                        self.best_loss[member] = loss
                        self.chosen[member] = f"average of relative width {width}, up to epoch {end}"
                        self._take(member, weights)

    def _synthesised(self, average: PostHoc, step: int) -> list[Tensor]:
        """Averages of all lengths that end at a step, made from the snapshots that the first process has written."""
        targets = [(width, step) for width in LENGTHS]
        _, made = self.processes.told(lambda: ({}, {"averages": _numbered(average.synthesise(targets))}))
        return [made["averages"][name].to(self.recipe.device) for name in _numbered(LENGTHS)]

    def _show(self, shown: float) -> float:
        now, rows = time.monotonic(), [history[-1] for history in self.histories]
        waits = now - shown < 10 and self.epochs < self._total and len(self.histories[0]) > 1
        if waits or not self._shown:
            return shown
        train, validation = (sum(row[c] for row in rows) / len(rows) for c in ("train_loss", "validation_loss"))
        telling.tell(
            f"training  epoch {self.epochs}/{self._total}  train {train:.3f}  validation {validation:.3f}  "
            f"{self._left():.0f} s left"
        )
        return now

    def _left(self) -> float:
        """Estimated seconds of the remaining epochs, at the speed of the last epochs."""
        return (self._total - self.epochs) / self._every * self.histories[0][-1]["seconds"]

    def _write_histories(self) -> None:
        if not self.processes.first:
            return
        for folder, history in zip(self.folders, self.histories, strict=True):
            write_bytes(folder / "history.csv", _table(history))

    def _keep(self) -> None:
        if not self.processes.first:
            return
        about = {
            "inputs": self.inputs,
            "histories": [list(history) for history in self.histories],
            "best": [list(self.best_loss), list(self.best_epoch)],
            "epochs": self.epochs,
        }
        groups = {
            "weights": {"now": self.learner.weights.detach(), "best": self.best},
            "buffers": self.learner.buffers(),
            "best_buffers": self._best_buffers,
            "average": {} if self.average is None else self.average.state(),
            "optimiser": tensors_of(self.step.optimiser),
        }
        if self._checkpoints.keep(about, groups):
            self._write_histories()

    def _resume(self) -> None:
        """Load the checkpoint of the same training, if there is one."""
        about, found = self.processes.told(
            lambda: read_checkpoint(self._checkpoints.path, self.inputs, self.recipe.device) or (None, {})
        )
        if about is None:
            return
        if set(found.get("buffers", {})) != set(self.learner.buffers()):
            warnings.warn(f"{self._checkpoints.path} is of an older version; training begins anew", stacklevel=2)
            return
        groups = {
            name: {n: value.to(self.recipe.device) for n, value in group.items()} for name, group in found.items()
        }
        self.histories, self.epochs = about["histories"], about["epochs"]
        self.best_loss, self.best_epoch = about["best"]
        self.learner.weights.data.copy_(groups["weights"]["now"])
        self.best.copy_(groups["weights"]["best"])
        self.learner.set_buffers(groups.get("buffers", {}))
        for name, value in groups.get("best_buffers", {}).items():
            self._best_buffers[name].copy_(value)
        if self.average is not None:
            self.average.load(groups["average"])
        load_tensors(self.step.optimiser, groups.get("optimiser", {}))


def _table(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Content of `history.csv`, as bytes."""
    lines = [",".join(COLUMNS)] + [",".join(f"{row[c]:.6g}" for c in COLUMNS) for row in history]
    return ("\n".join(lines) + "\n").encode()


def _numbered(values: Iterable[_Value]) -> dict[str, _Value]:
    return {f"{number:03}": value for number, value in enumerate(values)}


def _average(recipe: Recipe, learner: Learner, folder: Path, *, writes: bool) -> Average | None:
    if not recipe.ema:
        return None
    if isinstance(recipe.ema, str):
        return PostHoc(learner.weights, folder / "averages", writes=writes)
    return ExponentialAverage(learner.weights, recipe.ema)
