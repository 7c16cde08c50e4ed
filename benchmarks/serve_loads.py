"""Loads for `serve.py`: clients on sockets, and questions that come while others are answered, in one process.

Static batching is the baseline of fusion: all that waits is answered together, in one pass that is as long as its
longest question, and what comes meanwhile waits for all of it.
"""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from sciinf.core import Observation
from sciinf.interfaces.question import QueryOptions
from sciinf.interfaces.serve.answering import answered
from sciinf.interfaces.serve.models import Models
from sciinf.interfaces.serve.worker import Fusion, Ticket
from sciinf.posteriors.amortised import Amortised, pushed

_BATCH = 64


@dataclass
class Told:
    """What became of requests."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def add(self, status: str, seconds: float) -> None:
        self.statuses[status] += 1
        self.seconds.append(seconds)


async def one_request(reader: Any, writer: Any, request: bytes) -> tuple[int, bytes]:
    """Status and body of one request on an open connection."""
    writer.write(request)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    size = next(
        (int(line.partition(":")[2]) for line in head.split("\r\n") if line.lower().startswith("content-length")), 0
    )
    return int(head.split(" ", 2)[1]), await reader.readexactly(size)


def post(url: str, path: str, body: bytes) -> bytes:
    """A request as it is sent."""
    host = urlsplit(url).netloc
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def load(url: str, requests: Sequence[bytes], clients: int, seconds: float) -> Told:
    """That many clients, each of which asks, waits for the answer, and asks again."""
    told, until = Told(), time.monotonic() + seconds
    host, port = urlsplit(url).hostname, urlsplit(url).port

    async def client(place: int) -> None:
        reader = writer = None
        while time.monotonic() < until:
            started = time.monotonic()
            try:
                if writer is None:
                    reader, writer = await asyncio.open_connection(host, port)
                status, _ = await one_request(reader, writer, requests[place % len(requests)])
                told.add(str(status), time.monotonic() - started)
            except (OSError, asyncio.IncompleteReadError) as error:
                told.add(type(error).__name__, time.monotonic() - started)
                writer = None
            place += clients
        if writer is not None:
            writer.close()

    await asyncio.gather(*(client(place) for place in range(clients)))
    return told


def questions(
    simulate: Callable[[int, int], Mapping[str, np.ndarray]], count: int, draws: int, seed: int
) -> list[bytes]:
    """Bodies of questions about data that were simulated."""
    data = simulate(count, seed)
    return [
        json.dumps({"x": {name: value[k].tolist() for name, value in data.items()}, "draws": draws, "seed": k}).encode()
        for k in range(count)
    ]


class Answers(ABC):
    """Answers questions that come at any time, step by step."""

    @abstractmethod
    def add(self, ticket: Ticket) -> None:
        """Take a question."""

    @abstractmethod
    def step(self) -> list[int]:
        """Do some work; the ids of what was answered."""


class Fused(Answers):
    """As the service does."""

    def __init__(self, models: Models) -> None:
        self._done: list[int] = []
        self._fusion = Fusion(models, lambda id, message: self._done.append(id), self._fail, lambda id: None)

    def add(self, ticket: Ticket) -> None:
        self._fusion.add(ticket)

    def step(self) -> list[int]:
        self._done.clear()
        self._fusion.step()
        return list(self._done)

    def _fail(self, id: int, error: Exception) -> None:
        raise error


class Static(Answers):
    """All that waits, in one batch that is as long as its longest question."""

    def __init__(self, models: Models, most: int = _BATCH) -> None:
        self._models, self._most, self._waiting = models, most, deque[Ticket]()

    def add(self, ticket: Ticket) -> None:
        self._waiting.append(ticket)

    @torch.no_grad()
    def step(self) -> list[int]:
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        model = self._models.get(batch[0].model)
        asked = [model.question(ticket.x, ticket.wanted)[1] for ticket in batch]
        judge, posterior = asked[0].judge, asked[0].posterior
        x = {name: torch.cat([one.x[name] for one in asked]) for name in posterior.observables}
        density, looked = pushed(posterior, x), judge.look(x)
        if density is None or not isinstance(posterior, Amortised):
            raise TypeError("the run's posterior is not pushed from noise")
        generators, each = [one.generator() for one in asked], density.each()
        noise = [own.noise(t.wanted.draws, generator=g) for own, t, g in zip(each, batch, generators, strict=True)]
        filled = torch.zeros(max(map(len, noise)), len(batch), noise[0].shape[-1])
        for k, one in enumerate(noise):
            filled[: len(one), k] = one[:, 0]
        theta = density.push(filled)
        for k, (ticket, question) in enumerate(zip(batch, asked, strict=True)):
            kept = each[k].within(ticket.wanted.draws, theta[: len(noise[k]), k : k + 1], noise[k])
            answer = question.completed(looked[k], posterior.unweighted(kept[:, 0]), generators[k])
            answered(model, question, answer, ".")
        return [ticket.id for ticket in batch]


def mixed(answers: Answers, x: Mapping[str, np.ndarray], sizes: Sequence[int], count: int) -> dict[int, list[float]]:
    """Latencies in seconds of processor time, by the number of draws.

    Args:
        answers: What answers.
        x: Data to ask about, by observable.
        sizes: Draws that each client asks for: it asks again when it was answered.
        count: Questions in all.
    """
    asked: dict[int, tuple[int, float]] = {}
    found: dict[int, list[float]] = {size: [] for size in set(sizes)}
    rows, begun = len(next(iter(x.values()))), 0

    def ask(client: int) -> None:
        nonlocal begun
        values = {name: torch.from_numpy(value[begun % rows]) for name, value in x.items()}
        wanted = QueryOptions(draws=sizes[client], seed=begun, predicted=False)
        asked[begun] = client, time.process_time()
        answers.add(Ticket(begun, "run", Observation(values), wanted))
        begun += 1

    for client in range(len(sizes)):
        ask(client)
    while sum(map(len, found.values())) < count:
        for id in answers.step():
            client, since = asked.pop(id)
            found[sizes[client]].append(time.process_time() - since)
            ask(client)
    return found


__all__ = ["Any", "Fused", "Static", "Told", "load", "mixed", "one_request", "post", "questions"]
