"""Verdict on an answer, from the files of its run folder, and the colour of each finding.

`core.verdict` makes the judgement. This module adds only findings about the folder: a calibration of another fit,
damaged files, or a missing answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sciinf.core.findings import Cause, Finding, Level
from sciinf.core.records import Trust, calibration_finding, earlier_weights, findings_about, is_of, said_of
from sciinf.core.verdict import Verdict, brief, verdict_from
from sciinf.interfaces.figures.run_folder import Run

Colour = Literal["green", "amber", "red", "grey"]
SYMBOLS: Mapping[Colour, str] = {"green": "✓", "amber": "!", "red": "✕", "grey": "–"}
COLOURS: Mapping[Level, Colour] = {
    Level.GOOD: "green",
    Level.CAUTION: "amber",
    Level.UNKNOWN: "amber",
    Level.ALARM: "red",
}
_STATES = {Level.GOOD: "Good", Level.CAUTION: "Caution", Level.UNKNOWN: "Could not be told", Level.ALARM: "Warning"}
_UNLOOKED = "the observation was not compared with simulations"


@dataclass(frozen=True)
class Card:
    """One finding, as the report shows it.

    Args:
        title: What was checked.
        colour: Colour of the finding's level; "grey" if the verdict rests on stronger evidence.
        state: Level of the finding, in a few words.
        words: The finding, as a sentence.
    """

    title: str
    colour: Colour
    state: str
    words: str

    @property
    def clause(self) -> str:
        """First clause of the finding, with a capital letter."""
        return _capital(brief(self.words))


def cards(verdict: Verdict) -> list[Card]:
    """Cards of all findings behind a verdict, in display order."""
    found = []
    for one in verdict.findings:
        colour, state = COLOURS[one.level], _STATES[one.level]
        colour, state = ("grey", "Weaker evidence") if verdict.is_weaker(one) else (colour, state)
        found.append(Card(_capital(one.name), colour, state, _sentence(one.words)))
    return found


def verdict_of(run: Run) -> Verdict:
    """Verdict on the answer of a run, or on its network if no observation has been asked about yet."""
    answer = run.answer
    said = answer.get("calibration") or said_of(run.calibration)
    posterior, estimates = str(answer.get("posterior") or ""), (answer.get("parameters") or {}).values()
    derived = any(isinstance(e, Mapping) and e.get("derived") for e in estimates)
    calibrated = calibration_finding(_known(said, run), posterior, derived=derived)
    checks = [Finding.from_json(one) for one in answer.get("checks") or ()]
    ess, count, k = answer.get("ess") or 0.0, answer.get("draws") or 0, answer.get("pareto_k")
    weights = earlier_weights(ess, count, k, posterior, corrected=bool(answer.get("amortised")))
    return verdict_from((*findings_about(calibrated, _observed(run), checks, weights), *_of_folder(run, said)))


def _known(said: Mapping[str, Any], run: Run) -> Mapping[str, Any]:
    """Calibration record of an answer, with "cautious" and "tails_alone" added from the folder's calibration.

    Earlier versions did not write these two entries. They are added only if both calibrations have the same reasons.
    """
    found = run.calibration
    if found is None or "tails_alone" in said or list(said.get("reasons") or ()) != list(found.reasons):
        return said
    return {**said, "cautious": found.cautious, "tails_alone": found.tails_alone}


def _observed(run: Run) -> Finding:
    if not run.answer:
        return Finding("observation", Level.UNKNOWN, run.missing.get("answer", "no observation has been asked about"))
    try:
        return Trust.from_json(run.answer["trust"]).finding
    except (KeyError, ValueError, TypeError, AttributeError):
        return Finding("trust", Level.UNKNOWN, _UNLOOKED, cause=Cause.FRESH)


def _of_folder(run: Run, said: Mapping[str, Any]) -> list[Finding]:
    """List with one finding on problems of the folder's files, or an empty list if there are none."""
    found, digest, words = run.calibration, run.fit.get("digest"), []
    if found is None and (run.folder / "calibration.json").is_file():
        words.append(run.missing.get("calibration", "calibration.json could not be read"))
    elif found is not None and found.of == "amortised" and digest and digest != found.fit:
        words.append(
            "the calibration in this folder is of another fit than that beside it; run `sciinf calibrate` again"
        )
    elif found is not None and calibration_finding(said).kind != "not checked" and not is_of(said, found):
        words.append(
            "the run was calibrated anew since this answer, maybe of another network; ask again with `sciinf query`"
        )
    words += run.doubts
    return [Finding("files", Level.CAUTION, "; ".join(one.strip().rstrip(".") for one in words))] if words else []


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return _capital(text.strip()) + ("" if text.strip().endswith((".", "!", "?")) else ".")


__all__ = ["COLOURS", "SYMBOLS", "Card", "Colour", "cards", "verdict_of"]
