r"""Share of an answer's variance between the members of an ensemble, which the network causes and not the data.

With m_k and v_k the mean and variance of a parameter by member k of K, the variance of their equal mixture is

    mean of v_k  (the data's)  +  mean of (m_k - m)^2  (the network's),    m = mean of m_k.

Members differ by their initial weights and the order of their rows. All members learn from the same simulations, so
they may share an error that does not show. The network's share is therefore a lower bound. For linear Gaussian
models after 500 to 8,000 simulations, the members' squared errors were two to seven times as large as their
variance. A large share says that more training pays; a small share shows nothing.

References:
    | Simple and scalable predictive uncertainty estimation using deep ensembles (Lakshminarayanan et al., 2017),
      https://arxiv.org/abs/1612.01474
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Case, Cause, Diagnostic, Evidence, Finding, Level, Need, Posterior, Prior, X
from sciinf.posteriors.ensemble import Ensemble
from sciinf.posteriors.mcmc import MCMC

NAME = "ensemble"
_DRAWS = 2_000
_LEAST = 100  # Least number of draws of each member in which a parameter exists.
_MUCH = 0.05
_NAMED = 4


def network_share(posterior: Ensemble, x: X, *, generator: torch.Generator) -> Float[Tensor, " theta"]:
    """Share of each parameter's variance that is between the members.

    Args:
        posterior: The ensemble.
        x: One observation, name -> (1, *event).
        generator: Source of randomness for 2,000 draws of each member. The spread of means that these draws cause by
            chance is subtracted.
    """
    draws = [m.draw_batched(x, _DRAWS, generator=generator)[:, 0].double() for m in posterior.members]
    if posterior.prior.mixed:
        return _mixed_share(posterior.prior, torch.stack(draws))
    within = torch.stack([each.var(0) for each in draws]).mean(0)
    means = torch.stack([each.mean(0) for each in draws])
    by_chance = within / _DRAWS * (len(draws) - 1) / len(draws)
    between = (means.var(0, correction=0) - by_chance).clamp_min(0.0)
    return between / (between + within).clamp_min(torch.finfo(torch.float64).tiny)


def _mixed_share(prior: Prior, draws: Float[Tensor, "member draw theta"]) -> Float[Tensor, " theta"]:
    """Share between members for a mixed prior, from the draws in which a parameter exists.

    For a discrete parameter, the variances are those of the indicators of its values. The share is 0 where too few
    draws have the parameter.
    """
    found, discrete = torch.zeros(len(prior), dtype=draws.dtype), prior.discrete()
    for d, name in enumerate(prior.names):
        column = draws[..., d]
        there = ~column.isnan()
        if name in discrete:
            values = torch.nn.functional.one_hot(discrete[name].codes(column) + 1).to(draws.dtype)
            there = torch.ones_like(there)
        else:
            values = column.nan_to_num(0.0)[..., None]
        count = there.sum(1)[:, None].to(draws.dtype)
        if int(count.min()) < _LEAST:
            continue
        means = (values * there[..., None]).sum(1) / count
        squares = ((values - means[:, None]).square() * there[..., None]).sum(1) / (count - 1)
        by_chance = (squares / count).mean(0).sum() * (len(draws) - 1) / len(draws)
        between = (means.var(0, correction=0).sum() - by_chance).clamp_min(0.0)
        found[d] = between / (between + squares.mean(0).sum()).clamp_min(torch.finfo(torch.float64).tiny)
    return found


def check_members(posterior: Posterior, x: X, seed: int) -> tuple[Finding, ...]:
    """Return the finding about an ensemble of networks; empty for any other posterior.

    It is also empty for members that sample by chains, which would take long.
    """
    if not isinstance(posterior, Ensemble) or len(posterior.members) < 2:
        return ()
    if any(isinstance(member, MCMC) for member in posterior.members):
        return ()
    share = network_share(posterior, x, generator=torch.Generator().manual_seed(seed))
    order = [d for d in share.argsort(descending=True).tolist() if share[d] > _MUCH]
    names, count = posterior.prior.names, len(posterior.members)
    if not order:
        words = (
            f"its {count} members differ by {float(share.max()):.1%} of a variance at most; what all of them lack, "
            "for they know the same simulations, does not show in this"
        )
        return (Finding(NAME, Level.GOOD, words),)
    each = ", ".join(f"{share[d]:.0%} of the variance of {names[d]}" for d in order[:_NAMED])
    more = f" and {len(order) - _NAMED} more" if len(order) > _NAMED else ""
    words = f"{each}{more} is between its {count} members, and so not the data's: train on more simulations"
    return (Finding(NAME, Level.CAUTION, words),)


@final
class EnsembleMembers(Diagnostic):
    """Do the members of an ensemble agree about this observation?"""

    name, cause, evidence = NAME, Cause.SIMULATIONS, Evidence.AVERAGE
    needs = frozenset({Need.OBSERVATION})

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        return check_members(case.posterior, case.x, case.seed)
