r"""Whether draws are off in the same way for all solutions.

With e_i(p) the error of the mean of draws for held-out solution i at point p, n of them, b their mean and v their
variance at each point, the share of the squared error that is the same for all is

    mean_p [b(p)^2 - v(p) / n] / mean_p mean_i e_i(p)^2,

0 on average for a law that is right, whatever the law of errors. Spread beside error does not show it: a law that does
not know where it is takes what is always so at a place for chance, and spreads as far as that makes it err.
"""

from __future__ import annotations

import warnings

from jaxtyping import Float
from torch import Tensor

_SHARE, _ROWS = 0.1, 32
_CHANCE = 6.0  # over n: of one number, whose share is 0 with an sd of sqrt(2) / n


def always_off(off: Float[Tensor, "batch frame channel *space"]) -> Float[Tensor, "frame channel"]:
    """The share of the squared error that is the same for all rows; 0 where there is no error."""
    mean, error = off.mean(0), off.square().flatten(3).mean((0, 3))
    same = (mean.square() - off.var(0) / len(off)).flatten(2).mean(2)
    return (same / error.clamp_min(1e-30)).where(error > 0, 0.0)


def say_what_is_always_off(target: str, off: Float[Tensor, "batch frame channel *space"], *, placed: bool) -> None:
    """Warn of the frame and channel where most of it is.

    Args:
        target: What is drawn.
        off: Held-out solutions less the mean of draws.
        placed: Whether the law knows where it is.

    Warns:
        UserWarning: If it is a tenth, and more than chance makes it.
    """
    if len(off) < _ROWS:
        return
    share = always_off(off.double().reshape(*off.shape[:3], -1))
    if float(share.max()) > max(_SHARE, _CHANCE / len(off)):
        frame, channel = divmod(int(share.argmax()), share.shape[1])
        way = (
            "Train longer"
            if placed
            else "Is the equation the same everywhere? If not, TokenTransformer(coordinates=True)"
        )
        warnings.warn(
            f"{float(share.max()):.0%} of the squared error of draws of {target!r} is the same for all held-out "
            f"simulations, in frame {frame}, channel {channel}: they are wrong in some places, not only unsure. {way}",
            stacklevel=4,
        )
