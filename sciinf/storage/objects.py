"""A store's files as objects of an S3 service: `s3://BUCKET/PREFIX`.

An object is there whole or not at all, and there is no rename. What a folder does by renaming is done here by
conditional puts: one with `If-None-Match: *` creates an object unless it is there, one with `If-Match: ETAG` replaces
it only as it was read. So of several writers one writes, nobody overwrites, and nothing is deleted but by `remove`. A
line of a journal is an object of its own.

**Errors that pass** (503, 429, a refused or broken connection, a time-out) are met by trying again after pauses that
grow. A put that was answered by an error may have been done all the same. The next try then finds the object there,
and takes it for its own if the bytes are the same. 409 says that another put of the same key was on its way, and
obstore tells it as an object that is there; so it is read, and where nothing is there the put is tried again.

Address and rights come from the environment as obstore reads it (`AWS_ENDPOINT_URL`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, ...). A process that was forked from one that has read or written here
cannot go on: obstore has threads, which a fork does not copy. Ours are all spawned.

References: Amazon S3 User Guide, "How to prevent object overwrites with conditional writes"; obstore 0.12.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, final

from sciinf.storage.folder import Changed, Folder, Listing

T = TypeVar("T")
PATIENCE = 180.0
"""Seconds for which errors that pass are met by trying again."""
_FIRST, _LONGEST = 0.1, 15.0  # s between two tries
_CONTACT = 15.0  # s for an address that has never answered, which may be a wrong one
_PASSING = {408, 429, 500, 502, 503, 504}
_AT_ONCE = 16  # lines of journals that are read at a time
_NUMBERS: dict[tuple[str, str], Iterator[int]] = {}  # of the lines that this process has written
_PAGE = 1000  # names
_METADATA = "169.254."  # where obstore looks for rights that the environment does not give


@final
class Objects(Folder):
    """Objects below a prefix of a bucket.

    Args:
        url: `s3://BUCKET/PREFIX`.
        patience: Seconds for which errors that pass are met by trying again.

    Raises:
        ValueError: If the address has no bucket, or no prefix.
        ImportError: If obstore is not installed.
    """

    def __init__(self, url: str, *, patience: float = PATIENCE) -> None:
        bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
        if not bucket or not prefix:
            raise ValueError(f"{url} names no folder; expected s3://BUCKET/PREFIX, such as s3://my-bucket/runs/first")
        self.name, self.bucket, self.patience = f"s3://{bucket}/{prefix}", bucket, patience
        self._client = _client(bucket, prefix)
        self._tags: dict[str, str] = {}
        self._answered = self._keeps = self._matches = False

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        if stop is not None and stop <= start:
            return b""
        import obstore

        def get() -> bytes:
            span = {} if not start and stop is None else {"range": {"offset": start} if stop is None else (start, stop)}
            found = obstore.get(self._client, name, options=span)  # type: ignore[arg-type]
            data = found.bytes()
            if (tag := found.meta["e_tag"]) is not None:
                self._tags[name] = tag
            return data.to_bytes()

        return self._tried(f"read {name}", get, otherwise={416: b""})

    def create(self, name: str, data: bytes) -> bool:
        """As a `Folder` does. After a put that was answered by an error, also true where somebody wrote the same bytes.

        Raises:
            OSError: If it cannot be written, or the service does not keep `If-None-Match`.
        """
        from obstore.exceptions import AlreadyExistsError

        tries = 0

        def put() -> bool:
            nonlocal tries
            tries += 1
            try:
                self._put(name, data, "create")
            except AlreadyExistsError as error:
                return self._mine(name, data, error) and tries > 1
            return True

        written = self._tried(f"write {name}", put)
        if written and tries == 1 and not self._keeps:
            self._tried(f"write {name}", lambda: self._refused(name, data, "create", AlreadyExistsError))
        self._keeps = True
        return written

    def replace(self, name: str, data: bytes) -> None:
        """As a `Folder` does, where the object is as this folder read it last.

        Raises:
            Changed: If somebody else has replaced it since.
            OSError: If it cannot be written, or the service does not keep `If-Match`.
        """
        from obstore.exceptions import PreconditionError

        try:
            before, tag = self.read(name) if name not in self._tags else None, self._tags[name]
        except FileNotFoundError:
            if not self.create(name, data):
                raise Changed(errno.EAGAIN, f"{self.name}/{name} was written by somebody else", name) from None
            return
        if not self._matches:
            before = self.read(name) if before is None else before
            self._tried(f"write {name}", lambda: self._refused(name, before, {"e_tag": '"0"'}, PreconditionError))
            self._matches = True

        def put() -> None:
            try:
                self._put(name, data, {"e_tag": tag})
            except PreconditionError as error:
                if self.read(name) != data:  # else the put was done that was answered by an error
                    words = f"{self.name}/{name} was changed by somebody else"
                    raise Changed(errno.EAGAIN, words, name) from error

        self._tried(f"write {name}", put)

    def commit(self, name: str, data: bytes, stays: Callable[[bytes], bool]) -> bytes:
        """As a `Folder` does: the first writer wins. What is there is replaced only where it may not stay.

        Raises:
            OSError: If it cannot be written.
        """
        while not self.create(name, data):
            found = self.read(name)
            if found == data or stays(found):
                return found
            try:
                self.replace(name, data)
            except Changed:
                continue  # somebody else was faster: what is there now may be good
            break
        return data

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        self.replace(name, b"".join(parts))

    def append(self, name: str, line: bytes) -> None:
        writer, known = name.removesuffix(".jsonl"), (self.name, name)
        numbers = _NUMBERS.setdefault(known, itertools.count())
        while not self.create(f"{writer}/{next(numbers):08d}.json", line):
            continue  # a number that another store of this process has taken

    def news(self, inside: str, seen: dict[str, int]) -> Iterator[tuple[str, int, bytes]]:
        """As a `Folder` does; `seen` has the numbers of lines, and what is yielded is named by its writer.

        Raises:
            OSError: If it cannot be read.
        """
        for writer in sorted(self._below(inside).common):
            name, start = f"{inside}/{writer}", seen.get(f"{inside}/{writer}", 0)
            files = list(self._listed(name, f"{name}/{start - 1:08d}.json" if start else ""))
            if files:
                with ThreadPoolExecutor(_AT_ONCE) as pool:
                    lines = list(pool.map(self.read, files))
                seen[name] = int(files[-1].removesuffix(".json")[-8:]) + 1
                yield name, start, b"\n".join([*lines, b""])

    def settle(self, name: str) -> str:
        raise OSError(errno.ENOTSUP, f"{self.name}: journals of objects are not merged; nobody adds to one of them")

    def names(self, inside: str) -> Iterator[str]:
        """As a `Folder` does; asked for page by page, each of which is tried again by itself."""
        yield from self._listed(inside, "")

    def listed(self, inside: str, before: Listing | None = None) -> Listing:
        found = self._below(inside)
        return Listing(found.common | found.objects)

    def stamp(self, name: str) -> Hashable:
        import obstore

        found = self._tried(f"look at {name}", lambda: obstore.head(self._client, name))
        return found["size"], found["e_tag"]

    def age(self, name: str) -> float:
        import obstore

        found = self._tried(f"look at {name}", lambda: obstore.head(self._client, name))
        return max(0.0, time.time() - found["last_modified"].timestamp())

    def remove(self, name: str) -> None:
        import obstore

        self._tried(f"remove {name}", lambda: obstore.delete(self._client, name))

    def prepare(self, inside: str) -> None:
        """Nothing: names of objects need no folders, and none is ever unfinished."""

    # --- one request ------------------------------------------------------------------------------------------------

    def _listed(self, inside: str, after: str) -> Iterator[str]:
        """Names below one that come after another, in their order."""
        page = [after] * _PAGE
        while len(page) == _PAGE:  # a shorter one is the last
            page = self._tried(f"list {inside}", lambda last=page[-1]: self._page(inside, last))
            yield from page

    def _below(self, inside: str) -> _Below:
        """What lies right below a name."""
        import obstore

        found = self._tried(f"list {inside}", lambda: obstore.list_with_delimiter(self._client, prefix=inside or None))
        last = (path.rsplit("/", 1)[-1] for path in found["common_prefixes"])
        return _Below(frozenset(last), frozenset(each["path"].rsplit("/", 1)[-1] for each in found["objects"]))

    def _page(self, inside: str, last: str) -> list[str]:
        import obstore

        found = obstore.list(self._client, prefix=inside, offset=last or None, chunk_size=_PAGE)
        return [each["path"] for each in next(iter(found), [])]

    def _put(self, name: str, data: bytes, mode: Any) -> None:
        import obstore

        written = obstore.put(self._client, name, data, mode=mode, use_multipart=False)
        if (tag := written["e_tag"]) is not None:
            self._tags[name] = tag

    def _mine(self, name: str, data: bytes, error: Exception) -> bool:
        """Whether an object that is said to be there has these bytes."""
        import obstore

        try:
            return obstore.get(self._client, name).bytes().to_bytes() == data
        except FileNotFoundError:
            raise TimeoutError(f"another put of it came to nothing ({_first_line(error)})") from error

    def _refused(self, name: str, data: bytes, mode: Any, refusal: type[Exception]) -> None:
        """Make sure that the service refuses a put whose condition does not hold; `data` is what is there."""
        try:
            self._put(name, data, mode)
        except refusal:
            return
        raise _Final(
            "the service does not keep the conditions of a put (If-None-Match, If-Match): writers would overwrite each "
            f"other's work unseen. Nothing but {name} was written. Update the service, or use a folder of a file system"
        )

    def _tried(self, what: str, request: Callable[[], T], otherwise: dict[int, T] | None = None) -> T:
        """What a request gives, tried again after errors that pass."""
        started, pause = time.monotonic(), _FIRST
        while True:
            try:
                found = request()
                self._answered = True
                return found
            except Exception as error:
                status = _status(error)
                if otherwise and status in otherwise:
                    return otherwise[status]
                self._answered |= status is not None and _METADATA not in str(error)
                if not self._passes(error, status):
                    raise self._told(what, error) from None
                limit = self.patience if self._answered else min(self.patience, _CONTACT)
                if time.monotonic() - started + pause > limit:
                    raise self._given_up(what, error, time.monotonic() - started) from None
            time.sleep(pause * random.uniform(0.5, 1.0))  # writers that were refused together come back apart
            pause = min(2 * pause, _LONGEST)

    def _passes(self, error: Exception, status: int | None) -> bool:
        from obstore.exceptions import GenericError

        text = str(error)
        if isinstance(error, TimeoutError):
            return True
        if not isinstance(error, GenericError) or re.search("builder error|redirect", text):
            return False
        if _METADATA in text:  # no rights in the environment, or a pause of the service that gives them
            return self._answered
        return status is None or status in _PASSING

    def _told(self, what: str, error: Exception) -> Exception:
        """What a lasting error means and what to do about it."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        text, where = str(error), f"{self.name}: cannot {what}"
        if isinstance(error, _Final):
            return OSError(errno.EIO, f"{where}: {error}")
        if "NoSuchBucket" in text:
            way = "check its name, AWS_REGION and AWS_ENDPOINT_URL, or make it; a bucket is never made here"
            return OSError(errno.EIO, f"{where}: there is no bucket {self.bucket!r}; {way}")
        if _METADATA in text:
            way = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (files such as ~/.aws/credentials are not read)"
            return PermissionError(errno.EACCES, f"{where}: no credentials were found; {way}")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or "InvalidAccessKeyId" in text:
            way = (
                "check the credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; to read needs s3:GetObject and "
                "s3:ListBucket, to write s3:PutObject too"
            )
            return PermissionError(errno.EACCES, f"{where}: it is not allowed; {way} ({_first_line(error)})")
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(errno.ENOENT, f"{where}: it is not there")
        if isinstance(error, BaseError):
            hint = "; AWS_REGION may be another one than the bucket's" if "redirect" in text else ""
            return OSError(errno.EIO, f"{where}: {_first_line(error)}{hint}")
        return error

    def _given_up(self, what: str, error: Exception, seconds: float) -> OSError:
        told = f"{self.name}: cannot {what}, tried again for {seconds:.0f} s ({_first_line(error)})"
        if not self._answered:
            told = f"{told}; {os.environ.get('AWS_ENDPOINT_URL', 'the service')} never answered: check AWS_ENDPOINT_URL"
        return OSError(errno.EIO, f"{told}. Nothing that was committed is lost; the same command goes on where it was")


@dataclass(frozen=True)
class _Below:
    """Names right below one: those that others lie below, and objects."""

    common: frozenset[str]
    objects: frozenset[str]


@final
class _Final(Exception):
    """What no further try can change."""


def _client(bucket: str, prefix: str) -> Any:
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise ImportError("stores on s3:// need obstore: pip install 'sciinf[objects]'") from error

    from datetime import timedelta

    plain = any(os.environ.get(f"AWS_ENDPOINT{end}", "").startswith("http://") for end in ("", "_URL", "_URL_S3"))
    options: Any = {"allow_http": True} if plain else {}
    never: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}  # tries are counted here
    return S3Store(bucket, prefix=prefix, client_options=options, retry_config=never)


def _status(error: Exception) -> int | None:
    """The HTTP status in an error of obstore, which has it in its text alone."""
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _first_line(error: Exception) -> str:
    """What obstore says before it shows the insides of the error."""
    text = str(error).split("\n\nDebug source")[0]
    code = re.search(r"<Code>(\w+)</Code>", text)
    return text.split(": <?xml")[0].strip().splitlines()[0] + (f" ({code[1]})" if code else "")
