"""What to do next: what verdicts ask for, by their causes, and nothing where an answer can be relied on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sciinf.core.findings import Cause

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
        for cause in _wanted(answer):
            wanted.setdefault(cause, []).append(answer.name)
    ways: dict[str, list[str]] = {}  # one command may be against several causes
    for cause, names in wanted.items():
        if way := commands[cause]() if cause in commands else str(cause):
            ways.setdefault(way, []).extend(names)
    whose = {way: f", for {', '.join(dict.fromkeys(names))}" if len(answers) > 1 else "" for way, names in ways.items()}
    return "\n".join(f"next{whose[way]}: {way}" for way in ways)


def _wanted(answer: Answer) -> tuple[Cause, ...]:
    """What has to change for an answer to be relied on, the gravest first.

    A network that sees data from around one observation alone has less to keep in its summary. So simulations there
    are a way out where a summary loses something, too.
    """
    causes = answer.verdict.causes
    return causes if Cause.SUMMARY not in causes or Cause.AROUND in causes else (*causes, Cause.AROUND)
