"""What every exporter takes from an answer: its draws, equally weighted where a format has no weights, its verdicts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sciinf.core.answer import Answer
from sciinf.core.draws import Draws
from sciinf.core.findings import Level
from sciinf.core.prior import Prior
from sciinf.core.records import said_of

REPEATS = 0.01  # of all draws, where weighted ones become equally weighted


def draws_of(source: Answer | Draws) -> Draws:
    """The draws of an answer, or the draws themselves.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(source, Answer):
        return source.draws
    if isinstance(source, Draws):
        return source
    raise TypeError(f"expected an Answer or Draws, got {type(source).__name__}; pass what `query` or `draw` returned")


def numbers_of(source: Answer | Draws, program: str) -> Draws:
    """The draws, for a format that knows numbers alone, each of them in every draw.

    Args:
        source: An answer or its draws.
        program: Whose format it is.

    Raises:
        TypeError: If the source is neither.
        ValueError: If there are discrete parameters; the message says what to export.
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
    """The prior that was given, or that the answer knows.

    Raises:
        ValueError: If it is of other parameters.
    """
    found = source.prior if prior is None and isinstance(source, Answer) else prior
    names = draws.of_parameters().names
    if found is not None and found.names != names:
        raise ValueError(f"the draws are of {names}, the prior of {found.names}; pass the prior of the same fit")
    return found


def is_weighted(draws: Draws) -> bool:
    """Whether the weights differ."""
    return not bool((draws.log_weight == draws.log_weight[0]).all())


def equally_weighted(draws: Draws, n: int | None, generator: torch.Generator | None) -> Tensor:
    """Draws for a format, or a reader, that knows no weights.

    Plain draws are returned as they are. Weighted ones are resampled, by default so few that hardly any comes twice:
    with k of them, of normalised weights w, the variance of a mean is that of k independent draws plus what repeats
    add (Var = sigma^2 / ESS of weighting and sigma^2 (1/k - 1/ESS) of resampling, while all k w <= 1). So a reader who
    counts rows, or takes them for independent, is not led to believe in more draws than there are.

    Args:
        draws: Weighted or not.
        n: How many; the default is all plain draws, or as many weighted ones as come almost without repeats.
        generator: Source of randomness; a generator of seed 0 when left out, so that an export is repeatable.

    Returns:
        (n, D).

    Raises:
        ValueError: If n is not positive.
    """
    if n is not None and n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if n is None and not is_weighted(draws):
        return draws.theta.detach().cpu()
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    count = n if n is not None else almost_distinct(draws)
    return draws.resample(count, generator=generator).detach().cpu()


def almost_distinct(draws: Draws) -> int:
    """The largest k of weighted draws of which repeats are expected to be one in a hundred at most.

    The share of repeats is sum (w - 1/k)_+, the maximum over j of c_j - j/k, where c_j is the sum of the j largest
    weights. It is at most s where k <= j / (c_j - s) for each j of c_j > s. k is never above the effective sample size.
    """
    heaviest = draws.weights.sort(descending=True).values.cumsum(0)
    count = torch.arange(1, len(heaviest) + 1, device=heaviest.device)
    over = heaviest > REPEATS
    return max(1, int(min(float((count[over] / (heaviest[over] - REPEATS)).min()), draws.ess)))


def facts(source: Answer | Draws) -> dict[str, Any]:
    """What must travel with the draws, as numbers, booleans and strings: the verdict, evidence, weights, findings.

    "verdict" is its level and "sentence" the verdict itself, as in `answer.json`.
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
