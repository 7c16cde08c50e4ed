"""Whether to believe the answer: the checks in words and colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sciinf.core.verdicts import NOT_CALIBRATED
from sciinf.figures.page import Card, Colour, verdict
from sciinf.figures.run_folder import Run

_RELIABLE_K = 0.7
_FEW = 400
_LEVELS: dict[str, tuple[Colour, str]] = {
    "good": ("green", "Like the simulations"),
    "unusual": ("amber", "Unusual"),
    "alarm": ("red", "Unlike the simulations"),
    "unknown": ("amber", "Not known"),
}
_CHECKS: dict[str, Colour] = {"good": "green", "caution": "amber", "alarm": "red", "unknown": "amber"}
_PASSED = {True: "Passed", False: "Not passed"}


def verdict_band(run: Run) -> str:
    """The verdicts of a run as markup, with one sentence over them all."""
    cards = [_calibration_card(run), _trust_card(run)]
    if run.answer.get("pareto_k") is not None or run.answer.get("amortised"):
        cards.append(_weights_card(run))
    cards += [_check_card(check) for check in run.answer.get("checks") or ()]
    colours, what = {card.colour for card in cards}, "answer" if run.answer else "posterior"
    if "red" in colours:
        failed = " and ".join(card.title.lower() for card in cards if card.colour == "red")
        headline = f"Do not rely on this {what} as it stands: see {failed}."
    elif "amber" in colours:
        open_ones = " and ".join(card.title.lower() for card in cards if card.colour == "amber")
        headline = f"Read this {what} with care: see {open_ones}."
    else:
        headline = (
            "All checks passed: the posterior is calibrated, and the observation is like the simulations behind it."
        )
    return verdict(headline, cards)


def _calibration_card(run: Run) -> Card:
    found = run.calibration
    if found is None:
        said = run.answer.get("calibration") or {}
        reasons = [_sentence(r) for r in said.get("reasons") or () if r != NOT_CALIBRATED]
        if not reasons:
            return Card("Calibration", "amber", "Not checked", [run.missing["calibration"]])
        about = f"Checked: the {said['of']} posterior. " if said.get("of") else ""
        reasons.append(f"{about}The calibration itself is not in this folder.")
        return Card("Calibration", "green" if said["passed"] else "red", _PASSED[said["passed"]], reasons)
    digest = run.fit.get("digest")
    if found.of == "amortised" and digest and digest != found.fit:
        words = "The calibration in this folder is of another fit than the one beside it; run `sciinf calibrate` again."
        return Card("Calibration", "amber", "Of another fit", [words])
    colour = "green" if found.passed else "red"
    about = f"Checked: the {found.of} posterior."
    return Card("Calibration", colour, _PASSED[found.passed], [_sentence(reason) for reason in found.reasons] + [about])


def _trust_card(run: Run) -> Card:
    title = "Observation"
    if not run.answer:
        return Card(title, "amber", "None yet", [run.missing["answer"]])
    trust = run.answer.get("trust") or {}
    words = str(trust.get("verdict") or "The observation was not compared with simulations.")
    colour, state = _LEVELS.get(str(trust.get("level")), _LEVELS["unknown"])
    return Card(title, colour, state, [_sentence(words)])


def _check_card(check: Mapping[str, Any]) -> Card:
    """A further finding about the answer (`core.verdicts.Check`)."""
    name, colour = str(check["name"]), _CHECKS.get(str(check["level"]), "amber")
    words = {"green": "Good", "amber": "With care", "red": "Do not rely"}[colour]
    return Card(name[:1].upper() + name[1:], colour, words, [_sentence(str(check["verdict"]))])


def _weights_card(run: Run) -> Card:
    k, ess, count = run.answer.get("pareto_k"), run.answer.get("ess") or 0.0, run.answer.get("draws") or 0
    words = [f"The correction by weights leaves an effective sample size of {ess:,.0f} from {count:,} draws."]
    if k is not None:
        words.append(f"Pareto k = {k:.2f}; weights can be relied on below {_RELIABLE_K}.".replace("-", "−"))
    if k is not None and k >= _RELIABLE_K:
        return Card("Weights", "red", "Unreliable", words)
    if ess < _FEW:
        return Card("Weights", "amber", "Few effective draws", words)
    return Card("Weights", "green", "Reliable", words)


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
