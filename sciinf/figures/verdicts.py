"""Whether to believe the answer: the checks in words and colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sciinf.core.verdicts import NOT_CALIBRATED
from sciinf.figures.page import Card, Colour, verdict
from sciinf.figures.run_folder import Run

_RELIABLE_K = 0.7
_FEW = 400
_NAMED = 12
_LEVELS: dict[str, tuple[Colour, str]] = {
    "good": ("green", "Like the simulations"),
    "unusual": ("amber", "Unusual"),
    "alarm": ("red", "Unlike the simulations"),
    "unknown": ("amber", "Not known"),
}
_CHECKS: dict[str, Colour] = {"good": "green", "caution": "amber", "alarm": "red", "unknown": "amber"}
_PASSED: dict[str, tuple[Colour, str]] = {
    "passed": ("green", "Passed"),
    "cannot tell": ("amber", "Cannot tell"),
    "not passed": ("red", "Not passed"),
}


def verdict_band(run: Run, key: str = "verdict") -> str:
    """The verdicts of a run as markup, with one sentence over them all; `key` is its anchor on the page."""
    return verdict(headline(run), _cards(run), key)


def verdicts_band(runs: Mapping[str, Run]) -> str:
    """The verdicts on the answers of several observations: how many can be relied on, and which not."""
    by_colour = {name: _worst(run) for name, run in runs.items()}
    cards = []
    states: dict[Colour, str] = {"red": "Do not rely on", "amber": "Read with care", "green": "All checks passed"}
    for colour, state in states.items():
        names = [name for name, worst in by_colour.items() if worst == colour]
        if names:
            words = f"{', '.join(names[:_NAMED])}" + (
                f" and {len(names) - _NAMED} more." if len(names) > _NAMED else "."
            )
            cards.append(Card(f"{len(names)} of {len(runs)} observations", colour, state, [words]))
    cards.append(_calibration_card(next(iter(runs.values()))))
    green = sum(worst == "green" for worst in by_colour.values())
    return verdict(f"{green} of {len(runs)} answers passed all checks.", cards)


def headline(run: Run) -> str:
    """Whether to rely on the answer, in a sentence.

    It judges the answer that is given. Where that was corrected by the likelihood, the weights say how well, and the
    calibration of the network that it began from does not count.
    """
    cards, what = _counting(run), "answer" if run.answer else "posterior"
    worst = _worst(run)
    named = " and ".join(card.title.lower() for card in cards if card.colour == worst)
    if worst == "red":
        return f"Do not rely on this {what} as it stands: see {named}."
    if worst == "amber":
        return f"Read this {what} with care: see {named}."
    if _corrected(run):
        return "All checks passed: the likelihood corrected the posterior, and the observation is like the simulations."
    return "All checks passed: the posterior is calibrated, and the observation is like the simulations behind it."


def _worst(run: Run) -> Colour:
    colours = {card.colour for card in _counting(run)}
    return "red" if "red" in colours else "amber" if "amber" in colours else "green"


def _counting(run: Run) -> list[Card]:
    return [card for card in _cards(run) if card.colour != "grey"]


def _corrected(run: Run) -> bool:
    """Whether the answer is another posterior than the one that was calibrated, corrected by its weights."""
    return run.answer.get("pareto_k") is not None or bool(run.answer.get("amortised"))


def _cards(run: Run) -> list[Card]:
    calibrated = _calibration_card(run)
    if _corrected(run):
        reasons = ["Of the uncorrected posterior, so it does not judge this answer.", *calibrated.reasons]
        calibrated = Card(calibrated.title, "grey", calibrated.state, reasons)
    cards = [calibrated, _trust_card(run)]
    cards += [_weights_card(run)] if _corrected(run) else []
    return cards + [_check_card(check) for check in run.answer.get("checks") or ()]


def _calibration_card(run: Run) -> Card:
    found = run.calibration
    if found is None:
        said = run.answer.get("calibration") or {}
        reasons = [_sentence(r) for r in said.get("reasons") or () if r != NOT_CALIBRATED]
        if not reasons:
            return Card("Calibration", "amber", "Not checked", [run.missing["calibration"]])
        about = f"Checked: the {said['of']} posterior. " if said.get("of") else ""
        reasons.append(f"{about}The calibration itself is not in this folder.")
        state = str(said.get("state") or ("cannot tell" if said["passed"] else "not passed"))
        return Card("Calibration", *_PASSED[state], reasons)
    digest = run.fit.get("digest")
    if found.of == "amortised" and digest and digest != found.fit:
        words = "The calibration in this folder is of another fit than the one beside it; run `sciinf calibrate` again."
        return Card("Calibration", "amber", "Of another fit", [words])
    colour, state = ("amber", "Cautious: too wide") if found.cautious else _PASSED[found.state]
    about = f"Checked: the {found.of} posterior."
    return Card("Calibration", colour, state, [_sentence(reason) for reason in found.reasons] + [about])


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
