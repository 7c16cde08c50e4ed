"""How far draws of series spread, beside how far their mean is off: at single values, whichever are asked for."""

from __future__ import annotations

import warnings

from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core.surrogate import ALIKE, UNLIKE


def compared(
    drawn: Float[Tensor, "draw row time channel"],
    true: Float[Tensor, "row time channel"],
    at: Bool[Tensor, "row time channel"],
) -> tuple[float, float]:
    """The rms error of the mean of draws at some values, and their spread over it: 1 for the right law."""
    square = (drawn.mean(0) - true)[at].double().square().mean()
    spread = drawn.double().var(0)[at].mean() * (1 + 1 / len(drawn))
    return float(square.sqrt()), float((spread / square.clamp_min(1e-30)).sqrt())


def say_where_draws_are_unlike_errors(ratio: float, what: str) -> None:
    """Warn where draws of some kind are too alike or too unlike for held-out series.

    Warns:
        UserWarning: If they are.
    """
    if not ALIKE <= ratio <= UNLIKE:
        warnings.warn(
            f"draws of {what} spread {ratio:.2f} times as far as their mean is off for held-out simulations (1 for the "
            f"right law): they are too {'sure' if ratio < 1 else 'wide'}. Try more simulations, a longer training, "
            "more states, or another process",
            stacklevel=5,
        )
