r"""What draws of discrete parameters are weighted by: every value is drawn, as likely as its posterior may need it.

Weights cannot bring back what was never drawn. A network that is sure of the wrong model gives no draw of the right
one, the weights of all others are as even as ever, and neither the effective size nor k-hat tells of it. So draws come
from a law r that gives each value of a discrete parameter, whatever those before it are, at least a tenth of its prior
probability. Where the learned density knows such probabilities (`Marginals`), r is that density with the floor,

    r(d_i | d_<i, x) = (1 - f) q(d_i | d_<i, x) + f p(d_i | d_<i),      f = 1/10.

Where it does not, or is zero in parts of the prior, a tenth of the draws come from the prior: r = (1 - f) q + f p. It
costs at most a tenth of the effective size where q was right, and log (1 / f) of the evidence nowhere, for the weights
are p(theta) p(x | theta) / r(theta) whatever r is.

References:
    | Weighted average importance sampling and defensive mixture distributions (Hesterberg, 1995),
      https://doi.org/10.1080/00401706.1995.10484303
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Density, Posterior, X
from sciinf.core.estimator import Marginals
from sciinf.inference.amortised import Amortised
from sciinf.inference.ensemble import Ensemble
from sciinf.inference.learned import covers

FLOOR = 0.1


@final
class Floored:
    """r of one observation.

    Args:
        posterior: What was learned, with a density.
        x: The observation, name -> (1, *event).
    """

    def __init__(self, posterior: Posterior, x: X) -> None:
        self.posterior, self.prior, self.x = posterior, posterior.prior, x
        self._parts = _with_floor(posterior, x)
        self._defensive = FLOOR if self._parts is None or not covers(posterior) else 0.0

    def sample(self, n: int, *, generator: torch.Generator) -> tuple[Float[Tensor, "n theta"], Float[Tensor, " n"]]:
        """n draws, and log r of each, float64."""
        theta = self._learned(n, generator)
        if self._defensive:
            other = torch.rand(n, generator=generator) < self._defensive
            theta[other] = self.prior.sample(int(other.sum()), generator=generator).to(theta)
        return theta, self.log_prob(theta)

    def log_prob(self, theta: Float[Tensor, "n theta"]) -> Float[Tensor, " n"]:
        """log r, float64."""
        if self._parts is None:
            log_q = self.posterior.log_prob_batched(theta[:, None], self.x)[:, 0].double()
        else:
            each = [part.log_prob(theta[:, None])[:, 0].cpu().double() for part in self._parts]
            log_q = torch.stack(each).logsumexp(0) - math.log(len(each))
        if not self._defensive:
            return log_q
        log_p = self.prior.log_prob(theta) + math.log(self._defensive)
        return torch.logaddexp(log_q + math.log1p(-self._defensive), log_p)

    def _learned(self, n: int, generator: torch.Generator) -> Tensor:
        if self._parts is None:
            return self.posterior.draw_batched(self.x, n, generator=generator)[:, 0]
        which = torch.randint(len(self._parts), (n,), generator=generator)
        counts = torch.bincount(which, minlength=len(self._parts)).tolist()
        drawn = [p.sample(c, generator=generator)[:, 0].cpu() for p, c in zip(self._parts, counts, strict=True) if c]
        return torch.cat(drawn)


def _with_floor(posterior: Posterior, x: X) -> Sequence[Density] | None:
    """The density with its floor, of each member of an ensemble; None where it knows no probabilities."""
    members = posterior.members if isinstance(posterior, Ensemble) else (posterior,)
    found = []
    for member in members:
        density = member.estimator.density(x) if isinstance(member, Amortised) else None
        if not isinstance(density, Marginals):
            return None
        found.append(density.with_floor(FLOOR))
    return found
