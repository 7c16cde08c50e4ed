"""Summary network for an image: strided convolutions over two axes that are called "y", "x", "row" or "column".

Axes without names are read as (H, W) or (C, H, W). Missing pixels are zero, and their mask adds further channels.
Normalisation is per image, never over the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_positive
from sciinf.core.observable import Observable
from sciinf.core.summary import IMAGE_AXES, Entries, Present, Summary, SummaryNetwork
from sciinf.networks.summaries.perceptron import Perceptron

SMALL = 4  # Largest side, in pixels, of a feature map that is flattened.


class CNN(Summary):
    """Convolutions of 3 x 3 pixels and stride 2, until at most 4 x 4 pixels are left, which are flattened.

    Args:
        features: Number of output features.
        channels: Widths of the convolutions. The last width is repeated as often as the image size requires.
    """

    def __init__(self, features: int = 32, channels: Sequence[int] = (16, 32, 64)) -> None:
        check_positive(features=features, channels=min(channels, default=0))
        self.features, self.channels = features, tuple(channels)

    def build(self, spec: Observable, *, masked: bool) -> SummaryNetwork:
        return _CNN(self, spec, masked)


class _CNN(SummaryNetwork):
    def __init__(self, plan: CNN, spec: Observable, masked: bool) -> None:
        super().__init__(spec.shape, masked)
        self.axes = image_axes(spec)
        height, width = (spec.shape[axis] for axis in self.axes)
        before = math.prod(spec.shape) // (height * width) * (1 + masked)
        layers: list[nn.Module] = []
        for index in range(max(1, math.ceil(math.log2(max(height, width) / SMALL)))):
            after = plan.channels[min(index, len(plan.channels) - 1)]
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.GELU()]
            before, height, width = after, (height + 1) // 2, (width + 1) // 2
        self.net = nn.Sequential(*layers, nn.Flatten())
        self.head = Perceptron([before * height * width, 2 * before, plan.features])
        self.features = plan.features

    def summarise(self, x: Entries, mask: Present) -> Float[Tensor, "batch feature"]:
        image = self._channels_first(x)
        if self.masked:
            image = torch.cat([image, self._channels_first(mask).to(image.dtype)], dim=1)
        return self.head(self.net(image))

    def _channels_first(self, x: Tensor) -> Tensor:
        moved = x.movedim([axis + 1 for axis in self.axes], [-2, -1])
        return moved.reshape(len(x), -1, *moved.shape[-2:])


def image_axes(spec: Observable) -> tuple[int, int]:
    """The two axes of the image, among the axes of one row.

    Raises:
        ValueError: If there are not exactly two image axes.
    """
    axes = [i for i, name in enumerate(spec.dims) if name in IMAGE_AXES]
    if not spec.dims and len(spec.shape) in (2, 3):
        axes = [len(spec.shape) - 2, len(spec.shape) - 1]
    if len(axes) != 2:
        raise ValueError(
            f"an image has two axes called two of {IMAGE_AXES}; the observable has shape {spec.shape} and dims "
            f"{spec.dims or '()'}"
        )
    return axes[0], axes[1]
