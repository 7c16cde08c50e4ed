"""Callers of a workflow (a command line or Python): how they are told of progress, and how their call is written."""

from __future__ import annotations

import shlex
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, final

from sciinf.core import telling

if TYPE_CHECKING:
    from sciinf.core import Answer

Say = Callable[[str], None]
"""Tells a line to whoever waits."""


class Caller(ABC):
    """The caller of a workflow, either a command line or a call in Python.

    Args:
        asked: The command or call, as text, for the record of the run.
        shown: Whether the caller wants to see the progress.
    """

    asked: str
    shown: bool
    must_end: bool
    """Whether Ctrl-C ends it, also where there is an answer already."""

    @abstractmethod
    def say(self, words: str) -> None:
        """Tell the caller something while the workflow runs."""

    @abstractmethod
    def show(self, answers: Sequence[Answer], page: str) -> None:
        """Show the caller the answers and `page`, a line that says where the report is."""

    @abstractmethod
    def again(self, options: Mapping[str, object]) -> str:
        """Write the command or call with some options changed, named as on the command line: "-n", "--refine"."""


@final
class CommandLine(Caller):
    """The caller is a command; its words are taken from the shell."""

    def __init__(self) -> None:
        self.words, self.shown, self.must_end = sys.argv[1:], True, True
        self.asked = shlex.join(["sciinf", *self.words])

    def say(self, words: str) -> None:
        telling.tell(words)

    def show(self, answers: Sequence[Answer], page: str) -> None:
        telling.tell(f"{table_of(answers)}\n\n{page}", telling.ANSWER)

    def again(self, options: Mapping[str, object]) -> str:
        words = self.words
        for option, value in options.items():
            words = _with(words, option, str(value))
        return shlex.join(["sciinf", *words])


@final
class PythonCall(Caller):
    """The caller is a call of `sciinf.infer`, which returns the answer and displays it in notebooks only.

    Args:
        arguments: Arguments of the call: name -> value as it is written in Python, without those left out.
        shown: Whether progress is reported.
    """

    def __init__(self, arguments: Mapping[str, str], *, shown: bool) -> None:
        self.asked = f"infer({', '.join(f'{name}={value}' for name, value in arguments.items())})"
        self.shown, self.must_end = shown, False

    def say(self, words: str) -> None:
        telling.tell(words, telling.NOTE if self.shown else telling.DETAIL)

    def show(self, answers: Sequence[Answer], page: str) -> None:
        telling.tell(table_of(answers), telling.DETAIL)
        if self.shown:
            for answer in answers:
                shown_in_notebook(answer)
        self.say(page)

    def again(self, options: Mapping[str, object]) -> str:
        named = {option.lstrip("-").replace("-", "_"): value for option, value in options.items()}
        return f"infer(..., {', '.join(f'{name}={value!r}' for name, value in named.items())})"


def table_of(answers: Sequence[Answer]) -> str:
    """Text of the table of one answer, or of the common table of several answers."""
    from sciinf.core.answer import answers_table

    named = {answer.name: answer for answer in answers}
    return answers[0].table() if len(named) == 1 else answers_table(named)


def shown_in_notebook(answer: Answer) -> None:
    """Display an answer below the running cell of a notebook; do nothing outside a notebook."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    if running is not None and running.has_trait("kernel"):
        running.display_pub.publish({"text/html": answer._repr_html_(), "text/plain": answer.table()})


def _with(words: Sequence[str], option: str, value: str) -> list[str]:
    """The words of a command, with the value of one option replaced, or the option added."""
    words = [part for word in words for part in (word.split("=", 1) if word.startswith(f"{option}=") else [word])]
    if option in words[:-1]:
        place = len(words) - 2 - list(words[:-1])[::-1].index(option)
        return [*words[: place + 1], value, *words[place + 2 :]]
    return [*words, option, value]
