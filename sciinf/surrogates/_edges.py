r"""Whether fields have edges, told from the fields themselves.

On a ring or torus the last point of each direction is the neighbour of the first. So fields have edges where they jump
there more than from point to point inside,

    rms(f_last - f_first) > 2 rms(f_{i+1} - f_i),

or where their first or last value hardly varies beside those inside, being held by a condition: its sd over the rows is
below a twentieth of theirs. Each channel and each direction is asked. Of periodic fields that are alike everywhere both
sides of the first have the same expectation; a wrong yes costs a few points of padding, a wrong no accuracy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from jaxtyping import Float
from torch import Tensor

from sciinf.core import Batch

JUMP, HELD = 2.0, 0.05
_POINTS = 4  # in a direction, at least, to tell
_ROWS, _NUMBERS = 256, 2**23  # looked at, at most


class ByEdges(ABC):
    """A surrogate whose network follows from whether fields have edges."""

    @abstractmethod
    def at_edges(self) -> None:
        """Take the network for fields that have edges, where nothing else was said."""


def show_edges(
    surrogate: ByEdges, batches: Callable[[], Iterator[Batch]], fields: Callable[[Batch], list[Tensor]]
) -> bool:
    """Tell a surrogate of edges in the training rows, and whether there are any.

    Args:
        surrogate: Which.
        batches: Each call is a pass over the training rows, of which the first are looked at.
        fields: What a batch shows, each (rows, channel, *space).
    """
    first = next(iter(batches()))
    numbers = max(value[:1].numel() for value in first.x.values())
    rows = first.rows(slice(0, max(2, min(_ROWS, _NUMBERS // numbers))))
    found = any(edged(value) for value in fields(rows))
    if found:
        surrogate.at_edges()
    return found


def edged(fields: Float[Tensor, "rows channel *space"]) -> bool:
    """Whether any channel of the fields has edges in any direction."""
    return any(
        _edged_along(fields.movedim(axis, -1).double())
        for axis in range(2, fields.ndim)
        if fields.shape[axis] >= _POINTS
    )


def _edged_along(fields: Float[Tensor, "rows channel *across along"]) -> bool:
    others = [0, *range(2, fields.ndim - 1)]
    ends = fields[..., [0, -1]]
    inside = fields.diff(dim=-1).square().mean([*others, -1])
    around = ends.diff(dim=-1)[..., 0].square().mean(others)
    held = ends.var(0).reshape(fields.shape[1], -1, 2).mean(1).amin(-1)
    varied = fields.var(0).flatten(1).mean(1)
    found = (around > JUMP**2 * inside) | (held < HELD**2 * varied)
    return bool((found & (inside > 0)).any())
