"""Answers, reports, exports and figures never ask which kind a parameter is: its estimate says what is shown of it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sciinf" / "interfaces"
FILES = [
    PACKAGE / "answer.py",
    PACKAGE / "report.py",
    PACKAGE.parent / "core" / "answer.py",
    *sorted((PACKAGE / "exports").glob("*.py")),
    *sorted((PACKAGE / "figures").glob("*.py")),
]
KINDS = {"Categories", "Choice", "Counts", "Each", "Estimate", "Levels", "MixedBijection", "Only", "Probabilities"}
KEYS = {"probability", "values", "interval", "categories"}


def asked(source: str) -> list[str]:
    """Where code asks for a kind: isinstance or type(), `.mixed`, a key that one kind of estimate alone has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr == "mixed":
            found.append(f"line {node.lineno}: .mixed")
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            names = {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
            names |= {each.attr for each in ast.walk(node.args[1]) if isinstance(each, ast.Attribute)}
            found += [f"line {node.lineno}: {node.func.id} {name}" for name in sorted(names & KINDS)]
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            held = {side.id for side in sides if isinstance(side, ast.Name)} & KINDS
            found += [f"line {node.lineno}: compares with {name}" for name in sorted(held)]
            if any(type(op).__name__ in ("In", "Not" + "In") for op in node.ops):
                keys = {side.value for side in sides if isinstance(side, ast.Constant)} & KEYS
                found += [f"line {node.lineno}: {key!r} in" for key in sorted(keys)]
                of = {side.attr for side in sides if isinstance(side, ast.Attribute)} & KEYS
                found += [f"line {node.lineno}: in .{key}" for key in sorted(of)]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_no_kind_of_a_parameter_is_asked_for(file: Path) -> None:
    assert asked(file.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "if isinstance(e, Probabilities): pass",
        "if isinstance(law, (td.Normal, core.Levels)): pass",
        "if prior.mixed: pass",
        "x = 1 if 'probability' in e else 2",
        "x = [n for n in names if n in draws.categories]",
        "if type(e) is Estimate: pass",
    ],
)
def test_asking_is_seen(source: str) -> None:
    assert len(asked(source)) == 1
