"""Whether the draws of a law follow the parameters, told from held-out rows."""

from __future__ import annotations

import warnings

from jaxtyping import Float
from torch import Tensor

from sciinf.surrogates._fields import OfFields

_SLOPE, _FIRM = 0.2, 3.5  # of variances with a parameter, in its sds, and in standard errors, beyond which it is said


def say_what_is_not_followed(
    law: OfFields,
    theta: Float[Tensor, "batch theta"],
    spread: Float[Tensor, " batch"],
    error: Float[Tensor, " batch"],
) -> None:
    """Say where a parameter tells which draws are too alike, and which too unlike.

    Args:
        law: Whose draws they are.
        theta: Of held-out rows.
        spread: The variance of draws for each row, as it should be for the error of their mean.
        error: The mean squared error of that mean.

    Warns:
        UserWarning: If error minus spread, spread scaled to be right on average, goes with a parameter.
    """
    level = error.mean().clamp_min(1e-30)
    excess = (error - spread * level / spread.mean().clamp_min(1e-30)) / level
    for name, z in zip(law.prior.names, law.z(theta).to(excess).T, strict=True):
        each, variance = (z - z.mean()) * excess, z.var(correction=0).clamp_min(1e-12)
        slope, chance = each.mean() / variance, each.std(correction=0) / len(each) ** 0.5 / variance
        if abs(slope) > _SLOPE and abs(slope) > _FIRM * chance:
            more, less = ("high", "low") if slope > 0 else ("low", "high")
            warnings.warn(
                f"held-out simulations show that draws of {law.target!r} are too alike where {name!r} is "
                f"{more}, and too unlike where it is {less}: the law hardly follows it. Train longer, or on more "
                "solutions",
                stacklevel=3,
            )
