r"""Scores of draws against a truth, and distances between two distributions known by draws.

**Scores** of K draws y_k for a truth y, at every point:

    CRPS = mean_k |y_k - y| - 1/(2 K (K - 1)) sum_{jk} |y_j - y_k|,
    energy score = the same of whole fields, with Euclidean norms for |.|,
    spread-skill ratio = sqrt((K + 1) / K mean variance) / rms error of the mean,      1 for an ensemble that is right,
    rank of y among the y_k, even from 0 to K for one that is.

Both scores are lowest, on average, for draws from the distribution of the truth. The scores here are fair: their
means do not depend on K. With K^2 in place of K (K - 1) they are the scores of the ensemble as it stands, which
improve with more draws.

**Distances of two distributions**, from draws of both. With a_(i) and b_(i) the sorted projections on a direction,

    sliced Wasserstein = (mean over directions of mean_i |a_(i) - b_(i)|^p)^(1/p),

The energy of a field in octaves of its wave numbers shows how rough the field is.

References:
    | Strictly Proper Scoring Rules, Prediction, and Estimation (Gneiting & Raftery, 2007),
      https://doi.org/10.1198/016214506000001437
    | Fair scores for ensemble forecasts (Ferro, 2014), https://doi.org/10.1002/qj.2270
    | Why Should Ensemble Spread Match the RMSE of the Ensemble Mean? (Fortin et al., 2014),
      https://doi.org/10.1175/JHM-D-14-0008.1
    | Sliced and Radon Wasserstein Barycenters of Measures (Bonneel et al., 2015),
      https://doi.org/10.1007/s10851-014-0506-3
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

Drawn = Float[Tensor, "draw batch ..."]
Values = Float[Tensor, "batch ..."]
_DIRECTIONS = 200


def crps(draws: Drawn, true: Values, *, fair: bool = True) -> Values:
    """Continuous ranked probability score at every point.

    Args:
        draws: Draws y_k.
        true: True values y.
        fair: Whether the mean score must not depend on the number of draws.

    Raises:
        ValueError: If there are fewer than two draws.
    """
    count = _several(draws)
    ordered = draws.sort(0).values
    weight = 2 * torch.arange(1, count + 1, dtype=draws.dtype, device=draws.device) - count - 1
    between = (ordered * weight.reshape(-1, *[1] * (draws.ndim - 1))).sum(0)  # This is half of the sum over pairs.
    return (draws - true).abs().mean(0) - between / (count * (count - fair))


def energy_score(draws: Drawn, true: Values, *, fair: bool = True) -> Float[Tensor, " batch"]:
    """Energy score of whole fields, which unlike the CRPS depends on how the points vary together.

    Args:
        draws: Draws y_k.
        true: True values y.
        fair: Whether the mean score must not depend on the number of draws, as in `crps`.

    Raises:
        ValueError: If there are fewer than two draws.
    """
    count = _several(draws)
    each, one = draws.flatten(2).transpose(0, 1), true.flatten(1)[:, None]  # The shape is (batch, draw, number).
    between = torch.cdist(each, each, compute_mode="donot_use_mm_for_euclid_dist").sum((1, 2))
    return (each - one).norm(dim=-1).mean(1) - between / (2 * count * (count - fair))


def spread_skill(draws: Drawn, true: Values) -> float:
    """Ratio of the spread of draws to the error of their mean.


    Raises:
        ValueError: If there are fewer than two draws.
    """
    count = _several(draws)
    spread = ((count + 1) / count * draws.var(0).mean()).sqrt()
    return float(spread / (draws.mean(0) - true).square().mean().sqrt().clamp_min(1e-30))


def rank_histogram(draws: Drawn, true: Values) -> Int[Tensor, " rank"]:
    """How often the truth has each rank among the draws, over all points: (draws + 1,)."""
    ranks = (draws < true).sum(0)
    return torch.bincount(ranks.flatten(), minlength=len(draws) + 1)


def interval_coverage(draws: Drawn, true: Values, level: float) -> Float[Tensor, " batch"]:
    """Fraction of points at which the truth lies in the central interval of the draws.

    Raises:
        ValueError: If the level is not between 0 and 1, or there are too few draws for it, as in `interval`.
    """
    low, high = interval(draws, level)
    return ((true >= low) & (true <= high)).flatten(1).double().mean(1)


def interval(draws: Drawn, level: float = 0.9) -> tuple[Tensor, Tensor]:
    """Lower and upper ends of central intervals, (batch, ...) each.

    An interval holds the truth with probability `level` if the truth is one more draw from the same distribution.
    The k-th of n sorted draws lies below the truth with probability k / (n + 1).

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
    ordered = draws.sort(dim=0).values  # `torch.quantile` refuses more than 16 million numbers.
    below = max(0, min(int(place), count - 2))
    low = torch.lerp(ordered[below], ordered[below + 1], place - below)
    high = torch.lerp(ordered[-1 - below], ordered[-2 - below], place - below)
    return low, high


def _several(draws: Tensor) -> int:
    if len(draws) < 2:
        raise ValueError(f"an ensemble has at least two draws, got {len(draws)}")
    return len(draws)


def sliced_wasserstein(
    first: Float[Tensor, "draw dim"], second: Float[Tensor, "other dim"], *, order: int = 2, seed: int = 0
) -> float:
    """Sliced Wasserstein distance of two distributions, estimated from draws of each.

    Two sets of draws of the same distribution have a distance above 0.

    Args:
        first: Draws of one distribution. Divide each dimension by its sd to give all dimensions the same weight.
        second: Draws of the other distribution; their number may differ.
        order: Order p of the distance, 1 or 2.
        seed: Seed of the 200 directions.

    Raises:
        ValueError: If a set has fewer than two draws, or the sets have different numbers of dimensions.
    """
    if first.shape[1:] != second.shape[1:] or first.ndim != 2:
        raise ValueError(f"draws are (n, dim) and (m, dim), got {tuple(first.shape)} and {tuple(second.shape)}")
    count = min(_several(first), _several(second))
    directions = torch.randn(first.shape[1], _DIRECTIONS, generator=torch.Generator().manual_seed(seed)).to(first)
    directions = directions / directions.norm(dim=0)
    one, other = (_ordered(draws.to(first) @ directions, count) for draws in (first, second))
    return float((one - other).abs().pow(order).mean() ** (1 / order))


def _ordered(values: Tensor, count: int) -> Tensor:
    """`count` quantiles of each column; the sorted values themselves if there are `count` of them."""
    ordered = values.sort(0).values
    if len(ordered) == count:
        return ordered
    place = (torch.arange(count, dtype=torch.float64, device=values.device) + 0.5) * len(ordered) / count - 0.5
    below = place.clamp(0, len(ordered) - 1).long().clamp_max(len(ordered) - 2)
    share = (place - below).clamp(0.0, 1.0).to(values)[:, None]
    return torch.lerp(ordered[below], ordered[below + 1], share)


def octaves(fields: Float[Tensor, "*batch space"], axes: int = 1) -> Float[Tensor, "*batch octave"]:
    """Energy of periodic fields in octaves of their wave numbers: 1 to 2, 2 to 4, ... without the upper end.

    Args:
        fields: Fields, with space in their last axes.
        axes: Number of axes of space.

    Returns:
        Mean square of the waves in each octave, for octaves that all axes resolve completely. Together with the
        square of the mean and with the waves beyond, they add up to the mean square of the field.
    """
    space = fields.shape[-axes:]
    squares = torch.fft.fftn(fields, dim=tuple(range(-axes, 0)), norm="forward").abs().square().flatten(-axes)
    waves = [torch.fft.fftfreq(n, 1 / n, dtype=torch.float64, device=fields.device) for n in space]
    size = torch.stack(torch.meshgrid(*waves, indexing="ij")).norm(dim=0).flatten()
    lows = [2**k for k in range(min(space).bit_length() - 2)]
    return torch.stack([squares[..., (size >= low) & (size < 2 * low)].sum(-1) for low in lows], -1)
