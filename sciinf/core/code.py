"""What makes a simulator's files what they are: the code, not its text.

A Python file is known by its syntax tree without docstrings, so that a comment or another format is no change; nor is a
statement `simulator.derived = ...` or `simulator.labels = ...`, from which nothing is simulated. Every
other file is known by its bytes. To a simulator belong its own file, or all of its folder, and what these import from
there, in functions too; installed packages do not.

A file's mark is two words, `code:SHA` and the SHA-256 of its bytes, of which one must be as it was; earlier versions
wrote the second alone, and Python's next versions may read another tree from the same text.
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
    """What tells a file from others: its code and its bytes, or its bytes alone where it is no Python file.

    Raises:
        OSError: If it cannot be read.
    """
    data = file.read_bytes()
    tree = _tree(data) if file.suffix == ".py" else None
    text = sha256_of(data)
    if tree is not None:
        tree.body = [node for node in tree.body if not _describes(node)]
    code = text if tree is None else sha256_of("".join(_said(tree)))
    return f"{_CODE}{code} {text}"


def same_mark(one: str | None, other: str | None) -> bool:
    """Whether two marks are of the same code, one of which an earlier version may have written; or two values equal."""
    if one is None or other is None or not (is_mark(one) or is_mark(other)):
        return one == other
    return bool(set(one.split()) & set(other.split()))


def only_code(mark: str) -> str:
    """What of a mark does not change with the text; anything else as it is."""
    return mark.split()[0] if is_mark(mark) else mark


def only_text(mark: str) -> str:
    """What earlier versions wrote in a mark's place; anything else as it is."""
    return mark.split()[-1] if is_mark(mark) else mark


def is_mark(value: str) -> bool:
    """Whether a value is a mark, rather than that of a setting or one of an earlier version."""
    return value.startswith(_CODE)


def marks(source: Path, files: Iterable[Path]) -> dict[str, str]:
    """The marks of all files of a simulator: its own under "source", others under "file NAME".

    Args:
        source: Its file, or its folder with `__init__.py`.
        files: What it says that it reads besides.

    Raises:
        OSError: If one cannot be read.
    """
    folder, own = (source, source / "__init__.py") if source.is_dir() else (source.parent, source)
    inside = sorted(_of_folder(source)) if source.is_dir() else [own]
    every = dict.fromkeys([*inside, *_imported(inside, folder), *(file.resolve() for file in files)])
    return {"source": mark(own)} | marks_beside([file for file in every if file != own], folder)


def marks_beside(files: Iterable[Path], folder: Path | None = None) -> dict[str, str]:
    """Marks under "file NAME", NAME being the path from the folder, or the name alone of what lies elsewhere."""
    found: dict[str, str] = {}
    for file in files:
        inside = folder is not None and file.is_relative_to(folder)
        found[FILE + (file.relative_to(folder).as_posix() if inside and folder else file.name)] = mark(file)
    return found


def packages(source: Path) -> set[str]:
    """The installed packages that a simulator's files import, by the names of their modules."""
    folder = source if source.is_dir() else source.parent
    inside = list(_of_folder(source)) if source.is_dir() else [source]
    files = [file for file in [*inside, *_imported(inside, folder)] if file.suffix == ".py"]
    tops = {name.partition(".")[0] for file in files for name in _names(file, folder)}
    return {top for top in tops - sys.stdlib_module_names if local_module(top, folder) is None}


def text_of(source: Path) -> str:
    """SHA-256 of a file, or of all files of a folder, as earlier versions knew a simulator."""
    digest = hashlib.sha256()
    if source.is_file():
        return sha256_of(source.read_bytes())
    for file in sorted(f for f in source.rglob("*") if f.is_file() and "__pycache__" not in f.parts):
        digest.update(str(file.relative_to(source)).encode() + b"\0")
        digest.update(file.read_bytes())
    return digest.hexdigest()


def changed(recorded: Mapping[str, str], given: Mapping[str, str], source: Path | None) -> list[str]:
    """What has happened to the files of a simulator, in words such as "helper.py has changed".

    Args:
        recorded: The marks that were written down, among other things.
        given: Those there are.
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
    """All files of a folder but hidden ones and what Python leaves there."""
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        if file.is_file() and "__pycache__" not in parts and not any(part.startswith(".") for part in parts):
            yield file


def _imported(files: Iterable[Path], folder: Path) -> list[Path]:
    """The files in a folder that Python files import, and those that these import, in functions too."""
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
    """The modules that a file imports, by their names as seen from the folder; also names that may be none."""
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
    """The files in a folder that `import name` runs."""
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
    """Whether a statement of a file says what of a simulator is derived, or how things are labelled."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return bool(targets) and all(
        isinstance(one, ast.Attribute)
        and one.attr in ("derived", "labels")
        and isinstance(one.value, ast.Name)
        and one.value.id == "simulator"
        for one in targets
    )


def _said(node: object) -> Iterator[str]:
    """A syntax tree as text that is the same for all versions of Python that read it alike."""
    if isinstance(node, ast.AST):
        yield type(node).__name__ + "("
        for name, value in ast.iter_fields(node):
            if name not in _SILENT and value is not None and (said := "".join(_said(value))):
                yield f"{name}={said}"
        yield ")"
    elif isinstance(node, list):
        for value in node:
            if not (isinstance(value, ast.Expr) and isinstance(value.value, ast.Constant)):  # docstrings do nothing
                yield from _said(value)
    else:
        yield f"{node!r},"
