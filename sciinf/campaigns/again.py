"""Does a simulator still give the same data for the same parameters and seed? A few stored simulations are run again.

`core.code` compares the simulator's files. This module finds changes that no list of files shows: a library, a data
file, or a program that is found elsewhere. A block is one batch with a seed of its own. So the smallest part that can
be run again is the cheapest block. Where each row has its own random numbers (`Simulator.by_row`), it is a few rows of
that block. The bits must be equal if versions, processor and device are the same as before. Otherwise sums round
differently, and a chaotic simulator turns rounding into other data. A difference larger than rounding is then reported,
and the user decides.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sciinf.campaigns.block import Attempt, one_thread
from sciinf.campaigns.conditions import conditions, differing
from sciinf.campaigns.storage.journal import Entry
from sciinf.campaigns.storage.outcome import status_of
from sciinf.campaigns.store import Store
from sciinf.core.observable import Outcome, Status
from sciinf.core.simulator import Simulator, unlike

SECONDS = 5.0
"""What a look may cost at least; a hundredth of a campaign, where that is more, up to `MOST`."""
MOST = 60.0
_SHARE, _FEW = 0.01, 8
ROUNDING = 1e-5
"""Largest difference that is rounding, relative to the largest value at the same place; float32 has seven digits."""


@dataclass(frozen=True)
class Look:
    """Result of comparing stored simulations with new ones for the same parameters and seed.

    Args:
        verdict: "same": the bits are equal. "rounding": the data are equal up to rounding. "other": the data differ, on
            the same machine. "unsure": the data differ, but the simulator need not be another one. "skipped": nothing
            was compared.
        words: Description of the result for the user; "" if there is nothing to say.
        apart: Largest difference, relative to the largest value at the same place; infinite if other rows failed.
    """

    verdict: Literal["same", "rounding", "other", "unsure", "skipped"]
    words: str = ""
    apart: float = 0.0


def affordable(store: Store) -> float:
    """Seconds that a comparison with stored simulations may take when a campaign is resumed."""
    return max(SECONDS, min(_SHARE * store.seconds, MOST))


def look_again(
    store: Store,
    simulator: Simulator,
    *,
    device: str | torch.device = "cpu",
    seconds: float | None = None,
    blocks: Collection[int] | None = None,
) -> Look:
    """Simulate some rows of a store again and compare them with the stored rows.

    Args:
        store: Store with at least one block.
        simulator: The simulator to run.
        device: Device on which the simulator runs.
        seconds: Time limit for the comparison, judged by the recorded run times; `affordable(store)` by default.
        blocks: Blocks from which the rows may be taken; all blocks by default.
    """
    here = conditions(simulator, device)
    seconds = affordable(store) if seconds is None else seconds
    known = [(index, entry) for index, entry in store.entries() if blocks is None or index in blocks]
    start = _start([entry.seconds for _, entry in known if entry.rows == store.block])
    each = [_part(index, entry, start, simulator.by_row, here, seconds) for index, entry in known]
    parts = [part for part in each if part is not None]
    if not parts:
        return Look("skipped", "none of them can be run again in this process")
    part = min(parts, key=lambda part: (part.differing != "", part.cost, part.index))
    if part.cost > seconds:
        return Look("skipped", f"running {part.rows:,} of them again would take about {part.cost:,.0f} s")
    if part.device != here["device"].split()[0]:
        return Look("skipped", f"they were made on {part.device}, whose random numbers are others")
    try:
        theta, before = store.read(part.index)
    except ValueError as error:
        return Look("skipped", str(error))
    with one_thread():
        attempt = Attempt(simulator, theta[: part.rows], store.seed, part.index, torch.device(device))
        now = attempt.outcome()
        first = store.block * part.index
        if not (words := _unequal(before, now, part.rows, first)):
            return Look("same")
        again, apart = attempt.outcome(), _apart(before, now, part.rows)
        warmed_up = apart > ROUNDING and not _unequal(again, before, part.rows, first)
        if _unequal(again, now, part.rows, first) and not warmed_up:
            return Look("unsure", "the simulator gives other data each time for the same parameters and seed")
    words = f"the same parameters and seed give other data now: {words}"
    if not part.differing:
        return Look("other", words, apart)
    if apart <= ROUNDING:
        return Look("rounding", f"they come out the same up to rounding ({apart:.0e}; {part.differing})", apart)
    return Look("unsure", f"{words}. It may be that only the conditions have changed: {part.differing}", apart)


def checked_again(
    store: Store,
    simulator: Simulator,
    *,
    device: str | torch.device = "cpu",
    seconds: float | None = None,
    accept_changes: bool = False,
    blocks: Collection[int] | None = None,
) -> str:
    """Run `look_again` and describe the result for the user; "" if the bits are the same.

    Raises:
        ValueError: If the simulator gives other data now, and that was not accepted.
    """
    look = look_again(store, simulator, device=device, seconds=seconds, blocks=blocks)
    if look.verdict == "same":
        return ""
    rows = f"the {len(store):,} simulations in {store.folder.name}"
    if look.verdict == "other" and not accept_changes and not any(not unlike(one, simulator) for one in store.accepted):
        raise ValueError(
            f"{rows} are of another state of the simulator {simulator.name!r}: {look.words}. Something that the "
            "simulator uses has changed: a data file, a program, a library. Simulate into another folder (--out), the "
            "present simulations are kept; or go on with --accept-changes (accept_changes=True)"
        )
    if look.verdict == "skipped":
        known = "in no file" if simulator.source is None else "known by its files"
        return (
            f"it was not checked that {rows} still come out the same ({look.words}), and the simulator is {known}; if "
            "anything else that it uses has changed, simulate into another folder"
        )
    return f"{rows}: {look.words}"


@dataclass(frozen=True)
class _Part:
    """Rows that can be run again: block, number of rows, cost in seconds, differing conditions, and device."""

    index: int
    rows: int
    cost: float
    differing: str
    device: str


def _start(seconds: list[float]) -> float:
    """Seconds that a simulator takes once in each process (compilation, tables), estimated from equal blocks.

    The estimate is the time of the first block minus that of the fastest block.
    """
    return max(0.0, seconds[0] - min(seconds)) if seconds else 0.0


def _part(index: int, entry: Entry, start: float, by_row: bool, here: dict[str, str], seconds: float) -> _Part | None:
    failed = {Status.TIMED_OUT, Status.RAISED} & {status for status, n in entry.counts.items() if n}
    if entry.seconds <= 0 or Status.TIMED_OUT in failed or (failed and not entry.ok):
        return None  # The cost is unknown, or the block may hang or end the process.
    rows = entry.rows
    if by_row:
        rows = max(1, min(rows, _FEW, int(seconds / 5 / entry.seconds * entry.rows)))
    device = entry.conditions.get("device", here["device"]).split()[0]
    return _Part(index, rows, start + entry.seconds * rows / entry.rows, differing(entry.conditions, here), device)


def _unequal(before: Outcome, now: Outcome, rows: int, first: int) -> str:
    """Describe the first place where two outcomes differ in a bit; "" if they are equal. A failure also counts."""
    old, new = status_of(before)[:rows], status_of(now)[:rows]
    if (off := (old != new).nonzero().flatten()).numel():
        row = int(off[0])
        was, is_ = (Status(int(flags[row])).name.lower().replace("_", " ") for flags in (old, new))
        return f"row {first + row:,} was {was}, is {is_}" + _why(now, row)
    for name, value in now.x.items():
        a, b = _rows(before.x[name], rows), _rows(value, rows)
        apart = ~((a == b) | (np.isnan(a) & np.isnan(b))) if a.dtype.kind == "f" else a != b
        if apart.any():
            row, place = (int(k) for k in np.argwhere(apart)[0])
            share = f"{int(apart.any(1).sum())} of {rows} rows differ"
            return f"{name!r} of row {first + row:,} was {a[row, place]:.7g}, is {b[row, place]:.7g}; {share}"
    return ""


def _why(outcome: Outcome, row: int) -> str:
    return f" ({outcome.messages[row]})" if row in outcome.messages else ""


def _apart(before: Outcome, now: Outcome, rows: int) -> float:
    """Largest difference between two outcomes, relative to the largest value at the same place.

    The result is infinite if other rows failed.
    """
    if not torch.equal(status_of(before)[:rows], status_of(now)[:rows]):
        return float("inf")
    sizes = [0.0]
    for name, value in now.x.items():
        a, b = (np.nan_to_num(_rows(x, rows).astype(np.float64)) for x in (before.x[name], value))
        if a.size:
            scale = np.maximum(np.abs(a), np.abs(b)).max(0)
            sizes.append(float((np.abs(a - b).max(0) / np.where(scale > 0, scale, 1.0)).max()))
    return max(sizes)


def _rows(value: Tensor, rows: int) -> np.ndarray:
    return value[:rows].reshape(rows, -1).numpy()
