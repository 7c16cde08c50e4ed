r"""Archive of a store's simulations: one compact file in which each number is within a tolerance.

`campaigns.storage.archive_block` says what the tolerance means for a number, and when a number is kept exactly.
`campaigns.storage.bounded` says how fields are compressed. Before a block is written, it is read back and each number
is compared. The file records the largest error that was found. Parameters, status and messages of rows, whole numbers
and truth values, and observables without a tolerance are kept exactly. The numbers that are read back are the same to
the last bit on every machine.

A file is

    b"SCIARCH1"
    blocks of rows, one after the other: theta, status, messages, and each observable's rows that did not fail
    what the store was of, tolerances, largest errors, lengths and SHA-256 of blocks: JSON (`core.files`), by zlib
    its length as 8 bytes, little-endian, and b"SCIARCH1"
"""

from __future__ import annotations

import io
import json
import math
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sciinf.campaigns.storage.archive_block import Kept, packed, stepped, unpacked
from sciinf.campaigns.storage.outcome import join, status_of
from sciinf.campaigns.store import Store
from sciinf.campaigns.stored_fields import manifest
from sciinf.campaigns.tables_file import Tabulated
from sciinf.core import Observable, Outcome, Prior, Status
from sciinf.core.files import local_path, opened, sealed, sha256_of, write_through
from sciinf.simulators.wrappers.named_function import suggest

MAGIC = b"SCIARCH1"
SCHEMA = 1
BLOCK_NUMBERS = 2**21
_OURS = "This is a fault of sciinf, please report it; nothing was written"
_END = struct.Struct("<Q8s")


@dataclass(frozen=True)
class Relative:
    """Tolerance as a share of an observable's range: its largest minus its smallest value over all rows of the store.

    This is what "value-range-relative" means in comparisons of SZ and other compressors. Rows that failed do not count.

    Raises:
        ValueError: If the share is not positive, or not below 1.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"Relative({self.share}): a share of the range lies between 0 and 1; for 1 %, give 0.01")


class Archive:
    """An archive of simulations in a file.

    Attributes:
        path: Path of the file.
        size: Size of the file in bytes.
        rows: Number of simulations, failed ones included.
        block: Number of rows that are read together.
        prior: Prior of the parameters.
        observables: Observables of the simulations.
        tolerance: Name -> tolerance in the observable's units; 0 for an observable that is kept exactly.
        error: Name -> largest error, found when the archive was written.
        about: What the archive says of the store: `simulator`, `seed`, `digest`, and `proposal` if there was one.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is no archive, is shortened or damaged, or is of a newer version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no archive of simulations at {self.path}")
        self.size = self.path.stat().st_size
        data = self._index()
        self.rows, self.block, self.about = int(data["rows"]), int(data["block"]), data["store"]
        self.prior = Prior.from_json(data["prior"])
        self.observables = {o["name"]: Observable.from_json(o) for o in data["observables"]}
        self._kept = {name: Kept(**how) for name, how in data["kept"].items()}
        self.tolerance: Mapping[str, float] = {name: how.tolerance for name, how in self._kept.items()}
        self.error: Mapping[str, float] = {name: how.error for name, how in self._kept.items()}
        self._blocks: Sequence[Mapping[str, Any]] = data["blocks"]

    def __repr__(self) -> str:
        return f"{self.rows:,} simulations of {self.about['simulator']['name']!r} in {self.size:,} bytes, {self.path}"

    def read(self, rows: slice | None = None) -> tuple[Tensor, Outcome]:
        """Read consecutive rows, failed ones included: theta (rows, D) and the outcome. `rows=None` reads all rows.

        Raises:
            ValueError: If the slice is empty or not consecutive, or the file is damaged.
        """
        start, stop, step = (slice(None) if rows is None else rows).indices(self.rows)
        if step != 1 or start >= stop:
            raise ValueError(f"{rows} names no rows that follow one another, of {self.rows}")
        first, last = start // self.block, -(-stop // self.block)
        found = [self._read(index) for index in range(first, last)]
        whole = slice(start - first * self.block, stop - first * self.block)
        outcome = _part(join([outcome for _, outcome in found]), whole)
        return torch.cat([theta for theta, _ in found])[whole], outcome

    def _index(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise ValueError("it is no archive of simulations")
                if self.size < len(MAGIC) + _END.size:
                    raise ValueError("it is shortened")
                file.seek(-_END.size, io.SEEK_END)
                length, magic = _END.unpack(file.read())
                if magic != MAGIC or length > self.size - len(MAGIC) - _END.size:
                    raise ValueError("it is shortened, or its end was changed")
                file.seek(-_END.size - length, io.SEEK_END)
                data = json.loads(zlib.decompress(file.read(length)))
            schema = data.get("schema")
            if schema != SCHEMA:
                raise ValueError(f"it has format {schema}, this version of sciinf reads {SCHEMA}")
            data, marked = opened(data)
            long = sum(sum(block["parts"]) for block in data["blocks"])
            if not marked or len(MAGIC) + long + length + _END.size != self.size:
                raise ValueError("the lengths of its parts are not those written in it")
        except (ValueError, zlib.error, AttributeError, KeyError) as error:
            raise ValueError(f"{self.path} cannot be read as an archive: {error}; restore it") from error
        return data

    def _read(self, index: int) -> tuple[Tensor, Outcome]:
        block = self._blocks[index]
        with self.path.open("rb") as file:
            file.seek(len(MAGIC) + sum(sum(before["parts"]) for before in self._blocks[:index]))
            data = file.read(sum(block["parts"]))
        if sha256_of(data) != block["sha256"]:
            raise ValueError(
                f"{self.path} is damaged: the block of rows from {index * self.block} on is not what was written; "
                "restore it, the other blocks are not affected"
            )
        rows = min(self.block, self.rows - index * self.block)
        return unpacked(data, block["parts"], rows, self.prior, self.observables, self._kept)


def write_archive(store: Store, path: str | Path, tolerance: Mapping[str, Relative | float]) -> Archive:
    """Write all simulations of a store into one file, whole or not at all.

    Args:
        store: A complete store.
        path: Path of the file; an existing file is replaced.
        tolerance: Observable -> largest error of its numbers: `Relative(1e-3)` of its range, or a number in its units.
            Observables that are left out are kept exactly.

    Returns:
        The archive, whose `error` is at most its `tolerance`.

    Raises:
        TypeError: If a tolerance is no number.
        ValueError: If a tolerance is not positive, or not for an observable of real numbers, or the store is incomplete
            or damaged.
        RuntimeError: If a number that was read back has a larger error. This is a fault of sciinf; nothing is written.
        OSError: If the file cannot be written.

    Examples:
        >>> archive = write_archive(store, "fields.archive", {"u": Relative(1e-2)})  # doctest: +SKIP
        >>> archive.size, archive.tolerance["u"], archive.error["u"]  # doctest: +SKIP
    """
    _check(store, tolerance)
    kept, size = _planned(store, tolerance), 0
    for spec in store.observables.values():
        size += math.prod(spec.shape)
    block = max(1, min(store.rows, BLOCK_NUMBERS // max(1, size)))
    path = Path(path)
    write_through(path, lambda temporary: _write(store, temporary, kept, block))
    return Archive(path)


def archived(path: str | Path, *, out: str | Path) -> Store:
    """Make a store from the simulations of an archive. The same file gives the same store.

    A complete store is kept. The parameters are those of the archived store, and the fields are within the tolerance.
    The new store names the same simulator, but it is no campaign that can be continued. Do not use it to calibrate an
    estimator that was trained on the archived store.

    Args:
        path: Path of the archive.
        out: Folder of the new store.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the archive cannot be read, or `out` holds a store of something else.
    """
    archive, folder = Archive(path), local_path(out)
    simulator = Tabulated(archive.prior, archive.observables, archive.about["simulator"]["name"])
    facts = {"archived": archive.about, "tolerance": archive.tolerance, "error": archive.error}
    simulator.source = manifest([archive.path], facts, folder)
    proposal = archive.about.get("proposal")
    store = Store.create(folder, simulator, seed=0, block=archive.block, rows=archive.rows, proposal=proposal)
    for index in sorted({*store.missing(), *(damage.block for damage in store.damaged())}):
        start = index * archive.block
        theta, outcome = archive.read(slice(start, start + store.rows_of(index)))
        store.commit(index, theta, outcome, seconds=0.0)
    return store


def _check(store: Store, tolerance: Mapping[str, Relative | float]) -> None:
    for name, given in tolerance.items():
        if name not in store.observables:
            known = list(store.observables)
            raise ValueError(f"no observable {name!r}{suggest(name, known)}; the store has {known}")
        if not store.observables[name].torch_dtype.is_floating_point:
            raise ValueError(f"{name!r} is {store.observables[name].dtype}, which is kept exactly; leave it out")
        if isinstance(given, Relative):
            continue
        if isinstance(given, bool) or not isinstance(given, Real):
            raise TypeError(f"the tolerance of {name!r} is a number in its units or Relative(share), got {given!r}")
        if not 0 < given < math.inf:
            raise ValueError(
                f"the tolerance of {name!r} must be positive, got {given}; to keep it exactly, leave it out"
            )
    if missing := store.missing():
        raise ValueError(
            f"{store.folder.name} lacks {len(missing)} of {store.blocks} blocks; finish it before it is archived"
        )


def _planned(store: Store, tolerance: Mapping[str, Relative | float]) -> dict[str, Kept]:
    """How each observable is kept, decided by its smallest and largest value: name -> `Kept`."""
    low, high = dict.fromkeys(tolerance, math.inf), dict.fromkeys(tolerance, -math.inf)
    for index in range(store.blocks if tolerance else 0):
        outcome = store.read(index)[1]
        good = status_of(outcome) == Status.OK
        for name in tolerance if bool(good.any()) else ():
            low[name] = min(low[name], float(outcome.x[name][good].min()))
            high[name] = max(high[name], float(outcome.x[name][good].max()))
    found = {name: Kept() for name in store.observables}
    for name, given in tolerance.items():
        if low[name] < high[name]:
            wanted = given.share * high[name] - given.share * low[name] if isinstance(given, Relative) else float(given)
            found[name] = stepped(wanted, low[name], high[name], store.observables[name])
    return found


def _write(store: Store, path: Path, kept: Mapping[str, Kept], block: int) -> None:
    blocks, errors = [], dict.fromkeys(kept, 0.0)
    with path.open("wb") as file:
        file.write(MAGIC)
        for theta, outcome in _blocks(store, block):
            parts = packed(theta, outcome, store.observables, kept)
            blocks.append(_written(file, parts))
            again = _again(store, parts, len(theta), kept)
            for name, error in _errors(outcome, again, kept).items():
                errors[name] = max(errors[name], error)
        about = {"simulator": dict(store.simulator), "seed": store.seed, "digest": store.digest}
        data = {
            "schema": SCHEMA,
            "store": about if store.proposal is None else {**about, "proposal": store.proposal},
            "prior": store.prior.to_json(),
            "observables": [{"name": name, **spec.to_json()} for name, spec in store.observables.items()],
            "kept": {name: {**asdict(how), "error": errors[name]} for name, how in kept.items()},
            "rows": store.rows,
            "block": block,
            "blocks": blocks,
        }
        index = zlib.compress(json.dumps(sealed(data), allow_nan=False).encode(), 9)
        file.write(index + _END.pack(len(index), MAGIC))


def _written(file: BinaryIO, parts: Sequence[bytes]) -> dict[str, Any]:
    data = b"".join(parts)
    file.write(data)
    return {"parts": list(map(len, parts)), "sha256": sha256_of(data)}


def _again(store: Store, parts: Sequence[bytes], rows: int, kept: Mapping[str, Kept]) -> Outcome:
    """Outcome of a block, decoded from the bytes just written.

    Raises:
        RuntimeError: If the bytes cannot be decoded.
    """
    try:
        return unpacked(b"".join(parts), list(map(len, parts)), rows, store.prior, store.observables, kept)[1]
    except (ValueError, IndexError, struct.error, zlib.error) as error:
        raise RuntimeError(f"rows could not be read back: {error}. {_OURS}") from error


def _errors(outcome: Outcome, again: Outcome, kept: Mapping[str, Kept]) -> dict[str, float]:
    """Largest error of each observable: name -> error in the observable's units.

    Raises:
        RuntimeError: If an error is above its tolerance.
    """
    good, found = status_of(outcome) == Status.OK, {}
    for name, how in kept.items():
        true, read = outcome.x[name][good], again.x[name][good]
        exact = not how.bound or not true.numel()
        off = 0.0 if exact else float((true.double() - read.double()).abs().max())
        if not (torch.equal(true, read) if exact else off <= how.tolerance):
            raise RuntimeError(f"{name!r} was off by {off:g}, and {how.tolerance:g} was promised. {_OURS}")
        found[name] = off
    return found


def _blocks(store: Store, size: int) -> Iterator[tuple[Tensor, Outcome]]:
    """Yield all rows of a store, `size` rows at a time."""
    held: list[tuple[Tensor, Outcome]] = []
    for index in range(store.blocks):
        held.append(store.read(index))
        count = sum(len(theta) for theta, _ in held)
        if count < size and index + 1 < store.blocks:
            continue
        theta, outcome = torch.cat([theta for theta, _ in held]), join([outcome for _, outcome in held])
        end = count if index + 1 == store.blocks else count - count % size
        for start in range(0, end, size):
            rows = slice(start, min(start + size, end))
            yield theta[rows], _part(outcome, rows)
        held = [(theta[end:], _part(outcome, slice(end, count)))]


def _part(outcome: Outcome, rows: slice) -> Outcome:
    """Rows of an outcome that a slice names."""
    status = status_of(outcome)[rows]
    messages = {row - rows.start: text for row, text in outcome.messages.items() if rows.start <= row < rows.stop}
    return Outcome({name: value[rows] for name, value in outcome.x.items()}, status, messages)
