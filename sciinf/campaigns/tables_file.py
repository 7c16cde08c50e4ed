"""Make a store of existing simulations in CSV, ECSV, HDF5 or npz files.

A file holds one simulation per row, with one column per parameter and per observed number. In a CSV file an observable
of shape (k,) has the columns `v_0 ... v_{k-1}` or `v[0] ... v[k-1]`; axes beyond the first are in C order. A header may
give a unit, `rate [1/h]`. HDF5 and npz files hold arrays (rows, *event) with the names of the observables; in HDF5 an
attribute `unit` gives the unit. Parameters may also be together in one array `theta` (rows, D), in the prior's order
and units. Values are converted to the units of the prior and the observables. Values without a unit are assumed to have
these units.

`tables.json` in the store names the files by their content. It plays the part of a simulator's source file. So a store
made from other files is recognised as different.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from sciinf.campaigns.store import Store
from sciinf.campaigns.table_columns import TableField, TableFile, find_observable, find_parameters, open_table
from sciinf.core import Observable, Outcome, Prior, Simulator, X
from sciinf.core.existence import check_continuous
from sciinf.core.files import json_text, local_path, parse_json, write_bytes
from sciinf.core.laws import bounds, inside, is_normalisable, support
from sciinf.simulators.wrappers.named_function import Specification, check_result, outcome_of, specify

BLOCK = 4096
MANIFEST = "tables.json"
_UNLIKELY = 1e-6  # Probability per parameter of a warning about a table that was drawn from its prior.


def tables(
    *paths: str | Path,
    prior: Prior,
    observables: Mapping[str, Specification],
    out: str | Path,
    rows: int | None = None,
    name: str = "tables",
) -> Store:
    """Make a store of existing simulations. The same files give the same store, and a complete store is kept.

    Args:
        *paths: Files that each hold all columns (one after another), or that share the columns (side by side, row by
            row).
        prior: Distribution from which the parameters were drawn; `Unknown()` if it is unknown, `Prior.none()` for
            simulations without parameters.
        observables: Observable name -> `Observable`, or its shape, or (shape, unit).
        out: Folder of the store.
        rows: Number of rows to take from the start; all by default.
        name: Name of the simulator in the store.

    Returns:
        The store. Rows with missing or non-finite data have `Status.NON_FINITE`.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a column is missing, a shape or unit does not fit, theta lies outside the prior's support, or
            `out` holds a store of other files.

    Warns:
        UserWarning: If a parameter's values do not look drawn from the prior: results learned from them would be wrong.
    """
    files = [Path(path) for path in paths]
    simulator = Tabulated(prior, specify(observables), name)
    if not files:
        raise ValueError("no files of simulations were given: tables('runs.csv', prior=..., observables=..., out=...)")
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"no file of simulations at {file}")
    with ExitStack() as stack:
        pieces = _pieces([open_table(file, stack) for file in files], simulator)
        total = sum(piece.rows for piece in pieces)
        if rows is not None and not 0 < rows <= total:
            raise ValueError(f"rows={rows} asked for, the files hold {total}")
        count = total if rows is None else rows
        _check_theta(pieces, prior, count)
        simulator.source = _manifest(files, local_path(out))
        store = Store.create(local_path(out), simulator, seed=0, block=BLOCK, rows=count)
        for index in sorted({*store.missing(), *(damage.block for damage in store.damaged())}):
            start, stop = index * BLOCK, index * BLOCK + store.rows_of(index)
            theta = theta_of(pieces, prior, start, stop)
            store.commit(index, theta, _outcome(pieces, simulator.observables, start, stop), seconds=0.0)
    return store


@final
class Tabulated(Simulator):
    """Simulator in place of a program that is not available. It names the stored rows, and refuses to make new ones."""

    def __init__(self, prior: Prior, observables: Mapping[str, Observable], name: str) -> None:
        self.prior, self.observables, self.name, self.block = prior, observables, name, BLOCK

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        """Refuse to simulate.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(
            f"{self.name!r} holds simulations read from files and cannot make new ones; wrap the program that made "
            "them (sciinf.wrappers) where fresh simulations are needed"
        )


class Piece:
    """Consecutive rows with all parameters and observables, each of which is read from one of the files."""

    def __init__(self, fields: Mapping[str, TableField], labels: Sequence[str]) -> None:
        counts = {name: field.rows for name, field in fields.items()}
        if len(set(counts.values())) != 1:
            raise ValueError(f"columns of {', '.join(labels)} have different numbers of rows: {counts}")
        self.fields, self.rows, self.label = fields, next(iter(counts.values())), ", ".join(labels)


def _pieces(opened: Sequence[TableFile], simulator: Tabulated) -> list[Piece]:
    needed = {**{f"theta:{n}": n for n in simulator.prior.names}, **{f"x:{n}": n for n in simulator.observables}}
    found: list[dict[str, TableField]] = []
    for table in opened:
        fields = {f"theta:{k}": v for k, v in find_parameters(table, simulator.prior).items()}
        for name, spec in simulator.observables.items():
            field = find_observable(table, name, spec)
            if field is not None:
                fields[f"x:{name}"] = field
        found.append(fields)
    if all(set(fields) == set(needed) for fields in found):
        return [Piece(fields, [table.label]) for fields, table in zip(found, opened, strict=True)]
    together: dict[str, TableField] = {}
    for key, name in needed.items():
        holders = [table.label for fields, table in zip(found, opened, strict=True) if key in fields]
        if len(holders) != 1:
            columns = {table.label: sorted(table.columns) for table in opened}
            raise ValueError(
                f"{'parameter' if key.startswith('theta') else 'observable'} {name!r} is in "
                + (f"{holders}, other columns are not in all of them" if holders else "no file")
                + f"; found the columns {columns}. Either every file has all columns, or each column is in one file"
            )
        together[key] = next(fields[key] for fields in found if key in fields)
    return [Piece(together, [table.label for table in opened])]


def _read(pieces: Sequence[Piece], key: str, start: int, stop: int) -> np.ndarray:
    parts, offset = [], 0
    for piece in pieces:
        low, high = max(start - offset, 0), min(stop - offset, piece.rows)
        if low < high:
            parts.append(piece.fields[key].read(low, high))
        offset += piece.rows
    return np.concatenate(parts)


def theta_of(pieces: Sequence[Piece], prior: Prior, start: int, stop: int) -> Tensor:
    """Parameters of rows, (rows, D), in the prior's dtype.

    Values that rounding put outside the support are moved inside.
    """
    check_continuous(prior, "a store of rows that were simulated elsewhere")
    exact = torch.empty(stop - start, len(prior), dtype=torch.float64)
    for k, name in enumerate(prior.names):
        exact[:, k] = torch.from_numpy(_read(pieces, f"theta:{name}", start, stop).astype(np.float64))
    theta = exact.to(prior.dtype)
    at = 0
    for (law, wide), (_, part) in zip(prior.bijection.parts(exact), prior.bijection.parts(theta), strict=True):
        width, allowed = law.event_shape[0] if law.event_shape else 1, support(law)
        finite = torch.isfinite(wide.reshape(len(wide), -1)).all(-1)
        valid = finite & (allowed.check(wide) | allowed.check(part))
        if not bool(valid.all()):
            row = int((~valid).nonzero()[0])
            names = prior.names[at : at + width]
            raise ValueError(
                f"parameter {', '.join(map(repr, names))} is {exact[row, at : at + width].squeeze().tolist()} in row "
                f"{start + row} (counted from 0), outside the prior's support {_support(law)}; {int((~valid).sum())} "
                "such rows in this block. Give the prior the rows were drawn from, or leave these rows out"
            )
        if not law.event_shape:
            theta[:, at] = inside(law, part)
        at += width
    return theta


def _support(law: torch.distributions.Distribution) -> str:
    if law.event_shape:
        return str(support(law))
    low, high = bounds(law)
    return f"({'-inf' if low is None else f'{low:g}'}, {'inf' if high is None else f'{high:g}'})"


def _check_theta(pieces: Sequence[Piece], prior: Prior, count: int) -> None:
    """Refuse parameters outside the prior's support before anything is written; warn if they do not fit the prior."""
    read = [theta_of(pieces, prior, start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]
    for k, law, p_value in unlike_prior(torch.cat(read), prior):
        warnings.warn(
            f"the {count} values of parameter {prior.names[k]!r} do not look drawn from its prior {law} "
            f"(Kolmogorov-Smirnov p = {p_value:.1g}); what is learned from them would answer for another prior",
            stacklevel=3,
        )


def unlike_prior(theta: Tensor, prior: Prior) -> Iterator[tuple[int, torch.distributions.Distribution, float]]:
    """Parameters whose values do not look drawn from the prior: position, distribution, Kolmogorov-Smirnov p-value."""
    from scipy import stats

    z = prior.bijection.forward(theta)
    for (law, place), spot in zip(prior.places(), prior.bijection.spots, strict=True):
        if not law.event_shape and is_normalisable(law):
            p_value = float(stats.kstest(z[:, spot.start].double().numpy(), "norm").pvalue)
            if p_value < _UNLIKELY:
                yield place.start, law, p_value


def _outcome(pieces: Sequence[Piece], observables: Mapping[str, Observable], start: int, stop: int) -> Outcome:
    raw = {name: _read(pieces, f"x:{name}", start, stop) for name in observables}
    whole = " or ".join(repr(name) for name, spec in observables.items() if not spec.torch_dtype.is_floating_point)
    checked = check_result(observables, raw, (stop - start,), what="the table")
    return outcome_of(checked, torch.device("cpu"), words=f"a missing or non-finite value in {whole}")


def _manifest(files: Sequence[Path], out: Path) -> Path:
    """Write `tables.json` once, and return its path.

    Raises:
        ValueError: If the folder holds a store of something else.
    """
    contents = [{**content_of(file), "kind": file.suffix.lower()} for file in files]
    path = out / MANIFEST
    if path.is_file():
        found = parse_json(path)
        if found != contents and (out / "store.json").is_file():
            raise ValueError(
                f"{out} holds the store of other files ({json.dumps(found)}), not of {[str(f) for f in files]}; "
                "choose another folder for `out`"
            )
    elif (out / "store.json").is_file():
        raise ValueError(f"{out} holds a store of simulations that were not read from files; choose another folder")
    if not path.is_file() or parse_json(path) != contents:
        out.mkdir(parents=True, exist_ok=True)
        # The file carries no hash of itself: it is the simulator's source, and `store.json` has its hash.
        write_bytes(path, (json_text(contents) + "\n").encode())
    return path


def content_of(file: Path) -> dict[str, Any]:
    """SHA-256 and size of a file."""
    with open(file, "rb") as stream:
        return {"sha256": hashlib.file_digest(stream, "sha256").hexdigest(), "bytes": file.stat().st_size}
