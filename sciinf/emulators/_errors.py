r"""Errors of surrogates of fields on held-out rows, as a distribution of errors at any parameters.

    u - f(theta, given) = s(theta) sum_j xi_j e_j / sqrt(J),     xi_j ~ N(0, 1).

e_j is the error of the j-th of J held-out rows, divided by s(theta_j). So this distribution has the covariance of these
errors around zero; a bias counts as error too. It contains every correlation between points, frames and channels. log s
is a least-squares fit to the logarithm of the errors' sizes by 1, z and z^2, where z is the standardised theta. The
same held-out rows chose the best weights. With hundreds of rows, this makes the errors look only slightly too small.
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

_BYTES = 64 * 2**20  # Memory limit of the errors that are kept.
_MOST = 256  # Limit of the number of errors that are kept.
_ROWS_EACH = 8  # Held-out rows that each coefficient of the error's size needs.
_REACH = 3.0  # Beyond so many sds of a parameter, the size of the error is constant.


class WithErrors(OfFields, ABC):
    """A surrogate of fields that knows the errors of its predictions. Arguments are those of `OfFields`."""

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
        """Keep the errors of predictions of held-out rows.

        Args:
            theta: Parameters of these rows.
            size: The root mean square of each row's error.
            off: Errors of the first rows: solution minus prediction.

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
        level = (size / self.spread(theta)).square().mean().sqrt()  # A mean of logarithms alone is too small.
        self.size[0] += level.log()
        self.errors.zero_()
        self.errors[: len(off)] = each / level * math.sqrt(len(self.errors) / len(off))

    def _fitted(self, theta: Tensor, size: Tensor) -> Tensor:
        """Coefficients of log s by least squares.

        With few rows, the fit is a constant or has no squares, so that it does not follow chance.
        """
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
        """Root mean square of the error at each theta. See `Surrogate.spread`.

        Raises:
            ValueError: If no held-out solution was there to show the error.
        """
        if bool(self.size.isnan().any()):
            raise ValueError(
                f"no solution has checked this {type(self).__name__}, so nobody knows what its {self.target!r} is off "
                "by: train it on a store with solutions, of which held-out rows show the error. `predict` needs no "
                "error. Emulator(fit, equation, error=False) needs none either, but its posteriors are too narrow"
            )
        return (self._design(theta) @ self.size).exp().to(self.errors)

    @final
    def drawn_error(
        self, theta: Float[Tensor, "batch theta"], *, generator: torch.Generator
    ) -> Float[Tensor, "batch ..."]:
        """Draw errors of predictions at each theta from their distribution."""
        count = len(self.errors)
        noise = torch.randn(len(theta), count, generator=generator, device=generator.device).to(self.errors)
        size = self.spread(theta) / math.sqrt(count)
        return ((noise * size[:, None]) @ self.errors.flatten(1)).unflatten(1, self.errors.shape[1:])


class Predicting(WithErrors, Adjusting, ABC):
    """A surrogate of fields that predicts one solution for each row. Arguments are those of `OfFields`."""

    @final
    @torch.no_grad()
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        """Keep the errors of predictions of held-out rows."""
        return held_out_errors(self, batches)

    @final
    def error(self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator) -> Values:
        return self.drawn_error(theta, generator=generator)

    @final
    def draw(self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator) -> Values:
        found = predicted(self, Batch(theta, given))
        return found + self.error(theta, given, generator=generator).to(found.device)


def held_out_errors(surrogate: WithErrors, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
    """Make a surrogate keep its errors on held-out solutions, and return their mean relative size."""
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
