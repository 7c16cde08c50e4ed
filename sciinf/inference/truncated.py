r"""The prior within the highest-density regions of what sequential rounds learned of one observation x_o.

    p_S(theta) = p(theta) 1[theta in S] / P(S),     S = H_1 and ... and H_r,
    H_k = {theta: log q_k(theta | x_o) > tau_k},     tau_k = epsilon-quantile of log q_k(theta | x_o),

with q_k the density learned in round k, and the quantile that of its draws within the regions before, enough of them
for ten below tau_k, so that the mass cut is epsilon within about a third.

**Drawing.** While at least one prior draw in 256 lies in S, by rejection from the prior, which is exact. Below that by
sampling-importance-resampling: of 256 candidates of

    r = q / 2 + t / 2,

with t a Student-t law fitted to q = q_r in the prior's unbounded space, one is kept with a probability proportional to
1[theta in S] p / r. That is approximate, with an error of the order of 1 / effective number of candidates, which
`to_json` reports. (The paper takes all candidates from q. At the edge of S its density is thousands of times below its
peak, so that few candidates carry all weight; t covers the edge.)

Shapes: theta (n, D), x_o name -> (1, *event).

References:
    | Truncated proposals for scalable and hassle-free simulation-based inference (Deistler, Goncalves & Macke, 2022),
      https://arxiv.org/abs/2210.04815
    | Using the SIR algorithm to simulate posterior distributions (Rubin, 1988)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Density, Fit, Prior, Proposal, X
from sciinf.engine.block import generator_for
from sciinf.inference.multivariate_t import MultivariateT

CANDIDATES = 256
_PILOT = 65_536
_TAIL = 10
_TRIES = 300
_HOPELESS = 10  # tries after which nine in ten draws of an observation still lie outside
_REGION = 2**31 + 2  # no campaign has this many blocks, so none shares these random numbers


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


class TruncatedPrior(Proposal):
    """The prior within the highest-density regions of the rounds so far; see `truncate` for a new one.

    Args:
        prior: The prior.
        regions: Each round's region, oldest first; theta must lie in all.
        about: Epsilon and the hash of x_o, as JSON values.
        measured: `acceptance`, the prior's mass in the regions, and `effective`, the effective number of candidates
            for a draw (None where draws are not resampled); measured from draws when left out.
    """

    def __init__(
        self,
        prior: Prior,
        regions: Sequence[Region],
        about: Mapping[str, Any],
        measured: Mapping[str, Any] | None = None,
    ) -> None:
        self.prior, self.regions, self.about = prior, tuple(regions), dict(about)
        pilot, draws, weighed = (generator_for(0, _REGION, len(regions), k) for k in range(3))
        found = measured or self._by_rejection(pilot)
        self._law = self._fitted(draws) if found is None or found["effective"] is not None else None
        found = found or self._by_resampling(weighed)
        self.acceptance: float = found["acceptance"]
        self.effective: float | None = found["effective"]

    @property
    def method(self) -> str:
        """How draws are made, in words."""
        return "rejection from the prior" if self._law is None else "importance resampling"

    def contains(self, theta: Float[Tensor, "n theta"]) -> Bool[Tensor, " n"]:
        """Whether parameters lie in all regions."""
        kept = torch.arange(len(theta))
        for region in reversed(self.regions):  # the newest is the smallest
            kept = kept[region.contains(theta[kept])]
        mask = torch.zeros(len(theta), dtype=torch.bool)
        mask[kept] = True
        return mask

    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n theta"]:
        """n draws.

        Raises:
            RuntimeError: If a hundred times more draws than expected do not yield as many.
        """
        if self._law is not None:
            return torch.cat([self._resampled(size, generator) for size in _pieces(n, _PILOT // CANDIDATES)])
        parts, count = [], 0
        size = min(_PILOT, max(256, math.ceil(1.2 * n / self.acceptance)))
        for _ in range(math.ceil(100 * (1 + n / self.acceptance / size))):
            theta = self.prior.sample(size, generator=generator)
            parts.append(theta[self.contains(theta)])
            count += len(parts[-1])
            if count >= n:
                return torch.cat(parts)[:n]
        raise RuntimeError(f"{count} of {n} draws lie in the region, whose acceptance was {self.acceptance:.2g}")

    def to_json(self) -> dict[str, Any]:
        resampled = {"candidates": CANDIDATES, "effective": self.effective} if self._law is not None else {}
        return {
            "kind": "truncated prior",
            **self.about,
            "regions": [{"fit": region.fit, "threshold": region.threshold} for region in self.regions],
            "method": self.method,
            "acceptance": self.acceptance,
            **resampled,
        }

    def _by_rejection(self, generator: torch.Generator) -> dict[str, Any] | None:
        """What is measured of the prior's own draws; None where too few lie in the regions to draw by rejection."""
        share = float(self.contains(self.prior.sample(_PILOT, generator=generator)).double().mean())
        return {"acceptance": share, "effective": None} if share * CANDIDATES >= 1 else None

    def _by_resampling(self, generator: torch.Generator) -> dict[str, Any]:
        weight = self._candidates(_PILOT // CANDIDATES, generator)[1].exp()
        effective = weight.sum(1).square() / weight.square().sum(1)
        return {"acceptance": float(weight.mean()), "effective": float(effective.nan_to_num().mean())}

    def _fitted(self, generator: torch.Generator) -> MultivariateT:
        theta = restricted(self.regions[-1].density, self, 10_000, generator)[:, 0]
        z = self.prior.bijection.forward(theta.double())
        return MultivariateT.fit(z, torch.zeros(len(z), dtype=torch.float64))

    def _candidates(self, groups: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """theta (groups, candidates, D) and log weights (groups, candidates), half of q and half of t in each group."""
        if self._law is None:
            raise RuntimeError("draws are made by rejection; there are no candidates")
        each, dim = CANDIDATES // 2, len(self.prior)
        density, bijection = self.regions[-1].density, self.prior.bijection
        learned = density.sample(groups * each, generator=generator)[:, 0].cpu().reshape(groups, each, dim)
        wide = bijection.inverse(self._law.sample(groups * each, generator=generator).float())
        theta = torch.cat([learned, wide.reshape(groups, each, dim)], dim=1)
        flat = theta.reshape(-1, dim)
        log_q = density.log_prob(flat[:, None])[:, 0].cpu().double()
        log_t = self._law.log_prob(bijection.forward(flat.double())) + bijection.log_abs_det_jacobian(flat)
        log_weight = self.prior.log_prob(flat) - (torch.logaddexp(log_q, log_t) - math.log(2))
        return theta, torch.where(self.contains(flat), log_weight, -math.inf).reshape(groups, -1)

    def _resampled(self, n: int, generator: torch.Generator) -> Tensor:
        theta, log_weight = self._candidates(n, generator)
        if not bool(torch.isfinite(log_weight.amax(dim=1)).all()):
            raise RuntimeError(f"none of {CANDIDATES} candidates lies in the region; train on more simulations")
        edges = torch.softmax(log_weight, dim=1).cumsum(dim=1)
        points = torch.rand(n, 1, generator=generator, dtype=torch.float64) * edges[:, -1:]
        index = torch.searchsorted(edges, points, right=True)[:, 0].clamp(max=CANDIDATES - 1)
        return theta[torch.arange(n), index]


def truncate(fit: Fit, x: X, within: TruncatedPrior | None = None, *, epsilon: float = 1e-4) -> TruncatedPrior:
    """The prior within the highest-density region of a fit at one observation, and within the regions before.

    Args:
        fit: The newest round's.
        x: The observation, name -> (1, *event).
        within: What the newest round was simulated from; None for the prior.
        epsilon: Mass of the learned posterior that is cut off.

    Raises:
        RuntimeError: If what was learned lies outside the regions before.
    """
    prior, density = fit.estimator.prior, fit.estimator.condition(x)
    count = max(10_000, math.ceil(_TAIL / epsilon))
    generator = generator_for(0, _REGION, 0)
    logs = [
        density.log_prob(restricted(density, within, size, generator))[:, 0].cpu() for size in _pieces(count, _PILOT)
    ]
    threshold = float(torch.cat(logs).sort().values[int(epsilon * count)])
    regions = (*(within.regions if within else ()), Region(fit.digest, density, threshold))
    return TruncatedPrior(prior, regions, {"observation": observation_hash(x), "epsilon": epsilon})


def restricted(
    density: Density, within: TruncatedPrior | None, n: int, generator: torch.Generator
) -> Float[Tensor, "n batch theta"]:
    """n draws of a density for each of its observations, those outside a region drawn again.

    Raises:
        RuntimeError: If almost no draw lies inside.
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
    raise RuntimeError(
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
