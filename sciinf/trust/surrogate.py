"""Were the data that the network learned from made by a surrogate, and not by the simulator itself?

Calibration, predictions and simulations around the answer are made by the same surrogate, so none of them sees what it
has wrong. Its error on held-out solutions is in the data that an `Emulator` makes, unless that is told to leave it out.
Where draws are weighted by the likelihood of a simulator that is no surrogate, the surrogate only proposed them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from sciinf.core.diagnostic import Case, Diagnostic
from sciinf.core.findings import Cause, Finding, Level
from sciinf.core.fit import simulators_of
from sciinf.core.simulator import SURROGATE
from sciinf.inference.reweighted import Reweighted
from sciinf.inference.tilted import layers

NAME = "surrogate"


def learned_through(surrogates: Sequence[str], *, weighted: bool) -> Finding:
    """The finding about an answer that was learned through surrogates.

    Args:
        surrogates: Each with its error, in words.
        weighted: Whether draws are weighted by the likelihood of a simulator that is no surrogate.
    """
    words = f"it was learned through a surrogate, {' and '.join(surrogates)}; "
    if weighted:
        words += "its draws are weighted by the likelihood of the true simulator"
    else:
        words += f"no check sees what that has wrong, for they all go by it. To mend it, {Cause.SURROGATE}"
    return Finding(NAME, Level.GOOD if weighted else Level.CAUTION, words, figures={"surrogates": list(surrogates)})


@final
class LearnedThrough(Diagnostic):
    """Were the data that the network learned from made by a surrogate? The line is there only if so."""

    name, cause = NAME, Cause.SURROGATE

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        judges = [one.emulated_by for one in layers(case.posterior) if isinstance(one, Reweighted)]
        each = {one[SURROGATE] for one in simulators_of(case.posterior.trained_on) if SURROGATE in one}
        each |= {one for one in judges if one}
        return (learned_through(sorted(each), weighted="" in judges),) if each else ()
