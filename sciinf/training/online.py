r"""Training rows from a simulator that runs on the training device while the network trains.

A buffer of B rows is divided into R pieces of P = B / R rows. Piece k = 0, 1, 2, ... is simulated from its own counters
and kept in slot k mod R, so that epoch n sees the pieces n, ..., n + R - 1. Before every epoch but the first, a fresh
piece replaces the oldest one. An epoch is one pass over the buffer, hence

    every row is used R times and then never again;    n epochs take B + (n - 1) P simulations.

(Of the pieces of epoch 0 all but the last are used less often, and so are the last R - 1 pieces of the training.)
The rows of epoch n follow from (seed, n, B, R) and the rows per batch alone: a training that was killed simulates
the pieces of its buffer again, and goes on. Rows never leave the device, and nothing is written to disk.

How often a row is used follows from the costs of simulating and training (`training.reuse.choose_reuse`). They are
measured on a copy of the estimator before the training begins (`training.training_inputs`).

Failed rows are simulated again, with further counters, until a piece is full. So the buffer holds draws of (theta, x)
given success, as the usable rows of a store do.

References:
    | Self-improving reactive agents based on reinforcement learning, planning and teaching (Lin, 1992), for replay,
      https://doi.org/10.1007/BF00992699
    | BayesFlow: learning complex stochastic models with invertible neural networks (Radev et al., 2020), for training
      on simulations made on the fly, https://arxiv.org/abs/2003.06281
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from sciinf.campaigns.block import Attempt, generator_for
from sciinf.campaigns.probe import probe_block
from sciinf.campaigns.storage.outcome import normalise
from sciinf.campaigns.storage.selection import row_bytes, take
from sciinf.campaigns.tally import Tally
from sciinf.core import Batch, Observable, Outcome, Simulator, Status, identity
from sciinf.core.checks import check_whole
from sciinf.core.files import sha256_of
from sciinf.training.reuse import HELD_OUT
from sciinf.training.source import Source, in_order, shuffled

BUFFER, BYTES = 65_536, 4 * 2**30
_SPARE = 16  # Rows simulated beyond the missing ones, so that a few failures seldom need a third attempt.
_THETA, _NOISE = 0, 1  # The random streams have the same numbers as in a campaign's blocks.
_TRAINING, _HELD_OUT = 1 << 48, 2 << 48  # Counters begin here, because no campaign has so many blocks.
_ATTEMPT = 1 << 40


class Simulated(Source):
    """Rows of a simulator, made on the training device when they are needed.

    Args:
        simulator: Simulator to run. Its rows must depend only on theta and the generator.
        seed: Seed for parameters and noise. Other seeds, and stores of the same seed, have other rows.
        device: Device on which rows are simulated and kept.
        buffer: Number of rows kept, which is also the number of rows of an epoch. It is rounded up to a multiple of
            `reuse`. Default: 65,536, or fewer if they would take more than 4 GiB.
        reuse: How many times a row is used (`choose_reuse`).
        held_out: Number of rows of the fixed validation set.
        block: Number of rows simulated at a time. Default: `simulator.block`. "auto" measures it, which makes the rows
            depend on the machine. It is halved when memory runs out; `record()` gives the value.

    Nothing is simulated before rows are asked for, which raises
        ValueError, TypeError: If the simulator does not return what its observables promise, or more than half of its
            rows fail;
        MemoryError: If the buffer, or the simulation of a single row, does not fit in memory.

    Raises:
        TypeError: If `simulator` is no Simulator.
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        simulator: Simulator,
        *,
        seed: int,
        device: str | torch.device = "cpu",
        buffer: int | None = None,
        reuse: int = 1,
        held_out: int = HELD_OUT,
        block: int | Literal["auto"] | None = None,
    ) -> None:
        if not isinstance(simulator, Simulator):
            raise TypeError(f"online training takes a Simulator, got {type(simulator).__name__}")
        self.simulator, self.seed, self.device = simulator, seed, torch.device(device)
        buffer = default_buffer(simulator) if buffer is None else buffer
        _check_numbers({"seed": seed, "buffer": buffer, "reuse": reuse, "held_out": held_out})
        if reuse > buffer:
            raise ValueError(f"reuse is {reuse}, more than the {buffer} rows of the buffer; lower it")
        if block == "auto":
            block = probe_block(simulator, buffer, seed=seed, device=device)
        block = simulator.block if block is None else block
        _check_numbers({"block": block})
        self.reuse, self.block, self._told = reuse, block, block
        self._piece = -(-buffer // reuse)
        self.train, self.held_out = self._piece * reuse, held_out
        self.digest = self._digest()
        self._tally = Tally(simulator.name)
        self._last = reuse - 1  # This is the latest piece that was wanted.
        self._slots = [-1] * reuse  # Each slot holds the piece of this number.
        self._buffers: tuple[Batch, Batch] | None = None  # The first holds training rows, the second validation rows.

    def epoch(self, number: int, size: int, generator: torch.Generator) -> Iterator[Batch]:
        if not 1 <= size <= self.train:
            raise ValueError(f"batches of {size} rows from a buffer of {self.train}; choose 1 to {self.train}")
        yield from shuffled(self._hold(number), size, generator)

    def ordered(self, size: int, *, validation: bool) -> Iterator[Batch]:
        """All rows of the validation set, or the training rows of epoch 0, in a fixed order."""
        rows = self._opened()[1] if validation else self._hold(0)
        yield from in_order(rows, size)

    def again(self) -> Simulated:
        """A new source of the same rows, with nothing simulated or counted yet."""
        settings = {"buffer": self.train, "reuse": self.reuse, "held_out": self.held_out, "block": self._told}
        return Simulated(self.simulator, seed=self.seed, device=self.device, **settings)

    def rows_of(self, epochs: int) -> int:
        """Number of simulated rows for some epochs and the validation set, without failed rows."""
        return self.train + (epochs - 1) * self._piece + self.held_out

    def record(self) -> dict[str, Any]:
        """Record of the rows: the entries of a store's record, and how the rows were made.

        "rows" and "used" count the rows of all epochs so far and the held-out rows, whichever process simulated them.
        "simulated" counts all rows that this object has simulated, also those that were not needed or were made a
        second time. "failed" counts those of them that failed.
        """
        used = (self._last + 1) * self._piece + self.held_out
        return {
            "digest": self.digest,
            "seed": self.seed,
            "rows": used,
            "used": used,
            "held_out": self.held_out,
            "simulated": self._tally.simulated,
            "failed": self._tally.failed,
            "online": True,
            "reuse": self.reuse,
            "buffer": self.train,
            "block": self.block,
        }

    def _opened(self) -> tuple[Batch, Batch]:
        """The training buffer and the validation rows, which are simulated when they are first asked for."""
        if self._buffers is None:
            buffers = self._empty(self.train), self._empty(self.held_out)
            self._fill(buffers[1], slice(0, self.held_out), _HELD_OUT, 0)
            self._buffers = buffers
        return self._buffers

    def _hold(self, number: int) -> Batch:
        """The buffer, filled with the pieces of an epoch."""
        rows, _ = self._opened()
        wanted = range(number, number + self.reuse)
        self._last = max(self._last, wanted[-1])
        while missing := [piece for piece in wanted if self._slots[piece % self.reuse] != piece]:
            slot, block = missing[0] % self.reuse, self.block
            self._slots[slot] = -1
            self._fill(rows, slice(slot * self._piece, (slot + 1) * self._piece), _TRAINING, missing[0])
            # All rows of an epoch must be simulated in blocks of the same size, so the slots are emptied.
            if self.block != block:
                self._slots = [-1] * self.reuse
            self._slots[slot] = missing[0]
        return rows

    def _fill(self, rows: Batch, place: slice, stream: int, piece: int) -> None:
        """Simulate a piece into its place, block by block. If a block does not fit in memory, use smaller blocks."""
        count = place.stop - place.start
        while True:
            parts = -(-count // self.block)
            try:
                for part in range(parts):
                    start = place.start + part * self.block
                    stop = min(start + self.block, place.stop)
                    self._part(rows, slice(start, stop), stream + piece * parts + part)
                return
            except (MemoryError, torch.OutOfMemoryError) as error:
                reason = str(error)
            rows_tried = min(self.block, count)
            if rows_tried == 1:
                raise MemoryError(f"simulator {self.simulator.name!r}: one row does not fit in memory ({reason})")
            self.block = -(-rows_tried // 2)
            warnings.warn(
                f"{rows_tried:,} rows of simulator {self.simulator.name!r} do not fit in memory ({reason}), so "
                f"{self.block:,} are simulated at a time; give it that `block` to save the attempt",
                stacklevel=2,
            )
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _part(self, rows: Batch, place: slice, counter: int) -> None:
        """Simulate until enough rows have succeeded to fill the place."""
        want, done, attempt = place.stop - place.start, 0, 0
        while done < want:
            size = want if attempt == 0 else min(want, 2 * (want - done) + _SPARE)
            drawn, good, messages = self._simulate(size, counter + attempt * _ATTEMPT)
            self._tally.add(size, size - len(good), messages)
            kept = take(drawn, good[: want - done])
            here = slice(place.start + done, place.start + done + len(kept))
            rows.theta[here] = kept.theta
            for name, value in kept.x.items():
                rows.x[name][here] = value
            done, attempt = done + len(kept), attempt + 1

    def _simulate(self, size: int, number: int) -> tuple[Batch, Tensor, Iterable[str]]:
        """Simulated rows on the device, the indices of those that succeeded, and the messages of those that failed."""
        theta = self.simulator.prior.sample(size, generator=generator_for(self.seed, number, _THETA))
        here = theta.to(self.device)
        noise = generator_for(self.seed, number, _NOISE, device=self.device)
        try:
            result = self.simulator(here.clone(), generator=noise)  # The simulator may change its copy in place.
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except (Exception, SystemExit):  # As in a campaign, rows that raise are found by halving the block.
            result = Attempt(self.simulator, theta, self.seed, number, self.device).outcome()
        outcome = self._checked(result, size)
        ok = torch.ones(size, dtype=torch.bool, device=self.device)
        if outcome.status is not None:
            ok &= outcome.status.to(self.device) == Status.OK
        x = {}
        for name, spec in self.simulator.observables.items():
            x[name] = outcome.x[name].detach().to(self.device, spec.torch_dtype)
            if spec.torch_dtype.is_floating_point:
                finite = torch.isfinite(x[name])
                ok &= finite.flatten(1).all(1) if finite.ndim > 1 else finite
        return Batch(here, x), ok.nonzero().flatten(), outcome.messages.values()

    def _checked(self, result: Any, size: int) -> Outcome:
        """The result itself if it fits the observables; otherwise the result normalised as in a campaign."""
        observables = self.simulator.observables
        outcome = result if isinstance(result, Outcome) else Outcome({next(iter(observables)): result})
        outcome = Outcome(result) if isinstance(result, Mapping) else outcome
        status_fits = outcome.status is None or _has_shape(outcome.status, (size,))
        if status_fits and isinstance(outcome.x, Mapping) and set(outcome.x) == set(observables):
            if all(_fits(outcome.x[name], spec, size) for name, spec in observables.items()):
                return outcome
        return normalise(result, observables, size, where=f"simulator {self.simulator.name!r}")

    def _empty(self, rows: int) -> Batch:
        """Tensors of zeros on the device, as place for rows."""
        observables = self.simulator.observables
        try:
            theta = torch.zeros(rows, len(self.simulator.prior), device=self.device)
            x = {
                n: torch.zeros(rows, *o.shape, dtype=o.torch_dtype, device=self.device) for n, o in observables.items()
            }
        except (MemoryError, RuntimeError) as error:
            size = rows * row_bytes(self.simulator.prior, observables)
            raise MemoryError(
                f"{rows:,} rows of simulator {self.simulator.name!r} take {size:,} bytes, which {self.device} does not "
                f"have ({error}); choose a smaller buffer"
            ) from error
        return Batch(theta, x)

    def _digest(self) -> str:
        """SHA-256 of all that determines the rows.

        A simulator without a file is identified by its name, prior and observables.
        """
        said = {
            "simulator": [identity(self.simulator), self.simulator.prior.to_json()],
            "observables": {name: spec.to_json() for name, spec in self.simulator.observables.items()},
            "seed": self.seed,
            "buffer": self.train,
            "reuse": self.reuse,
            "held_out": self.held_out,
            "block": self.block,
        }
        return sha256_of(said)


def _check_numbers(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        check_whole(name, value, 0 if name == "seed" else 1)


def _fits(value: Any, spec: Observable, rows: int) -> bool:
    """Whether a value is stored unchanged: a tensor of the promised shape, floating point or of the promised dtype."""
    if not _has_shape(value, (rows, *spec.shape)):
        return False
    both = value.is_floating_point() and spec.torch_dtype.is_floating_point
    return both or value.dtype == spec.torch_dtype


def _has_shape(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, Tensor) and tuple(value.shape) == shape


def default_buffer(simulator: Simulator) -> int:
    """Default number of rows of a buffer: 65,536, or fewer if they would take more than 4 GiB."""
    return max(1, min(BUFFER, BYTES // row_bytes(simulator.prior, simulator.observables)))
