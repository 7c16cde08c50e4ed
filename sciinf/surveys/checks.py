"""What is said of each answer of a survey beside its numbers: the findings of `query`, looked for where they may be.

Looking for them takes longer than the draws of a fast network. So a pass is screened first, by what its findings need:
an answer can lie at the edge of a prior only if a part of its draws does, and rest on a few draws only if these carry
its variance. Rows that the screen leaves, and these alone, are looked at. It leaves every row where findings may be of
another kind: parameters that bound each other, or simulations that fail here and there.

What is the same for all rows is said once, of the whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import final

import numpy as np
import torch

from sciinf.core import Draws, Finding, Level, Trust
from sciinf.trust.bounds import LAST, LEANS, Bounds
from sciinf.trust.diagnostics import ORDER, diagnose, every_diagnostic
from sciinf.trust.failures import Failures, Reading
from sciinf.trust.judge import Judge
from sciinf.trust.stray import AT_LEAST, FEWEST, ONE_IN, SHARE

_OUTER, _PART = (
    1.25 * LAST,
    0.975 * LEANS,
)  # more of the prior than `trust.bounds` looks at, and fewer draws than it asks
_CARRIED = 0.96 * SHARE  # less than `trust.stray` asks, for rounding


@final
class RowChecks:
    """Findings about answers of one posterior.

    Args:
        judge: It, with its calibration.
        failures: How simulations that failed are read.
        level: Of the intervals.
        draws: Behind each answer.
    """

    def __init__(self, judge: Judge, failures: Reading, level: float, draws: int) -> None:
        self.judge, self.level, self.draws = judge, level, draws
        self.failures: Reading = failures

    @cached_property
    def of_all(self) -> tuple[Finding, ...]:
        """Findings that are the same for all rows, as long as no weights make draws worth less."""
        prior = self.judge.posterior.prior
        zeros = torch.zeros(self.draws, dtype=torch.float64)
        some = Draws(prior.names, prior.units, torch.zeros(self.draws, len(prior)), zeros)
        same = {"few draws", "tails", "predictive"} | (set() if self._by_row else {"failures"})
        case = self.judge.case(some, self.level, self.failures)
        return tuple(one for each in every_diagnostic() if each.name in same for one in each.findings(case))

    def of(self, draws: Draws, more: Iterable[Finding], trust: Trust | None = None) -> tuple[Level, str]:
        """The worst level of all findings about one answer, and those that are not good, in words."""
        case = replace(self.judge.case(draws, self.level, self.failures), trust=trust, found=[*more])
        bad = [one for one in diagnose(case) if one.level != Level.GOOD and one not in self.of_all]
        return max((one.level for one in bad), default=Level.GOOD), "; ".join(f"{one.name}: {one.line}" for one in bad)

    def suspicious(self, each: np.ndarray, wide: np.ndarray) -> Sequence[int]:
        """Which of some rows have to be looked at.

        Args:
            each: Their draws, (rows, D, n).
            wide: The same in float64.
        """
        if self._by_row or self._tied or any(one.name not in ORDER for one in every_diagnostic()):
            return range(len(each))
        low, high = self._outer
        beyond = np.maximum((each < low[:, None]).mean(-1), (each > high[:, None]).mean(-1)) >= _PART
        return np.flatnonzero(beyond.any(1) | self._carried(wide).any(1)).tolist()

    def _carried(self, wide: np.ndarray) -> np.ndarray:
        """Whether a few draws carry the variance, (rows, D)."""
        n = wide.shape[-1]
        if n < FEWEST:
            return np.zeros(wide.shape[:-1], dtype=bool)
        parts = np.square(wide - wide.mean(-1, keepdims=True))
        few = max(AT_LEAST, n // ONE_IN)
        most = np.partition(parts, n - few, axis=-1)[..., n - few :].sum(-1)
        return most > _CARRIED * parts.sum(-1)

    @cached_property
    def _by_row(self) -> bool:
        """Whether what failures do has to be told of each row."""
        calibration = self.judge.calibration
        found = Failures.from_tensors(calibration.reference) if calibration else None
        return found is not None and found.depend and self.failures != "outcome"

    @cached_property
    def _tied(self) -> bool:
        """Whether parameters bound each other."""
        return any(place.stop - place.start > 1 for _, place in self.judge.posterior.prior.places())

    @cached_property
    def _outer(self) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the prior's outer parts, (D,) each."""
        drawn = Bounds(self.judge.posterior.prior).drawn
        ends = torch.quantile(drawn, torch.tensor([_OUTER, 1 - _OUTER], dtype=drawn.dtype), dim=1).numpy()
        return ends[0], ends[1]
