"""How far do errors of added scores move the answer to a set of observations?

The answer adds up the scores of single observations. `posteriors.compositional` has the formula: a shift of t
sqrt(n) sds, with t^2 known from held-out simulations up to chance. Beyond a third of an sd the answer is wrong. The
result is unknown where chance alone could hide a shift that matters, or where there are no held-out simulations.
"""

from __future__ import annotations

import math
from typing import final

from sciinf.core.diagnostic import Case, Diagnostic
from sciinf.core.findings import Cause, Evidence, Finding, Level
from sciinf.posteriors.compositional import ERRORS, WRONG, Compositional
from sciinf.posteriors.tilted import layers

_MATTERS = 0.15  # Standard deviations.


def check_composed(shift: float | None, chance: float, count: int) -> Finding:
    """Return the finding about an answer that is composed of several scores.

    Args:
        shift: Expected shift of the answer by errors of the scores, in sds; None if unknown.
        chance: Largest shift that held-out simulations cannot tell from no shift, in sds.
        count: Number of scores that are added up.
    """
    name, what = Composed.name, f"errors of {count:,} scores that are added up"
    if shift is None or not math.isfinite(shift):
        words = f"nothing tells how {what} move the answer: pass held_out=, simulations that it was not trained on"
        return Finding(name, Level.UNKNOWN, words, cause=Cause.FRESH)
    figures, told = {"shift": shift, "chance": chance}, shift**2 - ERRORS * chance**2
    if told > WRONG**2:
        words = f"{what} are expected to move the answer by {shift:.2g} sds"
        return Finding(name, Level.ALARM, words, figures=figures, cause=Cause.SIMULATIONS)
    if told > _MATTERS**2:
        words = f"{what} may move the answer by {shift:.2g} sds"
        return Finding(name, Level.CAUTION, words, figures=figures, cause=Cause.SIMULATIONS)
    if max(shift, chance) > _MATTERS:
        words = f"{what} may move the answer by {max(shift, chance):.2g} sds: held-out simulations are too few to tell"
        return Finding(name, Level.UNKNOWN, words, figures=figures, cause=Cause.FRESH)
    return Finding(
        name, Level.GOOD, f"{what} move the answer by less than {max(shift, chance):.2g} sds", figures=figures
    )


@final
class Composed(Diagnostic):
    """How far do errors of added scores move the answer? Shown only for a `Compositional` posterior."""

    name, evidence = "added scores", Evidence.AVERAGE

    def __call__(self, case: Case) -> tuple[Finding, ...]:
        own = layers(case.posterior)[-1]
        if not isinstance(own, Compositional) or own.factors == 1:
            return ()
        return (check_composed(*own.shift, own.factors),)
