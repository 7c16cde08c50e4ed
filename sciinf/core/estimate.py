"""Estimate: what an answer says of one parameter that is a number, and of one whose values are few `Probabilities`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from sciinf.core.called import guess
from sciinf.core.tables import digits

_OFF, _RATIO, _EXISTS = 0.5, 1.25, 0.1  # sds of the narrower, sd over sd, probability: what two answers may differ by


@dataclass(frozen=True)
class Corrected:
    """An interval between the quantiles of the draws that held its level on fresh simulations
    (`diagnostics.recalibrate`).

    Args:
        interval: The corrected interval, in the parameter's unit.
        quantiles: Which quantiles of the draws its ends are.
        moved: By how much of the raw interval's width an end moved, at most.
        chance: By how much those of an exact posterior move, at most, in 99 of 100 calibrations on as many rows.
        local: Whether the quantiles depend on the observation.
    """

    interval: tuple[float, float]
    quantiles: tuple[float, float]
    moved: float
    chance: float
    local: bool

    @property
    def seen(self) -> bool:
        """Whether it moved by more than chance."""
        return self.moved > self.chance

    def to_json(self) -> dict[str, Any]:
        lists = {"interval": list(self.interval), "quantiles": list(self.quantiles)}
        return {**{k: getattr(self, k) for k in self.__dataclass_fields__}, **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Corrected:
        return cls(**{**data, "interval": tuple(data["interval"]), "quantiles": tuple(data["quantiles"])})


@dataclass(frozen=True)
class Estimate:
    """One parameter's answer, or a derived quantity's, in its unit.

    Args:
        mean: Of the draws, as all that follows.
        sd: Standard deviation.
        median: Median.
        interval: Central interval of `level`.
        level: Its level.
        unit: Unit of all of them; "" for dimensionless.
        corrected: The interval that the calibration asks for; None where none is of this posterior, or its fresh
            simulations are too few.
        label: What it is called for people; "" where that is its name.
        derived: Whether it is no parameter but a quantity derived from them (`core.derived`).
        exists: With which probability it exists; all else is of the draws in which it does.
    """

    mean: float
    sd: float
    median: float
    interval: tuple[float, float]
    level: float
    unit: str
    corrected: Corrected | None = None
    label: str = ""
    derived: bool = False
    exists: float = 1.0

    def cells(self) -> list[str]:
        """Median and interval, mean and sd, each to two digits of its own width; "-" where it exists in no draw.

        One draw far out carries the sd with it, but none of the quantiles: their widths are the distances between them.
        """
        if self.exists <= 0:
            return ["-"] * 4
        below, above = self.median - self.interval[0], self.interval[1] - self.median
        low, high = digits(self.interval[0], below), digits(self.interval[1], above)
        middle = digits(self.median, min((w for w in (below, above) if w > 0), default=0.0))
        return [middle, f"[{low}, {high}]", digits(self.mean, self.sd), digits(self.sd, self.sd)]

    def words(self, name: str) -> str:
        """What is to be said of it in a line beside a table of numbers: nothing."""
        return ""

    def factors(self) -> list[str]:
        """Bayes factors of its values: none."""
        return []

    def columns(self, prefix: str = "") -> dict[str, Any]:
        """Its columns in a data frame of estimates."""
        (low, high), more = self.interval, {} if prefix else {"mean": self.mean, "sd": self.sd}
        return {f"{prefix}median": self.median, f"{prefix}low": low, f"{prefix}high": high, **more}

    def compared(self) -> dict[str, tuple[float, ...]]:
        """The numbers that draws give, by what each is, for comparison."""
        found = {k: (float(getattr(self, k)),) for k in ("mean", "sd", "median")}
        return {**found, "interval": self.interval, "probability that there is one": (self.exists,)}

    def beside(self, other: Any, ess: float, others: float) -> tuple[list[str], str]:
        """Another answer's estimate of the same parameter: how far off, in words if they disagree (`core.beside`).

        Args:
            other: That estimate.
            ess: Effective draws behind this one.
            others: Behind the other.

        Returns:
            Difference of the means in sds of this one and in its own, and its sd over this one's; words, or "".
        """
        off, a, b = other.mean - self.mean, self.sd, other.sd
        if not (math.isfinite(off) and a > 0 and b > 0):
            same = off == 0 and a == b
            return ["-"] * 3, "" if same else "cannot be compared: an sd is 0, or not known"
        chance, words = 3 * math.hypot(a / math.sqrt(ess), b / math.sqrt(others)), []
        if abs(off) > _OFF * min(a, b) + chance:
            far = f"{_two(abs(off) / a)} of the sds here, {_two(abs(off) / b)} of its own"
            words.append(f"is {'higher' if off > 0 else 'lower'} there by {far}")
        if abs(math.log(b / a)) > math.log(_RATIO) + 3 * math.sqrt(0.5 / ess + 0.5 / others):
            words.append(f"has an sd there of {_two(b / a)} times that here")
        if abs(self.exists - other.exists) > _EXISTS:
            words.append(f"exists with probability {other.exists:.2g} there, {self.exists:.2g} here")
        return [_two(off / a, "+"), _two(off / b, "+"), _two(b / a)], " and ".join(words)

    @property
    def scale(self) -> float:
        """What its numbers are rounded against, beside themselves."""
        return abs(self.sd) if math.isfinite(self.sd) else 0.0

    def to_json(self) -> dict[str, Any]:
        left_out = {"corrected"} | {k for k in ("label", "derived") if not getattr(self, k)}
        left_out |= {"exists"} if self.exists == 1 else set()
        said = {k: getattr(self, k) for k in self.__dataclass_fields__ if k not in left_out}
        corrected = {"corrected": self.corrected.to_json()} if self.corrected else {}
        return {**said, "interval": list(self.interval), **corrected}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Estimate:
        corrected = Corrected.from_json(data["corrected"]) if data.get("corrected") else None
        numbers = {k: math.nan if data[k] is None else data[k] for k in ("mean", "sd", "median")}
        interval = tuple(math.nan if end is None else end for end in data["interval"])
        return cls(**{**data, **numbers, "interval": interval, "corrected": corrected})


@final
class Estimates(dict[str, Any]):
    """Name -> `Estimate`, or `Probabilities` of a discrete parameter; an unknown name is told what there is."""

    def __missing__(self, name: object) -> Estimate:
        raise KeyError(f"{name!r} is none of {', '.join(self)}{guess(str(name), self)}")


def _two(value: float, sign: str = "") -> str:
    """A number to two digits: 0.34, 3.0, 12."""
    places = 0 if abs(value) >= 9.95 else 1 if abs(value) >= 0.995 else 2
    return f"{value:{sign}.{places}f}"
