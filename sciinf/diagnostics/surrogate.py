"""Were the data that the network learned from made by a surrogate, and not by the simulator itself?

Calibration, predictions and simulations around the answer are made by the same surrogate, so none of them sees its
error. The data of an `Emulator` carry the error that it has on held-out solutions, unless it is told to leave it out.
Where draws are weighted by the likelihood of a simulator that is no surrogate, the surrogate only proposed them.
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
    """The finding about an answer that was learned through surrogates.

    Args:
        surrogates: Each with its error, in words.
        carried: Whether the data carry this error.
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
    """Were the data that the network learned from made by a surrogate? The line is there only if so."""

    name, cause = NAME, Cause.SURROGATE

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        judges = [one.emulated_by for one in layers(case.posterior) if isinstance(one, Reweighted)]
        records = [*simulators_of(case.posterior.trained_on), *judges]
        with_error, bare = ({one[key] for one in records if key in one} for key in (SURROGATE, BARE))
        each = sorted(with_error | bare)
        return (learned_through(each, carried=not bare, weighted={} in judges),) if each else ()
