"""Reads a folder of answers to many observations: columns, verdicts, rows outside the simulations, and a summary."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np

from sciinf.campaigns.storage.folder import Folder, LocalFolder
from sciinf.core.earlier_findings import level_of_trust
from sciinf.core.files import local_path, sha256_of
from sciinf.core.findings import Finding, Level
from sciinf.core.prior import Prior
from sciinf.core.records import calibration_finding
from sciinf.core.verdict import Verdict
from sciinf.interfaces.surveys.block import Block, file_of, read_block
from sciinf.interfaces.surveys.description import STATUS, read_about
from sciinf.interfaces.surveys.verdicts import NEEDED, RowVerdicts

if TYPE_CHECKING:
    import pandas

_PLAIN = dict.fromkeys(("verdict", "trust", "p_value", "outside", "status", "checks", "ess", "pareto_k"), "")


@final
class Answers:
    """Answers to many observations, in a folder; `load_answers` opens them.

    `len` is the number of rows written so far, with or without an answer. `rows` is the number of observations that
    were asked about. A column has an entry for each row written, in order; `column("row")` has the positions.

    Args:
        folder: Folder of the answers.

    Raises:
        FileNotFoundError: If the folder has no answers.
        ValueError: If `answers.json` is damaged.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder, self.about = folder, read_about(folder)
        self.prior = Prior.from_json(self.about["prior"])
        self.rows, self.levels = int(self.about["rows"]), tuple(map(float, self.about["quantiles"]))
        self.calibration: Mapping[str, Any] = self.about["calibration"]
        self.judge = RowVerdicts(self.about)
        self._size = int(self.about["block"])
        there = {Path(name).stem for name in folder.names("blocks") if name.endswith(".h5")}
        self._there = sorted(int(stem) for stem in there if stem.isdigit() and int(stem) < self.blocks)

    def __len__(self) -> int:
        return sum(self.rows_of(index) for index in self._there)

    def __repr__(self) -> str:
        return self.summary()

    @property
    def blocks(self) -> int:
        """Number of blocks that a complete folder has."""
        return -(-self.rows // self._size)

    def rows_of(self, index: int) -> int:
        """Number of rows in a block."""
        return max(0, min(self._size, self.rows - index * self._size))

    @property
    def complete(self) -> bool:
        """Whether all rows are written."""
        return len(self) == self.rows

    def block(self, index: int, names: frozenset[str] | None = None) -> Block:
        """Read one block, and verify its hash.

        Args:
            index: Number of the block.
            names: Names of the datasets to read; all if left out.

        Raises:
            ValueError: If the block is damaged.
        """
        try:
            return read_block(self.folder.read(file_of(index)), index, self.about["survey"], names)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"{self.folder.name}/{file_of(index)} is damaged: {error}; run the same command again, which makes it "
                "anew"
            ) from error

    @property
    def digest(self) -> str:
        """SHA-256 over all columns, row after row; independent of block order, kills and number of processes.

        Raises:
            ValueError: If a block is damaged.
        """
        return digest_of(self.block(index) for index in self._there)

    @cached_property
    def columns(self) -> dict[str, str]:
        """Column name -> unit, or "" if the column has no unit."""
        found = {"row": "", **_PLAIN}
        values = self.about["values"]
        for name, unit in zip(self.prior.names, self.prior.units, strict=True):
            if self.prior.mixed:
                found[f"{name}_exists"] = ""
            if name in values:
                found |= {f"P({name}={label})": "" for label in values[name]}
            else:
                found |= {f"{name}_{what}": unit for what in ("mean", "sd", *map(_quantile, self.levels))}
            found |= {f"{name}_true": unit} if self.about["truth"] else {}
        return found

    def column(self, name: str) -> np.ndarray:
        """One column, with an entry for each row written.

        The column "verdict" has the level of each row's verdict: "good", "caution", "unknown" or "alarm", or "none" for
        a row without an answer. The columns "trust", "checks" and "status" are text. The column "outside" tells whether
        "trust" is "alarm".

        Raises:
            ValueError: If there is no column of that name, or a block is damaged.
        """
        return self.columns_of([name])[name]

    def columns_of(self, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Several columns, as `column` returns them; each block is read once.

        Raises:
            ValueError: For the same reasons as `column`.
        """
        names = list(dict.fromkeys(names))
        if unknown := [name for name in names if name not in self.columns]:
            raise ValueError(f"there is no column {unknown[0]!r}; there are {', '.join(self.columns)}")
        where = {name: self._datasets[name] for name in names if name not in ("row", "verdict")}
        needed = frozenset(dataset for dataset, _ in where.values()) | frozenset(NEEDED if "verdict" in names else ())
        parts: dict[str, list[np.ndarray]] = {name: [np.zeros(0, dtype=int)] for name in names if not self._there}
        for index in self._there:
            if "row" in names:
                start = index * self._size
                parts.setdefault("row", []).append(np.arange(start, start + self.rows_of(index)))
            if needed:
                block = self.block(index, needed).columns
                if "verdict" in names:
                    parts.setdefault("verdict", []).append(self.judge.levels(block))
                for name, (dataset, place) in where.items():
                    parts.setdefault(name, []).append(block[dataset][(..., *place)])
        return {name: self._in_words(name, np.concatenate(parts[name])) for name in names}

    def _in_words(self, name: str, values: np.ndarray) -> np.ndarray:
        """Values of a column, with text in place of codes."""
        if name == "outside":
            return values == self.about["codes"]["trust"].index("alarm")
        words = self.about["codes"].get(name)
        if words is None:
            return values
        return np.asarray([level_of_trust(word) if name == "trust" else word for word in words])[values.astype(int)]

    def draws(self, row: int) -> np.ndarray:
        """The draws that were kept for a row, (n, D).

        Raises:
            ValueError: If no draws were kept, or the row is not written yet.
        """
        index, at = self._place(row)
        if not self.about["kept"]:
            raise ValueError(f"{self.folder.name} keeps no draws; ask with --draws N, kept=N in Python")
        return self.block(index, frozenset({"draws"})).columns["draws"][at]

    def said(self, row: int) -> str:
        """Text of a row's findings, or the reason why the row has no answer; "" if there is neither.

        Raises:
            ValueError: If the row is not written yet.
        """
        index, at = self._place(row)
        block = self.block(index, frozenset({"status"}))
        status = self.about["codes"]["status"][block.columns["status"][at]]
        return block.messages.get(at, "" if status == STATUS[0] else f"{status}: there is nothing to ask about")

    def verdict(self, row: int) -> Verdict:
        """Verdict on a row: whether to rely on its answer, with the reasons.

        Raises:
            ValueError: If the row is not written yet, or has no answer.
        """
        index, at = self._place(row)
        columns = self.block(index, frozenset(NEEDED)).columns
        trust, checks = (str(self._in_words(name, columns[name])[at]) for name in ("trust", "checks"))
        if "none" in (trust, checks):
            raise ValueError(f"row {row} has no answer: {self.said(row)}")
        k = float(columns["pareto_k"][at])
        words = self.said(row)
        more = (words,) if words else ()
        return self.judge.verdict(trust, checks, float(columns["ess"][at]), None if np.isnan(k) else k, *more)

    @property
    def outside(self) -> np.ndarray:
        """Positions of the rows whose data are unlike the simulations; their answers must not be believed."""
        return self.column("row")[self.column("outside")]

    @property
    def found(self) -> Mapping[str, Any]:
        """Counts of verdicts over a complete folder, and coverage if true parameters are known.

        Raises:
            ValueError: If the folder is not complete.
        """
        if "found" not in self.about or not self.complete:
            raise ValueError(f"{self.folder.name} has {len(self):,} of {self.rows:,} rows; go on with the same command")
        return self.about["found"]

    def to_dataframe(self) -> pandas.DataFrame:
        """All columns as a pandas table, whose `attrs` hold the units and the verdict of the calibration.

        Raises:
            ImportError: If pandas is not installed.
        """
        import pandas

        table = pandas.DataFrame(self.columns_of(self.columns))
        table.attrs.update(units=self.columns, calibration=self.calibrated)
        return table

    @property
    def whose(self) -> str:
        """Name of the calibrated posterior, in brackets; "" if it is the posterior that answers."""
        of = self.calibration["of"]
        return f" (of the {of} posterior)" if of not in (None, self.about["posterior"]) else ""

    @property
    def calibrated(self) -> str:
        """Verdict of the calibration in a word, followed by the posterior's name as in `whose`."""
        return self.calibration["state"] + self.whose

    def summary(self) -> str:
        """Summary of all answers, as lines of text: verdicts on rows first, then the calibration."""
        return "\n".join(lines_of(self))

    def _place(self, row: int) -> tuple[int, int]:
        index, at = divmod(row, self._size)
        if not 0 <= row < self.rows or index not in self._there:
            raise ValueError(f"row {row} is not there; {self.folder.name} has {len(self):,} of {self.rows:,} rows")
        return index, at

    @cached_property
    def _datasets(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Column name -> (dataset of the block, index within a row of the dataset)."""
        found: dict[str, tuple[str, tuple[int, ...]]] = {name: (name, ()) for name in _PLAIN}
        found["outside"] = ("trust", ())
        for d, name in enumerate(self.prior.names):
            found |= {f"{name}_{what}": (what, (d,)) for what in ("mean", "sd", "exists")}
            found |= {f"{name}_true": ("truth", (d,))}
            found |= {f"{name}_{_quantile(q)}": ("quantiles", (d, k)) for k, q in enumerate(self.levels)}
            labels = self.about["values"].get(name, ())
            found |= {f"P({name}={label})": (f"probability/{name}", (k,)) for k, label in enumerate(labels)}
        return found


def load_answers(folder: str | Path | Folder) -> Answers:
    """Open the answers that `query_all` or `sciinf query --observations` wrote into a folder, complete or not.

    Args:
        folder: Folder of the answers.

    Returns:
        The answers, with columns, digest and verdicts; `print` shows the summary.

    Raises:
        FileNotFoundError: If the folder has no answers.
        ValueError: If `answers.json` is damaged, or the path is an address in an object store.
    """
    return Answers(folder if isinstance(folder, Folder) else LocalFolder(local_path(folder)))


def digest_of(blocks: Iterator[Block]) -> str:
    """SHA-256 over the columns of consecutive blocks."""
    each: dict[str, Any] = {}
    for block in blocks:
        for name, array in block.columns.items():
            start = f"{name}\0{array.dtype.str}\0{array.shape[1:]}\0".encode()
            each.setdefault(name, hashlib.sha256(start)).update(np.ascontiguousarray(array).data)
    return sha256_of("".join(f"{name} {each[name].hexdigest()}\n" for name in sorted(each)))


def lines_of(answers: Answers) -> list[str]:
    """The summary of all answers, line by line."""
    about, counts = answers.about, answers.about.get("found", {}).get("verdicts", {})
    each = ", ".join(f"{Level(level).advice}: {n:,}" for level, n in counts.items() if n)
    lines = [f"verdicts      {each} of {answers.rows:,} rows"] if each else []
    lines.append(f"calibration   {calibration_finding(answers.calibration, about['posterior']).line}")
    lines += [f"posterior     {about['posterior']}; {about['scope']}"] if about["scope"] else []
    of_all = [Finding.from_json(one) for one in about["checks"]]
    lines += [f"{one.name:<13} {one.line}" for one in of_all if one.level != Level.GOOD]
    if "found" not in about or not answers.complete:
        lines.append(f"unfinished    {len(answers):,} of {answers.rows:,} rows; the same command goes on")
        return lines
    found = about["found"]
    lines.append(
        f"rows          {found['answered']:,} of {answers.rows:,} answered, with {about['draws']:,} draws each"
    )
    if lost := {words: n for words, n in found["status"].items() if n and words != "answered"}:
        lines.append(f"no answer     {', '.join(f'{words}: {n:,}' for words, n in lost.items())}")
    lines.append(f"outside       {_outside(found['trust'])}")
    if together := found.get("population"):  # The first folders lack this entry.
        lines.append(f"population    {Finding.from_json(together).line}")
    if bad := {level: n for level, n in found["checks"].items() if n and level != "good"}:
        lines.append(f"checks        {', '.join(f'{level}: {n:,} rows' for level, n in bad.items())}")
    if found["unreliable"]:
        lines.append(f"weights       of {found['unreliable']:,} rows cannot be relied on (Pareto k > 0.7)")
    lines += _covered(answers)
    return [*lines, *(f"not done      {words}" for words in about["not_done"])]


def _outside(trust: Mapping[str, int]) -> str:
    if trust["unknown"]:
        words = "for lack of fresh simulations nobody can tell of"
        return f"{words} {trust['unknown']:,} rows whether they are like the simulations; run `sciinf calibrate`"
    each = sum(n for level, n in trust.items() if level != "none")
    share = f"{trust['alarm'] / each:.2%}" if each else "none"
    unusual = trust.get("caution", 0) + trust.get("unusual", 0)
    return (
        f"{trust['alarm']:,} rows ({share}) are unlike the simulations: do not believe their answers (1 % of rows that "
        f"the simulator made itself would be, by chance); {unusual:,} more are unusual"
    )


def _covered(answers: Answers) -> list[str]:
    """Lines of the summary on how often known parameters lie within their intervals."""
    found = answers.found.get("coverage")
    if not found:
        return []
    outer = answers.about["level"]
    low, high = (answers.levels.index(round((1 + sign * outer) / 2, 9)) for sign in (-1, 1))
    lines = []
    for name, one in found.items():
        held, wanted = one["below"][high] - one["below"][low], one["expected"][high] - one["expected"][low]
        error = (wanted * (1 - wanted) / one["rows"]) ** 0.5
        words = f"{outer:.0%} intervals of {name} hold {held:.2%} of {one['rows']:,} known truths"
        lines.append(f"coverage      {words} ({wanted:.2%} +- {error:.2%} if they are right)")
    caution = answers.about["truths"]
    return [*lines, *([f"coverage      but {caution}"] if caution else [])]


def _quantile(level: float) -> str:
    return f"q{100 * level:.6g}"


__all__ = ["Answers", "load_answers"]
