"""What went wrong, in one sentence, whatever a library below raised; and who says it where several would."""

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
    """An error as one line: its own words where they are meant for users, else what it means and where to look."""
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
    """Whether a disk is full in the words of the operating system alone."""
    from sciinf.core.files import NO_ROOM  # loads torch, and `--help` has no use for it

    return error.errno in NO_ROOM and error.strerror == os.strerror(error.errno)


def check_launch(verb: str | None) -> None:
    """Refuse verbs other than `train` where a launcher started several processes, each of which would do all of it.

    Raises:
        click.UsageError: If the environment says that there are several; the others end in silence.
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
    """Whether another of several processes that train together has told of a failure already."""
    count = os.environ.get("WORLD_SIZE", "1")
    if not count.isdecimal() or int(count) < 2:
        return False
    from sciinf.training.launched import speaks_first

    return not speaks_first()


def ended_by(error: BaseException) -> str:
    """Why a run ended early, as those who watch it are told."""
    return "it was interrupted." if isinstance(error, KeyboardInterrupt) else sentence(error)
