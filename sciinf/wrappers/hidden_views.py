"""Simulators made of a `HiddenStates`: at the times of one record, or with the hidden path as data."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor

from sciinf.core import Observable, Simulator, X
from sciinf.summaries.timed import TIMES

if TYPE_CHECKING:
    from sciinf.wrappers.hidden_states import HiddenStates


@final
class HiddenStatesLike(Simulator):
    """What `HiddenStates.like` gives: data seen when those of one record were, and missing where they are.

    Args:
        of: The simulator, whose likelihood and paths it has.
        x: The record, name -> (1, *event).

    Raises:
        ValueError: If its times go backwards, begin too early, or differ between observables.
    """

    def __init__(self, of: HiddenStates, x: X) -> None:
        self.of, self.name, self.prior, self.observables = of, of.name, of.prior, of.observables
        self.source, self.files, self.block = of.source, of.files, of.block
        self.log_likelihood, self.random_likelihood, self.paths = of.log_likelihood, of.random_likelihood, of.paths
        self.statistics, self.derived, self.labels = of.statistics, of.derived, of.labels
        own = [f"{name}{end}" for name in of.seen for end in ("_mask", TIMES)]
        self.x = {name: x[name].detach().cpu() for name in own if name in x}
        self.record = of.record_of(torch.zeros(1, len(of.prior)), x)
        self.settings, self.like = self._settings, of.like

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return self.of.simulated(theta, generator=generator, like=self.record)[0]

    def _settings(self) -> dict[str, str]:
        """Those of the whole, and what the record is known by."""
        digest = hashlib.sha256()
        for name in sorted(self.x):
            digest.update(name.encode() + self.x[name].contiguous().numpy().tobytes())
        own = self.of.settings() if self.of.settings else {}
        return {**own, "like": digest.hexdigest()[:16]}


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
