"""The page of the service."""

from __future__ import annotations

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The content security policy of the page."""


def page() -> str:
    """The page, as HTML."""
    return "<!doctype html><title>sciinf</title><p>GET /models lists what can be asked."


def static_file(name: str) -> tuple[bytes, str] | None:
    """A file that the page asks for, and its media type; None where there is no such file."""
    return None
