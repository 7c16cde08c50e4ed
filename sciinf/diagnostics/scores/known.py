"""The scores there are, by the names that files know them by."""

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
    """Raise for what cannot be learned.

    Raises:
        TypeError: If one is no score.
        ValueError: If two are of one kind.
    """
    for score in scores or ():
        if not isinstance(score, DataScore) or score.name not in SCORES:
            raise TypeError(f"scores are some of {', '.join(SCORES)}, such as scores=[PlantedFaults()]; got {score!r}")
    names = [score.name for score in scores or ()]
    if len(set(names)) < len(names):
        raise ValueError(f"each score can be given once, got {', '.join(names)}")


def learned_of(scores: Sequence[DataScore], posterior: Posterior, x: X) -> dict[str, Tensor]:
    """What scores learn from simulations, name -> (n, *event), as plain tensors, the same each time."""
    found = {}
    for score in scores:
        learned = score.fit(posterior, x, generator=torch.Generator().manual_seed(0))
        found |= named(learned, f"{_PREFIX}{score.name}/")
    return found


def names_of(learned: Mapping[str, Tensor]) -> list[str]:
    """Of the scores that were learned, in their order here."""
    return [name for name in SCORES if part(learned, f"{_PREFIX}{name}/")]


def distances_of(learned: Mapping[str, Tensor], posterior: Posterior, x: X) -> Tensor:
    """How strange each of a batch of data is by each score that was learned, in their order here, (batch, scores)."""
    found = [torch.zeros(len(next(iter(x.values()))), 0, dtype=torch.float64)]
    for name in names_of(learned):
        of = part(learned, f"{_PREFIX}{name}/")
        found.append(SCORES[name].distances(posterior, of, x)[:, None].nan_to_num(nan=torch.inf, posinf=torch.inf))
    return torch.cat(found, dim=1)
