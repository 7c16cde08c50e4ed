"""Training settings (`Recipe`), and the rules that choose the settings that are left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from sciinf.core import Learns
from sciinf.core.checks import is_whole
from sciinf.training.optimisers import LARGEST_FACTOR, NAMES, SCALED
from sciinf.training.schedule import FLOORS, scaled_rate

# Number of steps for 9,000 training rows.
_STEPS: Mapping[Learns, int] = {
    "densities": 1_500,
    "summaries": 1_500,
    "noise": 2_000,
    "fields": 6_000,
    "noisy fields": 4_000,
}
# The steps grow with these powers of the number of rows: up to 9,000 rows, up to 18,000, and beyond.
_POWERS: Mapping[Learns, tuple[float, float, float]] = {
    "densities": (1 / 4, 0.3, 1 / 2),
    "summaries": (1 / 4, 0.3, 1 / 2),
    "noise": (1 / 3, 0.4, 0.4),
    "fields": (1 / 3, 0.4, 0.4),
    "noisy fields": (1 / 3, 0.4, 0.4),
}
# Fewest rows of a batch, number of steps of an epoch, and most rows of a batch.
_BATCHES: Mapping[Learns, tuple[int, int, int]] = {
    "densities": (50, 36, 500),
    "summaries": (50, 90, 200),
    "noise": (50, 36, 1_000),
    "fields": (8, 50, 32),
    "noisy fields": (8, 50, 32),
}
_DECAY: Mapping[Learns, float] = {
    "densities": 0.2,
    "summaries": 0.2,
    "noise": 0.02,
    "fields": 1e-4,
    "noisy fields": 0.02,
}
# Peak of the schedule, its least share for few rows, and the rows / D^2 from which the whole peak is used.
_RATE, _LEAST_RATE, _ROWS = 8e-3, 0.5, 9
_VALIDATION_SHARE = 0.05  # Validation costs at most this share of the training.
_FORWARD = 1 / 3  # Validating a row costs a third of training on it: one pass of three.


@dataclass(frozen=True)
class Recipe:
    """Training settings. An entry of None is chosen from the numbers of rows and parameters (`resolved`).

    Args:
        epochs: Number of passes over the training rows. The schedule of the learning rate spans them all.
        batch: Rows per step. "auto" chooses the number from the noise of the gradients (`training.range_test`).
        learning_rate: Peak of the learning-rate schedule. "auto" finds it by a short range test.
        schedule: Learning-rate schedule: "one-cycle", "cosine" or "constant" (`training.schedule`), each after a linear
            warm-up.
        warm_up: Fraction of the steps before the peak.
        optimiser: "adamw", "amsgrad" (AdamW with AMSGrad's maximum), "adan" or "muon". None chooses "muon" for
            rows that are simulated during training and for estimators that denoise, because these overfit
            later, and "adamw" for others.
        weight_decay: Decoupled weight decay.
        clip: Largest gradient norm.
        patience: Number of epochs without a better validation loss after which training stops.
        validation_fraction: Fraction of a store's rows that is held out, from the end of the store.
        validate_every: Number of epochs between validations. The last epoch is always validated.
        ema: Average of the weights. A number is a decay per step: the average is then validated and kept, and 0 means
            no average. "post-hoc" chooses the length of the average by the validation loss after training
            (`training.averaging`).
        precision: "bfloat16" runs the step under autocast.
        compile: Whether to compile the loss with torch.compile. If that fails, the step runs eagerly, with a warning.
        graph: Whether to capture the step as a CUDA graph on a CUDA device. If that fails, the step runs eagerly, with
            a warning.
        processes: Number of cores that share the compiled kernels of a step on a CPU, in lanes of 250 rows or more
            (`networks.kernels.lanes`). "auto" tries whether all available cores are faster. The result is the same with
            any number. The cores are threads of this process. Processes that train together are started by torchrun
            (`training.train`).
        threads: Number of CPU threads of one operation. These networks are too small to gain from more than one.
        device: Device to train on, as torch names it: "cpu", "cuda", "cuda:1", "mps".
        memory: Bytes of simulations to keep on the device. Beyond this, rows are streamed from the store.
        batch_scaling: k, the ratio of the batch to the batch that the usual learning rate, weight decay, betas and
            epsilon are for; less than 10. All of these are then scaled by k (`training.optimisers`), except a learning
            rate or a weight decay that is given. A larger batch then takes about the same path in fewer steps. "rule"
            means `batch` over the usual batch. If left out, only the learning rate is scaled. For "adamw" and
            "amsgrad"; not together with batch="auto".
    """

    epochs: int | None = None
    batch: int | Literal["auto"] | None = None
    learning_rate: float | Literal["auto"] | None = None
    schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle"
    warm_up: float = 0.1
    optimiser: Literal["adamw", "amsgrad", "adan", "muon"] | None = None
    weight_decay: float | None = None
    clip: float = 5.0
    patience: int | None = None
    validation_fraction: float = 0.1
    validate_every: int | None = None
    ema: float | Literal["post-hoc"] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    graph: bool = True
    processes: int | Literal["auto"] = "auto"
    threads: int = 1
    device: str = "cpu"
    memory: int = 4 * 2**30
    batch_scaling: float | Literal["rule"] | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "patience", "validate_every", "processes", "threads", "memory"):
            value = getattr(self, name)
            least = 0 if name == "memory" else 1
            if (value is None and name not in ("processes", "threads", "memory")) or (
                name in ("batch", "processes") and value == "auto"
            ):
                continue
            if not is_whole(value, least):
                also = ' or "auto"' if name in ("batch", "processes") else ""
                raise ValueError(f"Recipe({name}={value!r}): expected an integer of at least {least}{also}")
        rate, decay, refused = self.learning_rate, self.weight_decay, _refused(self.device)
        averaged = self.ema in (None, "post-hoc") or _from(self.ema, 0, 1)
        checks = {
            "learning_rate": ('a positive number or "auto"', rate in (None, "auto") or _between(rate, 0, math.inf)),
            "schedule": (f"one of {list(FLOORS)}", self.schedule in tuple(FLOORS)),
            "warm_up": ("a fraction, at least 0 and below 1", _from(self.warm_up, 0, 1)),
            "optimiser": (f"None or one of {list(NAMES)}", self.optimiser in (None, *NAMES)),
            "weight_decay": ("None or a number of at least 0", decay is None or _from(decay, 0, math.inf)),
            "batch_scaling": (
                f'None, "rule" or a number above 0 and below {LARGEST_FACTOR}',
                self.batch_scaling in (None, "rule") or _between(self.batch_scaling, 0, LARGEST_FACTOR),
            ),
            "clip": ("a positive number", self.clip == math.inf or _between(self.clip, 0, math.inf)),
            "validation_fraction": ("a fraction between 0 and 1", _between(self.validation_fraction, 0, 1)),
            "ema": ('None, a decay of at least 0 and below 1, or "post-hoc"', averaged),
            "precision": ("'float32' or 'bfloat16'", self.precision in ("float32", "bfloat16")),
            "compile": ("True or False", isinstance(self.compile, bool)),
            "graph": ("True or False", isinstance(self.graph, bool)),
            "device": (f"a device of torch ({refused})", not refused),
        }
        for name, (expected, good) in checks.items():
            if not good:
                raise ValueError(f"Recipe({name}={getattr(self, name)!r}): expected {expected}")
        if self.batch_scaling is not None and self.batch == "auto":
            raise ValueError('Recipe(batch="auto", batch_scaling=...): give a batch, or leave `batch_scaling` out')

    def factor(self, batch: int, usual: int, optimiser: str) -> float:
        """k, the ratio of the batch to the usual batch. The learning rate is scaled by the square root of k.

        Args:
            batch: Rows per step.
            usual: Rows per step that the usual numbers are for.
            optimiser: Name of the optimiser.

        Raises:
            ValueError: If `batch_scaling` asks for a rule that this optimiser does not have, or k is too large for the
                rule.
        """
        if self.batch_scaling is None:
            return batch / usual
        if optimiser not in SCALED:
            raise ValueError(
                f"Recipe(batch_scaling={self.batch_scaling!r}): there is a rule for {' and '.join(SCALED)}, and this "
                f"training is by {optimiser!r}; leave `batch_scaling` out, or say optimiser={SCALED[0]!r}"
            )
        k = batch / usual if self.batch_scaling == "rule" else self.batch_scaling
        if not k < LARGEST_FACTOR:
            raise ValueError(
                f"Recipe(batch={batch}, batch_scaling={self.batch_scaling!r}): a batch is {k:.3g} times the usual one "
                f"of {usual} rows, and the rule holds below {LARGEST_FACTOR}: take fewer than "
                f"{LARGEST_FACTOR * usual} rows, or leave `batch_scaling` out"
            )
        return k

    def resolved(
        self, rows: int, held_out: int | None = None, *, learns: Learns = "densities", parameters: int = 1
    ) -> Recipe:
        """The recipe with every None filled in, for a number of training rows, of validation rows and of parameters.

        The values were chosen on the benchmark tasks at 1,000, 10,000 and 100,000 simulations. For densities they are:

        * About 36 steps an epoch of 50 to 500 rows each, and more steps where there are more rows.
        * 1,500 steps for 9,000 rows. Below, the number grows with rows^(1/4), up to 18,000 rows with rows^0.3, and
          beyond with the square root of the rows, until eight epochs take more steps.
        * A peak learning rate of 8e-3. If another batch is given, the peak grows with the square root of the batch. For
          D parameters and fewer than 9 D^2 rows the peak is rows / (9 D^2) of this, but half at least (measured on
          problems of 5 to 40 parameters).
        * A weight decay of 0.2. Above 9,000 rows it falls with rows^(-2/3). Small batches and the weight decay keep the
          network from overfitting.
        * An average of the weights over a twentieth of the training.
        * Validation after so many epochs that it costs at most a twentieth of the training.

        An "auto" entry is filled in likewise: the value is where the search begins.

        Summaries of sets, series or images cost more than the density that uses them. Above 1,800 rows their steps have
        fewer rows, .4 times as many from 4,500 rows on. The peak is then scaled by the square root of that factor. Such
        networks learn as much in half the time.

        Estimators that learn noise take 2,000 steps for 9,000 rows, which grow with rows^(1/3) and then rows^0.4, of up
        to 1,000 rows each. They use Muon and a tenth of the weight decay (`Learned.learns`). Networks that learn fields
        take 6,000 such steps, of a fiftieth of the rows each (8 to 32), and hardly any weight decay. For fields to
        which noise is added the number is 4,000, by Muon, with the weight decay of noise.
        """
        usual = _usual_batch(learns, rows)
        batch = min(self.batch if isinstance(self.batch, int) else usual, max(rows, 1))
        below, above, beyond = _POWERS[learns]
        steps = _STEPS[learns] * min(rows / 9_000, 1.0) ** below * min(max(rows / 9_000, 1.0), 2.0) ** above
        steps *= max(rows / 18_000, 1.0) ** beyond
        decay = _DECAY[learns] * min(1.0, 9_000 / max(rows, 1)) ** (2 / 3)
        optimiser = self.optimiser or ("muon" if learns in ("noise", "noisy fields") else "adamw")
        k = self.factor(batch, usual, optimiser)
        decay = decay * (1.0 if self.batch_scaling is None else math.sqrt(k))
        decay = decay if self.weight_decay is None else self.weight_decay
        epochs = self.epochs or max(8, round(steps * batch / max(rows, 1)))
        given = self.learning_rate
        density = learns in ("densities", "summaries")
        share = rows / (_ROWS * max(1, parameters) ** 2) if density else 1.0
        peak = _RATE * min(1.0, max(_LEAST_RATE, share))
        if learns == "summaries":
            peak *= math.sqrt(usual / _usual_batch("densities", rows))
        rate = scaled_rate(peak, 1.0, k) if given is None or isinstance(given, str) else given
        patience = self.patience or max(5, epochs // 3)
        ema = max(0.0, 1 - 20 / (epochs * max(1, rows // batch))) if self.ema is None else self.ema
        if held_out is None:
            held_out = round(rows * self.validation_fraction / (1 - self.validation_fraction))
        sparse = math.ceil(_FORWARD * held_out / (_VALIDATION_SHARE * max(rows, 1)))
        every = self.validate_every or max(1, min(sparse, epochs, patience))
        filled = replace(self, batch=batch, epochs=epochs, learning_rate=rate, weight_decay=decay)
        filled = replace(filled, batch_scaling=None if self.batch_scaling is None else k)
        return replace(filled, patience=patience, validate_every=every, ema=ema, optimiser=optimiser)

    def said(self) -> Mapping[str, Any]:
        """Settings that determine the result of a training: all but the settings of where and how fast it runs.

        If `memory` is less than the rows take, the order of the rows changes, and the result differs as with another
        seed.
        """
        where = ("device", "processes", "threads", "memory", "graph")
        # An unset `batch_scaling` is left out, so that fits made before it existed are still recognised.
        unsaid = () if self.batch_scaling else ("batch_scaling",)
        return {name: value for name, value in vars(self).items() if name not in (*where, *unsaid)}


def _usual_batch(learns: Learns, rows: int) -> int:
    least, each, most = _BATCHES[learns]
    return min(most, max(least, rows // each))


def _between(value: object, low: int | float, high: int | float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low < value < high


def _from(value: object, low: int | float, high: int | float) -> bool:
    return _between(value, low, high) or (value == low and not isinstance(value, bool))


def _refused(device: object) -> str:
    """Reason why torch does not know such a device, or an empty text if torch knows it."""
    if not isinstance(device, str):
        return "its name, a str"
    try:
        torch.device(device)
    except RuntimeError as error:
        return str(error).split("\n")[0]
    return ""


def absent(device: str | torch.device) -> str:
    """Reason why a device cannot be used on this machine, or an empty text if it can be used."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        return str(error).split("\n")[0]
    return ""
