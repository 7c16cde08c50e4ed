r"""Features of a spectrum: lines that are to be counted, and found, wherever they stand.

With the entries x_j of n channels, * a convolution, and mean and max taken over channels,

    h = gelu(A * x),
    g = gelu(B * h + C [mean h, max h]),
    s = P([x, gelu(D * g), mean g, max g]).

No convolution but D has a stride, so that each channel is told what is near it. C tells it what the whole spectrum is
like as well, its continuum say, beside which a line is one. What is counted has no place, and so mean and maximum of g
learn it from lines anywhere; D, which keeps about 20 places, and x say where they are. P is a perceptron. A network
without mean and maximum has to learn what a line is once for each channel.

References:
    | Squeeze-and-Excitation Networks (Hu et al., 2018), for channels that are told of the whole,
      https://arxiv.org/abs/1709.01507
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core.checks import check_positive
from sciinf.core.observable import Observable
from sciinf.core.summary import Entries, Present, Summary, SummaryNetwork, find_axis
from sciinf.networks.summaries.exchangeable import pool
from sciinf.networks.summaries.perceptron import Perceptron

_PLACES = 20  # that are told apart beside the channels themselves
_MOST = 256  # numbers that enter the perceptron by themselves


class Spectrum(Summary):
    """Convolutions of every channel, told of the whole spectrum; pooled for what is counted, flattened for where it is.

    Missing entries are zero and their mask is a further set of inputs; what is pooled is that of channels of which
    some entry is there.

    Args:
        features: Width of the output.
        channels: Width of the first convolution; the second has twice as many.
        kernel: Channels of the spectrum that a convolution sees, odd: about as many as a line is wide.
        hidden: Width of the perceptron.
        axis: The axis along which the lines are, by its name; the first one where left out.

    Raises:
        ValueError: If a number is below 1, or the kernel even.

    Examples:
        >>> network = Spectrum(features=8).build(Observable((60,), dims=("energy",)), masked=False)
        >>> network(torch.zeros(5, 60)).shape
        torch.Size([5, 8])
    """

    def __init__(
        self, features: int = 64, channels: int = 16, kernel: int = 7, hidden: int = 128, axis: str | None = None
    ) -> None:
        check_positive(features=features, channels=channels, kernel=kernel, hidden=hidden)
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        self.features, self.channels, self.kernel, self.hidden, self.axis = features, channels, kernel, hidden, axis

    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        return _Spectrum(self, spec, masked)


class _Spectrum(SummaryNetwork):
    def __init__(self, plan: Spectrum, spec: Observable, masked: bool) -> None:
        super().__init__(spec.shape, masked)
        self.axis = find_axis(spec, plan.axis or (spec.dims[0] if spec.dims else "energy"))
        length, numbers = spec.shape[self.axis], math.prod(spec.shape) * (1 + masked)
        stride, wide, half = -(-length // _PLACES), 2 * plan.channels, plan.kernel // 2
        self.near = nn.Conv1d(numbers // length, plan.channels, plan.kernel, padding=half)
        self.among = nn.Conv1d(plan.channels, wide, plan.kernel, padding=half)
        self.whole = nn.Linear(2 * plan.channels, wide)
        reach = max(2, stride - 1)
        self.where = nn.Conv1d(wide, plan.channels, 2 * reach + 1, stride=stride, padding=reach)
        self.plain = numbers if numbers <= _MOST else 0
        places = -(-length // stride)
        self.head = Perceptron([self.plain + places * plan.channels + 2 * wide, plan.hidden, plan.features])
        self.features = plan.features

    def summarise(self, x: Entries, mask: Present) -> Float[Tensor, "batch feature"]:
        steps, present = self.items(x, mask, self.axis)
        near = F.gelu(self.near(steps.transpose(1, 2)))
        whole = self.whole(self._pooled(near, present))
        among = F.gelu(self.among(near) + whole.unsqueeze(-1))
        parts = [F.gelu(self.where(among)).flatten(1), self._pooled(among, present)]
        return self.head(torch.cat([steps.flatten(1), *parts] if self.plain else parts, dim=1))

    def _pooled(
        self, values: Float[Tensor, "batch width n"], present: Bool[Tensor, "batch n"]
    ) -> Float[Tensor, "batch width2"]:
        """Mean and maximum over channels."""
        if self.masked:
            return pool(values.transpose(1, 2), present)
        return torch.cat([values.mean(-1), values.amax(-1)], dim=1)
