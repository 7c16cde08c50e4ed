r"""A path that is drawn at all times at once: independent noise at each time, joined to one path by state-space layers.

    e_0, e_1, ..., e_T ~ N(0, I) independently,    z_1..z_T = layers(e_0; e_1..e_T).

Each layer is a diagonal complex recurrence over time with a gate (`Recurrence`). e_0 gives the first states of the
layers. So z is not a Markov chain, and has whatever memory the layers learn. No draw waits for the one before: a path
of T times takes about log T products of small matrices. To continue a path, only the last states of the layers are
needed (`resumed`).

The posterior reads the series forwards and backwards with such layers, which gives features f_1..f_T. From these and
noise n ~ N(0, I) it makes e:

    e_t = m_t + s_t n_t,     log s_t, a_t = functions of f_t,     m_t = a_t + g_t(n_1..n_{t-1}, f_1..f_T).

g has layers over the noise before t. Given that noise, e_t is Gaussian. So with d noise components at a time,

    KL(q || p) = E_q sum_t (|m_t|^2 + |s_t|^2 - d) / 2 - sum log s_t,

and the sum for one draw is an unbiased estimate. Without g, the noise components would be independent given the series.
In the exact posterior they are strongly correlated where values are observed with little noise: if one is too large,
the next ones correct it. A posterior without g pays for that at each time. For an autoregression, the cost is up to the
difference between the entropies of a value and of its step. The paper has no g.

Two approximations remain. q is not the exact posterior, so `bound` lies below the log likelihood. And a distribution of
paths at unequal times is valid for these times only: one more time among them changes the distribution of the other
times.

**Recurrences.** Diagonal linear recurrences over time are computed in parallel, by scans over chunks; a block of the
network contains one recurrence.

A state h in C^N decays and turns at rates a in C^N, Re a < 0, and is driven by v,

    h_t = exp(a (t_k - t_{k-1})) h_{t_{k-1}} + v_t,      so that      h_t = sum_{s <= t} exp(a (t - s)) v_s.

For a chunk of C times, this is a product with the lower triangular matrix exp(a (t_j - t_i)). No entry of this matrix
exceeds one in absolute value. The states at the ends of the chunks follow the same recurrence, over longer times, and
are found by the same scan. So T times take log T / log C matrix products. No step waits for the one before.

A block takes x (row, time, width) to

    y = Re(C h) + D x,     v = sqrt(1 - exp(2 Re(a) gap)) B x,     y + W gelu(V y + context).

The root keeps the size of h constant whatever the gaps are. Rates may depend on the context of each row.

References:
    | Parallelizing autoregressive generation with variational state space models (Lambrechts et al., 2024),
      https://arxiv.org/abs/2407.08415
    | Improving variational inference with inverse autoregressive flow (Kingma et al., 2016), for g,
      https://arxiv.org/abs/1606.04934
    | Resurrecting Recurrent Neural Networks for Long Sequences (Orvieto et al., 2023), https://arxiv.org/abs/2303.06349
    | Simplified State Space Layers for Sequence Modeling (Smith, Warrington and Linderman, 2023),
      https://arxiv.org/abs/2208.04933
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core.checks import check_positive
from sciinf.core.prior import global_seed
from sciinf.emulators.processes.process import Latent, LearnedProcess, Linear, Process, Series, Sizes

_WIDEST = 5.0  # Limit of |log s|.


class Parallel(Process):
    """A path that is drawn at all times at once, by state-space layers over independent noise.

    Args:
        states: S, the number of components of the path at a time.
        noise: d, the number of noise components at a time.
        width: Width of the layers.
        recurrences: N, the number of complex states of each layer.
        layers: Number of layers of the prior. The posterior has as many in each direction, and one layer over the
            noise.
        longest: Initial decay time of the slowest states, in mean steps.
        correlated: Whether the posterior has g. If False, the noise of the posterior is independent over time, as in
            the paper.

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
    """The state from which a path continues.

    Args:
        states: The last state of each layer, complex (row, N).
        since: Time of these states, (row, 1); None for one step before the continuation.
    """

    states: tuple[Tensor, ...]
    since: Tensor | None = None


@final
class LearnedParallel(LearnedProcess):
    """The state-space layers of prior and posterior with their weights."""

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
        """A path of the prior that continues another path, and the state from which it can be continued in turn.

        Args:
            series: Context, times and controls. Times have the same unit and origin as those of the path before.
            carried: The state that was returned with the path before; None starts a new path.
            generator: Source of the noise.
        """
        rows, like = len(series), self.leave.weight
        if carried is None:
            start = torch.randn(rows, self.width, generator=generator, device=generator.device).to(like)
            carried = self._begun(start)
        noise = torch.randn(rows, series.length, self.noise, generator=generator, device=generator.device).to(like)
        return self._path(series, carried, noise)

    @property
    def width(self) -> int:
        """Width of the layers, and the number of components of e_0."""
        return self.enter.out_features

    def _begun(self, start: Tensor) -> Carried:
        """Initial states of the layers, from e_0."""
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
        """Features f at each time, from observations before and after."""
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
    """Samples z = mean + sd noise of q = N(mean, sd^2), KL(q || N(0, I)), and log q(z) - log N(z; 0, I).

    Both are summed over all axes but the first. log sd is bounded by `_WIDEST` in absolute value.
    """
    log_sd = _WIDEST * torch.tanh(log_sd / _WIDEST)
    value, over = mean + log_sd.exp() * noise, tuple(range(1, noise.ndim))
    kl = (0.5 * (mean.square() + (2 * log_sd).exp() - 1) - log_sd).sum(over)
    return _Drawn(value, kl, (0.5 * (value.square() - noise.square()) - log_sd).sum(over))


CHUNK = 16


def scanned(
    rate: Complex[Tensor, "some state"],
    drive: Complex[Tensor, "row time state"],
    times: Float[Tensor, "some time"] | float,
    carry: Complex[Tensor, "row state"] | None = None,
    since: Float[Tensor, "some 1"] | None = None,
    chunk: int = CHUNK,
) -> Complex[Tensor, "row time state"]:
    """The states h of the recurrence at all times.

    Args:
        rate: Rates a, per unit of time, for each row; the first axis is 1 long if all rows have the same rates.
        drive: Driving values v at each time.
        times: Times of each row, or of all rows; or the step as a number, where steps are equal.
        carry: State before the first time; zero if None.
        since: Time of `carry`, if `times` is a tensor. With equal steps, `carry` is one step before.
        chunk: Number C of times in a chunk.
    """
    rows, count, size = drive.shape
    if carry is not None:
        first = times if not isinstance(times, Tensor) else times[:, :1] - (times[:, :1] if since is None else since)
        begin = torch.exp(rate * first) * carry
        drive = torch.cat([drive[:, :1] + begin[:, None], drive[:, 1:]], 1)
    if count <= chunk:
        return _within(rate, drive[:, None], times)[:, 0]
    more = -count % chunk
    parts = F.pad(torch.view_as_real(drive), (0, 0, 0, 0, 0, more))
    parts = torch.view_as_complex(parts.contiguous()).reshape(rows, -1, chunk, size)
    if isinstance(times, Tensor):
        times = torch.cat([times, times[:, -1:].expand(-1, more)], 1)
    inside = _within(rate, parts, times)
    ends = inside[:, :-1, -1]
    if not isinstance(times, Tensor):
        before = scanned(rate, ends, times * chunk, chunk=chunk)
        ages = times * torch.arange(1, chunk + 1, device=drive.device, dtype=rate.real.dtype)
        left = torch.exp(rate[:, None, None] * ages[:, None])
    else:
        last = times[:, chunk - 1 : -1 : chunk]
        before = scanned(rate, ends, last, chunk=chunk)
        ages = times[:, chunk:].unflatten(1, (-1, chunk)) - last[..., None]
        left = torch.exp(rate[:, None, None] * ages[..., None])
    late = inside[:, 1:] + left * before[:, :, None]
    return torch.cat([inside[:, :1], late], 1).flatten(1, 2)[:, :count]


def _within(rate: Tensor, drive: Tensor, times: Tensor | float) -> Tensor:
    """States within chunks (row, chunk, time, state), each of which starts from state zero."""
    size = drive.shape[2]
    place = torch.arange(size, device=drive.device)
    late = place[:, None] >= place
    if not isinstance(times, Tensor):
        ages = (place[:, None] - place).clamp_min(0) * times
        matrix = torch.exp(rate[:, :, None, None] * ages) * late  # The shape is (some, state, time, time).
        return (
            torch.einsum("rnji,rkin->rkjn", matrix.expand(len(drive), -1, -1, -1), drive)
            if len(rate) > 1
            else (torch.einsum("nji,rkin->rkjn", matrix[0], drive))
        )
    at = times.unflatten(1, (-1, size))
    ages = torch.where(late, at[..., :, None] - at[..., None, :], 0.0)
    # The matrix has the shape (some, chunk, state, time, time).
    matrix = torch.exp(rate[:, None, :, None, None] * ages[:, :, None]) * late
    return torch.einsum("rknji,rkin->rkjn", matrix.expand(len(drive), -1, -1, -1, -1), drive)


class Recurrence(nn.Module):
    """A block of the network around one diagonal recurrence, with as many outputs as inputs.

    Args:
        width: Width of the input x and of the output.
        states: N, the number of complex states.
        features: Number of context features on which rates and the gate depend; 0 for none.
        longest: Initial decay time of the slowest states, in the unit of times. The fastest states decay in a fifth of
            a unit.
    """

    def __init__(self, width: int, states: int, features: int, longest: float) -> None:
        super().__init__()
        slow, fast = -math.log(max(longest, 2.0)), math.log(5.0)
        self.log_decay = nn.Parameter(torch.linspace(slow, fast, states))
        self.angle = nn.Parameter(torch.rand(states) * self.log_decay.detach().exp().clamp_max(2.0))
        self.inward = nn.Parameter(torch.randn(width, 2 * states) / math.sqrt(2 * width))
        self.outward = nn.Parameter(torch.randn(2 * states, width) / math.sqrt(states))
        self.direct = nn.Parameter(torch.ones(width))
        self.gate, self.mix = nn.Linear(width + features, width), nn.Linear(width, width)
        nn.init.normal_(self.mix.weight, std=0.1 * width**-0.5)
        self.follow = nn.Linear(features, 2 * states, bias=False) if features else None
        if self.follow is not None:
            nn.init.zeros_(self.follow.weight)

    def rates(self, context: Float[Tensor, "row feature"]) -> Complex[Tensor, "some state"]:
        """The rates a of each row; one set of rates for all rows if there is no context."""
        decay, angle = self.log_decay[None], self.angle[None]
        if self.follow is not None:
            more, turned = self.follow(context).chunk(2, -1)
            decay, angle = decay + more, angle + turned
        return torch.complex(-decay.clamp(-12.0, 4.0).exp(), angle)

    def forward(
        self,
        x: Float[Tensor, "row time width"],
        times: Float[Tensor, "some time"] | float,
        context: Float[Tensor, "row feature"],
        carry: Complex[Tensor, "row state"] | None = None,
        since: Float[Tensor, "some 1"] | None = None,
    ) -> tuple[Float[Tensor, "row time width"], Complex[Tensor, "row state"]]:
        """Output of the block, and the state after the last time, from which it can continue.

        Args:
            x: Input.
            times: Times of each row or of all rows, or the step as a number.
            context: Context features on which rates and the gate depend.
            carry: State before the first time. If None, the first state comes from x alone and is as large as later
                states.
            since: Time of `carry`, as in `scanned`.
        """
        rate = self.rates(context)
        gaps = times if not isinstance(times, Tensor) else _gaps(times, since)[..., None]
        size = -torch.expm1(2 * rate.real[:, None] * gaps)  # The shape is (some, time, state).
        if carry is None:
            first = torch.arange(x.shape[1], device=x.device)[:, None] == 0
            size = torch.where(first, 1.0, size)
        real, imaginary = (x @ self.inward).chunk(2, -1)
        root = (size + 1e-12).sqrt()
        h = scanned(rate, torch.complex(root * real, root * imaginary), times, carry, since)
        y = torch.cat([h.real, h.imag], -1) @ self.outward + self.direct * x
        beside = context[:, None].expand(-1, x.shape[1], -1)
        return y + self.mix(F.gelu(self.gate(torch.cat([y, beside], -1)))), h[:, -1]


def _gaps(times: Tensor, since: Tensor | None) -> Tensor:
    return times.diff(dim=1, prepend=times[:, :1] if since is None else since)
