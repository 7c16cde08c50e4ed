"""Can the weights of the draws be relied on? Their effective sample size and the index of their tail decide.

Where a network's draws are weighted by the simulator's likelihood, the weighted draws follow the posterior as far as
the network reaches, even if the network is wrong. So this is the strongest available evidence. Pareto's k shows
whether a few weights dominate. The effective size is the number of draws without weights that would be equally good.

References:
    | Pareto smoothed importance sampling (Vehtari, Simpson, Gelman, Yao & Gabry, 2024),
      https://arxiv.org/abs/1507.02646
"""

from __future__ import annotations

from typing import final

from sciinf.core.diagnostic import Case, Diagnostic
from sciinf.core.findings import Finding
from sciinf.core.records import weights_finding
from sciinf.posteriors.tilted import judged_by_simulator, layers


@final
class DrawWeights(Diagnostic):
    """Can the weights of the draws be relied on? Shown only where draws are weighted."""

    name = "weights"

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        draws = case.draws
        if len(layers(case.posterior)) == 1 and draws.pareto_k is None:
            return ()
        likelihood = judged_by_simulator(case.posterior)
        return (weights_finding(draws.ess, len(draws), draws.pareto_k, likelihood=likelihood),)
