"""Parts of an answer that all exporters use: its draws, prior, verdict and findings."""

from __future__ import annotations

from typing import Any

from sciinf.core.answer import Answer
from sciinf.core.draws import Draws
from sciinf.core.findings import Level
from sciinf.core.prior import Prior
from sciinf.core.records import said_of


def draws_of(source: Answer | Draws) -> Draws:
    """The draws of an answer; draws are returned as they are.

    Raises:
        TypeError: If the source is neither an answer nor draws.
    """
    if isinstance(source, Answer):
        return source.draws
    if isinstance(source, Draws):
        return source
    raise TypeError(f"expected an Answer or Draws, got {type(source).__name__}; pass what `query` or `draw` returned")


def numbers_of(source: Answer | Draws, program: str) -> Draws:
    """The draws, for a format in which every parameter is a number in every draw.

    Args:
        source: An answer or its draws.
        program: Name of the program whose format it is.

    Raises:
        TypeError: If the source is neither an answer nor draws.
        ValueError: If there are discrete parameters; the message says what to export instead.
    """
    draws = draws_of(source)
    if given := draws.most_probable():
        values = ", ".join(f"{name}={said if said.isdigit() else repr(said)}" for name, said in given.items())
        raise ValueError(
            f"{program} takes numbers alone, each of them in every draw, and there are discrete parameters "
            f"({', '.join(draws.categories)}): export answer.given({values}), or other values, or write .h5, .nc, "
            ".ecsv, .fits or .csv"
        )
    return draws


def prior_of(source: Answer | Draws, draws: Draws, prior: Prior | None) -> Prior | None:
    """The given prior, or else the answer's prior; None if there is neither.

    Raises:
        ValueError: If the prior is of other parameters than the draws.
    """
    found = source.prior if prior is None and isinstance(source, Answer) else prior
    names = draws.of_parameters().names
    if found is not None and found.names != names:
        raise ValueError(f"the draws are of {names}, the prior of {found.names}; pass the prior of the same fit")
    return found


def facts(source: Answer | Draws) -> dict[str, Any]:
    """Facts that must accompany the draws, as numbers, booleans and strings: verdict, evidence, weights, findings.

    "verdict" is the level of the verdict, and "sentence" is the verdict in words, as in `answer.json`.
    """
    draws = draws_of(source)
    out: dict[str, Any] = {"effective_sample_size": draws.ess}
    for name in ("log_evidence", "log_evidence_error", "pareto_k"):
        value = getattr(draws, name)
        if value is not None:
            out[name] = float(value)
    if isinstance(source, Answer):
        out = source.verdict.to_json() | out
        calibration = said_of(source.calibration)
        out["calibration_passed"] = bool(calibration["passed"])
        out["calibration"] = "; ".join(calibration["reasons"])
        if calibration["of"] is not None:
            out["calibration_of"] = calibration["of"]
        out["trust"] = source.trust.words
        out["trust_level"] = str(source.trust.level)
        if bad := [f"{one.name}: {source.verdict.line_of(one)}" for one in source.checks if one.level != Level.GOOD]:
            out["findings"] = "; ".join(bad)
        for one in source.checks:
            if surrogates := one.figures.get("surrogates"):
                out["surrogate"] = "; ".join(surrogates)
        if source.trust.p_value is not None:
            out["trust_p_value"] = float(source.trust.p_value)
    return out
