"""A store's files as objects of an S3 service: `s3://BUCKET/PREFIX`.

An object is there whole or not at all, and there is no rename. What a folder does by renaming is done here by
conditional puts: one with `If-None-Match: *` creates an object unless it is there, one with `If-Match: ETAG` replaces
it only as it was read. So of several writers one writes, nobody overwrites, and nothing is deleted but by `remove`. A
line of a journal is an object of its own, `journal/WRITER/NUMBER.json`.

A put that was answered by an error may have been done all the same. It is tried again
(`campaigns.storage.object_requests`), and the next try then finds the object there: it is taken for one's own if the
bytes are the same. 409 says that another put of the same key was on its way, and obstore tells it as an object that is
there; so it is read, and where nothing is there the put is tried again. That the service keeps the conditions is tried
by each process at its first put.

Address and rights come from the environment as obstore reads it (`AWS_ENDPOINT_URL`, `AWS_REGION`,
`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, ...). A process that was forked from one that has read or written here
cannot go on: obstore has threads, which a fork does not copy. Ours are all spawned.

References: Amazon S3 User Guide, "How to prevent object overwrites with conditional writes"; obstore 0.12.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import re
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, final

from sciinf.campaigns.storage.folder import Changed, Folder, Listing, journal_text
from sciinf.campaigns.storage.object_requests import Final, Requests, first_line

PATIENCE = 180.0
"""Seconds for which errors that pass are met by trying again."""
_AT_ONCE = 16  # lines of journals that are read at a time
_NUMBERS: dict[tuple[str, str], Iterator[int]] = {}  # of the lines that this process has written
_LINE = re.compile(r"/\d{8}\.json$")
_PAGE = 1000  # names
_LONGEST = 120  # s that one request may take, with all its bytes


@final
class Objects(Folder):
    """Objects below a prefix of a bucket.

    Args:
        url: `s3://BUCKET/PREFIX`.
        patience: Seconds for which errors that pass are met by trying again; `PATIENCE` where left out.

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
        self._tags: dict[str, str | None] = {}  # of files that may be replaced, as they were read
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

        written = self._requests.tried(f"write {name}", put)
        if written and not self._keeps:
            self._requests.tried(f"write {name}", lambda: self._refused(name, data, "create", AlreadyExistsError))
        self._keeps = True
        return written

    def replace(self, name: str, data: bytes) -> None:
        """As a `Folder` does, where the object is as this folder read it last.

        Raises:
            Changed: If somebody else has replaced it since.
            OSError: If it cannot be written, or the service does not keep `If-Match`.
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
        """As a `Folder` does: the first writer wins. What is there is replaced only where it may not stay.

        Raises:
            OSError: If it cannot be written.
        """
        while not self.create(name, data):
            try:
                found, tag = self._whole(name)
                if found == data or stays(found):
                    return found
                self._swap(name, data, found, tag)
            except (Changed, FileNotFoundError):
                continue  # somebody else was faster: what is there now may be good, or it was packed
            break
        return data

    def write(self, name: str, parts: Iterable[bytes]) -> None:
        """As a `Folder` does, but in memory, and in one request: it is not to be large."""
        self.replace(name, b"".join(parts))

    def append(self, name: str, line: bytes) -> None:
        writer, known = name.removesuffix(".jsonl"), (self.name, name)
        numbers = _NUMBERS.setdefault(known, itertools.count())
        while not self.create(f"{writer}/{next(numbers):08d}.json", line):
            continue  # a number that another store of this process has taken

    def news(self, inside: str, seen: dict[str, Any]) -> Iterator[tuple[str, int, bytes]]:
        """As a `Folder` does; `seen` has the numbers of lines, and what is yielded is named by its writer.

        Raises:
            OSError: If it cannot be read.
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
            below = self._below(inside)  # a line that is gone by now is in one of these
        for name, data in self._whole_journals(inside, seen, below).items():
            seen[name] = len(data)
            yield name, 0, data
        for name, start, end, data in lines:
            seen[name] = end
            yield name, start, data

    def settle(self, name: str) -> str:
        """The same name: each line is an object of its own, to which nobody adds."""
        self._look(name)
        return name

    def names(self, inside: str) -> Iterator[str]:
        """As a `Folder` does; asked for page by page, each of which is tried again by itself."""
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
        """Nothing: names of objects need no folders, and none is ever unfinished."""

    # --- one request ------------------------------------------------------------------------------------------------

    def _whole_journals(self, inside: str, seen: Mapping[str, Any], below: _Below) -> dict[str, bytes]:
        """Journals that are one object, new ones: merged, or of a folder that was copied here. Nobody adds to them."""
        found, gone = dict[str, bytes](), False
        for name in (f"{inside}/{file}" for file in sorted(below.objects) if file.endswith(".jsonl")):
            if name not in seen:
                try:
                    data = self.read(name)
                    found[name] = data[: data.rfind(b"\n") + 1]
                except FileNotFoundError:
                    gone = True
        if gone:  # merged into another, which is there by now
            found |= self._whole_journals(inside, {**seen, **found}, self._below(inside))
        return found

    def _listed(self, inside: str, after: str) -> Iterator[str]:
        """Names below one that come after another, in their order."""
        page = [after] * _PAGE
        while len(page) == _PAGE:  # a shorter one is the last
            page = self._requests.tried(f"list {inside}", lambda last=page[-1]: self._page(inside, last))
            yield from page

    def _below(self, inside: str) -> _Below:
        """What lies right below a name."""
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
        """The bytes of an object, and what tells them from those of another version of it."""
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
                self.read(name)  # says whether there is a bucket, which the answer to a look does not
        return None

    def _put(self, name: str, data: bytes, mode: Any) -> None:
        import obstore

        tag = obstore.put(self._client, name, data, mode=mode, use_multipart=False)["e_tag"]
        if "/" not in name:
            self._tags[name] = tag

    def _swap(self, name: str, data: bytes, before: bytes | None, tag: str | None) -> None:
        """Replace an object unless it has another tag by now."""
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
                if self._whole(name)[0] != data:  # else the put was done that was answered by an error
                    words = f"{self.name}/{name} was changed by somebody else"
                    raise Changed(errno.EAGAIN, words, name) from error

        self._requests.tried(f"write {name}", put)

    def _mine(self, name: str, data: bytes, error: Exception) -> bool:
        """Whether an object that is said to be there has these bytes."""
        try:
            return self._get(name, 0, None)[0] == data
        except FileNotFoundError:
            raise TimeoutError(f"another put of it came to nothing ({first_line(error)})") from error

    def _refused(self, name: str, data: bytes, mode: Any, refusal: type[Exception]) -> None:
        """Make sure that the service refuses a put whose condition does not hold; `data` is what is there."""
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
    """Names right below one: those that others lie below, and objects."""

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
    never: Any = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}  # tries are counted here
    return S3Store(bucket, prefix=prefix, client_options=options, retry_config=never)
