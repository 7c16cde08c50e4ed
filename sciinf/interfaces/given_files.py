"""Read observations from files that were given together: one observation from all files, or one from each file."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sciinf.core.observable import Observable
from sciinf.core.observation import Observation, as_observation, observe, read_observation
from sciinf.core.simulator import Simulator
from sciinf.interfaces.run_answers import observation_name


@dataclass(frozen=True)
class ObservationFile:
    """One observation: its name, its files and its values."""

    name: str
    files: tuple[str, ...]
    x: Observation


def reader_of(simulator: Simulator) -> Callable[..., Any]:
    """The function that reads a simulator's data files: the one given to its wrapper, or the simulator's `observe`."""
    return simulator.reader or simulator.observe


def reading(
    simulator: Simulator | None,
    observables: Mapping[str, Observable],
    columns: Mapping[str, str],
    options: Mapping[str, Any],
) -> Callable[..., Observation]:
    """Make the function that reads an observation from files, with the columns and options of the command line.

    Args:
        simulator: The simulator whose reader is used. If None, files are read by their columns.
        observables: Observables that the simulator produces, by name.
        columns: Observable -> its name in the files.
        options: Keyword arguments of the reader.
    """
    if simulator is None:
        return functools.partial(read_observation, observables, columns=columns)
    return functools.partial(observe, simulator, columns=columns, options=options)


def observations(
    observables: Mapping[str, Observable], read: Callable[..., Observation], paths: Sequence[str]
) -> list[ObservationFile]:
    """Read the observations in files.

    Several files are one observation if together they give an observation that none of them gives alone. The spectra of
    two detectors are an example. Otherwise each file must hold an observation of its own.

    Args:
        observables: Observables that the simulator produces, by name.
        read: Function that reads one observation from any number of files.
        paths: The files.

    Raises:
        ValueError: If the files hold no observation, neither together nor each by itself, or if a file is given twice.
    """
    twice = [path for path, times in Counter(paths).items() if times > 1]
    if twice:
        raise ValueError(f"the file {twice[0]} is given twice; name each file once")

    def one(*files: str) -> ObservationFile:
        x = read(*files)
        as_observation(observables, x)
        return ObservationFile(observation_name(files), files, x)

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
    return [
        asked if names[asked.name] == 1 else ObservationFile(_whole(asked.files[0]), asked.files, asked.x)
        for asked in found
    ]


def _alone(one: Callable[[str], ObservationFile], path: str, whole: ObservationFile) -> bool:
    """Whether one file alone gives the same observation as all files together.

    If so, the simulator's reader used this file only and ignored the others.
    """
    try:
        x = one(path).x
    except (ValueError, TypeError, IndexError):
        return False
    return x.keys() == whole.x.keys() and all(torch.equal(x[name], whole.x[name]) for name in x)


def _whole(path: str) -> str:
    """Observation name made from the whole path, to distinguish files of the same name in several folders."""
    return observation_name([path.replace("/", "_").replace("\\", "_")])
