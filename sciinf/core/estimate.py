"""Estimates of numeric parameters in an answer; for discrete parameters see `Probabilities`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from sciinf.core.called import guess
from sciinf.core.tables import digits

# Two answers agree if their means differ by at most _OFF of the smaller sd, if their sds differ by at most
# the factor _RATIO, and if their probabilities of existence differ by at most _EXISTS. The scatter of the
# draws is added to the first two limits.
_OFF, _RATIO, _EXISTS = 0.5, 1.25, 0.1


@dataclass(frozen=True)
class Corrected:
    """An interval corrected by calibration on fresh simulations (`diagnostics.recalibrate`).

    Its ends are the quantiles of the draws that held its level on the fresh simulations.

    Args:
        interval: The corrected interval, in the parameter's unit.
        quantiles: The quantiles of the draws at the two ends, as probabilities.
        moved: The larger shift of the two ends, as a fraction of the uncorrected interval's width.
        chance: The largest `moved` of an exact posterior in 99 of 100 calibrations with as many rows.
        local: Whether the quantiles depend on the observation.
    """

    interval: tuple[float, float]
    quantiles: tuple[float, float]
    moved: float
    chance: float
    local: bool

    @property
    def seen(self) -> bool:
        """Whether the interval moved by more than chance."""
        return self.moved > self.chance

    def to_json(self) -> dict[str, Any]:
        lists = {"interval": list(self.interval), "quantiles": list(self.quantiles)}
        return {**{k: getattr(self, k) for k in self.__dataclass_fields__}, **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Corrected:
        return cls(**{**data, "interval": tuple(data["interval"]), "quantiles": tuple(data["quantiles"])})


@dataclass(frozen=True)
class Estimate:
    """The estimate of one parameter, or of one derived quantity.

    All numbers except `exists` are computed from the draws in which the parameter exists.

    Args:
        mean: Mean of the draws.
        sd: Standard deviation of the draws.
        median: Median of the draws.
        interval: Central interval of `level`.
        level: Level of the interval, in (0, 1).
        unit: Unit of these numbers; "" for dimensionless.
        corrected: The interval corrected by calibration. None if this posterior has no calibration, or if the
            calibration has too few fresh simulations.
        label: Name for display; "" if it is the parameter's name.
        derived: Whether this is a quantity derived from parameters (`core.derived`).
        exists: Probability that the parameter exists.
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
        """Median, interval, mean and sd as text, to two digits of their widths; "-" without any draw.

        The digits of quantiles follow from the distances between them, not from the sd. A single outlying
        draw can change the sd, but hardly the quantiles.
        """
        if self.exists <= 0:
            return ["-"] * 4
        below, above = self.median - self.interval[0], self.interval[1] - self.median
        low, high = digits(self.interval[0], below), digits(self.interval[1], above)
        middle = digits(self.median, min((w for w in (below, above) if w > 0), default=0.0))
        return [middle, f"[{low}, {high}]", digits(self.mean, self.sd), digits(self.sd, self.sd)]

    def words(self, name: str) -> str:
        """The line of text beside a table of numbers: always "", because only `Probabilities` have one."""
        return ""

    def factors(self) -> list[str]:
        """The Bayes factors of the values: always empty, because only `Probabilities` have any."""
        return []

    def columns(self, prefix: str = "") -> dict[str, Any]:
        """The estimate's columns in a data frame, with names that begin with `prefix`.

        With a prefix, the mean and the sd are left out.
        """
        (low, high), more = self.interval, {} if prefix else {"mean": self.mean, "sd": self.sd}
        return {f"{prefix}median": self.median, f"{prefix}low": low, f"{prefix}high": high, **more}

    def compared(self) -> dict[str, tuple[float, ...]]:
        """The numbers of the estimate that follow from draws: name of the quantity -> numbers."""
        found = {k: (float(getattr(self, k)),) for k in ("mean", "sd", "median")}
        return {**found, "interval": self.interval, "probability that there is one": (self.exists,)}

    def beside(self, other: Any, ess: float, others: float) -> tuple[list[str], str]:
        """The comparison with another answer's estimate of the same parameter (see `core.beside`).

        Args:
            other: The other estimate.
            ess: Effective number of draws of this estimate.
            others: Effective number of draws of the other estimate.

        Returns:
            Three cells of text: the other mean minus this mean, in sds of this estimate and in sds of the
            other, and the other sd divided by this sd. Then the disagreement in words; "" if they agree.
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
        """A scale of the numbers, for the tolerance to rounding: the sd, or 0 if it is not finite."""
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
    """Name -> `Estimate`, or `Probabilities` of a discrete parameter.

    The KeyError for an unknown name lists the known names.
    """

    def __missing__(self, name: object) -> Estimate:
        raise KeyError(f"{name!r} is none of {', '.join(self)}{guess(str(name), self)}")


def _two(value: float, sign: str = "") -> str:
    """A number as text with two digits: "0.34", "3.0", "12"."""
    places = 0 if abs(value) >= 9.95 else 1 if abs(value) >= 0.995 else 2
    return f"{value:{sign}.{places}f}"
