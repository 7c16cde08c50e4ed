"""When rounds around an answer end: where one confirms the first answer, or where the refined one holds."""

from __future__ import annotations

import functools
import math
import time
from typing import TYPE_CHECKING

from sciinf.trust.second import compared, difference, limits, words_of

if TYPE_CHECKING:
    from sciinf.core import Check, Posterior, Simulator
    from sciinf.inference.refined import Refined

_SETTLED, _STILL = 0.15, 0.05  # sds, and share of a width: what the last round may change, also where it cannot be told
_DRAWS, _FEW = 2_000, 20  # that the local check is made around; simulations that tell what one costs
_STREAM = 2**31 + 6  # no campaign has this many blocks, so none shares these random numbers


class UntilSettled:
    """Asked after each round whether no further one is needed.

    Args:
        simulator: What is simulated.
        first: The posterior of the first answer.
        check: The local check of the first answer where it saw no error, so that the first round confirms it or not;
            None where the answer is to be refined anyway.
        rounds: How many there are at most.
        simulations: In each.

    Attributes:
        check: What it has become.
        differs: By how much the first round's answer differs from the first one, where that was asked.
        ended: How many rounds have ended.
        words: What the last one told.
    """

    def __init__(
        self, simulator: Simulator, first: Posterior, check: Check | None, rounds: int, simulations: int
    ) -> None:
        self.simulator, self.first, self.check = simulator, first, check
        self.rounds, self.simulations = rounds, simulations
        self.differs: tuple[float, float] | None = None
        self.ended, self.words = 0, ""

    @property
    def confirmed(self) -> bool:
        """Whether the first answer was."""
        return self.differs is not None and self.check is not None and self.check.level == "good"

    def __call__(self, found: Refined) -> bool:
        self.ended += 1
        if self.ended == 1 and self.check is not None:
            self.differs = difference(self.first, found, found.asked)
            self.check = compared(self.check, self.differs, self.simulations)
            by = f"{words_of(self.differs)} (limits {limits()})"
            said = "it confirms the first answer" if self.confirmed else "it does not confirm the first answer"
            self.words = f"the second network differs, {by}: {said}"
            return self.confirmed
        if self.ended == self.rounds:
            self.words = _moved(*found.changed)
            return True
        self.words, settled = gained(self.simulator, found)
        return settled


def gained(sim: Simulator, found: Refined) -> tuple[str, bool]:
    """What a round changed, in words, with what the local check says; and whether no further one is needed.

    A round that moved the answer is not the last, so that the check, which draws for thousands of data sets, is left.
    One that moved nothing is, unless the check says that the answer is wrong: another would move nothing either.

    Args:
        sim: The simulator.
        found: The posterior after that round.
    """
    from sciinf.engine.block import generator_for, simulate_from
    from sciinf.trust.around import MANY, around_answer
    from sciinf.trust.here import check_twice

    if max(found.changed) >= _SETTLED:
        return _moved(*found.changed), False
    generator = generator_for(0, _STREAM)
    theta = found.draw_batched(found.asked, _DRAWS, generator=generator)[:, 0]
    began = time.monotonic()
    simulate_from(sim, theta[:_FEW], generator=generator)
    seconds = (time.monotonic() - began) / _FEW
    made = functools.partial(around_answer, found, sim, theta, seconds=seconds, generator=generator)
    checks = check_twice(found, found.asked, made(), functools.partial(made, sizes=MANY), generator=generator)
    levels, still = {check.level for check in checks}, max(found.changed) < _STILL
    words = "; ".join([_moved(*found.changed), *(check.verdict for check in checks)])
    return words, "good" in levels or (still and "alarm" not in levels)


def _moved(middle: float, width: float) -> str:
    """What a round changed, in words."""
    return f"middles moved by up to {middle:.2g} sds, widths by up to {math.expm1(width):.0%}"
