"""Description in words of how default summary networks interpret each observable: as a set, series, image or table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch

from sciinf.core.learned import Batch
from sciinf.core.observable import Observable, X
from sciinf.core.summary import IMAGE_AXES
from sciinf.networks.summaries.choice import passes
from sciinf.networks.summaries.columns import later_columns, seen_together, tables
from sciinf.networks.summaries.standardise import Standardise
from sciinf.networks.summaries.timed import set_names

_UNNAMED = "; if its axis is one of items or times, say so: dims=('item',) or dims=('time',)"


def described(
    observables: Mapping[str, Observable], x: X, counted: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """One line of text for each summary network that an estimator would choose.

    Args:
        observables: Observables of the simulator: name -> description.
        x: Some simulated rows, from which the scale of each observable is chosen.
        counted: Name of a series -> names of the discrete parameters that are interpreted as numbers of its steps.
    """
    standard = Standardise(observables)
    rows = len(next(iter(x.values())))
    standard.fit(lambda: iter([Batch(torch.zeros(rows, 1), x)]))
    together, beside = tables(observables), set_names(observables)
    later = later_columns(together)
    found = []
    for name in standard.specs:
        if name in later or name in beside:
            continue
        names = [name, *together.get(name, ())]
        spec = seen_together([observables[each] for each in names])
        masked = any(f"{each}_mask" in observables for each in names)
        words = f"{', '.join(names)}: {_kind(spec, masked)}"
        words += f", with {len(names)} columns" if len(names) > 1 else ""
        words += ", some of them missing (mask)" if masked else ""
        words += f", its steps counted by {counted[name]} (or else: Mixed(places=False))" if name in counted else ""
        heavy = [each for each in names if bool((standard.get_buffer(f"{each}_scale") > 0).any())]
        logs = [each for each in names if observables[each].scale == "log"]
        words += f"; scaled by arcsinh, for heavy tails: {', '.join(heavy)}" if heavy else ""
        words += f"; scaled by the logarithm: {', '.join(logs)}" if logs else ""
        found.append(words + (_UNNAMED if not spec.dims and not passes(spec, masked) else ""))
    return tuple(found)


def _kind(spec: Observable, masked: bool) -> str:
    """Kind of an observable in words, by the rules of `choice.choose`."""
    numbers = math.prod(spec.shape)
    if "item" in spec.dims:
        return f"a set of {spec.shape[spec.dims.index('item')]:,} items"
    if passes(spec, masked):
        return "one number" if numbers == 1 else f"{numbers} numbers, as they are"
    if "time" in spec.dims and (masked or numbers > 1):
        return f"a series of {spec.shape[spec.dims.index('time')]:,} times"
    image = [size for axis, size in zip(spec.dims, spec.shape, strict=True) if axis in IMAGE_AXES] if spec.dims else []
    return f"an image of {image[0]:,} x {image[1]:,}" if len(image) == 2 else f"{numbers:,} numbers"
