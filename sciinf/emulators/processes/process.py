r"""Processes: laws of a hidden path z(t), and the way to the path of one series when something of it was seen.

A series x_1..x_T was seen at times t_1..t_T, some of it not at all. Its path is z_1..z_T, z_k in R^S. A process has

    p(z_1..z_T | c, u),                    its prior, given what is known of the row (c) and along time (u), and
    q(z_1..z_T | h_1..h_T, c, u),          its posterior, h_k what an encoder made of x_k.

With a decoder p(x_k | z_k), `surrogates.LatentDynamics` trains all three by the evidence lower bound

    log p(x | c, u) >= E_q[sum_k log p(x_k | z_k)] - KL(q || p),

so a process needs draws of q that carry gradients, and its KL to p, in nats for each row. KL may be an estimate, if it
is unbiased. One paper, one file.

**Conventions.** Rows know nothing of each other. What `seen` holds where `there` is False is 0, and means nothing.
Times increase along a row; their unit is the mean step of all training rows, so that equal steps are 1 long, and
`times` is then None. Steps may be 0 long, where two values have one time. Weights and inputs are float32; what needs
float64 turns to it, and gives float32 back. Everything has to pass `torch.func.vmap`: no `bool(...)` of a tensor, no
branch on values, no writing into tensors, no `nn.GRU` or `nn.LSTM` (`context.Reader` reads series with cells). All
randomness comes from the generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.component import Component


@dataclass(frozen=True)
class Series:
    """What a process is given of rows.

    Args:
        seen: What the encoder made of the values of each time, (row, T, F); 0 where nothing was seen.
        there: Whether anything was seen at a time, bool (row, T).
        context: What is known of a row as a whole, (row, C): parameters, standardised, and others.
        times: When, (row, T), in mean steps, from where rows begin on average; None for equal steps of 1 from 0.
        controls: What is known along time, (row, T, U), that of each time acting from then on; None for nothing.
        offset: For each row numbers (row, T, F) that are added to `seen` at all times, also where nothing was seen:
            what is fitted to one series at query. None for none.
        theta: Parameters in the prior's order and units, (row, D); None where nobody told.
        unit: One mean step in the simulator's unit of time, (row,); None for 1.
        origin: Time 0 in the simulator's unit of time, (row,); None for 0.
        nought: What controls of 0, in their own units, are here, (row, U): no dose, say; None for 0.
    """

    seen: Tensor
    there: Tensor
    context: Tensor
    times: Tensor | None = None
    controls: Tensor | None = None
    offset: Tensor | None = None
    theta: Tensor | None = None
    unit: Tensor | None = None
    origin: Tensor | None = None
    nought: Tensor | None = None

    def __len__(self) -> int:
        return len(self.seen)

    @property
    def length(self) -> int:
        """T."""
        return self.seen.shape[1]

    @property
    def read(self) -> Float[Tensor, "row time feature"]:
        """What a posterior reads: `seen` with its offset."""
        return self.seen if self.offset is None else self.seen + self.offset

    def clock(self) -> Float[Tensor, "row time"]:
        """Times, also where steps are equal; float32."""
        if self.times is not None:
            return self.times
        return torch.arange(self.length, device=self.seen.device, dtype=self.seen.dtype).expand(len(self), -1)

    def steps(self) -> Float[Tensor, "row step"]:
        """Time from each value to the next, (row, T - 1); (1, T - 1), all 1, where steps are equal."""
        if self.times is None:
            return self.seen.new_ones(1, self.length - 1)
        return self.times.diff(dim=1)

    def blank(self) -> Series:
        """The same rows, as if nothing had been seen of them."""
        return replace(self, seen=torch.zeros_like(self.seen), there=torch.zeros_like(self.there), offset=None)


@dataclass(frozen=True)
class Latent:
    """Paths drawn from the posterior, one for each row.

    Args:
        z: The path at the times of the series, (row, T, S), float32, as a differentiable function of all weights.
        kl: KL(q || p) of the row, (row,), nats: exact, or an unbiased estimate.
        log_ratio: log q(z) - log p(z) of this very path, (row,), nats: its mean is `kl`, and exp(-log_ratio) has mean
            1. With it, bounds can be made tighter with several draws. None where the process cannot tell.
        marginals: Where z is one of S states, written as S numbers of which one is 1: q(z_k = j), (row, T, S), with
            slopes, which z then has not. Expectations over states are taken with them, exactly. None for other paths.
    """

    z: Tensor
    kl: Tensor
    log_ratio: Tensor | None = None
    marginals: Tensor | None = None


@dataclass(frozen=True)
class Sizes:
    """How large what a process is given is: F of `Series.seen`, C of its context, U of its controls (0 for none); and
    the names of the parameters in `Series.theta`.
    """

    features: int
    context: int
    controls: int
    names: tuple[str, ...] = ()


class LearnedProcess(nn.Module, ABC):
    """A process with its weights.

    Attributes:
        states: S, how many numbers a path has at a time.
        decodes_controls: Whether the decoder sees the controls of a time beside the state. A process whose controls may
            have been chosen after a look at the values of that time says no: they would tell of these values.
    """

    states: int
    decodes_controls: ClassVar[bool] = True

    @abstractmethod
    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        """A path of each row, drawn given what was seen: at all times, also where nothing was.

        So a series whose later values are missing is forecast.
        """

    @abstractmethod
    def prior(self, series: Series, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        """A path of each row, given its context, times and controls alone; what was seen is not looked at."""

    def shared(self) -> Float[Tensor, ""]:
        """What all rows share, counted once for the whole training set: nats of KL of weights or graphs to their prior.

        A penalty is minus the logarithm of a prior, up to a constant. 0 where nothing is shared.
        """
        return next(self.parameters()).new_zeros(())

    def cost(self, series: Series, z: Float[Tensor, "row time state"]) -> Float[Tensor, ""]:
        """What training pays for paths beside the bound, nats a row: how dear they are to solve. 0 for nothing."""
        return next(self.parameters()).new_zeros(())

    def check(self, series: Series) -> None:
        """Warn, or raise ValueError, where the process is not for rows that are asked about; not in training."""
        return None


class Process(Component, ABC):
    """How a process is built; its sizes come from the data."""

    @abstractmethod
    def build(self, sizes: Sizes, *, seed: int) -> LearnedProcess:
        """The process with freshly drawn weights.

        Args:
            sizes: Of what it will be given.
            seed: Seeds the weights.
        """


@final
class Linear(nn.Module):
    """y = W x + b + MLP(x): linear at first, as the last layer of the MLP begins at 0.

    Args:
        inputs: Numbers in.
        outputs: Numbers out.
        width: Of the MLP's two hidden layers; 0 for none.
        scale: Of the entries of W at first, in 1 / sqrt(inputs).
    """

    def __init__(self, inputs: int, outputs: int, width: int = 0, *, scale: float = 1.0) -> None:
        super().__init__()
        self.outputs = outputs
        self.direct = nn.Linear(inputs, outputs)
        nn.init.normal_(self.direct.weight, std=scale / max(inputs, 1) ** 0.5)
        nn.init.zeros_(self.direct.bias)
        self.bent: nn.Module | None = None
        if width:
            last = nn.Linear(width, outputs)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.bent = nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)

    def forward(self, x: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return self.direct(x) if self.bent is None else self.direct(x) + self.bent(x)
