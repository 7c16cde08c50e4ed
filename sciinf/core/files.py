"""Files written whole or not at all, which say when they were changed, and what a result rests on.

Every JSON object that we write ends with the key `sha256_of_the_rest`: the SHA-256 of the text that `json.dumps(...,
sort_keys=True)` gives for all its other keys. Reading compares, so that no changed digit passes for a result.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import secrets
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PACKAGES = ("sciinf", "torch", "numpy", "zuko", "nflows", "sbi", "numpyro", "astropy", "h5py")
SEAL = "sha256_of_the_rest"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the operating system says where a disk is full, a quota used up, or a file too large."""
_LEFT = 3_600.0  # seconds without a touch after which nobody writes a temporary file any more, on the slowest disk
_REMOTE = re.compile("([a-z][a-z0-9+.-]+):/+")  # one letter alone is a drive
_TEMPORARY = re.compile(r"\..+\.\d+(\.[0-9a-f]{8})?\.tmp")  # earlier versions drew no random part


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address, such as `s3://bucket/prefix`, which has lost a slash where it was made a `Path`."""
    return _REMOTE.match(str(path)) is not None


def shown(path: str | Path) -> str:
    """A path as messages call it; an address with the slash that it has lost as a `Path`."""
    return _REMOTE.sub(r"\1://", str(path))


def local_path(path: str | Path) -> Path:
    """A path of the file system.

    Raises:
        ValueError: If it is an address of objects, where only simulations can lie.
    """
    if is_remote(path):
        raise ValueError(
            f"{shown(path)} is an address of objects, where only simulations can lie (simulate, "
            "check, and train on them there); runs, fits, calibrations and answers need a folder of the file system"
        )
    return Path(path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file durably: temporary name, fsync, rename, fsync of the folder. A full disk leaves the old file.

    Raises:
        OSError: If the folder cannot be written or the disk is full, which then names the file; nothing half-written
            stays behind.
    """
    _put(path, lambda temporary: _write(temporary, data))


def write_through(path: Path, write: Callable[[Path], object]) -> None:
    """The same for a library that writes a file itself: `write` is given the temporary path.

    Raises:
        ValueError: If the path is an address of objects.
        OSError: As for `write_bytes`; whatever `write` raises is passed on, and nothing half-written stays behind.
    """

    def fill(temporary: Path) -> None:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())

    _put(path, fill)


def _write(temporary: Path, data: bytes) -> None:
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _put(path: Path, fill: Callable[[Path], object]) -> None:
    """Give a file its name once `fill` has made it durable under a temporary one."""
    local_path(path)
    temporary = temporary_of(path)
    try:
        fill(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in NO_ROOM and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error  # which file it was
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def temporary_of(path: Path) -> Path:
    """The name under which a file is written before it gets its own, no other process's; `sweep` knows it."""
    return path.with_name(f".{path.name}.{platform.node() or 'host'}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def sweep(folder: Path) -> None:
    """Remove temporary files that were not touched for an hour.

    Who writes a file is not asked: host name and process number are the same in many containers, so that a file may
    seem to be a dead process's and be a living one's.
    """
    for file in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(file.name):
            with suppress(OSError):  # somebody else was faster
                if time.time() - file.stat().st_mtime > _LEFT:
                    file.unlink()


def alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def json_text(data: Any) -> str:
    """Strict JSON; numbers that are not finite become null."""
    return json.dumps(finite_json(data), indent=1, allow_nan=False)


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """An object as it is written, with the hash of its content as last key."""
    rest = {key: value for key, value in finite_json(data).items() if key != SEAL}
    return {**rest, SEAL: sha256_of(rest)}


def opened(data: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """An object without its hash, and whether there was one.

    Raises:
        ValueError: If the content does not have the hash.
    """
    rest = {key: value for key, value in data.items() if key != SEAL}
    if SEAL in data and data[SEAL] != sha256_of(rest):
        raise ValueError(f"its content does not have the hash written in it ({SEAL})")
    return rest, SEAL in data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write an object as strict JSON durably, with the hash of its content; numbers that are not finite become null."""
    write_bytes(path, json_bytes(data))


def json_bytes(data: Mapping[str, Any]) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(sealed(data), indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """What `write_json` wrote, without its hash.

    Raises:
        ValueError: If the file is not JSON, or its content is not what was written; the message names it.

    Warns:
        UserWarning: If it carries no hash, as files of older versions do.
    """
    return _checked(parse_json(path), str(path))


def json_of(data: bytes, name: str) -> Any:
    """The same of a file's bytes; `name` is what messages call it."""
    return _checked(_parsed(lambda: data.decode("utf-8"), name), name)


def _checked(data: Any, name: str) -> Any:
    if not isinstance(data, dict):
        return data  # nothing of ours; whoever asked says what was expected
    try:
        content, known = opened(data)
    except ValueError as error:
        raise ValueError(
            f"{name} is damaged, or was edited by hand: {error}; restore it, or make it again with the command that "
            "wrote it"
        ) from error
    if not known:
        warnings.warn(
            f"{name} carries no hash of its content ({SEAL}), as files of older versions: whether anything in it was "
            "changed cannot be told",
            stacklevel=1,  # one place, so that each file is named once
        )
    return content


def parse_json(path: Path) -> Any:
    """JSON of whatever origin, unchecked.

    Raises:
        ValueError: If the file is not JSON; the message names it.
    """
    return _parsed(lambda: path.read_text(encoding="utf-8"), str(path))


def _parsed(text: Callable[[], str], name: str) -> Any:
    try:
        return json.loads(text())
    except (ValueError, RecursionError) as error:  # not JSON, or not text
        raise ValueError(f"{name} is damaged: {error}") from error


def versions() -> dict[str, str]:
    """Versions of Python and of the packages results depend on."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def sha256_of(said: Any) -> str:
    """The SHA-256 of bytes, of a text in UTF-8, or of anything else as JSON with its keys in order."""
    text = said if isinstance(said, str | bytes) else json.dumps(said, sort_keys=True)
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def finite_json(value: Any) -> Any:
    """A value as strict JSON can say it: numbers that are not finite become null, keys become text."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(v) for v in value]
    return value
