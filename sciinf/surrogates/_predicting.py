"""Surrogates that give one prediction, and the error that held-out rows show (`_errors`)."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Adjusting, Batch, X, predicted
from sciinf.core.surrogate import Values
from sciinf.surrogates._errors import WithErrors


class Predicting(WithErrors, Adjusting, ABC):
    """A surrogate of fields that predicts one solution. Arguments are those of `OfFields`."""

    @final
    @torch.no_grad()
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        """Keep what predictions of held-out rows are off by."""
        return held_out_errors(self, batches)

    @final
    def error(self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator) -> Values:
        return self.drawn_error(theta, generator=generator)

    @final
    def draw(self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator) -> Values:
        found = predicted(self, Batch(theta, given))
        return found + self.error(theta, given, generator=generator).to(found.device)


def held_out_errors(surrogate: WithErrors, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
    """Make a surrogate keep what its predictions of held-out solutions are off by, and say how much that is."""
    sizes, rows, relative, kept = [], [], [], []
    for batch in batches():
        true = batch.x[surrogate.target]
        off = true - predicted(surrogate, batch)
        size = off.flatten(1).square().mean(1).sqrt().clamp_min(1e-30)
        relative.append(size / true.flatten(1).square().mean(1).sqrt().clamp_min(1e-30))
        sizes.append(size)
        rows.append(batch.theta)
        if sum(map(len, kept)) < len(surrogate.errors):
            kept.append(off)
    surrogate.keep_errors(torch.cat(rows), torch.cat(sizes), torch.cat(kept))
    return {"relative_error": float(torch.cat(relative).mean())}
