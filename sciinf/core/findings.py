"""Findings: what a check found about an answer, a simulator or a survey. The one vocabulary of levels is here.

The program decides by `level`, `kind`, `evidence` and the numbers in `figures`. `words` are for people, and nothing is
decided by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any


class Level(StrEnum):
    """How bad a finding or a verdict is, in order: GOOD < CAUTION < UNKNOWN < ALARM.

    A level equals its text: `level == "alarm"`.
    """

    GOOD = "good"
    CAUTION = "caution"
    UNKNOWN = "unknown"
    ALARM = "alarm"

    @property
    def order(self) -> int:
        """0 for GOOD to 3 for ALARM."""
        return [*type(self)].index(self)

    @property
    def label(self) -> str:
        """As it begins a line of text: those that must not be overlooked are in capitals."""
        return {Level.UNKNOWN: "UNKNOWN", Level.ALARM: "WARNING"}.get(self, str(self))

    @property
    def advice(self) -> str:
        """What a verdict of this level says of an answer, in one to three words."""
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
    """What a finding about the computation of an answer rests on, the strongest last.

    Findings without evidence, of the data or the draws, always count. Of those with evidence the strongest decide.
    """

    AVERAGE = 1  # the calibration of the network, on average over its simulations
    CHECK = 2  # the local check alone, which sees a third of a network's error at one observation
    NETWORK = 3  # a second network, trained around the observation
    ROUNDS = 4  # rounds of simulations around the observation, the last of which hardly moved the answer
    LIKELIHOOD = 5  # weights by the simulator's own likelihood


class Cause(StrEnum):
    """What has to change where a finding is not good; the value is said in a verdict."""

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


CONFIRMED = "confirmed"  # the kind of a finding on an evidence whose constant simulations confirm


@dataclass(frozen=True)
class Finding:
    """One finding, good or bad.

    Args:
        name: What was looked at, a word or two: "failures", "prior bounds", "local check".
        level: "good", "caution" (read the answer with care), "unknown" (it could not be told) or "alarm" (do not use
            the answer).
        words: The finding in words, with its figures and, unless it is good, the way out.
        kind: What was found, a word for programs; each check lists its own. Empty where the level says all.
        figures: The numbers behind it, by name. "p" is a p-value: the share of right answers with right data for which
            it is at least as small.
        cause: What has to change, unless it is good.
        evidence: What it rests on, where it tells whether the computation is right.

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
            raise ValueError(f"the level of a finding is one of {known}, got {self.level!r}")
        object.__setattr__(self, "level", Level(self.level))

    @property
    def line(self) -> str:
        """Level and words, as a line of text has them."""
        return f"{self.level.label}: {self.words}"

    def to_json(self) -> dict[str, Any]:
        """Name, level, words and kind; figures, cause and evidence where there are any."""
        more = {
            "figures": self.figures,
            "cause": self.cause and self.cause.name.lower(),
            "evidence": self.evidence and self.evidence.name.lower(),
        }
        said = {"name": self.name, "level": str(self.level), "verdict": self.words, "kind": str(self.kind)}
        return said | {key: value for key, value in more.items() if value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Finding:
        """The finding of a JSON. Kind and evidence of one by an earlier version are read from its words.

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
