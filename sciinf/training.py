"""train: estimator + Store + Recipe -> Fit. The only training loop there is.

The rows are kept on the training device where they fit and streamed from the store where they do not. The learning
rate follows one cycle (warm-up, then cosine to nothing), the last rows of the store are a fixed validation set scored
in full after every epoch, and the weights with the best validation loss win. A checkpoint after each epoch makes a
killed training go on where it was, to the same bits.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sciinf.core import Batch, Estimator, Fit, load_fit, save_fit
from sciinf.core.component import to_json
from sciinf.core.files import read_json, versions, write_bytes
from sciinf.engine.checkpoint import read_checkpoint, write_checkpoint
from sciinf.engine.rows import Rows
from sciinf.store import Store

_COLUMNS = ("epoch", "train_loss", "validation_loss", "learning_rate", "seconds")


@dataclass(frozen=True)
class Recipe:
    """How to train. None means: chosen from the number of rows (`resolved`).

    Args:
        epochs: Passes over the training rows; the cycle of the learning rate spans them all.
        batch: Rows per step.
        learning_rate: Peak of the cycle.
        warm_up: Fraction of the steps before the peak.
        weight_decay: AdamW's.
        clip: Largest gradient norm.
        patience: Epochs without a better validation loss after which training stops.
        validation_fraction: Rows held out, from the end of the store.
        ema: Decay per step of an exponential moving average of the weights, which is then what is validated and kept.
        precision: "bfloat16" runs the step under autocast.
        compile: Compile the step with torch.compile; falls back to eager, saying why.
        threads: CPU threads; these networks are too small to gain from more than one.
        device: Where to train.
        memory: Bytes of simulations to keep on the device; beyond, rows are streamed from the store.
    """

    epochs: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    warm_up: float = 0.1
    weight_decay: float = 1e-4
    clip: float = 5.0
    patience: int | None = None
    validation_fraction: float = 0.1
    ema: float | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    threads: int = 1
    device: str = "cpu"
    memory: int = 4 * 2**30

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "patience", "threads", "memory"):
            value = getattr(self, name)
            least = 0 if name == "memory" else 1
            if value is None and name in ("epochs", "batch", "patience"):
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"Recipe({name}={value!r}): expected an integer of at least {least}")
        checks = {
            "learning_rate": ("a positive number", self.learning_rate is None or 0 < self.learning_rate < math.inf),
            "warm_up": ("a fraction, at least 0 and below 1", 0 <= self.warm_up < 1),
            "weight_decay": ("a number of at least 0", 0 <= self.weight_decay < math.inf),
            "clip": ("a positive number", self.clip > 0),
            "validation_fraction": ("a fraction between 0 and 1", 0 < self.validation_fraction < 1),
            "ema": ("None, or a decay between 0 and 1", self.ema is None or 0 < self.ema < 1),
            "precision": ("'float32' or 'bfloat16'", self.precision in ("float32", "bfloat16")),
        }
        for name, (expected, good) in checks.items():
            if not good:
                raise ValueError(f"Recipe({name}={getattr(self, name)!r}): expected {expected}")

    def resolved(self, rows: int) -> Recipe:
        """The recipe with every None filled in for a number of training rows.

        Chosen on two moons and SLCP at 10,000 simulations (1,000 rows a step, peak 5e-3, 120 epochs) and carried to
        other sizes: the rate goes with the root of the batch, the number of steps with rows^0.4.
        """
        batch = self.batch or min(1000, max(50, rows // 9))
        steps = 1_080 * (rows / 9_000) ** 0.4
        epochs = self.epochs or max(8, round(steps * batch / max(rows, 1)))
        rate = self.learning_rate or 5e-3 * math.sqrt(batch / 1_000)
        patience = self.patience or max(5, epochs // 3)
        return replace(self, batch=min(batch, max(rows, 1)), epochs=epochs, learning_rate=rate, patience=patience)


def train(estimator: Estimator, store: Store, out: str | Path, *, recipe: Recipe | None = None, seed: int = 0) -> Fit:
    """Train an estimator on a store of simulations.

    Args:
        estimator: A newly built estimator; it stays as it is, for a copy is trained.
        store: Simulations; rows that failed are left out.
        out: Folder for `fit.json`, `model.safetensors` and `history.csv`. A finished fit of the same estimator, store,
            recipe and seed is read back; an unfinished one goes on from its last epoch.
        recipe: How to train.
        seed: Seeds shuffling and whatever noise the loss draws.

    Returns:
        The fit, with the weights of the epoch with the best validation loss.

    Raises:
        ValueError: If the store's parameters or observables are not the estimator's, or fewer than 20 rows are usable.
        FloatingPointError: If the loss is no longer finite.
        TypeError: If the estimator has an argument that cannot be written down.

    Warns:
        UserWarning: If a finished fit or a checkpoint of this training is damaged, or the step does not compile.
    """
    out, recipe = Path(out), recipe or Recipe()
    _check_same(estimator, store)
    built = to_json(estimator)
    digest = store.digest
    inputs = _inputs_digest(built, digest, recipe, seed)
    found = _finished(out, built, inputs, recipe.device)
    if found is not None:
        return found
    out.mkdir(parents=True, exist_ok=True)
    rows = Rows(store, fraction=recipe.validation_fraction, device=recipe.device, memory=recipe.memory)
    loop = _Loop(copy.deepcopy(estimator), rows, recipe, seed, out, inputs)
    with _threads(recipe.threads if recipe.device == "cpu" else torch.get_num_threads()):
        loop.run()
    used = rows.train + rows.held_out
    record = {
        "inputs": inputs,
        "recipe": asdict(loop.recipe),
        "seed": seed,
        "store": {"digest": digest, "seed": store.seed, "rows": len(store), "used": used, "held_out": rows.held_out},
        "history": loop.history,
        "best_validation_loss": loop.best_loss,
        "seconds": sum(row["seconds"] for row in loop.history),
        "versions": versions(),
    }
    fit = save_fit(out, loop.estimator, simulator=store.simulator, record=record)
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    return fit


class _Loop:
    """State of one training: weights, optimiser, best weights so far, history; saved after each epoch."""

    def __init__(self, estimator: Estimator, rows: Rows, recipe: Recipe, seed: int, out: Path, inputs: str) -> None:
        self.estimator, self.rows, self.seed, self.out, self.inputs = (
            estimator.to(recipe.device),
            rows,
            seed,
            out,
            inputs,
        )
        self.recipe = recipe.resolved(rows.train)
        self.history: list[dict[str, float]] = []
        self.best_loss = math.inf
        self.best_epoch = -1
        self.optimiser = torch.optim.AdamW(
            self.estimator.parameters(), lr=1.0, weight_decay=recipe.weight_decay, fused=True
        )
        self.best: dict[str, Tensor] = {}
        self.average: dict[str, Tensor] = {}

    def run(self) -> None:
        """Train to the end, and leave the best weights in the estimator."""
        if not self._resume():
            self._start()
        step = self._step_function() if not self._done() else None
        shown = time.monotonic()
        while step is not None and not self._done():
            epoch, started = len(self.history), time.monotonic()
            train_loss = self._epoch(epoch, step)
            validation_loss = self._validate()
            if validation_loss < self.best_loss:
                self.best_loss, self.best_epoch = validation_loss, epoch
                for k, v in self._weights().items():
                    self.best[k].copy_(v)
            seconds = time.monotonic() - started
            row = (epoch, train_loss, validation_loss, self._rate((epoch + 1) * self._steps() - 1), seconds)
            self.history.append(dict(zip(_COLUMNS, row, strict=True)))
            self._save()
            shown = self._show(shown)
        if self.best_epoch < 0:
            raise FloatingPointError(
                f"the validation loss was {self.history[-1]['validation_loss']} after every epoch; look for extreme "
                f"simulations among the last rows of the store, or lower {self._advice()}"
            )
        self.estimator.load_state_dict(self.best)

    def _start(self) -> None:
        self.estimator.standardise(lambda: self.rows.ordered(65_536, validation=False))
        if any(not math.isfinite(float(b.double().sum())) for b in self.estimator.buffers()):
            raise FloatingPointError("the simulations' mean or spread is not finite; look at them with `sciinf check`")
        self.best = {k: v.detach().clone() for k, v in self.estimator.state_dict().items()}
        if self.recipe.ema:
            self.average = {k: v.detach().clone() for k, v in self.estimator.named_parameters()}

    def _done(self) -> bool:
        epochs = len(self.history)
        return epochs >= int(self.recipe.epochs or 0) or epochs - 1 - self.best_epoch >= int(self.recipe.patience or 0)

    def _advice(self) -> str:
        return f"Recipe(learning_rate={self.recipe.learning_rate:.1e})"

    def _steps(self) -> int:
        return max(1, self.rows.train // int(self.recipe.batch or 1))

    def _rate(self, step: int) -> float:
        """One cycle: linear warm-up to the peak, cosine to zero."""
        total = self._steps() * int(self.recipe.epochs or 1)
        rise = max(1, round(self.recipe.warm_up * total))
        peak = float(self.recipe.learning_rate or 0.0)
        if step < rise:
            return peak * (step + 1) / rise
        return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))

    def _step_function(self) -> Callable[[Batch, torch.Generator], Tensor]:
        device = torch.device(self.recipe.device).type
        half = self.recipe.precision == "bfloat16"

        def loss(batch: Batch, generator: torch.Generator) -> Tensor:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=half):
                return self.estimator.loss(batch, generator=generator).mean()

        if not self.recipe.compile:
            return loss
        compiled = torch.compile(loss)
        self.estimator.train()
        probe = next(iter(self.rows.ordered(int(self.recipe.batch or 1), validation=False)))
        try:
            compiled(probe, _generator(self.seed, 0, self.recipe.device)).backward()
        except Exception as error:
            reason = " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__
            warnings.warn(f"the step does not compile, so it runs eagerly: {reason}", stacklevel=4)
            return loss
        finally:
            self.optimiser.zero_grad()
        return compiled

    def _epoch(self, epoch: int, step: Callable[[Batch, torch.Generator], Tensor]) -> float:
        self.estimator.train()
        shuffle = _generator(self.seed, 2 * epoch, "cpu")
        noise = _generator(self.seed, 2 * epoch + 1, self.recipe.device)
        parameters = list(self.estimator.parameters())
        total, count = torch.zeros((), device=self.recipe.device), 0
        for batch in self.rows.epoch(int(self.recipe.batch or 1), shuffle):
            for group in self.optimiser.param_groups:
                group["lr"] = self._rate(epoch * self._steps() + count)
            self.optimiser.zero_grad(set_to_none=True)
            loss = step(batch, noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, self.recipe.clip)
            self.optimiser.step()
            total += loss.detach()
            count += 1
            if self.recipe.ema:
                keep = min(self.recipe.ema, (1 + epoch * self._steps() + count) / (10 + epoch * self._steps() + count))
                for name, parameter in self.estimator.named_parameters():
                    self.average[name].lerp_(parameter.detach(), 1 - keep)
        mean = float(total) / max(count, 1)
        if not math.isfinite(mean):
            raise FloatingPointError(f"the training loss became {mean} in epoch {epoch}; lower {self._advice()}")
        return mean

    def _weights(self) -> dict[str, Tensor]:
        return {**self.estimator.state_dict(), **self.average}

    @torch.no_grad()
    def _validate(self) -> float:
        self.estimator.eval()
        current = {k: v.clone() for k, v in self.estimator.named_parameters()} if self.average else {}
        self.estimator.load_state_dict(self.average, strict=False)
        noise = _generator(self.seed, -1, self.recipe.device)
        total = torch.zeros((), device=self.recipe.device, dtype=torch.float64)
        for batch in self.rows.ordered(4096, validation=True):
            total += self.estimator.loss(batch, generator=noise).double().sum()
        self.estimator.load_state_dict(current, strict=False)
        return float(total) / self.rows.held_out

    def _show(self, shown: float) -> float:
        row, now = self.history[-1], time.monotonic()
        last = len(self.history) == self.recipe.epochs
        if now - shown < 10 and not last and len(self.history) > 1:
            return shown
        left = (int(self.recipe.epochs or 0) - len(self.history)) * row["seconds"]
        print(
            f"training  epoch {len(self.history)}/{self.recipe.epochs}  train {row['train_loss']:.3f}  "
            f"validation {row['validation_loss']:.3f}  {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )
        return now

    def _save(self) -> None:
        lines = [",".join(_COLUMNS)] + [",".join(f"{row[c]:.6g}" for c in _COLUMNS) for row in self.history]
        write_bytes(self.out / "history.csv", ("\n".join(lines) + "\n").encode())
        state = self.optimiser.state_dict()["state"]
        moments = {f"{i}/{k}": v for i, values in state.items() for k, v in values.items()}
        about = {"inputs": self.inputs, "history": self.history, "best": [self.best_loss, self.best_epoch]}
        groups = {"model": self.estimator.state_dict(), "best": self.best, "average": self.average}
        write_checkpoint(self.out / "checkpoint.safetensors", about, {**groups, "optimiser": moments})

    def _resume(self) -> bool:
        """Load the checkpoint of the same training, if there is one."""
        found = read_checkpoint(self.out / "checkpoint.safetensors", self.inputs, self.recipe.device)
        if found is None:
            return False
        about, groups = found
        self.history, (self.best_loss, self.best_epoch) = about["history"], about["best"]
        self.estimator.load_state_dict(groups["model"])
        self.best, self.average = groups["best"], groups.get("average", {})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in groups.get("optimiser", {}).items():
            index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        return True


def _generator(seed: int, stream: int, device: str) -> torch.Generator:
    """A generator of its own for each (seed, stream): a counter, not a draw."""
    key = hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8]
    return torch.Generator(device).manual_seed(int.from_bytes(key, "big") >> 1)


def _finished(out: Path, built: Any, inputs: str, device: str) -> Fit | None:
    """The fit in a folder if it came from the same inputs and is whole."""
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
    """Modules of the components in an estimator's description."""
    if isinstance(built, list):
        return [module for value in built for module in _modules(value)]
    if not isinstance(built, dict):
        return []
    own = [str(built["$class"]).rpartition(".")[0]] if "$class" in built else []
    return own + [module for value in built.values() for module in _modules(value)]


def _inputs_digest(built: Any, store: str, recipe: Recipe, seed: int) -> str:
    where = ("device", "threads", "memory")  # where a training runs is not what it learns
    recipe_said = {name: value for name, value in asdict(recipe).items() if name not in where}
    inputs = {"estimator": built, "store": store, "recipe": recipe_said, "seed": seed}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _check_same(estimator: Estimator, store: Store) -> None:
    if estimator.prior.to_json() != store.prior.to_json():
        raise ValueError(
            f"the estimator is for {estimator.prior}, {store.path} holds simulations of {store.prior} "
            f"(simulator {store.simulator['name']!r}); build the estimator from the store's own simulator"
        )
    for name, spec in estimator.observables.items():
        if store.observables.get(name) != spec:
            raise ValueError(
                f"the estimator expects {name!r} as {spec}, {store.path} has {store.observables.get(name)}"
            )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
