r"""A path that is drawn at all times at once: noise of each time by itself, made one path by state-space layers.

    e_0, e_1, ..., e_T ~ N(0, I) independently,    z_1..z_T = layers(e_0; e_1..e_T),

each layer a diagonal complex recurrence over time with a gate (`emulators.processes.recurrences`), whose first states
e_0 gives. So z is no Markov chain and has whatever memory the layers learn, but no draw waits for the one before: a
path of T times takes some log T products of small matrices. The layers' last states are all that a path needs to go on
(`resumed`).

The posterior reads the series forwards and backwards with such layers, to f_1..f_T, and makes e of noise n ~ N(0, I):

    e_t = m_t + s_t n_t,     log s_t, a_t = functions of f_t,     m_t = a_t + g_t(n_1..n_{t-1}, f_1..f_T),

g layers over the noise before t. Given that noise, e_t is Gaussian, so that with d numbers at a time

    KL(q || p) = E_q sum_t (|m_t|^2 + |s_t|^2 - d) / 2 - sum log s_t,

of which the draw's own sum is an unbiased estimate. Without g the numbers of the noise would be independent given the
series. They are far from it where values are seen with little noise: what one of them is too large, the next ones make
good, and a posterior without g pays for that at each time (of an autoregression, up to the difference between the
entropies of a value and of its step). The paper has no g.

What is not exact: q is no exact posterior, so that `bound` lies below the log likelihood. Paths at unequal times are
laws for just these times: one more time among them makes the law of the others another one.

References:
    | Parallelizing autoregressive generation with variational state space models (Lambrechts et al., 2024),
      https://arxiv.org/abs/2407.08415
    | Improving variational inference with inverse autoregressive flow (Kingma et al., 2016), for g,
      https://arxiv.org/abs/1606.04934
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_positive
from sciinf.core.prior import global_seed
from sciinf.emulators.processes.process import Latent, LearnedProcess, Linear, Process, Series, Sizes
from sciinf.emulators.processes.recurrences import Recurrence

_WIDEST = 5.0  # of |log s|


class Parallel(Process):
    """Paths drawn at all times at once.

    Args:
        states: S, numbers of the path at a time.
        noise: d, numbers of noise at a time.
        width: Of the layers.
        recurrences: N, complex states of each layer.
        layers: Of the prior; the posterior has as many each way, and one over the noise.
        longest: Over how many mean steps the slowest states decay at first.
        correlated: Whether there is g, without which the noise of the posterior is independent over time, as in the
            paper.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(
        self,
        states: int = 4,
        *,
        noise: int = 2,
        width: int = 32,
        recurrences: int = 16,
        layers: int = 2,
        longest: int = 64,
        correlated: bool = True,
    ) -> None:
        check_positive(states=states, noise=noise, width=width, recurrences=recurrences, layers=layers, longest=longest)
        self.states, self.noise, self.width, self.recurrences = states, noise, width, recurrences
        self.layers, self.longest, self.correlated = layers, longest, correlated

    def build(self, sizes: Sizes, *, seed: int) -> LearnedParallel:
        with global_seed(torch.Generator().manual_seed(seed)):
            return LearnedParallel(self, sizes)


@dataclass(frozen=True)
class Carried:
    """What a path needs to go on.

    Args:
        states: The last state of each layer, complex (row, N).
        since: When that was, (row, 1); None for one step before what follows.
    """

    states: tuple[Tensor, ...]
    since: Tensor | None = None


@final
class LearnedParallel(LearnedProcess):
    """The layers with their weights."""

    def __init__(self, plan: Parallel, sizes: Sizes) -> None:
        super().__init__()
        self.states, self.noise, self.count = plan.states, plan.noise, plan.recurrences
        context, width = sizes.context, plan.width
        block = (width, plan.recurrences, context, float(plan.longest))
        self.enter = nn.Linear(plan.noise + sizes.controls, width)
        self.layers = nn.ModuleList(Recurrence(*block) for _ in range(plan.layers))
        self.begin = nn.Linear(width, 2 * plan.recurrences * plan.layers)
        self.leave = nn.Linear(width, plan.states)
        self.read = nn.Linear(sizes.features + 1 + sizes.controls + context, width)
        self.there, self.back = (nn.ModuleList(Recurrence(*block) for _ in range(plan.layers)) for _ in range(2))
        self.law, self.first = Linear(2 * width, 2 * plan.noise, scale=0.1), Linear(width, 2 * width, scale=0.1)
        self.noisy = nn.Linear(plan.noise + 2 * width, width) if plan.correlated else None
        self.between = Recurrence(*block) if plan.correlated else None
        self.shift = Linear(width, plan.noise, scale=0.1) if plan.correlated else None

    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        features = self._features(series)
        mean, log_sd = self.law(features).chunk(2, -1)
        raw = torch.randn(len(series), series.length + 1, self.width, generator=generator, device=generator.device)
        raw = raw.to(mean)
        start, noise = raw[:, 0], raw[:, 1:, : self.noise]
        if self.noisy is not None and self.between is not None and self.shift is not None:
            before = torch.cat([torch.zeros_like(noise[:, :1]), noise[:, :-1]], 1)
            inward = self.noisy(torch.cat([before, features], -1))
            mean = mean + self.shift(self.between(inward, self._times(series), series.context)[0])
        first, log_first = self.first(features[:, 0, self.width :]).chunk(2, -1)
        found = _gaussian(mean, log_sd, noise), _gaussian(first, log_first, start)
        z = self._path(series, self._begun(found[1].value), found[0].value)[0]
        return Latent(z, found[0].kl + found[1].kl, found[0].log_ratio + found[1].log_ratio)

    def prior(self, series: Series, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        return self.resumed(series, None, generator=generator)[0]

    def resumed(
        self, series: Series, carried: Carried | None, *, generator: torch.Generator
    ) -> tuple[Float[Tensor, "row time state"], Carried]:
        """A path of the prior that goes on from where another ended, and what is needed to go on from its own end.

        Args:
            series: Context, times and controls; times in the same unit and from the same origin as before.
            carried: What came with the path before; None begins one.
            generator: For the noise.
        """
        rows, like = len(series), self.leave.weight
        if carried is None:
            start = torch.randn(rows, self.width, generator=generator, device=generator.device).to(like)
            carried = self._begun(start)
        noise = torch.randn(rows, series.length, self.noise, generator=generator, device=generator.device).to(like)
        return self._path(series, carried, noise)

    @property
    def width(self) -> int:
        """Of the layers, and numbers of e_0."""
        return self.enter.out_features

    def _begun(self, start: Tensor) -> Carried:
        """The layers' first states."""
        parts = self.begin(start).chunk(2 * len(self.layers), -1)
        return Carried(tuple(torch.complex(*parts[k : k + 2]) for k in range(0, len(parts), 2)))

    def _path(self, series: Series, carried: Carried, noise: Tensor) -> tuple[Tensor, Carried]:
        times = self._times(series)
        x = self.enter(noise if series.controls is None else torch.cat([noise, series.controls], -1))
        since = carried.since
        if isinstance(times, Tensor) and since is None:
            since = times[:, :1] - 1.0
        ends = []
        for layer, state in zip(self.layers, carried.states, strict=True):
            x, end = layer(x, times, series.context, state, since)
            ends.append(end)
        return self.leave(x), Carried(tuple(ends), None if not isinstance(times, Tensor) else times[:, -1:])

    def _times(self, series: Series) -> Tensor | float:
        return 1.0 if series.times is None else series.times

    def _features(self, series: Series) -> Tensor:
        """f, of what was seen before and after each time."""
        parts = [series.read, series.there[..., None].to(series.seen)]
        if series.controls is not None:
            parts.append(series.controls)
        x = self.read(torch.cat([*parts, series.context[:, None].expand(-1, series.length, -1)], -1))
        times, forth, back = self._times(series), x, x.flip(1)
        turned = times if not isinstance(times, Tensor) else -times.flip(1)
        for one, other in zip(self.there, self.back, strict=True):
            forth, back = one(forth, times, series.context)[0], other(back, turned, series.context)[0]
        return torch.cat([forth, back.flip(1)], -1)


@dataclass(frozen=True)
class _Drawn:
    value: Tensor
    kl: Tensor
    log_ratio: Tensor


def _gaussian(mean: Tensor, log_sd: Tensor, noise: Tensor) -> _Drawn:
    """Numbers N(mean, sd^2) made of noise, their KL to N(0, I), and the log ratio of densities of just these."""
    log_sd = _WIDEST * torch.tanh(log_sd / _WIDEST)
    value, over = mean + log_sd.exp() * noise, tuple(range(1, noise.ndim))
    kl = (0.5 * (mean.square() + (2 * log_sd).exp() - 1) - log_sd).sum(over)
    return _Drawn(value, kl, (0.5 * (value.square() - noise.square()) - log_sd).sum(over))
