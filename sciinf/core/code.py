"""Marks that identify a simulator's files by their code, and changes of these files.

A Python file is identified by its syntax tree without docstrings. A comment or another format is therefore
not a change. A statement `simulator.derived = ...` or `simulator.labels = ...` is not a change either,
because it does not affect simulations. Every other file is identified by its bytes.

The files of a simulator are its own file, or all files in its folder, and the files there that these import,
also inside functions. Installed packages are not part of a simulator.

The mark of a file is two words: `code:SHA`, and the SHA-256 of its bytes. Two marks are equal if one of these
words is equal. Earlier versions wrote the second word alone, and later versions of Python may read another
syntax tree from the same text.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sciinf.core.files import sha256_of
from sciinf.core.loading import local_module, module_in

FILE = "file "
"""What precedes the name of a file that belongs to a simulator beside its own."""
_CODE = "code:"
_SILENT = ("kind", "type_comment", "type_ignores")


def mark(file: Path) -> str:
    """The mark of a file: the hash of its code (of its bytes if not Python), and the hash of its bytes.

    Raises:
        OSError: If the file cannot be read.
    """
    data = file.read_bytes()
    tree = _tree(data) if file.suffix == ".py" else None
    text = sha256_of(data)
    if tree is not None:
        tree.body = [node for node in tree.body if not _describes(node)]
    code = text if tree is None else sha256_of("".join(_said(tree)))
    return f"{_CODE}{code} {text}"


def same_mark(one: str | None, other: str | None) -> bool:
    """Whether two marks are of the same code; for values that are not marks, whether they are equal.

    One of the marks may have been written by an earlier version.
    """
    if one is None or other is None or not (is_mark(one) or is_mark(other)):
        return one == other
    return bool(set(one.split()) & set(other.split()))


def only_code(mark: str) -> str:
    """The part of a mark that does not depend on comments and format; other values are returned unchanged."""
    return mark.split()[0] if is_mark(mark) else mark


def only_text(mark: str) -> str:
    """The part of a mark that earlier versions wrote; other values are returned unchanged."""
    return mark.split()[-1] if is_mark(mark) else mark


def is_mark(value: str) -> bool:
    """Whether a value is a mark, rather than a setting or a hash written by an earlier version."""
    return value.startswith(_CODE)


def marks(source: Path, files: Iterable[Path]) -> dict[str, str]:
    """The marks of all files of a simulator: its own under "source", others under "file NAME".

    Args:
        source: The simulator's file, or its folder with `__init__.py`.
        files: Other files that the simulator declares to read.

    Raises:
        OSError: If a file cannot be read.
    """
    folder, own = (source, source / "__init__.py") if source.is_dir() else (source.parent, source)
    inside = sorted(_of_folder(source)) if source.is_dir() else [own]
    every = dict.fromkeys([*inside, *_imported(inside, folder), *(file.resolve() for file in files)])
    return {"source": mark(own)} | marks_beside([file for file in every if file != own], folder)


def marks_beside(files: Iterable[Path], folder: Path | None = None) -> dict[str, str]:
    """The marks of files, under "file NAME": NAME is the path from the folder, or a file's name elsewhere."""
    found: dict[str, str] = {}
    for file in files:
        inside = folder is not None and file.is_relative_to(folder)
        found[FILE + (file.relative_to(folder).as_posix() if inside and folder else file.name)] = mark(file)
    return found


def packages(source: Path) -> set[str]:
    """The names of the installed packages that a simulator's files import."""
    folder = source if source.is_dir() else source.parent
    inside = list(_of_folder(source)) if source.is_dir() else [source]
    files = [file for file in [*inside, *_imported(inside, folder)] if file.suffix == ".py"]
    tops = {name.partition(".")[0] for file in files for name in _names(file, folder)}
    return {top for top in tops - sys.stdlib_module_names if local_module(top, folder) is None}


def text_of(source: Path) -> str:
    """The SHA-256 of a file, or of all files in a folder, as earlier versions identified a simulator."""
    digest = hashlib.sha256()
    if source.is_file():
        return sha256_of(source.read_bytes())
    for file in sorted(f for f in source.rglob("*") if f.is_file() and "__pycache__" not in f.parts):
        digest.update(str(file.relative_to(source)).encode() + b"\0")
        digest.update(file.read_bytes())
    return digest.hexdigest()


def changed(recorded: Mapping[str, str], given: Mapping[str, str], source: Path | None) -> list[str]:
    """The changes of a simulator's files since its record, in words such as "helper.py has changed".

    Args:
        recorded: The record of the simulator, which includes the marks of its files.
        given: The present record.
        source: The simulator's own file or folder.
    """
    before, now, words = recorded.get("source", ""), given.get("source", ""), []
    early = bool(before) and not is_mark(before)
    if not (same_mark(before, now) or (early and source is not None and before == text_of(source))):
        words.append(f"{source.name if source else 'the simulator'} has changed" + _EARLY * early)
    for key in {**recorded, **given}:
        if not key.startswith(FILE) or same_mark(recorded.get(key), given.get(key)):
            continue
        if key in recorded:
            words.append(f"{key.removeprefix(FILE)} {'has changed' if key in given else 'is no part of it any more'}")
        elif is_mark(before):
            words.append(f"{key.removeprefix(FILE)} is new in it")
    return words


_EARLY = " (an earlier version of sciinf wrote down its text alone, so that even a comment counts)"


def _of_folder(folder: Path) -> Iterator[Path]:
    """All files in a folder and below, without hidden files and Python's caches."""
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        if file.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            yield file


def _imported(files: Iterable[Path], folder: Path) -> list[Path]:
    """The files in a folder that Python files import, directly or through others, also inside functions."""
    waiting, found = [file for file in files if file.suffix == ".py"], dict[Path, None]()
    seen = set(waiting)
    while waiting:
        file = waiting.pop()
        for name in _names(file, folder):
            for inner in _files_of(name, folder):
                if inner in seen:
                    continue
                seen.add(inner)
                found[inner] = None
                if inner.suffix == ".py":
                    waiting.append(inner)
    return list(found)


def _names(file: Path, folder: Path) -> Iterator[str]:
    """The names, relative to the folder, of the modules that a file imports; some names may be no modules."""
    tree = _tree(file.read_bytes())
    if tree is None or not file.is_relative_to(folder):
        return
    package = file.relative_to(folder).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level - 1 > len(package):
                continue
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from [base] * bool(base)
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def _files_of(name: str, folder: Path) -> Iterator[Path]:
    """The files in a folder that `import name` would run."""
    for depth, part in enumerate(name.split(".")):
        spec = module_in(part, folder) if depth else local_module(part, folder)
        if spec is None:
            return
        if spec.origin is not None:
            yield Path(spec.origin)
        if not spec.submodule_search_locations:
            return
        folder = folder / part


def _tree(data: bytes) -> ast.Module | None:
    try:
        return ast.parse(data)
    except (SyntaxError, ValueError, RecursionError):
        return None


def _describes(node: ast.stmt) -> bool:
    """Whether a statement assigns `simulator.derived` or `simulator.labels`."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return bool(targets) and all(
        isinstance(one, ast.Attribute)
        and one.attr in ("derived", "labels")
        and isinstance(one.value, ast.Name)
        and one.value.id == "simulator"
        for one in targets
    )


def _said(node: object) -> Iterator[str]:
    """A syntax tree as text that is the same for all versions of Python that parse the file alike."""
    if isinstance(node, ast.AST):
        yield type(node).__name__ + "("
        for name, value in ast.iter_fields(node):
            if name not in _SILENT and value is not None and (said := "".join(_said(value))):
                yield f"{name}={said}"
        yield ")"
    elif isinstance(node, list):
        for value in node:
            # A constant as a statement, such as a docstring, does nothing.
            if not (isinstance(value, ast.Expr) and isinstance(value.value, ast.Constant)):
                yield from _said(value)
    else:
        yield f"{node!r},"
