"""Files for `serve.py` that do harm or are damaged, and a load of them beside honest users."""

from __future__ import annotations

import asyncio
import io
import random
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from fuzzed_observations import damage
from serve_loads import Told, one_request

PAUSE = 0.5  # seconds between two questions of an honest user
BETWEEN, SENDERS = 0.1, 2  # seconds between two bodies of one sender; how many senders there are


def good(values: np.ndarray) -> dict[str, bytes]:
    """Good files of the observable "v": suffix -> content."""
    from astropy.table import QTable

    table, arrays, image = QTable({"v": values.astype("f8")}), io.BytesIO(), io.BytesIO()
    np.savez(arrays, v=values)
    table.write(image, format="fits")
    text = "v [mV]\n" + "\n".join(f"{value:.6g}" for value in values) + "\n"
    return {".csv": text.encode(), ".fits": image.getvalue(), ".npz": arrays.getvalue()}


def bodies(count: int, seed: int, values: np.ndarray) -> Iterator[tuple[str, str, bytes]]:
    """Kind, suffix and content of files: four of five are damaged, one is made to do harm."""
    dice, whole = random.Random(seed), good(values)
    for k in range(count):
        if k % 5 == 0:
            name, (suffix, make) = dice.choice(list(HARM.items()))
            yield name, suffix, make(dice)
            continue
        suffix = dice.choice(list(whole))
        content = whole[suffix]
        for _ in range(dice.randint(1, 3)):
            _, content = damage(content or b"0", dice)
        yield f"damaged {suffix}", suffix, content


def _header(dice: random.Random, name: Callable[[int], bytes]) -> bytes:
    count = dice.choice([1_000, 10_000, 40_000, 100_000])
    names = [b"v", *(name(k) for k in range(count))] if dice.random() < 0.5 else [name(k) for k in range(count)]
    row = b",".join([b"1"] * len(names)) + b"\n"
    return b",".join(names) + b"\n" + row * dice.choice([1, 50])


def _long(dice: random.Random) -> bytes:
    return b"v\n" + dice.choice([b"1\n", b'"', b" ", b"\n", b'""\n', b"1,"]) * dice.choice([10**5, 10**6, 8 * 10**6])


def _npy(shape: tuple[int, ...], content: bytes, dtype: str = "<f8") -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": dtype, "fortran_order": False, "shape": shape})
    return head.getvalue() + content


def _archive(members: Mapping[str, bytes]) -> bytes:
    image = io.BytesIO()
    with zipfile.ZipFile(image, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return image.getvalue()


def _promise(dice: random.Random) -> bytes:
    shape = dice.choice([(10**15,), (50, 10**9), (2**62, 8), (0,) * 30, (-50,), (1,) * 60, (50,)])
    return _archive({"v.npy": _npy(shape, b"", dice.choice(["<f8", "|S1000000", "<c16", "|V8"]))})


def _cards(cards: Sequence[str]) -> bytes:
    text = "".join(card.ljust(80)[:80] for card in cards)
    return (text + " " * (-len(text) % 2880)).encode()


_PRIMARY = ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0"]


def _many_cards(dice: random.Random) -> bytes:
    count = dice.choice([10**3, 10**4, 10**5])
    card = dice.choice(["COMMENT x", "CONTINUE  'a&'", "K       = 'a&'", "HIERARCH a b c = 1", "K%07d= 1", ""])
    cards = [card % k if "%" in card else card for k in range(count)]
    return _cards([*_PRIMARY, *cards, *dice.choice([["END"], []])])


def _many_units(dice: random.Random) -> bytes:
    one = _cards(["XTENSION= 'IMAGE   '", *_PRIMARY[1:], "PCOUNT  = 0", "GCOUNT  = 1", "END"])
    return _cards([*_PRIMARY, "END"]) + one * dice.choice([10, 1_000, 5_000])


def _wide_table(dice: random.Random) -> bytes:
    said, held = dice.choice([10, 1_000, 20_000, 10**9]), dice.choice([10, 1_000, 20_000])
    size = ["NAXIS   = 2", f"NAXIS1  = {held}", f"NAXIS2  = {dice.choice([1, 50, 10**12])}"]
    head = ["XTENSION= 'BINTABLE'", "BITPIX  = 8", *size, "PCOUNT  = 0", "GCOUNT  = 1", f"TFIELDS = {said}"]
    forms = [f"TFORM{k + 1:<3d}= 'B'" for k in range(held)] + [f"TTYPE{k + 1:<3d}= 'v'" for k in range(held)]
    return _cards([*_PRIMARY, "END"]) + _cards([*head, *forms, "END"]) + bytes(2880 * (1 + held * 50 // 2880))


HARM: Mapping[str, tuple[str, Callable[[random.Random], bytes]]] = {
    "csv of equal names": (".csv", lambda dice: _header(dice, lambda k: b"a")),
    "csv of the name": (".csv", lambda dice: _header(dice, lambda k: b"v")),
    "csv of names": (".csv", lambda dice: _header(dice, lambda k: b"a%d" % k)),
    "csv of parts": (".csv", lambda dice: _header(dice, lambda k: b"v_%d" % k)),
    "csv of brackets": (".csv", lambda dice: b" [" * dice.choice([10**3, 10**5]) + b"]\n1\n"),
    "csv that is long": (".csv", _long),
    "npz bomb": (".npz", lambda dice: _archive({"v.npy": _npy((50,), bytes(dice.choice([10**6, 10**7])))})),
    "npz of a bomb": (".npz", lambda dice: _archive({"v.npy": _npy((10**7,), bytes(8 * 10**7))})),
    "npz that promises": (".npz", _promise),
    "npz of members": (".npz", lambda dice: _archive({f"{k}.npy": b"" for k in range(dice.choice([10, 20_000]))})),
    "fits of cards": (".fits", _many_cards),
    "fits of units": (".fits", _many_units),
    "fits that is wide": (".fits", _wide_table),
}


def form(url: str, path: str, name: str, content: bytes, draws: int = 200) -> bytes:
    """A request with one file, as it is sent."""
    edge = "edge-of-a-part-7d1f"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="draws"\r\n\r\n{draws}\r\n--{edge}\r\n'
    head += f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{edge}--\r\n".encode()
    kind = f"Content-Type: multipart/form-data; boundary={edge}\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n{kind}".encode() + body


async def asking(url: str, requests: Iterator[tuple[str, bytes]], pause: float, told: Callable[[str], Told]) -> None:
    """One who asks one request after another, with a pause between them, and says what became of each kind."""
    host, port, reader, writer = urlsplit(url).hostname, urlsplit(url).port, None, None
    for kind, request in requests:
        started = time.monotonic()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection(host, port)
            status, _ = await one_request(reader, writer, request)
            told(kind).add(str(status), time.monotonic() - started)
        except (OSError, asyncio.IncompleteReadError) as error:
            told(kind).add(type(error).__name__, time.monotonic() - started)
            writer = None
        await asyncio.sleep(pause)
    if writer is not None:
        writer.close()


def send(url: str, path: str, count: int, seed: int, values: np.ndarray) -> dict[str, Told]:
    """Send that many bodies, and say what became of each kind."""
    found: dict[str, Told] = {}
    made = ((kind, form(url, path, f"file{suffix}", body)) for kind, suffix, body in bodies(count, seed, values))

    async def all_of_them() -> None:
        of = found.setdefault
        await asyncio.gather(*(asking(url, made, BETWEEN, lambda kind: of(kind, Told())) for _ in range(SENDERS)))

    asyncio.run(all_of_them())
    return found


async def beside(url: str, honest: Sequence[bytes], sending: Awaitable[Any], users: int = 20) -> tuple[Told, Told]:
    """What became of honest users, and of looks at the health, while something else goes on."""
    answers, health, going = Told(), Told(), True

    def turns(place: int) -> Iterator[tuple[str, bytes]]:
        while going:
            yield "", honest[place % len(honest)]
            place += users

    def looks() -> Iterator[tuple[str, bytes]]:
        while going:
            yield "", f"GET /health HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode()

    others = [asyncio.create_task(asking(url, turns(k), PAUSE, lambda _: answers)) for k in range(users)]
    others.append(asyncio.create_task(asking(url, looks(), 0.2, lambda _: health)))
    await sending
    going = False
    await asyncio.gather(*others)
    return answers, health
