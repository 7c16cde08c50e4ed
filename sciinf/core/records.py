"""Records of what was checked: how a posterior did on fresh simulations, and whether an observation is like these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import Tensor

from sciinf.core.earlier_findings import level_of_trust, names_likelihood, reason_of, too_wide
from sciinf.core.findings import Cause, Evidence, Finding, Level
from sciinf.core.tables import html

NOT_CALIBRATED = "never checked on fresh simulations"
_TAIL, _SIGNIFICANT, _LARGE = "tail of ", 0.01, 0.03  # tests of tails; when an error of the others counts
State = Literal["passed", "not passed", "cannot tell"]
STATES: Mapping[str, Level] = {
    "passed": Level.GOOD,
    "cannot tell": Level.UNKNOWN,
    "not passed": Level.ALARM,
    "not checked": Level.UNKNOWN,
}
"""What a calibration found -> its level."""


@dataclass(frozen=True)
class Reliability:
    """How often the values of a discrete parameter were true, beside the probabilities that a posterior gave them.

    Of each value, simulations are put in order of its probability and cut into bins of as many each
    (`diagnostics.reliability`).

    Args:
        values: What each value is called, K of them; the last is "does not exist" where that can be.
        predicted: Mean probability in each bin, (K, bins).
        found: Share of the bin's simulations of which it is true, (K, bins).
        low: What that share is at least for right probabilities, in 99 of 100 cases, (K, bins).
        high: What it is at most, (K, bins).
        rows: Simulations in each bin, (bins,).
        error: Mean distance between predicted and found: half its sum over the values, which for two is that of either.
        chance: What that is on average for right probabilities.
    """

    values: tuple[str, ...]
    predicted: np.ndarray
    found: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rows: np.ndarray
    error: float
    chance: float

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in {**data, "values": [*self.values]}.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reliability:
        arrays = {k: np.asarray(data[k]) for k in ("predicted", "found", "low", "high", "rows")}
        return cls(**{**data, **arrays, "values": tuple(data["values"])})


@dataclass(frozen=True, repr=False)
class Calibration:
    """How a posterior did on fresh simulations whose true parameters are known.

    Args:
        names: Parameter names, D of them.
        ranks: Rank of the truth among the draws, int, (rows, D), each in 0..draws; -1 where the true parameter does not
            exist. Among draws that are fewer, for it does not exist in all, a rank is that of as many by its quantile.
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
        state: The verdict: "passed"; "not passed", an error was seen; or "cannot tell", the fresh simulations are too
            few to see every gap of the stated size.
        reasons: The verdict in words.
        cautious: Whether all that is wrong are regions that hold more than they should.
        tails: Which tails were seen to be too light, in words; it may have passed all the same (`diagnostics.tails`).
        reference: What the fresh simulations look like, as tensors, for the check of an observation (`trust`); kept
            beside the JSON, in `reference.safetensors`.
        reliability: Of each discrete parameter, by name.
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
    state: State
    reasons: tuple[str, ...]
    cautious: bool = False
    tails: tuple[str, ...] = ()
    reference: Mapping[str, Tensor] = field(default_factory=dict, compare=False)
    reliability: Mapping[str, Reliability] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        of, reasons = f"the {self.of} posterior on {self.rows:,} simulations", "; ".join(self.reasons)
        return f"calibration of {of}: {self.level.label}: {reasons}"

    @property
    def level(self) -> Level:
        """GOOD if it passed, CAUTION if regions only hold too much, UNKNOWN if simulations are too few, else ALARM."""
        return Level.CAUTION if self.cautious or self.tails_alone else STATES[self.state]

    @property
    def tails_alone(self) -> bool:
        """Whether nothing is wrong but tails, which intervals of 90 % do not see."""
        tails = [p for name, p in self.p_values.items() if name.startswith(_TAIL)]
        others = [(p, self.gaps.get(name, 0.0)) for name, p in self.p_values.items() if not name.startswith(_TAIL)]
        off = any(p * len(others) < _SIGNIFICANT and gap > _LARGE for p, gap in others)
        return self.state == "not passed" and not off and any(p * len(tails) < _SIGNIFICANT for p in tails)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [["test", "p-value", "largest gap"]]
        rows += [
            [name, f"{p:.2g}", f"{self.gaps[name]:.1%}" if name in self.gaps else "-"]
            for name, p in self.p_values.items()
        ]
        facts = [(self.level.label, reason) for reason in self.reasons]
        return html(f"calibration of the {self.of} posterior on {self.rows:,} simulations", rows, facts)

    @property
    def passed(self) -> bool:
        return self.state == "passed"

    @property
    def rows(self) -> int:
        return len(self.ranks)

    def to_json(self) -> dict[str, Any]:
        data = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _APART}
        arrays = {k: v.tolist() for k, v in data.items() if isinstance(v, np.ndarray)}
        words = {name: list(data[name]) for name in ("names", "reasons", "tails")}
        discrete = {name: one.to_json() for name, one in self.reliability.items()}
        return {**data, **arrays, **words, "passed": self.passed, **({"reliability": discrete} if discrete else {})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], reference: Mapping[str, Tensor] | None = None) -> Calibration:
        known = {k: data[k] for k in cls.__dataclass_fields__ if k in data and k not in _APART}
        if "state" not in data:  # of a version that knew no "cannot tell"
            known["state"] = "cannot tell" if data["passed"] else "not passed"
        arrays = {k: np.asarray(known[k]) for k in ("ranks", "levels", "coverage", "tarp")}
        words = {k: tuple(known[k]) for k in ("names", "reasons", "tails") if k != "tails" or k in known}
        discrete = {name: Reliability.from_json(one) for name, one in data.get("reliability", {}).items()}
        return cls(**{**known, **arrays, **words}, reference=reference or {}, reliability=discrete)


_APART = ("reference", "reliability")
RELIABLE_K, FEW_DRAWS = 0.7, 400  # of weights: Pareto's k, and the effective size


def calibration_finding(said: Mapping[str, Any], posterior: str = "", *, derived: bool = False) -> Finding:
    """What a calibration says of an answer.

    Args:
        said: State, reasons and whose it is ("of"), as `answer.json` has them; "cautious" and
            "tails_alone" where they are known.
        posterior: Which posterior answered.
        derived: Whether the answer has quantities that follow from the parameters.
    """
    reasons = tuple(said.get("reasons") or (NOT_CALIBRATED,))
    state = str(said.get("state") or _state_before(said, reasons))
    wide = bool(said.get("cautious", state == "not passed" and too_wide(reasons)))
    tails = bool(said.get("tails_alone"))
    level = Level.CAUTION if wide or tails else STATES.get(state, Level.UNKNOWN)
    of = f"of the {said['of']} posterior: " if posterior and said.get("of") not in (None, posterior) else ""
    of = f"{of}of the parameters, from whose draws derived quantities follow: " if derived else of
    cause = Cause.FRESH if level == Level.UNKNOWN else None if level == Level.GOOD else Cause.SIMULATIONS
    kind = "too wide" if wide else "tails" if tails else state
    return Finding("calibration", level, of + "; ".join(map(reason_of, reasons)), kind, {}, cause, Evidence.AVERAGE)


def _state_before(said: Mapping[str, Any], reasons: tuple[str, ...]) -> str:
    """The state of a calibration by a version that wrote none."""
    if reasons == (NOT_CALIBRATED,):
        return "not checked"
    return "cannot tell" if said.get("passed") else "not passed"


def is_of(said: Mapping[str, Any], calibration: Calibration) -> bool:
    """Whether what `answer.json` says of a calibration is of this one; earlier versions wrote its reasons alone."""
    known = said_of(calibration)
    keys = (
        ("fit", "simulations", "rows", "state", "cautious", "tails_alone")
        if "simulations" in said
        else ("reasons", "fit")
    )
    return all(said.get(key, known[key]) == known[key] for key in keys)


def said_of(calibration: Calibration | None) -> dict[str, Any]:
    """What `answer.json` says of a calibration."""
    if calibration is None:
        return {"state": "not checked", "passed": False, "reasons": [NOT_CALIBRATED], "of": None, "fit": None}
    names = ("state", "passed", "cautious", "tails_alone", "of", "fit", "simulations", "rows")
    return {**{name: getattr(calibration, name) for name in names}, "reasons": list(calibration.reasons)}


def findings_about(
    calibrated: Finding, trust: Finding, checks: Sequence[Finding], weights: Finding | None
) -> tuple[Finding, ...]:
    """All findings about an answer, in the order in which they are shown.

    Args:
        calibrated: Of the calibration.
        trust: Of the observation.
        checks: Further ones.
        weights: Of the weights of the draws, shown where `checks` have none; None where draws have no weights.
    """
    more = () if weights is None or any(one.name == weights.name for one in checks) else (weights,)
    return (calibrated, trust, *more, *checks)


def earlier_weights(
    ess: float, count: int, k: float | None, posterior: str, *, corrected: bool = False
) -> Finding | None:
    """The finding about weights, for answers whose checks have none; None where draws have no weights.

    Args:
        ess: Effective sample size.
        count: Number of draws.
        k: Pareto's k; None where it is not known.
        posterior: The posterior's name.
        corrected: Whether the answer has estimates from before its draws were weighted.
    """
    weighted = corrected or k is not None
    return weights_finding(ess, count, k, likelihood=names_likelihood(posterior)) if weighted else None


def weights_finding(ess: float, count: int, k: float | None, *, likelihood: bool) -> Finding:
    """Whether the weights of draws are to be relied on.

    Args:
        ess: Effective sample size.
        count: Number of draws.
        k: Pareto's k of the weights; None where it is not known.
        likelihood: Whether the simulator's likelihood is among the weights; others do not mend a network.
    """
    evidence, by = (Evidence.LIKELIHOOD, "the likelihood") if likelihood else (None, "the probability of success")
    figures = {"ess": ess, **({} if k is None else {"k": k})}
    shape = "" if k is None else f" (Pareto k {k:.2f})"
    words = f"{count:,} draws, weighted by {by}, are worth {ess:,.0f}{shape}"
    if k is not None and k >= RELIABLE_K:
        words = f"a few of {count:,} draws carry the weights by {by}: Pareto k is {k:.2f}, above {RELIABLE_K}"
        return Finding("weights", Level.ALARM, words, "unreliable", figures, Cause.SIMULATIONS, evidence)
    if ess < FEW_DRAWS:
        return Finding("weights", Level.CAUTION, words, "few", figures, Cause.SIMULATIONS, evidence)
    return Finding("weights", Level.GOOD, words, "reliable", figures, None, evidence)


@dataclass(frozen=True)
class Strange:
    """Numbers of an observation that are unlike what the others say of them (`diagnostics.localise`).

    Args:
        observable: Its name.
        start: First index along each axis.
        stop: One beyond the last; one number where it is start + 1 along each.
        kind: What is strange: a "number", the "level" or the "drift" of all of them, the "size" of their noise, or a
            value that is "repeated" among them, or several that are "copied".
        z: By how many sds, given the other numbers; of "size", how many times as large as it should be; of "repeated",
            how many times one value is there, and of "copied", how many numbers there are.
    """

    observable: str
    start: tuple[int, ...]
    stop: tuple[int, ...]
    kind: Literal["number", "level", "drift", "size", "repeated", "copied"]
    z: float

    @property
    def where(self) -> tuple[slice, ...]:
        """Which numbers, as an index of the observable's array."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def to_json(self) -> dict[str, Any]:
        lists = {"start": list(self.start), "stop": list(self.stop)}
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Strange:
        return cls(**{**data, "start": tuple(data["start"]), "stop": tuple(data["stop"])})


@dataclass(frozen=True)
class Trust:
    """Whether the observation looks like anything that was simulated.

    Args:
        p_value: Probability, for an observation from the simulator and its prior, of being at least this unusual;
            None where there is nothing to compare with.
        words: What the comparison found, in words.
        level: GOOD; CAUTION, it is unusual; ALARM, do not use the answer; or UNKNOWN where there are no, or too few,
            fresh simulations to tell.
        where: Which of its numbers are strange given the others, the strangest first; empty where none is, or none was
            looked for.

    Raises:
        ValueError: If the level is none of the four.
    """

    p_value: float | None
    words: str
    level: Level
    where: tuple[Strange, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "level", self.finding.level)

    @property
    def alarm(self) -> bool:
        return self.level == Level.ALARM

    @property
    def finding(self) -> Finding:
        """The comparison of the observation with simulations, as a finding."""
        figures = {} if self.p_value is None else {"p": self.p_value}
        cause = {Level.GOOD: None, Level.UNKNOWN: Cause.FRESH}.get(self.level, Cause.SCALE)
        return Finding("trust", self.level, self.words, "", figures, cause)

    def to_json(self) -> dict[str, Any]:
        said = {"p_value": self.p_value, "verdict": self.words, "level": str(self.level)}
        return {**said, **({"where": [one.to_json() for one in self.where]} if self.where else {})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Trust:
        """The `Trust` of a JSON, which an earlier version may have written.

        Raises:
            KeyError: If a part is missing.
            ValueError: If the level is none of the four.
        """
        where = tuple(Strange.from_json(one) for one in data.get("where", ()))
        return cls(data["p_value"], data["verdict"], Level(level_of_trust(data["level"])), where)
