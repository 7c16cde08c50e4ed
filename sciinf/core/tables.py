"""Tables as lines of text and as HTML for notebooks, and numbers rounded to their significant digits.

All text that goes into HTML is escaped here, so data cannot add markup.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_LEFT = ' style="text-align:left"'  # Without this, notebooks align cells to the right.


def digits(value: float, width: float) -> str:
    """A number as text, rounded to two significant digits of a width, such as its standard deviation."""
    if not math.isfinite(value):
        return str(value)
    places = 3 if not (width > 0 and math.isfinite(width)) else 1 - math.floor(math.log10(width))
    if places > 6 or abs(value) >= 1e7:
        digits = math.floor(math.log10(abs(value))) + 1 + places if value != 0 else 0
        return f"{value:.{min(max(digits, 2), 17)}g}"
    return f"{value:.{max(places, 0)}f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines of text with aligned columns.

    The first row is the head, and has a rule below it. The last line is empty.
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * max(len(line) for line in lines), *lines[1:], ""]


def html(
    title: str,
    rows: Sequence[Sequence[str]] = (),
    facts: Sequence[tuple[str, str]] = (),
    first: Sequence[tuple[str, str]] = (),
) -> str:
    """A small HTML table for a notebook.

    Args:
        title: Title of the table.
        rows: Rows of cells, of which the first is the head. Without rows there is no table of cells.
        facts: Facts to show below the table, each a name and a text.
        first: Facts to show above the table, each a name and a text.

    Returns:
        HTML, in which all given text is escaped.
    """
    parts = [f"<div><p><b>{escape(title)}</b></p>", _said(first)]
    if rows:
        head = "".join(f"<th{_LEFT}>{escape(cell)}</th>" for cell in rows[0])
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows[1:])
        parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return "".join([*parts, _said(facts), "</div>"])


def named(units: Mapping[str, str]) -> str:
    """Names with their units as text, such as "rate [1/h], offset"."""
    return ", ".join(f"{name} [{unit}]" if unit else name for name, unit in units.items())


def percent(level: float) -> str:
    """A credible level as text: "90%", "99.73%"."""
    return f"{100 * level:.6g}%"


def marked(name: str, derived: bool) -> str:
    """A name for a table; the name of a derived quantity is marked "(derived)"."""
    return f"{name} (derived)" if derived else name


def _said(facts: Sequence[tuple[str, str]]) -> str:
    """Facts, each a name and a text, as an HTML table; "" if there are no facts."""
    body = "".join(f"<tr><th{_LEFT}>{escape(name)}</th>{_cell(words)}</tr>" for name, words in facts)
    return f"<table><tbody>{body}</tbody></table>" if facts else ""


def _cell(text: str) -> str:
    return f"<td{_LEFT}>{escape(text)}</td>"
