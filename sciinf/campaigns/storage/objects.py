"""Files of a store as objects of an S3 service, at `s3://BUCKET/PREFIX`.

An object is present whole or not at all, and an S3 service has no rename. Conditional puts take the place of renames. A
put with `If-None-Match: *` creates an object unless it exists. A put with `If-Match: ETAG` replaces an object only if
it has not changed since it was read. So only one of several writers writes, no process overwrites another's object, and
only `remove` deletes objects. A line of a journal is an object of its own, `journal/WRITER/NUMBER.json`.

A put that was answered by an error may have been done all the same. It is tried again (`Requests`), and the next try
then finds the object. The object counts as this process's own if its bytes are the same. Status 409 says that another
put of the same key was in progress; obstore reports it as an object that exists. So the object is read, and the put is
tried again if there is no object. Each process tests at its first put whether the service obeys the conditions.

Address and access rights come from the environment, as obstore reads it (`AWS_ENDPOINT_URL`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, ...). A process that was forked from one that has read or written objects
cannot continue: obstore has threads, and a fork does not copy them. All processes of sciinf are spawned.

References: Amazon S3 User Guide, "How to prevent object overwrites with conditional writes"; obstore 0.12.

**Requests.** `Requests` decides which errors are temporary and are tried again, and explains the other errors.

503, 429, a refused or broken connection and a time-out are usually temporary. They are tried again after growing
pauses, for `patience` seconds and at least three times. The time is shorter if the service has never answered, because
its address may be wrong. A lasting error is reported with the way out. No error of obstore leaves this module. Only a
missing object becomes `FileNotFoundError`: a missing bucket would otherwise look like a store that has not begun.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import random
import re
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

from sciinf.campaigns.storage.folder import Changed, Folder, Listing, LocalFolder, Unreachable, journal_text, there
from sciinf.core.files import is_remote, shown

_OBJECTS = re.compile("s3:/+")


def folder_at(path: str | Path) -> Folder:
    """Folder that a path names: one of the file system, or `s3://BUCKET/PREFIX`.

    Raises:
        ValueError: If the path is an address of another kind, or one without a bucket or prefix.
        ImportError: If the path is on s3://, and the package that reads objects is not installed.
    """
    if not is_remote(path):
        return LocalFolder(Path(path))
    if not _OBJECTS.match(str(path)):
        raise ValueError(
            f"{shown(path)}: simulations lie in a folder of the file system, or in objects at s3://BUCKET/X"
        )
    from sciinf.campaigns.storage.objects import Objects

    return Objects(_OBJECTS.sub("s3://", str(path), count=1))


def store_at(path: str | Path) -> Folder | None:
    """Folder that a path names, if a store has been begun there; None if there is no store."""
    folder = folder_at(path)
    return folder if there(folder, "store.json") else None


PATIENCE = 180.0
"""Seconds for which errors that pass are met by trying again."""
_AT_ONCE = 16  # Lines of journals that are read at the same time.
_NUMBERS: dict[tuple[str, str], Iterator[int]] = {}  # Numbers of lines written by this process.
_LINE = re.compile(r"/\d{8}\.json$")
_PAGE = 1000  # Names in one page of a listing.
_LONGEST = 120  # Seconds that one request may take, with all its bytes.


@final
class Objects(Folder):
    """Folder whose files are objects below a prefix of a bucket.

    Args:
        url: Address `s3://BUCKET/PREFIX`.
        patience: Seconds for which requests with temporary errors are tried again; `PATIENCE` by default.

    Raises:
        ValueError: If the address has no bucket, or no prefix.
        ImportError: If obstore is not installed.
    """

    def __init__(self, url: str, *, patience: float | None = None) -> None:
        bucket, _, prefix = url.removeprefix("s3://").strip("/").partition("/")
        if not bucket or not prefix:
            raise ValueError(f"{url} names no folder; expected s3://BUCKET/PREFIX, such as s3://my-bucket/runs/first")
        self.name = f"s3://{bucket}/{prefix}"
        self._client = _client(bucket, prefix)
        self._tags: dict[str, str | None] = {}  # Tags of replaceable files when last read.
        self._requests = Requests(self.name, bucket, PATIENCE if patience is None else patience)
        self._keeps = self._matches = False

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes:
        if stop is not None and stop <= start:
            return b""
        found, tag = self._requests.tried(f"read {name}", lambda: self._get(name, start, stop), {416: (b"", None)})
        if "/" not in name:
            self._tags[name] = tag
        return found

    def create(self, name: str, data: bytes) -> bool:
        """Create an object, as `Folder.create` does.

        After a put that was answered by an error, the result is also true if another process wrote the same bytes.

        Raises:
            OSError: If the object cannot be written, or the service does not obey `If-None-Match`.
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

        written = self._requests.tried(f"write {name}", put)
        if written and not self._keeps:
            self._requests.tried(f"write {name}", lambda: self._refused(name, data, "create", AlreadyExistsError))
        self._keeps = True
        return written

    def replace(self, name: str, data: bytes) -> None:
        """Replace an object, as `Folder.replace` does, if it has not changed since this folder read it last.

        Raises:
            Changed: If another process has replaced it since.
            OSError: If the object cannot be written, or the service does not obey `If-Match`.
        """
        try:
            before, tag = None, self._tags.get(name)
            if tag is None:
                before, tag = self._whole(name)
        except FileNotFoundError:
            if not self.create(name, data):
                raise Changed(errno.EAGAIN, f"{self.name}/{name} was written by somebody else", name) from None
        else:
            self._swap(name, data, before, tag)

    def commit(self, name: str, data: bytes, stays: Callable[[bytes], bool]) -> bytes:
        """Write an object, as `Folder.commit` does: the first writer wins.

        An existing object is replaced only if it may not stay.

        Raises:
            OSError: If the object cannot be written.
        """
        while not self.create(name, data):
            try:
                found, tag = self._whole(name)
                if found == data or stays(found):
                    return found
                self._swap(name, data, found, tag)
            except (Changed, FileNotFoundError):
                continue  # Another process was faster: its object may be good, or was packed.
            break
        return data

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        """Write an object, as `Folder.write` does, but in memory and in one request. So it must not be large."""
        self.replace(name, b"".join(parts))

    def append(self, name: str, line: bytes) -> None:
        writer, known = name.removesuffix(".jsonl"), (self.name, name)
        numbers = _NUMBERS.setdefault(known, itertools.count())
        while not self.create(f"{writer}/{next(numbers):08d}.json", line):
            continue  # Another `Store` of this process has taken the number.

    def news(self, inside: str, seen: dict[str, Any]) -> Iterator[tuple[str, int, bytes]]:
        """Yield new lines, as `Folder.news` does, but named by their writers.

        `seen` has the numbers of lines.

        Raises:
            OSError: If the lines cannot be read.
        """
        below, lines = self._below(inside), list[tuple[str, int, int, bytes]]()
        for writer in sorted(below.common):
            name, start = f"{inside}/{writer}", seen.get(f"{inside}/{writer}", 0)
            files = list(self._listed(name, f"{name}/{start - 1:08d}.json" if start else ""))
            files = [file for file in files if _LINE.search(file)]
            if files:
                with ThreadPoolExecutor(_AT_ONCE) as pool:
                    data = b"\n".join([*pool.map(functools.partial(journal_text, self), files), b""])
                lines.append((name, start, int(files[-1].removesuffix(".json")[-8:]) + 1, data))
        if below.common:
            below = self._below(inside)  # A line that is gone by now is in one of the merged journals.
        for name, data in self._whole_journals(inside, seen, below).items():
            seen[name] = len(data)
            yield name, 0, data
        for name, start, end, data in lines:
            seen[name] = end
            yield name, start, data

    def settle(self, name: str) -> str:
        """Return the same name, because each line is an object of its own, to which no process adds."""
        self._look(name)
        return name

    def names(self, inside: str) -> Iterator[str]:
        """Names as `Folder.names` gives them, requested page by page. Each page is tried again by itself."""
        yield from self._listed(inside, "")

    def listed(self, inside: str, before: Listing | None = None) -> Listing:
        found = self._below(inside)
        return Listing(found.common | found.objects)

    def stamp(self, name: str) -> Hashable:
        found = self._look(name)
        return found["size"], found["e_tag"]

    def age(self, name: str) -> float:
        return max(0.0, time.time() - self._look(name)["last_modified"].timestamp())

    def remove(self, name: str) -> None:
        import obstore

        self._requests.tried(f"remove {name}", lambda: obstore.delete(self._client, name))

    def prepare(self, inside: str) -> None:
        """Do nothing: names of objects need no folders, and no object is ever unfinished."""

    # --- one request ------------------------------------------------------------------------------------------------

    def _whole_journals(self, inside: str, seen: Mapping[str, Any], below: _Below) -> dict[str, bytes]:
        """New journals that are single objects: merged journals, or those of a folder that was copied here.

        No process adds to such journals.
        """
        found, gone = dict[str, bytes](), False
        for name in (f"{inside}/{file}" for file in sorted(below.objects) if file.endswith(".jsonl")):
            if name not in seen:
                try:
                    data = self.read(name)
                    found[name] = data[: data.rfind(b"\n") + 1]
                except FileNotFoundError:
                    gone = True
        if gone:  # A journal was merged into another one, which exists by now.
            found |= self._whole_journals(inside, {**seen, **found}, self._below(inside))
        return found

    def _listed(self, inside: str, after: str) -> Iterator[str]:
        """Yield the names below a folder that come after a given name, in order."""
        page = [after] * _PAGE
        while len(page) == _PAGE:  # A shorter page is the last one.
            page = self._requests.tried(f"list {inside}", lambda last=page[-1]: self._page(inside, last))
            yield from page

    def _below(self, inside: str) -> _Below:
        """Names directly below a folder."""
        import obstore

        found = self._requests.tried(
            f"list {inside}", lambda: obstore.list_with_delimiter(self._client, prefix=inside or None)
        )
        last = (path.rsplit("/", 1)[-1] for path in found["common_prefixes"])
        return _Below(frozenset(last), frozenset(each["path"].rsplit("/", 1)[-1] for each in found["objects"]))

    def _page(self, inside: str, last: str) -> list[str]:
        import obstore

        found = obstore.list(self._client, prefix=inside, offset=last or None, chunk_size=_PAGE)
        return [each["path"] for each in next(iter(found), [])]

    def _get(self, name: str, start: int, stop: int | None) -> tuple[bytes, str | None]:
        import obstore

        span: Any = {"offset": start} if stop is None else (start, stop)
        found = obstore.get(self._client, name, options={"range": span} if start or stop is not None else None)
        return found.bytes().to_bytes(), found.meta["e_tag"]

    def _whole(self, name: str) -> tuple[bytes, str | None]:
        """Bytes of an object, and the tag of its version."""
        return self._requests.tried(f"read {name}", lambda: self._get(name, 0, None))

    def _look(self, name: str) -> Any:
        """Size, time and tag of an object."""
        import obstore

        for last in (False, True):
            try:
                return self._requests.tried(f"look at {name}", lambda: obstore.head(self._client, name))
            except FileNotFoundError:
                if last:
                    raise
                self.read(name)  # Only a read tells a missing bucket from a missing object.
        return None

    def _put(self, name: str, data: bytes, mode: Any) -> None:
        import obstore

        tag = obstore.put(self._client, name, data, mode=mode, use_multipart=False)["e_tag"]
        if "/" not in name:
            self._tags[name] = tag

    def _swap(self, name: str, data: bytes, before: bytes | None, tag: str | None) -> None:
        """Replace an object unless its tag has changed."""
        from obstore.exceptions import PreconditionError

        if not self._matches:
            there = self._whole(name)[0] if before is None else before
            wrong = {"e_tag": '"0"'}
            self._requests.tried(f"write {name}", lambda: self._refused(name, there, wrong, PreconditionError))
            self._matches = True

        def put() -> None:
            try:
                self._put(name, data, {"e_tag": tag})
            except PreconditionError as error:
                if self._whole(name)[0] != data:  # Otherwise a put that was answered by an error was done.
                    words = f"{self.name}/{name} was changed by somebody else"
                    raise Changed(errno.EAGAIN, words, name) from error

        self._requests.tried(f"write {name}", put)

    def _mine(self, name: str, data: bytes, error: Exception) -> bool:
        """Whether an object that is said to exist has the given bytes."""
        try:
            return self._get(name, 0, None)[0] == data
        except FileNotFoundError:
            raise TimeoutError(f"another put of this object failed ({first_line(error)})") from error

    def _refused(self, name: str, data: bytes, mode: Any, refusal: type[Exception]) -> None:
        """Test that the service refuses a put whose condition is false; `data` is the existing content."""
        try:
            self._put(name, data, mode)
        except refusal:
            return
        raise Final(
            "the service does not keep the conditions of a put (If-None-Match, If-Match): writers would overwrite each "
            f"other's work unseen. Nothing but {name} was written. Update the service, or use a folder of a file system"
        )


@dataclass(frozen=True)
class _Below:
    """Names directly below a folder: prefixes that have names below them, and objects."""

    common: frozenset[str]
    objects: frozenset[str]


def _client(bucket: str, prefix: str) -> Any:
    try:
        from obstore.store import S3Store
    except ImportError as error:
        raise ImportError("stores on s3:// need obstore: pip install 'sciinf[objects]'") from error

    from datetime import timedelta

    plain = any(os.environ.get(f"AWS_ENDPOINT{end}", "").startswith("http://") for end in ("", "_URL", "_URL_S3"))
    options: Any = {"timeout": timedelta(seconds=_LONGEST), **({"allow_http": True} if plain else {})}
    never: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}  # `Requests` counts the tries.
    return S3Store(bucket, prefix=prefix, client_options=options, retry_config=never)


T = TypeVar("T")
_FIRST, _LONGEST_PAUSE = 0.1, 15.0  # Shortest and longest pause between two tries, in seconds.
_CONTACT = 15.0  # Seconds of tries for an address that has never answered.
_LEAST = 3  # Fewest tries.
_PASSING = {408, 429, 500, 502, 503, 504}
_METADATA = "169.254."  # Address where obstore looks for credentials that the environment does not give.


@final
class Final(Exception):
    """Error that no further try can change."""


@final
class Requests:
    """Requests to one bucket, with repeated tries.

    Args:
        name: Name of the folder in messages.
        bucket: Name of the bucket.
        patience: Seconds for which requests with temporary errors are tried again.
    """

    def __init__(self, name: str, bucket: str, patience: float) -> None:
        self.name, self.bucket, self.patience = name, bucket, patience
        self._answered = False

    def tried(self, what: str, request: Callable[[], T], otherwise: Mapping[int, T] | None = None) -> T:
        """Result of a request, which is tried again after temporary errors.

        Args:
            what: What the request does, in words: "read store.json".
            request: Function that makes the request once.
            otherwise: HTTP status -> result for a status that is no error here.

        Raises:
            FileNotFoundError: If the object does not exist.
            Unreachable: If the service refuses for longer than `patience`, or for good; the message says the way out.
        """
        started, pause = time.monotonic(), _FIRST
        for number in itertools.count(1):
            try:
                found = request()
                self._answered = True
                return found
            except Exception as error:
                status = _status(error)
                if otherwise and status is not None and status in otherwise:
                    return otherwise[status]
                self._answered |= status is not None and _METADATA not in str(error)
                if not self._passes(error, status):
                    raise self._told(what, error) from None
                limit = self.patience if self._answered else min(self.patience, _CONTACT)
                if number >= _LEAST and time.monotonic() - started + pause > limit:
                    raise self._given_up(what, error, time.monotonic() - started) from None
            time.sleep(pause * random.uniform(0.5, 1.0))  # Random, so that writers refused together come back apart.
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError("the tries have no end")

    def _passes(self, error: Exception, status: int | None) -> bool:
        from obstore.exceptions import GenericError

        text = str(error)
        if isinstance(error, TimeoutError):
            return True
        if status == 409:  # OperationAborted or ConditionalRequestConflict: another request was in progress.
            return True
        if not isinstance(error, GenericError) or re.search("builder error|redirect", text):
            return False
        if _METADATA in text:  # No credentials in the environment, or their service pauses.
            return self._answered
        return status is None or status in _PASSING

    def _told(self, what: str, error: Exception) -> Exception:
        """Exception that explains a lasting error and says what to do about it."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        text, where = str(error), f"{self.name}: cannot {what}"
        if isinstance(error, Final):
            return Unreachable(errno.EIO, f"{where}: {error}")
        if "NoSuchBucket" in text:
            way = "check its name, AWS_REGION and AWS_ENDPOINT_URL, or make it; a bucket is never made here"
            return Unreachable(errno.EIO, f"{where}: there is no bucket {self.bucket!r}; {way}")
        if _METADATA in text:
            way = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (files such as ~/.aws/credentials are not read)"
            return Unreachable(errno.EACCES, f"{where}: no credentials were found; {way}")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or "InvalidAccessKeyId" in text:
            way = (
                "check the credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; to read needs s3:GetObject and "
                "s3:ListBucket, to write s3:PutObject too"
            )
            return Unreachable(errno.EACCES, f"{where}: it is not allowed; {way} ({first_line(error)})")
        if isinstance(error, FileNotFoundError):
            return FileNotFoundError(errno.ENOENT, f"{where}: it is not there")
        if isinstance(error, BaseError):
            hint = "; AWS_REGION may be another one than the bucket's" if "redirect" in text else ""
            return Unreachable(errno.EIO, f"{where}: {first_line(error)}{hint}")
        return error

    def _given_up(self, what: str, error: Exception, seconds: float) -> Unreachable:
        told = f"{self.name}: cannot {what}, tried again for {seconds:.0f} s ({first_line(error)})"
        if not self._answered:
            told = f"{told}; {os.environ.get('AWS_ENDPOINT_URL', 'the service')} never answered: check AWS_ENDPOINT_URL"
        if "timed out" in str(error).lower() or "Timeout" in str(error):
            told = f"{told}; no whole answer in the time that one request may take: smaller blocks may help"
        return Unreachable(
            errno.EIO, f"{told}. Nothing that was committed is lost; the same command goes on where it was"
        )


def _status(error: Exception) -> int | None:
    """HTTP status of an obstore error, which has it only in its text; None if there is none."""
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def first_line(error: Exception) -> str:
    """First line of an obstore error, before the internals of the error."""
    text = str(error).split("\n\nDebug source")[0]
    code = re.search(r"<Code>(\w+)</Code>", text)
    return text.split(": <?xml")[0].strip().splitlines()[0] + (f" ({code[1]})" if code else "")
