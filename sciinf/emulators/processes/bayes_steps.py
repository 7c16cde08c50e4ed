r"""Posterior steps of a path by Bayes' rule: the prior's noise, times the likelihood of later values.

A step of the prior goes from z to z' = F + G e, e ~ N(0, I), G diagonal. Later values act like an observation of z'
with distribution N(y, Lambda^{-1}). The step of the posterior is

    q(z' | z) ~ N(z'; F, G^2) N(z'; y, Lambda^{-1}),
    e ~ N(m, A^{-1}),     A = I + G Lambda G,     m = A^{-1} G Lambda (y - F),
    KL = 1/2 (|m|^2 + tr A^{-1} - S + log det A).

A network gives y and Lambda. Its inputs are the later values, read backwards in time, F, and the time until the next
value. The noise until that value has sd n. So Lambda^{-1} = P^{-1} + n^2, where the network gives P. As the step's
length h goes to 0, with G = g sqrt(h), A goes to I, and m / sqrt(h) goes to v = g Lambda (y - z). The equation then has
the drift f + g v, and KL is Girsanov's 1/2 int |v|^2 dt. Where no later value was observed, Lambda is 0.

Because y and Lambda may depend on F, the path of the posterior need not be Gaussian. KL and log ratio are exact for the
discrete steps.

Reference:
    | Scalable gradients for stochastic differential equations (Li et al., 2020), https://arxiv.org/abs/2001.01328

`SeriesReader` reads a whole series, for processes whose posterior at a time depends on all observations, before and
after.

Two recurrent cells go through the series, one forwards and one backwards. At each time, each cell sees the embedding of
the values, whether there were any, the logarithm of 1 + the time since the last step, controls, and the context of the
row. The cells run in a loop, not as `nn.GRU`, because only cells can be trained side by side (`train_ensemble`).

Reference:
    | Learning phrase representations using RNN encoder-decoder for statistical machine translation (Cho et al., 2014),
      https://arxiv.org/abs/1406.1078
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sciinf.emulators.processes.process import Series, Sizes

_MOST = 6.0  # Limit of the logarithm of the factor of a precision's root.
_LEAST = 1e-3  # Mean steps that are added to the time left, so that the gradient of its root is finite.


@dataclass(frozen=True)
class Heard:
    """Features that a network read from later values.

    Attributes:
        read: Features at each time, (row, W).
        next: Time of the next value, (row, time).
        any: Whether a later value exists, as 0 or 1, (row, time).
    """

    read: tuple[Float[Tensor, "row width"], ...]
    next: Float[Tensor, "row time"]
    any: Float[Tensor, "row time"]


@dataclass(frozen=True)
class Told:
    """Information of later values for one time.

    Attributes:
        read: Features of the later values, (row, W).
        left: Time until the next value, (row, 1).
        sd: Sd of the noise in that time, (row, S).
        any: Whether a later value exists, as 0 or 1.
    """

    read: Tensor
    left: Tensor
    sd: Tensor
    any: Tensor


@dataclass(frozen=True)
class New:
    """Noise of one step: e (row, S), its KL and its log ratio (row,)."""

    e: Tensor
    kl: Tensor
    ratio: Tensor


@final
class LaterValues(nn.Module):
    """A network that gives the noise of posterior steps, given the values at later times.

    Args:
        sizes: Sizes of the series.
        states: S, the number of components of the state.
        width: Width of the hidden layers.
        memory: Number of further values of the path, beside S, that the network sees.
        ends: Whether a series ends with its last value. If True, times and controls after it are ignored, and do not
            change the path up to it.
    """

    def __init__(self, sizes: Sizes, states: int, width: int, *, memory: int, ends: bool = False) -> None:
        super().__init__()
        self.states, self.ends, self.reader = states, ends, SeriesReader(sizes, width, ahead=False)
        self.read = nn.Linear(self.reader.outputs + sizes.features + sizes.context + sizes.controls, width)
        self.look = nn.Linear(states + memory + 2, width, bias=False)
        self.think = nn.Linear(width, width)
        self.say = nn.Linear(2 * width, states * (2 + states))
        nn.init.normal_(self.say.weight, std=0.1 / width**0.5)
        nn.init.zeros_(self.say.bias)

    def read_of(self, series: Series) -> Heard:
        """Features of later values, read backwards in time."""
        if self.ends:
            series = _ended(series)
        times = None if series.times is None else -series.times.flip(1)
        controls = None if series.controls is None else series.controls.flip(1)
        there, offset = series.there.flip(1), None if series.offset is None else series.offset.flip(1)
        backwards = Series(series.seen.flip(1), there, series.context, times, controls, offset)
        begun = there.cumsum(1) > 0 if self.ends else None
        context = series.context[:, None].expand(-1, series.length, -1)
        parts = [self.reader(backwards, begun=begun).flip(1), series.read, context]
        if series.controls is not None:  # The controls of the time before act on the way to each time.
            parts.append(torch.cat([series.controls[:, :1], series.controls[:, :-1]], 1))
        coming = torch.where(series.there, series.clock(), torch.inf).flip(1).cummin(1).values.flip(1)
        any_of = coming.isfinite()
        read = self.read(torch.cat(parts, -1)).unbind(1)
        return Heard(read, torch.where(any_of, coming, series.clock()), any_of.float())

    def noise(self, ahead: Tensor, sd: Tensor, white: Tensor, memory: Tensor, told: Told | None) -> New:
        """Noise of one step, from the posterior or from the prior.

        Args:
            ahead: F, the next state without noise, (row, S).
            sd: G, (row, S).
            white: Standard normal noise, (row, S).
            memory: Further values of the path, (row, memory).
            told: Information of later values; None for a step of the prior.
        """
        if told is None:
            none = torch.zeros_like(white[:, 0])
            return New(white, none, none)
        look = [ahead, memory, told.left, (told.left + _LEAST).sqrt()]
        found = self.think(functional.silu(told.read + self.look(torch.cat(look, -1))))
        said = self.say(torch.cat([functional.silu(found), told.read], -1))
        y, size, root = said.split([self.states, self.states, self.states**2], -1)
        eye = torch.eye(self.states, dtype=y.dtype, device=y.device)
        size = _MOST * (size / _MOST).tanh()
        root = 0.5 * size.exp()[..., None] * (eye + root.unflatten(-1, (self.states, -1)))
        return new_noise(white, y - ahead, root * told.any[:, None, None], sd, told)


def _ended(series: Series) -> Series:
    """The series with all times after the last value set to the time of that value.

    Controls from the last value on are 0: they act only later.
    """
    clock, there = series.clock(), series.there
    last = torch.where(there, clock, clock[:, :1]).amax(1, keepdim=True)
    followed = torch.cat([there.flip(1).cumsum(1).flip(1)[:, 1:] > 0, torch.zeros_like(there[:, :1])], 1)
    controls = None if series.controls is None else torch.where(followed[..., None], series.controls, 0.0)
    return replace(series, times=torch.minimum(clock, last), controls=controls)


def new_noise(white: Tensor, off: Tensor, root: Tensor, sd: Tensor, told: Told) -> New:
    """Noise e of a posterior step, given that later values place z' at a distance `off` from F.

    Here Lambda = L (I + L' n^2 L)^{-1} L', P = L L', and n is the sd of the noise until the next value.
    """
    count = off.shape[-1]
    if count == 1:
        precision = root[..., 0].square()
        information = sd * precision / (1 + told.sd.square() * precision)
        inverse = (1 + information * sd).rsqrt()
        m, e_of, half_log_det = inverse.square() * information * off, inverse * white, -inverse.log().sum(-1)
    else:
        eye = torch.eye(count, dtype=off.dtype, device=off.device)
        wide = told.sd[..., None] * root
        information = (sd[..., None] * root) @ torch.linalg.solve(eye + wide.mT @ wide, root.mT)  # This is G Lambda.
        lower = torch.linalg.cholesky_ex(eye + information * sd[:, None, :])[0]
        inverse = torch.linalg.solve_triangular(lower, eye.expand_as(lower), upper=False)
        m = (inverse.mT @ (inverse @ (information @ off[..., None])))[..., 0]
        e_of = (inverse.mT @ white[..., None])[..., 0]
        half_log_det = lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    e, trace = m + e_of, inverse.square().flatten(1).sum(-1)
    kl = 0.5 * (m.square().sum(-1) + trace - count) + half_log_det
    return New(e, kl, 0.5 * (e.square() - white.square()).sum(-1) + half_log_det)


@final
class SeriesReader(nn.Module):
    """A recurrent network that gives features at each time, which depend on the whole series.

    Args:
        sizes: Sizes of the series.
        width: Width of each cell; with `ahead` there are twice as many features at each time.
        ahead: Whether later values are read as well. If False, features at a time depend on the past alone, and there
            are `width` of them.
    """

    def __init__(self, sizes: Sizes, width: int, *, ahead: bool = True) -> None:
        super().__init__()
        inputs = sizes.features + 2 + sizes.controls + sizes.context
        self.cells = nn.ModuleList(nn.GRUCell(inputs, width) for _ in range(2 if ahead else 1))
        self.width, self.outputs = width, width * len(self.cells)

    def forward(self, series: Series, *, begun: Tensor | None = None) -> Float[Tensor, "row time output"]:
        """Features of the series at each time.

        Args:
            series: The series of a batch of rows.
            begun: Whether reading has begun, bool (row, time). Until then the state stays 0. None if reading begins at
                the first time. Only for a reader of the past alone.
        """
        inputs = self._inputs(series).unbind(1)
        found = [torch.stack(self._through(self.cells[0], inputs, begun), 1)]
        if len(self.cells) > 1:
            found.append(torch.stack(self._through(self.cells[1], inputs[::-1])[::-1], 1))
        return torch.cat(found, -1)

    def _inputs(self, series: Series) -> Tensor:
        steps = series.steps().log1p().expand(len(series), -1)
        gaps = torch.cat([torch.zeros_like(series.seen[:, :1, 0]), steps.to(series.seen)], 1)
        parts = [series.read, series.there[..., None].to(series.seen), gaps[..., None]]
        if series.controls is not None:
            parts.append(series.controls)
        return torch.cat([*parts, series.context[:, None].expand(-1, series.length, -1)], -1)

    def _through(self, cell: nn.Module, inputs: tuple[Tensor, ...], begun: Tensor | None = None) -> list[Tensor]:
        state = torch.zeros_like(inputs[0][:, :1]).expand(-1, self.width)
        states = []
        for k, each in enumerate(inputs):
            state = cell(each, state)
            if begun is not None:
                state = torch.where(begun[:, k, None], state, 0.0)
            states.append(state)
        return states
