"""What went wrong, in one sentence, whatever a library below raised."""

from __future__ import annotations

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
    kind = type(error).__name__
    meaning = next((text for known, text in _MEANING.items() if isinstance(error, known)), "")
    if isinstance(error, _SPEAK) and words and not meaning:
        return words
    what = f"{meaning} ({kind}: {words})" if meaning and words else meaning or f"{kind}: {words}".rstrip(": ")
    return f"{what}; `sciinf -v` shows where"


def ended_by(error: BaseException) -> str:
    """Why a run ended early, as those who watch it are told."""
    return "it was interrupted." if isinstance(error, KeyboardInterrupt) else sentence(error)
