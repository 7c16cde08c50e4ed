"""Probabilities of discrete parameters that a posterior knows without draws."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Posterior, X
from sciinf.core.categories import Categories, categories_of
from sciinf.core.estimator import Marginals
from sciinf.posteriors.amortised import Amortised
from sciinf.posteriors.ensemble import Ensemble
from sciinf.posteriors.equations import EquationPosterior


def exact_probabilities(posterior: Posterior, x: X, name: str) -> Float[Tensor, "batch value"] | None:
    """The probability of each value of a discrete parameter; None where only draws tell them.

    Args:
        posterior: Of a prior that has it.
        x: A batch of observations, name -> (batch, *event).
        name: Of the parameter.
    """
    members, found = posterior.members if isinstance(posterior, Ensemble) else (posterior,), []
    for member in members:
        density = member.estimator.density(x) if isinstance(member, Amortised) else None
        if not isinstance(density, Marginals):
            return None
        try:
            found.append(density.log_probabilities(name).double().exp().cpu())
        except ValueError:  # too many combinations of values to add up
            return None
    return torch.stack(found).mean(0)


def all_probabilities(posterior: Posterior, x: X) -> dict[str, Float[Tensor, "batch value"]]:
    """Those of all discrete parameters that are known without draws, by name.

    Args:
        posterior: What answers.
        x: A batch of observations, name -> (batch, *event).
    """
    if isinstance(posterior, EquationPosterior):
        return posterior.known(x)
    each = {name: exact_probabilities(posterior, x, name) for name in posterior.prior.discrete()}
    return {name: found for name, found in each.items() if found is not None}


def known_categories(posterior: Posterior, x: X) -> dict[str, Categories]:
    """The discrete parameters of a posterior, with their probabilities for one observation where these are exact.

    Args:
        posterior: What answers.
        x: The observation, name -> (1, *event).
    """
    found = all_probabilities(posterior, x)
    return categories_of(posterior.prior, {name: tuple(each[0].tolist()) for name, each in found.items()})
