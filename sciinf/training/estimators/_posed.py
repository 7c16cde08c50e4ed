r"""Posterior from a conditional density given blurred poses: draws by Gibbs-like chains, and its density recovered.

**Chains.** p(theta, h | x), h = g(theta) e the blurred pose, is sampled by steps: h = g e with e ~ kappa, and theta ~
q(theta | x, h). A step is accepted by `Poses.log_ratio` (r), the part that the prior of an exact pose adds. The
Metropolis-Hastings ratio is r(theta) / r(theta before), because q is both the target without r and the proposal. Many
chains run side by side from the poses of a small flow. `simulators.samplers.gibbs` stops them.

**Density.** With poses g_1..g_M of the chains and the kernel's density k(h | g), the distribution of blurred poses is a
mixture whose draws and density are known. One pass of q gives the posterior's own, with R(h) = E_q[r(theta) | x, h]:

    theta, h ~ m(h) q(theta | x, h) r(theta) / R(h),    m(h) = mean_j k(h | g_j),
    log q(theta | x) = log r(theta) + log E_{h ~ k(. | g(theta))}[ m(h) q(theta | x, h) / (R(h) k(h | g(theta))) ].

R is smoothed over draws that are used for nothing else. An error of R changes the distribution a little. It changes
draws and density alike, if both are divided by the accepted share A. If q and the chains are right, the ratio is the
same for every h, so four draws of h are enough. All random numbers of this distribution are the same at each call.

**Weights.** For draws that are to be weighted nothing is rejected, and one of the four is the blurred pose that theta
was drawn with. The joint distribution of theta and all four is then known exactly, however much the ratio varies.

References:
    | Group equivariant neural posterior estimation (Dax et al., 2022), https://arxiv.org/abs/2111.13139
    | Neural importance sampling for rapid and reliable gravitational-wave inference (Dax et al., 2023),
      https://arxiv.org/abs/2210.05686, where a flow is fitted to blurred poses in place of the mixture
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import PairedDensity, X
from sciinf.core.doubts import doubt
from sciinf.core.estimator import Logs, Thetas
from sciinf.simulators.samplers.gibbs import Settled, run
from sciinf.training.estimators._standardised import check_rows, fill, in_chunks
from sciinf.training.memory import retain_freed

if TYPE_CHECKING:
    from sciinf.training.estimators.flow import Flow
    from sciinf.training.estimators.gnpe import GNPE

_BLURS = 4  # A density is a mean over this many blurred poses.
_SEEN = 0.02  # R is at least this share of the largest r, so that rarely accepted draws do not count too much.
_FAR = 50.0  # A draw this many nats less likely than the others has been rounded to the prior's edge.
_FIRST = 8  # After this many steps, stray chains are looked for.


@dataclass(frozen=True)
class PoseAverage:
    """R as a weighted mean over draws, whose weights fall with the distance of their blurred poses.

    Attributes:
        near: Coordinates of blurred poses in units of `unit`, (P, batch, c).
        ratio: r of the draws with these poses, (P, batch).
        unit: Unit of the coordinates, a third of the blur, (batch, c).
    """

    near: Tensor
    ratio: Tensor
    unit: Tensor

    def log(self, at: Float[Tensor, "n batch c"]) -> Float[Tensor, "n batch"]:
        """log R at coordinates of blurred poses."""
        if bool((self.ratio == self.ratio[:1]).all()):
            return self.ratio[:1].log().expand(at.shape[:2])
        parts = []
        for part in (at / self.unit).split(max(1, 4_000_000 // self.near.numel())):
            weight = -0.5 * (part[:, None] - self.near).square().sum(-1).clamp_max(600.0).double()
            parts.append((weight + self.ratio.log()).logsumexp(1) - weight.logsumexp(1))
        return torch.maximum(torch.cat(parts), (_SEEN * self.ratio.max(0).values).log())


@dataclass(frozen=True)
class PosedTerms:
    """Quantities from which draws and densities are computed.

    Attributes:
        last: Last positions of the chains, (M, batch, D).
        settled: Record of how the chains ended.
        expected: R.
        most: log of the ratio r / R above which draws are always accepted, (batch,).
        accepted: A, the accepted share, (batch,).
    """

    last: Tensor
    settled: Settled
    expected: PoseAverage
    most: Tensor
    accepted: Tensor


class PosedDensity(PairedDensity):
    """The posterior of each of a batch of observations, from chains of blurred poses."""

    def __init__(self, estimator: GNPE, start: Flow, x: X) -> None:
        self.estimator, self.start, self.x, self.poses = estimator, start, x, estimator.poses
        self.rows = len(next(iter(x.values())))
        self._device = next(iter(x.values())).device

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """Draws from the posterior, by rejection.

        Warns:
            UserWarning: If hardly any proposal lies within the prior. Positions of the chains then replace some draws.
        """
        found = self.recovered()

        def propose(need: int) -> tuple[Tensor, Tensor]:
            drawn, blurred = self._proposed(found.last, need, generator)
            draw = torch.rand(need, self.rows, generator=generator, device=generator.device, dtype=torch.float64)
            return drawn, draw.to(drawn.device).log() < self._gain(found.expected, drawn, blurred) - found.most

        theta, done = fill(self._chosen(found.last, n, generator), propose)
        if not bool(done.all()):
            doubt(
                f"{float((~done).double().mean()):.1%} of the draws are of the chains themselves, for nearly all of "
                "what their poses lead to lies outside the prior: look at the observation, or widen the prior",
                alarm=False,
                stacklevel=4,
            )
        return theta

    @torch.no_grad()
    def sample_to_weigh(self, n: int, *, generator: torch.Generator) -> tuple[Thetas, Logs]:
        found = self.recovered()
        theta, blurred = self._proposed(found.last, n, generator)
        log_r = self._log_mean(theta, found, generator, [blurred])
        lost = log_r < log_r.median(0).values - _FAR if n else log_r.bool()
        return theta, torch.where(lost, math.inf, log_r)

    @torch.no_grad()
    def log_prob_to_weigh(self, theta: Thetas, *, generator: torch.Generator) -> Logs:
        return self._log_mean(theta.to(self._device), self.recovered(), generator, [])

    @torch.no_grad()
    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        check_rows(theta, self.rows, self.estimator.prior)
        found, flat = self.recovered(), theta.to(self._device).reshape(-1, self.rows, theta.shape[-1])
        ratio = self.poses.log_ratio(flat)
        total = self._log_mean(flat, found, self._source(), [], ratio) - found.accepted.log()
        return torch.where(ratio == -math.inf, ratio, total).reshape(theta.shape[:-1])

    def _log_mean(
        self,
        theta: Tensor,
        found: PosedTerms,
        generator: torch.Generator,
        own: list[Tensor],
        ratio: Tensor | None = None,
    ) -> Float[Tensor, "n batch"]:
        """log of the mean density of one pass, over random blurred poses and those that theta was drawn with.

        If `ratio`, log r(theta), is given, the result is the density of accepted draws, times A.
        """
        poses, each = theta[..., self.poses.columns], []
        for blurred in own + [self._blurred(poses, generator) for _ in range(_BLURS - len(own))]:
            value = self._log_joint(theta, found, blurred)
            if ratio is not None:
                expected = found.expected.log(self.poses.coordinates(blurred))
                value = value + (ratio - expected - found.most).clamp_max(0.0)
            each.append(value)
        return torch.stack(each).logsumexp(0) - math.log(_BLURS)

    def recovered(self) -> PosedTerms:
        """The chains and the acceptance of draws made from their poses, kept for the last observations.

        Warns:
            UserWarning: If the chains have not settled.
        """
        key = self._key()
        found = self.estimator.kept.get(key)
        if found is None:
            found = self._recover()
            self.estimator.kept = {key: found}
        return found

    @torch.no_grad()
    def chains(
        self, poses: Float[Tensor, "chains batch k"], generator: torch.Generator, *, iterations: int | None = None
    ) -> tuple[Float[Tensor, "chains batch theta"], Settled]:
        """Chains from poses within the prior, and the record of how they ended.

        If `iterations` is given, the chains run for exactly this number of iterations.
        """
        prior, (count, rows) = self.estimator.prior, poses.shape[:2]
        others = prior.sample(count * rows, generator=torch.Generator().manual_seed(0)).to(poses)
        theta = self.poses.whole(others.reshape(count, rows, -1)[..., self.poses.rest], poses)
        if iterations is not None:
            for _ in range(iterations):
                theta = self.step(theta, generator)
            return theta, Settled(iterations, math.nan, math.nan, converged=False)

        def coordinates(position: Tensor) -> Tensor:
            return self.poses.coordinates(position[..., self.poses.columns])

        return run(lambda t: self.step(t, generator), theta, coordinates, most=self.estimator.iterations)

    @torch.no_grad()
    def step(self, theta: Float[Tensor, "n batch theta"], generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """Do one step of every chain."""
        new = self._pass(self._blurred(theta[..., self.poses.columns], generator), generator)
        draw = torch.rand(theta.shape[:-1], generator=generator, device=generator.device, dtype=torch.float64)
        gain = self.poses.log_ratio(new) - self.poses.log_ratio(theta)
        return torch.where((draw.to(gain).log() < gain)[..., None], new, theta)

    def _recover(self) -> PosedTerms:
        retain_freed()
        estimator, generator = self.estimator, self._source()
        count = estimator.chains if self.rows == 1 else max(16, estimator.chains // 8)
        first = self.start.condition(self.x).sample(count, generator=generator)
        theta, _ = self.chains(first, generator, iterations=_FIRST)
        theta = self._gathered(theta, generator)
        theta, settled = self.chains(theta[..., self.poses.columns], generator)
        if not settled.converged:
            doubt(
                f"chains of the poses {list(self.poses.names)} have not forgotten where they began after "
                f"{settled.iterations} iterations (correlation {settled.correlation:.2f}): a wider kernel makes them "
                "faster; GNPE(..., iterations=) lets them run longer",
                alarm=True,
                stacklevel=5,
            )
        proposed, blurred = self._proposed(theta, 2 * count, generator)
        ratio, near = self.poses.log_ratio(proposed).exp(), self.poses.coordinates(blurred)
        unit = self._unit(theta[..., self.poses.columns], generator)
        expected = PoseAverage(near / unit, ratio, unit)
        gain = self._gain(expected, *self._proposed(theta, count, generator)).nan_to_num(nan=-math.inf)
        # Draws above this quantile are always accepted, since a probability cannot exceed 1.
        most = gain.quantile(0.99, dim=0).nan_to_num(neginf=0.0)
        accepted = (gain - most).clamp_max(0.0).exp().mean(0).clamp_min(1e-6)
        return PosedTerms(theta, settled, expected, most, accepted)

    def _gain(self, expected: PoseAverage, theta: Tensor, blurred: Tensor) -> Float[Tensor, "n batch"]:
        """log (r / R) of draws with their blurred poses."""
        return self.poses.log_ratio(theta) - expected.log(self.poses.coordinates(blurred))

    def _unit(self, poses: Tensor, generator: torch.Generator) -> Float[Tensor, "batch c"]:
        """A third of the sd by which a blur moves the coordinates of a pose."""
        moved, where = self.poses.coordinates(self._blurred(poses, generator)), self.poses.coordinates(poses)
        return (moved - where).std(0).clamp_min(1e-30) / 3

    def _gathered(self, theta: Tensor, generator: torch.Generator) -> Tensor:
        """Replace stray chains by others. A stray is more than 8 robust sds from the median; strays are less than one
        in 100.

        Far from the truth, data moved back look like no data in training. A chain that began there may never leave.
        """
        away = self.poses.coordinates(theta[..., self.poses.columns])
        away = (away - away.median(0).values).abs()
        stray = (away > 8 * 1.4826 * away.median(0).values).any(-1)
        stray = stray & (stray.double().mean(0) < 0.01)
        noise = torch.rand(theta.shape[:-1], generator=generator, device=generator.device).to(theta.device)
        order = (noise + stray).argsort(0)  # Strays come last.
        least = int((~stray).sum(0).min())
        other = order[torch.arange(len(theta), device=theta.device) % least]
        return torch.where(stray[..., None], theta.gather(0, other[..., None].expand_as(theta)), theta)

    def _proposed(self, last: Tensor, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """theta of one pass from randomly chosen last positions of the chains, and the blurred poses."""
        blurred = self._blurred(self._chosen(last, n, generator)[..., self.poses.columns], generator)
        return self._pass(blurred, generator), blurred

    def _chosen(self, last: Tensor, n: int, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """Last positions of n randomly chosen chains of each observation."""
        index = torch.randint(len(last), (n, self.rows), generator=generator, device=generator.device)
        return last.gather(0, index.to(self._device)[..., None].expand(-1, -1, last.shape[-1]))

    def _blurred(self, poses: Float[Tensor, "n batch k"], generator: torch.Generator) -> Float[Tensor, "n batch k"]:
        blurs = self.poses.draw(poses.shape[:-1].numel(), generator).to(poses).reshape(poses.shape)
        return self.poses.compose(poses, blurs)

    def _pass(self, blurred: Float[Tensor, "n batch k"], generator: torch.Generator) -> Tensor:
        """theta ~ q(theta | x, h), for blurred poses h."""

        def one(x: X, h: Tensor) -> Tensor:
            others, blurs = self.poses.split(self.estimator.at(x, h).sample(1, generator=generator)[0])
            return self.poses.whole(others, self.poses.undo(h, blurs))

        return self._in_chunks(one, blurred)

    def _log_joint(self, theta: Tensor, found: PosedTerms, blurred: Tensor) -> Float[Tensor, "n batch"]:
        """log of m(h) q(theta | x, h) / k(h | g)."""
        poses = theta[..., self.poses.columns]
        blurs = self.poses.between(poses, blurred)
        inner = self.poses.inner(theta, blurs)

        def one(x: X, h: Tensor, value: Tensor) -> Tensor:
            return self.estimator.at(x, h).log_prob(value[None])[0]

        found_q = self._in_chunks(one, blurred, inner)
        kernel = self.poses.log_kernel(blurs) + self.poses.log_measure(blurs)
        total = self._log_mixture(found, blurred) + found_q - kernel + self.poses.log_measure(poses)
        # Rounding may move a blur over the edge of a kernel with bounds.
        return torch.where(torch.isfinite(kernel), total, -math.inf)

    def _log_mixture(self, found: PosedTerms, blurred: Float[Tensor, "n batch k"]) -> Float[Tensor, "n batch"]:
        """log m, the density of blurred poses with respect to the invariant measure."""
        poses, parts = found.last[..., self.poses.columns], []
        for part in blurred.split(max(1, 2_000_000 // max(1, poses.numel()))):
            each = self.poses.log_kernel(self.poses.between(poses[None], part[:, None]))
            parts.append(each.logsumexp(1) - math.log(len(poses)))
        return torch.cat(parts)

    def _in_chunks(self, one: Callable[..., Tensor], *values: Float[Tensor, "n batch *rest"]) -> Tensor:
        """Apply a function of data and values to every row, in pieces whose size suits the device."""
        shape, flat = values[0].shape[:2], [value.flatten(0, 1) for value in values]
        index = torch.arange(len(flat[0]), device=self._device)
        pieces = in_chunks(max(1, len(index)), 1, self._device)
        parts = [one(self._rows(index[a:b]), *(value[a:b] for value in flat)) for a, b in pieces]
        return torch.cat(parts).unflatten(0, shape)

    def _rows(self, at: Tensor) -> X:
        if self.rows == 1:
            return {name: value.expand(len(at), *value.shape[1:]) for name, value in self.x.items()}
        return {name: value[at % self.rows] for name, value in self.x.items()}

    def _source(self) -> torch.Generator:
        return torch.Generator(self._device).manual_seed(0)

    def _key(self) -> str:
        """Digest of the observations, the weights, and the settings of the chains."""
        digest = hashlib.sha256(f"{self._device} {self.estimator.chains} {self.estimator.iterations}".encode())
        for values in (self.x, self.estimator.state_dict()):
            for name, value in sorted(values.items()):
                digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
                digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
