"""Run the notebooks of docs/ anew and store what their cells give, without Jupyter.

    python tests/notebooks.py

The cells of a notebook run in one session, in an empty folder. Kept are what they print, and what the last line of a
cell is worth: its words, its table (`_repr_html_`) and its picture (`_repr_png_`). What goes to the standard error,
such as progress, is not kept.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent.parent / "docs" / "notebooks"


def notebooks() -> list[Path]:
    """All of them."""
    return sorted(HERE.glob("*.ipynb"))


def source_of(cell: dict[str, Any]) -> str:
    """The text of a cell; the format has it as one string or as lines."""
    return "".join(cell["source"])


def executed(notebook: dict[str, Any], change: Callable[[str], str] = str) -> dict[str, Any]:
    """A notebook with the outputs that its code cells give in the current folder, each after `change` of its source.

    Its metadata keep a digest of the cells that were run, so that outputs of other cells are told apart.
    """
    session: dict[str, Any] = {"__name__": "notebook"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            outputs = list(_run(change(source_of(cell)), session, count))
            cell = {**cell, "execution_count": count, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells, "metadata": {**notebook["metadata"], "executed": digest(notebook)}}


def digest(notebook: dict[str, Any]) -> str:
    """SHA-256 of the code of a notebook."""
    sources = [source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def _run(source: str, session: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """The outputs of a cell; the names it defines go into the session."""
    tree, said = ast.parse(source), io.StringIO()
    if tree.body and isinstance(tree.body[-1], ast.Expr):  # what the last line is worth gets a name
        tree.body[-1] = ast.Assign([ast.Name("_", ast.Store())], tree.body[-1].value)
    session["_"] = None
    with contextlib.redirect_stdout(said):
        exec(compile(ast.fix_missing_locations(tree), f"<cell {count}>", "exec"), session)
    value = session["_"]
    if said.getvalue():
        yield {"output_type": "stream", "name": "stdout", "text": said.getvalue().splitlines(keepends=True)}
    if value is not None:
        yield {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": _shown(value)}


def _shown(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    table, picture = (getattr(value, name, lambda: None)() for name in ("_repr_html_", "_repr_png_"))
    if table is not None:
        found["text/html"] = table.splitlines(keepends=True)
    if picture is not None:
        found["image/png"] = base64.b64encode(picture).decode()
    return found


def main() -> None:
    for path in notebooks():
        notebook = json.loads(path.read_text())
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            path.write_text(json.dumps(executed(notebook), indent=1, ensure_ascii=False) + "\n")
        print(f"{path.name}: {len(notebook['cells'])} cells")


if __name__ == "__main__":
    main()
