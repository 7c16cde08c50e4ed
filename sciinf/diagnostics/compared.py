r"""Compare the model probabilities of the network with those of the likelihood.

Consider models that share data and whose likelihood is known. The weights of draws give the evidence of each value
a, p(x | a) = Z P_w(a) / P(a), and with it the Bayes factor of two values. The network alone gives another Bayes
factor by its probabilities. The answer uses the weights. The distance between the two shows how reliable the network
is where there are no weights.

References:
    | Bayes Factors (Kass & Raftery, 1995), https://doi.org/10.1080/01621459.1995.10476572
"""

from __future__ import annotations

import math
from typing import final

from sciinf.core import Case, Diagnostic, Finding, Level, Need

NAME = "model comparison"
_FAR, _SURE = 1.0, 3.0  # A network is off if it differs by more nats, and by more standard errors, than this.


@final
class ModelComparison(Diagnostic):
    """Do the network alone and the likelihood give the same probabilities? Shown for discrete parameters."""

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
        # The level is good, because the answer is right where its weights are; the check of the draws reports on
        # these.
        return (Finding(NAME, Level.GOOD, words + more),)
