"""Load files with the user's own code, and name the file and the line if this code raises an error."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sciinf.core.loading import is_local
from sciinf.core.simulator import Simulator, load_simulator


def user_simulator(path: str) -> Simulator:
    """Load the simulator in a file; an error in the user's code names the file and the line.

    Raises:
        ValueError: If the code in the file raises an error.
    """
    return from_file(path, load_simulator)


def from_file(path: str | Path, load: Callable[[Path], Any]) -> Any:
    """Load a user's file with `load`; an error in this file, or in a file beside it, names the file and the line."""
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
