"""Figure of random draws of fields beside a true solution: some draws, their mean and their standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Observable
from sciinf.interfaces.figures.style import WIDTH, label, look

_FRAMES, _DRAWS = 4, 3  # Largest numbers of frames and of draws shown.


def draw_drawn(
    file: Path,
    times: Sequence[float],
    true: Float[Tensor, "time channel y x"],
    drawn: Float[Tensor, "draw time channel y x"],
    spec: Observable,
    *,
    title: str = "",
) -> None:
    """Write a picture with one line of maps for each of some frames, of the first channel.

    Args:
        file: Path of the PNG file to write.
        times: Time of each frame.
        true: True solution, made by the solver.
        drawn: Draws from the same start.
        spec: Observable, whose unit is written at the maps.
        title: Words above the maps on what the draws were asked for; "" for none.

    Raises:
        ValueError: If there are fewer than two draws, or the fields do not have two spatial dimensions.
    """
    if len(drawn) < 2 or drawn.ndim != 5:
        raise ValueError(f"two or more draws (time, channel, y, x) are needed, got an array {tuple(drawn.shape)}")
    from matplotlib.figure import Figure

    count, few = len(times), min(_DRAWS, len(drawn))
    frames = sorted({round(k) for k in np.linspace(min(1, count - 1), count - 1, min(_FRAMES, count))})
    names = ["solver", *[f"draw {k + 1}" for k in range(few)], f"mean of {len(drawn)}", "sd"]
    height, width = drawn.shape[3:]
    tall = 0.3 + 1.42 * len(frames) * min(2.0, height / width) + 0.3 * bool(title)
    with look():
        figure = Figure(figsize=(WIDTH, tall), layout="constrained", facecolor="white")
        axes: Any = figure.subplots(len(frames), few + 3, squeeze=False)
        for line, k in zip(axes, frames, strict=True):
            some = drawn[:, k, 0].double()
            maps = [one.numpy() for one in (true[k, 0].double(), *some[:few], some.mean(0), some.std(0))]
            _line(figure, line, maps)
            line[0].set_ylabel(f"t = {times[k]:g}")
        for ax, name in zip(axes[0], names, strict=True):
            ax.set_title(label(name, spec.unit) if name == "solver" else name)
        if title:
            figure.suptitle(title, x=0.01, ha="left")
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150)


def _line(figure: Any, line: Sequence[Any], maps: Sequence[np.ndarray]) -> None:
    """Draw one line of maps.

    Fields have the colour range of the true solution. The standard deviation has a range of its own.
    """
    low, high = float(maps[0].min()), float(maps[0].max())
    colours = "viridis"
    if low < 0 < high:  # A symmetric range makes zero white.
        high = max(-low, high)
        low, colours = -high, "RdBu_r"
    for ax, field in zip(line, maps, strict=True):
        last = ax is line[-1]
        ends = (0.0, max(float(field.max()), 1e-30)) if last else (low, high)
        image = ax.imshow(field, origin="lower", cmap="Purples" if last else colours, vmin=ends[0], vmax=ends[1])
        ax.set_xticks([])
        ax.set_yticks([])
        if ax in (line[-2], line[-1]):
            figure.colorbar(image, ax=ax, shrink=0.9, aspect=16)
