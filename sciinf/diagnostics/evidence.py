"""Is the evidence normalised? Simulations around the answer check this (`campaigns.normalisation`).

A constant that a log-likelihood lacks, or a factor of the data alone, does not affect parameters, but it affects the
evidence.
"""

from __future__ import annotations

from typing import final

from sciinf.campaigns.normalisation import NAME, Constant, Normalisation, normalisation, unused
from sciinf.core.diagnostic import Case, Diagnostic
from sciinf.core.findings import Finding


@final
class EvidenceConstant(Diagnostic):
    """Is the likelihood normalised, as the evidence requires? Shown only if the evidence is known."""

    name = NAME

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        if case.draws.log_evidence is None:
            return ()
        simulator, found = case.simulator, Normalisation(Constant.UNCONFIRMED)
        if simulator is not None and simulator.log_likelihood is not None and not isinstance(case.around, str):
            without = unused(simulator, case.seed)
            found = normalisation(simulator, case.theta, case.predicted, without, case.seed)
        return (found.finding,)
