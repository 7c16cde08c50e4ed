r"""Disasters in British coal mines, 1851 to 1962: how often did their rate change, when, and to what?

Explosions that killed ten people or more happen at random, at a rate that changes k times, k = 0, 1, 2 or 3, each
equally likely. In each of the 112 years y they are counted:

    disasters(y) ~ Poisson(rate_j),     j = 1 + the number of changes tau_1 < ... < tau_k up to y,
    tau ~ Uniform(1851, 1963), in order,     rate_1, ..., rate_{k+1} ~ Exponential(mean 2 per year).

tau_i exists where k >= i, rate_j where k >= j - 1; both are NaN elsewhere. A change between the years y - 1 and y acts
from y on, so only the n = 112 whole years 1851 < tau <= 1852, ... can be told apart, and everything is known. With
s = the sum of x over a < y <= b, a stretch of b - a years at one rate has the evidence

    L(a, b) = integral of 1/2 exp(-r/2) prod_y r^x_y exp(-r) dr = 1/2 s! / (b - a + 1/2)^(s+1),

up to prod 1 / x_y!, and its rate the law Gamma(s + 1, b - a + 1/2). k changes that are all in other years fall on given
years with k! / n^k, m in one year with a further 1 / m!. Hence by summing over all places, from the last change on,

    B_0(a) = L(a, n),     B_r(a) = sum_{b > a} sum_{m=1}^r L(a, b) B_{r-m}(b) / m!,     p(x | k) = k! / n^k B_k(0).

`coal_mines_1851.csv` is the record as Jarrett corrected it, 191 disasters (R's `boot::coal` has their dates).

References:
    | A note on the intervals between coal-mining disasters (Jarrett, 1979), https://doi.org/10.1093/biomet/66.1.191
    | Reversible jump Markov chain Monte Carlo computation (Green, 1995), https://doi.org/10.1093/biomet/82.4.711
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Counts, Each, Observable, Prior, Simulator, X
from sciinf.core.prior import global_seed

FIRST, YEARS = 1851, 112
MOST = 3  # changes
RATE = 0.5  # of the exponential law of a rate


class CoalMines(Simulator):
    """Disasters in each year."""

    name = "coal_mines"
    prior = Prior(
        k=Counts(0, MOST),
        tau=Each("k", td.Uniform(float(FIRST), float(FIRST + YEARS)), "yr", increasing=True),
        rate=Each("k", td.Exponential(RATE), "1/yr", more=1),
    )
    observables: Mapping[str, Observable] = {
        "disasters": Observable(
            (YEARS,),
            dims=("time",),
            dtype="int64",
            coords={"time": range(FIRST, FIRST + YEARS)},
            coord_units={"time": "yr"},
        )
    }
    block = 8192

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return {"disasters": torch.poisson(rates(theta), generator=generator).long()}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        rate, counts = rates(theta.double()), x["disasters"].double()
        return (torch.xlogy(counts, rate) - rate - torch.lgamma(counts + 1)).sum(-1)

    def reference(self, x: X, n: int, generator: torch.Generator) -> Tensor:
        return draws(x["disasters"].reshape(YEARS), n, generator)


def rates(theta: Tensor) -> Tensor:
    """The rate in each year, (batch, 112), of theta (batch, 8): k, tau_1 to tau_3, rate_1 to rate_4."""
    years = FIRST + torch.arange(YEARS, dtype=theta.dtype, device=theta.device)
    passed = theta[:, None, 1 : 1 + MOST] <= years[:, None]  # NaN is none
    return theta[:, 1 + MOST :].gather(1, passed.sum(-1))


def stretches(counts: Tensor) -> Tensor:
    """log L(a, b), (batch, 113, 113), float64, of counts (batch, 112); -inf for b < a, 0 for no year at all."""
    total = torch.nn.functional.pad(counts.double().cumsum(-1), (1, 0))
    places = torch.arange(YEARS + 1, dtype=torch.float64)
    length, s = places - places[:, None], total[:, None, :] - total[:, :, None]
    safe = length.clamp_min(0)
    log = math.log(RATE) + torch.lgamma(s.clamp_min(0) + 1) - (s.clamp_min(0) + 1) * (safe + RATE).log()
    return log.masked_fill(length < 0, -math.inf)


def remaining(stretch: Tensor) -> list[Tensor]:
    """log B_r(a) for r = 0 to 3, each (batch, 113)."""
    found = [stretch[..., -1]]
    for r in range(1, MOST + 1):
        found.append(torch.logsumexp(_next(stretch, found, r).flatten(-2), -1))
    return found


def _next(stretch: Tensor, found: list[Tensor], r: int) -> Tensor:
    """Logarithms of the terms of B_r(a), (batch, 113, r, 113): by m, and by b."""
    later = stretch.masked_fill(~torch.ones_like(stretch, dtype=torch.bool).triu(1), -math.inf)
    return torch.stack([later + found[r - m][..., None, :] - math.lgamma(m + 1) for m in range(1, r + 1)], dim=-2)


def log_evidence(counts: Tensor) -> Tensor:
    """log p(x | k) for k = 0 to 3, (batch, 4), float64, of counts (batch, 112)."""
    found = torch.stack([b[..., 0] for b in remaining(stretches(counts))], dim=-1)
    k = torch.arange(MOST + 1, dtype=torch.float64)
    return found + torch.lgamma(k + 1) - k * math.log(YEARS) - torch.lgamma(counts.double() + 1).sum(-1, keepdim=True)


def draws(counts: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Exact draws of the posterior of one record (112,): (n, 8), NaN where something does not exist."""
    stretch = stretches(counts[None])
    found = remaining(stretch)
    k = torch.multinomial(log_evidence(counts[None])[0].softmax(0), n, True, generator=generator)
    changes = torch.full((n, MOST), math.inf, dtype=torch.float64)  # the years that a change comes before
    place, left = torch.zeros(n, dtype=torch.long), k.clone()
    while bool((left > 0).any()):
        for a, r in sorted(set(zip(place[left > 0].tolist(), left[left > 0].tolist(), strict=True))):
            rows = ((place == a) & (left == r)).nonzero().flatten()
            terms = _next(stretch, found, r)[0, a].flatten().softmax(0)
            drawn = torch.multinomial(terms, len(rows), True, generator=generator)
            m, b = drawn // (YEARS + 1) + 1, drawn % (YEARS + 1)
            for j in range(r):
                some = rows[m > j]
                changes[some, (k - left)[some] + j] = b[m > j].double()
            place[rows], left[rows] = b, left[rows] - m
    return torch.cat([k[:, None].double(), *_in_time(counts, k, changes, generator)], dim=-1).float()


def _in_time(counts: Tensor, k: Tensor, changes: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Times and rates of draws whose changes come before given years, counted from 0; inf for those there are not."""
    n = len(changes)
    ends = changes.clamp_max(float(YEARS)).long()
    ends = torch.nn.functional.pad(torch.nn.functional.pad(ends, (1, 0)), (0, 1), value=YEARS)
    total = torch.nn.functional.pad(counts.double().cumsum(0), (1, 0))
    s, length = total[ends].diff(dim=-1), ends.diff(dim=-1).double()
    with global_seed(generator):
        rate = td.Gamma(s + 1, length + RATE).sample()
    uniform = torch.rand(n, MOST, generator=generator, dtype=torch.float64)
    times = (FIRST + changes - uniform).sort(-1).values  # within (y - 1, y]: in order in one year, too
    gone = torch.arange(MOST) >= k[:, None]
    rate = rate.masked_fill(torch.nn.functional.pad(gone, (1, 0)), math.nan)
    return times.masked_fill(gone, math.nan), rate


simulator = CoalMines()
