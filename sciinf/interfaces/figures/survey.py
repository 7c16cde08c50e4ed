"""Figure of a survey: how unusual its rows are compared with chance, and how much each row tells.

The left panel shows the p-values of the observations. They are spread evenly if the simulator made the rows. Rows with
a p-value below 0.01 are outside. The other panels show the posterior sd of each parameter, as a fraction of the prior
sd, against its posterior median.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciinf.core.files import write_bytes
from sciinf.interfaces.figures.style import BLUE, INK, MUTED, VERMILION, WIDTH, label, styled
from sciinf.interfaces.surveys.answers import Answers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS, _CELLS, _MOST = 50, 60, 3
_PRIOR_DRAWS = 20_000


@styled
def survey_figure(answers: Answers) -> Figure:
    """Figure of a survey.

    Args:
        answers: Answers of the survey, complete.

    Raises:
        ValueError: If rows are missing.
    """
    from matplotlib.figure import Figure

    names = [name for name in answers.prior.names if f"{name}_sd" in answers.columns][:_MOST]
    figure = Figure(figsize=(WIDTH, 2.7), layout="constrained")
    panels: Any = figure.subplots(1, 1 + len(names), squeeze=False)[0]
    wanted = ("p_value", "outside", *(f"{name}_{what}" for name in names for what in ("q50", "sd")))
    columns = answers.columns_of(wanted)
    _p_values(panels[0], answers, columns["p_value"])
    theta = answers.prior.sample(_PRIOR_DRAWS, generator=torch.Generator().manual_seed(0)).double().numpy()
    for axes, name in zip(panels[1:], names, strict=True):
        d = answers.prior.names.index(name)
        shown = ~columns["outside"]
        middle, sd = (
            columns[f"{name}_q50"][shown],
            columns[f"{name}_sd"][shown] / (float(np.nanstd(theta[:, d])) or np.nan),
        )
        _told(axes, label(f"median of {name}", answers.columns[f"{name}_q50"]), middle, sd)
        axes.set_title(f"what is known of {name}")
    if answers.calibrated != "passed":
        figure.suptitle(f"calibration: {answers.calibrated}", x=0.01, ha="left", color=VERMILION, fontsize=9.0)
    return figure


def write_picture(answers: Answers, path: Path) -> Path:
    """Write the figure of a survey as a PNG file, and return its path.

    Raises:
        OSError: If the file cannot be written.
    """
    image = io.BytesIO()
    survey_figure(answers).savefig(image, format="png", dpi=110, facecolor="white")
    write_bytes(path, image.getvalue())
    return path


def _p_values(axes: Axes, answers: Answers, p: np.ndarray) -> None:
    """Draw the histogram of p-values of the rows that were compared with simulations."""
    p, outside = p[np.isfinite(p)], answers.found["trust"]["alarm"]
    axes.set_title(f"{outside:,} of {len(p):,} outside ({outside / len(p):.1%})" if len(p) else "never compared")
    axes.set_xlabel("p-value of the observation")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if not len(p):
        words = "nobody can tell which rows\nare like the simulations"
        axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", color=MUTED)
        return
    counts, edges = np.histogram(p, _BINS, (0, 1))
    axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=BLUE, alpha=0.6)
    axes.bar(0, outside, edges[1], align="edge", color=VERMILION)
    axes.axhline(len(p) / _BINS, color=INK, linewidth=1.0)
    axes.text(1, len(p) / _BINS, "by chance", ha="right", va="bottom", color=MUTED)


def _told(axes: Axes, words: str, middle: np.ndarray, y: np.ndarray) -> None:
    """Draw the histogram of posterior sds, as fractions of the prior sd, against posterior medians."""
    from matplotlib.colors import LogNorm

    good = np.isfinite(middle) & np.isfinite(y)
    axes.set_xlabel(words)
    axes.set_ylabel("sd / prior sd")
    if good.any():
        middle, y = middle[good], y[good]
        top = max(1.0, float(np.quantile(y, 0.999)))
        span = [_span(middle), (0, top)]
        axes.hist2d(middle, y, _CELLS, range=span, cmap="Blues", norm=LogNorm(0.5))
        axes.axhline(1.0, color=MUTED, linewidth=0.8)


def _span(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (0.001, 0.999))
    pad = 0.02 * (high - low) or 1.0
    return float(low - pad), float(high + pad)
