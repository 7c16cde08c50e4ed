"""Damaged and hostile observation files: each is read, or refused in a sentence, in little time and memory.

    python benchmarks/fuzzed_observations.py [--count 4200] [--seed 0]

Every kind of file is written whole, then damaged (bits, digits, cuts, zeros, insertions, headers that promise more,
another encoding, another kind of file), or made by hand to do harm (bombs, links, storage elsewhere, deep nesting). A
process of its own reads it. A failure is an error other than a ValueError that names what is wrong, a crash, more than
10 s, or more than 500 MB; then the exit status is 1.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import random
import re
import resource
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciinf import Observable
from sciinf.core import read_observation

OBSERVABLES = {"flux": Observable((40,), "electron/s", ("time",)), "n": Observable((40,), dtype="int64")}
SECONDS, MEGABYTES = 10.0, 500.0
_FLUX, _N = np.linspace(1.0, 40.0, 40), np.arange(40)


@dataclass(frozen=True)
class Row:
    """What became of one file: "read", "refused" or what went wrong, with the error and what it cost."""

    name: str
    result: str
    error: str
    seconds: float
    megabytes: float

    @property
    def failed(self) -> bool:
        return self.result not in ("read", "refused") or self.seconds > SECONDS or self.megabytes > MEGABYTES


# --- whole files ------------------------------------------------------------------------------------------------------


def _table() -> Any:
    from astropy import units
    from astropy.table import QTable

    return QTable({"flux": _FLUX * 60 * units.electron / units.min, "n": _N, "note": ["fine"] * 40})


def _h5(chunked: bool) -> bytes:
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        how: Any = {"chunks": (16,), "compression": "gzip", "fletcher32": True} if chunked else {}
        file.create_dataset("flux", data=_FLUX, **how).attrs["unit"] = "electron/s"
        file.create_dataset("n", data=_N, **how)
        file.create_dataset("beside/deep", data=_N)
    return image.getvalue()


def _npz(save: Callable[..., None]) -> bytes:
    image = io.BytesIO()
    save(image, flux=_FLUX, n=_N, note=np.array("fine"))
    return image.getvalue()


def _written(write: Callable[[Path], object], suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy's, that only it can read the unit
        path = Path(folder) / f"file{suffix}"
        write(path)
        return path.read_bytes()


def _text_table(path: Path) -> None:
    from astropy.io import fits

    columns = [fits.Column("flux", "E15.7", array=_FLUX), fits.Column("n", "I5", array=_N, null="---")]
    fits.TableHDU.from_columns(columns).writeto(path)


def _images(path: Path) -> None:
    from astropy.io import fits

    packed = fits.CompImageHDU(_N.reshape(8, 5).astype("i4"), name="n")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(_FLUX, name="flux"), packed]).writeto(path)


def _tensors(path: Path) -> None:
    torch.save({"flux": torch.from_numpy(_FLUX), "n": torch.from_numpy(_N), "beside": {"deep": 3}}, path)


def whole() -> dict[str, tuple[str, bytes]]:
    """A good file of each kind: name -> (suffix, content)."""
    lines = "\n".join(f"{a!r},{b},fine" for a, b in zip(_FLUX.tolist(), _N.tolist(), strict=True))
    pairs = {"flux": {"value": _FLUX.tolist(), "unit": "electron/s"}, "n": _N.tolist(), "note": "fine"}
    return {
        "csv": (".csv", f"flux [electron/s],n,note\n{lines}\n".encode()),
        "ecsv": (".ecsv", _written(lambda path: _table().write(path, format="ascii.ecsv"), ".ecsv")),
        "json": (".json", json.dumps(pairs).encode()),
        "txt": (".txt", ("# flux [electron/s] n\n" + lines.replace(",fine", "").replace(",", " ")).encode()),
        "pt": (".pt", _written(_tensors, ".pt")),
        "npz": (".npz", _npz(np.savez)),
        "npz deflated": (".npz", _npz(np.savez_compressed)),
        "h5": (".h5", _h5(chunked=False)),
        "h5 in chunks": (".h5", _h5(chunked=True)),
        "fits": (".fits", _written(lambda path: _table().write(path, format="fits"), ".fits")),
        "fits text": (".fits", _written(_text_table, ".fits")),
        "fits images": (".fits", _written(_images, ".fits")),
    }


# --- damage -----------------------------------------------------------------------------------------------------------


def damage(data: bytes, dice: random.Random, among: Sequence[str] = ()) -> tuple[str, bytes]:
    """One kind of damage (of those named, where some are), by chance: its name and what is left."""
    name = dice.choice(list(among or _DAMAGE))
    return name, _DAMAGE[name](data, dice)


def _flip(data: bytes, dice: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(dice.choice([1, 1, 4, 64])):
        out[dice.randrange(len(out))] ^= 1 << dice.randrange(8)
    return bytes(out)


def _digit(data: bytes, dice: random.Random) -> bytes:
    places = [match.start() for match in re.finditer(rb"[0-9]", data)] or [0]
    out = bytearray(data)
    for _ in range(dice.choice([1, 3])):
        out[dice.choice(places)] = ord(dice.choice("0123456789eE-+.x"))
    return bytes(out)


def _longer(data: bytes, dice: random.Random) -> bytes:
    """A number in a text or a header that becomes huge."""
    places = list(re.finditer(rb"[0-9]+ {0,12}", data)) or [re.compile(b"").match(data)]
    match: Any = dice.choice(places)
    return data[: match.start()] + b"9" * max(1, len(match.group())) + data[match.end() :]


def _cut(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data))]


def _hole(data: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(data))
    size = min(len(data) - start, dice.choice([1, 8, 512]))
    return data[:start] + dice.choice([b"\0", b"\xff", b" "]) * size + data[start + size :]


def _insert(data: bytes, dice: random.Random) -> bytes:
    start, size = dice.randrange(len(data)), dice.choice([1, 8, 2880])
    return data[:start] + dice.randbytes(size) + data[start:]


def _lose(data: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + data[start + dice.choice([1, 8, 2880]) :]


def _repeat(data: bytes, dice: random.Random) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + data[start : start + 4096] * dice.choice([2, 20])


def _recode(data: bytes, dice: random.Random) -> bytes:
    return data.decode("latin-1").encode(dice.choice(["utf-16", "utf-8-sig", "utf-32", "utf-7"]))


_DAMAGE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "bits": _flip,
    "digits": _digit,
    "longer": _longer,
    "cut": _cut,
    "hole": _hole,
    "insert": _insert,
    "lose": _lose,
    "repeat": _repeat,
    "recode": _recode,
}


# --- harm -------------------------------------------------------------------------------------------------------------


def hostile() -> dict[str, tuple[str, bytes]]:
    """Files made to do harm: name -> (suffix, content)."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**15,)})
    promised, empty = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(promised, "w") as archive:
        archive.writestr("flux.npy", header.getvalue())
        archive.writestr("n.npy", b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535)
    with zipfile.ZipFile(empty, "w"):
        pass
    cards = ["SIMPLE  =                    T", "BITPIX  =                  -64", "NAXIS   =                    1"]
    giant = "".join(c.ljust(80) for c in [*cards, "NAXIS1  =      999999999999999999", "END"]).ljust(2880)
    rows = "flux,n\n" + "1,1\n" * 39
    table = ["XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 8", "NAXIS2  = 40", "PCOUNT  = 0"]
    table += ["GCOUNT  = 1", "TFIELDS =            999999999", "TTYPE1  = 'flux'", "TFORM1  = 'D'", "END"]
    empty_one = "".join(c.ljust(80) for c in [cards[0], "BITPIX  = 8", "NAXIS   = 0", "END"]).ljust(2880)
    fields = empty_one + "".join(c.ljust(80) for c in table).ljust(2880)
    return {
        "npz of nothing": (".npz", empty.getvalue()),
        "npz that promises": (".npz", promised.getvalue()),
        "npz bomb": (".npz", _npz(lambda file, **_: np.savez_compressed(file, flux=np.zeros(2 * 10**7), n=_N))),
        "empty": (".npz", b""),
        "h5 of fill values": (".h5", _h5_hostile("fill")),
        "h5 in a huge chunk": (".h5", _h5_hostile("chunk")),
        "h5 link": (".h5", _h5_hostile("link")),
        "h5 soft link": (".h5", _h5_hostile("soft")),
        "h5 stored elsewhere": (".h5", _h5_hostile("external")),
        "h5 of parts elsewhere": (".h5", _h5_hostile("virtual")),
        "fits of a giant": (".fits", giant.encode()),
        "fits of a billion columns": (".fits", fields.encode() + bytes(2880)),
        "fits in gzip": (".fits", b"\x1f\x8b\x08" + bytes(100)),
        "json nested": (".json", b'{"flux":' + b"[" * 10**6 + b"]" * 10**6 + b"}"),
        "json huge number": (".json", b'{"flux": [1' + b"0" * 5000 + b'], "n": 1}'),
        "json twice": (".json", b'{"flux": [1], "flux": [2], "n": 1}'),
        "json not finite": (".json", b'{"flux": [NaN, Infinity], "n": [1e999]}'),
        "csv long field": (".csv", (rows + "1," + "9" * 10**6 + "\n").encode()),
        "csv many columns": (".csv", b",".join(b"c%d" % i for i in range(20_000)) + b"\n" + b",".join([b"1"] * 20_000)),
        "csv of equal names": (".csv", b",".join([b"flux", b"n"] + [b"a"] * 40_000) + b"\n" + b"1," * 40_001 + b"1"),
        "csv twice": (".csv", b"flux,flux,n\n" + b"1,2,3\n" * 40),
        "csv without an end": (".csv", b'flux,n\n"' + b"1,1\n" * 10**5),
        "ecsv of aliases": (".ecsv", _aliases()),
    }


def _h5_hostile(kind: str) -> bytes:
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w") as opened:
        file: Any = opened
        file["n"] = _N
        if kind == "fill":
            file.create_dataset("flux", (3 * 10**8,), "f8", chunks=(10**6,), compression="gzip", fillvalue=1.0)
        elif kind == "chunk":
            file.create_dataset("flux", (40,), "f8", maxshape=(None,), chunks=(10**7,), compression="gzip", data=_FLUX)
        elif kind == "link":
            file["flux"] = h5py.ExternalLink("/etc/hostname", "flux")
        elif kind == "soft":
            file["flux"] = h5py.SoftLink("/nowhere")
        elif kind == "external":
            file.create_dataset("flux", (40,), "u1", external=[("/etc/passwd", 0, 40)])
        else:
            layout = h5py.VirtualLayout((40,), "f8")
            layout[:] = h5py.VirtualSource("/etc/hostname", "flux", (40,))
            file.create_virtual_dataset("flux", layout)
    return image.getvalue()


def _aliases() -> bytes:
    """Nine lists of nine of the list before: a billion entries for who expands them."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    head = ["%ECSV 1.0", "---", "datatype:", "- {name: flux, datatype: float64}", "meta:", *(f"  {x}" for x in lines)]
    return "".join(f"# {line}\n" for line in head).encode() + b"flux\n" + b"1\n" * 40


# --- the run ----------------------------------------------------------------------------------------------------------


def files(count: int, seed: int) -> Any:
    """The first `count` files of a seed, one after another: (name, suffix, content); first those made to do harm."""
    dice, good = random.Random(seed), whole()
    crafted = [(name, *item) for name, item in hostile().items()]
    yield from crafted[:count]
    for _ in range(count - len(crafted)):
        name, (suffix, data) = dice.choice(list(good.items()))
        done, data = damage(data, dice)
        if dice.random() < 0.1:
            again, data = damage(data or b"0", dice)
            done = f"{done}, {again}"
        if dice.random() < 0.02:
            suffix = dice.choice([".csv", ".ecsv", ".json", ".txt", ".pt", ".npz", ".h5", ".fits"])
            done = f"{done}, named {suffix}"
        yield f"{name}: {done}", suffix, data


def read(path: Path) -> tuple[str, str]:
    """What reading a file comes to, and the error."""
    try:
        read_observation(OBSERVABLES, path)
    except ValueError as error:
        clear = str(path) in str(error) or str(error).startswith("observable ")
        return "refused" if clear else "unclear", f"{type(error).__name__}: {error}"
    except Exception as error:
        return "raw error", f"{type(error).__name__}: {error}"
    return "read", ""


def _serve(pipe: Any) -> None:
    """Read what the parent names, until it closes; say what it came to and what it cost."""
    whole()  # loads the libraries before the first file is timed
    pipe.send("ready")
    while True:
        path = pipe.recv()
        before, started = _peak(), time.monotonic()
        result = read(path)
        pipe.send((*result, time.monotonic() - started, _peak() - before))


def _peak() -> float:
    """Of this process, or of the largest one that it started."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in both) / 1024


def run(count: int, seed: int) -> list[Row]:
    """Read that many damaged files, each in a process that may die of it."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        worker: Any = None
        for index, (name, suffix, data) in enumerate(files(count, seed)):
            path = Path(folder) / f"file{index}{suffix}"
            path.write_bytes(data)
            if worker is None:
                worker = _start()
            process, pipe = worker
            try:
                pipe.send(path)
                answer: Any = pipe.recv() if pipe.poll(SECONDS) else ("too slow", "", SECONDS, 0.0)
            except (EOFError, OSError):
                answer = ("crash", f"exit code {process.exitcode}", 0.0, 0.0)
            rows.append(Row(name, *answer))
            if rows[-1].failed:
                process.kill()
                worker = None
            path.unlink()
        if worker is not None:
            worker[0].kill()
    return rows


def _start() -> tuple[Any, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    ours.recv()
    return process, ours


def main() -> None:
    """Print what became of the files, and every failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=4_200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = run(given.count, given.seed)
    failed = [row for row in rows if row.failed]
    print(f"{len(rows):,} files: {dict(Counter(row.result for row in rows))}")
    print(f"slowest {max(r.seconds for r in rows):.2f} s, most memory {max(r.megabytes for r in rows):.0f} MB")
    for row in failed:
        print(f"FAILED {row.name}: {row.result}, {row.seconds:.1f} s, {row.megabytes:.0f} MB: {row.error[:300]}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
