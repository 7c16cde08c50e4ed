"""List the available estimators without importing them."""

from __future__ import annotations

import ast
from difflib import get_close_matches
from pathlib import Path

import click


def estimator_files() -> dict[str, Path]:
    """The files of `sciinf/training/estimators` that define an estimator: name of the estimator -> file."""
    folder = Path(__file__).parents[2] / "training" / "estimators"
    return {file.stem: file for file in sorted(folder.glob("*.py")) if not file.name.startswith("_")}


def known_estimators() -> dict[str, str]:
    """One-line description of each estimator, from its file's docstring: name -> text."""
    told = {name: ast.get_docstring(ast.parse(file.read_text("utf-8"))) for name, file in estimator_files().items()}
    return {name: (words or "").partition("\n")[0] for name, words in told.items()}


def estimators_told() -> str:
    """Text with one line for each estimator: its name and its description."""
    known = known_estimators()
    width = max(map(len, known))
    return "\n".join(f"  {name:{width}}  {words}" for name, words in known.items())


def check_estimator(name: str) -> None:
    """Refuse a name that no estimator has.

    Raises:
        ValueError: If no estimator has this name. The message lists all estimators.
    """
    known = estimator_files()
    if name not in known:
        close = get_close_matches(name.lower(), known, n=1)
        meant = f"; did you mean {close[0]}?" if close else "."
        raise ValueError(f"there is no estimator {name!r}{meant} There is\n{estimators_told()}")


def known_estimator(ctx: click.Context, parameter: click.Parameter, name: str) -> str:
    """Callback of --estimator: return the name if an estimator has this name, else raise an error of usage."""
    try:
        check_estimator(name)
    except ValueError as error:
        raise click.UsageError(str(error), ctx) from error
    return name
