"""Options of a pipeline, or of `observe`: `--name value` for every keyword, of its default's type."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sciinf.commands.usage import meant

_KINDS = {int: "INTEGER", float: "NUMBER", bool: "true|false", str: "TEXT"}


def pipeline_of(path: str | Path) -> Callable[..., Any]:
    """The `run` of a pipeline's file.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If it defines no `run`.
    """
    from sciinf.commands.user_files import from_file
    from sciinf.core.simulator import load_module

    path = Path(path).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no pipeline at {path}")
    module = from_file(path, load_module)
    function = getattr(module, "run", None)
    if not callable(function):
        meant = "; it is a simulator, which `sciinf infer` takes" if "simulator" in vars(module) else ""
        raise TypeError(f"{path} must define `run(out, *, seed, ...)`{meant}")
    return function


def options_of(function: Callable[..., Any]) -> list[tuple[str, str]]:
    """The options of a function, each with what its docstring says of it and its default."""
    said = dict(re.findall(r"^ +(\w+): (.+)$", inspect.getdoc(function) or "", re.MULTILINE))
    return [
        (
            f"--{name.replace('_', '-')} {_KINDS.get(_kind(p), _kind(p).__name__.upper())}",
            f"{said.get(name, '')}  [default: {p.default}]".strip()
            if p.default not in (p.empty, None)
            else said.get(name, ""),
        )
        for name, p in parameters_of(function).items()
    ]


def keywords(function: Callable[..., Any], tokens: Sequence[str], path: Path) -> dict[str, Any]:
    """`--name value` pairs as keywords of a function, each of its default's type; `path` is of its file."""
    parameters = parameters_of(function)
    found: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        option, given, value = rest.pop(0).partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or name not in parameters:
            known = [f"--{n.replace('_', '-')}" for n in parameters]
            close = meant(option, known)
            guess = f"; did you mean {close}?" if close else ""
            raise ValueError(f"{path.name} has no option {option!r}; it has {', '.join(known) or 'none'}{guess}")
        if not given:
            if not rest:
                raise ValueError(f"the option {option} needs a value")
            value = rest.pop(0)
        found[name] = _typed(option, value, parameters[name])
    return found


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The keywords of a function that are options, by their names; the commands have `--seed` and `--column`."""
    return {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is inspect.Parameter.KEYWORD_ONLY and name not in ("seed", "columns")
    }


def _kind(parameter: inspect.Parameter) -> type:
    if (
        type(parameter.default) is int
        and str(getattr(parameter.annotation, "__name__", parameter.annotation)) == "float"
    ):
        return float
    if parameter.default is None or parameter.default is inspect.Parameter.empty:
        words = re.findall(r"\w+", str(parameter.annotation))
        return next((k for k in (int, float, bool, Path) if k.__name__ in words), str)
    return type(parameter.default)


def _typed(option: str, value: str, parameter: inspect.Parameter) -> Any:
    kind = _kind(parameter)
    if kind not in (int, float, bool, str) and not issubclass(kind, Path):
        raise ValueError(f"the option {option} takes a {kind.__name__}, which the command line cannot give")
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]
        if kind is int and "e" in value.lower() and float(value) == int(float(value)):
            return int(float(value))
        return kind(value)
    except (ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"the option {option} takes a {kind.__name__}, got {value!r}") from error
