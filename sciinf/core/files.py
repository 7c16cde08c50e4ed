"""Files that are written completely or not at all, and that show whether their content was changed.

Every JSON object that we write ends with the key `sha256_of_the_rest`. Its value is the SHA-256 of the text
that `json.dumps(..., sort_keys=True)` gives for all other keys. Reading compares the two, so no changed digit
is taken for a result.
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
# Even on the slowest disk, no temporary file is still written to if it was unchanged for this many seconds.
_LEFT = 3_600.0
_REMOTE = re.compile("([a-z][a-z0-9+.-]+):/+")  # A single letter before the colon is a drive, not a scheme.
_TEMPORARY = re.compile(r"\..+\.\d+(\.[0-9a-f]{8})?\.tmp")  # Names by earlier versions had no random part.


def is_remote(path: str | Path) -> bool:
    """Whether a path is an address of an object store, such as `s3://bucket/prefix`.

    An address that was converted to a `Path` has lost one of its two slashes, and is recognised too.
    """
    return _REMOTE.match(str(path)) is not None


def shown(path: str | Path) -> str:
    """A path as text for messages; an address gets back the slash that it lost as a `Path`."""
    return _REMOTE.sub(r"\1://", str(path))


def local_path(path: str | Path) -> Path:
    """The given path as a `Path` of the file system.

    Raises:
        ValueError: If the path is an address of an object store, which can hold simulations only.
    """
    if is_remote(path):
        raise ValueError(
            f"{shown(path)} is an address of objects, where only simulations can lie (simulate, check, and "
            "train on them there); runs, fits, calibrations and answers need a folder of the file system"
        )
    return Path(path)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file durably: write under a temporary name, fsync, rename, fsync of the folder.

    If the disk is full, an older file of the same name stays as it was.

    Raises:
        ValueError: If the path is an address of an object store.
        OSError: If the folder cannot be written, or the disk is full; the error then names the file. No
            partly written file stays behind.
    """
    _put(path, lambda temporary: _write(temporary, data))


def write_through(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file durably, as `write_bytes` does, with a library that writes the file itself.

    Args:
        path: Path of the file.
        write: Writes the file to the temporary path that it is given. Its errors are passed on.

    Raises:
        ValueError: If the path is an address of an object store.
        OSError: As for `write_bytes`. No partly written file stays behind.
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
    """Give a file its final name after `fill` has written it durably under a temporary name."""
    local_path(path)
    temporary = temporary_of(path)
    try:
        fill(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in NO_ROOM and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def temporary_of(path: Path) -> Path:
    """The temporary name of a file while it is written; `sweep` recognises such names.

    The name differs between processes and between calls.
    """
    return path.with_name(f".{path.name}.{platform.node() or 'host'}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def sweep(folder: Path) -> None:
    """Remove temporary files in a folder that were not changed for an hour.

    The age decides, not the process that writes the file. Host names and process numbers are the same in many
    containers, so the file of a running process may look like that of a dead one.
    """
    for file in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(file.name):
            with suppress(OSError):  # Another process may have removed the file already.
                if time.time() - file.stat().st_mtime > _LEFT:
                    file.unlink()


def alive(pid: int) -> bool:
    """Whether a process with this number is running on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def json_text(data: Any) -> str:
    """A value as strict JSON text; numbers that are not finite become null."""
    return json.dumps(finite_json(data), indent=1, allow_nan=False)


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """An object as it is written to disk, with the hash of its content as the last key."""
    rest = {key: value for key, value in finite_json(data).items() if key != SEAL}
    return {**rest, SEAL: sha256_of(rest)}


def opened(data: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """An object without the hash of its content, and whether it had a hash.

    Raises:
        ValueError: If the content does not match the hash.
    """
    rest = {key: value for key, value in data.items() if key != SEAL}
    if SEAL in data and data[SEAL] != sha256_of(rest):
        raise ValueError(f"its content does not have the hash written in it ({SEAL})")
    return rest, SEAL in data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write an object durably as strict JSON, with the hash of its content.

    Numbers that are not finite become null.
    """
    write_bytes(path, json_bytes(data))


def json_bytes(data: Mapping[str, Any]) -> bytes:
    """The bytes of an object that `write_json` writes."""
    return (json.dumps(sealed(data), indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """The object that `write_json` wrote to a file, without its hash.

    Raises:
        ValueError: If the file is not JSON, or its content was changed. The message names the file.

    Warns:
        UserWarning: If the object has no hash, as in files by older versions.
    """
    return _checked(parse_json(path), str(path))


def json_of(data: bytes, name: str) -> Any:
    """The object that `read_json` returns, read from the bytes of a file; `name` is its name in messages."""
    return _checked(_parsed(lambda: data.decode("utf-8"), name), name)


def _checked(data: Any, name: str) -> Any:
    if not isinstance(data, dict):
        return data  # Such a value has no hash. The caller reports which value was expected.
    try:
        content, known = opened(data)
    except ValueError as error:
        raise ValueError(
            f"{name} is damaged, or was edited by hand: {error}; restore it, or make it again with the "
            "command that wrote it"
        ) from error
    if not known:
        warnings.warn(
            f"{name} carries no hash of its content ({SEAL}), like files by older versions: a change of the "
            "content cannot be detected",
            stacklevel=1,  # With the same place for all callers, Python shows the warning once per file.
        )
    return content


def parse_json(path: Path) -> Any:
    """The value in a JSON file of any origin, without a check of its hash.

    Raises:
        ValueError: If the file is not JSON. The message names the file.
    """
    return _parsed(lambda: path.read_text(encoding="utf-8"), str(path))


def _parsed(text: Callable[[], str], name: str) -> Any:
    try:
        return json.loads(text())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError, too.
        raise ValueError(f"{name} is damaged: {error}") from error


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that results depend on, by name."""
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
    """A value that strict JSON can hold: numbers that are not finite become None, and keys become text."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(v) for v in value]
    return value
