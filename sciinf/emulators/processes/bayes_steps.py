r"""Steps of a path by Bayes' rule: the prior's noise, times what later values say.

A step of the prior goes from z to z' = F + G e, e ~ N(0, I), G diagonal. Later values speak of z' as if it had been
seen, as N(y, Lambda^{-1}), and the step of the posterior is

    q(z' | z) ~ N(z'; F, G^2) N(z'; y, Lambda^{-1}),
    e ~ N(m, A^{-1}),     A = I + G Lambda G,     m = A^{-1} G Lambda (y - F),
    KL = 1/2 (|m|^2 + tr A^{-1} - S + log det A).

y and Lambda are a network's, which reads the later values backwards in time, F, and how long it is until the next
value. That much noise is still to come, of sd n, so that Lambda^{-1} = P^{-1} + n^2, P of the network. As the step's
length h goes to 0, with G = g sqrt(h), A goes to I, and m / sqrt(h) to v = g Lambda (y - z): the equation has the drift
f + g v then, and KL is Girsanov's 1/2 int |v|^2 dt. Where nothing later was seen, Lambda is 0.

That y and Lambda may depend on F makes this an approximation that can bend, not one of Gaussians alone. KL and ratio
are exact for the steps as they are.

Reference:
    | Scalable gradients for stochastic differential equations (Li et al., 2020), https://arxiv.org/abs/2001.01328

A whole series read at once, for processes whose posterior at a time depends on all that was seen, before and after.

Two recurrent cells go through the series, one forwards and one backwards. Each sees, at each time, the embedding of the
values, whether there were any, the logarithm of 1 + the time since the last step, controls, and what is known of the
row. Cells in a loop, not `nn.GRU`: only these can be trained side by side (`train_ensemble`).

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

_MOST = 6.0  # nats, of what the root of a precision can be multiplied by
_LEAST = 1e-3  # mean steps: what is added to the time left before its root is taken


@dataclass(frozen=True)
class Heard:
    """What a network read of later values: at each time (row, W), when the next comes, and whether any does."""

    read: tuple[Float[Tensor, "row width"], ...]
    next: Float[Tensor, "row time"]
    any: Float[Tensor, "row time"]


@dataclass(frozen=True)
class Told:
    """What they say at one time: what was read (row, W), time left (row, 1), sd of the noise in it (row, S)."""

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
    """What later values say of a path.

    Args:
        sizes: Of the series.
        states: S.
        width: Of the hidden layers.
        memory: How many numbers more than S are known of the path.
        ends: Whether a series ends with its last value: times and controls after it are not looked at, and change
            nothing of the path until then.
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
        """Later values, read backwards in time."""
        if self.ends:
            series = _ended(series)
        times = None if series.times is None else -series.times.flip(1)
        controls = None if series.controls is None else series.controls.flip(1)
        there, offset = series.there.flip(1), None if series.offset is None else series.offset.flip(1)
        backwards = Series(series.seen.flip(1), there, series.context, times, controls, offset)
        begun = there.cumsum(1) > 0 if self.ends else None
        context = series.context[:, None].expand(-1, series.length, -1)
        parts = [self.reader(backwards, begun=begun).flip(1), series.read, context]
        if series.controls is not None:  # those that act on the way to each time
            parts.append(torch.cat([series.controls[:, :1], series.controls[:, :-1]], 1))
        coming = torch.where(series.there, series.clock(), torch.inf).flip(1).cummin(1).values.flip(1)
        any_of = coming.isfinite()
        read = self.read(torch.cat(parts, -1)).unbind(1)
        return Heard(read, torch.where(any_of, coming, series.clock()), any_of.float())

    def noise(self, ahead: Tensor, sd: Tensor, white: Tensor, memory: Tensor, told: Told | None) -> New:
        """Noise of a step.

        Args:
            ahead: F, where the step goes without it, (row, S).
            sd: G, (row, S).
            white: N(0, I), (row, S).
            memory: What else is known of the path, (row, memory).
            told: What later values say; None for nothing: then it is the prior's.
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
    """Series whose times stop at the last value, and whose controls do before it: those after it act later."""
    clock, there = series.clock(), series.there
    last = torch.where(there, clock, clock[:, :1]).amax(1, keepdim=True)
    followed = torch.cat([there.flip(1).cumsum(1).flip(1)[:, 1:] > 0, torch.zeros_like(there[:, :1])], 1)
    controls = None if series.controls is None else torch.where(followed[..., None], series.controls, 0.0)
    return replace(series, times=torch.minimum(clock, last), controls=controls)


def new_noise(white: Tensor, off: Tensor, root: Tensor, sd: Tensor, told: Told) -> New:
    """e of the posterior, where it was told that z' is `off` from where it would be: with Lambda =
    L (I + L' n^2 L)^{-1} L', P = L L', n the sd of the noise that is still to come.
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
        information = (sd[..., None] * root) @ torch.linalg.solve(eye + wide.mT @ wide, root.mT)  # G Lambda
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
    """Numbers at each time that know of the whole series.

    Args:
        sizes: Of the series.
        width: Of each cell; there are twice as many numbers at each time.
        ahead: Whether later values are read as well; without, numbers at a time know of the past alone, and there are
            `width` of them.
    """

    def __init__(self, sizes: Sizes, width: int, *, ahead: bool = True) -> None:
        super().__init__()
        inputs = sizes.features + 2 + sizes.controls + sizes.context
        self.cells = nn.ModuleList(nn.GRUCell(inputs, width) for _ in range(2 if ahead else 1))
        self.width, self.outputs = width, width * len(self.cells)

    def forward(self, series: Series, *, begun: Tensor | None = None) -> Float[Tensor, "row time output"]:
        """Read them.

        Args:
            series: Of rows.
            begun: Where reading has begun, bool (row, time): until then it knows of nothing. None for everywhere; only
                for a reader of the past alone.
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
