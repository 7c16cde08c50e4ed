r"""Summary network for a spectrum, whose features give the number and the positions of lines anywhere.

Let x_j be the entries of n channels, and * a convolution. With mean and max over channels,

    h = gelu(A * x),
    g = gelu(B * h + C [mean h, max h]),
    s = P([x, gelu(D * g), mean g, max g]).

Only the convolution D has a stride, so each channel gets information on its neighbours. C adds information on the whole
spectrum, such as the continuum, against which a line stands out. The number of lines does not depend on their
positions. So mean and maximum of g learn this number from lines anywhere. The positions come from x and from D, which
keeps about 20 positions. P is a perceptron. A network without mean and maximum must learn the shape of a line
separately for each channel.

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

_PLACES = 20  # Number of positions that the strided convolution keeps.
_MOST = 256  # Largest number of values that also enter the perceptron directly.


class Spectrum(Summary):
    """Convolutions along a spectrum, pooled for the number of lines and flattened for their positions.

    Missing entries are zero, and their mask adds further inputs. Pooling uses only channels with at least one present
    entry.

    Args:
        features: Number of output features.
        channels: Width of the first convolution. The second convolution is twice as wide.
        kernel: Number of spectral channels that one convolution takes, odd; about the width of a line.
        hidden: Width of the perceptron.
        axis: Name of the axis along which the lines lie. None uses the first axis.

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
        """Mean and maximum over the channels that are present."""
        if self.masked:
            return pool(values.transpose(1, 2), present)
        return torch.cat([values.mean(-1), values.amax(-1)], dim=1)
