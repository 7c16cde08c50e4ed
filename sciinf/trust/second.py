"""A second network around an answer: does it give the same one?

The local check (`here`) finds what is wrong everywhere around an observation, which is about a third of a network's
error at one observation. The rest is that network's own, and another one errs in another way. So where the check does
not find an answer wrong, one round is simulated around the answer and a network is trained on it alone
(`inference.refined`). The answers agree where they differ (`inference.changes`) by at most two thirds of what a right
one may be off by, which leaves a third for the second network's own error (`right`). A network from around an answer
has far less to learn, so that of the two it is hardly ever the one that is wrong.

Both see the data through a summary of the same kind. Where the check says that the data tell more, or has too few
simulations, the second network must therefore pass a check of its own. Draws far out, which make an sd too large, are
for no second network to excuse: of sds that they make uncertain, `changes` forgives a part.
"""

from __future__ import annotations

from collections.abc import Iterable

from sciinf.core import Calibration, Check
from sciinf.trust.here import NAME
from sciinf.trust.right import HINTED, LOST, RIGHT, UNSEEN, UNSETTLED, UNTOLD, agree, beyond, words_of

_WRONG = "for the network is wrong on average"
_SECOND = "a second network, trained on"
OWN = {
    "good": "its own check sees no error",
    "caution": "its own check has hints that it may be off",
    "alarm": "its own check finds it wrong",
    "unknown": "its own check cannot tell",
}


def unconfirmed(check: Check) -> bool:
    """Whether it saw no error, and no second network has told whether there is one."""
    return check.name == NAME and check.level == "good" and check.verdict.startswith(UNSEEN)


def undecided(check: Check) -> bool:
    """Whether a second network has to tell if an answer is right.

    So it is where the local check saw no error, found that the data tell a little more, or had too few simulations.
    """
    return check.name == NAME and check.verdict.startswith((UNSEEN, LOST, UNTOLD)) and _SECOND not in check.verdict


def decides(check: Check, differs: tuple[float, float], own: str) -> bool:
    """Whether a second network's answer settles an undecided check; where it does not, it has to be checked itself.

    Args:
        check: The check.
        differs: As in `compared`, as is own.
        own: Level of its own check, "" where it has none.
    """
    return not agree(differs) or unconfirmed(check) or own != ""


def compared(check: Check, differs: tuple[float, float], simulations: int, own: str = "") -> Check:
    """What an undecided check becomes when a second network has answered.

    Args:
        check: The check.
        differs: By how much (`inference.changes`); where it is no number, the answers do not agree.
        simulations: That the second network was trained on.
        own: Level of the second network's own check, "" where it has none; see `decides`.

    Returns:
        Right where the answers agree, and the second network's own check is good; where this one saw no error, it need
        only have no hint. Else a caution where they differ by more than a right answer may be off by, or the second
        network's own check has hints; and unknown between.
    """
    unseen, lost = unconfirmed(check), check.verdict.startswith(LOST)
    of_it = check.verdict.partition(": ")[2]
    other = f"{_SECOND} {simulations:,} simulations around it, differs"
    by = f"{other}{' by little' if agree(differs) else ''}: {words_of(differs)}"
    by += f", and {OWN[own]}" if own == "good" else f", but {OWN[own]}" if own else ""
    if agree(differs) and (own == "good" or (unseen and own not in ("alarm", "caution"))):
        return Check(NAME, "good", f"{RIGHT}: {of_it}; {by}" if unseen else f"{RIGHT}: {by}; the first check: {of_it}")
    doubtful = beyond(differs) or own in ("alarm", "caution")
    level, said = ("caution", HINTED) if doubtful else ("unknown", UNSETTLED)
    way_on = "Refine it (infer --refine auto), or train on more simulations"
    return Check(NAME, level, f"{said}: {f'{of_it}; ' if lost else ''}{by}. {way_on}")


def wrong_on_average(calibration: Calibration | None) -> bool:
    """Whether a network's calibration did not pass, so that no check at one observation speaks for its answer."""
    return calibration is not None and calibration.state == "not passed"


def vouched(checks: Iterable[Check], calibration: Calibration | None) -> tuple[Check, ...]:
    """Checks of an answer, of which the local one is not good where its network is wrong on average.

    Args:
        checks: Those that were made.
        calibration: Of the network, where there is one.
    """
    if not wrong_on_average(calibration):
        return tuple(checks)
    return tuple(
        Check(NAME, "unknown", f"{UNSETTLED}, {_WRONG}: {check.verdict.replace(RIGHT, UNSEEN, 1)}")
        if (check.name, check.level) == (NAME, "good")
        else check
        for check in checks
    )
