"""Translation of findings of earlier versions, which held only a level and a sentence.

No other module reads the sentence of a finding. The sentences here are those of past versions, so they never
change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NAME = "local check"
_SECOND = "a second network, trained on"
_LOCAL = (
    ("right at this observation", "right", "rounds", ""),
    ("no error seen at this observation", "no error seen", "check", ""),
    ("it may be off at this observation: the data tell more", "data tell more", "check", "summary"),
    ("it may be off at this observation", "may be off", "check", "around"),
    ("too few simulations to tell whether it is right", "too few", "check", "around"),
    ("cannot be told whether it is right", "not settled", "check", "around"),
    ("not right at this observation", "wrong", "check", "around"),
    ("it cannot be told whether the posterior is right", "data unlike", "check", "model"),
    ("not checked", "not checked", "", ""),
)
"""How the sentence of a local check began -> its kind, its evidence, its cause."""
_UNKNOWN = ("", "not settled", "check", "around")
_EVIDENCE = {"ensemble": "average"}
_CAUSES = {
    "tails": "simulations",
    "ensemble": "simulations",
    "prior bounds": "prior",
    "noise": "noise",
    "predictive": "scale",
    "likelihood": "noise",
    "intervals": "model",
    "residuals": "model",
    "limits": "data",
    "strange data": "data",
    "listed models": "model",
    "density": "likelihood",
    "failures": "failures",
    "few draws": "draws",
}
_AVERAGE, _SETTLED = "for the network is wrong on average: ", "its last round hardly moved it"
_WIDE, _SIDES = " (cautious)", re.compile(r" \((?:cautious|dangerous)\)")
_AMONG = re.compile(r"\(p = ([0-9.e-]+)")


def translate(data: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a finding, with the kind, evidence, cause and p-value that its sentence states.

    Args:
        data: The JSON of an earlier version: "name", "level", and "verdict", which is the sentence.
    """
    name, words = str(data["name"]), str(data["verdict"])
    # Rounds of simulations are stronger evidence than an average of the network, so the finding is good.
    if name == _NAME and _AVERAGE in words and words.endswith(_SETTLED):
        details = words.partition(": ")[2].partition(": ")[2]
        return translate({"name": name, "level": "good", "verdict": f"{_LOCAL[0][0]}: {details}"})
    more: dict[str, Any] = _local(words) if name == _NAME else {"evidence": _EVIDENCE.get(name)}
    if (p := _AMONG.search(words)) is not None and name != _NAME:
        more["figures"] = {"p": float(p[1])}
    if data["level"] != "good" and name != _NAME:
        more["cause"] = _CAUSES.get(name)
    return {**data, "kind": "", **{key: value for key, value in more.items() if value}}


def _local(words: str) -> dict[str, Any]:
    """The kind, evidence, cause and details of a local check, and whether it had a second network."""
    _, kind, evidence, cause = next((one for one in _LOCAL if words.startswith(one[0])), _UNKNOWN)
    figures: dict[str, Any] = {"details": words.partition(": ")[2]}
    if _SECOND in words:
        figures["second"] = True
        kind, cause = {"data tell more": ("may be off", "around")}.get(kind, (kind, cause))
        evidence = "network" if kind == "right" else evidence
    return {"kind": kind, "evidence": evidence, "cause": cause, "figures": figures}


def level_of_trust(level: str) -> str:
    """The present name of a level that an earlier version of `trust` wrote: "unusual" is now "caution"."""
    return {"unusual": "caution"}.get(level, level)


def names_likelihood(posterior: str) -> bool:
    """Whether a posterior's name says that the simulator's likelihood weights its draws."""
    return "P(success)" not in posterior or "reweighted by the likelihood" in posterior


def reason_of(words: str) -> str:
    """A reason for the level of a calibration, without the words that the level itself now expresses."""
    return _SIDES.sub("", words)


def too_wide(reasons: tuple[str, ...]) -> bool:
    """Whether all reasons of a calibration say that its regions hold more than they should."""
    return bool(reasons) and all(_WIDE in reason for reason in reasons)
