r"""Shared part of estimators that learn to remove noise from parameters, given an observation.

With z = z(theta) standardised (`_standardised`), noise e ~ N(0, I) and a level s, the network learns the denoiser

    D(y, s; x) = E[z | y, x],    y = z + s e,

whose score, grad log p_s(y | x) = (D - y) / s^2, leads from noise to draws of the posterior
(`networks.diffusion.solver`).

**The linear guess.** Least squares over the training rows gives the best linear guess N(m(x), S) of z, with
m(x) = b + A x (`_linear`). The network F learns what the guess leaves (`_gaussian`): if parameters and data are
jointly Gaussian, F = 0 is right. Levels are drawn relative to the sds of S, and scores have no 1/s^2, because sums of
many scores have low levels. F also sees y / sqrt(1 + s^2), for parts that do not move with m. Paths start at
N(D(m, s_1), S + s_1^2 I), s_1 the largest level, where D(m, s_1) is nearly E[z | x].

**Scaling by held-out rows.** F is fitted to noise, too. If parameters and data are nearly Gaussian, F learns little
else, and the sum of many scores suffers from it. The loss is a parabola a - 2 b c + k c^2 in a factor c of F. Over
held-out rows it is least at c = b / k, known to a variance v from how rows differ. The network is scaled by the
posterior mean of c, whose prior is N(1, 1/4):

    c = (b / k + 4 v) / (1 + 4 v), in 0..1.

Without the linear guess (`linear=False`) D follows from F by a parameterisation of `networks.diffusion.objective`.

**Draws by equations with and without noise** agree only if scores of all levels are those of one density
(`networks.diffusion.fokker_planck`). With `consistency` training also lowers the distance from this condition, on an
eighth of the rows, to close the gap between the two kinds of draws.

**Guided draws.** With `dropped`, the network sees no observation for that share of the training rows, so that it
learns the prior, too. `DenoisedDensity.guided` then draws away from the prior (`networks.diffusion.guidance`). Such
draws are sharper, and no posterior.

References:
    | Closing the ODE-SDE gap in score-based diffusion models through the Fokker-Planck equation (Deveney et al.,
      2023), https://arxiv.org/abs/2311.15996
    | Classifier-Free Diffusion Guidance (Ho & Salimans, 2022), https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Adjusting, Batch, Density, Learns, Observable, Prior, X
from sciinf.core.checks import check_from_zero, check_positive, check_whole
from sciinf.core.estimator import PushedDensity
from sciinf.core.prior import global_seed
from sciinf.core.summary import Summary
from sciinf.networks.diffusion.fokker_planck import FEW, penalty, score_of
from sciinf.networks.diffusion.guidance import Guided
from sciinf.networks.diffusion.likelihood import EXACT, log_density
from sciinf.networks.diffusion.objective import Diffusion
from sciinf.networks.diffusion.solver import Denoiser, Solver, noise_like
from sciinf.networks.modulated import Modulated
from sciinf.networks.preserving import Preserving
from sciinf.training.estimators._embedded import Embedded
from sciinf.training.estimators._gaussian import check_beside
from sciinf.training.estimators._linear import LinearGuess
from sciinf.training.estimators._standardised import check_part, in_chunks
from sciinf.training.memory import retain_freed

_DRAWN = 16_384  # The factor of F uses at least this many held-out levels, by at most 16 passes over the rows.
_SHARE = 8  # One row in this many is compared with the Fokker-Planck equation.
_LOWEST = 0.05  # Training draws few levels below this share of det(S)^{1/2D}, so F is taken at this level there.


@dataclass(frozen=True)
class Design:
    """Settings of an estimator that denoises.

    Attributes:
        diffusion: Diffusion path, with the network's parameterisation and the weighting and distribution of noise
            levels.
        solver: Solver by which draws are made.
        linear: Whether the network learns only what the best linear guess leaves, as above.
        hidden: Width of the network.
        blocks: Residual blocks of the network.
        consistency: Weight of the Fokker-Planck penalty; 0 for none.
        dropped: Share of the training rows for which the network sees no observation.
        preserving: Whether the layers preserve magnitudes (`networks.preserving`).
    """

    diffusion: Diffusion
    solver: Solver
    linear: bool
    hidden: int
    blocks: int
    consistency: float = 0.0
    dropped: float = 0.0
    preserving: bool = False


class Denoising(Embedded, Adjusting, ABC):
    """An estimator that learns the posterior by denoising parameters.

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator.
        summary: Summary networks, see `Embedded`.
        design: Settings of the denoiser.
        seed: Seeds the initial weights.
        together: Whether columns of one table share a network, see `Embedded`.

    Attributes:
        solver: Solver by which draws are made. It may be replaced on a trained estimator.

    Raises:
        TypeError: If a part has the wrong type.
        ValueError: If a number is out of range, or `linear` is combined with `dropped`, or with another
            parameterisation or weighting.
    """

    learns: Learns = "noise"

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        summary: Summary | Mapping[str, Summary] | None,
        design: Design,
        seed: int,
        *,
        together: bool,
    ) -> None:
        super().__init__(prior, observables, summary, seed, together=together)
        self.guess = LinearGuess(prior.bijection.size, self.observables if design.linear else {})
        check_part("diffusion", design.diffusion, Diffusion, "Diffusion(Level())")
        check_part("solver", design.solver, Solver, "Exponential(20)")
        check_from_zero("consistency", design.consistency, math.inf)
        check_from_zero("dropped", design.dropped, 1)
        if not isinstance(design.preserving, bool):
            raise ValueError(f"preserving is True or False, got {design.preserving!r}")
        check_positive(hidden=design.hidden, blocks=design.blocks)
        if design.linear:
            check_beside(design.diffusion, "pass linear=False with it")
            if design.dropped:
                raise ValueError("the linear guess knows every observation: pass linear=False with dropped")
        self.diffusion, self.solver, self.linear = design.diffusion, design.solver, design.linear
        self.consistency, self.dropped = design.consistency, design.dropped
        with global_seed(torch.Generator().manual_seed(seed)):
            width = self.build_summaries() + bool(self.dropped)
            size = prior.bijection.size
            network = Preserving if design.preserving else Modulated
            self.network = network((1 + self.linear) * size, size, width, design.hidden, design.blocks)

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.standardise_both(batches)
        if self.linear:
            self.guess.fit(lambda: ((self.to_z(batch.theta), self.standardise_x(batch.x)) for batch in batches()))

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        if self.linear:
            loss = self.guess.spread().loss(*self._asked(batch, generator))
        else:
            z, values = self.to_z(batch.theta), self.standardise_x(batch.x)
            prepared = self.network.prepare(self._some_dropped(self.told(values, batch.x), generator))
            loss = self.diffusion.loss(lambda v, log: self.network(v, log, prepared), z, generator=generator)
        if not (self.consistency and self.training):
            return loss
        some = slice(0, -(-len(loss) // _SHARE))
        extra = self._inconsistency(batch.rows(some), generator)
        return torch.cat([loss[some] + self.consistency * len(loss) / len(extra) * extra, loss[some.stop :]])

    def told(self, values: X, x: X) -> Float[Tensor, "batch feature"]:
        """Features of rows. If some rows are dropped in training, a last feature tells whether a row is dropped."""
        features = self.summarise(values, x)
        return torch.cat([features, torch.zeros_like(features[:, :1])], -1) if self.dropped else features

    def told_nothing(self, rows: int) -> Float[Tensor, "batch feature"]:
        """Features of dropped rows, for which the network sees no observation.

        Raises:
            ValueError: If no row was dropped in training, so that the network does not know the prior.
        """
        if not self.dropped:
            raise ValueError(
                "draws are guided by a network that knows the prior, too: train Score(..., dropped=0.1, linear=False)"
            )
        return torch.eye(self.network.features, device=self.z_mean.device)[-1].expand(rows, -1)

    def _some_dropped(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Features in which, during training, a random share of the rows is dropped."""
        if not (self.dropped and self.training):
            return features
        kept = torch.rand(len(features), 1, generator=generator, device=generator.device).to(features) >= self.dropped
        return torch.where(kept, features, self.told_nothing(len(features)))

    def _inconsistency(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Distance of scores from those of one density under noise, at the levels that training draws."""
        z, values, path = self.to_z(batch.theta), self.standardise_x(batch.x), self.diffusion.schedule
        prepared, mean = self.network.prepare(self.told(values, batch.x)), self.guess(values)
        noise, level, _ = self.diffusion.noise(z, generator)
        level = self.guess.spread().levels(level, generator).clamp(path.least, path.most) if self.linear else level
        score = score_of(lambda y, s: self.denoise(y, s, mean, prepared))
        return penalty(score, z + level[:, None] * noise, level, generator if z.shape[1] > FEW else None)

    def _asked(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """F at training levels, y - m, z - m and the levels."""
        z, values, path = self.to_z(batch.theta), self.standardise_x(batch.x), self.diffusion.schedule
        prepared = self.network.prepare(self.summarise(values, batch.x))
        noise, level, _ = self.diffusion.noise(z, generator)
        level = self.guess.spread().levels(level, generator).clamp(path.least, path.most)
        mean, y = self.guess(values), z + level[:, None] * noise
        return self._left(y, level, mean, prepared), y - mean, z - mean, level

    @torch.no_grad()
    def adjust(self, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
        if not self.linear:
            return {}
        self.eval()
        generator = torch.Generator(self.z_mean.device).manual_seed(0)
        passes, drawn = [], 0
        while len(passes) < 16 and drawn < _DRAWN:
            passes.append(torch.cat([self._parabola(batch, generator) for batch in batches()]))
            drawn += len(passes[0])
        slope, curve = torch.stack(passes).mean(0).double().unbind(-1)
        total = curve.sum().clamp_min(1e-12)
        factor = slope.sum() / total
        variance = (slope - factor * curve).square().sum() / total**2
        share = ((factor + 4 * variance) / (1 + 4 * variance)).clamp(0, 1)
        self.network.scale(float(share))
        return {"share": float(share)}

    def _parabola(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "batch 2"]:
        """b and k of each row, at its own random level."""
        left, *rest = self._asked(batch, generator)
        below, at, above = (self.guess.spread().loss(c * left, *rest) for c in (-1, 0, 1))
        return torch.stack([(below - above) / 4, (below + above) / 2 - at], dim=1)

    def condition(self, x: X) -> DenoisedDensity:
        retain_freed()
        with torch.no_grad():
            data = {name: value.to(self.z_mean.device) for name, value in x.items()}
            values = self.standardise_x(data)
            kind = _Pushed if self.solver.pushes else _Solved
            return kind(self, self.guess(values), self.network.prepare(self.told(values, data)))

    def denoise(self, y: Tensor, level: Tensor, mean: Tensor, prepared: Tensor) -> Tensor:
        """D at y (*n, batch, D) and a level of shape () or (*n, batch)."""
        if not self.linear:
            return self.diffusion.denoise(lambda v, log: self.network(v, log, prepared), y, level)
        left = self._left(y, level, mean, prepared)
        return mean + self.guess.spread().denoised(left, y - mean, level)

    def score(self, y: Tensor, level: Tensor, mean: Tensor, prepared: Tensor) -> Tensor:
        """The score (D - y) / s^2, computed so that small levels magnify no error.

        Training draws few levels below a twentieth of det(S)^{1/2D}. Below that level, F is taken as it is at that
        level.
        """
        spread = self.guess.spread()
        floor = level.clamp_min(_LOWEST * float(spread.scale()))
        if not self.linear:
            return (self.denoise(y, floor, mean, prepared) - y) / floor[..., None] ** 2
        return spread.score(self._left(y, floor, mean, prepared), y - mean, level)

    def _left(self, y: Tensor, level: Tensor, mean: Tensor, prepared: Tensor) -> Tensor:
        """F, the network's output for what the guess leaves."""
        shown = [self.guess.spread().whitened(y - mean, level), y / (1 + level[..., None] ** 2).sqrt()]
        return self.network(torch.cat(shown, dim=-1), level.log(), prepared)


class DenoisedDensity(Density, ABC):
    """The posterior of each of a batch of observations, from guessed means (batch, D) and prepared features."""

    def __init__(self, estimator: Denoising, mean: Tensor, prepared: Tensor) -> None:
        self.estimator, self.mean, self.rows = estimator, mean, len(mean)
        self._prepared = prepared

    def denoise(
        self, y: Float[Tensor, "*n batch dim"], level: Float[Tensor, "*level"]
    ) -> Float[Tensor, "*n batch dim"]:
        """E[z | z + s e = y, x] for each observation, at a level of shape () or (*n, batch)."""
        return self.estimator.denoise(y, level, self.mean, self._prepared)

    def score(
        self, y: Float[Tensor, "*n batch dim"], level: Tensor, some: Tensor | None = None
    ) -> Float[Tensor, "*n batch dim"]:
        """grad log p_s(y | x) of each observation, or of those in `some`, at its own points y.

        The level has a shape as for `denoise`.
        """
        chosen = slice(None) if some is None else some
        return self.estimator.score(y, level, self.mean[chosen], self._prepared[chosen])

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        return self.estimator.to_theta(self.draw(n, generator))

    @torch.no_grad()
    def guided(
        self, n: int, weight: float, *, generator: torch.Generator, interval: tuple[float, float] | None = None
    ) -> Float[Tensor, "n batch theta"]:
        """Draws guided away from the prior. They are sharper for a weight above 1.

        They are **no posterior** unless the weight is 1, where they equal those of `sample`. No answer, report or
        calibration uses them.

        Args:
            n: Number of draws.
            weight: w of `networks.diffusion.guidance`: 0 draws from the prior, 1 from the posterior.
            generator: Generator for the noise.
            interval: Lowest and highest level at which draws are guided. Default: all levels.

        Raises:
            ValueError: If the estimator was trained without `dropped`, n is below 1, the weight is not finite, or the
                interval is no interval.
        """
        check_whole("n", n, 1)
        owner, start = self.estimator, self._start()
        prior = owner.network.prepare(owner.told_nothing(self.rows))
        guided = Guided(self.denoise, lambda y, s: owner.denoise(y, s, self.mean, prior), weight, interval)
        parts = [self._moved(start, self._noise(size, generator), generator, guided) for size in self._sizes(n)]
        return owner.to_theta(torch.cat(parts))

    @torch.no_grad()
    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "n batch dim"]:
        """Draws of z, the standardised parameters."""
        start, parts = self._start(), [self.mean.new_empty(0, *self.mean.shape)]
        for size in self._sizes(n):
            parts.append(self._moved(start, self._noise(size, generator), generator))
        return torch.cat(parts)

    def _sizes(self, n: int) -> list[int]:
        """Sizes of the pieces in which n draws are made."""
        return [last - first for first, last in in_chunks(n, self.rows, self.mean.device)]

    def _noise(self, n: int, generator: torch.Generator) -> Float[Tensor, "n batch dim"]:
        return noise_like(self.mean.expand(n, *self.mean.shape), generator)

    def _moved(
        self,
        start: Tensor,
        noise: Float[Tensor, "n batch dim"],
        generator: torch.Generator,
        denoise: Denoiser | None = None,
    ) -> Float[Tensor, "n batch dim"]:
        """Turn noise into draws of z, from the mean at the highest level; optionally with another denoiser."""
        owner, path = self.estimator, self.estimator.diffusion.schedule
        y = start + owner.guess.spread().noisy(noise, path.most)
        return owner.solver.solve(denoise or self.denoise, y, path, generator=generator)

    @torch.no_grad()
    def _start(self) -> Float[Tensor, "batch dim"]:
        """The posterior mean at the highest noise level."""
        return self.denoise(self.mean, self.mean.new_tensor(self.estimator.diffusion.schedule.most))

    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """Log density by the probability flow. Above 32 parameters the trace is estimated, the same at each call."""
        return self.estimator.log_density(theta, self.rows, self._log_density)

    def _log_density(self, z: Tensor) -> Tensor:
        generator = torch.Generator(z.device).manual_seed(0) if z.shape[-1] > EXACT else None
        path, spread = self.estimator.diffusion.schedule, self.estimator.guess.spread()
        start = self._start()

        def ending(y: Tensor) -> Tensor:
            return spread.log_prob(y - start, path.most)

        return log_density(self.denoise, z, path, ending=ending, generator=generator)


@final
class _Solved(DenoisedDensity):
    """Density whose solver adds noise on the way, or looks at all rows at once."""


@final
class _Pushed(DenoisedDensity, PushedDensity):
    """Density each of whose draws is a deterministic function of its first noise alone."""

    def noise(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        pieces = [self._noise(size, generator) for size in self._sizes(n)]
        return torch.cat([self.mean.new_empty(0, *self.mean.shape), *pieces])

    @torch.no_grad()
    def push(self, noise: Float[Tensor, "n batch theta"]) -> Float[Tensor, "n batch theta"]:
        start, unused = self._start(), torch.Generator(noise.device)
        pieces = [self._moved(start, piece, unused) for piece in noise.split(self._sizes(len(noise)))]
        return self.estimator.to_theta(torch.cat([noise[:0], *pieces]))

    def within(
        self, n: int, theta: Float[Tensor, "more batch theta"], noise: Float[Tensor, "more batch theta"]
    ) -> Float[Tensor, "n batch theta"]:
        return theta[:n]

    def each(self) -> list[PushedDensity]:
        rows = zip(self.mean, self._prepared, strict=True)
        return [_Pushed(self.estimator, mean[None], prepared[None]) for mean, prepared in rows]

    def joined(self, others: Sequence[PushedDensity]) -> PushedDensity:
        all_of = [self, *(other for other in others if isinstance(other, _Pushed))]
        mean, prepared = (torch.cat(parts) for parts in ([o.mean for o in all_of], [o._prepared for o in all_of]))
        return _Pushed(self.estimator, mean, prepared)
