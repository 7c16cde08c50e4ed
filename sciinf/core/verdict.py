"""Verdict: whether to rely on an answer, in one sentence, from all findings about it.

It judges the answer, by the strongest evidence that there is (`Evidence`): weights by the simulator's likelihood, then
rounds of simulations around the observation, then a second network there, then the local check alone, then the
calibration of the network on average. Where the strongest cannot tell, the next counts as well, and what it says is to
be read with care. Weaker evidence that says otherwise is named as such. Findings about the data and the draws always
count, whatever the network did; one of these that could not be made calls for care.

Two checks (residuals, strange data) look at many statistics of the same data, each with false alarms in one of a
hundred right answers. An alarm of one of them stands where the combined p-value of both is below .01, and calls for
care otherwise. A caution, of residuals with a p-value below .05, stands where the combined one is below .05, too. It is
weaker evidence otherwise. The p-values are combined by the Cauchy combination test: the mean T of tan(pi (1/2 - p)) has
nearly a standard Cauchy distribution in its far tail, even if the p-values are correlated.

References:
    | Cauchy combination test: a powerful test with analytic p-value calculation under arbitrary dependency structures
      (Liu & Xie, 2020), https://doi.org/10.1080/01621459.2018.1554485: equation 1 and theorem 1

An answer that nothing stronger than the local check speaks for is to be read with care, for that check sees about a
third of a network's error at one observation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sciinf.core.findings import Cause, Evidence, Finding, Level

FAR = "far"  # the figure of a finding that could not tell and may be far off: no weaker evidence speaks for it
UNCHECKED = "not checked"  # the kind of a finding of a check that was not made
COMBINED = "combined"  # the figure of a finding whose p-value is combined with that of the other such findings
_ALARM, _CAUTION = 0.01, 0.05  # combined p-values
_LEAST, _MOST = 1e-12, 0.9  # p-values are clipped to this range, because one of 1 would hide all others
_LONG = 180  # characters of a clause
_BECAUSE = {
    Evidence.NETWORK: "a second network, trained around this observation, gives the same answer",
    Evidence.ROUNDS: "rounds of simulations around this observation have settled it",
    Evidence.LIKELIHOOD: "its draws are weighted by the simulator's likelihood",
}
_NOT_ALL = "(this check alone says so: with the other check of the data p is above .01)"
_ONLY = {
    Evidence.AVERAGE: "not checked at this observation",
    Evidence.CHECK: "no error was seen at this observation, but no second network has confirmed that",
}


@dataclass(frozen=True)
class Verdict:
    """Whether to rely on an answer.

    Args:
        level: GOOD, rely; CAUTION, rely with care; UNKNOWN, cannot tell; ALARM, do not rely.
        findings: All that was found, in the order in which it is shown.
        because: The findings that decided; empty where nothing is wrong.
        weaker: Findings that say otherwise and rest on weaker evidence than what decided: the calibration of a network
            whose answer was refined, or a caution of one check of the data that the combined p-value does not confirm.
        evidence: The strongest there is; None where nothing speaks for the computation.
    """

    level: Level
    findings: tuple[Finding, ...]
    because: tuple[Finding, ...]
    weaker: tuple[Finding, ...]
    evidence: Evidence | None

    def __str__(self) -> str:
        return self.sentence

    @property
    def word(self) -> str:
        """One of "rely", "rely with care", "cannot tell" and "do not rely"."""
        return self.level.advice

    @cached_property
    def causes(self) -> tuple[Cause, ...]:
        """What has to change, each once, the gravest first; empty where nothing has."""
        open_too = [one for one in self.findings if one.evidence and one.level != Level.GOOD]
        open_too = [one for one in open_too if not self.is_weaker(one)]
        found = [one.cause for one in (*self.because, *open_too) if one.cause is not None]
        found += [Cause.AROUND] if self._alone and self.level in (Level.CAUTION, Level.UNKNOWN) else []
        return tuple(dict.fromkeys(found))

    @cached_property
    def clauses(self) -> tuple[str, ...]:
        """Why, in a few words each."""
        if self.level == Level.GOOD:
            return (_BECAUSE[self.evidence],) if self.evidence else ()
        found = [
            f"{brief(one.words)} {_NOT_ALL}" if one.level == Level.ALARM > self.level else brief(one.words)
            for one in self.because
            if one.words
        ]
        said = any((one.evidence or 0) >= Evidence.CHECK or one.kind == UNCHECKED for one in self.because)
        if self._alone and self.level != Level.ALARM and not said:
            found.append(_ONLY[self.evidence or Evidence.AVERAGE])
        if self.level == Level.CAUTION and self.evidence == Evidence.AVERAGE and any(map(_undecided, self.because)):
            found.append("on average over its simulations its network is right")
        return tuple(dict.fromkeys(found))

    @cached_property
    def sentence(self) -> str:
        """The verdict in one sentence, which begins with it."""
        whether = " whether to rely" if self.level == Level.UNKNOWN else ""
        words = f"{self.word.capitalize()}{whether} on this answer: {'; '.join(self.clauses)}"
        if self.level == Level.UNKNOWN and self.causes:
            words += f"; to tell, {self.causes[0]}"
        return words if words.endswith("...") else words.rstrip(".") + "."

    @property
    def _alone(self) -> bool:
        """Whether nothing stronger than the local check speaks for the computation."""
        return self.evidence is None or self.evidence <= Evidence.CHECK

    def is_weaker(self, finding: Finding) -> bool:
        """Whether one of the findings says otherwise, and rests on weaker evidence than what decided."""
        return any(one is finding for one in self.weaker)

    def line_of(self, finding: Finding) -> str:
        """A line about one of the findings, which begins with its level, or with that it is weaker evidence."""
        return f"weaker evidence: {finding.words}" if self.is_weaker(finding) else finding.line

    def to_json(self) -> dict[str, Any]:
        """Level and sentence, as they stand in `answer.json`, in exports and in the service's replies."""
        return {"verdict": str(self.level), "sentence": self.sentence}


def verdict_from(findings: Sequence[Finding]) -> Verdict:
    """The verdict from all findings about an answer."""
    deciding: list[Finding] = []
    evidence = None
    for strength in sorted({one.evidence for one in findings if one.evidence}, reverse=True):
        here = [one for one in findings if one.evidence == strength]
        deciding += here
        if any(one.level != Level.UNKNOWN for one in here):
            evidence = strength
            break
    weaker = [one for one in findings if one.evidence and one.level != Level.GOOD and one.evidence < (evidence or 0)]
    others = [one for one in findings if one.evidence is None]
    chance = by_chance(others)
    weaker += [one for one in chance if one.level == Level.CAUTION]
    less = {Level.ALARM: Level.CAUTION, Level.CAUTION: Level.GOOD}
    counted = [(one, less[one.level] if one in chance else _counted(one, evidence)) for one in (*deciding, *others)]
    least = Level.UNKNOWN if evidence is None else Level.CAUTION if evidence <= Evidence.CHECK else Level.GOOD
    level = max([least, *(each for _, each in counted)])
    because = [one for one, each in counted if each == level != Level.GOOD or one.level == Level.ALARM]
    return Verdict(level, tuple(findings), tuple(because), tuple(weaker), evidence)


def by_chance(findings: Sequence[Finding]) -> list[Finding]:
    """Alarms and cautions that count one level less, because the combined p-value is above the limit of their level."""
    combined = [one for one in findings if one.figures.get(COMBINED)]
    p = [min(max(float(one.figures["p"]), _LEAST), _MOST) for one in combined]
    far = sum(math.tan(math.pi * (0.5 - one)) for one in p) / max(1, len(p))
    together = 0.5 - math.atan(far) / math.pi
    most = {Level.ALARM: _ALARM, Level.CAUTION: _CAUTION}
    return [one for one in combined if one.level in most and together >= most[one.level]]


def _counted(finding: Finding, told: Evidence | None) -> Level:
    """The level that a finding gives a verdict: what could not be told calls for care, where other evidence tells.

    Args:
        finding: The finding.
        told: The strongest evidence that tells whether the computation is right; None where none does.
    """
    if (
        finding.level == Level.UNKNOWN
        and not finding.figures.get(FAR)
        and (finding.evidence is None or told is not None)
    ):
        return Level.CAUTION
    return finding.level


def _undecided(finding: Finding) -> bool:
    """Whether stronger evidence than an average could not tell."""
    return finding.level == Level.UNKNOWN and (finding.evidence or 0) > Evidence.AVERAGE


def brief(words: str) -> str:
    """The first clause of a finding, without the figures in brackets that the whole of it has."""
    clause = re.split(r"; |\. (?=[A-Z])", words.strip(), maxsplit=1)[0]
    clause = re.sub(r" \((?:p = |p < |[\d,]+ simulations|[^()]*\bamong )[^()]*\)", "", clause)
    if len(clause) > _LONG:
        clause = f"{clause[:_LONG].rpartition(', ')[0] or clause[:_LONG].rpartition(' ')[0]} ..."
    return clause if clause.endswith("...") else clause.rstrip(".")
