"""Verdicts on the rows of a survey, computed from the levels in its blocks, also for folders of earlier versions.

A survey does not check a row for errors of the network. So the verdict on a row is at best "rely with care", unless the
simulator's likelihood weights its draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, final

import numpy as np

from sciinf.core.earlier_findings import level_of_trust
from sciinf.core.findings import Finding, Level
from sciinf.core.records import FEW_DRAWS, RELIABLE_K, calibration_finding, earlier_weights, findings_about
from sciinf.core.verdict import Verdict, verdict_from

LEVELS: tuple[str, ...] = (*map(str, Level), "none")
"""What the numbers in the columns `trust` and `checks` mean, the worst last; "none" of a row without data or answer."""
NEEDED = ("trust", "checks", "ess", "pareto_k")
"""The columns that a verdict follows from."""
_ROW = "the checks of this row found no fault"


@final
class RowVerdicts:
    """Computes the verdict on each row of a survey.

    Args:
        about: Content of `answers.json`.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.about = about
        self._calibrated = calibration_finding(about["calibration"], about["posterior"])
        self._of_all = [Finding.from_json(one) for one in about["checks"]]
        self._level = lru_cache(maxsize=None)(lambda *key: self.verdict(*key).level)

    def verdict(self, trust: str, checks: str, ess: float, k: float | None, words: str = _ROW) -> Verdict:
        """The verdict on one row.

        Args:
            trust: Level of the comparison of the row's data with simulations.
            checks: Worst level of the row's findings.
            ess: Effective sample size of the row's draws.
            k: Pareto's k of the draws' weights; None without weights.
            words: Text of the row's findings that are not good.
        """
        seen = Finding("trust", Level(trust), f"its data are {_LIKE[Level(trust)]}")
        checked = [*self._of_all, Finding("checks", Level(checks), words)]
        weights = earlier_weights(ess, self.about["draws"], k, self.about["posterior"])
        return verdict_from(findings_about(self._calibrated, seen, checked, weights))

    def levels(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Levels of the verdicts on rows, as text; "none" for a row without an answer.

        Args:
            columns: The columns in `NEEDED`, as a block has them.
        """
        codes = self.about["codes"]
        trust, checks = (np.asarray(codes[name])[columns[name].astype(int)] for name in ("trust", "checks"))
        ess, k = (columns[name].astype(float) for name in ("ess", "pareto_k"))
        ess = np.where(ess < FEW_DRAWS, 0.0, FEW_DRAWS)  # Only these two limits decide the level.
        k = np.where(np.isnan(k), -1.0, np.where(k < RELIABLE_K, 0.0, RELIABLE_K))
        found = [
            "none" if "none" in key[:2] else str(self._level(*key[:3], None if key[3] < 0 else key[3]))
            for key in zip(map(level_of_trust, trust.tolist()), checks.tolist(), ess.tolist(), k.tolist(), strict=True)
        ]
        return np.asarray(found) if found else np.zeros(0, dtype="<U7")


_LIKE = {
    Level.GOOD: "like the simulations",
    Level.CAUTION: "unusual among the simulations",
    Level.ALARM: "unlike the simulations",
    Level.UNKNOWN: "not compared with enough simulations",
}
