"""Findings: the results of checks of an answer, a simulator or a survey, with their levels and evidence.

Programs decide by `level`, `kind`, `evidence` and the numbers in `figures`. `words` are for people only; no
decision depends on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any


class Level(StrEnum):
    """The severity of a finding or a verdict, in order: GOOD < CAUTION < UNKNOWN < ALARM.

    A level is equal to its text: `level == "alarm"`.
    """

    GOOD = "good"
    CAUTION = "caution"
    UNKNOWN = "unknown"
    ALARM = "alarm"

    @property
    def order(self) -> int:
        """The level as a number, from 0 for GOOD to 3 for ALARM."""
        return [*type(self)].index(self)

    @property
    def label(self) -> str:
        """The word with which a line of text begins; UNKNOWN and WARNING (for ALARM) are in capitals."""
        return {Level.UNKNOWN: "UNKNOWN", Level.ALARM: "WARNING"}.get(self, str(self))

    @property
    def advice(self) -> str:
        """The advice of a verdict of this level, in one to three words."""
        return ("rely", "rely with care", "cannot tell", "do not rely")[self.order]

    def __lt__(self, other: str) -> bool:
        return self.order < Level(other).order

    def __le__(self, other: str) -> bool:
        return self.order <= Level(other).order

    def __gt__(self, other: str) -> bool:
        return self.order > Level(other).order

    def __ge__(self, other: str) -> bool:
        return self.order >= Level(other).order


class Evidence(IntEnum):
    """The evidence for a finding about the computation of an answer, the strongest last.

    A finding about the data or the draws has no evidence and always counts. Among findings with evidence, the
    ones with the strongest evidence decide.
    """

    AVERAGE = 1  # the calibration of the network, on average over its simulations
    CHECK = 2  # the local check alone, which sees a third of a network's error at one observation
    NETWORK = 3  # a second network, trained around the observation
    ROUNDS = 4  # rounds of simulations around the observation, the last of which hardly changed the answer
    LIKELIHOOD = 5  # weights by the simulator's own likelihood


class Cause(StrEnum):
    """The change that would mend a finding that is not good; a verdict states the value."""

    SIMULATIONS = "train on more simulations"
    FRESH = "calibrate on more fresh simulations"
    AROUND = "simulate around this observation (infer with refine='auto')"
    SUMMARY = "give the network a summary that keeps more of the data"
    SCALE = "look at the data, their units and their scale"
    PRIOR = "look at the prior: it may have to be wider"
    NOISE = "look at the noise of the simulator, its size and its distribution"
    MODEL = "look at the residuals: the simulator lacks something"
    DATA = "look at how the numbers that it names were measured"
    COORDINATES = (
        "let `Observable(coords=...)` say where the simulator's data stand, for those of the file to be compared"
    )
    LIKELIHOOD = "mend the simulator's likelihood"
    SURROGATE = "weight by the true simulator's likelihood, or learn from runs of it (sciinf.posteriors.corrected)"
    FAILURES = "mend the simulations that fail, or say what a failure is"
    DRAWS = "ask for more draws"


CONFIRMED = "confirmed"  # the kind of a finding about a Bayesian evidence whose constant simulations confirm


@dataclass(frozen=True)
class Finding:
    """The finding of one check, good or bad.

    Args:
        name: What was checked, in a word or two: "failures", "prior bounds", "local check".
        level: "good", "caution" (read the answer with care), "unknown" (the check could not decide) or
            "alarm" (do not use the answer).
        words: The finding in words, with its numbers. If it is not good, also what to do.
        kind: The result as a word for programs; each check lists its own kinds. Empty if the level says all.
        figures: The numbers of the finding, by name. "p" is a p-value: the share of correct answers to
            correct data whose p-value is at most this one.
        cause: What has to change; None if the finding is good.
        evidence: The evidence of a finding about the correctness of the computation; None for any
            other finding.

    Raises:
        ValueError: If the level is none of the four.
    """

    name: str
    level: Level
    words: str
    kind: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    cause: Cause | None = None
    evidence: Evidence | None = None

    def __post_init__(self) -> None:
        if self.level not in [*Level]:
            known = ", ".join(repr(str(level)) for level in Level)
            raise ValueError(f"the level of a finding must be one of {known}, got {self.level!r}")
        object.__setattr__(self, "level", Level(self.level))

    @property
    def line(self) -> str:
        """The finding as one line of text: its level's label and its words."""
        return f"{self.level.label}: {self.words}"

    def to_json(self) -> dict[str, Any]:
        """The finding as plain JSON values; figures, cause and evidence are left out if empty."""
        more = {
            "figures": self.figures,
            "cause": self.cause and self.cause.name.lower(),
            "evidence": self.evidence and self.evidence.name.lower(),
        }
        said = {"name": self.name, "level": str(self.level), "verdict": self.words, "kind": str(self.kind)}
        return said | {key: value for key, value in more.items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """The finding from the values of `to_json`.

        Kind and evidence of a finding by an earlier version are derived from its words.

        Raises:
            KeyError: If a part is missing.
            ValueError: If the level is none of the four.
        """
        from sciinf.core.earlier_findings import translate

        data = data if "kind" in data else translate(data)
        cause, evidence = data.get("cause"), data.get("evidence")
        return cls(
            str(data["name"]),
            data["level"],
            str(data["verdict"]),
            data.get("kind") or "",
            data.get("figures") or {},
            Cause[cause.upper()] if cause and cause.upper() in Cause.__members__ else None,
            Evidence[evidence.upper()] if evidence and evidence.upper() in Evidence.__members__ else None,
        )
