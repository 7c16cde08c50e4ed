"""What comes out: draws, calibration, the verdict on an observation, the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """Weighted posterior draws for one observation.

    Args:
        names: Parameter names, D of them.
        units: One unit per name; "" for dimensionless.
        theta: (n, D).
        log_weight: (n,); all zero for plain draws. Known up to a constant only.
        log_evidence: log p(x), where the weights give it, and its standard error.
        pareto_k: Shape of the weights' tail; below 0.7 importance weights can be relied on.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    theta: Tensor
    log_weight: Tensor
    log_evidence: float | None = None
    log_evidence_error: float | None = None
    pareto_k: float | None = None

    def __len__(self) -> int:
        return len(self.theta)

    @property
    def weights(self) -> Tensor:
        """Normalised weights, float64, (n,), summing to one."""
        return torch.softmax(self.log_weight.to(torch.float64), dim=0)

    @property
    def ess(self) -> float:
        """Effective sample size of the weights, (sum w)^2 / sum w^2 (Kish)."""
        return float(1.0 / (self.weights**2).sum())

    def mean(self) -> Tensor:
        """Posterior mean, float64, (D,)."""
        return self.weights @ self.theta.to(torch.float64)

    def sd(self) -> Tensor:
        """Posterior standard deviation, float64, (D,)."""
        centred = self.theta.to(torch.float64) - self.mean()
        return (self.weights @ centred**2).sqrt()

    def quantile(self, q: float) -> Tensor:
        """Weighted marginal quantiles, float64, (D,)."""
        values, order = self.theta.to(torch.float64).sort(dim=0)
        cumulative = self.weights[order].cumsum(dim=0)
        middle = cumulative - 0.5 * self.weights[order]
        index = (middle < q).sum(dim=0).clamp(max=len(self) - 1)
        return values.gather(0, index[None])[0]

    def resample(self, n: int, *, generator: torch.Generator, distinct: bool = False) -> Tensor:
        """n unweighted draws (n, D), by systematic resampling; in random order.

        Args:
            n: How many.
            generator: Source of randomness.
            distinct: Keep each draw at most once; fewer than n may be returned.
        """
        if float(self.log_weight.max() - self.log_weight.min()) == 0.0 and n <= len(self):
            return self.theta[torch.randperm(len(self), generator=generator)[:n]]
        edges = self.weights.cumsum(0)
        points = (torch.arange(n, dtype=torch.float64) + torch.rand((), generator=generator, dtype=torch.float64)) / n
        index = torch.searchsorted(edges, points * edges[-1]).clamp(max=len(self) - 1)
        index = index.unique() if distinct else index
        return self.theta[index[torch.randperm(len(index), generator=generator)]]


@dataclass(frozen=True, repr=False)
class Calibration:
    """How a posterior did on fresh simulations whose true parameters are known.

    Args:
        names: Parameter names, D of them.
        ranks: Rank of the truth among the draws, int, (rows, D), each in 0..draws.
        draws: Posterior draws per row.
        levels: Nominal credible levels, (K,).
        coverage: Fraction of rows whose truth lies in the highest-density region of each level, (K,).
        tarp: The same for TARP's regions around random reference points, (K,).
        p_values: Test name -> p-value (uncorrected).
        gaps: Test name -> largest distance between nominal and found coverage, in probability.
        of: Which posterior was checked, in words.
        fit: Digest of the fit.
        simulations: Digest of the store of fresh simulations.
        failed_rows: Simulations left out because they failed.
        passed: The verdict.
        reasons: The verdict in words.
        reference: What the fresh simulations look like, as tensors, for the check of an observation (`trust`); kept
            beside the JSON, in `reference.safetensors`.
    """

    names: tuple[str, ...]
    ranks: np.ndarray
    draws: int
    levels: np.ndarray
    coverage: np.ndarray
    tarp: np.ndarray
    p_values: Mapping[str, float]
    gaps: Mapping[str, float]
    of: str
    fit: str
    simulations: str
    failed_rows: int
    passed: bool
    reasons: tuple[str, ...]
    reference: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        verdict = "passed" if self.passed else "NOT PASSED"
        of, reasons = f"the {self.of} posterior on {self.rows:,} simulations", "; ".join(self.reasons)
        return f"calibration of {of}: {verdict}: {reasons}"

    @property
    def rows(self) -> int:
        return len(self.ranks)

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "reference"}
        arrays = {k: v.tolist() for k, v in data.items() if isinstance(v, np.ndarray)}
        return {**data, **arrays, "names": list(self.names), "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], reference: Mapping[str, Tensor] | None = None) -> Calibration:
        known = {k: data[k] for k in cls.__dataclass_fields__ if k != "reference"}
        arrays = {k: np.asarray(known[k]) for k in ("ranks", "levels", "coverage", "tarp")}
        words = {k: tuple(known[k]) for k in ("names", "reasons")}
        return cls(**{**known, **arrays, **words}, reference=reference or {})


@dataclass(frozen=True)
class Trust:
    """Whether the observation looks like anything that was simulated.

    Args:
        p_value: Probability, for an observation from the simulator and its prior, of being at least this unusual;
            None where there is nothing to compare with.
        verdict: The same in words.
        level: The same in one word: "good", "unusual", "alarm" (do not use the answer), or "unknown" where there are
            no, or too few, fresh simulations to tell.

    Raises:
        ValueError: If the level is none of the four.
    """

    p_value: float | None
    verdict: str
    level: Literal["good", "unusual", "alarm", "unknown"]

    def __post_init__(self) -> None:
        if self.level not in _LEVELS:
            raise ValueError(f"the level of trust is one of {', '.join(map(repr, _LEVELS))}, got {self.level!r}")

    @property
    def alarm(self) -> bool:
        return self.level == "alarm"

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


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
        amortised: The estimates before correction by the likelihood; empty when there was no correction.
        posterior: Which posterior answered, in words.
        scope: For which observations it holds, in words, where not for all.
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
        lines += ["", f"draws        {len(self.draws):,}, effective sample size {self.draws.ess:,.0f}"]
        if self.draws.log_evidence is not None:
            lines.append(f"log evidence {self.draws.log_evidence:.2f} +- {self.draws.log_evidence_error or 0.0:.2f}")
        lines += [f"posterior    {self.posterior}; {self.scope}"] if self.scope else []
        passed = self.calibration is not None and self.calibration.passed
        reasons = self.calibration.reasons if self.calibration else (NOT_CALIBRATED,)
        other = self.calibration is not None and self.posterior not in ("", self.calibration.of)
        of = f" (of the {self.calibration.of} posterior)" if self.calibration and other else ""
        lines.append(f"calibration  {'passed' if passed else 'NOT PASSED'}{of}: {'; '.join(reasons)}")
        lines.append(f"trust        {_LEVELS[self.trust.level]}: {self.trust.verdict}")
        return "\n".join(lines)


NOT_CALIBRATED = "never checked on fresh simulations"
_LEVELS = {"good": "good", "unusual": "unusual", "alarm": "WARNING", "unknown": "UNKNOWN"}


def _digits(value: float, sd: float) -> str:
    """A number to two significant digits of its standard deviation."""
    if not math.isfinite(value):
        return str(value)
    places = 3 if not (sd > 0 and math.isfinite(sd)) else 1 - math.floor(math.log10(sd))
    if places > 6 or abs(value) >= 1e7:
        digits = math.floor(math.log10(abs(value))) + 1 + places if value != 0 else 0
        return f"{value:.{min(max(digits, 2), 17)}g}"
    return f"{value:.{max(places, 0)}f}"
