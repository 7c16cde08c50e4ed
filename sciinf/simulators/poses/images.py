"""Shifts and rotations of images."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from sciinf.core import X
from sciinf.core.component import Component
from sciinf.simulators.poses.pose import values_of


class ImageMotion(Component):
    """Shifts or rotates images by a pose, with interpolation between pixels. Pixels from outside the image are 0.

    With `kind="turn"` the pose is an angle in radians, from the axis of columns to the axis of rows. Images are rotated
    about their centre. With `kind="shift"` the pose is a shift in columns and a shift in rows, in pixels.

    Args:
        kind: "turn" or "shift".
        names: Observables to be moved, of shape (rows, columns) or (channels, rows, columns). All observables except
            masks by default.
        mode: Interpolation, "bilinear" or "bicubic".

    Raises:
        ValueError: If the kind or the mode is not one of these values.
    """

    def __init__(self, kind: str, names: tuple[str, ...] | None = None, *, mode: str = "bicubic") -> None:
        if kind not in ("turn", "shift") or mode not in ("bilinear", "bicubic"):
            raise ValueError(f"kind is 'turn' or 'shift', mode 'bilinear' or 'bicubic'; got {kind!r} and {mode!r}")
        self.kind, self.mode = kind, mode
        self.names = None if names is None else tuple(names)

    def __call__(self, x: X, pose: Float[Tensor, "batch k"]) -> X:
        return {name: self._moved(x[name], pose.to(x[name])) for name in self.names or values_of(x)}

    def _moved(self, value: Tensor, pose: Tensor) -> Tensor:
        """Images in which each pixel has the value of the place from which the pose moves it."""
        rows, columns = value.shape[-2:]
        images = value.reshape(len(value), -1, rows, columns)
        zero, one = torch.zeros_like(pose[:, 0]), torch.ones_like(pose[:, 0])
        if self.kind == "turn":
            cos, sin = pose[:, 0].cos(), pose[:, 0].sin()
            matrix = [[cos, sin * (rows / columns), zero], [-sin * (columns / rows), cos, zero]]
        else:
            matrix = [[one, zero, -2 * pose[:, 0] / columns], [zero, one, -2 * pose[:, 1] / rows]]
        affine = torch.stack([torch.stack(row, dim=-1) for row in matrix], dim=-2)
        grid = affine_grid(affine, list(images.shape), align_corners=False)
        return grid_sample(images, grid, mode=self.mode, align_corners=False).reshape(value.shape)
