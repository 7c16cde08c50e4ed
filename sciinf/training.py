"""train: estimator + Store + Recipe -> Fit. The only training loop there is.

The rows are kept on the training device where they fit and streamed from the store where they do not. The learning rate
follows one cycle (warm-up, then cosine to nothing), the last rows of the store are a fixed validation set scored in full
after every epoch, and the weights with the best validation loss win. A checkpoint after each epoch makes a killed training
go on where it was, to the same bits.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sciinf.core import Batch, Estimator, Fit, load_fit, save_fit
from sciinf.core.component import to_json
from sciinf.core.files import versions, write_bytes
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
        checks = {
            "validation_fraction": 0 < self.validation_fraction < 1,
            "warm_up": 0 <= self.warm_up < 1,
            "ema": self.ema is None or 0 < self.ema < 1,
            "precision": self.precision in ("float32", "bfloat16"),
            "epochs": self.epochs is None or self.epochs >= 1,
            "batch": self.batch is None or self.batch >= 1,
            "learning_rate": self.learning_rate is None or self.learning_rate > 0,
        }
        for name, good in checks.items():
            if not good:
                raise ValueError(f"Recipe({name}={getattr(self, name)!r}) makes no sense; see its documentation")

    def resolved(self, rows: int) -> Recipe:
        """The recipe with every None filled in for a number of training rows.

        Chosen on two moons and SLCP at 10,000 simulations (1,000 rows a step, peak 5e-3, 120 epochs) and carried to other
        sizes: the rate goes with the root of the batch, the number of steps with rows^0.4.
        """
        batch = self.batch or min(1000, max(50, rows // 9))
        steps = 1_080 * (rows / 9_000) ** 0.4
        epochs = self.epochs or max(8, round(steps * batch / max(rows, 1)))
        rate = self.learning_rate or 5e-3 * math.sqrt(batch / 1_000)
        patience = self.patience or max(5, epochs // 3)
        return replace(self, batch=min(batch, max(rows, 1)), epochs=epochs, learning_rate=rate, patience=patience)


def train(
    estimator: Estimator, store: Store, out: str | Path, *, recipe: Recipe | None = None, seed: int = 0
) -> Fit:
    """Train an estimator on a store of simulations.

    Args:
        estimator: A newly built estimator.
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
    """
    out, recipe = Path(out), recipe or Recipe()
    _check_same(estimator, store)
    inputs = _inputs_digest(estimator, store, recipe, seed)
    if (out / "fit.json").is_file():
        fit = load_fit(out, device=recipe.device, trust=(type(estimator).__module__,))
        if fit.record.get("inputs") == inputs:
            return fit
        (out / "fit.json").unlink()
    out.mkdir(parents=True, exist_ok=True)
    with _threads(recipe.threads if recipe.device == "cpu" else torch.get_num_threads()):
        loop = _Loop(estimator, _Rows(store, recipe), recipe, seed, out, inputs)
        loop.run()
    record = {
        "inputs": inputs,
        "recipe": asdict(loop.recipe),
        "seed": seed,
        "store": {"digest": store.digest, "seed": store.seed, "rows": len(store), "used": loop.rows.train + loop.rows.held_out},
        "history": loop.history,
        "best_validation_loss": loop.best_loss,
        "seconds": sum(row["seconds"] for row in loop.history),
        "versions": versions(),
    }
    fit = save_fit(out, loop.estimator, simulator=store.simulator, record=record)
    (out / "checkpoint.safetensors").unlink(missing_ok=True)
    return fit


class _Rows:
    """Training and validation rows, in memory or streamed."""

    def __init__(self, store: Store, recipe: Recipe) -> None:
        self.store, self.device = store, recipe.device
        total = len(store)
        self.cut = total - max(1, round(total * recipe.validation_fraction))
        row_bytes = 4 * len(store.prior) + sum(8 * math.prod(o.shape) for o in store.observables.values())
        self.memory: Batch | None = None
        if total * row_bytes <= recipe.memory:
            self.memory = store.load(slice(0, self.cut)).to(recipe.device)
            self.train = len(self.memory)
            self.validation = store.load(slice(self.cut, total)).to(recipe.device)
            self.held_out = len(self.validation)
        else:
            self.train = sum(len(b) for b in store.batches(65_536, rows=slice(0, self.cut)))
            self.held_out = sum(len(b) for b in store.batches(65_536, rows=slice(self.cut, total)))
        if self.train < 18 or self.held_out < 2:
            raise ValueError(
                f"{self.train + self.held_out} of {total} simulations in {store.path} are usable; at least 20 are needed"
            )

    def epoch(self, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Shuffled batches of `size` rows; the incomplete last one is left out."""
        if self.memory is None:
            for batch in self.store.batches(
                size, rows=slice(0, self.cut), generator=generator, device=self.device
            ):
                if len(batch) == size:
                    yield batch
            return
        order = torch.randperm(self.train, generator=generator).to(self.device)
        for start in range(0, self.train - size + 1, size):
            yield self.memory.rows(order[start : start + size])

    def ordered(self, size: int, *, validation: bool) -> Iterator[Batch]:
        """All rows of one part in order."""
        if self.memory is None:
            part = slice(self.cut, len(self.store)) if validation else slice(0, self.cut)
            yield from self.store.batches(size, rows=part, device=self.device)
            return
        rows = self.validation if validation else self.memory
        for start in range(0, len(rows), size):
            yield rows.rows(slice(start, start + size))


class _Loop:
    """State of one training: weights, optimiser, best weights so far, history; saved after each epoch."""

    def __init__(
        self, estimator: Estimator, rows: _Rows, recipe: Recipe, seed: int, out: Path, inputs: str
    ) -> None:
        self.estimator, self.rows, self.seed, self.out, self.inputs = estimator.to(recipe.device), rows, seed, out, inputs
        self.recipe = recipe.resolved(rows.train)
        self.history: list[dict[str, float]] = []
        self.best_loss = math.inf
        self.best_epoch = -1
        self.optimiser = torch.optim.AdamW(
            estimator.parameters(), lr=1.0, weight_decay=recipe.weight_decay, fused=True
        )
        self.best = {k: v.detach().clone() for k, v in estimator.state_dict().items()}
        self.average = {k: v.detach().clone() for k, v in estimator.named_parameters()} if recipe.ema else {}

    def run(self) -> None:
        recipe = self.recipe
        if not self._resume():
            self.estimator.standardise(lambda: self.rows.ordered(65_536, validation=False))
            if any(not math.isfinite(float(b.double().sum())) for b in self.estimator.buffers()):
                raise FloatingPointError("the simulations' mean or spread is not finite; look at them with `sciinf check`")
        step = self._step_function()
        shown = time.monotonic()
        for epoch in range(len(self.history), int(recipe.epochs or 0)):
            started = time.monotonic()
            train_loss = self._epoch(epoch, step)
            validation_loss = self._validate(epoch)
            if validation_loss < self.best_loss:
                self.best_loss, self.best_epoch = validation_loss, epoch
                for k, v in self._weights().items():
                    self.best[k].copy_(v)
            seconds = time.monotonic() - started
            row = (epoch, train_loss, validation_loss, self._rate((epoch + 1) * self._steps() - 1), seconds)
            self.history.append(dict(zip(_COLUMNS, row, strict=True)))
            self._save()
            shown = self._show(shown)
            if epoch - self.best_epoch >= int(recipe.patience or 0):
                break
        self.estimator.load_state_dict(self.best)

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
        probe = next(iter(self.rows.ordered(int(self.recipe.batch or 1), validation=False)))
        try:
            compiled(probe, _generator(self.seed, 0, self.recipe.device)).backward()
        except Exception as error:
            warnings.warn(f"the step does not compile, so it runs eagerly: {str(error).splitlines()[0]}", stacklevel=3)
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
            raise FloatingPointError(
                f"the training loss became {mean} in epoch {epoch}; lower Recipe(learning_rate={self.recipe.learning_rate:.1e})"
            )
        return mean

    def _weights(self) -> dict[str, Tensor]:
        return {**self.estimator.state_dict(), **self.average}

    @torch.no_grad()
    def _validate(self, epoch: int) -> float:
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
        from safetensors.torch import save

        lines = [",".join(_COLUMNS)] + [",".join(f"{row[c]:.6g}" for c in _COLUMNS) for row in self.history]
        write_bytes(self.out / "history.csv", ("\n".join(lines) + "\n").encode())
        tensors = {f"model/{k}": v for k, v in self.estimator.state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        tensors |= {f"average/{k}": v for k, v in self.average.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{i}/{k}": v for k, v in state.items()}
        tensors = {k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()}
        about = {"inputs": self.inputs, "history": self.history, "best": [self.best_loss, self.best_epoch]}
        write_bytes(self.out / "checkpoint.safetensors", save(tensors, {"sciinf": json.dumps(about)}))

    def _resume(self) -> bool:
        """Load the checkpoint of the same training, if there is one."""
        from safetensors import safe_open

        path = self.out / "checkpoint.safetensors"
        if not path.is_file():
            return False
        with safe_open(path, "pt", device=self.recipe.device) as file:
            about = json.loads(file.metadata()["sciinf"])
            if about["inputs"] != self.inputs:
                return False
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        self.history, (self.best_loss, self.best_epoch) = about["history"], about["best"]
        self.estimator.load_state_dict(_part(tensors, "model/"))
        self.best, self.average = _part(tensors, "best/"), _part(tensors, "average/")
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(tensors, "optimiser/").items():
            index, name = key.split("/")
            state.setdefault(int(index), {})[name] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        return True


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _generator(seed: int, stream: int, device: str) -> torch.Generator:
    """A generator of its own for each (seed, stream): a counter, not a draw."""
    key = hashlib.sha256(f"{seed}/{stream}".encode()).digest()[:8]
    return torch.Generator(device).manual_seed(int.from_bytes(key, "big") >> 1)


def _inputs_digest(estimator: Estimator, store: Store, recipe: Recipe, seed: int) -> str:
    inputs: dict[str, Any] = {
        "estimator": to_json(estimator),
        "store": store.digest,
        "rows": len(store),
        "recipe": asdict(recipe),
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _check_same(estimator: Estimator, store: Store) -> None:
    if estimator.prior.to_json() != store.prior.to_json():
        raise ValueError(
            f"the estimator is for {estimator.prior}, {store.path} holds simulations of {store.prior} "
            f"(simulator {store.simulator['name']!r}); build the estimator from the store's own simulator"
        )
    for name, spec in estimator.observables.items():
        if store.observables.get(name) != spec:
            raise ValueError(f"the estimator expects {name!r} as {spec}, {store.path} has {store.observables.get(name)}")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
