"""What the application asks for answers: the contract of an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from sciinf.interfaces.serve.reading import Body
from sciinf.interfaces.serve.requests import ObservationRequest, Questions, RequestLimits


class Busy(RuntimeError):
    """No answer now; ask again after so many seconds. The status is HTTP's: 429 where who asks has asked too much."""

    def __init__(self, words: str, seconds: int = 1, status: int = 503) -> None:
        RuntimeError.__init__(self, words)
        self.seconds, self.status = seconds, status


class Broken(RuntimeError):
    """Something went wrong that is no fault of who asked."""


class AnsweringEngine(ABC):
    """Answers questions."""

    @abstractmethod
    async def start(self) -> None:
        """Be ready."""

    @abstractmethod
    async def stop(self) -> None:
        """End; what is asked now is `Busy`."""

    @abstractmethod
    async def answer(self, model: str, one: ObservationRequest) -> bytes:
        """The message of one answer.

        Raises:
            Unfit: If the question has none; the message is the library's own.
            Busy: If there is none now.
        """

    @abstractmethod
    async def read(self, model: str, body: Body, bounds: RequestLimits) -> Questions:
        """What a body asks; raises as `requests.from_json` and `requests.from_files`, and as `answer`."""

    @abstractmethod
    async def simulate(self, model: str, body: bytes) -> bytes:
        """The message of the simulation that a body asks for; raises as `requests.parameters`, and as `answer`."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """How it is: numbers and words by name."""
