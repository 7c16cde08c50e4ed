"""Reads large request bodies and files, in a process of its own and within limits of time and memory.

A parser may hold Python's interpreter lock as long as it reads a body, so that nothing else in its process runs. So one
process only reads, and answers no questions. If reading takes too long, that process stops it, and the body is refused.
"""

from __future__ import annotations

import contextlib
import importlib
import resource
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sciinf.interfaces.question import QueryOptions
from sciinf.interfaces.serve.models import Models
from sciinf.interfaces.serve.requests import (
    ObservationRequest,
    Questions,
    RequestLimits,
    TooMuch,
    Unfit,
    from_files,
    from_json,
)
from sciinf.interfaces.serve.wire import findings_in, pack, unpack

SECONDS = 10.0
"""Of processor time that the reading of one body may take."""
_LIBRARIES = ("astropy.io.ascii", "astropy.io.fits", "astropy.io.misc.yaml", "astropy.table", "astropy.units", "h5py")
"""Libraries that readers of files import. A limit that ended such an import would leave a broken library behind."""
_MEMORY = 2 * 2**30  # Bytes beyond those that the process has when the limit is set.


@dataclass(frozen=True)
class Body:
    """Body of a request: JSON, or files with form fields.

    Args:
        contents: The JSON body alone, or the contents of the files.
        names: Names of the files; None for a JSON body.
        fields: Form fields beside the files, name -> text.
    """

    contents: Sequence[bytes]
    names: Sequence[str] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


def body_out(body: Body, bounds: RequestLimits) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Head and arrays of a message by which the reading process is asked to read a body."""
    names = None if body.names is None else list(body.names)
    head = {"names": names, "fields": dict(body.fields), "bounds": asdict(bounds)}
    return head, {str(k): np.frombuffer(content, np.uint8) for k, content in enumerate(body.contents)}


def read(models: Models, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Read the questions in a body, and return them as a message for `asked_in`.

    Raises:
        ValueError: For the same reasons as `from_json` and `from_files`, or if reading takes too much time or memory.
    """
    model, bounds = models.get(head["model"]), RequestLimits(**head["bounds"])
    contents = [array.tobytes() for array in arrays.values()]
    for library in _LIBRARIES:
        importlib.import_module(library)
    try:
        with _limited():
            if head["names"] is None:
                asked = from_json(contents[0], model, bounds)
            else:
                asked = from_files(list(zip(head["names"], contents, strict=True)), head["fields"], model, bounds)
    except _TooLongError:
        raise Unfit(f"reading it takes more than {SECONDS:g} s; leave out what is not data", "file") from None
    except MemoryError:
        raise TooMuch("reading it takes too much memory; leave out what is not data") from None
    each = [{**one.told, "wanted": asdict(one.wanted)} for one in asked.each]
    values = {f"{k}/{name}": value for k, one in enumerate(asked.each) for name, value in one.x.items()}
    return pack({"each": each, "several": asked.several, "include": list(asked.include)}, values)


def asked_in(message: bytes) -> Questions:
    """The questions in a message that `read` returned."""
    head, arrays = unpack(message)
    each: list[dict[str, np.ndarray]] = [{} for _ in head["each"]]
    for key, value in arrays.items():
        k, _, name = key.partition("/")
        each[int(k)][name] = value
    found = [
        ObservationRequest(x, tuple(one["read"]), QueryOptions(**one["wanted"]), findings_in(one))
        for x, one in zip(each, head["each"], strict=True)
    ]
    return Questions(tuple(found), head["several"], tuple(head["include"]))


def limit_memory() -> None:
    """Limit this process to the memory that it has now plus 2 GiB; systems other than Linux set no limit."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _TooLongError(BaseException):
    """Raised if reading takes too long; not an `Exception`, because file readers catch those and may go on."""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Stop reading that takes too much processor time, and end the process if a library prevents the stop.

    A signal raises the exception. The signal is repeated, because an exception inside a callback of the garbage
    collector (jax has one) is lost. Both limits are timers that begin here. A limit on all seconds of the process
    (RLIMIT_CPU) would be compared with ticks of the kernel. After some minutes of work, these ticks can be seconds
    ahead of the process's clock.
    """

    def stop(*_: Any) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGPROF, stop), signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * SECONDS)  # The signal of this timer ends the process.
    signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS / 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGPROF, before[0])
        signal.signal(signal.SIGVTALRM, before[1])
