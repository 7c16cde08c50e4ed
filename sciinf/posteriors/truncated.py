r"""The prior within the highest-density regions of what sequential rounds learned of one observation x_o.

    p_S(theta) = p(theta) 1[theta in S] / P(S),     S = H_1 and ... and H_r,
    H_k = {theta: log q_k(theta | x_o) > tau_k},     tau_k = epsilon-quantile of log q_k(theta | x_o),

with q_k the density learned in round k, and the quantile that of its draws within the regions before, enough of them
for ten below tau_k, so that the mass cut is epsilon within about a third.

**Drawing.** While at least one prior draw in 256 lies in S, by rejection from the prior, which is exact. Below that by
rejection from

    r = q / 2 + t / 2,     w = 1[theta in S] p / r,     kept with probability min(1, w / c),

with t a Student-t law fitted, in the prior's unbounded space, to draws of q = q_r that are weighted as p in S. At the
edge of S q is about epsilon of its peak. t covers the edge where there is one hump; where it does not (two humps far
apart) a draw takes hundreds or thousands of candidates. Draws follow the law proportional to r min(w, c), which is
within

    delta = E_r[(w - c)^+] / E_r[w]

of p_S in total variation, and so in every Kolmogorov-Smirnov distance. From a pilot of candidates, doubled until none
has more than 1 % of its weight, c is the smallest number with delta <= 1 %; or the largest that costs at most 256
candidates for a draw where that is larger, or 16,384 where that is smaller. `error` is delta plus the share of the
largest weight, which is about what a pilot of its size does not see. Above 5 % `truncate` warns. (The paper takes
sampling-importance-resampling from candidates of q alone: few of them carry all weight, and draws crowd the centre.)

Shapes: theta (n, D), x_o name -> (1, *event).

References:
    | Truncated proposals for scalable and hassle-free simulation-based inference (Deistler, Goncalves & Macke, 2022),
      https://arxiv.org/abs/2210.04815
    | Truncated importance sampling (Ionides, 2008), https://doi.org/10.1198/106186008X320456
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.campaigns.block import generator_for
from sciinf.core import Density, Fit, Prior, Proposal, X
from sciinf.core.existence import check_continuous
from sciinf.posteriors.multivariate_t import MultivariateT

FROM_PRIOR = "rejection from the prior"
CANDIDATES = 16_384  # for a draw, at most
ERROR = 0.05  # above which it is warned of
_REJECTED = 256  # prior draws for one within, up to which they are what is drawn from
_SHARE = 0.01  # of the weight: what may lie above c, and the most that one candidate of the pilot may have
_PILOT = 65_536
_MOST = 2**20  # candidates of the pilot
_TAIL = 10
LEAST = 1e-6  # epsilon: below, its quantile would take more than ten million draws
_TRIES = 300
_HOPELESS = 10  # tries after which nine in ten draws of an observation still lie outside
# Index of a random stream. It exceeds the number of blocks of any campaign,
# so no block has the same random numbers.
_REGION = 2**31 + 2


@dataclass(frozen=True)
class Region:
    """Where a density of theta given x_o, learned in a round, is above a threshold.

    Args:
        fit: Digest of the fit.
        density: Its density, conditioned on x_o alone.
        threshold: tau, a log density in the parameters' own units.
    """

    fit: str
    density: Density
    threshold: float

    def contains(self, theta: Float[Tensor, "n theta"]) -> Bool[Tensor, " n"]:
        return (self.density.log_prob(theta[:, None])[:, 0] > self.threshold).cpu()


class OutsideRegion(RuntimeError):
    """What was learned of an observation is not where the rounds before were; the message says what to do."""


class TruncatedPrior(Proposal):
    """The prior within the highest-density regions of the rounds so far; see `truncate` for a new one.

    Args:
        prior: The prior.
        regions: Each round's region, oldest first; theta must lie in all.
        about: Epsilon and the hash of x_o, as JSON values.
        measured: `acceptance`, the prior's mass in the regions, and where draws are not made from the prior's own
            `log_bound` (of c), `candidates` (for a draw, on average) and `error` (of their law, in total variation);
            measured from draws when left out.
    """

    def __init__(
        self,
        prior: Prior,
        regions: Sequence[Region],
        about: Mapping[str, Any],
        measured: Mapping[str, Any] | None = None,
    ) -> None:
        check_continuous(prior, "a truncated prior")
        self.prior, self.regions, self.about = prior, tuple(regions), dict(about)
        pilot, draws, weighed = (generator_for(0, _REGION, len(regions), k) for k in range(3))
        found = measured or self._from_the_prior(pilot)
        self._law = self._fitted(draws) if found is None or "log_bound" in found else None
        found = found or self._from_what_was_learned(weighed)
        self.acceptance = float(found["acceptance"])
        self.candidates = float(found.get("candidates", 1 / self.acceptance))
        self.error = float(found.get("error", 0.0))
        self._log_bound = float(found.get("log_bound", 0.0))

    @property
    def method(self) -> str:
        """How draws are made, in words."""
        return FROM_PRIOR if self._law is None else "rejection from what was learned"

    def contains(self, theta: Float[Tensor, "n theta"]) -> Bool[Tensor, " n"]:
        """Whether parameters lie in all regions."""
        mask = torch.zeros(len(theta), dtype=torch.bool)
        mask[_inside(self.regions, theta, torch.arange(len(theta)))] = True
        return mask

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws.

        Raises:
            RuntimeError: If a hundred times more draws than expected do not yield as many.
        """
        parts, count = [torch.zeros(0, len(self.prior))], 0
        size = min(_PILOT, max(256, math.ceil(1.2 * n * self.candidates)))
        for _ in range(math.ceil(100 * (1 + n * self.candidates / size))):
            parts.append(self._kept(size, generator))
            count += len(parts[-1])
            if count >= n:
                return torch.cat(parts)[:n]
        raise RuntimeError(
            f"{count} of {n} draws lie in the region of the rounds before, where one of {self.candidates:,.0f} should: "
            "it is not the region that was measured; remove this round's folder and call infer_sequentially again"
        )

    def to_json(self) -> dict[str, Any]:
        learned = {"log_bound": self._log_bound, "candidates": self.candidates, "error": self.error}
        return {
            "kind": "truncated prior",
            **self.about,
            "regions": [{"fit": region.fit, "threshold": region.threshold} for region in self.regions],
            "method": self.method,
            "acceptance": self.acceptance,
            **({} if self._law is None else learned),
        }

    def _kept(self, size: int, generator: torch.Generator) -> Tensor:
        """Those of `size` candidates that are draws, (kept, D)."""
        if self._law is None:
            theta = self.prior.sample(size, generator=generator)
            return theta[self.contains(theta)]
        theta, log_weight = self._candidates(self._law, size, generator)
        log_u = torch.rand(len(theta), generator=generator, dtype=torch.float64).log()
        return theta[log_u < log_weight - self._log_bound]

    def _from_the_prior(self, generator: torch.Generator) -> dict[str, float] | None:
        """What is measured of the prior's own draws; None where too few lie in the regions to draw from it."""
        share = float(self.contains(self.prior.sample(_PILOT, generator=generator)).double().mean())
        return {"acceptance": share} if share * _REJECTED >= 1 else None

    def _from_what_was_learned(self, generator: torch.Generator) -> dict[str, float]:
        """What is measured of candidates of r: the prior's mass in the regions, c, and what c costs."""
        law, logs, count = self._law or self._fitted(generator), [], 0
        while count < _MOST:
            size = max(_PILOT, count)
            log_weight = self._candidates(law, size, generator)[1]
            logs.append(log_weight[log_weight > -math.inf])
            count += size
            sizes = torch.cat(logs)
            if len(sizes) and float(torch.softmax(sizes, 0).max()) <= _SHARE:
                break
        if not len(sizes):
            raise OutsideRegion(
                f"none of {count:,} candidates lies in the region of this round and those before; give more "
                "simulations per round, or begin anew"
            )
        return {"acceptance": float(sizes.logsumexp(0).exp()) / count, **_bounded(sizes, count)}

    def _fitted(self, generator: torch.Generator) -> MultivariateT:
        density = self.regions[-1].density
        theta = restricted(density, self, 10_000, generator)[:, 0]
        log_weight = self.prior.log_prob(theta).double() - density.log_prob(theta[:, None])[:, 0].cpu().double()
        return MultivariateT.fit(self.prior.bijection.forward(theta.double()), log_weight)

    def _candidates(self, law: MultivariateT, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n of r (one more if n is odd), theta (n, D), those of q and of t by turns, and log w (n,)."""
        density, bijection = self.regions[-1].density, self.prior.bijection
        learned = density.sample((n + 1) // 2, generator=generator)[:, 0].cpu()
        wide = bijection.inverse(law.sample(len(learned), generator=generator).float())
        theta = torch.stack([learned, wide], dim=1).flatten(0, 1)  # by turns: whatever is first is used first
        log_q = density.log_prob(theta[:, None])[:, 0].cpu().double()
        kept = _inside(self.regions[:-1], theta, (log_q > self.regions[-1].threshold).nonzero()[:, 0])
        inside = theta[kept]
        log_t = law.log_prob(bijection.forward(inside.double())) + bijection.log_abs_det_jacobian(inside)
        log_weight = torch.full((len(theta),), -math.inf, dtype=torch.float64)
        log_r = torch.logaddexp(log_q[kept], log_t) - math.log(2)
        log_weight[kept] = self.prior.log_prob(inside).double() - log_r
        return theta, log_weight


def _inside(regions: Sequence[Region], theta: Tensor, rows: Tensor) -> Tensor:
    """Those of some rows of theta (n, D), given by their indices, that lie in all regions."""
    for region in reversed(regions):  # the newest is the smallest
        rows = rows[region.contains(theta[rows])]
    return rows


def _bounded(log_weight: Tensor, count: int) -> dict[str, float]:
    """c, what it costs and what it loses, of the weights above zero of `count` candidates.

    With w_1 <= ... <= w_m, a bound of w_k loses sum_i (w_i - w_k)^+ and costs count w_k / sum_i min(w_i, w_k).
    """
    top = float(log_weight.max())
    weight = (log_weight - top).exp().sort().values
    total = float(weight.sum())
    above = torch.arange(len(weight) - 1, -1, -1, dtype=torch.float64)
    lost = (weight.flip(0).cumsum(0).flip(0) - weight - above * weight) / total
    cost = count * weight / (total * (1 - lost))
    fine = max(int((lost > _SHARE).sum()), int((cost <= _REJECTED).sum()) - 1)
    k = max(0, min(fine, int((cost <= CANDIDATES).sum()) - 1))
    error = float(lost[k]) + float(weight[-1]) / total
    return {"log_bound": top + math.log(float(weight[k])), "candidates": float(cost[k]), "error": error}


def truncate(fit: Fit, x: X, within: TruncatedPrior | None = None, *, epsilon: float = 1e-4) -> TruncatedPrior:
    """The prior within the highest-density region of a fit at one observation, and within the regions before.

    Args:
        fit: The newest round's.
        x: The observation, name -> (1, *event).
        within: What the newest round was simulated from; None for the prior.
        epsilon: Mass of the learned posterior that is cut off.

    Raises:
        ValueError: If epsilon is not a mass between 1e-6 and 1.
        OutsideRegion: If what was learned lies outside the regions before.

    Warns:
        UserWarning: If draws of it follow another law than they should by more than `ERROR`, in total variation.
    """
    if not LEAST <= epsilon < 1:
        raise ValueError(f"epsilon, the mass cut off, must be at least {LEAST:g} and below 1, got {epsilon!r}")
    prior, density = fit.estimator.prior, fit.estimator.density(x)
    count = max(10_000, math.ceil(_TAIL / epsilon))
    generator = generator_for(0, _REGION, 0)
    logs = [
        density.log_prob(restricted(density, within, size, generator))[:, 0].cpu() for size in _pieces(count, _PILOT)
    ]
    threshold = float(torch.cat(logs).sort().values[int(epsilon * count)])
    regions = (*(within.regions if within else ()), Region(fit.digest, density, threshold))
    found = TruncatedPrior(prior, regions, {"observation": observation_hash(x), "epsilon": epsilon})
    if found.error > ERROR:
        warnings.warn(
            f"draws of the truncated prior are off by up to {found.error:.0%} of its mass at {found.candidates:,.0f} "
            "candidates a draw, for what was learned hardly reaches the edge of its region, and the next round would "
            f"learn too narrow a posterior; raise epsilon, now {epsilon:g}, or simulate more per round",
            stacklevel=2,
        )
    return found


def restricted(
    density: Density, within: TruncatedPrior | None, n: int, generator: torch.Generator
) -> Float[Tensor, "n batch theta"]:
    """n draws of a density for each of its observations, those outside a region drawn again.

    Raises:
        OutsideRegion: If almost no draw lies inside.
    """
    theta = density.sample(n, generator=generator).cpu()
    if within is None:
        return theta
    outside = ~within.contains(theta.reshape(-1, theta.shape[-1])).reshape(theta.shape[:2])
    for tries in range(_TRIES):
        if not bool(outside.any()):
            return theta
        if tries >= _HOPELESS and float(outside.sum(dim=0).max()) > 0.9 * max(n, 20):
            break
        place = (outside.cumsum(dim=0) - 1)[outside]
        column = outside.nonzero()[:, 1]
        fresh = density.sample(int(place.max()) + 1, generator=generator).cpu()[place, column]
        theta[outside] = fresh
        outside[outside.clone()] = ~within.contains(fresh)
    raise OutsideRegion(
        f"{int(outside.sum()):,} of {outside.numel():,} draws lie outside the region of earlier rounds however often "
        "they are drawn again: what was learned from these observations is not where the rounds were; give more "
        "simulations per round, or begin anew"
    )


def observation_hash(x: X) -> str:
    """SHA-256 of an observation, names, dtypes and shapes included."""
    digest = hashlib.sha256()
    for name in sorted(x):
        value = x[name].cpu().contiguous().numpy()
        digest.update(f"{name}\0{value.dtype.str}\0{value.shape}\0".encode() + value.tobytes())
    return digest.hexdigest()


def _pieces(n: int, size: int) -> Iterator[int]:
    """n as a sum of at most `size` each."""
    yield from (min(size, n - start) for start in range(0, n, size))
