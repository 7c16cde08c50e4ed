"""What a browser makes of pages: each is shown in frames of several widths, looked at, and used by a script."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = ["quic", "background-networking", "component-update", "sync", "extensions", "gpu"]


def inspect_pages(pages: dict[str, str], widths: tuple[int, ...], folder: Path) -> dict[str, Any]:
    """What `inspect_pages.js` finds: "NAME WIDTH" -> its findings.

    Args:
        pages: Name -> HTML.
        widths: Of the frames, in pixels.
        folder: For the page that holds them, and for what the browser keeps.
    """
    script = (Path(__file__).parent / "inspect_pages.js").read_text()
    data = json.dumps(pages).replace("<", "\\u003c")
    whole = f'<!doctype html><meta charset="utf-8"><body><pre id="found"></pre><script>const PAGES = {data};'
    file = folder / "whole.html"
    file.write_text(f"{whole}const WIDTHS = {list(widths)};{script}</script>")
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in _QUIET)]
    words += [f"--user-data-dir={folder / 'profile'}", "--window-size=1500,1000", "--virtual-time-budget=60000"]
    done = subprocess.run([*words, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=300)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    if not found or not found[1]:
        raise RuntimeError(f"the browser said nothing: {done.stderr[-2000:]}")
    return json.loads(html.unescape(found[1]))
