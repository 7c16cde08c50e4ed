r"""Where the likelihood one number at a time begins: least squares of each number on the parameters.

    y_e = b_e + A_e (z, z z') + r_e,     log r_e^2 ~ 2 (log s_e + d_e z) - 1.27,     r_e ~ sum_l k_{el} r_{e-l},

-1.27 being the mean of log chi^2 of one degree of freedom. How many numbers before e count is told by the same
regression with terms k_l and k_l z, of residuals scaled by s: by Wald's statistic of each lag's coefficients, of all e
together, beside that of numbers that are far apart.

Where rows are few, products z z' are left out, and fewer lags are looked at: at least 5 rows for each coefficient.

Of counts n, y = log(n + 1/2), and b + A (z, z z') the logarithm of their mean, by Newton's steps of Poisson regression
from there; s is the spread of that mean, s^2 the mean of ((n - mean)^2 - mean) / mean^2 as far as it is positive.

**What numbers share.** E coefficients of one kind (of one parameter, say, one for each number) were found with errors
of variances v_e, and vary by t^2 beyond them: each is drawn to their mean, in which it counts by 1 / (t^2 + v_e), by
v_e / (t^2 + v_e) of the way (empirical Bayes). Those of a stationary series, or of items, are then one; those of a
regression keep their own. A number that does not vary has none, and the spreads s of counts are not drawn.

Shapes: z (rows, D), y (rows, E).

References:
    | Generalized Linear Models (Nelder & Wedderburn, 1972), https://doi.org/10.2307/2344614
    | Data analysis using Stein's estimator and its generalizations (Efron & Morris, 1975),
      https://doi.org/10.1080/01621459.1975.10479864: by how much to draw estimates to their mean
    | Meta-analysis in clinical trials (DerSimonian & Laird, 1986), https://doi.org/10.1016/0197-2456(86)90046-2: t^2
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

_DEPENDENCE, _SURE = 5e-4, 3.0  # what counts, at least; in sds of what chance makes of it
_LOG_CHI, _LOG_CHI_VARIANCE = 1.27, 4.93
_CLAMP = 5.0
_RIDGE = 1e-6
_STEPS, _ENOUGH, _FEW, _LARGE = 8, 1e-6, 16_384, 20.0  # of Newton, nats, rows, logarithm
_LEAST_SPREAD, _POISSON = 0.0025, 0.1  # of counts: squared spread of the mean, and its part of the variance, at least
_EACH = 5  # rows for each coefficient, at least


class ShrunkCoefficients(NamedTuple):
    """Coefficients of all numbers, drawn to their mean: common + share own.

    Args:
        common: Their mean, (K,).
        own: What each is above it, (K, E).
        share: Of that which is no error, 0 to 1, (K, E).
    """

    common: Tensor
    own: Tensor
    share: Tensor


class LeastSquares(NamedTuple):
    """What least squares found.

    Args:
        middle: b and A, F + 1 coefficients, F numbers of a quadratic without its constant.
        log_sd: log s, one, of what the numbers before leave.
        log_sd_slopes: d, (D,), their mean over e.
        before: k, `most` of them, zero beyond `lags`.
        lags: How many numbers before one tell of it.
    """

    middle: ShrunkCoefficients
    log_sd: ShrunkCoefficients
    log_sd_slopes: Tensor
    before: ShrunkCoefficients
    lags: int


def quadratic(z: Float[Tensor, "rows theta"]) -> Float[Tensor, "rows square"]:
    """z with its squares and products."""
    first, second = torch.triu_indices(z.shape[1], z.shape[1], device=z.device)
    return torch.cat([z, z[:, first] * z[:, second]], dim=1)


def start_of(z: Tensor, y: Tensor, most: int, counts: Tensor | None = None) -> LeastSquares:
    """Least squares over the rows, with at most so many lags; `counts` (E,) tells which numbers are log(n + 1/2)."""
    counted = [] if counts is None else counts.nonzero()[:, 0].tolist()
    z, y = z.double().cpu(), y.double().cpu()
    line, square = torch.cat([torch.ones_like(z[:, :1]), z], dim=1), quadratic(z)
    few = len(z) < _EACH * square.shape[1]
    if few:
        square[:, z.shape[1] :] = 0.0
    used = 1 + (z.shape[1] if few else square.shape[1])
    given = torch.cat([line[:, :1], square], dim=1)
    slopes, inverse = _solved(given, y), _inverse(given)
    varies = y.amin(0) < y.amax(0)
    for e in counted:
        slopes[:, e] = _poisson(given[:_FEW], (y[:_FEW, e].exp() - 0.5).round(), slopes[:, e])
    left = first = y - given @ slopes
    variance = inverse[:, None] * left.square().sum(0) / max(1, len(z) - used)
    for e in counted:
        log_mean = (given[:_FEW] @ slopes[:, e]).clamp(-_LARGE, _LARGE)
        variance[:, e] = _inverse(given[:_FEW] * (log_mean / 2).exp()[:, None])
    middle = _drawn(slopes, variance, varies.expand_as(slopes))
    log_sd = _log_sd(line, left)
    scaled = (left / (line @ log_sd).exp()).clamp(-_CLAMP, _CLAMP)
    lags = _lags(line, scaled, varies.tolist(), min(most, y.shape[1] - 1, len(z) // (_EACH * line.shape[1])))
    before = torch.zeros(most, y.shape[1], dtype=torch.float64)
    errors = torch.zeros_like(before)
    weight = (-(line @ log_sd)).exp()
    for e in range(1, y.shape[1] if lags else 0):
        n = min(e, lags)
        earlier = torch.stack([left[:, e - lag] for lag in range(1, n + 1)], dim=1)
        earlier, own = earlier * weight[:, e : e + 1], left[:, e] * weight[:, e]
        before[:n, e] = _solved(earlier, own[:, None])[:, 0]
        errors[:n, e] = _inverse(earlier) * (own - earlier @ before[:n, e]).square().mean()
    for lag in range(1, lags + 1):
        left = left - before[lag - 1] * pad(first, (lag, 0))[:, : y.shape[1]]
    log_sd = _log_sd(line, left)
    spread, error = log_sd[:1].clone(), (_inverse(line)[:1, None] * _LOG_CHI_VARIANCE / 4).expand(1, y.shape[1])
    for e in counted:
        n, mean = (y[:, e].exp() - 0.5).round(), (y[:, e] - left[:, e]).clamp(-_LARGE, _LARGE).exp()
        least = min(_LEAST_SPREAD, _POISSON / float(mean.mean().clamp_min(1e-12)))
        spread[0, e] = (((n - mean).square() - mean).mean() / mean.square().mean()).clamp_min(least).log() / 2
    rest = [e for e in range(y.shape[1]) if e not in counted]
    tilt = log_sd[1:, rest].mean(1) if rest else torch.zeros_like(log_sd[1:, 0])
    error = error.clone()
    error[:, counted] = 0.0
    told = torch.stack([pad(varies, (lag, 0))[: y.shape[1]] & varies for lag in range(1, most + 1)])
    width = _drawn(spread, error, varies[None])
    return LeastSquares(middle, width, tilt.float(), _drawn(before, errors, told), lags)


def _drawn(found: Tensor, variance: Tensor, there: Tensor) -> ShrunkCoefficients:
    """Coefficients (K, E) with the variances of their errors; `there` tells which of them exist."""
    known = torch.where(there, 1 / variance.clamp_min(1e-12), 0.0)  # weights under t = 0
    middle = _weighed(found, known)
    square = (known * (found - middle[:, None]).square()).sum(1)  # of mean `free`, and of variance twice that
    free = (there.sum(1) - 1).clamp_min(1)
    size = known.sum(1) - known.square().sum(1) / known.sum(1).clamp_min(1e-300)
    vary = square > free + _SURE * (2 * free).sqrt()
    t = torch.where(vary, (square - free) / size.clamp_min(1e-300), 0.0)[:, None]  # its square, by moments
    common = _weighed(found, torch.where(there, 1 / (t + variance).clamp_min(1e-12), 0.0))
    share = torch.where(there, t / (t + variance).clamp_min(1e-300), 0.0)
    own = torch.where(there, found - common[:, None], 0.0)
    return ShrunkCoefficients(common.float(), own.float(), share.float())


def _weighed(found: Tensor, weight: Tensor) -> Tensor:
    return (weight * found).sum(1) / weight.sum(1).clamp_min(1e-300)


def _poisson(given: Tensor, n: Tensor, slopes: Tensor) -> Float[Tensor, " square"]:
    """Newton's steps of Poisson regression, each as long as the likelihood grows."""

    def likelihood(at: Tensor) -> Tensor:
        log_mean = (given @ at).clamp(-_LARGE, _LARGE)
        return (n * log_mean - log_mean.exp()).mean()

    best = likelihood(slopes)
    for _ in range(_STEPS):
        log_mean = (given @ slopes).clamp(-_LARGE, _LARGE)
        mean = log_mean.exp()
        root = mean.sqrt()[:, None]
        found = _solved(given * root, ((log_mean + (n - mean) / mean) * root[:, 0])[:, None])[:, 0]
        now = likelihood(found)
        if not now > best:
            break
        slopes, gain, best = found, now - best, now
        if gain < _ENOUGH:
            break
    return slopes


def _log_sd(line: Tensor, left: Tensor) -> Float[Tensor, "line number"]:
    """The log sd of each number as a line in z."""
    return _solved(line, (left.square() + 1e-12).log() + _LOG_CHI) / 2


def _lags(line: Tensor, scaled: Tensor, varies: list[bool], most: int) -> int:
    """The last lag at which numbers depend on each other by more than numbers far apart seem to.

    What the quadratic leaves of the middles looks like dependence, weakly and at any distance alike.
    """
    numbers = scaled.shape[1]
    near, far = [list[float]() for _ in range(most)], list[float]()
    generator = torch.Generator().manual_seed(0)
    for e in (e for e in range(1, numbers) if varies[e]):
        before = [e - lag for lag in range(1, min(e, most) + 1) if varies[e - lag]]
        for i, found in zip(before, _dependence(line, scaled, e, before), strict=True):
            near[e - i - 1].append(found)
        order = torch.randperm(numbers, generator=generator).tolist()
        apart = [i for i in order if abs(i - e) > most and varies[i]][: len(before)]
        far += _dependence(line, scaled, e, apart)
    floor = max(0.0, sum(far) / len(far)) if far else 0.0
    least, last = max(_DEPENDENCE, 2 * floor), 0
    for lag, found in enumerate(near, 1):
        chance = _SURE * math.sqrt(2 / (line.shape[1] * max(1, len(found)))) / len(scaled)
        if found and sum(found) / len(found) - floor > max(least, chance):
            last = lag
    return last


def _dependence(line: Tensor, scaled: Tensor, e: int, others: list[int]) -> list[float]:
    """Wald's statistic of each of some other numbers for number e, less what chance gives, by degree and row."""
    if not others:
        return []
    rows, width = line.shape
    given = torch.cat([scaled[:, i, None] * line for i in others], dim=1)
    gram = _gram(given)
    found = torch.linalg.solve(gram, given.T @ scaled[:, e])
    noise = (scaled[:, e] - given @ found).square().sum() / max(1, rows - len(found))
    covariance = torch.linalg.inv(gram) * noise.clamp_min(1e-12)
    parts = [slice(i * width, (i + 1) * width) for i in range(len(others))]
    wald = [float(found[p] @ torch.linalg.solve(covariance[p, p], found[p])) for p in parts]
    return [(value / width - 1) / rows for value in wald]


def _solved(given: Tensor, wanted: Tensor) -> Tensor:
    """Least squares by normal equations."""
    return torch.linalg.solve(_gram(given), given.T @ wanted)


def _inverse(given: Tensor) -> Tensor:
    """The variances of its coefficients, of noise of variance 1."""
    return torch.linalg.inv(_gram(given)).diagonal()


def _gram(given: Tensor) -> Tensor:
    """With a ridge that rounding needs."""
    gram = given.T @ given
    return gram + _RIDGE * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram), dtype=gram.dtype)
