"""The verdict on each row of a survey, from the levels that its blocks keep. Folders of earlier versions have it, too.

A row is not looked at for errors of the network, so it is to be read with care at best, unless the simulator's
likelihood weights its draws.
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
    """Gives the verdict on each row of a survey.

    Args:
        about: What `answers.json` says.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.about = about
        self._calibrated = calibration_finding(about["calibration"], about["posterior"])
        self._of_all = [Finding.from_json(one) for one in about["checks"]]
        self._level = lru_cache(maxsize=None)(lambda *key: self.verdict(*key).level)

    def verdict(self, trust: str, checks: str, ess: float, k: float | None, words: str = _ROW) -> Verdict:
        """The verdict on one row.

        Args:
            trust: Level of what its data look like.
            checks: The worst level of its findings.
            ess: Effective sample size.
            k: Pareto's k; None without weights.
            words: The findings about the row that are not good.
        """
        seen = Finding("trust", Level(trust), f"its data are {_LIKE[Level(trust)]}")
        checked = [*self._of_all, Finding("checks", Level(checks), words)]
        weights = earlier_weights(ess, self.about["draws"], k, self.about["posterior"])
        return verdict_from(findings_about(self._calibrated, seen, checked, weights))

    def levels(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """The levels of rows, as words; "none" of one without an answer.

        Args:
            columns: `NEEDED`, as blocks have them.
        """
        codes = self.about["codes"]
        trust, checks = (np.asarray(codes[name])[columns[name].astype(int)] for name in ("trust", "checks"))
        ess, k = (columns[name].astype(float) for name in ("ess", "pareto_k"))
        ess = np.where(ess < FEW_DRAWS, 0.0, FEW_DRAWS)  # a level depends on no more of ess and k
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
