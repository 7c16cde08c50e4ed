"""Limits of access and load: a layer in front of the application that lets requests pass, or refuses them.

- The Host header must name this service. So a page of another site cannot reach the service by a name that leads to
  this machine (DNS rebinding). Scripts of another site may ask only if that site is listed (CORS).
- If tokens are set, every request for data must carry one of them. Tokens are compared in constant time. The page
  itself holds nothing about any run, so it needs no token. A token may have a quota of questions and draws a day.
- The bytes of request bodies are counted as they arrive, whatever the header promises. One limit holds for each body,
  and another for all bodies in memory. The queue of questions has a largest length, and each question a time limit.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from sciinf.interfaces.serve.engine import Busy
from sciinf.interfaces.serve.metrics import Metrics
from sciinf.interfaces.serve.requests import TooMuch

OPEN = ("/", "/health")
"""What is given without a token, with all below `/static/`."""
_DAY = 86_400.0  # Seconds in a day.
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)


@dataclass(frozen=True)
class Limits:
    """Access rules and load limits of the service.

    Args:
        hosts: Names under which the service is reached, without ports; "*" allows any name.
        tokens: Accepted tokens. A request carries one of them as `Authorization: Bearer TOKEN`. If empty, no token is
            needed.
        origins: Sites whose scripts may ask, such as "https://lab.example.org".
        body: Largest size of one request body, in bytes.
        bodies: Largest total size of all request bodies in memory, in bytes.
        waiting: Largest number of questions at once; it includes questions that are being answered.
        seconds: Longest time that a question may take, in seconds.
        questions: Questions a day for each token, or for all users together if there are no tokens; None for no limit.
        draws: Draws a day, counted in the same way; None for no limit.

    Raises:
        ValueError: If a token has characters that a header cannot carry.
    """

    hosts: Sequence[str] = ("localhost", "127.0.0.1", "::1")
    tokens: Sequence[str] = ()
    origins: Sequence[str] = ()
    body: int = 64 * 2**20
    bodies: int = 512 * 2**20
    waiting: int = 1_000
    seconds: float = 120.0
    questions: int | None = None
    draws: int | None = None

    def __post_init__(self) -> None:
        if not all(token and all("!" <= letter <= "~" for letter in token) for token in self.tokens):
            raise ValueError("a token is letters, digits and marks of ASCII, without spaces")


@final
class Quota:
    """Questions and draws that each token has used in its current day, which begins with its first question.

    Args:
        limits: The limits; `questions` and `draws` hold for each token.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._spent: dict[str, tuple[float, int, int]] = {}

    def take(self, token: str, questions: int, draws: int) -> None:
        """Count questions and their draws against the quota of a token.

        Args:
            token: The token of the request; "" if the service has no tokens.
            questions: Number of questions.
            draws: Number of draws of all these questions together.

        Raises:
            Busy: If fewer questions or draws are left than asked for.
        """
        now, limits = time.monotonic(), self._limits
        since, *spent = self._spent.get(token, (now, 0, 0))
        if now - since >= _DAY:
            since, spent = now, [0, 0]
        more, most = (questions, draws), (limits.questions, limits.draws)
        for what, wanted, before, limit in zip(("questions", "draws"), more, spent, most, strict=True):
            if limit is not None and before + wanted > limit:
                left = math.ceil(since + _DAY - now)
                words = f"of {limit:,} {what} a day {limit - before:,} are left, and this asks for {wanted:,}"
                raise Busy(f"{words}; ask for fewer, or in {left / 3600:.1f} hours", left, 429)
        self._spent[token] = (since, spent[0] + questions, spent[1] + draws)


def guarded(inner: Any, limits: Limits, metrics: Metrics) -> Any:
    """Put the limits in front of an application."""
    return Guard(inner, limits, metrics)


@final
class Guard:
    """ASGI application that passes on the requests within the limits, and refuses all others.

    Args:
        inner: The application behind the limits.
        limits: The limits.
        metrics: Counters of requests.
    """

    def __init__(self, inner: Any, limits: Limits, metrics: Metrics) -> None:
        self._inner, self._limits, self._metrics, self._waiting, self._held = inner, limits, metrics, 0, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        response = _Response(send, self._extra(headers))
        asks, started = _asks(scope), time.monotonic()
        try:
            if asks:
                self._waiting += 1
            await self._let(scope, receive, response, headers)
        finally:
            if asks:
                self._waiting -= 1
            self._metrics.add(response.status, time.monotonic() - started if asks else None)

    async def _let(self, scope: Any, receive: Any, response: _Response, headers: dict[str, str]) -> None:
        """Pass a request on, or reply with the reason for refusing it."""
        limits, path = self._limits, scope["path"]
        if not self._named(headers.get("host", "")):
            await response.say(400, "this service is not known under the name in the Host header; see --allow-host")
        elif scope["method"] == "OPTIONS" and "origin" in headers:
            await response.say(204 if headers["origin"] in limits.origins else 403, "")
        elif "origin" in headers and not self._same(headers) and headers["origin"] not in limits.origins:
            await response.say(403, "scripts of other sites may not ask here; --allow-origin names those that may")
        elif limits.tokens and not self._knows(path, token_in(headers)):
            response.extra.append((b"www-authenticate", b"Bearer"))
            wrong = "this token is not the service's" if "authorization" in headers else "this service needs a token"
            await response.say(401, f"{wrong}: connect(url, token=...) in Python, Authorization: Bearer TOKEN by HTTP")
        elif _length(headers) > limits.body:
            await response.say(413, _large(limits.body))
        elif _asks(scope) and self._waiting > limits.waiting:
            response.extra.append((b"retry-after", b"1"))
            await response.say(429, f"{limits.waiting:,} questions wait already; ask again in a moment")
        else:
            await self._within(scope, receive, response)

    async def _within(self, scope: Any, receive: Any, response: _Response) -> None:
        """Pass a request on, and stop it if it exceeds the limits of size or time."""
        read, limits = 0, self._limits

        async def counted() -> Any:
            nonlocal read
            message = await receive()
            came = len(message.get("body", b""))
            read, self._held = read + came, self._held + came
            if read > limits.body:
                raise TooMuch(_large(limits.body))
            if self._held > limits.bodies:
                raise Busy(f"more than {limits.bodies / 2**20:,.0f} MB of questions wait already; ask again", 5)
            return message

        streams = scope["path"].endswith("/events")
        try:
            async with asyncio.timeout(None if streams else self._limits.seconds):
                await self._inner(scope, counted, response)
        except asyncio.CancelledError:  # The service ends, and has waited long enough.
            response.extra.append((b"retry-after", b"5"))
            await response.say(503, "the service ends; ask again when it is back")
        except TimeoutError:
            await response.say(
                504, f"the answer took longer than {self._limits.seconds:g} s: ask for fewer draws, or when fewer ask"
            )
        finally:
            self._held -= read

    def _named(self, host: str) -> bool:
        if "*" in self._limits.hosts:
            return True
        name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
        return name.lower().rstrip(".") in {known.lower() for known in self._limits.hosts}

    def _same(self, headers: dict[str, str]) -> bool:
        """Whether a request comes from a script of the service's own page."""
        return headers["origin"].partition("://")[2].lower() == headers.get("host", "").lower()

    def _knows(self, path: str, given: str) -> bool:
        if path in OPEN or path.startswith("/static/"):
            return True
        return any(hmac.compare_digest(given.encode(), token.encode()) for token in self._limits.tokens)

    def _extra(self, headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
        """Headers that let scripts of a listed site read the response; none for other sites."""
        origin = headers.get("origin", "")
        if origin not in self._limits.origins:
            return []
        allowed = {
            "access-control-allow-origin": origin,
            "access-control-allow-headers": "authorization, content-type",
            "access-control-allow-methods": "GET, POST",
            "vary": "origin",
        }
        return [(name.encode(), value.encode()) for name, value in allowed.items()]


@final
class _Response:
    """The response to one request, to which the headers of all responses are added.

    Args:
        send: ASGI's function that sends a message.
        extra: Headers beside those of all responses.
    """

    def __init__(self, send: Any, extra: list[tuple[bytes, bytes]]) -> None:
        self._send, self.extra, self.status, self._begun = send, extra, 0, False

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self._begun = message["status"], True
            given = {name.lower() for name, _ in message["headers"]}
            added = [pair for pair in (*_HEADERS, *self.extra) if pair[0] not in given]
            message = {**message, "headers": [*message["headers"], *added]}
        await self._send(message)

    async def say(self, status: int, words: str) -> None:
        """Send a response with a message in words, unless a response has begun."""
        if self._begun:
            return
        body = json.dumps({"error": words}).encode() if words else b""
        kind = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self({"type": "http.response.start", "status": status, "headers": kind})
        await self({"type": "http.response.body", "body": body})


def token_in(headers: Mapping[str, str]) -> str:
    """The token in the headers of a request; "" if there is none."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _asks(scope: Any) -> bool:
    """Whether a request may need a new answer: it posts a question, or opens the link to an answer."""
    return scope["method"] == "POST" or "/answers/" in scope["path"]


def _length(headers: dict[str, str]) -> int:
    given = headers.get("content-length", "0")
    return int(given[:18]) if given.isascii() and given.isdigit() else 0


def _large(most: int) -> str:
    return f"the request is larger than the {most / 2**20:,.0f} MB that are read; send fewer observations at once"
