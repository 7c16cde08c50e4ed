r"""The precision that parameters need, and laws whose own numbers are too coarse for them.

Numbers of float32 near m lie about |m| 1.2e-7 apart: 4e-6 for N(50, 1), and 128 for N(1126259462.4, 0.1), which has a
single value there. Parameters are float32 where that is fine, float64 where it is not. But torch makes the numbers that
a law is built from float32 too, unless they are tensors of float64: N(1126259462.4, 0.1) is then another law, and that
cannot be mended afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core.joint_laws import Ordered
from sciinf.core.law_json import law_from_json, law_to_json
from sciinf.core.laws import is_normalisable
from sciinf.core.unknown_law import Unknown

FINE = 1e-4  # spacing of float32, as a share of a law's width, up to which parameters are float32
COARSE = 0.015  # spacing of the numbers a law is built from, as a share of its width, from which the law is refused
LARGE = 2.0**20  # from here on a constant of float32 may be a value whose variation was rounded away
_FAR = 10.0  # widths from its middle that a law is taken to reach


def in_double(law: td.Distribution) -> td.Distribution:
    """The same law computing in float64; as it is where it cannot be written down."""
    try:
        return law_from_json(law_to_json(law), dtype=torch.float64)
    except TypeError:
        return law


def precision_for(names: Sequence[str], units: Sequence[str], law: td.Distribution) -> torch.dtype:
    """float32 where it tells the law's values apart, else float64; that as well where nobody knows the law.

    Args:
        names: The parameters that follow the law.
        units: Their units.
        law: The law as it was given.

    Raises:
        ValueError: If the numbers that the law holds are too coarse for its width. The message says the way out.
    """
    if isinstance(law, Unknown):
        return torch.float64
    own, needed = precision_of(law), torch.float32
    for middle, width in _values(in_double(law)):
        reach = middle.abs() + _FAR * width
        if bool(((_step(middle, torch.float32) > FINE * width) | (reach > torch.finfo(torch.float32).max)).any()):
            needed = torch.float64
        lost = (_step(middle, own) > COARSE * width) | (reach > torch.finfo(torch.float64).max)
        for i in map(int, lost.flatten().nonzero().flatten()):
            name, unit = names[i % len(names)], units[i % len(names)]
            m, w, by = (float(t.flatten()[i]) for t in (middle, width, _step(middle, own)))
            digits = 10 if own == torch.float32 else 17
            raise ValueError(
                f"parameter {name!r} has a law near {m:.{digits}g} of width {w:.3g}{f' {unit}' if unit else ''}, and "
                f"its numbers are {str(own).removeprefix('torch.')}, which has steps of {by:.3g} there. "
                + _way_out(name, unit, own)
            )
    return needed


def rounded_away(mean: Tensor, sd: Tensor) -> str:
    """What float32 lost of data that have this mean and standard deviation, in words; "" if nothing that matters.

    Args:
        mean: Of each number, any shape.
        sd: Its standard deviation as stored in float32, 0 for a constant.
    """
    step = _step(mean.double(), torch.float32)
    lost = torch.where(sd > 0, step > COARSE * sd, mean.abs() >= LARGE).flatten()
    if not bool(lost.any()):
        return ""
    m, s, by = (float(value.flatten()[lost][0]) for value in (mean, sd, step))
    return f"values near {m:.10g} that vary by {s:.3g}, where float32 has steps of {by:.3g}"


def precision_of(law: td.Distribution) -> torch.dtype:
    """Of the numbers that a law holds: the coarsest of its own, or the finest of the laws it is made of."""
    held = vars(law).values()
    own = {value.dtype for value in held if isinstance(value, Tensor) and value.is_floating_point()}
    if own:
        return torch.float64 if own == {torch.float64} else torch.float32
    inner = {precision_of(value) for value in held if isinstance(value, td.Distribution)}
    return torch.float64 if torch.float64 in inner else torch.float32


def _way_out(name: str, unit: str, own: torch.dtype) -> str:
    shifted = (
        f"give the parameter as an offset from a reference: {name} = {name}0 + d{name}, with the number {name}0 in the "
        f"simulator and the prior on d{name}{f' in {unit}' if unit else ''}"
    )
    if own == torch.float64:
        return shifted[0].upper() + shifted[1:]
    return (
        "torch rounds the numbers of a law to float32 unless they are tensors of float64: take the law from sciinf, "
        "which does not (from sciinf import Normal), or give each number as torch.tensor(NUMBER, dtype=torch.float64). "
        f"Or {shifted}"
    )


def _step(at: Tensor, dtype: torch.dtype) -> Tensor:
    """From a value to the next one of that dtype, away from zero; float64. NaN where it cannot hold the value."""
    held = at.abs().to(dtype)
    return torch.nextafter(held, torch.full_like(held, math.inf)).double() - held.double()


def whereabouts(law: td.Distribution) -> tuple[Tensor, Tensor]:
    """The middle of a law and its width, each of its event shape: mean and sd, or location and scale without those."""
    return next(_moments(law))


def _values(law: td.Distribution) -> Iterator[tuple[Tensor, Tensor]]:
    """Where the values of a law lie and how wide it is there: the last dimension is the law's own, if it has one."""
    if isinstance(law, td.Independent):
        yield from _values(law.base_dist)
    elif isinstance(law, td.MixtureSameFamily):
        yield from _values(law.component_distribution)
    elif isinstance(law, Ordered):
        yield from _values(law.base)
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
