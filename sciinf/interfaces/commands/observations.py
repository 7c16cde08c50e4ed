"""Options of a simulator's reader, with which a command reads the files of observations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from sciinf.core.called import guess
from sciinf.core.simulator import Simulator
from sciinf.core.telling import tell
from sciinf.interfaces.commands.keywords import keywords
from sciinf.interfaces.commands.options import LEFT, FilesCommand
from sciinf.interfaces.commands.usage import unknown
from sciinf.interfaces.given_files import ObservationFile, observations, reader_of, reading
from sciinf.interfaces.reader_keywords import check_needed, parameters_of


def reader_options(simulator: Simulator | None, before: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Keyword arguments of a simulator's reader, from the options that the command does not know itself.

    Args:
        simulator: The simulator whose reader is used. If None, there are no such options.
        before: Options with which the run's data were read, name -> text. They are used for options not given now, and
            a note says so.

    Raises:
        click.UsageError: If neither the command nor the reader knows an option.
        ValueError: If an option of the reader has no value or a wrong one, or if a required option is missing when
            files are read. Also if an option of the commands has the name of a reader's keyword.
    """
    ctx = click.get_current_context()
    left: list[str] = ctx.meta[LEFT]
    words = [word.partition("=")[0] for word in left if word.startswith("--")]
    if simulator is None:
        if words:
            raise click.UsageError(
                f"there is no option {words[0]} without a simulator; if its `observe` has it, give --simulator SIM.py",
                ctx,
            )
        return {}
    reader, file = reader_of(simulator), simulator.source or Path(simulator.name)
    _check_free(reader, file, ctx)
    parameters = {f"--{name.replace('_', '-')}": parameter for name, parameter in parameters_of(reader).items()}
    for word in words:
        if word.replace("_", "-") not in parameters:
            raise unknown(word, ctx, parameters)
    given = {word.replace("_", "-") for word in words}
    again = {key: value for key, value in _dashed(before or {}).items() if key in parameters and key not in given}
    if again:
        tell(f"note: read with {' '.join(f'{key} {value}' for key, value in again.items())}, as the run was")
    options = keywords(reader, [word for pair in again.items() for word in pair] + left, file)
    if ctx.params["observation"]:
        check_needed(reader, options, file.name)
    return options


def _dashed(options: Mapping[str, str]) -> dict[str, str]:
    return {f"--{name.replace('_', '-')}": value for name, value in options.items()}


def _check_free(reader: Callable[..., Any], file: Path, ctx: click.Context) -> None:
    """Refuse a reader's keyword that no option can give, because a command has an option of the same name."""
    commands = ctx.parent.command.commands if ctx.parent and isinstance(ctx.parent.command, click.Group) else {}
    own = {
        word: name
        for name, command in commands.items()
        if isinstance(command, FilesCommand)
        for option in command.params
        for word in option.opts
    }
    for name, parameter in inspect.signature(reader).parameters.items():
        word = f"--{name.replace('_', '-')}"
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and word in own:
            raise ValueError(
                f"{file.name}: its reader of data takes the keyword {name!r}, which no option can give: {word} is one "
                f"of `sciinf {own[word]}` itself. Give the keyword another name, such as {name}_of_data"
            )


def check_reader_options(simulator: Simulator, options: Mapping[str, Any]) -> None:
    """Refuse options that the simulator's reader does not take.

    Raises:
        ValueError: If there is such an option. The message lists the options that the reader takes.
    """
    reader = reader_of(simulator)
    known = parameters_of(reader)
    for name in options:
        if name not in known and name not in inspect.signature(reader).parameters:
            there = ", ".join(known) or "none"
            raise ValueError(
                f"the reader of {simulator.name!r} takes no {name!r}, it takes {there}{guess(name, known)}"
            )


__all__ = ["ObservationFile", "check_reader_options", "observations", "reader_of", "reader_options", "reading"]
