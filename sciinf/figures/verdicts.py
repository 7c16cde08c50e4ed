"""Whether to believe the answer: the checks in words and colours."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from sciinf.core import Check
from sciinf.core.tables import percent
from sciinf.core.verdicts import NOT_CALIBRATED, Calibration
from sciinf.figures.calibration import CONFIDENCE, binomial_band
from sciinf.figures.methods_text import weighted_by
from sciinf.figures.run_folder import Run
from sciinf.trust.agreement import coverage
from sciinf.trust.second import unconfirmed

Colour = Literal["green", "amber", "red", "grey"]
SYMBOLS: Mapping[str, str] = {"green": "✓", "amber": "!", "red": "✕", "grey": "–"}
_RELIABLE_K = 0.7
_FEW = 400
_LEVEL = 0.9  # of intervals, where there is no answer that states one
_LONG = 180  # letters of a clause
_LEVELS: dict[str, tuple[Colour, str]] = {
    "good": ("green", "Like the simulations"),
    "unusual": ("amber", "Unusual"),
    "alarm": ("red", "Unlike the simulations"),
    "unknown": ("amber", "Not known"),
}
_CHECKS: dict[str, Colour] = {"good": "green", "caution": "amber", "alarm": "red", "unknown": "amber"}
_ORDER: tuple[Colour, ...] = ("red", "amber", "green", "grey")
_FIVE = (
    (("calibration", "local check", "tails"), "not calibrated"),
    (("observation", "strange data", "limits"), "data not compared with simulations"),
    (("predictive", "residuals", "likelihood", "intervals"), "data not compared with predictions"),
    (("weights",), "no likelihood to correct by"),
    (("prior bounds",), "prior not looked at"),
)
"""The checks behind each of the five lights, and what it says where there is none."""
_OF = ("calibration", "observation", "predictions", "weights", "prior")
_MISSED = (_FIVE[2][1], _FIVE[4][1])
"""What an answer lacks where those checks were not made. Not every answer has a likelihood."""
_ALONE, _REFINED = (
    "no second network has confirmed it",
    "it was refined around other data, and nothing tells of its error at these",
)
_WORDS: Mapping[str, Mapping[str, str]] = {
    "calibration": {
        "green": "calibrated",
        "Cautious: too wide": "calibrated with caution: too wide",
        "Cannot tell": "calibration cannot tell",
        "Not checked": "not calibrated yet",
        "Of another fit": "calibration is of another network",
        "Calibrated anew": "calibrated anew since this answer",
        "Damaged": "calibration cannot be read",
        "red": "not calibrated",
        "grey": "calibration is of the network, not of this answer",
    },
    "local check": {
        "green": "right at this observation",
        "amber": "not sure to be right at this observation",
        "red": "not right at this observation",
    },
    "tails": {"amber": "tails may be too light"},
    "observation": {
        "green": "data like simulations",
        "Unusual": "data unusual among simulations",
        "None yet": "no observation yet",
        "amber": "not known whether data are like simulations",
        "red": "data unlike simulations",
    },
    "strange data": {"amber": "some data may be strange", "red": "some data are strange"},
    "limits": {"amber": "limits may be rounded", "red": "some data are beyond a limit"},
    "predictive": {
        "green": "model reproduces the data",
        "amber": "model may not predict the data",
        "red": "model does not predict the data",
    },
    "residuals": {
        "green": "model reproduces the data",
        "amber": "model may not reproduce the data",
        "red": "model does not reproduce the data",
    },
    "likelihood": {
        "green": "model reproduces the data",
        "amber": "data less, or more, likely than predicted ones",
        "red": "data not as likely as predicted ones",
    },
    "intervals": {
        "green": "events come when the model says",
        "amber": "events may not come when the model says",
        "red": "events do not come when the model says",
    },
    "weights": {"green": "weights reliable", "amber": "few effective draws", "red": "weights unreliable"},
    "files": {"amber": "files damaged, or not to be checked"},
    "prior bounds": {
        "green": "prior wide enough",
        "amber": "posterior at the edge of the prior",
        "red": "posterior at the edge of the prior",
    },
    "noise": {"amber": "simulator's noise missing, or not from the generator passed"},
}
"""A check -> its colour, or the state of its card -> the light's words."""
_PASSED: dict[str, tuple[Colour, str]] = {
    "passed": ("green", "Passed"),
    "cannot tell": ("amber", "Cannot tell"),
    "not passed": ("red", "Not passed"),
}


@dataclass(frozen=True)
class Card:
    """One verdict.

    Args:
        title: What was checked.
        colour: "green", "amber" or "red"; "grey" where it does not count.
        state: The verdict in a few words.
        reasons: The verdict's reasons, one sentence each, the gravest first.
        grade: How far what was found is from what it should be, at the level that the answer states; "" where that is
            not known, or no farther than chance.
    """

    title: str
    colour: Colour
    state: str
    reasons: Sequence[str]
    grade: str = ""

    @property
    def clause(self) -> str:
        """The grade, and the first clause of the gravest reason."""
        first = brief(self.reasons[0])
        return f"{self.grade}; {first[:1].lower()}{first[1:]}" if self.grade else first


@dataclass(frozen=True)
class Light:
    """What several checks say together: never greener than the worst of them.

    Args:
        colour: Of the worst check that counts; "grey" where none does.
        words: The same in a few words.
        sentence: The same for a sentence, with the figures of a calibration that did not pass.
        of: What was looked at: "calibration", "observation", "predictions", "weights", "prior", or one check's name.
    """

    colour: Colour
    words: str
    sentence: str
    of: str = ""


@dataclass(frozen=True)
class Verdict:
    """All that the checks say of an answer.

    Args:
        cards: One for each check.
        lights: Five that every answer has, and one for each check that belongs to none of them.
        colour: The worst colour of all checks that count.
        headline: Whether to rely on the answer, in a sentence.
        missing: What was not looked at, where it should have been.
    """

    cards: Sequence[Card]
    lights: Sequence[Light]
    colour: Colour
    headline: str
    missing: Sequence[str] = ()

    @property
    def state(self) -> str:
        """Whether to rely on the answer, in a few words."""
        said = "; ".join(light.words for light in self.lights if light.colour == self.colour)
        known = {"red": f"do not rely: {said}", "amber": f"with care: {said}"}
        return known.get(self.colour, "all checks made passed" if self.missing else "all checks passed")


def verdict_of(run: Run) -> Verdict:
    """The verdict on an answer, from all that was checked of it.

    It judges the answer that is given. Where that was corrected by the likelihood, the weights say how well, and the
    calibration of the network that it began from does not count. Other weights do not mend a network.
    """
    found = _cards(run)
    known = {name for names, _ in _FIVE for name in names}
    lights = [
        replace(_light([c for c in found if c.title.lower() in names], empty), of=of)
        for of, (names, empty) in zip(_OF, _FIVE, strict=True)
    ]
    lights += [replace(_light([c], ""), of=c.title.lower()) for c in found if c.title.lower() not in known]
    worst = _worst(found)  # never grey, for the card of the observation always counts
    missing = [light.words for light in lights if light.colour == "grey" and light.words in _MISSED]
    if any(unconfirmed(Check(**check)) for check in run.answer.get("checks") or ()):
        missing.append(_REFINED if run.answer.get("posterior") == "refined" else _ALONE)
    return Verdict(found, lights, worst, _headline(run, lights, worst, missing), missing)


def _headline(run: Run, lights: Sequence[Light], worst: Colour, missing: Sequence[str]) -> str:
    what = "answer" if run.answer else "posterior"
    said = "; ".join(light.sentence for light in lights if light.colour == worst)
    if worst == "red":
        return f"Do not rely on this {what} as it stands: {said}."
    if worst == "amber":
        return f"Read this {what} with care: {said}."
    passed = "All checks that were made passed" if missing else "All checks passed"
    left = f" But {', '.join(missing)}." if missing else ""
    if _by_likelihood(run):
        return f"{passed}: the likelihood corrected the posterior, and the observation is like the simulations.{left}"
    return f"{passed}: the posterior is calibrated, and the observation is like the simulations behind it.{left}"


def _worst(found: Sequence[Card]) -> Colour:
    colours = {card.colour for card in found} | {"grey"}
    return next(colour for colour in _ORDER if colour in colours)


def _light(found: Sequence[Card], empty: str) -> Light:
    worst = _worst(found)
    if not found:
        return Light("grey", empty, empty)
    chosen = [card for card in found if card.colour == worst]
    words = list(dict.fromkeys(_words(card) for card in (chosen[:1] if worst == "green" else chosen)))
    said = list(words)
    if chosen[0].title == "Calibration" and worst == "red":
        why = chosen[0].clause
        said[0] = f"{words[0]} ({why[:1].lower()}{why[1:]})"
    return Light(worst, " and ".join(words), " and ".join(said))


def _words(card: Card) -> str:
    """A check's finding in the words of a light."""
    known = _WORDS.get(card.title.lower(), {})
    return known.get(card.state) or known.get(card.colour) or f"{card.title.lower()}: {card.state.lower()}"


def brief(reason: str) -> str:
    """The first clause of a finding, without the figures in brackets that the whole of it has."""
    clause = re.split(r"; |\. (?=[A-Z])", reason.strip(), maxsplit=1)[0]
    clause = re.sub(r" \((?:p = |p < |dangerous|cautious|[\d,]+ simulations|[^()]*\bamong )[^()]*\)", "", clause)
    if len(clause) > _LONG:
        clause = f"{clause[:_LONG].rpartition(', ')[0] or clause[:_LONG].rpartition(' ')[0]} …"
    return clause.rstrip(".")


def _weighted(run: Run) -> bool:
    """Whether the answer is that of a learned posterior whose draws were weighted."""
    return run.answer.get("pareto_k") is not None or bool(run.answer.get("amortised"))


def _by_likelihood(run: Run) -> bool:
    """Whether the weights are by the likelihood, which makes another posterior of the one that was calibrated."""
    return _weighted(run) and weighted_by(str(run.answer.get("posterior") or ""))[1]


def _cards(run: Run) -> list[Card]:
    """All that was checked of an answer, a card each."""
    calibrated = _calibration_card(run)
    if _by_likelihood(run):
        reasons = ["Of the uncorrected posterior, so it does not judge this answer.", *calibrated.reasons]
        calibrated = Card(calibrated.title, "grey", calibrated.state, reasons)
    found = [calibrated, _trust_card(run)]
    found += [_weights_card(run)] if _weighted(run) else []
    found += [_check_card(check) for check in run.answer.get("checks") or ()]
    found += [Card("Files", "amber", "With care", run.doubts)] if run.doubts else []
    return found


def _calibration_card(run: Run) -> Card:
    found, said = run.calibration, run.answer.get("calibration") or {}
    if found is None:
        return _remembered_card(run, said)
    digest = run.fit.get("digest")
    if found.of == "amortised" and digest and digest != found.fit:
        words = "The calibration in this folder is of another fit than the one beside it; run `sciinf calibrate` again."
        return Card("Calibration", "amber", "Of another fit", [words])
    colour, state = ("amber", "Cautious: too wide") if found.cautious else _PASSED[found.state]
    about = f"Checked: the {found.of} posterior."
    reasons = [*_gravest_first(found.reasons), about]
    if colour != "red" and _of_another(said, found):
        words = "This answer was given with another calibration than the one in this folder, which may be of another "
        reasons.insert(0, f"{words}network; ask again with `sciinf query`.")
        colour, state = "red" if said.get("state") == "not passed" else "amber", "Calibrated anew"
    return Card("Calibration", colour, state, reasons, _grade(run, found) if colour == "red" else "")


def _gravest_first(reasons: Sequence[str]) -> list[str]:
    """Reasons as sentences: what holds too little, then what is off in another way, then what holds too much."""
    order = {"(dangerous)": 0, "(cautious)": 2}
    return sorted(map(_sentence, reasons), key=lambda words: next((k for w, k in order.items() if w in words), 1))


def _grade(run: Run, found: Calibration) -> str:
    """What intervals of the answer's level hold, of the parameter whose hold least; "" if no less than by chance."""
    level = next((float(e["level"]) for e in (run.answer.get("parameters") or {}).values()), _LEVEL)
    if found.rows == 0 or not found.names:
        return ""
    ranks = torch.as_tensor(np.asarray(found.ranks))
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    held = [float(np.diff(coverage(ranks[:, d], found.draws, ends))[0]) for d in range(len(found.names))]
    least = int(np.argmin(held))
    rows = int((ranks[:, least] >= 0).sum())
    low, _ = binomial_band(np.array([level]), max(rows, 1), 1 - (1 - CONFIDENCE) / len(held))
    if held[least] >= low[0]:
        return ""
    share = f"{held[least]:.0%}" if level - held[least] > 0.01 else f"{held[least]:.1%}"
    return f"{percent(level)} intervals of {found.names[least]} hold {share}"


def _of_another(said: Mapping[str, Any], found: Calibration) -> bool:
    """Whether an answer was given with another calibration, by what it says of it; not where it had none."""
    reasons = list(said.get("reasons") or ())
    if reasons in ([], [NOT_CALIBRATED]):
        return False
    return reasons != list(found.reasons) or said.get("fit", found.fit) != found.fit


def _remembered_card(run: Run, said: Mapping[str, Any]) -> Card:
    """What the answer says of a calibration that is not in its folder, or cannot be read."""
    reasons = _gravest_first([r for r in said.get("reasons") or () if r != NOT_CALIBRATED])
    if not reasons:
        return Card("Calibration", "amber", "Not checked", [run.missing["calibration"]])
    about = f"Checked: the {said['of']} posterior. " if said.get("of") else ""
    reasons.append(f"{about}The calibration itself is not in this folder.")
    colour, state = _PASSED[str(said.get("state") or ("cannot tell" if said["passed"] else "not passed"))]
    if colour == "green" and (run.folder / "calibration.json").is_file():
        return Card("Calibration", "amber", "Damaged", [_sentence(run.missing["calibration"]), *reasons])
    return Card("Calibration", colour, state, reasons)


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
    words = "No error seen" if unconfirmed(Check(**check)) else words
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
