"""A second network around an answer: does it give the same one?

The local check (`here`) finds what is wrong everywhere around an observation, which is about a third of a network's
error at one observation. The rest is that network's own, and another one errs in another way. So where no error is
seen, one round is simulated around the answer and a network is trained on it alone (`inference.refined`). The answers
agree where they differ (`inference.changes`) by at most two thirds of what a right one may be off by, which leaves a
third for the second network's own error (`right`). A network from around an answer has far less to learn, so that of
the two it is hardly ever the one that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sciinf.core import Calibration, Check
from sciinf.trust.here import NAME
from sciinf.trust.right import RIGHT, UNSEEN, agree, words_of

_WRONG = "it is not called right, for the network is wrong on average"


def unconfirmed(check: Check) -> bool:
    """Whether it saw no error, and no second network has told whether there is one."""
    return check.name == NAME and check.level == "good" and check.verdict.startswith(UNSEEN)


def compared(check: Check, differs: tuple[float, float], simulations: int) -> Check:
    """What a check that saw no error becomes when a second network has answered.

    Args:
        check: The check.
        differs: By how much (`inference.changes`); where it is no number, the answers do not agree.
        simulations: That the second network was trained on.
    """
    by = words_of(differs)
    other = f"a second network, trained on {simulations:,} simulations around it, differs"
    if agree(differs):
        return Check(NAME, "good", f"{RIGHT}{check.verdict.removeprefix(UNSEEN)}; {other} by little: {by}")
    way_on = "Refine it (infer --refine auto), or train on more simulations"
    return Check(NAME, "caution", f"it may be off at this observation: {other}: {by}. {way_on}")


def vouched(checks: Iterable[Check], calibration: Calibration | None) -> tuple[Check, ...]:
    """Checks of an answer, of which none calls it right where its network is wrong on average.

    Args:
        checks: Those that were made.
        calibration: Of the network, where there is one.
    """
    if calibration is None or calibration.state != "not passed":
        return tuple(checks)
    return tuple(
        replace(check, verdict=f"{check.verdict.replace(RIGHT, UNSEEN, 1)}; {_WRONG}")
        if check.verdict.startswith(RIGHT)
        else check
        for check in checks
    )
