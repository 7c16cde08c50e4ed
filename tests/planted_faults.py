"""A fault in a C file, as a compiler with an error of its own would make it."""

from __future__ import annotations

from pathlib import Path

from sciinf.networks.kernels import library


def compiled_with(name: str, right: str, wrong: str, folder: Path, monkeypatch) -> None:
    """From here on the library is made of the same files in another folder, with something else in one of them."""
    files = {path.name: path.read_text() for path in (library.FOLDER / f"{name}.c", *library.FOLDER.glob("*.h"))}
    assert sum(text.count(right) for text in files.values()) == 1
    for file, text in files.items():
        (folder / file).write_text(text.replace(right, wrong))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(library, "FOLDER", folder)
    assert library.compiled(folder / f"{name}.c") is not None
