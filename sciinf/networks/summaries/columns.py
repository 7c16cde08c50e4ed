"""Observables that are columns of one table, which one network sees side by side.

The response time and the choice of each trial, or time, flux and error of each visit, tell together what none of them
tells alone: which goes with which. Observables with the same first axes, of the same names and lengths, become channels
of one array, in the simulator's order. Each keeps its own scale, unit and mask.

Shapes: a value (batch, *shared, *own), with the axes that all have in common first; a table (batch, *shared, channel).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core.observable import Observable
from sciinf.networks.summaries.standardise import SHARED_AXES
from sciinf.networks.summaries.timed import set_names, timed_names

Table = tuple[tuple[str, ...], tuple[int, ...]]
"""Names and lengths of the axes along which the rows of a table lie."""


def tables(observables: Mapping[str, Observable]) -> dict[str, tuple[str, ...]]:
    """The first column of each table -> the other columns of that table.

    Masks, times and controls are no columns, nor are observables that have times of their own, or axes without names.
    """
    left = set_names(observables) | set(timed_names(observables)) | {f"{name}_mask" for name in observables}
    found = dict[Table, list[str]]()
    for name, spec in observables.items():
        if name not in left and spec.dims:
            found.setdefault(_table(spec), []).append(name)
    return {first: tuple(others) for first, *others in found.values() if others}


def later_columns(together: Mapping[str, tuple[str, ...]]) -> set[str]:
    """All columns of `tables` but the first of each: the network of the first sees them."""
    return {name for more in together.values() for name in more}


def _table(spec: Observable) -> Table:
    """The leading axes along which values repeat; the first one, where values do along none."""
    count = next((k for k, axis in enumerate(spec.dims) if axis not in SHARED_AXES), len(spec.dims)) or 1
    return spec.dims[:count], spec.shape[:count]


def seen_together(specs: Sequence[Observable]) -> Observable:
    """What a network of the columns of one table is built for; of one observable alone, that observable."""
    if len(specs) == 1:
        return specs[0]
    dims, shape = _table(specs[0])
    width = sum(math.prod(spec.shape[len(shape) :]) for spec in specs)
    return Observable((*shape, width), "", (*dims, "channel"))


def side_by_side(values: Sequence[Tensor], specs: Sequence[Observable]) -> Float[Tensor, "batch ..."]:
    """The values of columns, or their masks, as one array."""
    count = len(_table(specs[0])[1]) + 1
    return torch.cat([value.reshape(*value.shape[:count], -1) for value in values], dim=-1)


def row_by_row(observables: Mapping[str, Observable]) -> Int[Tensor, " number"]:
    """Places of the numbers of all observables, one observable after another, so that a table is read row by row."""
    together, start, places = tables(observables), 0, dict[str, Tensor]()
    for name, spec in observables.items():
        places[name] = torch.arange(start, start := start + math.prod(spec.shape))
    later, order = later_columns(together), list[Tensor]()
    for name in (name for name in observables if name not in later):
        rows = math.prod(_table(observables[name])[1]) if name in together else 1
        columns = [places[each].reshape(rows, -1) for each in (name, *together.get(name, ()))]
        order.append(torch.cat(columns, 1).flatten())
    return torch.cat(order)
