"""Estimators of theta given x that read x through summary networks, one for each observable, trained with the rest.

A density is one of z given features s(x) (`_standardised`). Shapes: s(x) (batch, F).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core import Observable, Prior, X
from sciinf.estimators._standardised import Standardised, check_part
from sciinf.summaries.choice import choose
from sciinf.summaries.summary import Summary


class Embedded(Standardised, ABC):
    """An estimator with standardisation and summary networks.

    Args:
        prior: The prior.
        observables: What the simulator produces.
        summary: One summary network for every observable, or one per name; chosen from the observables'
            specification where left out.
        seed: Seeds the initial weights; a subclass builds its own under `global_seed` of what `weights` gives.

    Raises:
        TypeError: If `summary` is something else: the class or the name of one, say.
        ValueError: If a summary is for no observable, or the seed is no int of at least 0.
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        summary: Summary | Mapping[str, Summary] | None,
        seed: int,
    ) -> None:
        super().__init__(prior, observables, seed)
        self.data_names = data_names(self.observables)
        self._given = summary if isinstance(summary, Mapping) else dict.fromkeys(self.data_names, summary)
        for name, value in self._given.items():
            check_part(f"summary of {name!r}", value, Summary, "MLP()")
        if set(self._given) - set(self.data_names):
            raise ValueError(f"summaries for {sorted(self._given)}, but the observables are {list(self.data_names)}")

    def build_summaries(self) -> int:
        """Build the summary networks, drawing their first weights from torch's global state; F, what they give."""
        networks = []
        for name in self.data_names:
            spec, masked = self.observables[name], f"{name}_mask" in self.observables
            networks.append((self._given.get(name) or choose(spec, masked)).build(spec, masked=masked))
        self.summaries = nn.ModuleList(networks)
        return sum(network.features for network in networks)

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.summarise(self.standardise_x(x, self.z_mean.dtype), x)

    def summarise(self, values: Mapping[str, Tensor], x: X) -> Float[Tensor, "batch feature"]:
        """Features of standardised values; x for its masks."""
        parts = [
            network(values[name], x.get(f"{name}_mask"))
            for name, network in zip(self.data_names, self.summaries, strict=True)
        ]
        return torch.cat(parts, dim=-1)


def data_names(observables: Mapping[str, Observable]) -> tuple[str, ...]:
    """Names of observables that are no masks of others."""
    masks = {f"{name}_mask" for name in observables}
    return tuple(name for name in observables if name not in masks)
