"""Does a second network, trained around an answer, give the same answer?

The local check (`here`) finds errors that a network makes everywhere around an observation. They are about a third
of its error at one observation. The rest is particular to the network, and another network errs differently. So
where the check does not find an answer wrong, one round is simulated around the answer and a network is trained on
this round alone (`posteriors.refined`). The answers agree if they differ (`posteriors.changes`) by at most two
thirds of the error that a right answer may have. This leaves a third for the second network's own error (`right`). A
network from around an answer has far less to learn, so it is hardly ever the wrong one of the two.

Both networks see the data through a summary of the same kind. Where the check says that the data contain more
information, or has too few simulations, the second network must therefore pass a check of its own. No second network
can excuse draws far out, which make an sd too large. `changes` tolerates a part of the difference of sds that such
draws make uncertain.
"""

from __future__ import annotations

from collections.abc import Iterable

from sciinf.core import Calibration, Finding, Level
from sciinf.diagnostics.right import NAME, Kind, local_check, words_of
from sciinf.posteriors.changes import agree, beyond

OWN = {
    Level.GOOD: "its own check sees no error",
    Level.CAUTION: "its own check has hints that it may be off",
    Level.ALARM: "its own check finds it wrong",
    Level.UNKNOWN: "its own check cannot tell",
}


def undecided(check: Finding) -> bool:
    """Whether a second network has to decide if an answer is right.

    It has to where the local check saw no error, found a little more information in the data, or had too few
    simulations.
    """
    asked = check.name == NAME and check.kind in (Kind.UNSEEN, Kind.LOST, Kind.UNTOLD)
    return asked and not check.figures.get("second")


def decides(check: Finding, differs: tuple[float, float], own: Level | None) -> bool:
    """Whether a second network's answer settles an undecided check; otherwise that network must be checked itself.

    Args:
        check: The undecided check.
        differs: Differences of the two answers, as in `compared`.
        own: Level of the second network's own check, as in `compared`; None where it has none.
    """
    return not agree(differs) or check.kind == Kind.UNSEEN or own is not None


def compared(check: Finding, differs: tuple[float, float], simulations: int, own: Level | None = None) -> Finding:
    """Finding of an undecided check after a second network has answered.

    Args:
        check: The undecided check.
        differs: Differences of the two answers (`posteriors.changes`); with NaN the answers do not agree.
        simulations: Number of simulations that the second network was trained on.
        own: Level of the second network's own check; None where it has none, see `decides`.

    Returns:
        Right where the answers agree, and the second network's own check is good; where the first check saw no
        error, the second network's check need only have no hint. Otherwise a caution where the answers differ by
        more than a right answer may be off by, or the second network's own check has hints; and unknown in between.
    """
    unseen, of_it = check.kind == Kind.UNSEEN, check.figures.get("details", "")
    other = f"a second network, trained on {simulations:,} simulations around it, differs"
    by = f"{other}{' by little' if agree(differs) else ''}: {words_of(differs)}"
    by += f", {'and' if own == Level.GOOD else 'but'} {OWN[own]}" if own else ""
    if agree(differs) and (own == Level.GOOD or (unseen and own not in (Level.ALARM, Level.CAUTION))):
        details = f"{of_it}; {by}" if unseen else f"{by}; the first check: {of_it}"
        return local_check(Kind.RIGHT, details, second=True)
    doubtful = beyond(differs) or own in (Level.ALARM, Level.CAUTION)
    details = f"{of_it}; {by}" if check.kind == Kind.LOST else by
    way_on = "Refine it (infer --refine auto), or train on more simulations"
    return local_check(Kind.HINTED if doubtful else Kind.UNSETTLED, details, second=True, way_on=way_on)


def wrong_on_average(calibration: Calibration | None) -> bool:
    """Whether a network's calibration did not pass, so that the local check alone cannot support its answer."""
    return calibration is not None and calibration.state == "not passed"


def vouched(checks: Iterable[Finding], calibration: Calibration | None) -> tuple[Finding, ...]:
    """Findings about an answer, with care for a network that is wrong on average.

    For such a network, a local check that saw no error becomes a caution.


    Args:
        checks: Findings of the checks that were made.
        calibration: Calibration of the network, where there is one.
    """
    if not wrong_on_average(calibration):
        return tuple(checks)
    words = "it saw no error, but the network is wrong on average, and this check does not see all errors"
    return tuple(
        local_check(Kind.UNSETTLED, f"{words}; {check.figures.get('details', '')}", level=Level.CAUTION)
        if check.name == NAME and check.kind == Kind.UNSEEN
        else check
        for check in checks
    )
