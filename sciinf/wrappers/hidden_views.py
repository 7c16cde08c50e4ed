"""The simulator of a hidden state whose path is data as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from sciinf.core import Observable, Simulator, X

if TYPE_CHECKING:
    from sciinf.wrappers.hidden_states import HiddenStates


@final
class HiddenStatesAndPaths(Simulator):
    """What `HiddenStates.with_paths` gives: each column of the hidden state as an observable beside the data."""

    def __init__(self, of: HiddenStates) -> None:
        self.of, self.name, self.prior, self.block = of, f"{of.name}_with_paths", of.prior, of.block
        self.source, self.files, self.settings = of.source, of.files, of.settings
        first = next(iter(of.seen.values()))
        axis: dict[str, Any] = {"dims": first.dims[:1]}
        if first.dims and first.dims[0] in first.coords:
            axis["coords"] = {first.dims[0]: first.coords[first.dims[0]]}
            axis["coord_units"] = {n: u for n, u in first.coord_units.items() if n == first.dims[0]}
        paths = {n: Observable((of.count,), unit, **axis) for n, unit in of.model.latent.items()}
        if twice := sorted(set(paths) & set(of.observables)):
            raise ValueError(f"{twice} are both observables and parts of the hidden state; give one another name")
        self.observables = {**paths, **of.observables}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        x, path = self.of.simulated(theta, generator=generator)
        return {**{n: path[..., i].float() for i, n in enumerate(self.of.model.latent)}, **x}
