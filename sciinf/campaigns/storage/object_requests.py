"""Requests to an S3 service: which errors pass and are met by trying again, and what the others mean.

503, 429, a refused or broken connection and a time-out pass, mostly. They are met by trying again after pauses that
grow, for `patience` seconds and three times at least; for less where the service has never answered, because its
address may be a wrong one. What stays is told with the way out. No error of obstore gets out of here, and none becomes
`FileNotFoundError` but that of an object that is not there: a missing bucket would otherwise look like a store that has
not begun.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from typing import TypeVar, final

from sciinf.campaigns.storage.folder import Unreachable

T = TypeVar("T")
_FIRST, _LONGEST = 0.1, 15.0  # s between two tries
_CONTACT = 15.0  # s for an address that has never answered
_LEAST = 3  # tries
_PASSING = {408, 429, 500, 502, 503, 504}
_METADATA = "169.254."  # where obstore looks for rights that the environment does not give


@final
class Final(Exception):
    """What no further try can change."""


@final
class Requests:
    """Requests to one bucket.

    Args:
        name: The folder as messages call it.
        bucket: The bucket.
        patience: Seconds for which errors that pass are met by trying again.
    """

    def __init__(self, name: str, bucket: str, patience: float) -> None:
        self.name, self.bucket, self.patience = name, bucket, patience
        self._answered = False

    def tried(self, what: str, request: Callable[[], T], otherwise: Mapping[int, T] | None = None) -> T:
        """What a request gives, tried again after errors that pass.

        Args:
            what: What it does, in words: "read store.json".
            request: Makes it, once.
            otherwise: HTTP status -> what it stands for where it is no error.

        Raises:
            FileNotFoundError: If the object is not there.
            Unreachable: If the service refuses for longer than is waited for, or for good; it says the way out.
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
            time.sleep(pause * random.uniform(0.5, 1.0))  # writers that were refused together come back apart
            pause = min(2 * pause, _LONGEST)
        raise AssertionError("the tries have no end")

    def _passes(self, error: Exception, status: int | None) -> bool:
        from obstore.exceptions import GenericError

        text = str(error)
        if isinstance(error, TimeoutError):
            return True
        if status == 409:  # OperationAborted, ConditionalRequestConflict: something else was on its way
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
    """The HTTP status in an error of obstore, which has it in its text alone."""
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def first_line(error: Exception) -> str:
    """What obstore says before it shows the insides of the error."""
    text = str(error).split("\n\nDebug source")[0]
    code = re.search(r"<Code>(\w+)</Code>", text)
    return text.split(": <?xml")[0].strip().splitlines()[0] + (f" ({code[1]})" if code else "")
