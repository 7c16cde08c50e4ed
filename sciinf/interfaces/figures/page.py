"""HTML building blocks of the report page, which escape every text from outside.

Markup is never taken from data. The page is one file. Its style sheet and its script lie beside this module. The
content security policy allows only this script, by its hash, and nothing that is fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sciinf.interfaces.figures.style import superscript

_HERE = Path(__file__).parent
SCREENS = ("narrow", "wide")


def paragraph(text: str, kind: str = "") -> str:
    """HTML paragraph of plain text, with the CSS class `kind` if one is given."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def absent(sentence: str) -> str:
    """HTML paragraph that says why a part is missing from the page."""
    return paragraph(sentence, "absent")


def picture(drawings: Sequence[str], caption: str, title: str = "", places: Sequence[Any] = (), kind: str = "") -> str:
    """HTML figure with a caption.

    Args:
        drawings: Markup of the drawing for narrow screens, followed by the drawing for wide screens if there is one.
        caption: Caption, as plain text.
        title: Title of the figure, as plain text; "" for none.
        places: Positions of the axes in each drawing, for the page's script.
        kind: CSS class of the figure.
    """
    head = f"<b>{escape(title)}</b> " if title else ""
    said = f' data-places="{escape(json.dumps(places, separators=(",", ":")))}"' if places else ""
    kinds = ("",) if len(drawings) == 1 else SCREENS
    shown = "".join(f'<div class="drawing {kind}">{one}</div>' for kind, one in zip(kinds, drawings, strict=True))
    return f"<figure{_class(kind)}{said}>{shown}<figcaption>{head}{escape(caption)}</figcaption></figure>"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    kinds: Sequence[str],
    caption: str = "",
    *,
    stacked: bool = False,
) -> str:
    """HTML table whose first column holds the row headings.

    Args:
        head: Column headings, as plain text.
        rows: Cells of each row, as plain text. Cells of a "markup" column are inserted as markup.
        kinds: Kind of each column: "" for words, "n" for numbers (right-aligned), "wrap" for sentences, and "markup"
            for HTML made by this package.
        caption: What the table shows.
        stacked: Whether narrow screens show the cells of a row below each other, each with its column heading.
    """
    top = "".join(f'<th scope="col"{_class(k)}>{escape(h)}</th>' for h, k in zip(head, kinds, strict=True))
    body = []
    for row in rows:
        cells = [f'<th scope="row">{row[0] if kinds[0] == "markup" else escape(row[0])}</th>']
        for cell, kind, name in zip(row[1:], kinds[1:], head[1:], strict=True):
            said = f' data-head="{escape(name)}"' if stacked else ""
            cells.append(f"<td{_class(kind)}{said}>{cell if kind.endswith('markup') else escape(cell)}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    about = f"<caption>{escape(caption)}</caption>" if caption else ""
    kind = _class("stacked" if stacked else "")
    return (
        f'<div class="scroll" tabindex="0"><table{kind}>{about}<thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def details(summary: str, content: str, *, opened: bool = False) -> str:
    """HTML part that the reader unfolds by clicking its summary; `opened` unfolds it from the start."""
    return f"<details{' open' if opened else ''}><summary>{escape(summary)}</summary>{content}</details>"


def section(key: str, title: str, content: str, kind: str = "", beside: str = "") -> str:
    """HTML section of the page: a heading followed by content.

    `key` is the anchor and `kind` the CSS class. `content` is markup. `beside` is markup next to the heading.
    """
    return (
        f'<section id="{escape(key)}"{_class(kind)}><div class="head"><h2>{escape(title)}</h2>{beside}</div>'
        f"{content}</section>"
    )


def copied(key: str, content: str) -> str:
    """Markup `content` with a button that copies its text; `key` is the HTML identifier of the content."""
    return (
        f'<div class="copied"><button type="button" class="copy script" data-copy="{escape(key)}">Copy</button>'
        f'<div id="{escape(key)}">{content}</div></div>'
    )


def data_block(data: Mapping[str, Any]) -> str:
    """HTML block with JSON data for the page's script; the data are never executed and cannot end the block."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="data">{text}</script>'


def page(title: str, about: str, body: str, data: Mapping[str, Any], foot: str) -> str:
    """HTML of the whole page.

    Args:
        title: Title of the page, as plain text.
        about: Line under the title, as plain text.
        body: All parts of the page, as markup.
        data: Data for the page's script.
        foot: Text at the foot of the page, as plain text.
    """
    style, script = ((_HERE / name).read_text() for name in ("report.css", "report.js"))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{allowed}'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)} · sciinf report</title>
<style>{style}</style>
</head>
<body>
<header class="top">
<h1>{escape(title)}</h1>
<p class="about">{escape(about)}</p>
</header>
<main>
{body}
</main>
<footer>{escape(foot)}</footer>
{data_block(data)}
<script>{script}</script>
</body>
</html>
"""


def number(value: float | None, sd: float | None) -> str:
    """Text of a number, rounded to two significant digits of its standard deviation; "–" if it is not finite."""
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
    """Text of a duration in seconds, such as "0.4 s", "12 s", "3 min 20 s" or "2 h 5 min"; "–" if unknown."""
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
