r"""The precision that parameters need, and a check that the numbers of a distribution are precise enough.

Neighbouring float32 numbers near m are about |m| 1.2e-7 apart: 4e-6 for N(50, 1), and 128 for N(1126259462.4,
0.1). In float32, the second distribution has a single value. Parameters are float32 where this is precise
enough, and float64 otherwise. But torch also rounds the numbers that a distribution is built from to float32,
unless they are tensors of float64. N(1126259462.4, 0.1) is then a different distribution, and the original
cannot be recovered.
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

# Parameters are float32 if the spacing of float32 is at most this fraction of their distribution's width.
FINE = 1e-4
# A distribution is refused if the spacing of the numbers in it is above this fraction of its width.
COARSE = 0.015
LARGE = 2.0**20  # In constant float32 data of at least this size, variation may have been rounded away.
_FAR = 10.0  # A distribution is assumed to reach this number of widths from its middle.


def in_double(law: td.Distribution) -> td.Distribution:
    """A copy of the distribution that computes in float64.

    A distribution that has no JSON description is returned as it is.
    """
    try:
        return law_from_json(law_to_json(law), dtype=torch.float64)
    except TypeError:
        return law


def precision_for(names: Sequence[str], units: Sequence[str], law: td.Distribution) -> torch.dtype:
    """The precision that the parameters of a distribution need.

    It is float32 if this precision tells the values of the distribution apart, else float64.
    The parameters of an `Unknown` distribution are float64.

    Args:
        names: Names of the parameters that follow the distribution.
        units: Units of the parameters.
        law: The distribution as it was given.

    Raises:
        ValueError: If the numbers that the distribution holds are too coarse for its width. The message says
            what to do.
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
                f"parameter {name!r} has a distribution near {m:.{digits}g} of width "
                f"{w:.3g}{f' {unit}' if unit else ''}, and its numbers are "
                f"{str(own).removeprefix('torch.')}, which has steps of {by:.3g} "
                f"there. " + _way_out(name, unit, own)
            )
    return needed


def rounded_away(mean: Tensor, sd: Tensor) -> str:
    """The loss of precision of data that are stored in float32, in words; "" if no loss matters.

    Args:
        mean: Mean of each number of the data, any shape.
        sd: Standard deviation of each number as stored in float32, 0 for a constant; the same shape.
    """
    step = _step(mean.double(), torch.float32)
    lost = torch.where(sd > 0, step > COARSE * sd, mean.abs() >= LARGE).flatten()
    if not bool(lost.any()):
        return ""
    m, s, by = (float(value.flatten()[lost][0]) for value in (mean, sd, step))
    return f"values near {m:.10g} that vary by {s:.3g}, where float32 has steps of {by:.3g}"


def precision_of(law: td.Distribution) -> torch.dtype:
    """The precision of the numbers that a distribution holds.

    This is the coarsest precision of its own tensors. If it has none, it is the finest precision of the
    distributions that it is made of.
    """
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
    """The distance from a value to the next number of the dtype, away from zero, float64.

    It is NaN if the dtype cannot hold the value.
    """
    held = at.abs().to(dtype)
    return torch.nextafter(held, torch.full_like(held, math.inf)).double() - held.double()


def whereabouts(law: td.Distribution) -> tuple[Tensor, Tensor]:
    """The middle and the width of a distribution, each of its event shape.

    They are the mean and the sd, or the location and the scale if the mean or the sd is not finite.
    """
    return next(_moments(law))


def _values(law: td.Distribution) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of a place at which the values of a distribution lie, and the width of the distribution there.

    The last dimension of the tensors is the event dimension of the distribution, if it has one.
    """
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
