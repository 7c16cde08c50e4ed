"""The page of the service: one screen on which a file becomes a posterior with its verdict.

The page itself says nothing of any run, so that it needs no token: its script asks the service for all that it shows.
Nothing comes from another place, and there is neither script nor style in the markup (`POLICY`). Colours and type are
those of reports (`figures/report.css`).

| file of `static/` | part |
|---|---|
| `page.js` | what is asked, and what is shown of an answer; begins everything |
| `answer.js` | the words and tables of an answer |
| `discrete.js` | which model, how many: probabilities of values |
| `draws.js` | numbers of draws: weighted quantiles, densities, overlap; numbers as they are printed |
| `curves.js`, `corner.js` | densities and data, by uPlot; the corner, on a canvas |
| `what_if.js` | data for parameters that the reader chooses |
| `live.js` | a run that goes on |
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
    """The page, as HTML."""
    return (_HERE / "page.html").read_text(encoding="utf-8")


def static_file(name: str) -> tuple[bytes, str] | None:
    """A file that the page asks for, and its media type.

    Args:
        name: Its name. None but those that lie in `static/`, and the reports' style sheet, are known: a name is looked
            up in a list, and never becomes a path.

    Returns:
        None where there is no such file.
    """
    known = {file.name: file for file in _HERE.iterdir() if file.suffix in _KINDS} | _SHARED
    file = known.get(name)
    return None if file is None else (file.read_bytes(), _KINDS[file.suffix])
