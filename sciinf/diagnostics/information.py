r"""Parameters about which the data give no information: their posterior is their prior, alone and with the others.

Let u = F(theta) be a parameter's rank among draws of its prior, which is uniform where the posterior is the prior,
and g = Phi^-1(u). For n effective draws, the data give no information if

    sup |P(u <= v) - v| <= .03 + 1.4 / sqrt(n),    |sqrt(12) sd(u) - 1| <= .03 + 1 / sqrt(n),

and if the other parameters explain no more of g and g^2, by a line through their g and g^2, than in the prior: an
R^2 that is larger by at most .01 + 2 p / n, for p such numbers. So a parameter is not named if the data determine
its sum or product with another, although its own posterior may be its prior. Fewer than 2,000 effective draws are
too few to tell.

Reference: Mathematical Statistics (Bickel & Doksum, 2015), section 4.4: the distance of Kolmogorov and Smirnov
"""

from __future__ import annotations

import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Case, Diagnostic, Draws, Finding, Level
from sciinf.diagnostics.bounds import Bounds

NAME = "information"
_FEWEST = 2_000
_KS, _SD, _R2 = 0.03, 0.03, 0.01
_EDGE = 1e-4  # Prior mass at each end where normal scores are not distinguished.


def check_information(bounds: Bounds, draws: Draws) -> tuple[Finding, ...]:
    """Report the parameters about which the data give no information; empty if there are none.

    Args:
        bounds: The prior, with draws of it.
        draws: Weighted draws of the prior's parameters, which may be followed by derived quantities.
    """
    n, discrete = float(draws.ess), bounds.prior.discrete()
    always = ~(bounds.drawn.isnan().any(1) | draws.theta.isnan().any(0)[: len(bounds.drawn)])
    kept = [d for d, name in enumerate(bounds.prior.names) if bool(always[d]) and name not in discrete]
    if round(n) < _FEWEST or not kept:
        return ()
    prior, weights = bounds.drawn[kept], draws.weights.double()
    even = prior.new_full((prior.shape[1],), 1 / prior.shape[1])
    u, v = (_ranks(prior, theta) for theta in (draws.theta[:, kept].T.double(), prior))
    found = []
    for k, d in enumerate(kept):
        mean = weights @ u[k]
        sd = float((weights @ (u[k] - mean).square()).sqrt()) * math.sqrt(12)
        ordered, order = u[k].sort()
        far = float((weights[order].cumsum(0) - ordered).abs().max())
        more = 2 * (len(kept) - 1)
        if (
            far <= _KS + 1.4 / math.sqrt(n)
            and abs(sd - 1) <= _SD + 1 / math.sqrt(n)
            and _explained(u, weights, k) <= _explained(v, even, k) + _R2 + 2 * more / n
        ):
            found.append(bounds.prior.names[d])
    if not found:
        return ()
    its, it = ("its posterior is its prior", "it") if len(found) == 1 else ("their posteriors are their priors", "them")
    words = f"the data tell nothing of {', '.join(found)}, or the network has not learned {it}: {its}"
    return (Finding(NAME, Level.GOOD, words),)


def _ranks(prior: Float[Tensor, "theta n"], theta: Float[Tensor, "theta m"]) -> Float[Tensor, "theta m"]:
    """Share of the prior's draws below each value, plus half of the draws equal to it."""
    ordered, theta = prior.sort(1).values, theta.contiguous()
    twice = torch.searchsorted(ordered, theta) + torch.searchsorted(ordered, theta, right=True)
    return twice.double() / (2 * prior.shape[1])


def _explained(u: Float[Tensor, "theta n"], weights: Float[Tensor, " n"], k: int) -> float:
    """The larger of the shares of the variances of g_k and g_k^2 that the other parameters explain."""
    g = torch.special.ndtri(u.clamp(_EDGE, 1 - _EDGE))
    others = torch.cat([g[:k], g[k + 1 :]])
    design, y = torch.cat([others, others.square()]), torch.stack([g[k], g[k].square()])
    design, y = ((value - (value @ weights)[:, None]) * weights.sqrt() for value in (design, y))
    fit = torch.linalg.pinv(design @ design.T, hermitian=True) @ (design @ y.T)
    return float(((fit.T @ design).square().sum(1) / y.square().sum(1).clamp_min(1e-12)).max())


@final
class Information(Diagnostic):
    """Do the data inform every parameter? Shown only if not."""

    name = NAME

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        return check_information(case.bounds or Bounds(case.posterior.prior), case.draws)
