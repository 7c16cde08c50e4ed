"""Page of an unfinished run: its stages, its progress and its losses so far, above an answer if there is one.

The page is made every few seconds while other work has to be fast. Making it therefore takes only a millisecond.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float

from sciinf.core.progress import Reached
from sciinf.interfaces.figures.page import details, duration, page, paragraph, section, table

PLANNED = ("look first", "simulate", "train", "calibrate", "answer")
RENEWED, READ = 5, 30  # Seconds until a browser reloads a page without and with an answer.
_WIDE, _HIGH = 600, 160  # Size of the drawing of the losses, which is stretched to the page.
_POINTS = 300
_PROGRESS = "progress"  # HTML identifier of the part on the progress of a run.
_COLUMNS = ("epoch", "train_loss", "validation_loss")


@dataclass(frozen=True)
class Stage:
    """Stage of a run: its name, and the seconds that it took or has taken so far."""

    name: str
    seconds: float


@dataclass(frozen=True)
class Course:
    """State of an unfinished run.

    Args:
        title: Text that says what is inferred.
        command: Command that continues the run.
        written: Time of this state, in words.
        stages: Stages begun so far, in order. The last stage is running, or was running when the run was stopped.
        reached: Progress of the last stage, if it is known.
        history: Validations of the latest training, as in `Reached`.
        stopped: Sentence on why the run was stopped; "" while it runs.
        earlier: Command that shows earlier answers; "" if there are none.
    """

    title: str
    command: str
    written: str
    stages: Sequence[Stage]
    reached: Reached | None = None
    history: Sequence[Mapping[str, float]] = ()
    stopped: str = ""
    earlier: str = ""


def progress_page(course: Course, report: str = "") -> str:
    """HTML page of an unfinished run.

    Args:
        course: State of the run.
        report: HTML page of the answer that exists already, shown below the progress; "" if there is none.

    Returns:
        The page, which reloads itself unless the run was stopped.
    """
    head, told = _head(course, bool(report)), _stages(course) + _losses(course)
    if report:
        return _renewed(report, head + details("Stages so far", told), 0 if course.stopped else READ)
    if course.earlier:
        told += paragraph(f"The folder has earlier answers; `{course.earlier}` writes their report.")
    whole = page(course.title, "The report takes the place of this page.", head + told, {}, "Written by sciinf.")
    return _renewed(whole, "", 0 if course.stopped else RENEWED)


def is_progress(html: str) -> bool:
    """Whether an HTML page shows the progress of a run, instead of only a report."""
    return f'id="{_PROGRESS}"' in html


def _renewed(html: str, first: str, seconds: int) -> str:
    """HTML page with the markup `first` before all other content.

    A browser reloads the page after `seconds`. It never does if `seconds` is 0.
    """
    again = f'<meta http-equiv="refresh" content="{seconds}">\n<meta charset' if seconds else "<meta charset"
    return html.replace("<meta charset", again, 1).replace("<main>", f"<main>{first}", 1)


def _head(course: Course, answered: bool) -> str:
    """HTML on which stage runs and its progress, or on why the run was stopped.

    The command that continues the run is shown as well.
    """
    now, command = course.stages[-1].name, f"<code>{escape(course.command)}</code>"
    if course.stopped:
        words = f"Stopped in the stage “{now}”: {course.stopped}"
        line = f"That was at {escape(course.written)}. {command} goes on where it was."
    else:
        words = f"Running: {', '.join(filter(None, [now, _far(course)]))}"
        line = (
            f"Written at {escape(course.written)}, and anew every few seconds. If that is long ago, the run was "
            f"stopped, and {command} goes on where it was."
        )
    below = " The answer below is the one that stood before this stage." if answered else ""
    kind = " amber" if course.stopped else ""
    return (
        f'<section class="verdict{kind}" id="{_PROGRESS}" aria-label="Progress"><p class="headline">{escape(words)}</p>'
        f'<p class="next">{line}{below}</p></section>'
    )


def _far(course: Course) -> str:
    """Words on the progress of the last stage, such as "1,200 of 5,000 simulations, about 12 s left"."""
    reached = course.reached
    if reached is None:
        return ""
    words = f"{reached.done:,} of {reached.total:,} {reached.unit}"
    if course.stopped or reached.left is None or reached.done >= reached.total:
        return words
    return f"{words}, {'at most' if reached.history else 'about'} {duration(reached.left)} left"


def _stages(course: Course) -> str:
    """HTML table of all stages: finished stages, the one that runs, and the stages to come."""
    *done, now = course.stages
    state = "stopped" if course.stopped else "running"
    rows = [[stage.name, "done", duration(stage.seconds)] for stage in done]
    rows.append([now.name, ": ".join(filter(None, [state, _far(course)])), duration(now.seconds)])
    if now.name in PLANNED:
        rows += [[name, "to come", ""] for name in PLANNED[PLANNED.index(now.name) + 1 :]]
    return section("stages", "Stages", table(["stage", "state", "time"], rows, ["", "wrap", "n"]))


def _losses(course: Course) -> str:
    """HTML drawing of the losses of the latest training, as two lines in a box; "" if there are too few to draw."""
    history = course.history
    epochs, train, validation = (np.array([float(row[key]) for row in history]) for key in _COLUMNS)
    both = np.concatenate([train, validation])
    both = both[np.isfinite(both)]
    if len(history) < 2 or not len(both):
        return ""
    low, high = float(both.min()), float(np.quantile(both, 0.93) if len(history) > 10 else both.max())
    low, high = low - 0.05 * (high - low) - 1e-6, high + 0.2 * (high - low) + 1e-6
    across = _WIDE * (epochs - epochs[0]) / (epochs[-1] - epochs[0])
    lines = "".join(
        f'<path class="{kind}" d="{_path(across, _HIGH * (high - loss) / (high - low))}"/>'
        for kind, loss in (("training", train), ("validation", validation))
    )
    first, last = (f"epoch {int(epoch) + 1:,}" for epoch in (epochs[0], epochs[-1]))
    caption = f"After {last}: training {_loss(train[-1])}, validation {_loss(validation[-1])}"
    if np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        caption += f"; the lowest validation loss is {_loss(validation[best])}, in epoch {int(epochs[best]) + 1:,}"
    drawn = (
        f'<div class="losses"><div class="y"><span>{_loss(high)}</span><span>{_loss(low)}</span></div>'
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" preserveAspectRatio="none" role="img" aria-label="Loss by epoch.">{lines}'
        f'</svg><div class="x"><span>{first}</span><span class="training">training loss</span>'
        f'<span class="validation">validation loss</span><span>{last}</span></div></div>'
    )
    return section("losses", "Losses of the training", f"<figure>{drawn}<figcaption>{caption}.</figcaption></figure>")


def _loss(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def _path(x: Float[np.ndarray, " e"], y: Float[np.ndarray, " e"]) -> str:
    """SVG line through the finite points, or through some of them if there are many."""
    known = np.flatnonzero(np.isfinite(y))
    chosen = known[np.unique(np.linspace(0, max(len(known) - 1, 0), _POINTS).astype(int))] if len(known) else known
    return "M" + "L".join(f"{x[k]:.1f} {y[k]:.1f}" for k in chosen) if len(chosen) else ""
