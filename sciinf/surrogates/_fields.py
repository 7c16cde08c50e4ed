"""What surrogates of fields on a grid have in common: names, standardisation, and the error that held-out rows show.

The error of a prediction is modelled as Gaussian,

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
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Adjusting, Batch, Learns, Observable, Prior, Surrogate, X, predicted
from sciinf.core.checks import check_whole
from sciinf.surrogates._edges import ByEdges, show_edges

_BYTES = 64 * 2**20  # of errors kept, at most
_MOST = 256
_ROWS_EACH = 8  # held out, for each coefficient of the error's size
_REACH = 3.0  # sds of a parameter, beyond which that size stays what it is


class OfFields(Surrogate, Adjusting, ABC):
    """A surrogate of one observable of layout (time, channel, *space).

    Args:
        prior: The simulator's.
        observables: The simulator's.
        target: Name of what is predicted.
        given: Names of what it starts from, each (channel, *space); all other observables where left out.
        seed: Seeds the first weights.

    Raises:
        ValueError: If a name is unknown, layouts do not go together, or the seed is no int of at least 0.
    """

    learns: ClassVar[Learns] = "fields"
    theta_mean: Tensor
    theta_sd: Tensor
    given_mean: Tensor
    given_sd: Tensor
    target_mean: Tensor
    target_sd: Tensor
    step_sd: Tensor
    errors: Tensor
    size: Tensor

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        target: str,
        given: Sequence[str] | None,
        seed: int,
    ) -> None:
        super().__init__()
        check_whole("seed", seed, 0)
        if target not in observables:
            raise ValueError(f"there is no observable {target!r} to predict; there is {', '.join(observables)}")
        others = [name for name in observables if name != target]
        self.prior, self.observables, self.target = prior, dict(observables), target
        self.given = tuple(others if given is None else given)
        spec = self.observables[target]
        if len(spec.shape) < 2:
            raise ValueError(f"{target!r} has shape {spec.shape}; fields are (time, channel, *space)")
        self.frames, self.channels, self.space = spec.shape[0], spec.shape[1], spec.shape[2:]
        for name in self.given:
            self._check_given(name)
        self.channels_given = sum(self.observables[name].shape[0] for name in self.given)
        width, axes = len(prior.names), len(self.space) * (1,)
        self.register_buffer("theta_mean", torch.zeros(width, dtype=prior.dtype))
        self.register_buffer("theta_sd", torch.ones(width, dtype=prior.dtype))
        self.register_buffer("given_mean", torch.zeros(self.channels_given, *axes))
        self.register_buffer("given_sd", torch.ones(self.channels_given, *axes))
        self.register_buffer("target_mean", torch.zeros(self.frames, self.channels, *axes))
        self.register_buffer("target_sd", torch.ones(self.frames, self.channels, *axes))
        self.register_buffer("step_sd", torch.ones(self.channels, *axes))
        kept = max(1, min(_MOST, _BYTES // (4 * math.prod(spec.shape))))
        self.register_buffer("errors", torch.zeros(kept, *spec.shape))
        self.register_buffer("size", torch.zeros(1 + 2 * width, dtype=torch.float64))

    def _check_given(self, name: str) -> None:
        spec = self.observables.get(name)
        if spec is None:
            raise ValueError(f"there is no observable {name!r} to start from; there is {', '.join(self.observables)}")
        if spec.shape[1:] != self.space:
            raise ValueError(
                f"{name!r} has shape {spec.shape}; what {self.target!r} of space {self.space} starts from is (channel, "
                "*space): name what is in `given`"
            )

    @final
    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        theta, given, target, step = _Moments(), _Moments(), _Moments(), _Moments()
        for batch in batches():
            theta.add(batch.theta, (0,))
            if self.given:
                given.add(self.stacked(batch.x), (0, *range(2, 2 + len(self.space))))
            target.add(batch.x[self.target], (0, *range(3, 3 + len(self.space))))
            step.add(batch.x[self.target].diff(dim=1), (0, 1, *range(3, 3 + len(self.space))))
        theta.into(self.theta_mean, self.theta_sd)
        if self.given:
            given.into(self.given_mean, self.given_sd)
        target.into(self.target_mean, self.target_sd)
        if self.frames > 1:
            step.into(torch.empty_like(self.step_sd), self.step_sd)
        if isinstance(self, ByEdges):
            show_edges(
                self, batches, lambda rows: [rows.x[self.target].flatten(0, 1), *(rows.x[n] for n in self.given)]
            )

    @final
    def stacked(self, given: X) -> Float[Tensor, "batch channel ..."]:
        """What it starts from, channel under channel."""
        return torch.cat([given[name] for name in self.given], 1)

    @final
    def z(self, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, "batch theta"]:
        """Standardised parameters, in the precision of the weights."""
        return ((theta.to(self.theta_mean) - self.theta_mean) / self.theta_sd).to(self.given_mean.dtype)

    @final
    def level(self) -> tuple[Float[Tensor, "channel ..."], Float[Tensor, "channel ..."]]:
        """Mean and sd of frames, whenever they are."""
        mean = self.target_mean.mean(0)
        squares = (self.target_sd.square() + self.target_mean.square()).mean(0)
        return mean, (squares - mean.square()).clamp_min(1e-24).sqrt()

    @final
    @torch.no_grad()
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        """Keep what predictions of held-out rows are off by."""
        sizes, rows, relative, kept = [], [], [], []
        for batch in batches():
            true = batch.x[self.target]
            off = true - predicted(self, batch)
            size = off.flatten(1).square().mean(1).sqrt().clamp_min(1e-30)
            relative.append(size / true.flatten(1).square().mean(1).sqrt().clamp_min(1e-30))
            sizes.append(size)
            rows.append(batch.theta)
            if sum(map(len, kept)) < len(self.errors):
                kept.append(off)
        off, size, theta = torch.cat(kept)[: len(self.errors)], torch.cat(sizes), torch.cat(rows)
        if not bool(size.isfinite().all()):
            bad = int((~size.isfinite()).sum())
            raise FloatingPointError(
                f"{bad} of {len(size)} predictions of held-out solutions are not finite: train longer, or more stably"
            )
        self.size.copy_(self._fitted(theta, size))
        each = off / self.spread(theta[: len(off)]).reshape(-1, *[1] * (off.ndim - 1))
        level = (size / self.spread(theta)).square().mean().sqrt()  # what the mean of logarithms leaves out
        self.size[0] += level.log()
        self.errors.zero_()
        self.errors[: len(off)] = each / level * math.sqrt(len(self.errors) / len(off))
        return {"relative_error": float(torch.cat(relative).mean())}

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
        return (self._design(theta) @ self.size).exp().to(self.errors)

    @final
    def error(
        self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator
    ) -> Float[Tensor, "batch ..."]:
        count = len(self.errors)
        noise = torch.randn(len(theta), count, generator=generator, device=generator.device).to(self.errors)
        size = self.spread(theta) / math.sqrt(count)
        return ((noise * size[:, None]) @ self.errors.flatten(1)).unflatten(1, self.errors.shape[1:])


class _Moments:
    """Mean and sd over axes, batch by batch."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, torch.zeros(()), torch.zeros(())
        self.start: Tensor | None = None

    def add(self, value: Tensor, axes: tuple[int, ...]) -> None:
        value = value.double()
        if self.start is None:  # close to all of them, so that no digit is lost far from zero
            self.start = value.mean(axes, keepdim=True)
        value = value - self.start
        self.count += math.prod(value.shape[axis] for axis in axes)
        self.total = self.total.to(value) + value.sum(axes)
        self.squares = self.squares.to(value) + value.square().sum(axes)

    def into(self, mean: Tensor, sd: Tensor) -> None:
        middle = self.total / max(self.count, 1)
        spread = (self.squares / max(self.count, 1) - middle.square()).clamp_min(0.0).sqrt().reshape(sd.shape)
        start = 0.0 if self.start is None else self.start.reshape(mean.shape)
        found = middle.reshape(mean.shape) + start
        mean.copy_(found)
        known = spread > torch.finfo(mean.dtype).eps * found.abs()
        sd.copy_(torch.where(known, spread, torch.ones_like(spread)))
