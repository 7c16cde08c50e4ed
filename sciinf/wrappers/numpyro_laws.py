"""Laws of numpyro as laws of torch.distributions, for the priors of numpyro models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import distributions as td

from sciinf.core import Truncated
from sciinf.core.precision import precision_for

_ARGUMENTS: dict[str, tuple[Callable[..., td.Distribution], tuple[str, ...]]] = {
    "Beta": (td.Beta, ("concentration1", "concentration0")),
    "Cauchy": (td.Cauchy, ("loc", "scale")),
    "Chi2": (td.Chi2, ("df",)),
    "Exponential": (td.Exponential, ("rate",)),
    "Gamma": (td.Gamma, ("concentration", "rate")),
    "Gumbel": (td.Gumbel, ("loc", "scale")),
    "HalfCauchy": (td.HalfCauchy, ("scale",)),
    "HalfNormal": (td.HalfNormal, ("scale",)),
    "InverseGamma": (td.InverseGamma, ("concentration", "rate")),
    "Laplace": (td.Laplace, ("loc", "scale")),
    "LogNormal": (td.LogNormal, ("loc", "scale")),
    "Normal": (td.Normal, ("loc", "scale")),
    "StudentT": (td.StudentT, ("df", "loc", "scale")),
    "Uniform": (td.Uniform, ("low", "high")),
    "Weibull": (td.Weibull, ("scale", "concentration")),
}
"""Name in numpyro -> class of torch, arguments (which both call alike, in torch's order)."""

_BOUNDS = {
    "LeftTruncatedDistribution": ("low", None),
    "RightTruncatedDistribution": (None, "high"),
    "TwoSidedTruncatedDistribution": ("low", "high"),
}


def torch_laws(site: str, law: Any, shape: tuple[int, ...]) -> list[td.Distribution]:
    """One univariate law of torch for each number of a latent site.

    Args:
        site: What the site is called, for messages.
        law: A distribution of numpyro whose arguments are arrays.
        shape: Shape of the site's value.

    Returns:
        The laws, in the order of the flattened value.

    Raises:
        ValueError: If torch has no such law, or the law is of correlated numbers.
    """
    while type(law).__name__ in ("Independent", "ExpandedDistribution"):
        law = law.base_dist
    return [_one(site, law, shape, index) for index in np.ndindex(*shape)]


def _one(site: str, law: Any, shape: tuple[int, ...], index: tuple[int, ...]) -> td.Distribution:
    kind = type(law).__name__
    if kind in _BOUNDS:
        low, high = (None if name is None else _number(getattr(law, name), shape, index) for name in _BOUNDS[kind])
        base = _one(site, law.base_dist, shape, index)
        try:
            return Truncated(base, low, high)
        except TypeError as error:
            raise ValueError(f"the latent site {site!r} has a law with no counterpart in torch: {error}") from error
    if kind not in _ARGUMENTS or not type(law).__module__.startswith("numpyro."):
        raise ValueError(
            f"the latent site {site!r} has the law {kind}, which has no counterpart among the independent laws of "
            f"torch; known are {', '.join(sorted(_ARGUMENTS))} and truncated ones. Write the site as a function of "
            "sites with such laws, with numpyro.deterministic for its own name"
        )
    torch_law, names = _ARGUMENTS[kind]
    numbers = [_number(getattr(law, name), shape, index) for name in names]
    exact = torch_law(*(torch.tensor(number, dtype=torch.float64) for number in numbers))
    if precision_for((site,), ("",), exact) == torch.float32:
        return torch_law(*numbers)
    if any(np.asarray(getattr(law, name)).dtype == np.float32 for name in names):
        raise ValueError(
            f"the latent site {site!r} takes values that float32, in which the model runs, cannot tell apart: give "
            "double=True"
        )
    return exact


def _number(value: Any, shape: tuple[int, ...], index: tuple[int, ...]) -> float:
    """One element of an argument. A float32 is read as its shortest decimal: 0.1 is 0.1, not 0.10000000149."""
    element = np.broadcast_to(np.asarray(value), shape)[index]
    return float(str(element)) if element.dtype == np.float32 else float(element)
