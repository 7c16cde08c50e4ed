r"""How good predicted fields and their error bars are: bands that hold.

**Conformal bands.** With scores r_i(p) = |u_i(p) - f_i(p)| / s(theta_i) of m fresh simulations, s the error that the
surrogate expects, and q(p) the ceil((m + 1) level)-th smallest at a point p, the band f +- q(p) s(theta) holds the
solution of a new simulation there with probability of at least `level`, whatever f and s are and without any law. For
bands of whole fields (`simultaneous`) the score is the largest over points of r_i(p) over its rms, which half of the
simulations tell; m is the other half. Over the draw of the m simulations that probability is Beta(k, m + 1 - k), k the
rank: with m = 200 and level 0.9 it lies within 0.86 and 0.94 in 19 of 20 cases.

References:
    | Algorithmic Learning in a Random World (Vovk, Gammerman, Shafer, 2005), https://doi.org/10.1007/b106715
    | Calibrated Uncertainty Quantification for Operator Learning via Conformal Prediction (Ma et al., 2024),
      https://arxiv.org/abs/2402.01960
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sciinf.campaigns.store import Store
from sciinf.core import Batch, Fit, Surrogate, predicted
from sciinf.core.fit import trained_on


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
        if isinstance(fresh, Store) and fresh.campaign & known:
            raise ValueError(
                f"{fresh.folder.name} may hold simulations that {surrogate} was trained on: take another seed"
            )
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
