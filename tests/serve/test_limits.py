"""Who may ask, and how much: what stands before the application lets nothing else through."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from sciinf.interfaces.serve.engine import Busy
from sciinf.interfaces.serve.limits import Limits, Quota, guarded
from sciinf.interfaces.serve.metrics import Metrics
from sciinf.interfaces.serve.requests import TooMuch


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the body, and waits where it is asked to."""
    size, more = 0, True
    try:
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    except (TooMuch, Busy) as error:
        status = 413 if isinstance(error, TooMuch) else 503
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": str(error).encode()})
        return
    if scope["path"].startswith("/slow"):
        await asyncio.sleep(30)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def ask(limits: Limits, method: str = "GET", path: str = "/models", *, times: int = 1, **how: Any) -> Any:
    """What the guarded application answers."""

    async def asked() -> list[httpx.Response]:
        transport = httpx.ASGITransport(guarded(echo, limits, Metrics()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return list(await asyncio.gather(*(client.request(method, path, **how) for _ in range(times))))

    found = asyncio.run(asked())
    return found[0] if times == 1 else found


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("localhost:8000", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200), ("LOCALHOST", 200),
     ("evil.example", 400), ("localhost.evil.example", 400), ("evil.example:8000", 400), ("", 400)],
)  # fmt: skip
def test_another_name_is_refused(host: str, status: int) -> None:
    assert ask(Limits(), headers={"host": host}).status_code == status


def test_a_proxy_may_have_its_own_name() -> None:
    assert ask(Limits(hosts=("lab.example",)), headers={"host": "lab.example"}).status_code == 200
    assert ask(Limits(hosts=("*",)), headers={"host": "any.example"}).status_code == 200


@pytest.mark.parametrize(
    ("given", "status"),
    [("Bearer secret", 200), ("bearer secret", 200), ("Bearer other", 200), ("Bearer secrets", 401),
     ("Bearer ", 401), ("", 401), ("Basic secret", 401), ("secret", 401)],
)  # fmt: skip
def test_a_token_is_needed_where_there_is_one(given: str, status: int) -> None:
    found = ask(Limits(tokens=["secret", "other"]), headers={"authorization": given} if given else {})
    assert found.status_code == status
    assert status == 200 or found.headers["www-authenticate"] == "Bearer"
    assert status == 200 or ("not the service's" in found.text) == bool(given)


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/health", 200), ("/static/page.js", 200), ("/metrics", 401)]
)
def test_the_page_itself_needs_no_token(path: str, status: int) -> None:
    assert ask(Limits(tokens=["secret", "other"]), path=path).status_code == status


def test_scripts_of_other_sites_may_not_ask() -> None:
    other, own = {"origin": "https://evil.example"}, {"origin": "http://localhost"}
    assert ask(Limits(), "POST", headers=other).status_code == 403
    assert ask(Limits(), "OPTIONS", headers=other).status_code == 403
    assert ask(Limits(), "POST", headers=own).status_code == 200
    let = Limits(origins=("https://evil.example",))
    found = ask(let, "POST", headers=other)
    assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, "https://evil.example")
    assert ask(let, "OPTIONS", headers=other).status_code == 204
    assert "access-control-allow-origin" not in ask(Limits(), headers=own).headers


def test_a_body_is_counted_whatever_its_header_says() -> None:
    async def stream() -> Any:
        for _ in range(10):
            yield b"x" * 1_000

    assert ask(Limits(body=5_000), "POST", content=b"x" * 6_000).status_code == 413
    assert ask(Limits(body=5_000), "POST", content=stream()).status_code == 413
    assert ask(Limits(body=20_000), "POST", content=b"x" * 6_000).text == "6000"
    assert ask(Limits(), "POST", headers={"content-length": "9" * 5_000}).status_code == 413


def test_all_bodies_together_have_a_limit() -> None:
    few = Limits(body=5_000, bodies=12_000, seconds=0.2)
    found = ask(few, "POST", "/slow", times=4, content=b"x" * 5_000)
    assert sorted(one.status_code for one in found) == [503, 503, 504, 504]

    async def twice() -> list[int]:
        transport = httpx.ASGITransport(guarded(echo, few, Metrics()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [(await client.post("/models", content=b"x" * 5_000)).status_code for _ in range(5)]

    assert asyncio.run(twice()) == [200] * 5  # what was answered is given back


@pytest.mark.parametrize("token", ["", "two words", "schlüssel", "a\n"])
def test_a_token_that_no_header_carries_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="a token is letters, digits and marks"):
        Limits(tokens=[token])


def test_a_token_has_so_many_questions_and_draws_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("sciinf.interfaces.serve.limits.time.monotonic", lambda: now)
    quota = Quota(Limits(tokens=["a", "b"], questions=3, draws=1_000))
    quota.take("a", 2, 500)
    with pytest.raises(Busy, match="of 3 questions a day 1 are left, and this asks for 2") as refused:
        quota.take("a", 2, 2)
    assert (refused.value.status, refused.value.seconds) == (429, 86_400)
    now += 3_600.0
    with pytest.raises(Busy, match="of 1,000 draws a day 500 are left, and this asks for 501; .* in 23.0 hours"):
        quota.take("a", 1, 501)
    quota.take("a", 1, 500)
    quota.take("b", 3, 1_000)
    now += 82_800.0
    quota.take("a", 3, 1_000)
    Quota(Limits()).take("", 10**6, 10**9)


@pytest.mark.parametrize(("method", "path"), [("POST", "/slow"), ("GET", "/slow/answers/a")])
def test_a_queue_has_an_end(method: str, path: str) -> None:
    found = ask(Limits(waiting=2, seconds=0.2), method, path, times=5)
    assert sorted(one.status_code for one in found) == [429, 429, 429, 504, 504]
    full = next(one for one in found if one.status_code == 429)
    assert full.headers["retry-after"] == "1"


def test_every_answer_has_headers_that_protect_it() -> None:
    for found in (ask(Limits()), ask(Limits(tokens=["a"])), ask(Limits(), headers={"host": "x"})):
        assert found.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert found.headers["referrer-policy"] == "no-referrer"
