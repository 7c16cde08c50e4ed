"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from sciinf.core.telling import ANSWER, DETAIL, show_from
from sciinf.interfaces.commands.estimators import known_estimator
from sciinf.interfaces.commands.usage import meant

LEFT = "sciinf.left"
"""Where a context keeps the words that are options of nobody but perhaps of the simulator's `observe`."""
_SIMULATOR = "sciinf.simulator"


class FilesCommand(click.Command):
    """A command whose --observation takes all the files that follow it.

    Options that the command does not know are left to the simulator's `observe` (`given_files.reading`).
    The help of the command lists these options, too.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in (*parameter.opts, *parameter.secondary_opts)}
        rest, spread, left, open_ended = list(args), [], [], False
        ctx.meta[_SIMULATOR] = next((word for word in args if is_simulator(word)), None)
        while rest:
            token = rest.pop(0)
            if token.startswith("--") and token != "--" and token.partition("=")[0] not in own:
                valued = "=" in token or not rest or rest[0].startswith("--")
                left += [token] if valued else [token, rest.pop(0)]
                open_ended = False
            elif token.startswith("-"):
                open_ended = token.partition("=")[0] == "--observation"
                spread.append(token)
            elif open_ended and spread[-1] != "--observation":
                spread += ["--observation", token]
            else:
                spread.append(token)
        ctx.meta[LEFT] = left
        try:
            return click.Command.parse_args(self, ctx, spread)
        except click.MissingParameter as missing:
            if mistaken := [word for word in left if word.startswith("--") and meant(word, own)]:
                raise click.NoSuchOption(mistaken[0], ctx=ctx) from missing
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        click.Command.format_options(self, ctx, formatter)
        if (path := ctx.meta.get(_SIMULATOR)) is not None:
            from sciinf.interfaces.commands.keywords import options_of
            from sciinf.interfaces.commands.user_files import user_simulator
            from sciinf.interfaces.given_files import reader_of

            if theirs := options_of(reader_of(user_simulator(path))):
                with formatter.section(f"Options of {path}, for reading data"):
                    formatter.write_dl(theirs)


def is_simulator(word: str) -> bool:
    """Whether a word names a Python file, or a folder that is a module."""
    return (word.endswith(".py") and Path(word).is_file()) or (Path(word) / "__init__.py").is_file()


def _show(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    """Callback of --quiet and --verbose: set how much the terminal shows.

    Both options may stand before or behind the name of the command.
    """
    if given:
        show_from(ANSWER if parameter.name == "quiet" else DETAIL)


loudness = [
    click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_show, help="Only answers and errors."),
    click.Option(
        ["-v", "--verbose"], is_flag=True, expose_value=False, callback=_show, help="Details, and where errors arise."
    ),
]
observation = click.option(
    "--observation", "observation", multiple=True, required=True, metavar="FILE...", help="Files of the real data."
)


def needed_unless_many(ctx: click.Context, parameter: click.Parameter, files: Sequence[str]) -> Sequence[str]:
    """Callback of --observation: return the files, which may be missing only if --observations is given.

    Raises:
        click.UsageError: If neither of the two options is given, or both are.
    """
    many = ctx.params.get("observations")
    if not files and many is None:
        raise click.MissingParameter(ctx=ctx, param=parameter)
    if files and many is not None:
        raise click.UsageError("--observation and --observations were both given; leave one out", ctx)
    return files


observation_or_many = click.option(
    "--observation",
    multiple=True,
    callback=needed_unless_many,
    metavar="FILE...",
    help="Files of the real data, or --observations.",
)
observations = click.option(
    "--observations",
    default=None,
    is_eager=True,
    metavar="STORE|FILE",
    help="Any number of observations instead: simulations, or a file with a row for each. The same command goes on "
    "where it was stopped.",
)
table = click.option(
    "--table", default=None, metavar="FILE", help="With --observations: a table of all rows, .ecsv, .fits, .h5 or .csv."
)
may_observe = click.option(
    "--observation", multiple=True, metavar="FILE...", help="Real data, to see how they are read."
)


def named_columns(ctx: click.Context, parameter: click.Parameter, words: Sequence[str]) -> dict[str, str]:
    """Callback of --column: read words OBSERVABLE=COLUMN into a mapping from observable to column."""
    pairs = [word.partition("=") for word in words]
    if wrong := [word for word, (name, _, column) in zip(words, pairs, strict=True) if not (name and column)]:
        raise click.BadParameter(f"{wrong[0]!r} is not OBSERVABLE=COLUMN, such as v=SAP_FLUX", ctx, parameter)
    return {name: column for name, _, column in pairs}


column = click.option(
    "--column",
    multiple=True,
    callback=named_columns,
    metavar="OBSERVABLE=COLUMN",
    help="What an observable is called in the files.",
)


def labelled(ctx: click.Context, parameter: click.Parameter, words: Sequence[str]) -> dict[str, str]:
    """Callback of --beside: read words LABEL=DIR into a mapping from label to run folder.

    A word without a label gets the folder's name as its label.
    """
    found: dict[str, str] = {}
    for word in words:
        label, sign, folder = word.partition("=")
        if Path(word).is_dir() or not sign:
            label, folder = Path(word).resolve().name, word
        if not Path(folder).is_dir():
            raise click.BadParameter(f"there is no run folder {folder}", ctx, parameter)
        if label in found:
            raise click.BadParameter(
                f"two run folders have the label {label!r}; give each its own: LABEL=DIR", ctx, parameter
            )
        found[label] = folder
    return found


beside = click.option(
    "--beside",
    multiple=True,
    callback=labelled,
    metavar="[LABEL=]DIR",
    help="Another run, whose answer is shown beside, with what tells the two apart.",
)
seed = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seeds everything.")


def some_workers(ctx: click.Context, parameter: click.Parameter, value: int | str) -> int | str:
    """Callback of --workers: return a number of workers, or "auto"."""
    from sciinf.core.checks import check_workers

    with suppress(ValueError):
        value = int(value)
    try:
        check_workers(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return value


workers = click.option(
    "--workers",
    default="1",
    show_default=True,
    callback=some_workers,
    metavar="N|auto",
    help="Processes that simulate; auto times a block and decides.",
)


def scheduler_of(ctx: click.Context, parameter: click.Parameter, address: str | None) -> Any:
    """Callback of --scheduler: return the engine of the Dask cluster whose scheduler has this address."""
    if address is None:
        return None
    from sciinf.campaigns.cluster import Cluster

    return Cluster(address)


scheduler = click.option(
    "--scheduler",
    "engine",
    default=None,
    callback=scheduler_of,
    metavar="ADDRESS",
    help="Simulate on a Dask cluster: tcp://HOST:8786, or its scheduler file.",
)


def slurm_array(ctx: click.Context, parameter: click.Parameter, words: str | None) -> Any:
    """Callback of --slurm: return the engine of a SLURM array, described as 'partition=.. time=.. jobs=..'."""
    if words is None:
        return None
    from sciinf.campaigns.slurm_array import SlurmArray

    try:
        return SlurmArray(words)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def slurm(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --slurm to a command; it sets the argument `engine`, as --scheduler does."""

    @functools.wraps(command)
    def run(*words: Any, slurm: Any, **given: Any) -> Any:
        if slurm is not None and given["engine"] is not None:
            raise click.UsageError("--scheduler and --slurm were both given; leave one out")
        return command(*words, **{**given, "engine": slurm or given["engine"]})

    return _SLURM(run)


_SLURM = click.option(
    "--slurm",
    default=None,
    callback=slurm_array,
    metavar="'KEY=VALUE ...'",
    help="Simulate as an array of SLURM jobs: 'partition=debug time=01:00:00 jobs=40'.",
)


def known_device(ctx: click.Context, parameter: click.Parameter, device: str) -> str:
    """Callback of --device: return the device, if this machine has it."""
    check_device(device)
    return device


def check_device(device: str) -> None:
    """Check that this machine has the device.

    Raises:
        ValueError: If this machine does not have the device. The message says why.
    """
    if device != "cpu":
        from sciinf.training.recipe import absent

        if reason := absent(device):
            raise ValueError(f'there is no device {device!r} here; use --device cpu, device="cpu" ({reason})')


device = click.option(
    "--device", default="cpu", show_default=True, callback=known_device, help="cpu, cuda, cuda:1, mps."
)
level = click.option(
    "--level",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    show_default=True,
    help="Level of the credible intervals.",
)
ess = click.option(
    "--ess",
    type=click.FloatRange(0, min_open=True),
    default=2_000,
    show_default=True,
    help="Effective sample size where corrected.",
)
budget = click.option(
    "--budget",
    type=click.IntRange(1),
    default=1_000_000,
    show_default=True,
    help="Largest number of draws spent on it, each with its likelihood.",
)
accept_changes = click.option(
    "--accept-changes",
    is_flag=True,
    help="Go on although files of the simulator have changed, or it gives other data than it did.",
)
strict = click.option(
    "--strict", is_flag=True, help="End with exit status 4 where the verdict on an answer is: do not rely."
)
estimator = click.option(
    "--estimator",
    default="flow",
    show_default=True,
    callback=known_estimator,
    help="A file of sciinf/training/estimators; without a name all are listed.",
)
failures = click.option(
    "--failures",
    type=click.Choice(["exclude", "outcome", "model"]),
    default="exclude",
    show_default=True,
    help="Simulations that fail where others do not: left out, an outcome nature could have had, or made up for by "
    "weights 1 / P(success).",
)


def serving(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add to a command the options that only `sciinf serve` has."""
    for option in reversed(_SERVING):
        command = option(command)
    return command


_SERVING = [
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all."),
    click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 for a free one."),
    click.option("--token", multiple=True, envvar="SCIINF_TOKEN", help="What who asks must know; or in SCIINF_TOKEN."),
    click.option("--questions-a-day", type=click.IntRange(1), default=None, help="Most questions of one token."),
    click.option("--draws-a-day", type=click.IntRange(1), default=None, help="Most draws of one token."),
    click.option("--simulator", default=None, metavar="SIM.py", help="Of the run; the run's own when left out."),
    click.option("--without-simulator", is_flag=True, help="Run no simulator: no checks by it, no what-if."),
    click.option("--allow-host", multiple=True, metavar="NAME", help="A further name of the service, as of a proxy."),
    click.option("--allow-origin", multiple=True, metavar="URL", help="A site whose scripts may ask."),
    click.option(
        "--draws-limit", type=click.IntRange(1), default=100_000, show_default=True, help="Most draws of one request."
    ),
    click.option(
        "--timeout", type=click.FloatRange(1), default=120.0, show_default=True, help="Most seconds of one request."
    ),
    click.option("--cache", default=None, metavar="DIR", help="Where answers are kept for links to them."),
]
