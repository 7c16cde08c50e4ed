r"""Whether draws are off in the same way for all solutions, or for all of some parameters.

With e_i(p) the error of the mean of draws for held-out solution i at point p, n of them, b their mean and v their
variance at each point, the share of the squared error that is the same for all is

    mean_p [b(p)^2 - v(p) / n] / mean_p mean_i e_i(p)^2,

0 on average for a law that is right, whatever the law of errors. Spread beside error does not show it: a law that does
not know where it is takes what is always so at a place for chance, and spreads as far as that makes it err.

With z_i e_i in place of e_i in the numerator, z a parameter or its square, scaled to mean 0 and sd 1, it is the share
that goes with the parameter, which is not 0 for a law that does not look at it, or takes it for a line.
"""

from __future__ import annotations

import warnings

from jaxtyping import Float
from torch import Tensor

from sciinf.emulators._fields import OfFields

_SHARE, _ROWS = 0.1, 32
_CHANCE = 6.0  # over n: of one number, whose share is 0 with an sd of sqrt(2) / n


def always_off(
    off: Float[Tensor, "batch frame channel *space"], z: Float[Tensor, " batch"] | None = None
) -> Float[Tensor, "frame channel"]:
    """The share of the squared error that is the same for all rows, or goes with z; 0 where there is no error."""
    weighed = off if z is None else (off.movedim(0, -1) * z).movedim(-1, 0)
    error = off.square().flatten(3).mean((0, 3))
    same = (weighed.mean(0).square() - weighed.var(0) / len(off)).flatten(2).mean(2)
    return (same / error.clamp_min(1e-30)).where(error > 0, 0.0)


def say_what_is_always_off(
    law: OfFields,
    theta: Float[Tensor, "batch theta"],
    off: Float[Tensor, "batch frame channel *space"],
    *,
    placed: bool,
) -> None:
    """Warn of the frame and channel where most of it is.

    Args:
        law: Whose draws they are.
        theta: Of held-out rows.
        off: Held-out solutions less the mean of draws.
        placed: Whether the law knows where it is.

    Warns:
        UserWarning: If a tenth of the error is the same for all, or goes with a parameter, and more than chance makes
            it.
    """
    if len(off) < _ROWS:
        return
    off = off.double().reshape(*off.shape[:3], -1)
    way = (
        "Train longer" if placed else "Is the equation the same everywhere? If not, TokenTransformer(coordinates=True)"
    )
    _say(law, always_off(off), len(off), "is the same for all held-out simulations", "wrong in some places", way)
    for name, column in zip(law.prior.names, law.z(theta).to(off).T, strict=True):
        z = _scaled(column)
        share = always_off(off, z).maximum(always_off(off, _scaled(z.square())))
        _say(law, share, len(off), f"goes with {name!r}", "wrong at its ends", "Train longer, or on more solutions")


def _scaled(column: Float[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """To mean 0 and sd 1."""
    return (column - column.mean()) / column.std(correction=0).clamp_min(1e-12)


def _say(law: OfFields, share: Tensor, rows: int, what: str, so: str, way: str) -> None:
    if float(share.max()) > max(_SHARE, _CHANCE / rows):
        frame, channel = divmod(int(share.argmax()), share.shape[1])
        warnings.warn(
            f"{float(share.max()):.0%} of the squared error of draws of {law.target!r} {what}, in frame {frame}, "
            f"channel {channel}: they are {so}, not only unsure. {way}",
            stacklevel=5,
        )
