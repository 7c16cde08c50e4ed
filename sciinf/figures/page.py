"""The HTML the figures stand in: every string from outside is escaped here, and nowhere is markup taken from data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from sciinf.figures.style import superscript
from sciinf.figures.stylesheet import STYLESHEET

Colour = Literal["green", "amber", "red", "grey"]
_SYMBOLS: Mapping[str, str] = {"green": "✓", "amber": "!", "red": "✕", "grey": "–"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Card:
    """One verdict.

    Args:
        title: What was checked.
        colour: "green", "amber" or "red"; "grey" where it does not count.
        state: The verdict in a few words.
        reasons: The verdict's reasons, one sentence each.
    """

    title: str
    colour: Colour
    state: str
    reasons: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its heading, and its content as markup."""

    key: str
    title: str
    content: str


def paragraph(text: str, kind: str = "") -> str:
    """Plain text as a paragraph of a class."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def absent(sentence: str) -> str:
    """Why something is not on the page."""
    return paragraph(sentence, "absent")


def picture(svg: str, caption: str, title: str = "") -> str:
    """A figure with its caption; on narrow screens it scrolls sideways rather than shrink to illegible."""
    head = f"<b>{escape(title)}</b> " if title else ""
    return (
        f'<figure><div class="scroll" tabindex="0">{svg}</div><figcaption>{head}{escape(caption)}</figcaption></figure>'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kinds: Sequence[str], caption: str = "") -> str:
    """A table; the first column heads its rows.

    Args:
        head: Column headings, plain text.
        rows: Cells, plain text; a cell of a "bar" column is markup (`interval_bar`).
        kinds: One per column: "" for words, "n" for numbers (right-aligned), "wrap" for sentences, "bar" for drawings.
        caption: What the table shows.
    """
    top = "".join(f'<th scope="col"{_class(k)}>{escape(h)}</th>' for h, k in zip(head, kinds, strict=True))
    body = []
    for row in rows:
        cells = [f'<th scope="row">{escape(row[0])}</th>']
        for cell, kind in zip(row[1:], kinds[1:], strict=True):
            cells.append(f"<td{_class(kind)}>{cell if kind == 'bar' else escape(cell)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    about = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table>{about}<thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def interval_bar(inner: tuple[float, float], middle: float, outer: tuple[float, float], alt: str) -> str:
    """A posterior interval drawn inside the prior's."""
    low, high = outer
    if not (math.isfinite(low) and math.isfinite(high) and high > low and all(map(math.isfinite, (*inner, middle)))):
        return ""
    a, b, c = (100 * min(max((v - low) / (high - low), 0.0), 1.0) for v in (*inner, middle))
    return (
        f'<svg viewBox="-2 0 104 10" preserveAspectRatio="none" role="img" aria-label="{escape(alt)}">'
        '<line x1="0" x2="100" y1="5" y2="5" style="stroke:var(--rule)" stroke-width="1.2" '
        'vector-effect="non-scaling-stroke"/>'
        f'<rect x="{a:.2f}" y="1.5" width="{max(b - a, 0.8):.2f}" height="7" style="fill:var(--blue);fill-opacity:.4"/>'
        f'<line x1="{c:.2f}" x2="{c:.2f}" y1="0" y2="10" style="stroke:var(--blue)" stroke-width="2" '
        'vector-effect="non-scaling-stroke"/></svg>'
    )


def verdict(headline: str, cards: Sequence[Card], key: str = "verdict") -> str:
    """The band of verdicts; colour never speaks alone."""
    parts = []
    for card in cards:
        reasons = "".join(f"<p>{escape(reason)}</p>" for reason in card.reasons)
        parts.append(
            f'<div class="card {card.colour}"><h3>{escape(card.title)}</h3><p class="state">'
            f'<span aria-hidden="true">{_SYMBOLS[card.colour]}</span>{escape(card.state)}</p>{reasons}</div>'
        )
    return (
        f'<section class="verdict" id="{escape(key)}" aria-label="Verdict">{paragraph(headline)}'
        f'<div class="cards">{"".join(parts)}</div></section>'
    )


def details(summary: str, content: str, *, opened: bool = False) -> str:
    """A part that opens on demand."""
    return f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>{content}</details>"


def page(title: str, about: str, band: str, sections: Sequence[Section], foot: str) -> str:
    """The whole page.

    Args:
        title: Plain text.
        about: A line under the title, plain text.
        band: Markup of the verdict.
        sections: In reading order.
        foot: Last words, plain text.
    """
    links = "".join(f'<li><a href="#{escape(s.key)}">{escape(s.title)}</a></li>' for s in sections)
    body = "".join(f'<section id="{escape(s.key)}"><h2>{escape(s.title)}</h2>{s.content}</section>\n' for s in sections)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)} · sciinf report</title>
<style>{STYLESHEET}</style>
</head>
<body>
<header class="top">
<p class="kicker">sciinf report</p>
<h1>{escape(title)}</h1>
<p class="about">{escape(about)}</p>
</header>
<main>
{band}
<nav aria-label="Contents"><ul>{links}</ul></nav>
{body}</main>
<footer>{escape(foot)}</footer>
</body>
</html>
"""


def number(value: float | None, sd: float | None) -> str:
    """A number to two significant digits of its standard deviation; "–" where it is not finite."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 and not sd:
        return "0"
    scale = sd if sd is not None and sd > 0 and math.isfinite(sd) else abs(value) / 100
    places = 1 - math.floor(math.log10(scale))
    largest = math.floor(math.log10(max(abs(value), scale)))
    if largest >= 7 or places > 6:
        mantissa = value / 10.0**largest
        return f"{mantissa:.{max(largest + places, 0)}f}×10{superscript(largest)}".replace("-", "−")
    text = f"{round(value, places):,.{max(places, 0)}f}"
    return ("0" + text[2:] if float(text.replace(",", "")) == 0 and text.startswith("-") else text).replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds as "0.4 s", "12 s", "3 min 20 s", "2 h 5 min"; "–" where unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
