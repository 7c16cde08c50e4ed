"""Common style of all figures: colours, fonts, and axis labels with units.

The colours are those of Okabe and Ito, which colour-blind readers can tell apart, too. In the page each colour stands
for a CSS variable (`interfaces.figures.svg`). The same drawing then serves the light and the dark scheme.

References:
    | Color Universal Design (Okabe & Ito, 2008), https://jfly.uni-koeln.de/color/
"""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

INK = "#1b1f24"
MUTED = "#667080"
RULE = "#b9c0ca"
GRID = "#e9ecf0"
PAPER = "#fefefe"
BLUE = "#0072b2"
ORANGE = "#e69f00"
GREEN = "#009e73"
VERMILION = "#d55e00"
PURPLE = "#cc79a7"

VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    GRID: "grid",
    PAPER: "paper",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    VERMILION: "vermilion",
    PURPLE: "purple",
}
"""Colour -> name of the CSS variable that stands for it in the page."""

WIDTH = 9.6
"""Width of a full figure in inches."""
COLUMN, NARROW = 7.6, 3.5
"""Widths of the page's column for figures, and of a phone's screen; at these sizes text is as large as it should be."""
BROAD = 5.0
"""Width from which there is room for two panels side by side."""

_SETTINGS: dict[str, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "text.usetex": False,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.titlepad": 7.0,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.labelpad": 5.0,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.use_mathtext": False,
    "axes.formatter.limits": [-4, 5],
    "axes.formatter.useoffset": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "figure.edgecolor": "none",
    "savefig.facecolor": "none",
    "savefig.edgecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.5,
    "patch.linewidth": 0.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "sciinf",
    "path.simplify_threshold": 0.2,
}
_LOCK = threading.RLock()  # Only one figure at a time, because all threads share matplotlib's settings.
_PLAIN_UNIT = re.compile(r"[^\W\d_]+(-?\d+)?( [^\W\d_]+(-?\d+)?)*")
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def look() -> Iterator[None]:
    """Context in which matplotlib has the settings of this package's figures, whatever the user's settings are.

    The user's settings are restored afterwards.
    """
    import matplotlib

    keep = ("backend", "backend_fallback", "interactive", "toolbar", "webagg", "date.epoch", "savefig.directory")
    defaults = {k: v for k, v in matplotlib.rcParamsDefault.items() if not k.startswith(keep)}
    settings: Any = {**defaults, **_SETTINGS}
    with _LOCK, matplotlib.rc_context(settings):
        yield


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a drawing function, which then draws in the style of `look`."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        with look():
            return draw(*args, **kwargs)

    return drawn


def pretty_unit(unit: str) -> str:
    """Unit as it is printed, "km s⁻¹ Mpc⁻¹" for "km / (s Mpc)"; unchanged if astropy does not know the unit.

    For "yr^(-1/2)" astropy writes "yr⁻¹⸍²", with a sign that fonts do not have. This function writes "yr⁻¹⁄²".
    """
    if not unit:
        return ""
    if _PLAIN_UNIT.fullmatch(unit):  # Astropy would reorder the factors.
        return re.sub(r"-?\d+", lambda power: superscript(int(power[0])), unit)
    from astropy import units

    try:
        text = units.Unit(unit).to_string("unicode", fraction=False)
    except (ValueError, TypeError):
        return unit
    return str(text).strip().replace("⸍", "⁄") or unit


def label(name: str, unit: str, *, lines: int = 1) -> str:
    """Label of an axis: the name with its unit in brackets, on one line or two."""
    shown = pretty_unit(unit)
    return f"{name}{' ' if lines == 1 else chr(10)}[{shown}]" if shown else name


def superscript(exponent: int) -> str:
    """Integer in superscript digits."""
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def log_axis(axes: Axes, axis: Axis, low: float, high: float, *, zero: bool = False) -> None:
    """Make one axis logarithmic, with plain numbers ("0.01", "50") or powers of ten as tick labels (`plain`).

    Args:
        axes: Axes that the axis belongs to.
        axis: Axis to change.
        low: Smallest positive number that is drawn.
        high: Largest number that is drawn.
        zero: Whether 0 has a place as well. The axis is then linear below `low`.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    decades = math.log10(high / low) if 0 < low < high else 1.0
    change = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
    if zero:
        change("symlog", linthresh=low, linscale=max(0.5, 0.12 * decades))
    else:
        change("log")
    subs: tuple[float, ...] = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.5 else (1.0, 2.0, 5.0)
    locator = LogLocator(base=10.0, subs=subs, numticks=9)
    ticks = [0.0, *(tick for tick in locator.tick_values(low, high) if tick >= low)] if zero else []
    axis.set_major_locator(FixedLocator(ticks) if zero else locator)
    axis.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def whole_numbers(axis: Axis) -> None:
    """Set ticks at integers only, for an axis that counts."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def plain(value: float) -> str:
    """Text of a tick's number, such as "0.01", "20", "1,000" or "3×10⁻⁷".

    Powers of ten are used below 0.001 and from 100,000 on. The text is empty if the number is not finite.
    """
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else ""
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    if -4 < exponent < 5:
        return f"{value:,.{max(0, -exponent)}f}".replace("-", "−")
    lead = value / 10.0**exponent
    return ("" if abs(lead - 1) < 1e-6 else f"{lead:.3g}×".replace("-", "−")) + f"10{superscript(exponent)}"


def mark(axes: Axes, x: np.ndarray, y: np.ndarray, strange: np.ndarray) -> None:
    """Draw red rings around the strange points; `x`, `y` and the mask `strange` have shape (n,)."""
    if strange.any():
        ring = {"markersize": 9.0, "markerfacecolor": "none", "markeredgecolor": VERMILION, "markeredgewidth": 1.4}
        axes.plot(x[strange], y[strange], "o", zorder=5, label="strange", **ring)
