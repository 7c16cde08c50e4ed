"""Answer: estimates with units, and everything needed to believe them or not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sciinf.core.draws import Draws
from sciinf.core.verdicts import CHECK_LEVELS, NOT_CALIBRATED, TRUST_LEVELS, Calibration, Check, Trust


@dataclass(frozen=True)
class Estimate:
    """One parameter's answer, in its unit."""

    mean: float
    sd: float
    median: float
    interval: tuple[float, float]
    level: float
    unit: str

    def to_json(self) -> dict[str, Any]:
        return {**{k: getattr(self, k) for k in self.__dataclass_fields__}, "interval": list(self.interval)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Estimate:
        return cls(**{**data, "interval": tuple(data["interval"])})


@dataclass(frozen=True, repr=False)
class Answer:
    """A posterior with everything needed to believe it or not.

    Args:
        parameters: Name -> estimate.
        draws: The draws the estimates come from.
        calibration: How the posterior did on fresh simulations; None when it was never checked.
        trust: Whether the observation looks like the simulations.
        observation: Observable name -> array (*event), what was asked about.
        predictive: Observable name -> array (m, *event), data simulated from the posterior; empty without a simulator.
        amortised: The estimates before correction by the likelihood or another weight; empty when there was none.
        posterior: Which posterior answered, in words.
        scope: For which observations it holds, in words, where not for all.
        checks: Further findings, such as simulations that failed, or mass at a bound of the prior.
        read: How the observation was read from its files, a line for each observable; empty where it came as arrays.
    """

    parameters: Mapping[str, Estimate]
    draws: Draws
    calibration: Calibration | None
    trust: Trust
    observation: Mapping[str, np.ndarray] = field(default_factory=dict)
    predictive: Mapping[str, np.ndarray] = field(default_factory=dict)
    amortised: Mapping[str, Estimate] = field(default_factory=dict)
    posterior: str = ""
    scope: str = ""
    checks: tuple[Check, ...] = ()
    read: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.table()

    def to_json(self) -> dict[str, Any]:
        """The content of `answer.json`."""
        passed = self.calibration.passed if self.calibration else False
        reasons = self.calibration.reasons if self.calibration else (NOT_CALIBRATED,)
        of = self.calibration.of if self.calibration else None
        return {
            "parameters": {name: e.to_json() for name, e in self.parameters.items()},
            "draws": len(self.draws),
            "ess": self.draws.ess,
            "log_evidence": self.draws.log_evidence,
            "log_evidence_error": self.draws.log_evidence_error,
            "pareto_k": self.draws.pareto_k,
            "calibration": {"passed": passed, "reasons": list(reasons), "of": of},
            "trust": self.trust.to_json(),
            "checks": [check.to_json() for check in self.checks],
            "read": list(self.read),
            "posterior": self.posterior,
            "scope": self.scope,
            "amortised": {name: e.to_json() for name, e in self.amortised.items()},
        }

    def table(self) -> str:
        """The answer as lines of text: one per parameter with its unit, then both verdicts."""
        level = next(iter(self.parameters.values())).level
        rows = [["parameter", "unit", "mean", "sd", f"{level:.0%} interval"]]
        rows[0] += ["amortised mean", "sd"] if self.amortised else []
        for name, e in self.parameters.items():
            low, high = _digits(e.interval[0], e.sd), _digits(e.interval[1], e.sd)
            rows.append([name, e.unit or "-", _digits(e.mean, e.sd), _digits(e.sd, e.sd), f"[{low}, {high}]"])
            if self.amortised:
                raw = self.amortised[name]
                rows[-1] += [_digits(raw.mean, raw.sd), _digits(raw.sd, raw.sd)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "-" * max(len(line) for line in lines))
        lines += ["", *(f"read         {line}" for line in self.read)]
        lines += [f"draws        {len(self.draws):,}, effective sample size {self.draws.ess:,.0f}"]
        if self.draws.log_evidence is not None:
            lines.append(f"log evidence {self.draws.log_evidence:.2f} +- {self.draws.log_evidence_error or 0.0:.2f}")
        lines += [f"posterior    {self.posterior}; {self.scope}"] if self.scope else []
        passed = self.calibration is not None and self.calibration.passed
        reasons = self.calibration.reasons if self.calibration else (NOT_CALIBRATED,)
        other = self.calibration is not None and self.posterior not in ("", self.calibration.of)
        of = f" (of the {self.calibration.of} posterior)" if self.calibration and other else ""
        lines.append(f"calibration  {'passed' if passed else 'NOT PASSED'}{of}: {'; '.join(reasons)}")
        lines.append(f"trust        {TRUST_LEVELS[self.trust.level]}: {self.trust.verdict}")
        lines += [f"{check.name:<12} {CHECK_LEVELS[check.level]}: {check.verdict}" for check in self.checks]
        return "\n".join(lines)


def _digits(value: float, sd: float) -> str:
    """A number to two significant digits of its standard deviation."""
    if not math.isfinite(value):
        return str(value)
    places = 3 if not (sd > 0 and math.isfinite(sd)) else 1 - math.floor(math.log10(sd))
    if places > 6 or abs(value) >= 1e7:
        digits = math.floor(math.log10(abs(value))) + 1 + places if value != 0 else 0
        return f"{value:.{min(max(digits, 2), 17)}g}"
    return f"{value:.{max(places, 0)}f}"
