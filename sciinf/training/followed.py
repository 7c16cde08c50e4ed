r"""Training rows of a store that a campaign is still filling, so that training begins before the campaign ends.

Of N rows asked for, the first H = round(f N) by number are held out, f the recipe's fraction. The network trains on the
other T = N - H. Both are settled when the training begins: rows that come later never move between them. An epoch has
floor(T / b) steps of b rows from first to last, so its schedule is that of a training after the campaign. Epoch n of E
reads the rows committed when it begins, in one random order after the other, each row as often as any other or
once more. The epoch begins when

    share of the N rows that is there >= min(1, r (n + 1) / E),    r = `RATE`,

so that the last 1 - 1 / r of the epochs see all rows. Patience counts from the first of these epochs. A row that comes
early is therefore seen more often than a row that comes late. `benchmarks/scale_follow.py` measures the cost of this.

Standardisation uses the rows that are there at the start. They and the held-out rows are noted in `followed.json`
beside the checkpoint. A training that was killed goes on with the same standardisation and the same held-out rows. Its
result is not the same to the bit, because more rows are there by then. `campaigns.arrivals` tells which blocks have
come.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from sciinf.campaigns.arrivals import Arrivals, campaign_in
from sciinf.campaigns.storage.outcome import status_of
from sciinf.campaigns.storage.selection import Part, empty, grouped, row_bytes, take
from sciinf.campaigns.store import Store
from sciinf.core import Batch, Simulator, Status, telling
from sciinf.core.files import read_json, sha256_of, write_json
from sciinf.core.observable import Outcome
from sciinf.training.online import Simulated
from sciinf.training.recipe import Recipe
from sciinf.training.rows import FEWEST_TRAIN, FEWEST_VALIDATION, LARGEST, PARTS, SHARES, SMALLEST, Stream
from sciinf.training.source import Source, in_order
from sciinf.training.training_inputs import inputs_digest

RATE = 2.0
LEAST, SHARE = 5_000, 0.1  # Training begins with at least this number and this share of the training rows.
FEW = 1_000  # This many usable rows are enough for standardisation.
PATIENCE = 10.0  # An epoch waits this many seconds before it reports that it waits.
FILE = "followed.json"


def following(
    built: Any,
    store: Store | Simulator | Simulated,
    out: Path,
    *,
    recipe: Recipe,
    seed: int,
    shown: bool = True,
) -> Followed:
    """Training rows that follow a growing store: those of an unfinished training in the folder, or new ones.

    Args:
        built: Description of the estimator.
        store: Store that a campaign is filling.
        out: Folder of the fit.
        recipe: How to train.
        seed: Seed of the training.
        shown: Whether to report what the training waits for.

    Raises:
        TypeError: If `store` is no Store.
        ValueError: If the note in the folder is damaged, or too few rows were asked for.
    """
    if not isinstance(store, Store):
        raise TypeError(
            f"follow=True is for a Store that grows, got {type(store).__name__}, whose rows are made while the network "
            "trains; leave follow out"
        )
    about = campaign_in(store)
    said = {"estimator": built, "campaign": about, "recipe": recipe.said(), "seed": seed}
    key = sha256_of(said)
    note = _noted(out / FILE, key)
    if note and note["rows"] != store.rows:
        before = inputs_digest(built, identity(about, note["rows"]), recipe, seed)
        note = {} if _holds(out, before) else note
    if note and note["rows"] != store.rows and shown:
        telling.tell(
            f"this training began when {note['rows']:,} simulations were asked for, and goes on with these; "
            f"{store.rows:,} are asked for by now: train again when it is done"
        )
    return Followed(store, out / FILE, note or {"for": key, "rows": store.rows}, recipe=recipe, shown=shown)


def identity(campaign: str, rows: int) -> str:
    """Digest that identifies the rows of a training that follows a campaign: campaign and number of rows asked for."""
    return sha256_of(f"followed {campaign} {rows}")


@final
class Followed(Source):
    """Rows of a store that grows; the first rows, by number, are for validation. See the module.

    Nothing is read before `begin`, which waits for rows. `digest` is the digest of the campaign and of the number of
    rows asked for.

    Args:
        store: Store that a campaign is filling.
        file: File of the note.
        note: Facts that are settled already: `rows` and, for a training that goes on, all entries of `followed.json`.
        recipe: Recipe, for the held-out fraction, the device and the memory.
        shown: Whether to report what the training waits for.

    Raises:
        ValueError: If the rows asked for are too few to train on.
    """

    def __init__(self, store: Store, file: Path, note: dict[str, Any], *, recipe: Recipe, shown: bool = True) -> None:
        self.store, self.device, self._file, self._note = store, torch.device(recipe.device), file, dict(note)
        self.rows: int = note["rows"]
        self._cut = max(min(FEWEST_VALIDATION, self.rows), round(self.rows * recipe.validation_fraction))
        self.train, self.held_out = self.rows - self._cut, self._cut
        if self.train < FEWEST_TRAIN or self.held_out < FEWEST_VALIDATION:
            raise ValueError(
                f"{self.rows} simulations were asked for in {store.folder.name}; at least {FEWEST_TRAIN} to train on "
                f"and {FEWEST_VALIDATION} held out are needed: simulate more"
            )
        self.arrivals = Arrivals(store, self.rows, shown=shown)
        self.digest = identity(self.arrivals.campaign, self.rows)
        self._shown, self._epochs, self._epoch, self._start = shown, 0, -1, 0
        self._seen: list[list[int]] = [list(map(int, one)) for one in note.get("epochs", [])]
        size, memory = row_bytes(store.prior, store.observables), recipe.memory
        whole = self.rows * size <= memory
        self._kept = {False: whole, True: whole or self._cut * size <= memory // 2}
        self._counts = {False: self.train, True: self._cut}
        self._shelves: dict[bool, ArrivingRows] = {}
        free = memory - sum(count * size for v, count in self._counts.items() if self._kept[v])
        self._limit = max(free // SHARES, SMALLEST) // size or 1
        self._largest = min(LARGEST // size, self.rows if whole else self._limit // 4) or 1
        self.stream = Stream(store, self.device)

    def begin(self) -> None:
        """Wait for the held-out rows and for some training rows, and settle all that does not change from now on.

        Raises:
            ValueError: If a block is damaged, too few rows did not fail, or the held-out rows are not those of before.

        Warns:
            UserWarning: If the data are standardised by few rows.
        """
        for v, count in self._counts.items():
            self._shelves[v] = ArrivingRows(count, self.store, self.device, kept=self._kept[v])
        arrivals, start = self.arrivals, [int(index) for index in self._note.get("start", ())]
        held_out = range(-(-self._cut // self.store.block))
        least = self._cut + min(self.train, max(LEAST, math.ceil(SHARE * self.train)))
        count = 0

        def need() -> str:
            held = "" if start else f", the first {self._cut:,} among them"
            return f"{count:,} of {self.rows:,} are there, {least:,} are needed to begin with{held}"

        for _ in arrivals.polls(need):
            known = arrivals.committed()
            count = sum(map(arrivals.rows_of, known))
            if not start and known.keys() >= set(held_out) and count >= least:
                start = list(known)
            if start and known.keys() >= set(start):
                self._take(start)
                if arrivals.read.keys() >= set(start):
                    break
        self._settle(start, held_out)
        if self._seen:
            self._read(self._seen[-1][1], f"{self._seen[-1][1]:,} were when this training was stopped")

    def _settle(self, start: list[int], held_out: range) -> None:
        self._start, self.held_out = self._shelves[False].rows, self._shelves[True].rows
        if self._start < FEWEST_TRAIN or self.held_out < FEWEST_VALIDATION:
            raise ValueError(
                f"{self._start} simulations for training and {self.held_out} for validation are usable of the first "
                f"{self.arrivals.there:,} in {self.store.folder.name}, the others failed; look at them with "
                "`sciinf check` and mend the simulator"
            )
        content = {str(index): self.arrivals.read[index].content for index in held_out}
        if other := [k for k, one in self._note.get("held_out", {}).items() if content.get(k) != one]:
            raise ValueError(
                f"the rows held out in {self.store.folder.name} are not those that this training began with (block "
                f"{other[0]}); remove {self._file} and the checkpoint beside it to train anew"
            )
        self._note.update(start=start, held_out=content)
        self._write()
        if self._start < min(FEW, self.train // 2):
            warnings.warn(
                f"data are standardised by the {self._start} usable simulations that were there when training began",
                stacklevel=5,
            )
        if self._shown:
            words = f"{self.arrivals.there:,} of {self.rows:,} simulations are there, {self.held_out:,} held out"
            telling.tell(f"following the store: {words}; the data are standardised by the other {self._start:,}")

    def pace(self, epochs: int) -> None:
        """Set the number of epochs, which settles how many rows each epoch waits for."""
        self._epochs, self._epoch = epochs, -1
        self.settled = max(0, math.ceil(epochs / RATE) - 1)

    def needed(self, number: int) -> int:
        """Number of rows that must be there before an epoch begins, given the number of epochs that `pace` set."""
        return math.ceil(self.rows * min(1.0, RATE * (number + 1) / self._epochs))

    def epoch(self, number: int, size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Shuffled training batches of the rows that are there when the epoch begins; see `Source.epoch`."""
        if self._epochs and number != self._epoch:
            self._advance(number)
        shelf, steps = self._shelves[False], self.train // size
        # A search for the recipe uses the rows of the start, so that it gives the same when it is repeated.
        count = shelf.rows if self._epochs else self._start
        if shelf.memory is not None:
            yield from repeated(shelf.memory.rows(slice(0, count)), size, steps, generator)
            return
        pieces = [piece for part in shelf.first(count) for piece in part.split(self._limit // PARTS or 1)]
        passes = -(-steps * size // count)
        groups = [group for _ in range(passes) for group in grouped(pieces, self._limit, generator)]
        with closing(self.stream.batches(groups, size, generator)) as batches:
            yield from islice(batches, steps)

    def ordered(self, size: int, *, validation: bool) -> Generator[Batch, None, None]:
        """The validation rows in order, or the training rows that were there at the start."""
        shelf, size = self._shelves[validation], min(size, self._largest)
        count = self.held_out if validation else self._start
        if shelf.memory is not None:
            yield from in_order(shelf.memory.rows(slice(0, count)), size)
            return
        parts = shelf.first(count)
        pieces = [[piece] for part in parts for piece in part.split(self._limit // PARTS or 1)]
        with closing(self.stream.batches(pieces, size)) as batches:
            yield from batches

    def record(self) -> dict[str, Any]:
        """Record of all rows that were read, with the entries of `training.rows.Rows.record` and an entry "followed".

        "followed" has the digest that identifies the rows, how many rows were there at which epoch, and the seconds of
        waiting.
        """
        read = sorted(self.arrivals.read.items())
        lines = "".join(f"{index} {entry.rows} {entry.content}\n" for index, entry in read)
        told: dict[str, Any] = {
            "digest": sha256_of(lines),
            "seed": self.store.seed,
            "rows": self.arrivals.there,
            "used": self._shelves[False].rows + self.held_out,
            "held_out": self.held_out,
            "followed": {
                "identity": self.digest,
                "asked": self.rows,
                "standardised_by": self._start,
                "epochs": [dict(zip(("epoch", "rows", "blocks"), one, strict=True)) for one in self._seen],
                "waited": self.arrivals.waited,
            },
        }
        if self.store.proposal is not None:
            told["proposal"] = {name: value for name, value in self.store.proposal.items() if name != "rows_of"}
        return told

    def clear(self) -> None:
        """Remove the note file, because the training is done."""
        self._file.unlink(missing_ok=True)

    def _advance(self, number: int) -> None:
        """Wait until an epoch may begin, and read the rows that have come: they are the rows of this epoch."""
        self._read(need := self.needed(number), f"epoch {number} begins with {need:,}")
        self._epoch = number
        before = [one for one in self._seen if one[0] < number]
        seen = [number, self.arrivals.there, len(self.arrivals.read)]
        if not before or before[-1][1:] != seen[1:]:
            self._seen = [*before, seen]
            self._write()

    def _read(self, rows: int, words: str) -> None:
        """Read the rows that have come, and wait until there are `rows` of them."""
        arrivals = self.arrivals
        said = f"of {self.rows:,} are there, {words}"
        for _ in arrivals.polls(lambda: f"{arrivals.there:,} {said}", patience=PATIENCE):
            self._take()
            if arrivals.there >= rows:
                break

    def _take(self, only: list[int] | None = None) -> None:
        """Read the blocks that have come, and add each row to its part: training or validation."""
        for index, theta, outcome in self.arrivals.news(only):
            first = index * self.store.block
            number = torch.arange(first, first + len(theta))
            good = (status_of(outcome) == int(Status.OK)) & (number < self.rows)
            for validation, shelf in self._shelves.items():
                shelf.add(index, theta, outcome, good & ((number < self._cut) == validation))

    def _write(self) -> None:
        write_json(self._file, {**self._note, "epochs": self._seen})


@final
class ArrivingRows:
    """Rows of the training or the validation part, as they come: kept on the device, or read from the store.

    Args:
        rows: Largest number of rows.
        store: Store that holds the rows.
        device: Device for the batches.
        kept: Whether the rows are kept on the device.

    Attributes:
        rows: Number of rows that have come.
        memory: Tensors with room for all rows, or None if the rows stay in the store.
        parts: Places of the rows in the store.
    """

    def __init__(self, rows: int, store: Store, device: torch.device, *, kept: bool) -> None:
        self.rows, self.parts = 0, list[Part]()
        self.memory = empty(rows, store.prior, store.observables).to(device) if kept else None

    def add(self, index: int, theta: Tensor, outcome: Outcome, wanted: Tensor) -> None:
        """Add the wanted rows of a block; `wanted` is bool (rows,)."""
        count = int(wanted.sum())
        if not count:
            return
        if self.memory is None:
            self.parts.append(Part.of(index, 0, wanted.numpy()))
        else:
            at = slice(self.rows, self.rows + count)
            self.memory.theta[at] = theta[wanted].to(self.memory.theta)
            for name, value in self.memory.x.items():
                value[at] = outcome.x[name][wanted].to(value)
        self.rows += count

    def first(self, rows: int) -> list[Part]:
        """The parts that came first and together have at least `rows` rows."""
        found, count = list[Part](), 0
        for part in self.parts:
            if count >= rows:
                break
            found.append(part)
            count += part.rows
        return found


def repeated(rows: Batch, size: int, steps: int, generator: torch.Generator) -> Iterator[Batch]:
    """Batches of one random order of the rows after the other: each row comes as often as any other, or once more."""
    left = torch.empty(0, dtype=torch.int64, device=rows.theta.device)
    for _ in range(steps):
        while len(left) < size:
            order = torch.randperm(len(rows), generator=generator, device=generator.device)
            left = torch.cat([left, order.to(left.device)])
        yield take(rows, left[:size])
        left = left[size:]


def _noted(file: Path, key: str) -> dict[str, Any]:
    """The note of the same training in a file; empty if there is none.

    Raises:
        ValueError: If the note is damaged.
    """
    try:
        note = read_json(file)
    except FileNotFoundError:
        return {}
    return note if isinstance(note, dict) and note.get("for") == key else {}


def _holds(out: Path, inputs: str) -> bool:
    """Whether a folder holds a finished fit of these training inputs."""
    try:
        return read_json(out / "fit.json")["inputs"] == inputs
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
