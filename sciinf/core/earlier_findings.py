"""Findings of earlier versions, which had levels and sentences alone: what their sentences meant.

This is the only place that reads a sentence. Those that it knows are of versions that are gone, so they never change.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECOND = "a second network, trained on"
_LOCAL = (
    ("right at this observation", "right", "rounds"),
    ("no error seen at this observation", "no error seen", "check"),
    ("it may be off at this observation: the data tell more", "data tell more", "check"),
    ("it may be off at this observation", "may be off", "check"),
    ("too few simulations to tell whether it is right", "too few", "check"),
    ("cannot be told whether it is right", "not settled", "check"),
    ("not right at this observation", "wrong", "check"),
    ("it cannot be told whether the posterior is right", "data unlike", "check"),
    ("not checked", "not checked", ""),
)
"""How the sentence of a local check began -> its kind, its evidence."""
_EVIDENCE = {"ensemble": "average"}
_CAUSES = {
    "local check": "simulations",
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
_WIDE = "(cautious)"
_AMONG = re.compile(r"\(p = ([0-9.e-]+)")


def understood(data: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a finding with the kind, evidence, cause and p-value that its sentence told.

    Args:
        data: Name, level and sentence ("verdict").
    """
    name, words = str(data["name"]), str(data["verdict"])
    more: dict[str, Any] = {"evidence": _EVIDENCE.get(name)}
    if name == "local check":
        kind, evidence = next(((k, e) for begins, k, e in _LOCAL if words.startswith(begins)), ("not settled", "check"))
        second = _SECOND in words
        if second:
            kind = {"data tell more": "may be off"}.get(kind, kind)
            evidence = "network" if kind == "right" else evidence
        more = {"kind": kind, "evidence": evidence or None, "figures": {"second": True} if second else {}}
    if (p := _AMONG.search(words)) is not None and name != "local check":
        more["figures"] = {"p": float(p[1])}
    if data["level"] != "good":
        more["cause"] = _CAUSES.get(name)
    return {**data, "kind": "", **{key: value for key, value in more.items() if value}}


def level_of_trust(level: str) -> str:
    """The level that `trust` had: "unusual" is "caution" now."""
    return {"unusual": "caution"}.get(level, level)


def too_wide(reasons: tuple[str, ...]) -> bool:
    """Whether all that a calibration found is that regions hold more than they should, as its reasons said it."""
    return bool(reasons) and all(_WIDE in reason for reason in reasons)
