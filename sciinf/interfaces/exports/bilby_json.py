"""Answers as bilby's `LABEL_result.json`, which `bilby.core.result.read_in_result` reads. bilby itself is not needed.

bilby's posterior has no weights, so weighted draws are resampled by their weights. Their number is the largest at which
hardly any draw is repeated. The original draws stand in `nested_samples`, with the column `weights`. Derived quantities
are columns too, but no search parameters. Priors are written in bilby's JSON form, as classes with numbers. bilby's
other form is strings, which go through `eval` when they are read. A distribution that bilby does not have becomes
bilby's base class `Prior`, which only has bounds. The exact prior stands in `meta_data` as a string of JSON, because
bilby cannot save lists of mappings as HDF5. An unknown prior is written as base classes without bounds, because bilby
cannot save a result without priors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributions as td

from sciinf.core.answer import Answer
from sciinf.core.draws import Draws
from sciinf.core.files import write_bytes
from sciinf.core.laws import Truncated, bounds
from sciinf.core.log_uniform import LogUniform
from sciinf.core.prior import Prior
from sciinf.interfaces.exports.contents import facts, numbers_of, prior_of


def write_bilby(
    source: Answer | Draws,
    path: str | Path,
    *,
    label: str = "sciinf",
    prior: Prior | None = None,
    generator: torch.Generator | None = None,
) -> Path:
    """Write an answer as a bilby result.

    Args:
        source: An answer or its draws.
        path: Path of the file; bilby expects `LABEL_result.json`.
        label: Label of the result in bilby.
        prior: The prior, for `result.priors` and the column `log_prior`; by default that of the answer. For draws
            without a prior, `result.priors` has only names and units.
        generator: Random generator that resamples weighted draws; by default a generator with seed 0.

    Returns:
        The path.

    Raises:
        ValueError: If the suffix is not `.json` (bilby chooses the reader, pickle among them, by the suffix). Or if the
            prior is of other parameters, or some parameters are discrete, for which bilby's result has no form.
        OSError: If the file cannot be written; an older file stays as it was.
    """
    draws, path = numbers_of(source, "bilby"), Path(path)
    if path.suffix.lower() != ".json":
        raise ValueError(f"{path}: a bilby result is written as .json; name it {path.stem}_result.json")
    prior = prior_of(source, draws, prior)
    names = draws.of_parameters().names
    theta = draws.alike(generator=generator).theta.detach().cpu()
    density = {} if prior is None else {"log_prior": prior.log_prob(theta[:, : len(names)])}
    result: dict[str, Any] = {
        "label": label,
        "sampler": "sciinf",
        "search_parameter_keys": list(names),
        "fixed_parameter_keys": [],
        "constraint_parameter_keys": [],
        "posterior": _frame(draws.names, theta, density),
        "meta_data": {"sciinf": {**facts(source), **_said(draws)}},
        "version": f"sciinf={version('sciinf')}",
    }
    if draws.weighted:
        result["nested_samples"] = _frame(draws.names, draws.theta, {"weights": draws.weights})
    if draws.log_evidence is not None:
        result["log_evidence"] = draws.log_evidence
    if draws.log_evidence_error is not None:
        result["log_evidence_err"] = draws.log_evidence_error
    result["priors"] = _priors(draws.of_parameters(), prior)
    if prior is not None:
        result["meta_data"]["sciinf"]["prior"] = json.dumps(prior.to_json())
    write_bytes(path, (json.dumps(result) + "\n").encode())
    return path


def _said(draws: Draws) -> dict[str, Any]:
    """Units of all columns; also the names of derived quantities, and the labels, if there are any."""
    more = {"derived": list(draws.derived), "labels": dict(draws.labels)}
    return {"units": dict(zip(draws.names, draws.units, strict=True)), **{k: v for k, v in more.items() if v}}


def _frame(names: tuple[str, ...], theta: torch.Tensor, more: dict[str, torch.Tensor]) -> dict[str, Any]:
    """A data frame in bilby's JSON form; float32 values keep their shortest decimal form."""
    columns = {**{name: theta[:, i] for i, name in enumerate(names)}, **more}
    arrays = {name: value.detach().cpu().numpy() for name, value in columns.items()}
    content = {name: [float(str(v)) for v in np.asarray(array)] for name, array in arrays.items()}
    return {"__dataframe__": True, "content": content}


def _priors(draws: Draws, prior: Prior | None) -> dict[str, Any]:
    out: dict[str, Any] = {"__prior_dict__": True, "__module__": "bilby.core.prior.dict", "__name__": "PriorDict"}
    laws: list[td.Distribution | None] = [None] * len(draws.names) if prior is None else []
    for law in prior.laws if prior is not None else ():
        laws += [None] * law.event_shape[0] if law.event_shape else [law]
    for name, unit, law in zip(draws.names, draws.units, laws, strict=True):
        kind, arguments = _bilby_law(law)
        out[name] = {
            "__prior__": True,
            "__module__": "bilby.core.prior.base" if kind == "Prior" else "bilby.core.prior.analytical",
            "__name__": kind,
            "kwargs": {**arguments, "name": name, "unit": unit or None},
        }
    return out


def _bilby_law(law: td.Distribution | None) -> tuple[str, dict[str, float]]:
    """Name and arguments of bilby's class for a univariate distribution.

    If bilby has no such class, the result is the base class `Prior` with bounds.
    """
    if law is not None and type(law) in _LAWS:
        name, arguments = _LAWS[type(law)]
        return name, {key: float(value) for key, value in arguments(law).items()}
    low, high = bounds(law) if law is not None else (None, None)
    limits = {"minimum": -math.inf if low is None else low, "maximum": math.inf if high is None else high}
    if isinstance(law, Truncated) and isinstance(law.base, td.Normal):
        return "TruncatedGaussian", {"mu": float(law.base.loc), "sigma": float(law.base.scale), **limits}
    return "Prior", limits


_LAWS: dict[type, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    td.Uniform: ("Uniform", lambda law: {"minimum": law.low, "maximum": law.high}),
    td.Normal: ("Gaussian", lambda law: {"mu": law.loc, "sigma": law.scale}),
    td.LogNormal: ("LogNormal", lambda law: {"mu": law.loc, "sigma": law.scale}),
    LogUniform: ("LogUniform", lambda law: {"minimum": law.low, "maximum": law.high}),
    td.HalfNormal: ("HalfGaussian", lambda law: {"sigma": law.scale}),
    td.Exponential: ("Exponential", lambda law: {"mu": 1 / law.rate}),
    td.Gamma: ("Gamma", lambda law: {"k": law.concentration, "theta": 1 / law.rate}),
    td.Beta: ("Beta", lambda law: {"alpha": law.concentration1, "beta": law.concentration0}),
    td.StudentT: ("StudentT", lambda law: {"df": law.df, "mu": law.loc, "scale": law.scale}),
    td.Cauchy: ("Cauchy", lambda law: {"alpha": law.loc, "beta": law.scale}),
}
