"""The equal mixture of several posteriors, for example of networks trained from different seeds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Posterior, X
from sciinf.posteriors.learned import LearnedPosterior, covers, holds_for


class Ensemble(LearnedPosterior):
    """Equal mixture of posteriors: q(theta | x) is the mean of the members' densities.

    Args:
        members: Posteriors of the same parameters and observables.

    Raises:
        ValueError: If there are no members, or they differ in parameters, observables or the distribution of theta that
            they were trained under.
    """

    def __init__(self, members: Sequence[Posterior]) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one posterior")
        first = members[0]
        for other in members[1:]:
            if other.prior.to_json() != first.prior.to_json() or dict(other.observables) != dict(first.observables):
                raise ValueError(f"the members differ: {first.prior} with {other.prior}; train them on one simulator")
            if other.under != first.under:
                raise ValueError("the members were learned under different laws of theta; train them on one store")
        self.members = tuple(members)
        self.name = f"ensemble of {len(members)}"
        self.digest = hashlib.sha256("".join(m.digest for m in members).encode()).hexdigest()
        self.trained_on = frozenset().union(*(m.trained_on for m in members))
        self.prior, self.observables = first.prior, first.observables
        self.under = first.under
        self.scope = "; ".join(dict.fromkeys(m.scope for m in members if m.scope))
        self.only = "; ".join(dict.fromkeys(only for only in map(holds_for, members) if only))
        self.whole = any(covers(m) for m in members)
        self.failed = max(m.failed if isinstance(m, LearnedPosterior) else 0 for m in members)

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        return self._mixed([m.draw_batched for m in self.members], x, n, generator)

    def draw_within(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """Draws from each member, without the member's own strays."""
        ways = [m.draw_within if isinstance(m, LearnedPosterior) else m.draw_batched for m in self.members]
        return self._mixed(ways, x, n, generator)

    def _mixed(
        self, ways: Sequence[Callable[..., Tensor]], x: X, n: int, generator: torch.Generator
    ) -> Float[Tensor, "n batch theta"]:
        batch = len(next(iter(x.values())))
        chosen = torch.randint(len(self.members), (n, batch), generator=generator)
        each = max(int((chosen == k).sum(dim=0).max()) for k in range(len(self.members)))
        draws = torch.stack([draw(x, each, generator=generator) for draw in ways])
        place = torch.zeros_like(chosen)
        for k in range(len(self.members)):
            mine = chosen == k
            place = torch.where(mine, mine.cumsum(dim=0) - 1, place)
        return draws[chosen, place, torch.arange(batch).expand(n, batch)]

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        parts = torch.stack([m.log_prob_batched(theta, x) for m in self.members])
        return parts.logsumexp(dim=0) - math.log(len(self.members))

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return torch.cat([m.features(x) for m in self.members], dim=-1)
