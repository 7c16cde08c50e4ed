"""Distributions as plain JSON values, and distributions read from such values."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core.joint_laws import Ordered, Simplex
from sciinf.core.laws import Truncated
from sciinf.core.levels import Choice, Counts, Levels, level_to_json
from sciinf.core.log_uniform import LogUniform
from sciinf.core.unknown_law import Unknown


def law_to_json(law: td.Distribution) -> dict[str, Any]:
    """A distribution as plain JSON values: the name of its class and its arguments.

    Raises:
        TypeError: If a part of the distribution has no plain description, such as a transform with a network.
    """
    if isinstance(law, Truncated):
        return {"law": "Truncated", "base": law_to_json(law.base), "low": law.low, "high": law.high}
    if isinstance(law, LogUniform):
        return {"law": "LogUniform", "low": float(law.low), "high": float(law.high)}
    if isinstance(law, Ordered):
        return {"law": "Ordered", "base": law_to_json(law.base), "n": law.n}
    if isinstance(law, Simplex):
        return {"law": "Simplex", "n": law.n, "total": law.total}
    if isinstance(law, Levels):
        base = law.law if isinstance(law, Counts) else None
        return level_to_json(law, None if base is None else law_to_json(base))
    if isinstance(law, Unknown):
        return {"law": "Unknown"}
    if isinstance(law, td.Independent):
        return {"law": "Independent", "base": law_to_json(law.base_dist), "ndims": law.reinterpreted_batch_ndims}
    if isinstance(law, td.MixtureSameFamily):
        return {
            "law": "MixtureSameFamily",
            "mixture": law_to_json(law.mixture_distribution),
            "components": law_to_json(law.component_distribution),
        }
    if getattr(td, type(law).__name__, None) is not type(law) or type(law) is td.TransformedDistribution:
        raise TypeError(
            f"the distribution {law!r} cannot be written down as JSON; use a distribution of "
            "torch.distributions, Truncated, Independent or MixtureSameFamily"
        )
    arguments = _arguments(law)
    double = any(v.dtype == torch.float64 for v in arguments.values())
    values = {"law": type(law).__name__, "arguments": {k: v.tolist() for k, v in arguments.items()}}
    return {**values, "dtype": "float64"} if double else values


def law_from_json(data: Mapping[str, Any], *, dtype: torch.dtype | None = None) -> td.Distribution:
    """The distribution that `law_to_json` wrote.

    Args:
        data: The JSON values.
        dtype: Precision of the distribution's numbers. The default is the precision that was written.

    Raises:
        ValueError: If the values name an unknown distribution.
    """
    name = data["law"]
    if name == "Truncated":
        return Truncated(law_from_json(data["base"], dtype=dtype), data["low"], data["high"])
    if name == "LogUniform":
        return LogUniform(data["low"], data["high"])
    if name == "Ordered":
        return Ordered(law_from_json(data["base"], dtype=dtype), data["n"])
    if name == "Simplex":
        return Simplex(data["n"], data["total"])
    if name == "Choice":
        labels, shares = data["labels"], data["probabilities"]
        return Choice(**dict(zip(labels, shares, strict=True))) if shares else Choice(*labels)
    if name == "Counts":
        base = data["base"]
        return Counts(data["low"], data["high"], None if base is None else law_from_json(base, dtype=dtype))
    if name == "Unknown":
        return Unknown()
    if name == "Independent":
        return td.Independent(law_from_json(data["base"], dtype=dtype), data["ndims"])
    if name == "MixtureSameFamily":
        mixture = law_from_json(data["mixture"], dtype=dtype)
        if not isinstance(mixture, td.Categorical):
            raise ValueError(f"the mixture of a MixtureSameFamily must be Categorical, got {mixture!r}")
        return td.MixtureSameFamily(mixture, law_from_json(data["components"], dtype=dtype))
    kind = getattr(td, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, td.Distribution)):
        raise ValueError(f"the file names the distribution {name!r}, which torch.distributions does not have")
    dtype = dtype or (torch.float64 if data.get("dtype") == "float64" else torch.float32)
    build: Any = kind
    arguments = {k: torch.tensor(v, dtype=dtype) for k, v in data["arguments"].items()}
    law = build(**arguments)
    if isinstance(law, td.Categorical):
        # torch has normalised the logits again, which rounds them. The logits that were written are kept.
        vars(law)["logits"] = arguments["logits"]
    return law


def _arguments(law: td.Distribution) -> dict[str, Tensor]:
    parameters = inspect.signature(type(law).__init__).parameters
    names = [n for n in parameters if n in law.arg_constraints]
    needed = {n for n, p in parameters.items() if p.default is inspect.Parameter.empty} - {"self", *names}
    if needed:
        raise TypeError(
            f"the distribution {law!r} cannot be written down as JSON: it has no readable argument "
            f"{', '.join(sorted(needed))}"
        )
    if "scale_tril" in names:
        names = ["loc", "scale_tril"]
    if "logits" in names:
        names = [n for n in names if n != "probs"]
    return {n: torch.as_tensor(getattr(law, n)) for n in names}
