r"""Summary networks for a series: strided convolutions, or a small transformer, along the axis called "time".

Missing entries are zero, and their mask adds further channels, so that "zero" and "not measured" differ. After each
convolution, a step counts as present if any of its input entries was present. Otherwise the step is set to zero, so
that padding does not spread biases inward. For the same reason, normalisation runs over channels, never over time or
over the batch.

References:
    | Attention Is All You Need (Vaswani et al., 2017), https://arxiv.org/abs/1706.03762
    | On Layer Normalization in the Transformer Architecture (Xiong et al., 2020), https://arxiv.org/abs/2002.04745
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core.checks import check_positive
from sciinf.core.observable import Observable
from sciinf.core.summary import Entries, Present, Summary, SummaryNetwork, find_axis
from sciinf.networks.summaries.exchangeable import pool
from sciinf.networks.summaries.perceptron import Perceptron

SHORT = 8  # Largest number of steps that are flattened instead of pooled.


class Conv1d(Summary):
    """Convolutions of stride 2 along time (the first axis if axes have no names).

    The remaining steps are flattened if there are at most 8. Otherwise their mean and maximum over time are used.

    Args:
        features: Number of output features.
        channels: Width of every convolution.
        kernel: Number of steps that one convolution takes, odd.
        layers: Number of convolutions, each of which halves the length. None uses as many as leave at most 8 steps.
    """

    def __init__(self, features: int = 32, channels: int = 32, kernel: int = 5, layers: int | None = None) -> None:
        check_positive(features=features, channels=channels, kernel=kernel, layers=1 if layers is None else layers)
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        self.features, self.channels, self.kernel, self.layers = features, channels, kernel, layers

    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        return _Conv1d(self, spec, masked)


class _Conv1d(SummaryNetwork):
    def __init__(self, plan: Conv1d, spec: Observable, masked: bool) -> None:
        super().__init__(spec.shape, masked)
        self.axis = find_axis(spec, "time")
        length = spec.shape[self.axis]
        layers = plan.layers or max(1, math.ceil(math.log2(length / SHORT)))
        widths = [math.prod(spec.shape) // length * (1 + masked), *[plan.channels] * layers]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, plan.kernel, stride=2, padding=plan.kernel // 2)
            for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(plan.channels) for _ in range(layers))
        self.kernel, self.features = plan.kernel, plan.features
        left = length
        for _ in range(layers):
            left = (left + 1) // 2
        self.flat = left <= SHORT
        width = plan.channels * (left if self.flat else 2)
        self.head = Perceptron([width, 2 * plan.channels, plan.features])

    def summarise(self, x: Entries, mask: Present) -> Float[Tensor, "batch feature"]:
        steps, present = self.items(x, mask, self.axis)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            steps = F.gelu(norm(convolution(steps.transpose(1, 2)).transpose(1, 2)))
            if self.masked:
                seen = F.max_pool1d(
                    present.to(steps.dtype).unsqueeze(1), self.kernel, stride=2, padding=self.kernel // 2
                )
                present = seen.squeeze(1) > 0
                steps = torch.where(present.unsqueeze(-1), steps, 0.0)
        if self.flat:
            return self.head(steps.flatten(1))
        return self.head(pool(steps, present if self.masked else steps.new_ones(steps.shape[:2], dtype=torch.bool)))


class Transformer(Summary):
    """Self-attention along time (the first axis if axes have no names); costs grow with the square of the length.

    Args:
        features: Number of output features.
        width: Width of the tokens, even and a multiple of `heads`.
        heads: Number of attention heads.
        layers: Number of encoder layers.
    """

    def __init__(self, features: int = 32, width: int = 32, heads: int = 4, layers: int = 2) -> None:
        check_positive(features=features, width=width, heads=heads, layers=layers)
        if width % heads or width % 2:
            raise ValueError(f"width must be even and a multiple of heads, got width={width}, heads={heads}")
        self.features, self.width, self.heads, self.layers = features, width, heads, layers

    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        return _Transformer(self, spec, masked)


class _Transformer(SummaryNetwork):
    def __init__(self, plan: Transformer, spec: Observable, masked: bool) -> None:
        super().__init__(spec.shape, masked)
        self.axis = find_axis(spec, "time")
        length = spec.shape[self.axis]
        self.embed = nn.Linear(math.prod(spec.shape) // length * (1 + masked), plan.width)
        layer = nn.TransformerEncoderLayer(
            plan.width, plan.heads, 2 * plan.width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, plan.layers, enable_nested_tensor=False)
        self.register_buffer("positions", _positions(length, plan.width), persistent=False)
        self.norm = nn.LayerNorm(plan.width)
        self.head = Perceptron([2 * plan.width, plan.width, plan.features])
        self.features = plan.features

    def summarise(self, x: Entries, mask: Present) -> Float[Tensor, "batch feature"]:
        steps, present = self.items(x, mask, self.axis)
        tokens = self.embed(steps) + self.positions
        # Attention needs at least one step. So a series without any step attends to all, and none is pooled.
        hidden = ~(present | ~present.any(1, keepdim=True)) if self.masked else None
        return self.head(pool(self.norm(self.encoder(tokens, src_key_padding_mask=hidden)), present))


def _positions(length: int, width: int) -> Tensor:
    """Sines and cosines of the step number at geometrically spaced frequencies, (length, width)."""
    frequency = torch.exp(-math.log(10_000.0) * torch.arange(0, width, 2) / width)
    angle = torch.arange(length).unsqueeze(1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)
