r"""The likelihood one number at a time: each number given the parameters and the few numbers before it.

With y_1..y_E all numbers of x, standardised, and z the parameters, the model is

    p(x | theta) = prod_e p(y_e | z, y_{e-1}, ..., y_{e-L}),
    r_e = y_e - m_e(z),     v_e = (r_e - sum_{l <= L} c_el(z) r_{e-l}) / s_e(z),
    v_e ~ sum_k w_ek(z) N(mu_ek(z), sd_ek(z)^2).

A network of z alone gives all of c, log s, w, mu and log sd. The network is the same for all numbers. It has R + 1
versions, which number e mixes by its own weights. Number e also has its own quadratic in z for m_e, and its own
constants for log s_e and c_el:

    o_e(z) = b_e + g_0(z) + sum_{r <= R} a_{er} g_r(z),     g(z) = B (u(z), 1, z, z z'),     u a network.

With R = 0 numbers differ by those terms alone. This is enough for a regression with one noise distribution, and is
learned from fewer rows. A number's own terms are multiplied by the share of them that the start found not to be chance.
So the numbers of a stationary series, or items, share one distribution, and do not learn it each separately. But the
first L numbers of a sequence have fewer than L numbers before them, and follow another distribution than the others. So
each of them has one more version of its own, linear in (1, z, z z'), from 500 rows on (fewer rows would be learnt by
heart). An observable is one sequence. If its last axis has more than 8 numbers, each row along this axis is a sequence,
and all these rows share the versions of their first numbers.

A posterior is a function of all E numbers, and a network for it has to learn how each of them counts. Here each number
is a regression on a few parameters, and the rows teach it E times over. Near one answer this needs a quarter of the
rows. The price is the assumption: given theta and the L numbers before it, a number depends on no earlier ones, and
depends on those L by a linear term. L is at most 8, the least beyond which least squares find no dependence in the
rows.

**Whole numbers** have one of two distributions, for each observable the one whose start is likelier:

- intervals: v_e is a mixture of logistic distributions, and the model is the probability of the interval from a half
  below a number to a half above, open at that place's smallest and largest value;
- counts n, of at least 0: y_e = log(n + 1/2), and n is a mixture of negative binomial distributions of means
  exp(m_e + s_e mu_ek) and variances mean + (s_e sd_ek mean)^2, m_e with the term of the numbers before. If parameters
  multiply a mean, it is then a line in their logarithms, and small where counts are small.

Values are not taken for whole numbers if their dtype has no fractions at that size (float32 beyond 2^24). A number that
never varied gives no information, and is left out.

**Limits.** If a number is not whole, and has its smallest value in several rows, this value is a lower limit of the
readings. There the model is the probability of that value or any below it, of the same normal mixture. The largest
value is treated alike. If nearly all rows are at a limit, they do not determine s. So such a number has a thousandth of
N(0, 2^2) added to its mixture.

Shapes: theta, z (batch, D); y (batch, E).

References:
    | Sequential neural likelihood: fast likelihood-free inference with autoregressive flows (Papamakarios, Sterratt &
      Murray, 2019), https://arxiv.org/abs/1805.07226
    | PixelCNN++: improving the PixelCNN with discretized logistic mixture likelihood and other modifications (Salimans,
      Karpathy, Chen & Kingma, 2017), https://arxiv.org/abs/1701.05517
    | Negative Binomial Regression (Hilbe, 2011), chapter 8
    | Estimation of relationships for limited dependent variables (Tobin, 1958), https://doi.org/10.2307/1907382
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad, silu, softplus
from torch.special import log_ndtr

from sciinf.core import Batch, Observable, Potential, Prior, X
from sciinf.core.checks import check_whole
from sciinf.core.component import called_without
from sciinf.core.prior import global_seed
from sciinf.networks.summaries.columns import row_by_row
from sciinf.training.estimators._elements_start import quadratic, start_of
from sciinf.training.estimators._numbers import count, flat, flat_with_slopes
from sciinf.training.estimators._standardised import Standardised, check_rows, in_chunks

MOST = 500  # Largest number of numbers in an observation.
VERSIONS, PARTS, LAGS, _WIDTH = 6, 5, 8, 64
_OFTEN = 0.02  # A number without atoms takes one value in at most this share of the rows.
# Rows that may share one value by chance, beyond those of the values around it, and the number of values around it.
_FEW, _AROUND = 3, 10
_OWN_LAW = 500  # The first numbers' own distribution needs at least this many rows.
_ROWS = 65_536  # The start uses at most this many rows.
_COMPARED = 4_096  # Two starts are compared on this many rows.
_LOGISTIC_SD = math.pi / math.sqrt(3)
_WIDE, _WIDE_SHARE = 2.0, 1e-3  # Sd and share of the wide normal distribution for numbers with a limit.
_FAR = 100.0  # Gradients of log_ndtr are wrong beyond this many sds.


class Elements(Standardised):
    """The likelihood p(x | theta), one number after another. `posteriors.mcmc` samples its posterior.

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator: complete data of at most 500 numbers, none of them bool.
        versions: Number R of versions of the network that each number mixes.
        together: Whether columns of one table are taken row by row. Otherwise one observable follows another.
        parts: Number K of distributions that are mixed. Three do not follow the tail of the logarithm of a Weibull
            distribution, five do.
        seed: Seeds the initial weights.

    Raises:
        ValueError: If an observable has a mask or is bool, an observation has more than 500 numbers, or the seed or
            the versions are no int of at least 0.

    Examples:
        >>> from sciinf import Normal
        >>> likelihood = Elements(Prior(mu=Normal(0.0, 1.0)), {"x": Observable((3,))})
        >>> likelihood.condition({"x": torch.zeros(2, 3)}).log_likelihood(torch.zeros(5, 2, 1)).shape
        torch.Size([5, 2])
    """

    normalised = False
    earlier: ClassVar[Mapping[str, Any]] = {"together": False, "parts": 3}
    unwritten: ClassVar[frozenset[str]] = frozenset({"parts"})
    order: Tensor
    whole: Tensor
    counts: Tensor
    low: Tensor
    high: Tensor
    limits: Tensor
    lags: Tensor
    own: Tensor
    own_middle: Tensor

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        versions: int = VERSIONS,
        together: bool = True,
        parts: int = PARTS,
        seed: int = 0,
    ) -> None:
        check_whole("versions", versions, 0)
        check_whole("parts", parts, 1)
        numbers = count(observables, MOST, "Elements")
        super().__init__(prior, observables, seed)
        order = row_by_row(self.observables) if together else torch.arange(numbers)
        if torch.equal(row_by_row(self.observables), torch.arange(numbers)):
            called_without(self, "together")
        self.register_buffer("order", order, persistent=False)
        size = prior.bijection.size
        square = size + size * (size + 1) // 2
        self.numbers, self.parts, self.outputs = numbers, parts, 2 + LAGS + 3 * parts
        with global_seed(torch.Generator().manual_seed(seed)):
            self.first, self.second = nn.Linear(size, _WIDTH), nn.Linear(_WIDTH, _WIDTH)
            self.share = nn.Parameter(0.5 * torch.randn(numbers, versions))
        self.versions = nn.Parameter(torch.zeros(_WIDTH + 1 + square, (versions + 1) * self.outputs))
        self.first_ones = nn.Parameter(torch.zeros(len(self.observables), LAGS, 1 + square, self.outputs))
        self.middle = nn.Parameter(torch.zeros(square, numbers))
        self.offset = nn.Parameter(torch.zeros(numbers, 2 + LAGS))
        self.register_buffer("whole", torch.zeros(numbers, dtype=torch.bool))
        self.register_buffer("counts", torch.zeros(numbers, dtype=torch.bool))
        self.register_buffer("low", torch.zeros(numbers, dtype=torch.float64))
        self.register_buffer("high", torch.zeros(numbers, dtype=torch.float64))
        self.register_buffer("limits", torch.zeros(2, numbers, dtype=torch.bool))  # Whether low and high are limits.
        self.register_buffer("lags", torch.zeros(LAGS))
        self.register_buffer("own", torch.zeros(numbers, 2 + LAGS))  # Shares that multiply each number's own terms.
        self.register_buffer("own_middle", torch.zeros(square, numbers))
        self._told: tuple[int, bool, bool, bool] | None = None
        self.register_load_state_dict_pre_hook(_from_before)
        self.register_load_state_dict_post_hook(lambda module, _: module._forget())

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        """Set the standardisation, and start from least squares over the first rows."""
        self.standardise_both(batches)
        rows, found = 0, list[Batch]()
        for batch in batches():
            found.append(batch)
            rows += len(batch)
            if rows >= _ROWS:
                break
        x = {name: torch.cat([batch.x[name] for batch in found]) for name in self.observables}
        z, plain = torch.cat([self.to_z(batch.theta) for batch in found]), self._plain(x)
        for name, part in self._places().items():
            self.whole[part] = _is_whole(plain[:, part], self.observables[name].dtype)
        self.low.copy_(plain.min(0).values)
        self.high.copy_(plain.max(0).values)
        ends = torch.stack([(plain <= self.low).sum(0), (plain >= self.high).sum(0)])
        self.limits.copy_((ends > _FEW) & ~self.whole & (self.low < self.high))
        self._choose(z, x)

    @torch.no_grad()
    def _choose(self, z: Tensor, x: X) -> None:
        """Start with whole numbers as counts where that start is likelier than a start with intervals."""
        able = self.whole & (self.low >= 0) & (self.high > 1)
        some = {name: value[:_COMPARED] for name, value in x.items()}
        found = list[Tensor]()
        for counts in (able, torch.zeros_like(able)) if able.any() else ():
            self._begin(z, x, counts)
            found.append(self._log_probs(z[:_COMPARED], self._flat(some), self._edges(some)).sum(0))
        chosen = torch.zeros_like(able)
        for part in self._places().values() if found else ():
            chosen[part] = able[part] & (found[0][part].sum() > found[1][part].sum())
        if not found or chosen.any():
            self._begin(z, x, chosen)

    def _begin(self, z: Tensor, x: X, counts: Tensor) -> None:
        """Set middles, log sds and the dependence on the numbers before to the results of least squares."""
        self.counts.copy_(counts)
        self._forget()
        start, size, parts = start_of(z, self._flat(x), LAGS, counts), self.prior.bijection.size, 2 + LAGS
        self.lags.copy_((torch.arange(LAGS) < start.lags).float())
        self.first_ones.requires_grad_(start.lags > 0 and len(z) >= _OWN_LAW)
        self.middle.copy_(start.middle.own[1:])
        self.own_middle.copy_(start.middle.share[1:])
        self.offset.copy_(torch.cat([start.middle.own[:1], start.log_sd.own, start.before.own]).T)
        self.own.copy_(torch.cat([start.middle.share[:1], start.log_sd.share, start.before.share]).T)
        common = self.versions.view(_WIDTH + 1 + len(self.middle), -1, self.outputs)[_WIDTH:, 0]
        common[:, 0] = start.middle.common
        common[0, 1], common[0, 2:parts] = start.log_sd.common[0], start.before.common
        common[1 : 1 + size, 1] = start.log_sd_slopes
        middles = torch.linspace(-0.5, 0.5, self.parts) if self.parts > 1 else torch.zeros(1)
        common[0, parts + self.parts : parts + 2 * self.parts] = middles
        self._forget()

    def _forget(self) -> None:
        self._told = None

    def _tell(self) -> tuple[int, bool, bool, bool]:
        """Number of lags, and whether any number is whole, is a count, or has a limit.

        The result is cached, because a GPU waits at each reading.
        """
        if self._told is None:
            whole, counts, limits = (bool(value.any()) for value in (self.whole, self.counts, self.limits))
            self._told = int(self.lags.sum()), whole, counts, limits
        return self._told

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        """y, which leaves out nothing of the data."""
        return self._flat(x)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        edges = self._edges(batch.x)
        return -self._log_probs(self.to_z(batch.theta), self._flat(batch.x), edges).sum(-1)

    def condition(self, x: X) -> Potential:
        device = self.z_mean.device
        values = {name: x[name].to(device) for name in self.observables}
        _, log_slopes = flat_with_slopes(self.standardise_x, {n: _floating(v) for n, v in values.items()})
        log_slopes = log_slopes[:, self.order]
        edges, no_density = self._edges(values), self.whole | ~(self.low < self.high)
        if edges is not None:
            no_density = no_density | edges[2:].bool().any(0)
        return _Potential(self, self._flat(values), edges, torch.where(no_density, 0.0, log_slopes).sum(-1))

    def _log_probs(self, z: Tensor, y: Tensor, edges: Tensor | None) -> Float[Tensor, "batch number"]:
        """log q(y_e | z, y_{<e}) of standardised numbers, or the probability of whole ones; edges are (4, batch, E)."""
        square = quadratic(z)
        u = silu(self.first(z))
        u = u + silu(self.second(u))
        given = torch.cat([u, torch.ones_like(u[:, :1]), square], 1) @ self.versions
        given = given.view(len(z), -1, self.outputs)
        out = given[:, :1] + self.share @ given[:, 1:] + pad(self.offset * self.own, (0, 3 * self.parts))
        out = self._with_first_ones(out, square)
        middle = out[..., 0] + square @ (self.own_middle * self.middle)
        left = torch.where(self.low < self.high, y - middle, 0.0)
        for lag in range(1, self._tell()[0] + 1):
            before = pad(left, (lag, 0))[:, : self.numbers]
            middle = middle + out[..., 1 + lag] * before
        log_sd, parts = out[..., 1].clamp(-8.0, 8.0), out[..., 2 + LAGS :]
        log_w, mu, log_size = parts.view(*parts.shape[:-1], 3, self.parts).unbind(-2)
        logistic = (self.whole & ~self.counts)[:, None]
        log_size = torch.where(logistic, log_size - math.log(_LOGISTIC_SD), log_size).clamp(-6.0, 4.0)

        def scaled(value: Tensor) -> Tensor:
            """Numbers (batch, E) on the scale of each part."""
            return (((value - middle) * (-log_sd).exp())[..., None] - mu) * (-log_size).exp()

        normal = -0.5 * scaled(y).square() - log_size - 0.5 * math.log(2 * math.pi) - log_sd[..., None]
        if edges is not None:
            below, width, lowest, highest = (edge[..., None] for edge in edges)
            wide = width * (-log_sd[..., None] - log_size).exp()
            interval = between(scaled(below[..., 0]), wide, lowest.bool(), highest.bool())
            if self._tell()[3]:
                normal = torch.where((lowest + highest).bool(), beyond(scaled(y), lowest), normal)
            normal = torch.where(self.whole[:, None], interval, normal)
        if self._tell()[2]:
            log_mean, log_spread = middle[..., None] + log_sd.exp()[..., None] * mu, log_sd[..., None] + log_size
            normal = torch.where(self.counts[:, None], counted(y[..., None], log_mean, log_spread), normal)
        found = (log_w.log_softmax(-1) + normal).logsumexp(-1)
        if edges is not None and self._tell()[3]:
            _, _, lowest, highest = edges
            wide = -0.5 * (y / _WIDE).square() - math.log(_WIDE) - 0.5 * math.log(2 * math.pi)
            wide = torch.where((lowest + highest).bool(), beyond(y / _WIDE, lowest), wide) + math.log(_WIDE_SHARE)
            found = torch.where(self.limits.any(0), torch.logaddexp(found + math.log1p(-_WIDE_SHARE), wide), found)
        return torch.where(self.low < self.high, found, 0.0)

    def _with_first_ones(self, out: Tensor, square: Tensor) -> Tensor:
        """The network's output (batch, E, outputs), plus the own terms of the first L numbers of each sequence."""
        lags = self._tell()[0]
        if not lags:
            return out
        features, parts = torch.cat([torch.ones_like(square[:, :1]), square], 1), list[Tensor]()
        for spec, own in zip(self.observables.values(), self.first_ones, strict=True):
            shape = spec.shape if spec.shape and spec.shape[-1] > LAGS else (math.prod(spec.shape),)
            count = min(lags, shape[-1])
            more = torch.einsum("bf,lfo->blo", features, own[:count])
            parts.append(pad(more, (0, 0, 0, shape[-1] - count)).repeat(1, math.prod(shape[:-1]), 1))
        return out + torch.cat(parts, 1)[:, self.order]

    def _edges(self, x: X) -> Float[Tensor, "4 batch number"] | None:
        """For the interval about each number, standardised: its lower end, its width, and whether either end is open.

        None if no number is whole or has a limit. Numbers with a density have open ends only at a limit. The width is
        not a difference of float32 numbers, which would be 0 for large counts.
        """
        _, whole, _, limits = self._tell()
        if not (whole or limits):
            return None
        plain, values = self._plain(x), {name: x[name].double() for name in self.observables}
        below, above = (
            flat(self.standardise_x, {name: value + half for name, value in values.items()}, torch.float64)
            for half in (-0.5, 0.5)
        )
        below, above = below[:, self.order], above[:, self.order]
        open_low, open_high = self.whole | self.limits
        ends = (plain <= self.low) & open_low, (plain >= self.high) & open_high
        return torch.stack([below, above - below, *ends]).float()

    def _flat(self, x: X) -> Float[Tensor, "batch number"]:
        y = flat(self.standardise_x, {name: _floating(x[name]) for name in self.observables})[:, self.order]
        if not self._tell()[2]:
            return y
        return torch.where(self.counts, (self._plain(x).clamp_min(0.0) + 0.5).log().to(y.dtype), y)

    def _plain(self, x: X) -> Float[Tensor, "batch number"]:
        plain = torch.cat([x[name].reshape(len(x[name]), -1).double() for name in self.observables], dim=1)
        return plain[:, self.order]

    def _places(self) -> dict[str, Tensor]:
        """Indices of the numbers that belong to each observable."""
        places, start = {}, 0
        for name, spec in self.observables.items():
            stop = start + math.prod(spec.shape)
            places[name] = ((self.order >= start) & (self.order < stop)).nonzero()[:, 0]
            start = stop
        return places


class _Potential(Potential):
    """The likelihood of observations y (batch, E), with the log gradients of the numbers that are not whole."""

    def __init__(self, estimator: Elements, y: Tensor, edges: Tensor | None, log_slope: Tensor) -> None:
        self.estimator, self.y, self.edges, self.log_slope = estimator, y, edges, log_slope

    def log_likelihood(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """log p(x | theta) in the data's own units, float64; for whole numbers, the log of their probability."""
        model, rows = self.estimator, len(self.y)
        check_rows(theta, rows, model.prior)
        z = model.to_z(theta.to(self.y.device)).reshape(-1, rows, model.prior.bijection.size)
        parts = [self.y.new_empty(0, rows).double()]
        for start, stop in in_chunks(len(z), max(1, rows), z.device):
            some = z[start:stop].flatten(0, 1)
            y = self.y.repeat(stop - start, 1)
            edges = None if self.edges is None else self.edges.repeat(1, stop - start, 1)
            parts.append(model._log_probs(some, y, edges).sum(-1).double().view(-1, rows))
        return torch.cat(parts).reshape(theta.shape[:-1]) + self.log_slope


def suits(observables: Mapping[str, Observable], most: int = MOST) -> bool:
    """Whether `Elements` can learn data of such observables, of at most `most` numbers."""
    try:
        count(observables, most, "Elements")
    except ValueError:
        return False
    return True


def has_atoms(x: X, observables: Mapping[str, Observable], observed: X) -> bool:
    """Whether some continuous number of the data has an atom: one value with positive probability.

    Atoms arise if data were rounded, or if they sometimes equal a fixed value. A fitted density grows without
    bound at an atom, and says little about the parameters. Two kinds of values count as atoms:

    * A value that more than a fiftieth of the rows share.
    * The observed value, if many more rows share it than share each of the ten values nearest to it. With n
      the mean number of rows of these ten values, more than n + 5 sqrt(n) + 3 rows must share the observed
      value.

    The second rule finds rare atoms. Data on a fine grid, such as that of single precision, have none by this
    rule, because neighbouring values are as frequent. The smallest and the largest value are no atoms:
    `Elements` treats them as limits. Observables whose simulated values are all whole numbers are not
    checked.

    Args:
        x: Data of many rows, name -> (batch, *event).
        observables: Specifications of the data.
        observed: The observation, name -> (1, *event).
    """
    for name, spec in observables.items():
        ordered = x[name].reshape(len(x[name]), -1).double().sort(dim=0).values
        apart, own = max(1, int(_OFTEN * len(ordered))), observed[name].flatten().to(ordered)
        inside = (ordered > ordered[0]) & (ordered < ordered[-1])
        again = ((ordered[apart:] == ordered[:-apart]) & inside[apart:]).any(0)
        for k in ((ordered == own).sum(0) > _FEW).nonzero().flatten().tolist():
            again[k] |= bool(ordered[0, k] < own[k] < ordered[-1, k]) and _stands_out(ordered[:, k], float(own[k]))
        if again.any() and not _is_whole(ordered, spec.dtype):
            return True
    return False


def _stands_out(values: Float[Tensor, " n"], value: float) -> bool:
    """Whether more of the values equal one of them than chance could explain, given the values around it."""
    found, counts = values.unique(return_counts=True)
    own, *others = counts[(found - value).abs().argsort()][: 1 + _AROUND].tolist()
    usual = sum(others) / max(1, len(others))
    return bool(own > usual + 5 * math.sqrt(usual) + _FEW)


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Elements:
    """Element-wise likelihood estimator with its default settings."""
    return Elements(prior, observables, seed=seed)


def _from_before(module: Elements, weights: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Give zeros to weights from versions without limits and without own terms of the first numbers."""
    for name in ("limits", "first_ones"):
        weights.setdefault(f"{prefix}{name}", torch.zeros_like(getattr(module, name)))


def _is_whole(values: Tensor, dtype: str) -> Tensor:
    """Whether all values are whole numbers, of a size at which their dtype has fractions."""
    largest = 2.0**24 if dtype == "float32" else 2.0**53
    return ((values == values.round()) & (values.abs() <= largest)).all()


def _floating(value: Tensor) -> Tensor:
    return value if value.is_floating_point() else value.double()


def between(below: Tensor, width: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """log of the logistic distribution's probability of an interval, which may be open at either end."""
    low, width = below.clamp(-1e4, 1e4), width.clamp(1e-30, 2e4)
    # This form of log(e^w - 1) does not overflow for wide intervals.
    inner = width + torch.log(-torch.expm1(-width)) + low - softplus(low) - softplus(low + width)
    inner = torch.where(lowest, logsigmoid(low + width), inner)
    return torch.where(highest, torch.where(lowest, 0.0, logsigmoid(-low)), inner)


def beyond(v: Tensor, lowest: Tensor) -> Tensor:
    """log of the normal distribution's probability below v where v is the lowest value, and above v elsewhere."""
    return log_ndtr(torch.where(lowest.bool(), v, -v).clamp_min(-_FAR))  # Beyond, its gradients are wrong.


def counted(y: Tensor, log_mean: Tensor, log_spread: Tensor) -> Tensor:
    """log of the negative binomial probability of n = exp(y) - 1/2, of variance mean + (spread mean)^2.

    It is computed in float64.
    """
    n, log_mean = (y.double().exp() - 0.5).round(), log_mean.double().clamp(-30.0, 30.0)
    log_r = -2 * log_spread.double().clamp(-10.0, 4.0)
    r, both = log_r.exp(), torch.logaddexp(log_r, log_mean)
    ways = torch.lgamma(n + r) - torch.lgamma(r) - torch.lgamma(n + 1)
    return (ways + r * (log_r - both) + n * (log_mean - both)).to(y.dtype)
