"""Times at which something starts and stops, for all rows of a batch or one for each."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, as_tensor, float64

from sciinf.dynamics.state_space import Time


def moments(state: Tensor, start: Time, stop: Time) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Start and stop of each row of a state, (row,), float64.

    Raises:
        ValueError: If they are neither numbers nor (row,), not finite, or run backwards.
    """
    both = []
    for name, given in (("start", start), ("stop", stop)):
        time = as_tensor(given, dtype=float64, device=state.device)
        if time.ndim > 1 or (time.ndim == 1 and len(time) not in (1, len(state))):
            raise ValueError(
                f"{name} is {tuple(time.shape)}, expected a number or a time for each of {len(state)} rows"
            )
        both.append(time.expand(len(state)))
    wrong = ~((both[0] <= both[1]) & both[0].isfinite() & both[1].isfinite())
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"row {row} goes from time {float(both[0][row])} to {float(both[1][row])}: times must be finite and not "
            "run backwards"
        )
    return both[0], both[1]
