"""Contract of an answering engine, from which the web application gets its answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from sciinf.interfaces.serve.reading import Body
from sciinf.interfaces.serve.requests import ObservationRequest, Questions, RequestLimits


class Busy(RuntimeError):
    """No answer is possible now, but the client may ask again after some seconds.

    The HTTP status is 503, or 429 if the client has asked for too much.
    """

    def __init__(self, words: str, seconds: int = 1, status: int = 503) -> None:
        RuntimeError.__init__(self, words)
        self.seconds, self.status = seconds, status


class Broken(RuntimeError):
    """An internal error of the service, which is no fault of the client."""


class AnsweringEngine(ABC):
    """Answers questions about models."""

    @abstractmethod
    async def start(self) -> None:
        """Start the engine."""

    @abstractmethod
    async def stop(self) -> None:
        """Stop the engine; open and later questions raise `Busy`."""

    @abstractmethod
    async def answer(self, model: str, one: ObservationRequest) -> bytes:
        """Answer one question about a model, and return the answer as a message of `wire`.

        Raises:
            Unfit: If the question has no answer; the error message is the library's own.
            Busy: If no answer is possible now.
        """

    @abstractmethod
    async def read(self, model: str, body: Body, bounds: RequestLimits) -> Questions:
        """Read the questions in a request body; raises the errors of `from_json`, `from_files` and `answer`."""

    @abstractmethod
    async def simulate(self, model: str, body: bytes) -> bytes:
        """Simulate data as a body requests, as a message; raises the errors of `requests.parameters` and `answer`."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """State of the engine, as JSON values by name."""
