"""Draws: what a posterior gives for one observation, with weights where they were corrected."""

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

REPEATS = 0.01  # share of the draws of `Draws.alike` that come twice


@dataclass(frozen=True, repr=False)
class Draws:
    """Weighted posterior draws for one observation.

    Where there are discrete parameters, others may exist in some draws only: NaN stands for those that do not. Moments
    and quantiles are then of the draws in which a parameter exists, and NaN where it exists in none. Those of a
    parameter with labels are of their codes, and say little: `probabilities` is what to ask.

    Args:
        names: Names of the parameters, and then of the derived quantities; D in all.
        units: One unit per name; "" for dimensionless.
        theta: Their values, (n, D).
        log_weight: (n,); all zero for plain draws. Known up to a constant only.
        log_evidence: log p(x), where the weights give it, and its standard error.
        pareto_k: Shape of the weights' tail; below 0.7 importance weights can be relied on.
        derived: The last of the names: quantities that were derived from the parameters (`core.derived`).
        labels: Name -> what it is called for people, where that is not its name.
        categories: Name of each discrete parameter -> its values, and what they are called.
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
        """What a notebook shows."""
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
        """The draws without derived quantities, as simulators and densities take them."""
        if not self.derived:
            return self
        count = len(self.names) - len(self.derived)
        labels = {name: label for name, label in self.labels.items() if name not in self.derived}
        names, units = self.names[:count], self.units[:count]
        return replace(self, names=names, units=units, theta=self.theta[:, :count], derived=(), labels=labels)

    def probabilities(self, name: str) -> Probabilities:
        """How probable each value of a discrete parameter is.

        Raises:
            ValueError: If there is no discrete parameter of that name.
        """
        from sciinf.core.probabilities import probabilities_of

        return probabilities_of(self, name)

    def exists(self, name: str) -> float:
        """With which probability a parameter or derived quantity exists: the weight of the draws in which it does.

        Raises:
            ValueError: If there is none of that name.
        """
        if name not in self.names:
            raise ValueError(f"{name!r} is none of {', '.join(self.names)}")
        if not self.categories:
            return 1.0
        there = self._there[:, self.names.index(name)]
        return 1.0 if bool(there.all()) else float(self.weights @ there.to(torch.float64))

    def given(self, **values: Any) -> Draws:
        """The draws in which discrete parameters have some values, without these and without what does not exist then.

        The evidence is then that of the value, where one parameter is given that always exists.

        Args:
            **values: Discrete parameter -> its label, or the number where it is counted.

        Raises:
            ValueError: If there is no such discrete parameter, it never has the value, or no draw has it.
        """
        return draws_given(self, values)

    def most_probable(self) -> dict[str, str]:
        """The most probable values of all discrete parameters together, by label; {} where there are none.

        What does not exist then is left out. `given(**most_probable())` has continuous parameters alone.
        """
        return most_probable(self)

    def log_evidence_by(self, name: str) -> dict[str, tuple[float, float]]:
        """Logarithm of the evidence p(x | value) of each value of a discrete parameter, and its standard error.

        Raises:
            ValueError: If the draws have no evidence, as draws without weights, the parameter is not discrete, or it
                exists in some draws only.
        """
        return log_evidence_by(self, name)

    def alike(self, n: int | None = None, *, generator: torch.Generator | None = None) -> Draws:
        """Draws that all count alike, for readers that know no weights.

        Plain draws are returned as they are. Weighted ones are resampled, by default so few that hardly any comes
        twice: with k of them, of normalised weights w, the variance of a mean is that of k independent draws plus what
        repeats add (Var = sigma^2 / ESS of weighting and sigma^2 (1/k - 1/ESS) of resampling, while all k w <= 1). So a
        reader who counts rows, or takes them for independent, is not led to believe in more draws than there are.

        Args:
            n: How many; the default is all plain draws, or as many weighted ones as come almost without repeats.
            generator: Source of randomness; a generator of seed 0 when left out, so that the same are drawn again.

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
        """The draws as arrays, all alike.

        Where a parameter does not exist, there is NaN; parameters with labels are arrays of text, or None.

        Args:
            weighted: The draws as they are instead, which count by the exponential of "log_weight".

        Returns:
            "parameters" and "derived": name -> array (n,); "units": name -> unit, "" for dimensionless; "labels": name
            -> label, where there is one; "log_weight": array (n,).
        """
        return containers.dict_of(self if weighted else self.alike())

    def to_dataframe(self, *, weighted: bool = False) -> pandas.DataFrame:
        """The draws as a table of pandas: a row for each draw, a column for each parameter and derived quantity,
        and `log_weight`, which is 0.

        `attrs["units"]` has the units, name -> unit; `attrs["derived"]` the names of derived quantities and
        `attrs["labels"]` name -> label, where there are any. pandas knows no weights, so of weighted draws the table
        has fewer, which all count alike (`alike`).

        Args:
            weighted: The draws as they are instead, which count by the exponential of `log_weight`.

        Raises:
            ImportError: If pandas is not installed.
            ValueError: If a parameter is called `log_weight`.
        """
        return containers.dataframe_of(self if weighted else self.alike())

    def to_xarray(self, *, weighted: bool = False) -> xarray.Dataset:
        """The draws as a dataset of xarray, all alike: a variable (draw,) for each of `names`, and `log_weight`.

        Each has the attribute `units`, a derived one `derived` = 1, one with a label `long_name`. Arviz's layout, with
        chains, data and predictions, is `exports.to_datatree`.

        Args:
            weighted: The draws as they are instead, which count by the exponential of `log_weight`.

        Raises:
            ImportError: If xarray is not installed.
            ValueError: If a parameter is called `log_weight`.
        """
        return containers.dataset_of(self if weighted else self.alike())

    @property
    def weighted(self) -> bool:
        """Whether the weights differ."""
        return len(self) > 0 and bool((self.log_weight != self.log_weight[0]).any())

    @property
    def weights(self) -> Tensor:
        """Normalised weights, float64, (n,), summing to one."""
        return torch.softmax(self.log_weight.to(torch.float64), dim=0)

    @property
    def ess(self) -> float:
        """Effective sample size of the weights, (sum w)^2 / sum w^2 (Kish)."""
        return float(1.0 / (self.weights**2).sum())

    @property
    def _there(self) -> Tensor:
        """Where something exists, (n, D), where there are discrete parameters."""
        return ~self.theta.isnan()

    def mean(self) -> Tensor:
        """Posterior mean, float64, (D,)."""
        theta = self.theta.to(torch.float64)
        if not self.categories:
            return self.weights @ theta
        weights = self._own_weights()
        return torch.where(weights.sum(0) > 0, (weights * theta.nan_to_num(0.0)).sum(0), torch.nan)

    def sd(self) -> Tensor:
        """Posterior standard deviation, float64, (D,)."""
        centred = self.theta.to(torch.float64) - self.mean()
        if not self.categories:
            return (self.weights @ centred**2).sqrt()
        weights = self._own_weights()
        return torch.where(weights.sum(0) > 0, (weights * centred.nan_to_num(0.0) ** 2).sum(0).sqrt(), torch.nan)

    def _own_weights(self) -> Tensor:
        """Weights of the draws in which each parameter exists, (n, D), summing to one; 0 where there are none."""
        weights = self.weights[:, None] * self._there
        return weights / weights.sum(0).clamp_min(torch.finfo(torch.float64).tiny)

    def quantile(self, q: float | Tensor) -> Tensor:
        """Weighted marginal quantiles, float64, (D,); q may be one for each parameter, (D,)."""
        return self.quantiles([q])[0]

    def quantiles(self, q: Sequence[float | Tensor]) -> Tensor:
        """Several of them, each as `quantile` gives it, (len(q), D): draws are put in order once."""
        values, order = self.theta.to(torch.float64).sort(dim=0)  # NaN comes last, with no weight
        weights = self._own_weights().gather(0, order) if self.categories else self.weights[order]
        middle = (weights.cumsum(dim=0) - 0.5 * weights).T.contiguous()  # grows along each row
        count = values.shape[1]
        at = torch.stack([torch.as_tensor(each, dtype=torch.float64).expand(count) for each in q], dim=1).contiguous()
        index = torch.searchsorted(middle, at).clamp(max=len(self) - 1)
        if self.categories:
            index = torch.minimum(index, self._there.sum(0)[:, None].clamp_min(1) - 1)
        return values.gather(0, index.T)

    def resample(self, n: int, *, generator: torch.Generator, distinct: bool = False) -> Tensor:
        """n unweighted draws (n, D), by systematic resampling; in random order.

        Args:
            n: How many.
            generator: Source of randomness.
            distinct: Keep each draw at most once; fewer than n may be returned.
        """
        if float(self.log_weight.max() - self.log_weight.min()) == 0.0 and n <= len(self):
            return self.theta[torch.randperm(len(self), generator=generator)[:n]]
        edges = self.weights.cumsum(0)
        points = (torch.arange(n, dtype=torch.float64) + torch.rand((), generator=generator, dtype=torch.float64)) / n
        index = torch.searchsorted(edges, points * edges[-1]).clamp(max=len(self) - 1)
        index = index.unique() if distinct else index
        return self.theta[index[torch.randperm(len(index), generator=generator)]]


def almost_distinct(draws: Draws) -> int:
    """The largest k of weighted draws of which repeats are expected to be one in a hundred at most.

    The share of repeats is sum (w - 1/k)_+, the maximum over j of c_j - j/k, where c_j is the sum of the j largest
    weights. It is at most s where k <= j / (c_j - s) for each j of c_j > s. k is never above the effective sample size.
    """
    heaviest = draws.weights.sort(descending=True).values.cumsum(0)
    count = torch.arange(1, len(heaviest) + 1, device=heaviest.device)
    over = heaviest > REPEATS
    return max(1, int(min(float((count[over] / (heaviest[over] - REPEATS)).min()), draws.ess)))
