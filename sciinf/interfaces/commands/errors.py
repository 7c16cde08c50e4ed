"""Describe any error in one sentence, and decide which of several processes reports the error."""

from __future__ import annotations

import os

import click

_SPEAK = (ValueError, TypeError, OSError, FloatingPointError, RuntimeError)
_MEANING = {
    MemoryError: "there is not enough memory for this; use smaller blocks, fewer draws or data of fewer numbers",
    RecursionError: "something is nested too deeply to be read",
    EOFError: "a file ends before its data do",
    KeyError: "something that was looked for by name is missing",
    OverflowError: "a number is too large",
}


def sentence(error: BaseException) -> str:
    """Describe an error in one line: by its own message if that is meant for users, else by its meaning."""
    words = " ".join(str(error).split())
    if isinstance(error, OSError) and _is_bare(error):
        return (
            f"{error.filename or 'a file'} cannot be written: {error.strerror}. What was finished before is safe; make "
            "room, or choose a folder that can be written, and give the same command again"
        )
    kind = type(error).__name__
    meaning = next((text for known, text in _MEANING.items() if isinstance(error, known)), "")
    if isinstance(error, _SPEAK) and words and not meaning:
        return words
    what = f"{meaning} ({kind}: {words})" if meaning and words else meaning or f"{kind}: {words}".rstrip(": ")
    return f"{what}; `sciinf -v` shows where"


def _is_bare(error: OSError) -> bool:
    """Whether an error says that there is no room on the disk, in the words of the operating system alone."""
    from sciinf.core.files import NO_ROOM  # Imported here because it loads torch, which `--help` does not need.

    return error.errno in NO_ROOM and error.strerror == os.strerror(error.errno)


def check_launch(verb: str | None) -> None:
    """Refuse verbs other than `train` if a launcher started several processes, because each would do all the work.

    Raises:
        click.UsageError: If the environment says that there are several processes. Only the first process raises this
        error; the others exit silently.
    """
    count = os.environ.get("WORLD_SIZE", "1")
    if verb not in (None, "train") and count.isdecimal() and int(count) > 1:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2)
        raise click.UsageError(
            f"{count} processes were started together (WORLD_SIZE={count}), and only `sciinf train` shares its work "
            f"among them: run `sciinf {verb}` without torchrun. To train on several, `sciinf simulate` first, then "
            "torchrun ... sciinf train, then `sciinf calibrate` and `sciinf query`"
        )


def told_elsewhere() -> bool:
    """Whether another of several processes that train together has already reported a failure."""
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdecimal() or int(count) < 2:
        return False
    from sciinf.training.launched import speaks_first

    return not speaks_first()


def ended_by(error: BaseException) -> str:
    """Sentence that says why a run ended early, for those who watch the run."""
    return "it was interrupted." if isinstance(error, KeyboardInterrupt) else sentence(error)
