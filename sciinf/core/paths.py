"""Hidden paths: posterior draws of quantities along time that were not observed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np
from jaxtyping import Float

from sciinf.core.called import guess

if TYPE_CHECKING:
    import pandas
    import xarray


@dataclass(frozen=True, repr=False)
class HiddenPath:
    """One hidden quantity along time: equally weighted draws, and their statistics at each time.

    Args:
        name: Name of the quantity.
        draws: Draws of the path, (m, T). Each row belongs to one draw of the parameters.
        times: The times, (T,), in `time_unit`.
        level: Level of the intervals, in (0, 1). Each interval holds for its own time, not for the
            whole path.
        unit: Unit of the values; "" for dimensionless.
        time_unit: Unit of the times; "" if it is unknown.
    """

    name: str
    draws: Float[np.ndarray, "m time"]
    times: Float[np.ndarray, " time"]
    level: float = 0.9
    unit: str = ""
    time_unit: str = ""

    def __repr__(self) -> str:
        unit = f" [{self.unit}]" if self.unit else ""
        return f"hidden path of {self.name}{unit} at {len(self.times):,} times, {len(self.draws):,} draws"

    @property
    def median(self) -> Float[np.ndarray, " time"]:
        return self.quantile(0.5)

    @property
    def mean(self) -> Float[np.ndarray, " time"]:
        return self.draws.mean(0)

    @property
    def sd(self) -> Float[np.ndarray, " time"]:
        return self.draws.std(0)

    @property
    def interval(self) -> Float[np.ndarray, "time 2"]:
        """The central interval of `level` at each time, (T, 2)."""
        ends = (1 - self.level) / 2, (1 + self.level) / 2
        return np.stack([self.quantile(q) for q in ends], axis=1)

    def quantile(self, q: float) -> Float[np.ndarray, " time"]:
        """The quantile at probability `q` at each time, (T,)."""
        return np.quantile(self.draws, q, axis=0)


@final
@dataclass(frozen=True, repr=False)
class HiddenPaths:
    """The hidden paths of an answer, or of a batch of parameters.

    Args:
        names: Names of the S hidden quantities.
        values: Draws of the paths, (m, T, S).
        times: The times, (T,), in the model's unit of time.
        units: Unit of each quantity, (S,); default: dimensionless.
        time_unit: Unit of the times; "" if it is unknown.
        level: Level of the intervals, in (0, 1); default: 0.9.

    Examples:
        >>> paths = HiddenPaths(("level",), np.random.default_rng(0).normal(size=(400, 3, 1)), np.arange(3.0), ("m",))
        >>> paths["level"].interval.shape, list(paths), len(HiddenPaths())
        ((3, 2), ['level'], 0)
    """

    names: tuple[str, ...] = ()
    values: Float[np.ndarray, "m time state"] = field(default_factory=lambda: np.zeros((0, 0, 0)))
    times: Float[np.ndarray, " time"] = field(default_factory=lambda: np.zeros(0))
    units: tuple[str, ...] = ()
    time_unit: str = ""
    level: float = 0.9

    def __repr__(self) -> str:
        return f"hidden paths of {self.words()}" if self.names else "no hidden paths"

    def __getitem__(self, name: str) -> HiddenPath:
        """The hidden path with a given name.

        Raises:
            KeyError: If there is no hidden path with this name.
        """
        if name not in self.names:
            raise KeyError(f"{name!r} is none of {', '.join(self.names) or 'no hidden paths'}{guess(name, self.names)}")
        at = self.names.index(name)
        unit = self.units[at] if self.units else ""
        return HiddenPath(name, self.values[:, :, at], self.times, self.level, unit, self.time_unit)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def words(self) -> str:
        """The names, units, and numbers of times and draws, in one line; "" without hidden paths."""
        if not self.names:
            return ""
        said = ", ".join(f"{name} [{self[name].unit}]" if self[name].unit else name for name in self)
        return f"{said} at {len(self.times):,} times, {len(self.values):,} draws"

    def to_dataframe(self) -> pandas.DataFrame:
        """A data frame with one row per quantity and time, and the statistics of the draws.

        The columns are name, unit, time, median, low and high (the ends of the interval), mean and sd.

        Raises:
            ImportError: If pandas is not installed.
        """
        import pandas

        parts = []
        for name in self:
            one = self[name]
            low, high = one.interval.T
            columns = {
                "time": one.times,
                "median": one.median,
                "low": low,
                "high": high,
                "mean": one.mean,
                "sd": one.sd,
            }
            part = pandas.DataFrame(columns)
            part.insert(0, "unit", one.unit)
            part.insert(0, "name", name)
            parts.append(part)
        found = pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()
        found.attrs |= {"level": self.level, "time_unit": self.time_unit}
        return found

    def to_xarray(self) -> xarray.Dataset:
        """The draws as a dataset, with one variable per quantity, dims (draw, time), and units as attributes.

        Raises:
            ImportError: If xarray is not installed.
        """
        import xarray

        variables = {n: (("draw", "time"), self[n].draws, {"units": self[n].unit}) for n in self}
        along = {"time": ("time", self.times, {"units": self.time_unit} if self.time_unit else {})}
        return xarray.Dataset(variables, coords=along)
