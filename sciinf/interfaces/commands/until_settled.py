"""When rounds around an answer end: where one confirms the first answer, or where the refined one holds."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any

from sciinf.core.findings import Level
from sciinf.diagnostics.right import limits, words_of
from sciinf.diagnostics.second import OWN, compared, decides
from sciinf.posteriors.changes import agree

if TYPE_CHECKING:
    from sciinf.core import Finding, Simulator
    from sciinf.posteriors.refined import Refined

_DRAWS, _FEW = 2_000, 20  # that the local check is made around; simulations that tell what one costs
_STREAM = 2**31 + 6  # no campaign has this many blocks, so none shares these random numbers


class UntilSettled:
    """Asked after each round whether no further one is needed.

    Args:
        simulator: What is simulated.
        check: The local check of the first answer where that is undecided, so that the first round confirms it or not;
            None where the answer is to be refined anyway.
        sizes: Simulations of each round that there may be.

    Attributes:
        check: What it has become.
        differs: By how much the first round's answer differs from the first one, where that was asked.
        own: Level of that answer's own local check; None where it was not needed.
        ended: How many rounds have ended.
        words: What the last one told.
    """

    def __init__(self, simulator: Simulator, check: Finding | None, sizes: tuple[int, ...]) -> None:
        self.simulator, self.check, self.sizes = simulator, check, sizes
        self.differs: tuple[float, float] | None = None
        self.own: Level | None = None
        self.ended, self.words = 0, ""

    @property
    def confirmed(self) -> bool:
        """Whether the first answer was."""
        return self.differs is not None and self.check is not None and self.check.level == Level.GOOD

    def __call__(self, found: Refined) -> bool:
        self.ended += 1
        if self.ended == 1 and self.check is not None:
            self.differs = found.error
            if not decides(self.check, self.differs, None):
                self.own = _checked(self.simulator, found).level
            self.check = compared(self.check, self.differs, self.sizes[0], self.own)
            said = f"; {OWN[self.own]}" if self.own else ""
            said += ": it confirms the first answer" if self.confirmed else ": it does not confirm the first answer"
            self.words = f"the second network differs, {words_of(self.differs)} (limits {limits()}){said}"
            return self.confirmed
        if self.ended == len(self.sizes):
            self.words = f"{_errs(found)}; no simulations are left"
            return True
        if self.ended == 1:  # what it moved the answer by is the first network's error
            self.words = f"{_errs(found)}; so another round follows"
            return False
        self.words, settled = gained(self.simulator, found)
        self.words += "" if settled else "; so another round follows"
        return settled


def gained(sim: Simulator, found: Refined) -> tuple[str, bool]:
    """What a round left, in words, with what the local check says; and whether no further one is needed.

    A round whose answer errs is not the last, so that the check, which draws for thousands of data sets, is left. One
    whose answer does not is, unless the check says that it is wrong, or may be.

    Args:
        sim: The simulator.
        found: The posterior after that round.
    """
    if not agree(found.error):
        return _errs(found), False
    check = _checked(sim, found)
    return f"{_errs(found)}; {check.words}", check.level not in (Level.ALARM, Level.CAUTION)


def _checked(sim: Simulator, found: Refined) -> Finding:
    """The local check of a round's answer, from fresh simulations around it."""
    from sciinf.campaigns.block import generator_for, simulate_from
    from sciinf.core import Finding
    from sciinf.core.simulator import as_seen
    from sciinf.diagnostics.around import MANY, around_answer
    from sciinf.diagnostics.here import NAME, check_here

    sim, generator = as_seen(sim, found.asked), generator_for(0, _STREAM)
    theta = found.draw_batched(found.asked, _DRAWS, generator=generator)[:, 0]
    began = time.monotonic()
    simulate_from(sim, theta[:_FEW], generator=generator)
    seconds = (time.monotonic() - began) / _FEW
    how: dict[str, Any] = {"seconds": seconds, "generator": generator, "spread": found.prior.mixed}
    made = functools.partial(around_answer, found, sim, theta, **how)
    checks = check_here(found, found.asked, made(), functools.partial(made, sizes=MANY), generator=generator)
    return next(iter(checks), Finding(NAME, Level.UNKNOWN, "not checked"))


def _errs(found: Refined) -> str:
    """An answer's chance error, in words."""
    return f"chance error, by how far this round moved the answer: {words_of(found.error)} (limits {limits()})"
