"""Observables that are columns of one table, combined into the channels of one array for one summary network.

Examples are the response time and the choice of each trial, or time, flux and error of each visit. Only together do
such columns show which values belong to the same row. Observables whose first axes have the same names and lengths
become channels of one array, in the simulator's order. Each observable keeps its own scale, unit and mask.

Shapes: a value (batch, *shared, *own), with the axes that all columns share first; a table (batch, *shared, channel).
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
    """Tables among the observables: name of the first column -> names of the other columns.

    Masks, times and controls are not columns. Observables with their own times, or with unnamed axes, are not columns
    either.
    """
    left = set_names(observables) | set(timed_names(observables)) | {f"{name}_mask" for name in observables}
    found = dict[Table, list[str]]()
    for name, spec in observables.items():
        if name not in left and spec.dims:
            found.setdefault(_table(spec), []).append(name)
    return {first: tuple(others) for first, *others in found.values() if others}


def later_columns(together: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Names of all columns of `tables` except the first of each table, whose network takes the others as inputs."""
    return {name for more in together.values() for name in more}


def _table(spec: Observable) -> Table:
    """Names and lengths of the leading axes along which values repeat, or of the first axis if there are none."""
    count = next((k for k, axis in enumerate(spec.dims) if axis not in SHARED_AXES), len(spec.dims)) or 1
    return spec.dims[:count], spec.shape[:count]


def seen_together(specs: Sequence[Observable]) -> Observable:
    """Description of the combined array of a table's columns; for a single observable, that observable."""
    if len(specs) == 1:
        return specs[0]
    dims, shape = _table(specs[0])
    width = sum(math.prod(spec.shape[len(shape) :]) for spec in specs)
    return Observable((*shape, width), "", (*dims, "channel"))


def side_by_side(values: Sequence[Tensor], specs: Sequence[Observable]) -> Float[Tensor, "batch ..."]:
    """The values of a table's columns, or their masks, as channels of one array."""
    count = len(_table(specs[0])[1]) + 1
    return torch.cat([value.reshape(*value.shape[:count], -1) for value in values], dim=-1)


def row_by_row(observables: Mapping[str, Observable]) -> Int[Tensor, " number"]:
    """Order of the numbers of all observables in which each table is read row by row.

    The indices refer to the numbers of all observables, one observable after another.
    """
    together, start, places = tables(observables), 0, dict[str, Tensor]()
    for name, spec in observables.items():
        places[name] = torch.arange(start, start := start + math.prod(spec.shape))
    later, order = later_columns(together), list[Tensor]()
    for name in (name for name in observables if name not in later):
        rows = math.prod(_table(observables[name])[1]) if name in together else 1
        columns = [places[each].reshape(rows, -1) for each in (name, *together.get(name, ()))]
        order.append(torch.cat(columns, 1).flatten())
    return torch.cat(order)
