"""The available data scores, by the names that files use for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sciinf.core import Posterior, X
from sciinf.diagnostics.scores.coverage_of_neurons import NeuronCoverage
from sciinf.diagnostics.scores.hierarchy import HierarchicalRatio
from sciinf.diagnostics.scores.noise_time import DiffusionTime
from sciinf.diagnostics.scores.planted import PlantedFaults
from sciinf.diagnostics.scores.score import DataScore, named, part

SCORES: Mapping[str, DataScore] = {
    one.name: one for one in (PlantedFaults(), DiffusionTime(), HierarchicalRatio(), NeuronCoverage())
}
DEFAULT: tuple[DataScore, ...] = (PlantedFaults(),)
_PREFIX = "scores/"


def check_scores(scores: Sequence[DataScore] | None) -> None:
    """Raise an error for scores that cannot be learned.

    Raises:
        TypeError: If an item is not a known score.
        ValueError: If two items are of the same kind.
    """
    for score in scores or ():
        if not isinstance(score, DataScore) or score.name not in SCORES:
            raise TypeError(f"scores are some of {', '.join(SCORES)}, such as scores=[PlantedFaults()]; got {score!r}")
    names = [score.name for score in scores or ()]
    if len(set(names)) < len(names):
        raise ValueError(f"each score can be given once, got {', '.join(names)}")


def learned_of(scores: Sequence[DataScore], posterior: Posterior, x: X) -> dict[str, Tensor]:
    """Learn each score from simulations, name -> (n, *event); return plain tensors.

    The result is the same each time.
    """
    found = {}
    for score in scores:
        learned = score.fit(posterior, x, generator=torch.Generator().manual_seed(0))
        found |= named(learned, f"{_PREFIX}{score.name}/")
    return found


def names_of(learned: Mapping[str, Tensor]) -> list[str]:
    """Names of the scores that were learned, in the order of `SCORES`."""
    return [name for name in SCORES if part(learned, f"{_PREFIX}{name}/")]


def distances_of(learned: Mapping[str, Tensor], posterior: Posterior, x: X) -> Tensor:
    """Strangeness of each data set of a batch by each learned score, (batch, scores).

    The scores are in the order of `SCORES`.
    """
    found = [torch.zeros(len(next(iter(x.values()))), 0, dtype=torch.float64)]
    for name in names_of(learned):
        of = part(learned, f"{_PREFIX}{name}/")
        found.append(SCORES[name].distances(posterior, of, x)[:, None].nan_to_num(nan=torch.inf, posinf=torch.inf))
    return torch.cat(found, dim=1)
