"""Data and prediction: a picture of each observable for wide and for narrow screens, and the numbers behind it."""

from __future__ import annotations

from typing import Any

import numpy as np

from sciinf.figures.checked import Checked
from sciinf.figures.observed import leading
from sciinf.figures.page import absent, picture
from sciinf.figures.predictive import kind_of, predictive
from sciinf.figures.run_folder import NOT_PREDICTED, Run
from sciinf.figures.series import PANELS
from sciinf.figures.style import COLUMN, NARROW
from sciinf.figures.svg import places, to_svg

_NUMBERS = 8_000  # of predicted data that the page carries for its script
_FEWEST = 40  # predicted series that are worth selecting among


def prediction_part(run: Run, prefix: str = "") -> str:
    """Each observable's observation against what its posterior predicts.

    Args:
        run: The run with the answer.
        prefix: Goes before identifiers, where the page has several answers.
    """
    if not run.checked:
        return absent(run.missing.get("checked" if run.answer else "answer", NOT_PREDICTED))
    parts = []
    for index, checked in enumerate(run.checked):
        drawings, where, caption = [], [], ""
        for width in (NARROW, COLUMN):
            drawn = predictive(checked, width)
            alt = f"{checked.name}: observation against data predicted by the posterior. {drawn.caption}"
            drawings.append(to_svg(drawn.figure, alt, f"{prefix}predictive{index}{'nw'[width == COLUMN]}"))
            where.append(places(drawn.figure, drawn.panels))
            caption = f"{drawn.caption} {drawn.note}".strip()
        simulated = f" Simulated from {len(checked.predictive):,} draws."
        parts.append(picture(drawings, caption + simulated, f"{checked.name}.", where))
    return "".join(parts)


def predicted_data(run: Run, rows: int) -> list[list[dict[str, Any]]]:
    """For each observable its drawn series: places along the axis, and the first predicted rows, for the script.

    An observable that is no series has none.
    """
    return [_series(checked, rows) if kind_of(checked) == "series" else [] for checked in run.checked]


def selectable(run: Run, share: int) -> int:
    """How many predicted rows the page carries; 0 where they are too large, or their draws are not known.

    Args:
        run: The run with the answer.
        share: How many answers there are on the page.
    """
    known = [c for c in run.checked if kind_of(c) == "series"]
    total = sum(c.observed.shape[c.axis or 0] * min(PANELS, _components(c)) for c in known)
    rows = min(len(run.predicted_from), _NUMBERS // max(total * share, 1))
    matching = all(len(c.predictive) == len(run.predicted_from) for c in known)
    return rows if known and matching and rows >= _FEWEST else 0


def _components(checked: Checked) -> int:
    return checked.observed.size // checked.observed.shape[checked.axis or 0]


def _series(checked: Checked, rows: int) -> list[dict[str, Any]]:
    axis = checked.axis or 0
    _, simulated = leading(checked, [axis])
    along = checked.coords.get(checked.dims[axis])
    place = np.arange(simulated.shape[1]) if along is None or along.places is None else along.places
    x = [float(v) for v in place]  # all digits: a date may differ from the next in its last ones
    return [
        {"x": x, "rows": [[_short(v) for v in row] for row in simulated[:rows, :, k]]}
        for k in range(min(PANELS, simulated.shape[2]))
    ]


def _short(value: float) -> float | None:
    return float(f"{value:.7g}") if np.isfinite(value) else None
