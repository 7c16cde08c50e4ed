"""A browser, a service that runs, and visits to its page."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM
from visits import make_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two runs, `line` and `young`."""
    return make_runs(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def service(runs: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """`sciinf serve` of both, at a port that is free: its address, and its process."""
    for name in ("starlette", "uvicorn"):
        pytest.importorskip(name, reason="needs sciinf[serve]")
    words = [sys.executable, "-m", "sciinf.cli", "serve", "line", "young", "--simulator", "line.py", "--port", "0"]
    running = subprocess.Popen(words, cwd=runs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        said = running.stdout.readline()
        assert " at http" in said, said + (running.stderr.read() if running.stderr else "")
        yield said.split(" at ")[1].strip(), running
    finally:
        running.terminate()
        running.communicate(timeout=20)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the test extra")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, service: tuple[str, subprocess.Popen]) -> Iterator[Callable[..., Any]]:
    """Opens the page; at the end it looks at what was asked of whom, and at the console."""
    address, errors, asked, contexts = service[0], [], [], []

    def opened(hash_: str = "", width: int = 1280, *, dark: bool = False, script: str = "") -> Any:
        look = {"viewport": {"width": width, "height": 900}, "color_scheme": "dark" if dark else "light"}
        context = chromium.new_context(**look)
        contexts.append(context)
        context.set_default_timeout(60_000)
        if script:
            context.add_init_script(script)
        shown = context.new_page()
        shown.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        shown.on("pageerror", lambda error: errors.append(str(error)))
        context.on("request", lambda request: asked.append(request.url))
        shown.goto(f"{address}/{hash_}")
        return shown

    opened.errors = errors  # type: ignore[attr-defined]
    yield opened
    for context in contexts:
        context.close()
    assert errors == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:" + address))] == []
