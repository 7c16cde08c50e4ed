"""What `sciinf serve` does: find what each run is opened with, and let the service run."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sciinf.core.telling import ANSWER, tell
from sciinf.interfaces.commands.remembered import asked_with, options_of_run
from sciinf.interfaces.commands.run_folders import run_of

_ANSWERED = 1.5  # seconds after a signal in which questions are still answered


def serve(folders: Sequence[str], given: Mapping[str, Any]) -> None:
    """Serve runs until it is interrupted.

    Args:
        folders: The run folders.
        given: The options of the command.

    Raises:
        ImportError: If what serves is not installed.
        OSError: If the port is taken.
        ValueError: If two runs have one name, or a simulator is not that of a run.
    """
    try:
        import uvicorn

        from sciinf.interfaces.serve.application import ServiceParts, application
    except ImportError as error:
        raise ImportError(f"to serve runs, packages are missing ({error}): pip install -e '.[serve]'") from error
    from sciinf.interfaces.serve.limits import Limits
    from sciinf.interfaces.serve.models import Models, NotReady
    from sciinf.interfaces.serve.requests import RequestLimits
    from sciinf.interfaces.serve.shares import Shares
    from sciinf.interfaces.serve.workers import AnsweringWorkers

    sources = [source_of(folder, given) for folder in folders]
    models = Models(sources, lambda source: _told(source_of(source.folder, given), given))
    for source in sources:
        if source.ready:
            try:
                models.get(source.name)
            except NotReady as error:  # what is damaged is told here
                raise ValueError(str(error)) from error
        if not source.young:
            _told(source, given)
    most = {"questions": given["questions_a_day"], "draws": given["draws_a_day"], "seconds": given["timeout"]}
    limits = Limits(_hosts(given), given["token"], tuple(given["allow_origin"]), **most)
    bounds = RequestLimits(draws=given["draws_limit"])
    shares = Shares(folder=None if given["cache"] is None else Path(given["cache"]))
    engine = AnsweringWorkers(sources, given["timeout"], models.sources)
    app = application(ServiceParts(models, engine, shares, limits, bounds))
    taken = _socket(given["host"], given["port"])
    shown = f"[{given['host']}]" if ":" in given["host"] else given["host"]
    tell(f"serving {', '.join(models.sources)} at http://{shown}:{taken.getsockname()[1]}", ANSWER)
    if given["host"] not in ("127.0.0.1", "localhost", "::1"):
        known = f"under the names {', '.join(limits.hosts)} (--allow-host)"
        tell(f"note: others reach it {known}{'' if limits.tokens else ', and may ask: it has no --token'}")
    how: dict[str, Any] = {"log_level": "warning", "server_header": False, "lifespan": "on"}
    config = uvicorn.Config(app, timeout_keep_alive=30, timeout_graceful_shutdown=3, **how)
    with contextlib.suppress(KeyboardInterrupt):  # it has ended all by then
        asyncio.run(_until_ended(uvicorn.Server(config), engine, taken))
    tell("the service has ended")


async def _until_ended(server: Any, engine: Any, taken: socket.socket) -> None:
    """Serve until a signal; questions that are out then are answered, or refused after a moment."""
    serving = asyncio.create_task(server.serve(sockets=[taken]))
    while not (server.should_exit or serving.done()):
        await asyncio.sleep(0.1)
    await asyncio.wait([serving], timeout=_ANSWERED)
    await engine.stop()
    await serving


def source_of(folder: str, given: Mapping[str, Any]) -> Any:
    """Where a run lies and what it is opened with: its simulator, named or remembered, if it is the same still.

    Raises:
        click.UsageError: If a simulator was named, and is to be left out.
        FileNotFoundError: If there is no such folder.
        ValueError: If a simulator that was named is not the run's.
    """
    from sciinf.core.simulator import identity
    from sciinf.interfaces.serve.models import Served

    run = Path(run_of(folder)).resolve()
    if not run.is_dir():
        raise FileNotFoundError(f"there is no run folder {folder}")
    source = Served(run.name, str(run), device=given["device"])
    if not source.ready:
        return replace(source, young=True)
    sim, _, without = asked_with(str(run), given["simulator"], given)
    if given["without_simulator"]:
        without = "it was left out"
    if sim is None:
        return replace(source, without=without)
    return replace(source, simulator=str(sim.source), options=options_of_run(run), code=identity(sim))


def _told(source: Any, given: Mapping[str, Any]) -> Any:
    """What a run is opened with, and words where that is less than the run was made with."""
    if source.without and not given["without_simulator"]:
        tell(f"note: {source.name} is served without its simulator: {source.without}")
    return source


def _hosts(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Names under which the service answers."""
    own = {"localhost", "127.0.0.1", "::1", *given["allow_host"]}
    if given["host"] not in ("0.0.0.0", "::"):
        own.add(given["host"])
    else:
        own |= {socket.gethostname(), socket.getfqdn()}
    return tuple(sorted(own))


def _socket(host: str, port: int) -> socket.socket:
    """The place where it listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen(2_048)  # who comes before all is ready waits
    except OSError as error:
        taken.close()
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port") from error
    return taken
