"""Records of checks: of a posterior on fresh simulations, and of an observation against simulations."""

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
# Names of the tests of tails begin with _TAIL. An error in any other test counts if its corrected p-value is
# below _SIGNIFICANT and its gap is above _LARGE.
_TAIL, _SIGNIFICANT, _LARGE = "tail of ", 0.01, 0.03
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
    """Frequencies of the true values of a discrete parameter, beside the probabilities that a posterior gave.

    For each value, the simulations are sorted by the probability of this value and divided into bins of equal
    size (`diagnostics.calibration`).

    Args:
        values: Labels of the K values. The last one is "does not exist" if the parameter may not exist.
        predicted: Mean probability of the value in each bin, (K, bins).
        found: Fraction of the bin's simulations in which the value is the true one, (K, bins).
        low: Lower end of the range that holds this fraction in 99 of 100 cases if the probabilities are
            right, (K, bins).
        high: Upper end of the same range, (K, bins).
        rows: Number of simulations in each bin, (bins,).
        error: Mean distance between `predicted` and `found` over the simulations, summed over the values and
            halved. With two values, it is the mean distance of either value.
        chance: Mean of `error` if the probabilities are right.
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
    """The calibration of a posterior on fresh simulations, whose true parameters are known.

    Args:
        names: Names of the D parameters.
        ranks: Rank of the true value among the draws, int, (rows, D), in 0..draws; -1 where the true
            parameter does not exist. If a parameter does not exist in all draws, its rank among the others is
            scaled to 0..draws.
        draws: Number of posterior draws per row.
        levels: Nominal credible levels, (K,).
        coverage: Fraction of rows whose true parameters lie in the highest-density region of each level,
            (K,).
        tarp: Fraction of rows whose true parameters lie in TARP's region of each level, (K,). These regions
            are around random reference points.
        p_values: Test name -> p-value (uncorrected).
        gaps: Test name -> largest distance between nominal and found coverage, in probability.
        of: Name of the posterior that was checked, in words.
        fit: Digest of the fit.
        simulations: Digest of the store of fresh simulations.
        failed_rows: Number of simulations left out because they failed.
        state: The verdict. "passed"; "not passed" if an error was seen; "cannot tell" if the fresh
            simulations are too few to see every gap of the stated size.
        reasons: The verdict in words.
        cautious: Whether the only errors are regions that hold more than they should.
        tails: Tails that were seen to be too light, in words (`diagnostics.tails`). A calibration may have
            passed although it has such tails.
        reference: Description of the fresh simulations, as tensors, for the check of an observation
            (`Trust`). It is stored beside the JSON, in `reference.safetensors`.
        reliability: Name of each discrete parameter -> its `Reliability`.
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
        """The level of the verdict.

        GOOD if the calibration passed. CAUTION if the only errors are regions that hold too much, or tails.
        UNKNOWN if the simulations are too few to tell. ALARM otherwise.
        """
        return Level.CAUTION if self.cautious or self.tails_alone else STATES[self.state]

    @property
    def tails_alone(self) -> bool:
        """Whether the only errors are in the tails, which intervals of 90 % do not depend on."""
        tails = [p for name, p in self.p_values.items() if name.startswith(_TAIL)]
        others = [(p, self.gaps.get(name, 0.0)) for name, p in self.p_values.items() if not name.startswith(_TAIL)]
        off = any(p * len(others) < _SIGNIFICANT and gap > _LARGE for p, gap in others)
        return self.state == "not passed" and not off and any(p * len(tails) < _SIGNIFICANT for p in tails)

    def _repr_html_(self) -> str:
        """The HTML table that a notebook shows."""
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
        if "state" not in data:  # An earlier version wrote only "passed", and knew no "cannot tell".
            known["state"] = "cannot tell" if data["passed"] else "not passed"
        arrays = {k: np.asarray(known[k]) for k in ("ranks", "levels", "coverage", "tarp")}
        words = {k: tuple(known[k]) for k in ("names", "reasons", "tails") if k != "tails" or k in known}
        discrete = {name: Reliability.from_json(one) for name, one in data.get("reliability", {}).items()}
        return cls(**{**known, **arrays, **words}, reference=reference or {}, reliability=discrete)


_APART = ("reference", "reliability")
# Weights are unreliable from this value of Pareto's k on, and few below this effective sample size.
RELIABLE_K, FEW_DRAWS = 0.7, 400


def calibration_finding(said: Mapping[str, Any], posterior: str = "", *, derived: bool = False) -> Finding:
    """The finding about the calibration behind an answer.

    Args:
        said: Record of the calibration in `answer.json`: its state, its reasons and the name of the posterior
            that was checked ("of"); also "cautious" and "tails_alone" if they are known.
        posterior: Name of the posterior that gave the answer.
        derived: Whether the answer has quantities derived from the parameters.
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
    """The state of a calibration recorded by an earlier version, which wrote no state."""
    if reasons == (NOT_CALIBRATED,):
        return "not checked"
    return "cannot tell" if said.get("passed") else "not passed"


def is_of(said: Mapping[str, Any], calibration: Calibration) -> bool:
    """Whether a record in `answer.json` is the record of this calibration.

    Earlier versions recorded no simulations. For their records, only the reasons and the fit are compared.
    """
    known = said_of(calibration)
    keys = (
        ("fit", "simulations", "rows", "state", "cautious", "tails_alone")
        if "simulations" in said
        else ("reasons", "fit")
    )
    return all(said.get(key, known[key]) == known[key] for key in keys)


def said_of(calibration: Calibration | None) -> dict[str, Any]:
    """The record of a calibration in `answer.json`; None stands for an answer without calibration."""
    if calibration is None:
        return {"state": "not checked", "passed": False, "reasons": [NOT_CALIBRATED], "of": None, "fit": None}
    names = ("state", "passed", "cautious", "tails_alone", "of", "fit", "simulations", "rows")
    return {**{name: getattr(calibration, name) for name in names}, "reasons": list(calibration.reasons)}


def findings_about(
    calibrated: Finding, trust: Finding, checks: Sequence[Finding], weights: Finding | None
) -> tuple[Finding, ...]:
    """All findings about an answer, in the order in which they are shown.

    Args:
        calibrated: The finding about the calibration.
        trust: The finding about the observation.
        checks: Further findings.
        weights: The finding about the weights of the draws, left out if `checks` have one already. None if
            the draws have no weights.
    """
    more = () if weights is None or any(one.name == weights.name for one in checks) else (weights,)
    return (calibrated, trust, *more, *checks)


def earlier_weights(
    ess: float, count: int, k: float | None, posterior: str, *, corrected: bool = False
) -> Finding | None:
    """The finding about weights for answers whose checks lack it; None if the draws have no weights.

    Args:
        ess: Effective sample size.
        count: Number of draws.
        k: Pareto's k of the weights; None if it is not known.
        posterior: Name of the posterior.
        corrected: Whether the answer also has the estimates of the unweighted draws.
    """
    weighted = corrected or k is not None
    return weights_finding(ess, count, k, likelihood=names_likelihood(posterior)) if weighted else None


def weights_finding(ess: float, count: int, k: float | None, *, likelihood: bool) -> Finding:
    """The finding that says whether the weights of draws are reliable.

    Args:
        ess: Effective sample size.
        count: Number of draws.
        k: Pareto's k of the weights; None if it is not known.
        likelihood: Whether the weights include the simulator's likelihood. Only the likelihood corrects
            errors of the network; otherwise the weights hold the probability that a simulation succeeds.
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
    """A block of numbers of an observation that are unlike their prediction from the other numbers.

    See `diagnostics.localise`.

    Args:
        observable: Name of the observable.
        start: First index of the block along each axis.
        stop: Last index of the block along each axis, plus 1. A single number has stop = start + 1 along each
            axis.
        kind: What is strange: a single "number"; the "level" or the "drift" of the block; the "size" of its
            noise; a value "repeated" in the block; or several values "copied" in it.
        z: How strange it is. For "number", "level" and "drift", the distance in sds, given the other numbers.
            For "size", the ratio of the noise to what it should be. For "repeated", how often the value
            occurs. For "copied", how many numbers are copied.
    """

    observable: str
    start: tuple[int, ...]
    stop: tuple[int, ...]
    kind: Literal["number", "level", "drift", "size", "repeated", "copied"]
    z: float

    @property
    def where(self) -> tuple[slice, ...]:
        """The block, as an index into the observable's array."""
        return tuple(slice(a, b) for a, b in zip(self.start, self.stop, strict=True))

    def to_json(self) -> dict[str, Any]:
        lists = {"start": list(self.start), "stop": list(self.stop)}
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, **lists}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Strange:
        return cls(**{**data, "start": tuple(data["start"]), "stop": tuple(data["stop"])})


@dataclass(frozen=True)
class Trust:
    """The result of comparing an observation with simulations.

    Args:
        p_value: Probability that an observation from the simulator and its prior is at least this unusual.
            None if there are no simulations to compare with.
        words: Result of the comparison in words.
        level: GOOD; CAUTION if the observation is unusual; ALARM if the answer must not be used; UNKNOWN if
            there are no fresh simulations, or too few to tell.
        where: Numbers of the observation that are strange given the others, the strangest first. Empty if
            there are none, or if none were looked for.

    Raises:
        ValueError: If the level is none of these four.
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
        """The `Trust` that `to_json` wrote, in this version or an earlier one.

        Raises:
            KeyError: If a part is missing.
            ValueError: If the level is none of the four.
        """
        where = tuple(Strange.from_json(one) for one in data.get("where", ()))
        return cls(data["p_value"], data["verdict"], Level(level_of_trust(data["level"])), where)
