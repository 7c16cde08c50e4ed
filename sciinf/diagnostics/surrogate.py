"""Did the network learn from data of a surrogate, and not of the simulator itself?

Calibration, predictions and simulations around the answer come from the same surrogate, so none of them detects its
error. The data of an `Emulator` contain the error that the surrogate has on held-out solutions, unless this is
switched off. Where draws are weighted by the likelihood of a simulator that is no surrogate, the surrogate only
proposed the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from sciinf.core.diagnostic import Case, Diagnostic
from sciinf.core.findings import Cause, Finding, Level
from sciinf.core.fit import simulators_of
from sciinf.core.simulator import BARE, SURROGATE
from sciinf.posteriors.reweighted import Reweighted
from sciinf.posteriors.tilted import layers

NAME = "surrogate"


def learned_through(surrogates: Sequence[str], *, carried: bool, weighted: bool) -> Finding:
    """Return the finding about an answer that was learned through surrogates.

    Args:
        surrogates: Each surrogate with its error, in words.
        carried: Whether the data contain this error.
        weighted: Whether draws are weighted by the likelihood of a simulator that is no surrogate.
    """
    words, level = f"it was learned through a surrogate, {' and '.join(surrogates)}; ", Level.GOOD
    if weighted:
        words += "its draws are weighted by the likelihood of the true simulator"
    elif carried:
        words += "its data carry this error, so the answer is as wide as the error demands"
    else:
        words += f"its data do not carry this error, and no check sees it. To mend it, {Cause.SURROGATE}"
        level = Level.CAUTION
    return Finding(NAME, level, words, figures={"surrogates": list(surrogates)})


@final
class LearnedThrough(Diagnostic):
    """Did the network learn from data of a surrogate? Shown only if so."""

    name, cause = NAME, Cause.SURROGATE

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        judges = [one.emulated_by for one in layers(case.posterior) if isinstance(one, Reweighted)]
        records = [*simulators_of(case.posterior.trained_on), *judges]
        with_error, bare = ({one[key] for one in records if key in one} for key in (SURROGATE, BARE))
        each = sorted(with_error | bare)
        return (learned_through(each, carried=not bare, weighted={} in judges),) if each else ()
