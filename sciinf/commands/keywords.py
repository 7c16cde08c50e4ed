"""Options of a pipeline: `--name value` for every keyword of its `run`, of its default's type."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def keywords(function: Callable[..., Any], tokens: Sequence[str], path: Path) -> dict[str, Any]:
    """`--name value` pairs as keywords of a pipeline's run, each of its default's type."""
    parameters = {
        name: p
        for name, p in inspect.signature(function).parameters.items()
        if p.kind is inspect.Parameter.KEYWORD_ONLY and name != "seed"
    }
    found: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        option, given, value = rest.pop(0).partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or name not in parameters:
            known = ", ".join(f"--{n.replace('_', '-')}" for n in parameters) or "none"
            raise ValueError(f"{path.name} has no option {option!r}; it has {known}")
        if not given:
            if not rest:
                raise ValueError(f"the option {option} needs a value")
            value = rest.pop(0)
        found[name] = _typed(option, value, parameters[name])
    return found


def _typed(option: str, value: str, parameter: inspect.Parameter) -> Any:
    kind = type(parameter.default)
    if parameter.default is None or parameter.default is inspect.Parameter.empty:
        words = re.findall(r"\w+", str(parameter.annotation))
        kind = next((k for k in (int, float, bool, Path) if k.__name__ in words), str)
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
