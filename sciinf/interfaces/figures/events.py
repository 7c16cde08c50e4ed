"""Figure of runs inside an event: draws of a generator beside runs of the solver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sciinf.interfaces.figures.style import BLUE, INK, WIDTH, look

_CURVES = 40  # Largest number of curves shown.
_BANDS = (0.05, 0.25, 0.5, 0.75, 0.95)


def draw_event(
    file: Path,
    times: Sequence[float],
    drawn: Float[Tensor, "draw time"],
    runs: Float[Tensor, "run time"],
    name: str,
) -> None:
    """Write a picture of some draws and some solver runs as curves, and of the quantiles of both at each time.

    Args:
        file: Path of the PNG file to write.
        times: Time of each frame.
        drawn: One number per frame, for each draw of the event.
        runs: The same number for each run of the solver that fell inside the event; may be empty.
        name: Name of this number, which labels the axis.

    Raises:
        ValueError: If there are no draws.
    """
    if not len(drawn):
        raise ValueError("there are no draws of the event to be shown")
    from matplotlib.figure import Figure

    with look():
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained", facecolor="white")
        left, middle, right = figure.subplots(1, 3, sharey=True)
        for axes, some, colour, what in (
            (left, drawn, BLUE, "draws of the generator"),
            (middle, runs, INK, "runs of the solver" if len(runs) else "no run of the solver was inside"),
        ):
            for one in some[:_CURVES].numpy():
                axes.plot(times, one, color=colour, linewidth=0.6, alpha=0.5)
            axes.set_title(what)
        for some, colour, style in ((drawn, BLUE, "-"), (runs, INK, "--")):
            for one in np.quantile(some.numpy(), _BANDS, axis=0) if len(some) else ():
                right.plot(times, one, style, color=colour, linewidth=1.2)
        right.set_title("5, 25, 50, 75 and 95 % of both")
        for axes in (left, middle, right):
            axes.set_xlabel("time")
        left.set_ylabel(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150)
