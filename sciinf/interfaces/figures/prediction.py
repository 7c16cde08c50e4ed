"""Report part on data and prediction: a picture of each observable for wide and narrow screens, with its numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sciinf.interfaces.figures.checked import Checked
from sciinf.interfaces.figures.observed import leading
from sciinf.interfaces.figures.page import absent, paragraph, picture
from sciinf.interfaces.figures.predictive import PredictiveFigure, kind_of, predictive
from sciinf.interfaces.figures.run_folder import NOT_PREDICTED, Run
from sciinf.interfaces.figures.series import PANELS
from sciinf.interfaces.figures.style import COLUMN, NARROW
from sciinf.interfaces.figures.svg import places, to_svg

_NUMBERS = 8_000  # Largest number of predicted values that the page carries for its script.
_FEWEST = 40  # With fewer predicted series than this, a selection is not worthwhile.


def prediction_part(run: Run, prefix: str = "") -> str:
    """HTML of each observable's observation against its posterior predictions.

    Args:
        run: The run with the answer.
        prefix: Prefix of the HTML identifiers, used if the page has several answers.
    """
    if not run.checked:
        return absent(run.missing.get("checked" if run.answer else "answer", NOT_PREDICTED))
    each = [_drawn(checked, f"{prefix}predictive{index}") for index, checked in enumerate(run.checked)]
    simulated = f"Simulated from {len(run.checked[0].predictive):,} draws."
    if len(each) == 1:
        one = each[0]
        return picture(one.drawings, f"{one.last.caption} {simulated}", f"{run.checked[0].name}.", one.places)
    parts = []
    for one, checked in zip(each, run.checked, strict=True):
        words = f"{one.last.found} {one.last.note}".strip() if one.small else one.last.caption
        parts.append(picture(one.drawings, words, f"{checked.name}.", one.places, "small" if one.small else ""))
    readings = dict.fromkeys(one.last.reading for one in each if one.small)
    beside = " beside" if each[-1].small and sum(one.small for one in each) % 2 else ""
    reading = paragraph(" ".join([*readings, simulated]), f"caption{beside}")
    return f'<div class="many">{"".join(parts)}{reading}</div>'


class _Picture(NamedTuple):
    """Pictures of an observable for narrow and wide screens: markup, positions of the axes, and the wide figure."""

    drawings: list[str]
    places: list[list[list[float]]]
    last: PredictiveFigure
    small: bool  # Whether the narrow picture may stand beside another picture.


def _drawn(checked: Checked, key: str) -> _Picture:
    narrow, wide = (predictive(checked, width) for width in (NARROW, COLUMN))
    drawings = [
        to_svg(one.figure, f"{checked.name}: observation against data predicted by the posterior. {one.caption}", k)
        for one, k in ((narrow, f"{key}n"), (wide, f"{key}w"))
    ]
    size = narrow.figure.get_size_inches()
    return _Picture(drawings, [places(one.figure, one.panels) for one in (narrow, wide)], wide, size[1] <= size[0])


def predicted_data(run: Run, rows: int) -> list[list[dict[str, Any]]]:
    """Predicted series of each observable, for the page's script: positions along the axis, and the first `rows` rows.

    The list of an observable that is no series is empty.
    """
    return [_series(checked, rows) if kind_of(checked) == "series" else [] for checked in run.checked]


def selectable(run: Run, share: int) -> int:
    """Number of predicted rows that the page carries; 0 if the rows are too large, or if their draws are unknown.

    Args:
        run: The run with the answer.
        share: Number of answers on the page.
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
    x = [float(v) for v in place]  # All digits are kept, because dates may differ only in the last digits.
    return [
        {"x": x, "rows": [[_short(v) for v in row] for row in simulated[:rows, :, k]]}
        for k in range(min(PANELS, simulated.shape[2]))
    ]


def _short(value: float) -> float | None:
    return float(f"{value:.7g}") if np.isfinite(value) else None
