r"""How good predicted fields and their error bars are: bands that hold, and scores of ensembles.

**Conformal bands.** With scores r_i(p) = |u_i(p) - f_i(p)| / s(theta_i) of m fresh simulations, s the error that the
surrogate expects, and q(p) the ceil((m + 1) level)-th smallest at a point p, the band f +- q(p) s(theta) holds the
solution of a new simulation there with probability of at least `level`, whatever f and s are and without any law. For
bands of whole fields (`simultaneous`) the score is the largest over points of r_i(p) over its rms, which half of the
simulations tell; m is the other half. Over the draw of the m simulations that probability is Beta(k, m + 1 - k), k the
rank: with m = 200 and level 0.9 it lies within 0.86 and 0.94 in 19 of 20 cases.

**Scores**, of K draws y_k for a truth y, at every point:

    CRPS = mean_k |y_k - y| - 1/(2 K (K - 1)) sum_{jk} |y_j - y_k|     (fair: its mean does not depend on K),
    spread-skill ratio = sqrt((K + 1) / K mean variance) / rms error of the mean,      1 for an ensemble that is right,
    rank of y among the y_k, even from 0 to K for one that is.

References:
    | Algorithmic Learning in a Random World (Vovk, Gammerman, Shafer, 2005), https://doi.org/10.1007/b106715
    | Calibrated Uncertainty Quantification for Operator Learning via Conformal Prediction (Ma et al., 2024),
      https://arxiv.org/abs/2402.01960
    | Strictly Proper Scoring Rules, Prediction, and Estimation (Gneiting & Raftery, 2007),
      https://doi.org/10.1198/016214506000001437
    | Why Should Ensemble Spread Match the RMSE of the Ensemble Mean? (Fortin et al., 2014),
      https://doi.org/10.1175/JHM-D-14-0008.1
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core import Batch, Fit, Surrogate, predicted
from sciinf.core.fit import campaign_of, trained_on
from sciinf.store import Store


@dataclass(frozen=True)
class Band:
    """A conformal band of a surrogate's predictions.

    Attributes:
        width: Half of it at every point, (*event), where the surrogate expects an error of 1.
        level: Probability that a new solution lies within, at each point or, `simultaneous`, as a whole.
        simultaneous: Which of both.
        simulations: Fresh ones it was made from.
    """

    width: Tensor
    level: float
    simultaneous: bool
    simulations: int

    def half(self, surrogate: Surrogate, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, "batch ..."]:
        """Half of its width at parameters."""
        size = surrogate.spread(theta).to(theta.device)
        return self.width.to(size) * size.reshape(-1, *[1] * self.width.ndim)

    def around(self, surrogate: Surrogate, rows: Batch) -> tuple[Tensor, Tensor]:
        """Lower and upper end for simulations, each (batch, *event)."""
        middle, half = predicted(surrogate, rows), self.half(surrogate, rows.theta)
        return middle - half, middle + half

    def holds(self, surrogate: Surrogate, rows: Batch) -> Float[Tensor, " batch"]:
        """The fraction of points at which each solution lies within."""
        low, high = self.around(surrogate, rows)
        true = rows.x[surrogate.target]
        return ((true >= low) & (true <= high)).flatten(1).double().mean(1)


def conformal(
    surrogate: Surrogate | Fit, fresh: Store | Batch, *, level: float = 0.9, simultaneous: bool = False
) -> Band:
    """A band that holds, from simulations that the surrogate was not trained on.

    Args:
        surrogate: What predicts; of a fit it can be told whether simulations are fresh.
        fresh: Simulations of another seed than it was trained on.
        level: Probability to lie within the band.
        simultaneous: Whether whole fields are to, not points each for itself.

    Raises:
        ValueError: If the level is not between 0 and 1, or simulations are too few for it: (m + 1) (1 - level) >= 1;
            or if they may be among those that the fit was trained on.
    """
    if isinstance(surrogate, Fit):
        known = trained_on(surrogate)
        if isinstance(fresh, Store) and {fresh.digest, campaign_of(fresh.simulator, fresh.seed)} & known:
            raise ValueError(f"{fresh.path} may hold simulations that {surrogate} was trained on: take another seed")
        surrogate = surrogate.surrogate
    if not 0 < level < 1:
        raise ValueError(f"a band's level lies between 0 and 1, got {level}")
    rows = fresh.load() if isinstance(fresh, Store) else fresh
    count = len(rows)
    used = count // 2 if simultaneous else count
    rank = math.ceil((used + 1) * level - 1e-9)
    if rank > used:
        least = math.ceil(level / (1 - level) - 1e-9) * (2 if simultaneous else 1)
        raise ValueError(f"{count} simulations are too few for a band of {level:.0%}; give at least {least}")
    off = (rows.x[surrogate.target] - predicted(surrogate, rows)).abs()
    off = off / surrogate.spread(rows.theta).to(off).reshape(-1, *[1] * (off.ndim - 1))
    if simultaneous:
        scale = off[used:].square().mean(0).sqrt()
        scale = scale.clamp_min(0.1 * float(scale.square().mean().sqrt()))  # where the half saw hardly any error
        width = scale * (off[:used] / scale).flatten(1).amax(1).kthvalue(rank).values
    else:
        width = off.kthvalue(rank, dim=0).values
    return Band(width, level, simultaneous, count)


def crps(draws: Float[Tensor, "draw batch ..."], true: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch ..."]:
    """The continuous ranked probability score at every point, fair to small ensembles.

    Raises:
        ValueError: If there are fewer than two draws.
    """
    count = _several(draws)
    ordered = draws.sort(0).values
    weight = 2 * torch.arange(1, count + 1, dtype=draws.dtype, device=draws.device) - count - 1
    between = (ordered * weight.reshape(-1, *[1] * (draws.ndim - 1))).sum(0)  # half of the sum over pairs
    return (draws - true).abs().mean(0) - between / (count * (count - 1))


def spread_skill(draws: Float[Tensor, "draw batch ..."], true: Float[Tensor, "batch ..."]) -> float:
    """Spread of draws over the error of their mean.

    Raises:
        ValueError: If there are fewer than two draws.
    """
    count = _several(draws)
    spread = ((count + 1) / count * draws.var(0).mean()).sqrt()
    return float(spread / (draws.mean(0) - true).square().mean().sqrt().clamp_min(1e-30))


def rank_histogram(draws: Float[Tensor, "draw batch ..."], true: Float[Tensor, "batch ..."]) -> Int[Tensor, " rank"]:
    """How often the truth has each rank among the draws, over all points: (draws + 1,)."""
    ranks = (draws < true).sum(0)
    return torch.bincount(ranks.flatten(), minlength=len(draws) + 1)


def interval_coverage(
    draws: Float[Tensor, "draw batch ..."], true: Float[Tensor, "batch ..."], level: float
) -> Float[Tensor, " batch"]:
    """The fraction of points at which the truth lies in the draws' central interval.

    Raises:
        ValueError: As `interval`.
    """
    low, high = interval(draws, level)
    return ((true >= low) & (true <= high)).flatten(1).double().mean(1)


def interval(draws: Float[Tensor, "draw batch ..."], level: float = 0.9) -> tuple[Tensor, Tensor]:
    """Lower and upper ends of central intervals, (batch, ...) each.

    They hold the truth with the probability asked for if that is one more draw of the same law: the k-th of n draws
    lies below it with probability k / (n + 1).

    Raises:
        ValueError: If the level is not between 0 and 1, or there are too few draws for it.
    """
    if not 0 < level < 1:
        raise ValueError(f"an interval's level lies between 0 and 1, got {level}")
    count, tail = len(draws), (1 - level) / 2
    place = tail * (count + 1) - 1
    if place < -1e-9:
        raise ValueError(
            f"{count} draws have no interval of level {level}: give at least {math.ceil(1 / tail - 1 - 1e-9)}, or a "
            f"level of at most {(count - 1) / (count + 1):.3f}"
        )
    ordered = draws.sort(dim=0).values  # torch.quantile refuses more than 16 million numbers
    below = max(0, min(int(place), count - 2))
    low = torch.lerp(ordered[below], ordered[below + 1], place - below)
    high = torch.lerp(ordered[-1 - below], ordered[-2 - below], place - below)
    return low, high


def _several(draws: Tensor) -> int:
    if len(draws) < 2:
        raise ValueError(f"an ensemble has at least two draws, got {len(draws)}")
    return len(draws)
