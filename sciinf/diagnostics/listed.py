r"""Do the data come from one of the listed models? For a prior with discrete parameters.

A network that has only seen some models is sure of one of them for any data. Given data of another model, it may
give a listed model a probability of 0.99. Probabilities are among the listed models, and they cannot show that none
is right. Two statistics can, and each detects faults that the other misses. The first is how unlike all simulations
the observation is (`diagnostics.ood`), with p-value p_1. The second is the part of the observation that the most
probable model does not explain, compared with data simulated from that model around the answer
(`diagnostics.residuals`), with p-value p_2. Both are right for data of a listed model, so

    p = min(1, 2 min(p_1, p_2))

is below a with a probability of at most a. Choosing the most probable of K models changes this little. It is the
model that explains the data best, so for data of another model p_2 is too large rather than too small.

References:
    | A note on the Bonferroni inequality in multiple testing (Simes, 1986), https://doi.org/10.1093/biomet/73.3.751
"""

from __future__ import annotations

from typing import final

from sciinf.core import Case, Cause, Diagnostic, Finding, Level

NAME = "listed models"
_ALARM, _UNUSUAL = 0.01, 0.05


def listed_p(unlike: float | None, residual: float | None) -> float | None:
    """Joint p-value of both statistics; the p-value of one where the other is unknown; None where both are unknown."""
    known = [p for p in (unlike, residual) if p is not None]
    return min(1.0, len(known) * min(known)) if known else None


def _values(labels: tuple[str, ...]) -> str:
    return ", ".join(labels) if len(labels) <= 4 else f"{labels[0]} to {labels[-1]}"


@final
class ListedModels(Diagnostic):
    """Do the data come from one of the listed models? Shown for discrete parameters."""

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
