"""The web page of the service: the user gives a data file, and sees the posterior with its verdict.

The page file holds nothing about any run, so it needs no token: its script requests all data from the service. The page
loads nothing from other sites, and its markup holds neither script nor style (`POLICY`). Colours and fonts are those of
reports (`figures/report.css`).

| file of `static/` | part |
|---|---|
| `page.js` | the question, and the display of an answer; starts all other parts |
| `answer.js` | text and tables of an answer |
| `discrete.js` | probabilities of the values of discrete parameters |
| `draws.js` | statistics of draws: weighted quantiles, densities, overlap; format of printed numbers |
| `curves.js`, `corner.js` | plots of densities and data, by uPlot; the corner plot, on a canvas |
| `what_if.js` | simulated data for parameters that the reader chooses |
| `live.js` | progress of a run that is not finished |
| `service.js` | requests, with the token; elements of the page |
| `uPlot.esm.js`, `uPlot.min.css` | uPlot 1.6.32 (MIT), as it is distributed |
"""

from __future__ import annotations

from pathlib import Path

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The content security policy of the page."""

_HERE = Path(__file__).parent / "static"
_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".LICENSE": "text/plain"}
_SHARED = {"report.css": Path(__file__).parents[1] / "figures" / "report.css"}


def page() -> str:
    """HTML text of the page."""
    return (_HERE / "page.html").read_text(encoding="utf-8")


def static_file(name: str) -> tuple[bytes, str] | None:
    """Content and media type of a file that the page loads.

    Args:
        name: Name of the file. Only the files in `static/` and the style sheet of reports are known. The name is looked
            up in a list, and never becomes a path.

    Returns:
        (content, media type), or None if there is no such file.
    """
    known = {file.name: file for file in _HERE.iterdir() if file.suffix in _KINDS} | _SHARED
    file = known.get(name)
    return None if file is None else (file.read_bytes(), _KINDS[file.suffix])
