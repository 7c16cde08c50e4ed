r"""Slice sampling along lines, every chain at its own pace.

From a position x, along a direction d, one update draws a level below log p(x) and a position above that level,

    l = log p(x) - e,   e ~ Exp(1),
    x' = x + t d,       t uniform on {t : log p(x + t d) >= l} as far as the interval below reaches,

by stepping out and shrinkage: an interval of width W is laid at random around t = 0, its ends are moved outwards by W
until they are below the level (at most `most` - 1 times altogether, split between the two ends at random, as Neal has
it, so that the target stays invariant), and t is drawn from it, a draw below the level becoming the new end on its
side. Nothing is rejected, no gradient is asked for, and where the density ends, log p = -inf, the slice ends too.

Directions are the columns of a factor F of the target's covariance (positions x = F w, so these are the coordinates
of w), in turn, or F z / |z| with z ~ N(0, I). F comes from the chains' positions in the warm-up, or is the diagonal of
scales alone, for which the former are the coordinates themselves. A sweep is D updates. Warm-up is in rounds of 1, 2,
4, ... sweeps. Each ends with new widths, per target and direction (one width, if directions are random). As an end is
moved while it is above the level, and was laid at random, N updates move ends N_e times with E[N_e] = N E|S| / W, for
slices of length |S|; so that

    W <- W (N_e + 1) / (N + 1)

makes the width that of the slice, about. All but the last fifth of the rounds also end with a new F.

Chains need not wait for each other: each is in a state (left end, right end, shrinking) of an update of its own, and
one evaluation moves every chain on by one such move. Only those that have made all their sweeps wait for the last.

References:
    | Slice Sampling (Neal, 2003), https://doi.org/10.1214/aos/1056562461
    | Automated Factor Slice Sampling (Tibbits et al., 2014), of directions from the covariance,
      https://doi.org/10.1080/10618600.2013.791193
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sciinf.core.checks import check_whole
from sciinf.simulators.samplers.adaptation import Metric, Moments, first_metric
from sciinf.simulators.samplers.chains import Chains, LogDensity, Sampler
from sciinf.simulators.samplers.target import Target, check_begin, check_call

_LEFT, _RIGHT, _SHRINK = 0, 1, 2  # what a chain's next evaluation is for
_WIDTH = 2.5  # of a slice of a standard Gaussian, about
_SHRINKAGES = 200  # after so many the interval has no length left, and the chain stays where it is
_GLANCE = 8  # evaluations between two looks at whether all chains are done


class Slice(Sampler):
    """Slice sampling: needs no gradient and no step size; for few dimensions and for densities with hard bounds.

    Args:
        warmup: Sweeps of adaptation, at least 5; they are not kept. The fewer the chains, the more of them it takes:
            15 are enough for a dozen chains, and 60 for one.
        thin: Keep the position after every `thin`-th sweep.
        random_directions: Directions at random; False for one dimension after the other.
        dense: Take dimensions, or spread random directions, as the covariance has it; False for its diagonal.
        most: Widths that an interval may reach by stepping out, at least 4, or it would say little about the slice.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        warmup: int = 100,
        thin: int = 1,
        *,
        random_directions: bool = False,
        dense: bool = True,
        most: int = 50,
    ) -> None:
        check_whole("warmup", warmup, 5)
        check_whole("thin", thin, 1)
        check_whole("most", most, 4)
        self.warmup, self.thin, self.most = warmup, thin, most
        self.random_directions, self.dense = random_directions, dense

    def draw(self, log_density: LogDensity, start: Tensor, n: int, *, generator: torch.Generator) -> Chains:
        check_call(start, n, generator)
        target, x = Target(log_density), start.detach()
        value = target.value(x)
        check_begin(value.isfinite(), "the log density")
        lines = _Lines(first_metric(x, dense=True), x.new_full((x.shape[1], self._widths(x)), _WIDTH), self.most)
        for sweeps, adapt in rounds(self.warmup):
            done = _run(target, (x, value), lines, (sweeps, 1), generator)
            x, value = done.draws[-1], done.value
            lines = lines.tuned(done, sweeps * x.shape[0] * x.shape[2] // lines.width.shape[1])
            if adapt:
                lines = self._turned(lines, done.draws)
        done = _run(target, (x, value), lines, (n, self.thin), generator)
        updates = n * self.thin * x.shape[0] * x.shape[2]
        return Chains(done.draws, updates / (updates + done.shrinkages.sum(dim=-1)).to(x.dtype), target.evaluations)

    def _widths(self, x: Tensor) -> int:
        return 1 if self.random_directions else x.shape[-1]

    def _turned(self, lines: _Lines, draws: Tensor) -> _Lines:
        """Lines along the covariance of these draws, or along the dimensions in the scales that it has."""
        moments = Moments(draws[0])
        moments.add(draws.flatten(0, 1))
        covariance = moments.covariance()
        if not self.dense:
            covariance = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
        metric = lines.metric.updated(covariance)
        change = (lines.metric.factor / metric.factor).diagonal(dim1=-2, dim2=-1)
        if self.random_directions:
            change = change.log().mean(dim=-1, keepdim=True).exp()
        return _Lines(metric, lines.width * change, lines.most)  # the widths stay as they are in x


@dataclass(frozen=True)
class _Done:
    """Positions kept, (n, chains, batch, D), log densities at the last, and counts of all chains, (batch, widths)."""

    draws: Tensor
    value: Tensor
    growths: Tensor
    shrinkages: Tensor


@dataclass(frozen=True)
class _Lines:
    """The factor, whose columns are directions, and widths along them, (batch, D); or (batch, 1), of random ones."""

    metric: Metric
    width: Tensor
    most: int

    def tuned(self, done: _Done, updates: int) -> _Lines:
        """Widths that are the mean length of the slices in that many updates along each."""
        return _Lines(self.metric, self.width * ((done.growths + 1) / (updates + 1)).to(self.width), self.most)

    def axis(self, turn: Tensor) -> Tensor:
        """Which width the chains' update number `turn` uses, (chains, batch)."""
        return turn % self.width.shape[-1]

    def directions(self, turn: Tensor, generator: torch.Generator) -> Tensor:
        """One width along the chains' next lines, (chains, batch, D)."""
        factor, axis = self.metric.factor, self.axis(turn)
        batch, dim = factor.shape[:2]
        rows = torch.arange(batch, device=turn.device)
        width = self.width[rows, axis][..., None]
        if self.width.shape[-1] == dim:
            return factor.mT[rows, axis] * width
        z = torch.randn(*turn.shape, dim, generator=generator, dtype=factor.dtype, device=turn.device)
        return self.metric.stretch(z / z.norm(dim=-1, keepdim=True)) * width


class _SliceState:
    """Where every chain is in its updates; t counts widths.

    Args:
        begin: Positions, (chains, batch, D), and log densities there.
        lines: Directions and widths.
        total: Updates for every chain to make.
        generator: Source of all randomness.
    """

    def __init__(self, begin: tuple[Tensor, Tensor], lines: _Lines, total: int, generator: torch.Generator) -> None:
        self.x, self.value = begin
        self.lines, self.total, self.generator = lines, total, generator
        self.turn = torch.zeros_like(self.value, dtype=torch.long)  # updates made
        self.level, self.direction = self.value, self.x
        self.left = self.right = self.value
        self.room_left = self.room_right = self.phase = self.tries = self.turn
        self._open(torch.ones_like(self.turn, dtype=torch.bool))

    def _uniform(self, count: int) -> Tensor:
        x = self.value
        return torch.rand(count, *x.shape, generator=self.generator, dtype=x.dtype, device=x.device)

    def _open(self, fresh: Tensor) -> None:
        """Begin a new update in the chains where `fresh` is true."""
        u = self._uniform(3)
        level, left = self.value + torch.log1p(-u[0]), -u[1]
        room = (u[2] * self.lines.most).long().clamp_max(self.lines.most - 1)
        direction = self.lines.directions(self.turn, self.generator)
        self.level = torch.where(fresh, level, self.level)
        self.direction = torch.where(fresh[..., None], direction, self.direction)
        self.left, self.right = torch.where(fresh, left, self.left), torch.where(fresh, left + 1, self.right)
        self.room_left = torch.where(fresh, room, self.room_left)
        self.room_right = torch.where(fresh, self.lines.most - 1 - room, self.room_right)
        self.tries = self.tries.masked_fill(fresh, 0)
        self.phase = self._passed(self.phase.masked_fill(fresh, _LEFT))

    def _passed(self, phase: Tensor) -> Tensor:
        """Phases without those ends that may not move any more."""
        phase = phase.masked_fill((phase == _LEFT) & (self.room_left == 0), _RIGHT)
        return phase.masked_fill((phase == _RIGHT) & (self.room_right == 0), _SHRINK)

    def candidate(self) -> tuple[Tensor, Tensor]:
        """t of the position that each chain asks for next, (chains, batch), and the position."""
        inside = self.left + self._uniform(1)[0] * (self.right - self.left)
        t = torch.where(self.phase == _LEFT, self.left, torch.where(self.phase == _RIGHT, self.right, inside))
        return t, self.x + t[..., None] * self.direction

    def advance(self, t: Tensor, x: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Go on with the log densities there; which chains moved an end, shrank, and finished an update."""
        busy, above, phase = self.turn < self.total, value >= self.level, self.phase
        grown_left, grown_right = busy & above & (phase == _LEFT), busy & above & (phase == _RIGHT)
        self.left, self.right = self.left - grown_left.to(t), self.right + grown_right.to(t)
        self.room_left, self.room_right = self.room_left - grown_left.long(), self.room_right - grown_right.long()
        ended = ~above & (phase != _SHRINK)
        missed, found = busy & ~above & (phase == _SHRINK), busy & above & (phase == _SHRINK)
        self.left = torch.where(missed & (t < 0), t, self.left)
        self.right = torch.where(missed & (t >= 0), t, self.right)
        self.tries = self.tries + missed.long()
        self.x, self.value = torch.where(found[..., None], x, self.x), torch.where(found, value, self.value)
        finished = found | (missed & (self.tries >= _SHRINKAGES))
        self.turn = self.turn + finished.long()
        self.phase = self._passed(phase + ended.long())
        self._open(finished)
        return grown_left | grown_right, missed, finished


def _run(
    target: Target, begin: tuple[Tensor, Tensor], lines: _Lines, sweeps: tuple[int, int], generator: torch.Generator
) -> _Done:
    """`sweeps` is how many positions to keep, and after how many sweeps each."""
    (x, _), (n, thin) = begin, sweeps
    every = thin * x.shape[-1]
    walk = _SliceState(begin, lines, n * every, generator)
    draws = x.new_empty(n + 1, *x.shape)  # the last row is for what is not kept
    widths = torch.arange(lines.width.shape[-1], device=x.device)
    growths = shrinkages = torch.zeros_like(lines.width, dtype=torch.long)
    asked = 0
    while asked % _GLANCE or bool((walk.turn < walk.total).any()):
        asked += 1
        along = lines.axis(walk.turn)[..., None] == widths
        t, position = walk.candidate()
        grown, missed, finished = walk.advance(t, position, target.value(position))
        growths = growths + (along & grown[..., None]).sum(dim=0)
        shrinkages = shrinkages + (along & missed[..., None]).sum(dim=0)
        row = torch.where(finished & (walk.turn % every == 0), walk.turn // every - 1, n)
        draws.scatter_(0, row[None, ..., None].expand(1, *x.shape), walk.x[None])
    return _Done(draws[:n], walk.value, growths, shrinkages)


def rounds(warmup: int) -> list[tuple[int, bool]]:
    """Sweeps of each round of the warm-up, and whether the factor is adapted after it."""
    rest = max(warmup // 5, 1)
    left, size, sizes = warmup - rest, 1, []
    while left >= 3 * size:
        sizes.append(size)
        left, size = left - size, 2 * size
    sizes.append(left)
    return [(size, True) for size in sizes] + [(size, False) for size in (rest - rest // 2, rest // 2) if size]
