r"""One network for many flows in a plane, with several fields each; symbols tell the network which equations hold.

    u(t_1..t_T) ~ m + s f(v, e, m, s, c),     v = (frames - m) / s.

f is the network of `multi_operator` on a torus: patches are squares, and each direction has an angle. e are the symbols
of a system (`simulators.dynamics.systems`). m and s are the mean and sd of each channel over the given frames, of which
there may be any number. c says which channels the system has. The other channels are ignored, have no part in the loss,
and are predicted as 0. The loss is |v(t) - f| / |v(t)| over channels and points, so that each family counts alike,
whatever its units.

The error of predictions is learnt for each family separately: s sum_j xi_j e_j / sqrt(J) with xi_j ~ N(0, 1). The e_j
are the errors of J held-out rows of the family, in units of s. Where some coefficients are harder than others, this
error is too large for the easy ones and too small for the hard ones.

In the paper there are ten frames of 128 x 128 points and of four channels. There symbols attend to patches as well, and
patches have absolute places. Without symbols (`symbols=False`) a learned constant replaces them; the network still gets
c.

Good values: `Recipe(batch=32, optimiser="muon", learning_rate=5e-3, epochs=12)` (docs/choosing.md shows the gain).

References:
    | PROSE-FD: A Multimodal PDE Foundation Model for Learning Multiple Operators for Forecasting Fluid Dynamics (Liu et
      al., 2024), https://arxiv.org/abs/2409.09811
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Adjusting, Batch, Observable, Prior, X, predicted
from sciinf.core.prior import global_seed
from sciinf.emulators._fields import OfFields, rolled
from sciinf.emulators.losses import RelativeL2
from sciinf.emulators.multi_operator import FusedFrames, NoSymbols, SymbolReader, SymbolsAndFrames
from sciinf.simulators.dynamics.systems import SYMBOLS, Systems

_MOST = 128  # Limit of the rows of a family whose errors are kept.


@final
class MultiFluid(OfFields, Adjusting):
    """One network for families of systems of equations on a torus.

    Args:
        prior: The simulator's prior, which is that of the systems.
        observables: The simulator's observables.
        systems: The simulator's systems, which map parameters to equations. They must be the same as the simulator's,
            because the coefficients come from them alone.
        network: Sizes of the network; `SymbolsAndFrames(64, patch=4)` if None.
        target: Name of the observable that is predicted.
        given: Name of the frames that it starts from, (channels of a frame after those of another, y, x).
        symbols: Whether the network gets the symbols of the equations.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If names, layouts, the prior and the systems do not go together.
    """

    errors: Tensor
    counts: Tensor
    sizes: Tensor

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        systems: Systems,
        network: SymbolsAndFrames | None = None,
        *,
        target: str = "u",
        given: str = "frames",
        symbols: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, target, (given,), seed)
        told, families = network or SymbolsAndFrames(64, patch=4), len(systems.equations)
        if prior.names != systems.prior.names:
            raise ValueError(f"the systems' parameters are {systems.prior.names}, the simulator's {prior.names}")
        if self.channels != systems.fields or self.channels_given % self.channels:
            found = f"{given!r} and {target!r} have {self.channels_given} and {self.channels} channels"
            raise ValueError(f"{found}: systems of up to {systems.fields} fields need that many channels in each frame")
        if len(self.space) != 2 or any(points % told.patch for points in self.space):
            raise ValueError(f"{target!r} on {self.space} points is no torus of whole patches of {told.patch} points")
        self.systems, self.distance = systems, RelativeL2()
        with global_seed(torch.Generator().manual_seed(seed)):
            self.equation = SymbolReader(told, len(SYMBOLS)) if symbols else NoSymbols(told.width)
            self.network = FusedFrames(told, self.channels_given, (self.frames, self.channels), self.space)
        self.register_buffer("errors", torch.zeros(families, _MOST, *self.observables[target].shape))
        self.register_buffer("counts", torch.zeros(families, dtype=torch.long))
        self.register_buffer("sizes", torch.zeros(families, dtype=torch.float64))

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        true, frames = batch.x[self.target].to(self.target_mean), self.stacked(batch.x).to(self.target_mean)
        if self.training:
            far = torch.randint(max(self.space), (len(true), 2), generator=generator, device=generator.device)
            frames, true = rolled(frames, -far).contiguous(), rolled(true, -far).contiguous()
        mean, sd, there = self._level(batch.theta, frames)
        return self.distance(self._told(batch.theta, frames, mean, sd, there), (true - mean) / sd * there, directions=2)

    def predict(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch time channel y x"]:
        frames = self.stacked(given).to(self.target_mean)
        self._check(theta, frames)
        mean, sd, there = self._level(theta, frames)
        return mean * there + sd * self._told(theta, frames, mean, sd, there)

    def spread(self, theta: Float[Tensor, "batch theta"]) -> Float[Tensor, " batch"]:
        """The rms error of held-out rows of the family, over all channels that the simulator has.

        Raises:
            ValueError: If there was no held-out solution of a row's family.
        """
        number = self.systems.number(theta)
        if not bool(self.counts[number].all()):
            unknown = [name for name, count in zip(self.systems.equations, self.counts, strict=True) if not count]
            raise ValueError(
                f"no solution of {', '.join(unknown)} has checked this MultiFluid, so nobody knows what its "
                f"{self.target!r} is off by: train it on a store with such solutions, of which a part is held out"
            )
        return self.sizes[number].to(self.errors)

    def _check(self, theta: Tensor, frames: Tensor) -> None:
        """Refuse parameters and frames that the network would misinterpret.

        Raises:
            ValueError: If a row is of no family or has coefficients outside their ranges, or the number of frames or
                points differs from the training.
        """
        families, shape = len(self.systems.equations), (self.channels_given, *self.space)
        if not bool(((theta[:, 0] >= 0) & (theta[:, 0] <= families)).all()):
            raise ValueError(f"'family' is from 0 to {families}, got {theta[:, 0].tolist()[:5]}")
        if not bool(((theta[:, 1:] >= 0) & (theta[:, 1:] <= 1)).all()):
            raise ValueError("a share_... lies outside 0 to 1, so its coefficient is outside the range of the training")
        if tuple(frames.shape[1:]) != shape:
            raise ValueError(f"it needs frames {(len(theta), *shape)}, of all channels, got {tuple(frames.shape)}")

    @torch.no_grad()
    def draw(
        self, theta: Float[Tensor, "batch theta"], given: X, *, generator: torch.Generator
    ) -> Float[Tensor, "batch time channel y x"]:
        self.spread(theta)  # This raises an error that names families without held-out solutions.
        number, sd = self.systems.number(theta), self._level(theta, self.stacked(given).to(self.errors))[1]
        noise = torch.randn(len(theta), _MOST, generator=generator, device=generator.device).to(self.errors)
        off = torch.zeros(len(theta), *self.errors.shape[2:], device=noise.device)
        for k, count in enumerate(self.counts.tolist()):  # Missing errors are stored as 0.
            here = (number == k)[:, None] * noise / max(count, 1) ** 0.5
            off = off + (here @ self.errors[k].flatten(1)).unflatten(1, off.shape[1:])
        return predicted(self, Batch(theta, given)) + (sd * off).to(theta.device)

    @torch.no_grad()
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        """Keep the errors of predictions of held-out rows of each family."""
        parts = []
        for batch in batches():
            frames, true = self.stacked(batch.x).to(self.errors), batch.x[self.target].to(self.errors)
            mean, sd, there = self._level(batch.theta, frames)
            off, whole = (true - predicted(self, batch).to(true)) * there, (true - mean) / sd * there
            relative = self.distance(whole - off / sd, whole, directions=2)
            parts.append((self.systems.number(batch.theta), off / sd, off.square().flatten(1).mean(1), relative))
        number, errors, squares, relative = (torch.cat(part) for part in zip(*parts, strict=True))
        if not bool(relative.isfinite().all()):
            raise FloatingPointError("predictions of held-out solutions are not finite: train longer, or more stably")
        # The stored errors start at 0, and stay 0 for families without held-out rows.
        for known in (self.errors, self.counts, self.sizes):
            known.zero_()
        for k in set(number.tolist()):
            kept = errors[number == k][:_MOST]
            self.counts[k], self.errors[k, : len(kept)] = len(kept), kept
            self.sizes[k] = squares[number == k].double().mean().sqrt()
        return {"relative_error": float(relative.mean())}

    def _level(self, theta: Tensor, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and sd of each row's channels, and whether they exist, (batch, 1, channel, 1, 1)."""
        each = frames.unflatten(1, (-1, self.channels))
        mean = each.mean((1, 3, 4), keepdim=True)
        sd = (each - mean).square().mean((1, 3, 4), keepdim=True).sqrt().clamp_min(1e-6)
        return mean, sd, self.systems.there(theta)[:, None, :, None, None]

    def _told(self, theta: Tensor, frames: Tensor, mean: Tensor, sd: Tensor, there: Tensor) -> Tensor:
        """Output of the network, in units of the given frames, (batch, time, channel, y, x)."""
        tokens, values = self.systems.tokens(theta)
        symbols, read = self.equation(tokens, values.to(frames))
        fields = ((frames.unflatten(1, (-1, self.channels)) - mean) / sd * there).flatten(1, 2)
        told = torch.where(mean.abs() > 1e-4 * sd, mean, torch.zeros_like(mean))  # A mean from rounding is set to 0.
        level, known = torch.cat([told.flatten(1), sd.flatten(1)], 1), there.flatten(1)
        return self.network(fields, level, symbols, read, torch.cat([known, known], 1)) * there
