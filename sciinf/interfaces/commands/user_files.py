"""Files with the user's own code: an error in one names the file and the line."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sciinf.core.loading import is_local
from sciinf.core.simulator import Simulator, load_simulator


def user_simulator(path: str) -> Simulator:
    """The simulator in a file; what its own code raises names the file and the line.

    Raises:
        ValueError: If the file does not run.
    """
    return from_file(path, load_simulator)


def from_file(path: str | Path, load: Callable[[Path], Any]) -> Any:
    """What `load` makes of a user's file; an error in it, or in a file beside it, names file and line."""
    file = Path(path).resolve()
    try:
        return load(file)
    except SyntaxError as error:
        raise ValueError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        steps = traceback.walk_tb(error.__traceback__)
        every = [(frame.f_globals.get("__name__", ""), frame.f_code.co_filename, line) for frame, line in steps]
        theirs = [(name, line) for module, name, line in every if is_local(module)]
        if not theirs:
            raise
        name, line = theirs[-1]
        raise ValueError(f"{name}, line {line}: {type(error).__name__}: {error}") from error
