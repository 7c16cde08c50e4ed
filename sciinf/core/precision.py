r"""Laws in double precision, and laws that float32, in which parameters are kept, cannot tell apart.

Numbers of float32 near m lie about |m| 1.2e-7 apart: 4e-6 for N(50, 1), and 128 for N(1126259462.4, 0.1), which has a
single value there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core.laws import is_normalisable, law_from_json, law_to_json

COARSE = 0.015  # spacing of float32, as a share of a law's width, from which the law is refused
_FAR = 10.0  # widths from its middle that a law is taken to reach


def in_double(law: td.Distribution) -> td.Distribution:
    """The same law computing in float64; as it is where it cannot be written down."""
    try:
        return law_from_json(law_to_json(law), dtype=torch.float64)
    except TypeError:
        return law


def check_resolved(names: Sequence[str], units: Sequence[str], law: td.Distribution) -> None:
    """Refuse a law whose values float32 cannot tell apart, or hold.

    Args:
        names: The parameters that follow the law.
        units: Their units.
        law: The law, in float64.

    Raises:
        ValueError: The message says what float32 makes of the parameter, and the way out.
    """
    for middle, width in _values(law):
        single = middle.to(torch.float32)
        step = torch.nextafter(single.abs(), torch.full_like(single, math.inf)).double() - single.abs().double()
        beyond = middle.abs() + _FAR * width > torch.finfo(torch.float32).max
        lost = beyond | (step > COARSE * width)
        for i in lost.flatten().nonzero().flatten().tolist():
            name, unit = names[i % len(names)], units[i % len(names)]
            m, w, value, by = (float(t.flatten()[i]) for t in (middle, width, single, step))
            what = f"parameter {name!r} has a law near {m:.10g} of width {w:.3g}{f' {unit}' if unit else ''}"
            if bool(beyond.flatten()[i]):
                raise ValueError(
                    f"{what}: parameters are float32, which ends at 3.4e38. Give the parameter in a larger unit"
                )
            if abs(m) <= 2 * w:
                raise ValueError(
                    f"{what}: parameters are float32, which has steps of {by:.2g} there. Give the parameter in a "
                    "smaller unit"
                )
            raise ValueError(
                f"{what}: parameters are float32, which makes it {value:.10g} in steps of {by:.3g}, "
                f"{by / w:.2g} times its width. Give the parameter as an offset from a reference: {name} = {name}0 + "
                f"d{name}, with the number {name}0 in the simulator and the prior on d{name}"
                f"{f' in {unit}' if unit else ''}"
            )


def _values(law: td.Distribution) -> Iterator[tuple[Tensor, Tensor]]:
    """Where the values of a law lie and how wide it is there: the last dimension is the law's own, if it has one."""
    if isinstance(law, td.Independent):
        yield from _values(law.base_dist)
    elif isinstance(law, td.MixtureSameFamily):
        yield from _values(law.component_distribution)
    elif not law.event_shape and is_normalisable(law):
        low, high = (law.icdf(torch.full((), q, dtype=torch.float64)) for q in (0.1587, 0.8413))
        yield torch.where(low.abs() > high.abs(), low, high), (high - low) / 2
    else:
        yield from _moments(law)


def _moments(law: td.Distribution) -> Iterator[tuple[Tensor, Tensor]]:
    try:
        mean, sd = law.mean, law.stddev
    except (NotImplementedError, AttributeError):
        mean = sd = torch.tensor(math.nan)
    given = vars(law)
    if not bool((mean.isfinite() & sd.isfinite()).all()) and isinstance(given.get("loc"), Tensor):
        mean, sd = given["loc"], given.get("scale", torch.tensor(math.nan))
    known = mean.isfinite() & sd.isfinite() & (sd > 0)
    yield torch.where(known, mean, 0.0).double(), torch.where(known, sd, 1.0).double()
