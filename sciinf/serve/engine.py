"""What the application asks for answers: the contract of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from sciinf.serve.requests import One


class Busy(RuntimeError):
    """No answer now; ask again after so many seconds."""

    def __init__(self, words: str, seconds: int = 1) -> None:
        RuntimeError.__init__(self, words)
        self.seconds = seconds


class Refused(ValueError):
    """What was asked has no answer; the message is the library's own."""


class Broken(RuntimeError):
    """Something went wrong that is no fault of who asked."""


class Engine(ABC):
    """Answers questions."""

    @abstractmethod
    async def start(self) -> None:
        """Be ready."""

    @abstractmethod
    async def stop(self) -> None:
        """End; what is asked now is `Busy`."""

    @abstractmethod
    async def answer(self, model: str, one: One) -> bytes:
        """The message of one answer.

        Raises:
            Refused: If the question has none.
            Busy: If there is none now.
        """

    @abstractmethod
    async def simulate(self, model: str, theta: Mapping[str, float], seed: int, x: Mapping[str, Any]) -> bytes:
        """The message of one simulation, seen as the observation x was, if there is one; raises as `answer`."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """How it is: numbers and words by name."""
