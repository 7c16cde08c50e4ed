r"""Do data come from one of the models that are listed? Of a prior with discrete parameters.

A network that has only seen some models is sure of one of them whatever it is shown: on data of another it may give a
listed one a probability of 0.99. Probabilities are among the listed models, and nothing in them tells that none is
right. Two statistics do, each where the other is blind: how unlike all simulations the observation is
(`diagnostics.ood`), of p-value p_1, and what the most probable model leaves unexplained of it, among data simulated
from that model around the answer (`diagnostics.residuals`), p_2. Both are right for data of a listed model, so

    p = min(1, 2 min(p_1, p_2))

is below a with a probability of at most a. Taking the most probable of K models adds little to that: it chooses the one
that explains the data best, which for data of another makes p_2 too large rather than too small.

References:
    | A note on the Bonferroni inequality in multiple testing (Simes, 1986), https://doi.org/10.1093/biomet/73.3.751
"""

from __future__ import annotations

from typing import final

from sciinf.core import Case, Cause, Diagnostic, Finding, Level

NAME = "listed models"
_ALARM, _UNUSUAL = 0.01, 0.05


def listed_p(unlike: float | None, residual: float | None) -> float | None:
    """The p-value of both statistics together; of one, where the other is not known; None where neither is."""
    known = [p for p in (unlike, residual) if p is not None]
    return min(1.0, len(known) * min(known)) if known else None


def _values(labels: tuple[str, ...]) -> str:
    return ", ".join(labels) if len(labels) <= 4 else f"{labels[0]} to {labels[-1]}"


@final
class ListedModels(Diagnostic):
    """Do the data come from one of the models that are listed? For discrete parameters."""

    name, cause = NAME, Cause.MODEL

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        if not case.posterior.prior.mixed:
            return ()
        what = ", ".join(f"{name} ({_values(law.labels)})" for name, law in case.posterior.prior.discrete().items())
        of = f"the values of {what}"
        one_of = f"one of {of}"
        p = listed_p(case.trust.p_value if case.trust else None, case.p_of("residuals"))
        if p is None:
            words = f"not checked whether the data come from {one_of}: calibrate, or ask with a simulator"
            return (Finding(NAME, Level.UNKNOWN, words),)
        if p >= _UNUSUAL:
            words = f"the data look like those of {one_of} (p = {p:.2g}); probabilities are among these"
            return (Finding(NAME, Level.GOOD, words, figures={"p": p}),)
        words = (
            f"the data {'' if p < _ALARM else 'may '}come from none of {of} (p = {p:.2g}), whatever their "
            "probabilities are, for these are among the listed ones: look at the residuals, and add a model that makes "
            "such data"
        )
        return (Finding(NAME, Level.ALARM if p < _ALARM else Level.CAUTION, words, figures={"p": p}),)
