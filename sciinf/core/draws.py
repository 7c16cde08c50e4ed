"""Draws of a posterior for one observation, weighted if they were corrected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sciinf.core import containers, tables
from sciinf.core.categories import Categories
from sciinf.core.given import draws_given, log_evidence_by, most_probable

if TYPE_CHECKING:
    import pandas
    import xarray

    from sciinf.core.probabilities import Probabilities

REPEATS = 0.01  # This fraction of the draws of `Draws.alike` may be repeats of other draws.


@dataclass(frozen=True, repr=False)
class Draws:
    """Weighted posterior draws for one observation.

    If some parameters are discrete, others may exist in some draws only, and are NaN in all other draws.
    Moments and quantiles of a parameter are computed from the draws in which the parameter exists. They are
    NaN if it exists in none. Moments of a parameter with labels are those of the labels' codes, and have no
    meaning: use `probabilities`.

    Args:
        names: Names of the parameters, followed by those of the derived quantities; D names in all.
        units: One unit per name; "" for dimensionless.
        theta: Values of the parameters and derived quantities, (n, D).
        log_weight: Logarithm of the weight of each draw, up to an unknown constant, (n,). All zero for plain
            draws.
        log_evidence: log p(x), if it follows from the weights.
        log_evidence_error: Standard error of `log_evidence`.
        pareto_k: Shape of the tail of the weights. Importance weights are reliable below 0.7.
        derived: The last of the names: quantities derived from the parameters (`core.derived`).
        labels: Name -> label shown to people, for names whose label is another text than the name.
        categories: Name of each discrete parameter -> its values and their labels.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    theta: Tensor
    log_weight: Tensor
    log_evidence: float | None = None
    log_evidence_error: float | None = None
    pareto_k: float | None = None
    derived: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    categories: Mapping[str, Categories] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.theta)

    def __repr__(self) -> str:
        return f"{len(self):,} draws of ({self._named()}), effective sample size {self.ess:,.0f}"

    def _repr_html_(self) -> str:
        """The HTML table that a notebook shows."""
        rows = [["parameter", "unit", "median", "mean", "sd"]]
        figures = zip(*(found.tolist() for found in (self.quantile(0.5), self.mean(), self.sd())), strict=True)
        for name, unit, (median, mean, sd) in zip(self.names, self.units, figures, strict=True):
            said = [tables.digits(value, sd) for value in (median, mean, sd)]
            said = ["-"] * 3 if name in self.categories or not self.exists(name) > 0 else said
            rows.append([tables.marked(name, name in self.derived), unit or "-", *said])
        return tables.html(repr(self), rows, [(name, self.probabilities(name).words(name)) for name in self.categories])

    def _named(self) -> str:
        shown = [tables.marked(name, name in self.derived) for name in self.names]
        return tables.named(dict(zip(shown, self.units, strict=True)))

    def of_parameters(self) -> Draws:
        """The draws without derived quantities, as simulators and densities expect them."""
        if not self.derived:
            return self
        count = len(self.names) - len(self.derived)
        labels = {name: label for name, label in self.labels.items() if name not in self.derived}
        names, units = self.names[:count], self.units[:count]
        return replace(self, names=names, units=units, theta=self.theta[:, :count], derived=(), labels=labels)

    def probabilities(self, name: str) -> Probabilities:
        """The probabilities of the values of a discrete parameter.

        Raises:
            ValueError: If there is no discrete parameter of that name.
        """
        from sciinf.core.probabilities import probabilities_of

        return probabilities_of(self, name)

    def exists(self, name: str) -> float:
        """The probability that a parameter or derived quantity exists: the weight of the draws that have it.

        Raises:
            ValueError: If no parameter or derived quantity has that name.
        """
        if name not in self.names:
            raise ValueError(f"{name!r} is none of the names {', '.join(self.names)}")
        if not self.categories:
            return 1.0
        there = self._there[:, self.names.index(name)]
        return 1.0 if bool(there.all()) else float(self.weights @ there.to(torch.float64))

    def given(self, **values: Any) -> Draws:
        """The draws in which discrete parameters have the given values.

        The result has neither these discrete parameters nor any parameter that does not exist in these draws.
        Its evidence is that of the value, p(x | value), if a single parameter is given, if this parameter
        always exists, and if the draws have an evidence. Otherwise the result has no evidence.

        Args:
            **values: Discrete parameter -> its label, or its number if the parameter is counted.

        Raises:
            ValueError: If there is no such discrete parameter, if it never has the value, or if no draw has
                the value.
        """
        return draws_given(self, values)

    def most_probable(self) -> dict[str, str]:
        """The most probable combination of values of all discrete parameters, by label; {} if there are none.

        Discrete parameters that do not exist in this combination are left out. The draws of
        `given(**most_probable())` have continuous parameters only.
        """
        return most_probable(self)

    def log_evidence_by(self, name: str) -> dict[str, tuple[float, float]]:
        """The log evidence, log p(x | value), of each value of a discrete parameter, and its standard error.

        Returns:
            Label of the value -> log evidence, standard error.

        Raises:
            ValueError: If the draws have no evidence (draws without weights have none), if the parameter is
                not discrete, or if it exists in some draws only.
        """
        return log_evidence_by(self, name)

    def alike(self, n: int | None = None, *, generator: torch.Generator | None = None) -> Draws:
        """Draws of equal weight, for programs and people that do not use weights.

        Plain draws are returned as they are. Weighted draws are resampled, by default to a number so small
        that hardly any draw is repeated. Let k draws be resampled with normalised weights w. The variance of
        a mean is then that of k independent draws, plus a term due to repeats. (Weighting gives Var = sigma^2
        / ESS, and resampling adds sigma^2 (1/k - 1/ESS), while all k w <= 1.) So the number of rows does not
        overstate the number of independent draws.

        Args:
            n: Number of draws. The default is all draws if they are plain, or the largest number of weighted
                draws that has almost no repeats.
            generator: Source of randomness. The default is a generator of seed 0, so that repeated calls give
                the same draws.

        Raises:
            ValueError: If n is not positive.
        """
        if n is not None and n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if n is None and not self.weighted:
            return self
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        theta = self.resample(almost_distinct(self) if n is None else n, generator=generator)
        return replace(self, theta=theta, log_weight=self.log_weight.new_zeros(len(theta)))

    def to_dict(self, *, weighted: bool = False) -> dict[str, Any]:
        """The draws as arrays, with equal weights (`alike`).

        A value is NaN if the parameter does not exist in the draw. A parameter with labels is an array of
        text, with None if it does not exist.

        Args:
            weighted: Whether to return the draws with their own weights, which are the exponential of
                "log_weight".

        Returns:
            "parameters" and "derived": name -> array (n,). "units": name -> unit, "" for dimensionless.
            "labels": name -> label, for names that have one. "log_weight": array (n,).
        """
        return containers.dict_of(self if weighted else self.alike())

    def to_dataframe(self, *, weighted: bool = False) -> pandas.DataFrame:
        """The draws as a table of pandas, with a row for each draw.

        There is a column for each parameter and derived quantity, and the column `log_weight`.
        `attrs["units"]` maps each name to its unit. If there are derived quantities, `attrs["derived"]` lists
        their names. If there are labels, `attrs["labels"]` maps names to labels. pandas has no weights, so
        weighted draws are resampled to fewer draws of equal weight (`alike`), and `log_weight` is 0.

        Args:
            weighted: Whether to return the draws with their own weights, which are the exponential of
                `log_weight`.

        Raises:
            ImportError: If pandas is not installed.
            ValueError: If a parameter is called `log_weight`.
        """
        return containers.dataframe_of(self if weighted else self.alike())

    def to_xarray(self, *, weighted: bool = False) -> xarray.Dataset:
        """The draws as a dataset of xarray, with equal weights (`alike`).

        There is a variable (draw,) for each of `names`, and the variable `log_weight`. A variable of `names`
        has the attribute `units`; if it is derived, also `derived` = 1; if it has a label, also `long_name`.
        For the layout of ArviZ, with chains, data and predictions, use `exports.to_datatree`.

        Args:
            weighted: Whether to return the draws with their own weights, which are the exponential of
                `log_weight`.

        Raises:
            ImportError: If xarray is not installed.
            ValueError: If a parameter is called `log_weight`.
        """
        return containers.dataset_of(self if weighted else self.alike())

    @property
    def weighted(self) -> bool:
        """Whether the weights of the draws differ."""
        return len(self) > 0 and bool((self.log_weight != self.log_weight[0]).any())

    @property
    def weights(self) -> Tensor:
        """The normalised weights, which sum to one, float64, (n,)."""
        return torch.softmax(self.log_weight.to(torch.float64), dim=0)

    @property
    def ess(self) -> float:
        """The effective sample size of the weights, (sum w)^2 / sum w^2 (Kish)."""
        return float(1.0 / (self.weights**2).sum())

    @property
    def _there(self) -> Tensor:
        """Whether each parameter and derived quantity exists in each draw, (n, D), if some are discrete."""
        return ~self.theta.isnan()

    def mean(self) -> Tensor:
        """The posterior mean, float64, (D,)."""
        theta = self.theta.to(torch.float64)
        if not self.categories:
            return self.weights @ theta
        weights = self._own_weights()
        return torch.where(weights.sum(0) > 0, (weights * theta.nan_to_num(0.0)).sum(0), torch.nan)

    def sd(self) -> Tensor:
        """The posterior standard deviation, float64, (D,)."""
        centred = self.theta.to(torch.float64) - self.mean()
        if not self.categories:
            return (self.weights @ centred**2).sqrt()
        weights = self._own_weights()
        return torch.where(weights.sum(0) > 0, (weights * centred.nan_to_num(0.0) ** 2).sum(0).sqrt(), torch.nan)

    def _own_weights(self) -> Tensor:
        """The weights of the draws in which each parameter exists, with sum one for each parameter, (n, D).

        The weight is 0 for a draw in which the parameter does not exist.
        """
        weights = self.weights[:, None] * self._there
        return weights / weights.sum(0).clamp_min(torch.finfo(torch.float64).tiny)

    def quantile(self, q: float | Tensor) -> Tensor:
        """The weighted marginal quantiles of level q, float64, (D,).

        q is a number, or a tensor with a level for each parameter, (D,).
        """
        return self.quantiles([q])[0]

    def quantiles(self, q: Sequence[float | Tensor]) -> Tensor:
        """The quantiles of several levels, as `quantile` gives them, (len(q), D).

        The draws are sorted only once.
        """
        values, order = self.theta.to(torch.float64).sort(dim=0)  # NaN comes last, and its weight is 0.
        weights = self._own_weights().gather(0, order) if self.categories else self.weights[order]
        # `searchsorted` needs rows that increase.
        middle = (weights.cumsum(dim=0) - 0.5 * weights).T.contiguous()
        count = values.shape[1]
        at = torch.stack([torch.as_tensor(each, dtype=torch.float64).expand(count) for each in q], dim=1).contiguous()
        index = torch.searchsorted(middle, at).clamp(max=len(self) - 1)
        if self.categories:
            index = torch.minimum(index, self._there.sum(0)[:, None].clamp_min(1) - 1)
        return values.gather(0, index.T)

    def resample(self, n: int, *, generator: torch.Generator, distinct: bool = False) -> Tensor:
        """n unweighted draws, by systematic resampling, in random order, (n, D).

        Args:
            n: Number of draws.
            generator: Source of randomness.
            distinct: Whether each draw is kept at most once. Fewer than n draws may then be returned.
        """
        if float(self.log_weight.max() - self.log_weight.min()) == 0.0 and n <= len(self):
            return self.theta[torch.randperm(len(self), generator=generator)[:n]]
        edges = self.weights.cumsum(0)
        points = (torch.arange(n, dtype=torch.float64) + torch.rand((), generator=generator, dtype=torch.float64)) / n
        index = torch.searchsorted(edges, points * edges[-1]).clamp(max=len(self) - 1)
        index = index.unique() if distinct else index
        return self.theta[index[torch.randperm(len(index), generator=generator)]]


def almost_distinct(draws: Draws) -> int:
    """The largest number k of weighted draws among which at most one in a hundred is expected to be a repeat.

    The expected fraction of repeats is sum (w - 1/k)_+. This is the maximum over j of c_j - j/k, where c_j is
    the sum of the j largest weights. The fraction is at most s if k <= j / (c_j - s) for each j with c_j > s.
    k is never above the effective sample size.
    """
    heaviest = draws.weights.sort(descending=True).values.cumsum(0)
    count = torch.arange(1, len(heaviest) + 1, device=heaviest.device)
    over = heaviest > REPEATS
    return max(1, int(min(float((count[over] / (heaviest[over] - REPEATS)).min()), draws.ess)))
