r"""How probable values are by the network, beside what they are by the likelihood: two ways to compare models.

Where models share data and their likelihood is known, the weights of draws give the evidence of each value a,
p(x | a) = Z P_w(a) / P(a), and with it the Bayes factor of two; the network gives another by its probabilities alone.
The answer is by the weights. How far the network is from it tells what it is worth where there are none.

References:
    | Bayes Factors (Kass & Raftery, 1995), https://doi.org/10.1080/01621459.1995.10476572
"""

from __future__ import annotations

import math
from typing import final

from sciinf.core import Case, Diagnostic, Finding, Level, Need

NAME = "model comparison"
_FAR, _SURE = 1.0, 3.0  # nats, and standard errors, by which a network is off


@final
class ModelComparison(Diagnostic):
    """How far are the probabilities of the network alone from those of the likelihood? For discrete parameters."""

    name, needs = NAME, frozenset({Need.OBSERVATION})

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        if case.plain is None:
            return ()
        weighted = case.draws.of_parameters()
        found, far = [], False
        for name in weighted.categories:
            p, q = weighted.probabilities(name), case.plain.probabilities(name)
            if p.exists < 1:
                continue
            a, b = (p.values[k] for k in p.ranked[:2])
            (mine, error), (net, _) = p.log_bayes_factor(a, b), q.log_bayes_factor(a, b)
            far = far or (math.isfinite(error) and abs(mine - net) > max(_FAR, _SURE * error))
            size = f"{mine:.2f} +- {error:.2f}" if math.isfinite(error) else f"more than {mine:.1f}"
            found.append(f"{name} = {a} : {b} is {size} by the likelihood and {net:.2f} by the network")
        if not found:
            return ()
        words = f"log Bayes factor of {'; '.join(found)}; the answer is by the likelihood"
        more = ". By itself the network is not to be relied on: train on more simulations" if far else ""
        # The answer is right where its weights are, which `draws` tells.
        return (Finding(NAME, Level.GOOD, words + more),)
