"""Observations from the files that a command was given: one in all of them, or one in each."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from sciinf.commands.keywords import keywords, options_of, parameters_of
from sciinf.commands.options import LEFT, FilesCommand
from sciinf.commands.usage import unknown
from sciinf.core.called import guess
from sciinf.core.observation import Observation, as_observation, observe, read_observation
from sciinf.core.simulator import Observable, Simulator
from sciinf.storage.answers import observation_name
from sciinf.telling import tell


@dataclass(frozen=True)
class Asked:
    """One observation: what it is called, its files and its values."""

    name: str
    files: tuple[str, ...]
    x: Observation


def reader_of(simulator: Simulator) -> Callable[..., Any]:
    """What reads a simulator's files: the function that a wrapper was given, or its `observe`."""
    return simulator.reader or simulator.observe


def reader_options(simulator: Simulator | None, before: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The keywords of a simulator's reader, from the options that the command left to it.

    Args:
        simulator: Whose reader it is; where there is none, there are no options.
        before: Those of the run, name -> text, for what is not given now; that they are used is said.

    Raises:
        click.UsageError: If nobody knows an option.
        ValueError: If an option of the reader has no value, or another than it takes, or is missing for data; or if
            an option of the commands has its name.
    """
    ctx = click.get_current_context()
    left: list[str] = ctx.meta[LEFT]
    words = [word.partition("=")[0] for word in left if word.startswith("--")]
    if simulator is None:
        if words:
            raise click.UsageError(
                f"there is no option {words[0]} without a simulator, whose `observe` may have it: --simulator SIM.py",
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
    for option, parameter in parameters.items() if ctx.params["observation"] else ():
        if parameter.default is parameter.empty and parameter.name not in options:
            told_of = dict(options_of(reader))
            shown = next(key for key in told_of if key.startswith(f"{option} "))
            raise ValueError(f"{file.name} needs {shown} to read data. {told_of[shown]}".strip())
    return options


def _dashed(options: Mapping[str, str]) -> dict[str, str]:
    return {f"--{name.replace('_', '-')}": value for name, value in options.items()}


def _check_free(reader: Callable[..., Any], file: Path, ctx: click.Context) -> None:
    """Refuse a keyword of a reader that no option can give, for a command has one of that name."""
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
                f"{file.name}: what reads its data takes the keyword {name!r}, which no option can give: {word} is one "
                f"of `sciinf {own[word]}` itself. Give the keyword another name, such as {name}_of_data"
            )


def check_reader_options(simulator: Simulator, options: Mapping[str, Any]) -> None:
    """Refuse what the simulator's reader does not take.

    Raises:
        ValueError: If so; the message says what it takes.
    """
    reader = reader_of(simulator)
    known = parameters_of(reader)
    for name in options:
        if name not in known and name not in inspect.signature(reader).parameters:
            there = ", ".join(known) or "none"
            raise ValueError(
                f"what reads data of {simulator.name!r} takes no {name!r}, it takes {there}{guess(name, known)}"
            )


def reading(
    simulator: Simulator | None,
    observables: Mapping[str, Observable],
    columns: Mapping[str, str],
    options: Mapping[str, Any],
) -> Callable[..., Observation]:
    """What makes an observation of files, as the command line says.

    Args:
        simulator: Whose reader it is; files are read by their columns where there is none.
        observables: What it produces.
        columns: What observables are called in the files.
        options: Keywords of the reader.
    """
    if simulator is None:
        return functools.partial(read_observation, observables, columns=columns)
    return functools.partial(observe, simulator, columns=columns, options=options)


def observations(
    observables: Mapping[str, Observable], read: Callable[..., Observation], paths: Sequence[str]
) -> list[Asked]:
    """The observations in files.

    Several files are one observation if they make up one together that none of them makes alone, as spectra of two
    detectors do. Otherwise each must hold one of its own.

    Args:
        observables: What the simulator produces.
        read: Makes one observation of any number of files.
        paths: The files.

    Raises:
        ValueError: If the files hold no observation, together or each by itself, or a file is given twice.
    """
    twice = [path for path, times in Counter(paths).items() if times > 1]
    if twice:
        raise ValueError(f"the file {twice[0]} is given twice; name each file once")

    def one(*files: str) -> Asked:
        x = read(*files)
        as_observation(observables, x)
        return Asked(observation_name(files), files, x)

    if len(paths) == 1:
        return [one(paths[0])]
    together: Exception | str = "all but one file would be left unread"
    try:
        whole = one(*paths)
        if not any(_alone(one, path, whole) for path in paths):
            return [whole]
    except (ValueError, TypeError) as error:
        together = error
    try:
        found = [one(path) for path in paths]
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"the {len(paths)} files are no observation together ({together}), nor is each by itself ({error})"
        ) from error
    names = Counter(asked.name for asked in found)
    return [asked if names[asked.name] == 1 else Asked(_whole(asked.files[0]), asked.files, asked.x) for asked in found]


def _alone(one: Callable[[str], Asked], path: str, whole: Asked) -> bool:
    """Whether a file makes the same observation by itself, so that a reader of its own passed over the others."""
    try:
        x = one(path).x
    except (ValueError, TypeError, IndexError):
        return False
    return x.keys() == whole.x.keys() and all(torch.equal(x[name], whole.x[name]) for name in x)


def _whole(path: str) -> str:
    """A name that tells files of the same name in several folders apart."""
    return observation_name([path.replace("/", "_").replace("\\", "_")])
