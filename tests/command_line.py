"""Commands called in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass

from sciinf import cli


@dataclass(frozen=True)
class Result:
    """Exit code and both streams of a command."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of the error, which is the last."""
        lines = [line for line in self.err.splitlines() if line.startswith("sciinf: error: ")]
        assert lines == self.err.splitlines()[-1:], self.err
        assert "Traceback" not in self.err
        return lines[0]


def call(*args: object) -> Result:
    """A command in this process."""
    out, err, before, code = io.StringIO(), io.StringIO(), sys.argv, 0
    sys.argv = ["sciinf", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    return Result(code, out.getvalue(), err.getvalue())
