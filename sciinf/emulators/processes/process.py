r"""Processes: prior distributions of a hidden path z(t), with approximate posteriors given one observed series.

A series x_1..x_T was observed at times t_1..t_T; some of its values may be missing. Its path is z_1..z_T, z_k in R^S. A
process has

    p(z_1..z_T | c, u),                    its prior, given what is known of the row (c) and along time (u), and
    q(z_1..z_T | h_1..h_T, c, u),          its posterior, h_k what an encoder made of x_k.

`emulators.LatentDynamics` combines a process with a decoder p(x_k | z_k). It trains encoder, process and decoder
together by the evidence lower bound

    log p(x | c, u) >= E_q[sum_k log p(x_k | z_k)] - KL(q || p).

So a process needs draws of q through which gradients go, and its KL to p, in nats for each row. The KL may be an
estimate, if the estimate is unbiased. One paper, one file.

**Conventions.** Rows are independent of each other. Where `there` is False, `seen` is 0 and has no meaning. Times
increase along a row. Their unit is the mean step of all training rows. If all steps are equal, each is 1 long and
`times` is None. A step may be 0 long, where two values have the same time. Weights and inputs are float32. A
computation that needs float64 converts to it, and returns float32. Everything has to pass `torch.func.vmap`: no
`bool(...)` of a tensor, no branch on values, no writing into tensors, no `nn.GRU` or `nn.LSTM`
(`bayes_steps.SeriesReader` reads series with cells). All randomness comes from the generator.
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
    """Inputs of a process for a batch of rows: encoded values, times, context and controls.

    Args:
        seen: Features that the encoder made of the values at each time, (row, T, F); 0 where nothing was observed.
        there: Whether anything was observed at a time, bool (row, T).
        context: Conditioning values of a row as a whole, (row, C): standardised parameters, and others.
        times: Time of each value, (row, T), in mean steps; time 0 is the mean time at which rows begin. None for equal
            steps of 1 from 0.
        controls: Conditioning values along time, (row, T, U); those of each time act from then on. None if there are
            none.
        offset: Values (row, T, F) that are added to `seen` at all times, also where nothing was observed. They are
            fitted to one series at query. None for no offset.
        theta: Parameters in the prior's order and units, (row, D); None where they are unknown.
        unit: One mean step in the simulator's unit of time, (row,); None for 1.
        origin: Time 0 in the simulator's unit of time, (row,); None for 0.
        nought: Standardised value of a control that is 0 in its own units, (row, U), such as "no dose"; None for 0.
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
        """T, the number of times."""
        return self.seen.shape[1]

    @property
    def read(self) -> Float[Tensor, "row time feature"]:
        """Features that a posterior reads: `seen` plus the offset."""
        return self.seen if self.offset is None else self.seen + self.offset

    def clock(self) -> Float[Tensor, "row time"]:
        """Time of each value in mean steps, also where steps are equal; float32."""
        if self.times is not None:
            return self.times
        return torch.arange(self.length, device=self.seen.device, dtype=self.seen.dtype).expand(len(self), -1)

    def steps(self) -> Float[Tensor, "row step"]:
        """Time from each value to the next, (row, T - 1).

        If steps are equal, the result is (1, T - 1), all 1.
        """
        if self.times is None:
            return self.seen.new_ones(1, self.length - 1)
        return self.times.diff(dim=1)

    def blank(self) -> Series:
        """The same rows without any observation."""
        return replace(self, seen=torch.zeros_like(self.seen), there=torch.zeros_like(self.there), offset=None)


@dataclass(frozen=True)
class Latent:
    """Paths drawn from the posterior, one for each row.

    Args:
        z: The path at the times of the series, (row, T, S), float32, as a differentiable function of all weights.
        kl: KL(q || p) of the row, (row,), nats: exact, or an unbiased estimate.
        log_ratio: log q(z) - log p(z) of the drawn path, (row,), nats. Its mean is `kl`, and exp(-log_ratio) has mean
            1. With it, several draws give a tighter bound. None where the process cannot compute it.
        marginals: For a path over S discrete states: q(z_k = j), (row, T, S), through which gradients go. z is one-hot
            then, and no gradients go through it. Expectations over states are computed exactly from the marginals. None
            for other paths.
    """

    z: Tensor
    kl: Tensor
    log_ratio: Tensor | None = None
    marginals: Tensor | None = None


@dataclass(frozen=True)
class Sizes:
    """Sizes of the inputs of a process, and the names of the parameters.

    Attributes:
        features: F, the number of features at a time in `Series.seen`.
        context: C, the number of conditioning values of a row.
        controls: U, the number of controls; 0 for none.
        names: Names of the parameters in `Series.theta`.
    """

    features: int
    context: int
    controls: int
    names: tuple[str, ...] = ()


class LearnedProcess(nn.Module, ABC):
    """A process with its weights.

    Attributes:
        states: S, the number of components of the path at a time.
        decodes_controls: Whether the decoder sees the controls of a time beside the state. A process sets this to False
            if controls may have been chosen after a look at the values of that time. Such controls would reveal these
            values.
    """

    states: int
    decodes_controls: ClassVar[bool] = True

    @abstractmethod
    def posterior(self, series: Series, *, generator: torch.Generator) -> Latent:
        """Draw a path of each row given the observations, at all times, also where nothing was observed.

        So a series whose later values are missing is forecast.
        """

    @abstractmethod
    def prior(self, series: Series, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
        """Draw a path of each row from its context, times and controls alone; observations are ignored."""

    def shared(self) -> Float[Tensor, ""]:
        """Training penalty in nats of what all rows share, such as weights, counted once for the whole training set.

        It is the KL of these quantities to their prior, or minus the logarithm of a prior, up to a constant. 0 where
        nothing is shared.
        """
        return next(self.parameters()).new_zeros(())

    def cost(self, series: Series, z: Float[Tensor, "row time state"]) -> Float[Tensor, ""]:
        """Training penalty of paths beside the bound, in nats per row: the cost of solving them.

        0 for no penalty.
        """
        return next(self.parameters()).new_zeros(())

    def check(self, series: Series) -> None:
        """Check whether the process can be used for the rows of a query. Training does not call this method.

        Raises:
            ValueError: If the process cannot be used for these rows.

        Warns:
            UserWarning: If the process is inaccurate for these rows.
        """
        return None


class Process(Component, ABC):
    """Recipe of a process; its sizes come from the data."""

    @abstractmethod
    def build(self, sizes: Sizes, *, seed: int) -> LearnedProcess:
        """The process with freshly drawn weights.

        Args:
            sizes: Sizes of the process's inputs.
            seed: Seed of the weights.
        """


@final
class Linear(nn.Module):
    """y = W x + b + MLP(x), which is linear at first, because the last layer of the MLP begins at 0.

    Args:
        inputs: Number of inputs.
        outputs: Number of outputs.
        width: Width of the MLP's two hidden layers; 0 for no MLP.
        scale: Scale of the initial entries of W, in 1 / sqrt(inputs).
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
