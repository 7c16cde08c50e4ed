"""Files with the user's own code: an error in one names the file and the line."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sciinf.core.simulator import Simulator, load_simulator


def user_simulator(path: str) -> Simulator:
    """The simulator in a file; what its own code raises names the file and the line.

    Raises:
        ValueError: If the file does not run.
    """
    return from_file(path, load_simulator)


def from_file(path: str | Path, load: Callable[[Path], Any]) -> Any:
    """What `load` makes of a user's file; an error in it names the file and the line, as code elsewhere would not."""
    file = Path(path).resolve()
    try:
        return load(file)
    except SyntaxError as error:
        raise ValueError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        theirs = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
        if not theirs:
            raise
        raise ValueError(f"{file}, line {theirs[-1].lineno}: {type(error).__name__}: {error}") from error
