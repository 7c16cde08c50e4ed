"""How the tests read the documents."""

from __future__ import annotations

import re


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page in order: language and content."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
