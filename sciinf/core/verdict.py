"""Verdict: whether to rely on an answer, in one sentence, from all findings about the answer.

The verdict follows the strongest available evidence (`Evidence`), in this order:

1. importance weights by the simulator's likelihood;
2. rounds of simulations around the observation;
3. a second network, trained around the observation;
4. the local check alone;
5. the calibration of the network, on average over its simulations.

If the strongest evidence is inconclusive, the next also counts, and the answer is to be relied on with care.
Weaker evidence that contradicts the verdict is shown as such. Findings about the data and the draws always
count. If such a check could not be made, the answer is to be relied on with care.

Two checks (residuals, strange data) look at many statistics of the same data. Each gives a false alarm for
one in a hundred right answers. An alarm of one check stands if the combined p-value of both checks is below
.01, and counts as a caution otherwise. A caution (residuals with a p-value below .05) stands if the combined
p-value is below .05, and is weaker evidence otherwise. The p-values are combined by the Cauchy combination
test: the mean T of tan(pi (1/2 - p)) has nearly a standard Cauchy distribution in its far tail, even if the
p-values are correlated.

References:
    | Cauchy combination test: a powerful test with analytic p-value calculation under arbitrary dependency structures
      (Liu & Xie, 2020), https://doi.org/10.1080/01621459.2018.1554485: equation 1 and theorem 1

An answer with no evidence stronger than the local check is to be relied on with care, because this check sees
about a third of a network's error at one observation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sciinf.core.findings import Cause, Evidence, Finding, Level

FAR = "far"  # Figure of an inconclusive finding: the error may be large, and weaker evidence does not help.
UNCHECKED = "not checked"  # The kind of findings of a check that was not made.
COMBINED = "combined"  # Figure of a finding: its p-value is combined with those of other such findings.
_ALARM, _CAUTION = 0.01, 0.05  # Combined p-values below these confirm an alarm or a caution.
_LEAST, _MOST = 1e-12, 0.9  # p-values are clipped to this range: a p-value of 1 would hide all others.
_LONG = 180  # A verdict is one sentence, so clauses are cut to this many characters.
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
    """The judgement whether to rely on an answer, with the findings that decided.

    Args:
        level: GOOD, rely; CAUTION, rely with care; UNKNOWN, cannot tell; ALARM, do not rely.
        findings: All findings, in the order in which they are shown.
        because: The findings that decided the level, and all alarms. Empty if nothing is wrong.
        weaker: Findings that contradict the verdict but rest on weaker evidence: the calibration of a network
            whose answer was refined, or a caution of one check of the data that the combined p-value does not
            confirm.
        evidence: The strongest evidence that is conclusive; None if no finding about the computation is.
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
        """The causes of the findings, without repeats, the worst first; empty if nothing has to change."""
        open_too = [one for one in self.findings if one.evidence and one.level != Level.GOOD]
        open_too = [one for one in open_too if not self.is_weaker(one)]
        found = [one.cause for one in (*self.because, *open_too) if one.cause is not None]
        found += [Cause.AROUND] if self._alone and self.level in (Level.CAUTION, Level.UNKNOWN) else []
        return tuple(dict.fromkeys(found))

    @cached_property
    def clauses(self) -> tuple[str, ...]:
        """The reasons for the verdict, a few words for each."""
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
        """The verdict and its reasons in one sentence, which begins with the verdict."""
        whether = " whether to rely" if self.level == Level.UNKNOWN else ""
        words = f"{self.word.capitalize()}{whether} on this answer: {'; '.join(self.clauses)}"
        if self.level == Level.UNKNOWN and self.causes:
            words += f"; to tell, {self.causes[0]}"
        return words if words.endswith("...") else words.rstrip(".") + "."

    @property
    def _alone(self) -> bool:
        """Whether no conclusive evidence about the computation is stronger than the local check."""
        return self.evidence is None or self.evidence <= Evidence.CHECK

    def is_weaker(self, finding: Finding) -> bool:
        """Whether a finding contradicts the verdict but rests on weaker evidence than what decided."""
        return any(one is finding for one in self.weaker)

    def line_of(self, finding: Finding) -> str:
        """A line of text for a finding, which begins with its level or with "weaker evidence"."""
        return f"weaker evidence: {finding.words}" if self.is_weaker(finding) else finding.line

    def to_json(self) -> dict[str, Any]:
        """The level and the sentence, as in `answer.json`, exports and the replies of the web service."""
        return {"verdict": str(self.level), "sentence": self.sentence}


def verdict_from(findings: Sequence[Finding]) -> Verdict:
    """The verdict that follows from all findings about an answer."""
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
    """The alarms and cautions that count one level less, as the combined p-value is not below their limit."""
    combined = [one for one in findings if one.figures.get(COMBINED)]
    p = [min(max(float(one.figures["p"]), _LEAST), _MOST) for one in combined]
    far = sum(math.tan(math.pi * (0.5 - one)) for one in p) / max(1, len(p))
    together = 0.5 - math.atan(far) / math.pi
    most = {Level.ALARM: _ALARM, Level.CAUTION: _CAUTION}
    return [one for one in combined if one.level in most and together >= most[one.level]]


def _counted(finding: Finding, told: Evidence | None) -> Level:
    """The level of a finding as it counts in a verdict: an inconclusive finding may count as a caution.

    It counts as a caution if it does not have the figure `FAR`, and either is about data or draws, or other
    evidence is conclusive.

    Args:
        finding: The finding.
        told: The strongest conclusive evidence about the computation; None if there is none.
    """
    if (
        finding.level == Level.UNKNOWN
        and not finding.figures.get(FAR)
        and (finding.evidence is None or told is not None)
    ):
        return Level.CAUTION
    return finding.level


def _undecided(finding: Finding) -> bool:
    """Whether a finding with evidence stronger than an average is inconclusive."""
    return finding.level == Level.UNKNOWN and (finding.evidence or 0) > Evidence.AVERAGE


def brief(words: str) -> str:
    """The first clause of a finding's words, without figures in brackets, shortened if it is long."""
    clause = re.split(r"; |\. (?=[A-Z])", words.strip(), maxsplit=1)[0]
    clause = re.sub(r" \((?:p = |p < |[\d,]+ simulations|[^()]*\bamong )[^()]*\)", "", clause)
    if len(clause) > _LONG:
        clause = f"{clause[:_LONG].rpartition(', ')[0] or clause[:_LONG].rpartition(' ')[0]} ..."
    return clause if clause.endswith("...") else clause.rstrip(".")
