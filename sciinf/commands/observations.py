"""Observations from the files that a command was given: one in all of them, or one in each."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from sciinf.commands.keywords import keywords, options_of, parameters_of
from sciinf.commands.options import LEFT
from sciinf.commands.usage import unknown
from sciinf.core.observation import Observation, as_observation, observe, read_observation
from sciinf.core.simulator import Observable, Simulator
from sciinf.storage.answers import observation_name


@dataclass(frozen=True)
class Asked:
    """One observation: what it is called, its files and its values."""

    name: str
    files: tuple[str, ...]
    x: Observation


def reader_of(simulator: Simulator) -> Callable[..., Any]:
    """What reads a simulator's files: the function that a wrapper was given, or its `observe`."""
    return simulator.reader or simulator.observe


def reading(
    simulator: Simulator | None, observables: Mapping[str, Observable], columns: Mapping[str, str]
) -> Callable[..., Observation]:
    """What makes an observation of files, as the command line says.

    Args:
        simulator: Whose reader it is, with the options that the command left to it; files are read by their columns
            where there is none.
        observables: What it produces.
        columns: What observables are called in the files.

    Raises:
        click.UsageError: If nobody knows an option.
        ValueError: If an option of the reader has no value, or another than it takes, or is missing for data.
    """
    ctx = click.get_current_context()
    left: list[str] = ctx.meta[LEFT]
    words = [word for word in left if word.startswith("--")]
    if simulator is None:
        if words:
            raise click.UsageError(
                f"there is no option {words[0]} without a simulator, whose `observe` may have it: --simulator SIM.py",
                ctx,
            )
        return functools.partial(read_observation, observables, columns=columns)
    reader, file = reader_of(simulator), simulator.source or Path(simulator.name)
    known = [f"--{name.replace('_', '-')}" for name in parameters_of(reader)]
    for word in words:
        if word.partition("=")[0].replace("_", "-") not in known:
            raise unknown(word.partition("=")[0], ctx, known)
    options = keywords(reader, left, file)
    for name, parameter in parameters_of(reader).items() if ctx.params["observation"] else ():
        if parameter.default is parameter.empty and name not in options:
            told_of = dict(options_of(reader))
            option = next(key for key in told_of if key.startswith(f"--{name.replace('_', '-')} "))
            raise ValueError(f"{file.name} needs {option} to read data. {told_of[option]}".strip())
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
