"""What to do next: what verdicts ask for, by their causes, and nothing where an answer can be relied on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sciinf.core.findings import Cause, Level

if TYPE_CHECKING:
    from sciinf.core import Answer


def next_steps(answers: Sequence[Answer], commands: Mapping[Cause, Callable[[], str]]) -> str:
    """A line for each cause that keeps answers from being relied on, the gravest first; "" where there is none.

    Args:
        answers: The answers.
        commands: A cause -> what makes the command against it, with what it costs, or "" where nothing more can be
            done about it. Any other cause is said as it is.
    """
    wanted: dict[Cause, list[str]] = {}
    for answer in sorted(answers, key=lambda one: -one.verdict.level.order):
        for cause in answer.verdict.causes if answer.verdict.level != Level.GOOD else ():
            wanted.setdefault(cause, []).append(answer.name)
    lines = []
    for cause, names in wanted.items():
        if way := commands[cause]() if cause in commands else str(cause):
            whose = f", for {', '.join(names)}" if len(answers) > 1 else ""
            lines.append(f"next{whose}: {way}")
    return "\n".join(lines)
