r"""Distributions of observed values given a hidden state at one time; a decoder gives their parameters.

    Gaussian:     x = m + s f + s sigma e,   e ~ N(0, 1),   sigma learned for each channel,
    Poisson:      x ~ Poisson(exp(f + log m)),
    Bernoulli:    x ~ Bernoulli(sigmoid(f)),
    Categorical:  x ~ softmax(f_1..f_n),     x in 0..n - 1.

f is the output of the decoder, and m and s are the mean and sd of a channel in the training rows. Given the state,
channels and times are independent. Densities are in the target's own units.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from sciinf.core.checks import check_whole
from sciinf.core.component import Component
from sciinf.emulators._fields import FieldMoments

_LEAST_LOG_SD = -7.0  # Lower bound of the log noise sd of a channel whose sd is 1.


class EmissionLaw(nn.Module, ABC):
    """A distribution of values with its learned parameters.

    Attributes:
        inputs: Number of features that the encoder reads from a time's channels.
        outputs: Number of values that the decoder gives for these channels.
        ordered: Whether values are numbers, so that they have a mean. Labels are not.
    """

    inputs: int
    outputs: int
    ordered: bool = True

    @abstractmethod
    def standardise(self, values: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Take the needed statistics from the training rows.

        Args:
            values: Pairs of values and the mask of the observed ones, (row, T, C).

        Raises:
            ValueError: If a value is impossible under this distribution.
        """

    @abstractmethod
    def read(self, x: Float[Tensor, "row time channel"]) -> Float[Tensor, "row time input"]:
        """Features of values that the encoder reads."""

    @abstractmethod
    def log_prob(
        self, found: Float[Tensor, "*batch output"], x: Float[Tensor, "*batch channel"]
    ) -> Float[Tensor, "*batch channel"]:
        """Log density of each channel, in nats, in the channel's own units."""

    @abstractmethod
    def mean(self, found: Float[Tensor, "draw *batch output"]) -> Float[Tensor, "*batch channel"]:
        """The mean of each channel over draws of the decoder's output; for labels, the likeliest label."""

    @abstractmethod
    def draw(
        self, found: Float[Tensor, "*batch output"], *, generator: torch.Generator
    ) -> Float[Tensor, "*batch channel"]:
        """Draw values, given the decoder's output."""


class Emission(Component, ABC):
    """Recipe of a distribution of observed values."""

    @abstractmethod
    def build(self, channels: int) -> EmissionLaw:
        """The distribution for a number of channels."""


class Gaussian(Emission):
    """Numbers with Gaussian noise, whose sd is learned for each channel."""

    def build(self, channels: int) -> EmissionLaw:
        return _Gaussian(channels)


class Poisson(Emission):
    """Counts with a Poisson distribution."""

    def build(self, channels: int) -> EmissionLaw:
        return _Poisson(channels)


class Bernoulli(Emission):
    """Binary values 0 and 1 with a Bernoulli distribution."""

    def build(self, channels: int) -> EmissionLaw:
        return _Bernoulli(channels)


class Categorical(Emission):
    """Labels 0..n - 1 with a categorical distribution.

    Args:
        labels: n, the number of labels.

    Raises:
        ValueError: If there are not at least 2 labels.
    """

    def __init__(self, labels: int) -> None:
        check_whole("labels", labels, 2)
        self.labels = labels

    def build(self, channels: int) -> EmissionLaw:
        return _Categorical(channels, self.labels)


@final
class _Gaussian(EmissionLaw):
    center: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inputs = self.outputs = channels
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.log_sd = nn.Parameter(torch.full((channels,), math.log(0.5)))

    def standardise(self, values: Iterator[tuple[Tensor, Tensor]]) -> None:
        found = [FieldMoments() for _ in range(self.inputs)]
        for x, there in values:
            for k, moments in enumerate(found):
                if bool(there[..., k].any()):
                    moments.add(x[..., k][there[..., k]], (0,))
        for k, moments in enumerate(found):
            moments.into(self.center[k], self.scale[k])

    def read(self, x: Tensor) -> Tensor:
        return (x - self.center) / self.scale

    def log_prob(self, found: Tensor, x: Tensor) -> Tensor:
        log_sd = self.log_sd.clamp_min(_LEAST_LOG_SD)
        off = (self.read(x) - found) * (-log_sd).exp()
        return -0.5 * off.square() - log_sd - self.scale.log() - 0.5 * math.log(2 * math.pi)

    def mean(self, found: Tensor) -> Tensor:
        return self.center + self.scale * found.mean(0)

    def draw(self, found: Tensor, *, generator: torch.Generator) -> Tensor:
        noise = torch.randn(found.shape, generator=generator, device=generator.device).to(found)
        return self.center + self.scale * (found + self.log_sd.clamp_min(_LEAST_LOG_SD).exp() * noise)


@final
class _Poisson(EmissionLaw):
    level: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inputs = self.outputs = channels
        self.register_buffer("level", torch.zeros(channels))
        self.register_buffer("center", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def standardise(self, values: Iterator[tuple[Tensor, Tensor]]) -> None:
        plain, logs = ([FieldMoments() for _ in range(self.inputs)] for _ in range(2))
        for x, there in values:
            _check_whole_numbers(x[there], None)
            for k in range(self.inputs):
                if bool(there[..., k].any()):
                    plain[k].add(x[..., k][there[..., k]], (0,))
                    logs[k].add(x[..., k][there[..., k]].log1p(), (0,))
        for k in range(self.inputs):
            mean = self.level[k].clone()
            plain[k].into(mean, self.scale[k])
            self.level[k] = mean.clamp_min(1e-3).log()
            logs[k].into(self.center[k], self.scale[k])

    def read(self, x: Tensor) -> Tensor:
        return (x.clamp_min(0).log1p() - self.center) / self.scale

    def log_prob(self, found: Tensor, x: Tensor) -> Tensor:
        log_rate = found + self.level
        log = x * log_rate - log_rate.exp() - torch.lgamma(x.clamp_min(0) + 1)
        return torch.where((x >= 0) & (x == x.round()), log, -math.inf)

    def mean(self, found: Tensor) -> Tensor:
        return (found + self.level).exp().mean(0)

    def draw(self, found: Tensor, *, generator: torch.Generator) -> Tensor:
        rate = (found + self.level).exp().to(generator.device)
        return torch.poisson(rate, generator=generator).to(found)


@final
class _Bernoulli(EmissionLaw):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inputs = self.outputs = channels

    def standardise(self, values: Iterator[tuple[Tensor, Tensor]]) -> None:
        for x, there in values:
            _check_whole_numbers(x[there], 2)

    def read(self, x: Tensor) -> Tensor:
        return 2 * x - 1

    def log_prob(self, found: Tensor, x: Tensor) -> Tensor:
        return torch.where((x == 0) | (x == 1), functional.logsigmoid(found * (2 * x - 1)), -math.inf)

    def mean(self, found: Tensor) -> Tensor:
        return found.sigmoid().mean(0)

    def draw(self, found: Tensor, *, generator: torch.Generator) -> Tensor:
        at = torch.rand(found.shape, generator=generator, device=generator.device).to(found)
        return (at < found.sigmoid()).to(found)


@final
class _Categorical(EmissionLaw):
    def __init__(self, channels: int, labels: int) -> None:
        super().__init__()
        self.labels, self.ordered = labels, False
        self.inputs = self.outputs = channels * labels

    def standardise(self, values: Iterator[tuple[Tensor, Tensor]]) -> None:
        for x, there in values:
            _check_whole_numbers(x[there], self.labels)

    def read(self, x: Tensor) -> Tensor:
        return self._one_hot(x).flatten(-2)

    def log_prob(self, found: Tensor, x: Tensor) -> Tensor:
        one_hot = self._one_hot(x)
        return torch.where(one_hot.sum(-1) > 0, (self._logits(found).log_softmax(-1) * one_hot).sum(-1), -math.inf)

    def mean(self, found: Tensor) -> Tensor:
        return self._logits(found).softmax(-1).mean(0).argmax(-1).to(found)

    def draw(self, found: Tensor, *, generator: torch.Generator) -> Tensor:
        logits = self._logits(found)
        noise = torch.rand(logits.shape, generator=generator, device=generator.device).to(found).clamp(1e-12, 1 - 1e-7)
        return (logits - (-noise.log()).log()).argmax(-1).to(found)

    def _logits(self, found: Tensor) -> Tensor:
        return found.unflatten(-1, (-1, self.labels))

    def _one_hot(self, x: Tensor) -> Tensor:
        return (x[..., None] == torch.arange(self.labels, device=x.device)).to(x)


def _check_whole_numbers(x: Float[Tensor, " value"] | Bool[Tensor, " value"], below: int | None) -> None:
    wrong = (x < 0) | (x != x.round()) | (x >= below if below is not None else torch.zeros_like(x, dtype=torch.bool))
    if bool(wrong.any()):
        to = "0 and up" if below is None else f"0..{below - 1}"
        raise ValueError(
            f"values are to be whole numbers, {to}, and there is {float(x[wrong][0]):g}: take another emission"
        )
