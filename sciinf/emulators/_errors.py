r"""What surrogates of fields are off by on held-out rows, as a law of errors at any parameters.

    u - f(theta, given) = s(theta) sum_j xi_j e_j / sqrt(J),     xi_j ~ N(0, 1),

e_j the errors on J held-out rows, each over its s(theta_j), so that its covariance is theirs around zero (a bias counts
as error too), with every correlation between points, frames and channels; log s is the least-squares fit of the
logarithm of their sizes by 1, z and z^2, z the standardised theta. Held-out rows are those that chose the best weights:
with hundreds of them that hardly flatters.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Adjusting, Batch, Observable, Prior, X, predicted
from sciinf.core.surrogate import Values
from sciinf.emulators._fields import OfFields

_BYTES = 64 * 2**20  # of errors kept, at most
_MOST = 256
_ROWS_EACH = 8  # held out, for each coefficient of the error's size
_REACH = 3.0  # sds of a parameter, beyond which that size stays what it is


class WithErrors(OfFields, ABC):
    """A surrogate of fields that knows what its predictions are off by. Arguments are those of `OfFields`."""

    errors: Tensor
    size: Tensor

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        target: str,
        given: Sequence[str] | None,
        seed: int,
        moves: Sequence[Sequence[int]] = (),
    ) -> None:
        super().__init__(prior, observables, target, given, seed, moves)
        shape = self.observables[target].shape
        kept = max(1, min(_MOST, _BYTES // (4 * math.prod(shape))))
        self.register_buffer("errors", torch.zeros(kept, *shape))
        self.register_buffer("size", torch.zeros(1 + 2 * len(prior), dtype=torch.float64))

    @final
    def keep_errors(
        self,
        theta: Float[Tensor, "batch theta"],
        size: Float[Tensor, " batch"],
        off: Float[Tensor, "some ..."],
    ) -> None:
        """Keep what predictions of held-out rows are off by.

        Args:
            theta: Theirs.
            size: The root mean square of each row's error.
            off: Errors of the first rows, solution minus prediction.

        Raises:
            FloatingPointError: If a size is not finite.
        """
        if not bool(size.isfinite().all()):
            bad = int((~size.isfinite()).sum())
            raise FloatingPointError(
                f"{bad} of {len(size)} predictions of held-out solutions are not finite: train longer, or more stably"
            )
        off = off[: len(self.errors)]
        self.size.copy_(self._fitted(theta, size))
        each = off / self.spread(theta[: len(off)]).reshape(-1, *[1] * (off.ndim - 1))
        level = (size / self.spread(theta)).square().mean().sqrt()  # what the mean of logarithms leaves out
        self.size[0] += level.log()
        self.errors.zero_()
        self.errors[: len(off)] = each / level * math.sqrt(len(self.errors) / len(off))

    def _fitted(self, theta: Tensor, size: Tensor) -> Tensor:
        """Coefficients of log s; of few rows a constant, or no squares, for they would be taken for what chance did."""
        design, wanted = self._design(theta), size.double().log()
        width = self.theta_mean.numel()
        columns = next((c for c in (1 + 2 * width, 1 + width) if len(size) >= _ROWS_EACH * c), 1)
        some = design[:, :columns]
        ridge = torch.eye(columns, dtype=torch.float64, device=some.device)
        ridge[0, 0] = 0.0
        found = torch.zeros_like(self.size)
        found[:columns] = torch.linalg.solve(some.mT @ some + ridge, some.mT @ wanted)
        return found

    def _design(self, theta: Tensor) -> Tensor:
        z = self.z(theta).double().clamp(-_REACH, _REACH)
        return torch.cat([z.new_ones(len(z), 1), z, z.square()], 1)

    @final
    def spread(self, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, " batch"]:
        """See `Surrogate.spread`.

        Raises:
            ValueError: If no solution was there to tell.
        """
        if bool(self.size.isnan().any()):
            raise ValueError(
                f"no solution has checked this {type(self).__name__}, so nobody knows what its {self.target!r} is off "
                "by: train it on a store of solutions, whose held-out rows tell. `predict` goes without, and so does "
                "Emulator(fit, equation, error=False), whose posteriors are too narrow by what it is off"
            )
        return (self._design(theta) @ self.size).exp().to(self.errors)

    @final
    def drawn_error(
        self, theta: Float[Tensor, "batch theta"], *, generator: torch.Generator
    ) -> Float[Tensor, "batch ..."]:
        """Draws of that law."""
        count = len(self.errors)
        noise = torch.randn(len(theta), count, generator=generator, device=generator.device).to(self.errors)
        size = self.spread(theta) / math.sqrt(count)
        return ((noise * size[:, None]) @ self.errors.flatten(1)).unflatten(1, self.errors.shape[1:])


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
