"""Simulators of sets of independent observations of the same parameters, of any size up to a largest size.

An estimator trained on such sets gives posteriors given a set. A `Flow` takes sets up to the largest size. A `Score`
takes any number of such sets (PF-NPSE, by `Compositional`). Each row costs as many simulations as the largest set has
items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from sciinf.core import Observable, Outcome, Simulator, Status
from sciinf.core.checks import check_whole
from sciinf.networks.summaries.timed import times_of


def sets(simulator: Simulator, most: int, *, least: int = 1) -> SetSimulator:
    """Make a simulator of sets of observations: each row is a set with one theta, and all sizes are equally likely.

    Every observable becomes (most, *event) with a first axis "item". An additional observable `<name>_mask` is True
    where the set has an item. Entries without an item are 0. If all sets have the same size, there are no masks;
    `calibrate` needs such sets to check a `Compositional`.

    Args:
        simulator: Simulator of one observation.
        most: Largest size of a set.
        least: Smallest size of a set.

    Raises:
        TypeError: If `simulator` is not a simulator.
        ValueError: If a size is not an int of at least 1, `least` is above `most`, the simulator has masks of its own,
            or it has times or controls that differ between records.

    References:
        | Compositional Score Modeling for Simulation-Based Inference (Geffner et al., 2023), section 3.3,
          https://arxiv.org/abs/2209.14249
    """
    if not isinstance(simulator, Simulator):
        raise TypeError(f"sets are made of the observations of a Simulator, got {type(simulator).__name__}")
    check_whole("least", least, 1)
    check_whole("most", most, least)
    masks = [name for name, spec in simulator.observables.items() if spec.dtype == "bool"]
    if masks:
        raise ValueError(f"{simulator.name!r} has masks of its own, {masks}; sets need observations that are complete")
    times = times_of(simulator.observables)
    if known := [name for name, spec in simulator.observables.items() if spec.control or name in times]:
        raise ValueError(
            f"{simulator.name!r} has times or controls that differ from record to record, {known}; a network of sets "
            "would see values without their times and controls. Let the simulator return a summary of each record"
        )
    return SetSimulator(simulator, most, least)


@final
class SetSimulator(Simulator):
    """The simulator of sets of observations that `sets` makes."""

    def __init__(self, simulator: Simulator, most: int, least: int) -> None:
        self.simulator, self.most, self.least = simulator, most, least
        sizes = f"{least}_to_{most}" if 1 < least < most else f"of_{most}" if least == most else f"{most}"
        self.name, self.prior = f"{simulator.name}_sets_{sizes}", simulator.prior
        self.source, self.settings, self.files = simulator.source, simulator.settings, simulator.files
        self.block = max(1, simulator.block // most)
        self.observables = _in_sets(simulator.observables, most, masked=least < most)

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Outcome:
        rows, most = len(theta), self.most
        sizes = torch.randint(self.least, most + 1, (rows,), generator=generator, device=generator.device).to(
            theta.device
        )
        mask = torch.arange(most, device=theta.device) < sizes[:, None]
        found = self.simulator(theta.repeat_interleave(most, dim=0), generator=generator)
        outcome = found if isinstance(found, Outcome) else Outcome(found)
        x: dict[str, Tensor] = {}
        for name in self.simulator.observables:
            value = outcome.x[name].unflatten(0, (rows, most))
            keep = mask.view(*mask.shape, *[1] * (value.ndim - 2))
            x[name] = torch.where(keep, value, torch.zeros_like(value))
            if self.least < most:
                x[f"{name}_mask"] = mask
        if outcome.status is None:
            return Outcome(x)
        each = outcome.status.to(theta.device).unflatten(0, (rows, most))
        status = torch.where(mask, each, torch.full_like(each, int(Status.OK))).amax(1)
        messages = {index // most: why for index, why in outcome.messages.items() if bool(mask.flatten()[index])}
        return Outcome(x, status, messages)


def _in_sets(observables: Mapping[str, Observable], most: int, *, masked: bool) -> dict[str, Observable]:
    """Observables of sets of `most` items; with `masked`, also a mask for each observable."""
    if not masked:
        return {name: spec.in_sets(most) for name, spec in observables.items()}
    found: dict[str, Observable] = {}
    for name, spec in observables.items():
        named = spec.dims or tuple(f"{name}_{axis}" for axis in range(len(spec.shape)))
        found[name] = replace(spec, dims=named).in_sets(most)
        found[f"{name}_mask"] = Observable((most,), dims=("item",), dtype="bool")
    return found
