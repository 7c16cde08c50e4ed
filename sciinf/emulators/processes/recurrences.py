r"""Diagonal linear recurrences over time, in parallel: scans by chunks, and a block of network that is made of one.

A state h in C^N decays and turns at rates a in C^N, Re a < 0, and is driven by v,

    h_t = exp(a (t_k - t_{k-1})) h_{t_{k-1}} + v_t,      so that      h_t = sum_{s <= t} exp(a (t - s)) v_s.

Of C times side by side that is a product with the lower triangular matrix exp(a (t_j - t_i)), of which no entry is
above one in size. The states at the ends of the chunks follow the same recurrence, over longer times, and are found by
the same scan: T times take log T / log C matrix products. No step waits for the one before it.

A block takes x (row, time, width) to

    y = Re(C h) + D x,     v = sqrt(1 - exp(2 Re(a) gap)) B x,     y + W gelu(V y + context),

where the root keeps the size of h whatever the gaps are, and rates may depend on a context of each row.

References:
    | Resurrecting Recurrent Neural Networks for Long Sequences (Orvieto et al., 2023), https://arxiv.org/abs/2303.06349
    | Simplified State Space Layers for Sequence Modeling (Smith, Warrington and Linderman, 2023),
      https://arxiv.org/abs/2208.04933
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.nn import functional as F

CHUNK = 16


def scanned(
    rate: Complex[Tensor, "some state"],
    drive: Complex[Tensor, "row time state"],
    times: Float[Tensor, "some time"] | float,
    carry: Complex[Tensor, "row state"] | None = None,
    since: Float[Tensor, "some 1"] | None = None,
    chunk: int = CHUNK,
) -> Complex[Tensor, "row time state"]:
    """The states h at all times.

    Args:
        rate: a, per unit of time, of each row or of all (some is 1 then).
        drive: v.
        times: Of each row or of all; or the step, where steps are equal.
        carry: The state before the first time; zero where left out.
        since: When that was, for times that are given; with a step, one step before.
        chunk: C.
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
    """States in chunks (row, chunk, time, state) that begin at zero."""
    size = drive.shape[2]
    place = torch.arange(size, device=drive.device)
    late = place[:, None] >= place
    if not isinstance(times, Tensor):
        ages = (place[:, None] - place).clamp_min(0) * times
        matrix = torch.exp(rate[:, :, None, None] * ages) * late  # (some, state, time, time)
        return (
            torch.einsum("rnji,rkin->rkjn", matrix.expand(len(drive), -1, -1, -1), drive)
            if len(rate) > 1
            else (torch.einsum("nji,rkin->rkjn", matrix[0], drive))
        )
    at = times.unflatten(1, (-1, size))
    ages = torch.where(late, at[..., :, None] - at[..., None, :], 0.0)
    matrix = torch.exp(rate[:, None, :, None, None] * ages[:, :, None]) * late  # (some, chunk, state, time, time)
    return torch.einsum("rknji,rkin->rkjn", matrix.expand(len(drive), -1, -1, -1, -1), drive)


class Recurrence(nn.Module):
    """One block, of as many outputs as inputs.

    Args:
        width: Of x and of what comes of it.
        states: N.
        features: Of the context that rates and the gate follow; 0 for none.
        longest: Time over which the slowest states decay, in the unit of times; the fastest do in a fifth of a unit.
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
        """a of each row; of all at once where there is no context."""
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
        """What comes of x, and the state after its last time, from which to go on.

        Args:
            x: Input.
            times: Of each row or of all, or the step.
            context: What rates and the gate follow.
            carry: The state before the first time, which is otherwise as large as the states later are, and of x alone.
            since: When that was, as of `scanned`.
        """
        rate = self.rates(context)
        gaps = times if not isinstance(times, Tensor) else _gaps(times, since)[..., None]
        size = -torch.expm1(2 * rate.real[:, None] * gaps)  # of (some, time, state)
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
