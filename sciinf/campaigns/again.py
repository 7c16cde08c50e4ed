"""A few stored simulations once more: does the simulator still give the same data for the same parameters and seed?

Files are compared by `core.code`; this finds what no list of files can: a library, a data file, a program found
elsewhere. A block is one batch with a seed of its own, so the smallest part that can be run again is the cheapest
block, or a few of its rows where each row has its own random numbers (`Simulator.by_row`). The bits must be equal where
versions, processor and device are as they were. Elsewhere sums round differently, which a chaotic simulator turns into
other data; what then differs by more than rounding is told and left to the user.
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
    """What came of it.

    Args:
        verdict: "same" bits; "rounding", equal but for that; "other" data, on the same machine; "unsure", other data,
            which need not mean another simulator; "skipped".
        words: What to say about it; "" where there is nothing to be said.
        apart: The largest difference, relative to the largest value at its place; infinite where other rows failed.
    """

    verdict: Literal["same", "rounding", "other", "unsure", "skipped"]
    words: str = ""
    apart: float = 0.0


def affordable(store: Store) -> float:
    """Seconds that a look at a campaign may take as it is taken up again."""
    return max(SECONDS, min(_SHARE * store.seconds, MOST))


def look_again(
    store: Store,
    simulator: Simulator,
    *,
    device: str | torch.device = "cpu",
    seconds: float | None = None,
    blocks: Collection[int] | None = None,
) -> Look:
    """Simulate some rows of a store anew and compare.

    Args:
        store: With rows in it.
        simulator: The one at hand.
        device: Where it runs.
        seconds: What that may cost, judged by what it did cost; `affordable` where left out.
        blocks: Which blocks they may be of; any when left out.
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
    """The same; what there is to be said about it, "" where the bits are the same.

    Raises:
        ValueError: If the simulator gives other data now, and that was not accepted.
    """
    look = look_again(store, simulator, device=device, seconds=seconds, blocks=blocks)
    if look.verdict == "same":
        return ""
    rows = f"the {len(store):,} simulations in {store.folder.name}"
    if look.verdict == "other" and not accept_changes and not any(not unlike(one, simulator) for one in store.accepted):
        raise ValueError(
            f"{rows} are of another state of the simulator {simulator.name!r}: {look.words}. Something that it uses "
            "has changed: a data file, a program, a library. Simulate into another folder (--out), these are kept; or "
            "go on with --accept-changes (accept_changes=True)"
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
    """Rows that can be run again: block, how many, what they cost, what differs from when they were made, and where."""

    index: int
    rows: int
    cost: float
    differing: str
    device: str


def _start(seconds: list[float]) -> float:
    """What a simulator takes once in a process (compilation, tables), judged by the first of some equal blocks."""
    return max(0.0, seconds[0] - min(seconds)) if seconds else 0.0


def _part(index: int, entry: Entry, start: float, by_row: bool, here: dict[str, str], seconds: float) -> _Part | None:
    failed = {Status.TIMED_OUT, Status.RAISED} & {status for status, n in entry.counts.items() if n}
    if entry.seconds <= 0 or Status.TIMED_OUT in failed or (failed and not entry.ok):
        return None  # not known what it costs, or it may hang or end the process
    rows = entry.rows
    if by_row:
        rows = max(1, min(rows, _FEW, int(seconds / 5 / entry.seconds * entry.rows)))
    device = entry.conditions.get("device", here["device"]).split()[0]
    return _Part(index, rows, start + entry.seconds * rows / entry.rows, differing(entry.conditions, here), device)


def _unequal(before: Outcome, now: Outcome, rows: int, first: int) -> str:
    """Where outcomes differ in a bit, in words; "" if nowhere. Failures count."""
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
    """The largest difference, relative to the largest value at the same place; infinite where other rows failed."""
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
