"""A second network around an answer: does it give the same one?

The local check (`here`) finds what is wrong everywhere around an observation, which is about a third of a network's
error at one observation. The rest is that network's own, and another one errs in another way. So where the check does
not find an answer wrong, one round is simulated around the answer and a network is trained on it alone
(`inference.refined`). The answers agree where they differ (`inference.changes`) by at most two thirds of what a right
one may be off by, which leaves a third for the second network's own error (`right`). A network from around an answer
has far less to learn, so that of the two it is hardly ever the one that is wrong.

Both see the data through a summary of the same kind. Where the check has hints that something is lost, or too few
simulations, the second network must therefore pass a check of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from sciinf.core import Calibration, Check
from sciinf.trust.here import NAME
from sciinf.trust.right import HINTED, RIGHT, UNSEEN, UNSETTLED, UNTOLD, agree, beyond, words_of

_WRONG = "it is not called right, for the network is wrong on average"
_SECOND = "a second network, trained on"


def unconfirmed(check: Check) -> bool:
    """Whether it saw no error, and no second network has told whether there is one."""
    return check.name == NAME and check.level == "good" and check.verdict.startswith(UNSEEN)


def undecided(check: Check) -> bool:
    """Whether a second network has to tell if an answer is right: the check saw no error, or hints, or cannot tell."""
    return check.name == NAME and check.verdict.startswith((UNSEEN, HINTED, UNTOLD)) and _SECOND not in check.verdict


def compared(check: Check, differs: tuple[float, float], simulations: int, own: str = "") -> Check:
    """What an undecided check becomes when a second network has answered.

    Args:
        check: The check.
        differs: By how much (`inference.changes`); where it is no number, the answers do not agree.
        simulations: That the second network was trained on.
        own: Level of the second network's own check, which is asked where this one did not see "no error".

    Returns:
        Right where the answers agree; a caution where they differ by more than a right one may be off by; unknown
        between. Hints stay a caution unless the second network's answer agrees and has none.
    """
    found = next(said for said in (UNSEEN, HINTED, UNTOLD) if check.verdict.startswith(said))
    of_it, by = check.verdict.removeprefix(found).removeprefix(": "), words_of(differs)
    other = f"{_SECOND} {simulations:,} simulations around it, differs"
    if agree(differs) and (found == UNSEEN or own == "good"):
        return Check(NAME, "good", f"{RIGHT}: {of_it}; {other} by little: {by}")
    if agree(differs):
        by += {"alarm": ", but its own check finds it wrong", "caution": ", but its own check has hints"}.get(
            own, ", but its own check cannot tell"
        )
    way_on = "Refine it (infer --refine auto), or train on more simulations"
    if found == HINTED:
        return Check(NAME, "caution", f"{HINTED}: {of_it}; {other}: {by}. {way_on}")
    level, said = ("caution", HINTED) if beyond(differs) else ("unknown", UNSETTLED)
    return Check(NAME, level, f"{said}: {other}: {by}. {way_on}")


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
