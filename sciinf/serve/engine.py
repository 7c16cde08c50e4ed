"""What the application asks for answers: the contract, and the engine that answers one question at a time."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from sciinf.core import Observation
from sciinf.serve.answering import simulated, whole_answer
from sciinf.serve.models import Models
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
    async def simulate(self, model: str, theta: Mapping[str, float], seed: int) -> bytes:
        """The message of one simulation; raises as `answer`."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """How it is: numbers and words by name."""


class OneByOne(Engine):
    """Answers in this process, one question after the other, each by itself.

    Args:
        models: What is served.
    """

    def __init__(self, models: Models) -> None:
        self._models, self._lock = models, threading.Lock()

    async def start(self) -> None:
        return None

    async def stop(self) -> None:
        return None

    async def answer(self, model: str, one: One) -> bytes:
        return await asyncio.to_thread(self._answer, model, one)

    async def simulate(self, model: str, theta: Mapping[str, float], seed: int) -> bytes:
        return await asyncio.to_thread(self._simulate, model, theta, seed)

    def state(self) -> dict[str, Any]:
        return {"alive": True, "waiting": 0, "restarts": 0}

    def _answer(self, model: str, one: One) -> bytes:
        with self._lock:
            x = Observation({name: torch.from_numpy(value) for name, value in one.x.items()}, one.read)
            try:
                return whole_answer(self._models.get(model), x, one.wanted)
            except (ValueError, TypeError) as error:
                raise Refused(str(error)) from error

    def _simulate(self, model: str, theta: Mapping[str, float], seed: int) -> bytes:
        with self._lock:
            try:
                return simulated(self._models, model, theta, seed)
            except (ValueError, TypeError) as error:
                raise Refused(str(error)) from error
