"""Keywords of a function that are given as text: which there are, and each in the type of its default."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_KINDS = {int: "INTEGER", float: "NUMBER", bool: "true|false", str: "TEXT"}


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


def typed(option: str, value: str, parameter: inspect.Parameter) -> Any:
    """A value in the type of an option.

    Args:
        option: What it is called, for messages.
        value: The text.
        parameter: The keyword that it is for.

    Raises:
        ValueError: If it is none of that type, or no text can give one.
    """
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


def retyped(function: Callable[..., Any], words: Mapping[str, str]) -> dict[str, Any]:
    """Keywords of a function from text that was kept, each in its type; what the function does not take is left out.

    Args:
        function: The function.
        words: Keyword -> text.

    Raises:
        ValueError: If one is none of its type.
    """
    known = parameters_of(function)
    return {
        name: typed(f"--{name.replace('_', '-')}", text, known[name]) for name, text in words.items() if name in known
    }


def check_needed(function: Callable[..., Any], given: Mapping[str, Any], file: str) -> None:
    """Refuse keywords of a function that lack one without a default.

    Args:
        function: What reads data.
        given: Its keywords.
        file: The file that it is of, for the message.

    Raises:
        ValueError: If so; the message says which, and what it is.
    """
    told_of = dict(options_of(function))
    for name, parameter in parameters_of(function).items():
        if parameter.default is parameter.empty and name not in given:
            shown = next(key for key in told_of if key.startswith(f"--{name.replace('_', '-')} "))
            raise ValueError(f"{file} needs {shown} to read data. {told_of[shown]}".strip())
