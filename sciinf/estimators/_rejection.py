"""Draws by rejection, many at a time: none is proposed but for those still missing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

ROUNDS = 2_000  # after which it is given up


def fill(
    theta: Float[Tensor, "n batch theta"],
    propose: Callable[[int], tuple[Float[Tensor, "some batch theta"], Bool[Tensor, "some batch"]]],
) -> tuple[Float[Tensor, "n batch theta"], Bool[Tensor, "n batch"]]:
    """Put accepted proposals in the places of draws.

    Args:
        theta: What stays where no proposal is accepted.
        propose: So many proposals for every observation, and which of them are accepted.

    Returns:
        Draws, and which of them are accepted proposals.
    """
    theta, done = theta.clone(), torch.zeros(theta.shape[:-1], dtype=torch.bool, device=theta.device)
    for _ in range(ROUNDS if done.numel() else 0):
        need = int((~done).sum(0).max())
        if not need:
            break
        new, accepted = propose(need)
        place = torch.sort(done.long(), dim=0, stable=True).indices[:need]  # those still missing first
        accepted = accepted & ~done.gather(0, place)
        at = place[..., None].expand_as(new)
        theta.scatter_(0, at, torch.where(accepted[..., None], new, theta.gather(0, at)))
        done.scatter_(0, place, done.gather(0, place) | accepted)
    return theta, done
