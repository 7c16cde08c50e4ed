"""`sciinf serve`: find the simulator and options of each run, and run the service."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sciinf.core.telling import ANSWER, tell
from sciinf.interfaces.commands.remembered import asked_with, options_of_run
from sciinf.interfaces.commands.run_folders import run_of

_ANSWERED = 1.5  # Seconds after a signal in which questions are still answered.


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Options of `sciinf serve`.

    Args:
        host: Address at which the service listens; 0.0.0.0 for all addresses of the machine.
        port: Port; 0 for any free one.
        token: Secrets, one of which a client must give; empty if anybody may ask.
        questions_a_day: Largest number of questions of one token a day; None for no limit.
        draws_a_day: Largest number of draws of one token a day; None for no limit.
        simulator: Path of the simulator's file; None for the run's own.
        without_simulator: Whether to serve without a simulator.
        allow_host: Further names of the service, such as that of a proxy.
        allow_origin: Sites whose scripts may ask.
        draws_limit: Largest number of draws of one request.
        timeout: Largest number of seconds of one request.
        cache: Folder in which shared answers are kept; None for memory alone.
        device: Device of the networks.
        accept_changes: Whether the simulator's files may have changed since the run was made.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: Sequence[str] = ()
    questions_a_day: int | None = None
    draws_a_day: int | None = None
    simulator: str | None = None
    without_simulator: bool = False
    allow_host: Sequence[str] = ()
    allow_origin: Sequence[str] = ()
    draws_limit: int = 100_000
    timeout: float = 120.0
    cache: str | None = None
    device: str = "cpu"
    accept_changes: bool = False


def serve(folders: Sequence[str], options: ServeOptions) -> None:
    """Serve runs over HTTP until the service is interrupted.

    Args:
        folders: The run folders.
        options: Options of the command.

    Raises:
        ImportError: If packages that the service needs are not installed.
        OSError: If the port is taken.
        ValueError: If two runs have the same name, if a simulator is not that of a run, or if a run is damaged.
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

    sources = [source_of(folder, options) for folder in folders]
    models = Models(sources, lambda source: _told(source_of(source.folder, options), options))
    for source in sources:
        if source.ready:
            try:
                models.get(source.name)
            except NotReady as error:  # Damaged files of a run are reported at the start of the service.
                raise ValueError(str(error)) from error
        if not source.young:
            _told(source, options)
    most = {"questions": options.questions_a_day, "draws": options.draws_a_day, "seconds": options.timeout}
    limits = Limits(_hosts(options), options.token, tuple(options.allow_origin), **most)
    bounds = RequestLimits(draws=options.draws_limit)
    shares = Shares(folder=None if options.cache is None else Path(options.cache))
    engine = AnsweringWorkers(sources, options.timeout, models.sources)
    app = application(ServiceParts(models, engine, shares, limits, bounds))
    taken = _socket(options.host, options.port)
    shown = f"[{options.host}]" if ":" in options.host else options.host
    tell(f"serving {', '.join(models.sources)} at http://{shown}:{taken.getsockname()[1]}", ANSWER)
    if options.host not in ("127.0.0.1", "localhost", "::1"):
        known = f"under the names {', '.join(limits.hosts)} (--allow-host)"
        tell(f"note: others reach it {known}{'' if limits.tokens else ', and may ask: it has no --token'}")
    how: dict[str, Any] = {"log_level": "warning", "server_header": False, "lifespan": "on"}
    config = uvicorn.Config(app, timeout_keep_alive=30, timeout_graceful_shutdown=3, **how)
    with contextlib.suppress(KeyboardInterrupt):  # The interrupt arrives here after the service has ended.
        asyncio.run(_until_ended(uvicorn.Server(config), engine, taken))
    tell("the service has ended")


async def _until_ended(server: Any, engine: Any, taken: socket.socket) -> None:
    """Serve until a signal arrives; questions that are still open are answered then, or refused after a moment."""
    serving = asyncio.create_task(server.serve(sockets=[taken]))
    while not (server.should_exit or serving.done()):
        await asyncio.sleep(0.1)
    await asyncio.wait([serving], timeout=_ANSWERED)
    await engine.stop()
    await serving


def source_of(folder: str, options: ServeOptions) -> Any:
    """Describe how the service opens a run: its folder, its device, its simulator, and the options to read data.

    The simulator is the one that the user named or that the run remembers, if it is still the same.

    Raises:
        click.UsageError: If a simulator was named, but is also to be left out.
        FileNotFoundError: If there is no such folder.
        ValueError: If a simulator that was named is not the run's.
    """
    from sciinf.core.simulator import identity
    from sciinf.interfaces.serve.models import Served

    run = Path(run_of(folder)).resolve()
    if not run.is_dir():
        raise FileNotFoundError(f"there is no run folder {folder}")
    source = Served(run.name, str(run), device=options.device)
    if not source.ready:
        return replace(source, young=True)
    sim, _, without = asked_with(
        str(run),
        options.simulator,
        without_simulator=options.without_simulator,
        accept_changes=options.accept_changes,
        device=options.device,
    )
    if options.without_simulator:
        without = "it was left out"
    if sim is None:
        return replace(source, without=without)
    return replace(source, simulator=str(sim.source), options=options_of_run(run), code=identity(sim))


def _told(source: Any, options: ServeOptions) -> Any:
    """Return the description of a run unchanged, and print a note if the run is served without its simulator."""
    if source.without and not options.without_simulator:
        tell(f"note: {source.name} is served without its simulator: {source.without}")
    return source


def _hosts(options: ServeOptions) -> tuple[str, ...]:
    """Host names under which the service answers."""
    own = {"localhost", "127.0.0.1", "::1", *options.allow_host}
    if options.host not in ("0.0.0.0", "::"):
        own.add(options.host)
    else:
        own |= {socket.gethostname(), socket.getfqdn()}
    return tuple(sorted(own))


def _socket(host: str, port: int) -> socket.socket:
    """Open the socket on which the service listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
        taken.listen(2_048)  # Clients that connect before the service is ready wait in this queue.
    except OSError as error:
        taken.close()
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port") from error
    return taken
