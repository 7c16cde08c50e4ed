r"""Slice sampling along lines, where each chain advances independently of the other chains.

From a position x, along a direction d, one update draws a level below log p(x) and a position above that level,

    l = log p(x) - e,   e ~ Exp(1),
    x' = x + t d,       t uniform on {t : log p(x + t d) >= l} as far as the interval below reaches,

by stepping out and shrinkage. An interval of width W is placed at random around t = 0. Its ends are moved outwards by W
until the density there is below the level. The ends are moved at most `most` - 1 times in total. This number is split
between the two ends at random, as in Neal's paper, so that the target stays invariant. Then t is drawn from the
interval; a draw below the level becomes the new end on its side, and t is drawn again. No update is rejected, and no
gradient is needed. Where the density is zero, log p = -inf, the slice ends.

Directions are the columns of a factor F of the target's covariance, in turn, or F z / |z| with z ~ N(0, I). Positions
are x = F w, so that the columns are the coordinates of w. F is estimated from the chains' positions in the warm-up. If
F is diagonal, its columns are the coordinates of x. A sweep is D updates. The warm-up has rounds of 1, 2, 4 and so on
sweeps. Each round ends with new widths, one for each target and direction (one for each target, if directions are
random). An end is placed at random and moved while the density there is above the level. So N updates move ends N_e
times with E[N_e] = N E|S| / W, for slices of length |S|, and the update

    W <- W (N_e + 1) / (N + 1)

makes the width about equal to the length of the slice. Rounds in the first four fifths of the warm-up also end with a
new F.

Chains need not wait for each other. Each chain is in a phase (left end, right end, shrinking) of its own update, and
one evaluation advances every chain by one move of its phase. Only chains that have made all their sweeps wait for the
slowest chain.

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

_LEFT, _RIGHT, _SHRINK = 0, 1, 2  # Phases of an update: each says what the chain's next evaluation tests.
_WIDTH = 2.5  # Initial width, about the mean length of a slice of a standard Gaussian.
_SHRINKAGES = 200  # After so many shrinkages the interval has no length, and the chain keeps its position.
_GLANCE = 8  # Number of evaluations between two checks whether all chains are done.


class Slice(Sampler):
    """Slice sampling, for few dimensions and for densities with hard bounds. It needs no gradient and no step size.

    Args:
        warmup: Number of adaptation sweeps, at least 5. Their positions are discarded. Fewer chains need more sweeps:
            15 are enough for a dozen chains, and one chain needs 60.
        thin: Thinning factor: the position after every `thin`-th sweep is kept.
        random_directions: Whether directions are random. False takes one dimension after the other.
        dense: Whether directions follow the full covariance. False uses only its diagonal.
        most: Largest length of an interval after stepping out, in widths, at least 4. Shorter intervals would say
            little about the length of the slice.

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
        """Lines along the columns of a factor of the draws' covariance, or of its diagonal if not `dense`."""
        moments = Moments(draws[0])
        moments.add(draws.flatten(0, 1))
        covariance = moments.covariance()
        if not self.dense:
            covariance = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))
        metric = lines.metric.updated(covariance)
        change = (lines.metric.factor / metric.factor).diagonal(dim1=-2, dim2=-1)
        if self.random_directions:
            change = change.log().mean(dim=-1, keepdim=True).exp()
        return _Lines(metric, lines.width * change, lines.most)  # The widths are rescaled to be unchanged in x.


@dataclass(frozen=True)
class _Done:
    """Result of a number of sweeps of all chains.

    Attributes:
        draws: Positions that were kept, (n, chains, batch, D).
        value: Log densities at the last positions, (chains, batch).
        growths: Number of times that ends were moved outwards, summed over chains, (batch, widths).
        shrinkages: Number of shrinkages, summed over chains, (batch, widths).
    """

    draws: Tensor
    value: Tensor
    growths: Tensor
    shrinkages: Tensor


@dataclass(frozen=True)
class _Lines:
    """Directions of the updates, and the widths of their first intervals.

    Attributes:
        metric: Factor F, whose columns are the directions, or which scales random directions.
        width: Width along each direction, (batch, D), or one width for random directions, (batch, 1).
        most: Largest length of an interval, in widths.
    """

    metric: Metric
    width: Tensor
    most: int

    def tuned(self, done: _Done, updates: int) -> _Lines:
        """Lines with new widths, estimated from the growths in `updates` updates along each direction."""
        return _Lines(self.metric, self.width * ((done.growths + 1) / (updates + 1)).to(self.width), self.most)

    def axis(self, turn: Tensor) -> Tensor:
        """Index of the width that each chain's update number `turn` uses, (chains, batch)."""
        return turn % self.width.shape[-1]

    def directions(self, turn: Tensor, generator: torch.Generator) -> Tensor:
        """Vectors of the chains' next directions, each one width long, (chains, batch, D)."""
        factor, axis = self.metric.factor, self.axis(turn)
        batch, dim = factor.shape[:2]
        rows = torch.arange(batch, device=turn.device)
        width = self.width[rows, axis][..., None]
        if self.width.shape[-1] == dim:
            return factor.mT[rows, axis] * width
        z = torch.randn(*turn.shape, dim, generator=generator, dtype=factor.dtype, device=turn.device)
        return self.metric.stretch(z / z.norm(dim=-1, keepdim=True)) * width


class _SliceState:
    """State of every chain within its updates. The coordinate t along a line is in units of the width.

    Args:
        begin: First positions, (chains, batch, D), and their log densities.
        lines: Directions and widths.
        total: Number of updates that every chain makes.
        generator: Source of all randomness.
    """

    def __init__(self, begin: tuple[Tensor, Tensor], lines: _Lines, total: int, generator: torch.Generator) -> None:
        self.x, self.value = begin
        self.lines, self.total, self.generator = lines, total, generator
        self.turn = torch.zeros_like(self.value, dtype=torch.long)  # Number of finished updates.
        self.level, self.direction = self.value, self.x
        self.left = self.right = self.value
        self.room_left = self.room_right = self.phase = self.tries = self.turn
        self._open(torch.ones_like(self.turn, dtype=torch.bool))

    def _uniform(self, count: int) -> Tensor:
        x = self.value
        return torch.rand(count, *x.shape, generator=self.generator, dtype=x.dtype, device=x.device)

    def _open(self, fresh: Tensor) -> None:
        """Begin a new update in the chains for which `fresh` is true."""
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
        """Phases of the chains, moved on past an end that has no moves left."""
        phase = phase.masked_fill((phase == _LEFT) & (self.room_left == 0), _RIGHT)
        return phase.masked_fill((phase == _RIGHT) & (self.room_right == 0), _SHRINK)

    def candidate(self) -> tuple[Tensor, Tensor]:
        """Coordinate t, (chains, batch), and position that each chain evaluates next."""
        inside = self.left + self._uniform(1)[0] * (self.right - self.left)
        t = torch.where(self.phase == _LEFT, self.left, torch.where(self.phase == _RIGHT, self.right, inside))
        return t, self.x + t[..., None] * self.direction

    def advance(self, t: Tensor, x: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Advance all chains by one move, given the log densities `value` at the candidates.

        Returns:
            Which chains moved an end, which chains shrank their interval, and which chains finished an update.
        """
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
    """Run sweeps of all chains.

    `sweeps` is the number of positions to keep, and the number of sweeps before each of them.
    """
    (x, _), (n, thin) = begin, sweeps
    every = thin * x.shape[-1]
    walk = _SliceState(begin, lines, n * every, generator)
    draws = x.new_empty(n + 1, *x.shape)  # The last row receives the positions that are not kept.
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
    """Number of sweeps of each round of the warm-up, and whether the factor F is adapted after the round."""
    rest = max(warmup // 5, 1)
    left, size, sizes = warmup - rest, 1, []
    while left >= 3 * size:
        sizes.append(size)
        left, size = left - size, 2 * size
    sizes.append(left)
    return [(size, True) for size in sizes] + [(size, False) for size in (rest - rest // 2, rest // 2) if size]
