"""How the tests read the documents, and follow them."""

from __future__ import annotations

import glob
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sciinf import cli

FEW = 300  # simulations, instead of the number a document asks for


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page in order: language and content."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def fewer(body: str, few: int = FEW) -> str:
    """Python or commands with fewer simulations: what a document names as `n=`, `-n`, `--calibration` or `1_000`."""
    body = re.sub(r"\bn=[0-9_]+", f"n={few}", body)
    body = re.sub(r"(?<= )(-n|--calibration) [0-9]+", rf"\1 {few}", body)
    return re.sub(r"(?<=[ (])[0-9]{1,3}_000\b(?=[,)])", str(few), body)


def follow(text: str, monkeypatch: pytest.MonkeyPatch, few: int = FEW) -> tuple[list[list[str]], dict[str, Any]]:
    """Follow a page in the current folder: commands, and Python blocks in one session.

    A block that begins with the name of a file is saved under it instead.

    Returns:
        The commands that ran, and the names the Python blocks defined.
    """
    names: dict[str, Any] = {"__name__": "document"}
    commands = []
    for language, body in blocks(text):
        title = re.match(r"(?:#|//) (\w+\.\w+)\b", body)
        if title:
            Path(title[1]).write_text(body)
        elif language == "python":
            exec(compile(fewer(body, few), "<document>", "exec"), names)
        elif language == "sh":
            for line in body.splitlines():
                words = [name for word in shlex.split(fewer(line, few)) for name in sorted(glob.glob(word)) or [word]]
                commands.append(words)
                if words[0] == "sciinf":
                    command(words, monkeypatch)
                else:
                    subprocess.run(words, check=True)
    return commands, names


def command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command line, as the console script runs it."""
    monkeypatch.setattr(sys, "argv", words)
    cli.main()
