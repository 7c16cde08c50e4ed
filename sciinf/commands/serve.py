"""What `sciinf serve` does: find what each run is opened with, and let the service run."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from sciinf.commands.remembered import QUICK, options_of_run, remembered
from sciinf.commands.run_folders import run_of
from sciinf.telling import ANSWER, tell


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

        from sciinf.serve.application import Parts, application
    except ImportError as error:
        raise ImportError(f"to serve runs, install sciinf[serve] ({error})") from error
    from sciinf.serve.limits import Limits
    from sciinf.serve.models import Models
    from sciinf.serve.requests import Bounds
    from sciinf.serve.shares import Shares
    from sciinf.serve.workers import Workers

    sources = [source_of(folder, given) for folder in folders]
    models = Models(sources)
    for source in sources:
        if source.ready:
            models.get(source.name)  # what is damaged is told here
        if source.without:
            tell(f"note: {source.name} is served without its simulator: {source.without}")
    limits = Limits(_hosts(given), given["token"] or "", tuple(given["allow_origin"]), seconds=given["timeout"])
    bounds = Bounds(draws=given["draws_limit"])
    shares = Shares(folder=None if given["cache"] is None else Path(given["cache"]))
    app = application(Parts(models, Workers(sources, given["timeout"]), shares, limits, bounds))
    taken = _socket(given["host"], given["port"])
    shown = f"[{given['host']}]" if ":" in given["host"] else given["host"]
    tell(f"serving {', '.join(models.sources)} at http://{shown}:{taken.getsockname()[1]}", ANSWER)
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_keep_alive=30, lifespan="on")
    uvicorn.Server(config).run(sockets=[taken])


def source_of(folder: str, given: Mapping[str, Any]) -> Any:
    """Where a run lies and what it is opened with: its simulator, named or remembered, if it is the same still.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a simulator that was named is not the run's.
    """
    from sciinf.serve.models import Source

    run = Path(run_of(folder)).resolve()
    if not run.is_dir():
        raise FileNotFoundError(f"there is no run folder {folder}")
    source = Source(run.name, str(run), device=given["device"])
    if not source.ready:
        return source
    simulator, without = _simulator(run, given)
    options = options_of_run(run) if simulator else {}
    return Source(run.name, str(run), simulator, without, given["device"], options)


def _simulator(run: Path, given: Mapping[str, Any]) -> tuple[str, str]:
    """The simulator's file, or "" and why there is none."""
    from sciinf.commands import steps
    from sciinf.commands.user_files import user_simulator
    from sciinf.core.files import read_json

    named, changes = given["simulator"], {"accept_changes": given["accept_changes"]}
    if named is None and given["without_simulator"]:
        return "", "it was left out"
    if named is None:
        sim, without = remembered(run, **changes)
        return (str(sim.source), "") if sim else ("", without)
    if given["without_simulator"]:
        raise click.UsageError("--simulator and --without-simulator were both given; leave one out")
    sim = user_simulator(named)
    recorded = read_json((run / "fit" if (run / "fit").is_dir() else run) / "fit.json")["simulator"]
    stores = [run / name for name in ("simulations", "calibration_simulations")]
    steps.same_simulator(sim, recorded, f"the fit in {run}", stores, **changes, seconds=QUICK)
    return str(sim.source), ""


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
    except OSError as error:
        taken.close()
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port") from error
    return taken
