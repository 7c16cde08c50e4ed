"""Large bodies and files of questions: read in a process of their own, within limits of time and memory.

A parser of files may hold Python's interpreter for as long as a body makes it, so that nothing else of its process goes
on. There is one process for it, which answers nothing. What takes too long is given up there, and refused.
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
_MEMORY = 2 * 2**30  # bytes, beside what the process has when it starts


@dataclass(frozen=True)
class Body:
    """What a request brought.

    Args:
        contents: A JSON body, or the contents of files.
        names: Names of the files; None where it is a JSON body.
        fields: Fields beside the files, name -> text.
    """

    contents: Sequence[bytes]
    names: Sequence[str] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


def body_out(body: Body, bounds: RequestLimits) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Head and arrays of a message that asks for a body to be read within bounds."""
    names = None if body.names is None else list(body.names)
    head = {"names": names, "fields": dict(body.fields), "bounds": asdict(bounds)}
    return head, {str(k): np.frombuffer(content, np.uint8) for k, content in enumerate(body.contents)}


def read(models: Models, head: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """What a body asks, as a message for `asked_in`.

    Raises:
        ValueError: As `from_json` and `from_files` do, or if reading takes too long or too much memory.
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
    """What a body asks, from the message of `read`."""
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
    """Let this process have so much memory more than it has now; elsewhere than on Linux there is no limit."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _TooLongError(BaseException):
    """No `Exception`: readers turn those into words about the file, and may go on."""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Give up what takes too much processor time; end the process where a library does not let go of it.

    The signal comes again while it is not heeded. An exception that is raised inside a callback of the garbage
    collector (jax has one) is lost. Both limits are timers that begin here: a limit on all seconds of the process
    (RLIMIT_CPU) is compared with ticks of the kernel, which can be seconds ahead of the process's clock after some
    minutes of work.
    """

    def stop(*_: Any) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGPROF, stop), signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * SECONDS)  # its signal ends the process
    signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS / 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGPROF, before[0])
        signal.signal(signal.SIGVTALRM, before[1])
