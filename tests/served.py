"""A service for tests: the application over a run, with its real workers, asked without a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from sciinf.interfaces.serve.application import ServiceParts, application
from sciinf.interfaces.serve.limits import Limits
from sciinf.interfaces.serve.models import Models, Served
from sciinf.interfaces.serve.requests import RequestLimits
from sciinf.interfaces.serve.shares import Shares
from sciinf.interfaces.serve.workers import AnsweringWorkers

HOST = "http://localhost"


def source(folder: Path, simulator: Path | None = None) -> Served:
    """A run, as the command would open it."""
    return Served(folder.name, str(folder), "" if simulator is None else str(simulator))


@contextlib.contextmanager
def serving(
    sources: Sequence[Served], engine: Any = None, limits: Limits | None = None, bounds: RequestLimits | None = None
) -> Iterator[TestClient]:
    """A client of a service that runs within."""
    shares = Shares()
    parts = ServiceParts(
        Models(sources), engine or AnsweringWorkers(sources), shares, limits or Limits(), bounds or RequestLimits()
    )
    with TestClient(application(parts), base_url=HOST, raise_server_exceptions=False) as client:
        yield client
