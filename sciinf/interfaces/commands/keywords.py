"""Options of a pipeline or of `observe`: each keyword gives an option `--name value`, in the type of its default."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from sciinf.interfaces.commands.usage import meant
from sciinf.interfaces.reader_keywords import options_of, parameters_of, typed

__all__ = ["PipelineCommand", "keywords", "options_of", "parameters_of", "pipeline_of"]

_PIPELINE = "sciinf.pipeline"
_FLAGS = ("-q", "--quiet", "-v", "--verbose", "-h", "--help")


def pipeline_of(path: str | Path) -> Callable[..., Any]:
    """Load the function `run` that a pipeline file defines.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If the file defines no `run`.
    """
    from sciinf.core.simulator import load_module
    from sciinf.interfaces.commands.user_files import from_file

    path = Path(path).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"no pipeline at {path}")
    module = from_file(path, load_module)
    function = getattr(module, "run", None)
    if not callable(function):
        meant = "; it is a simulator, which `sciinf infer` takes" if "simulator" in vars(module) else ""
        raise TypeError(f"{path} must define `run(out, *, seed, ...)`{meant}")
    return function


def keywords(function: Callable[..., Any], tokens: Sequence[str], path: Path) -> dict[str, Any]:
    """Turn `--name value` pairs into keyword arguments of a function, each in the type of its default.

    Messages name `path`, the file of the function.
    """
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
        found[name] = typed(option, value, parameters[name])
    return found


def _pipeline(args: Sequence[str]) -> int | None:
    """Position of the word that names the pipeline: the first that ends in .py and is not the value of an option."""
    for place, word in enumerate(args):
        before = args[place - 1] if place else ""
        value = re.match("--?[A-Za-z]", before) and "=" not in before and before not in _FLAGS
        if word.endswith(".py") and not word.startswith("-") and not value:
            return place
    return None


class PipelineCommand(click.Command):
    """A command whose help also lists the options of the pipeline that the command names."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        place = _pipeline(args)
        if place is not None:  # The pipeline is put first, or click could take the value of an option for it.
            args = [args[place], *args[:place], *args[place + 1 :]]
        file = None if place is None else Path(args[0])
        ctx.meta[_PIPELINE] = file if file is not None and file.is_file() else None
        return click.Command.parse_args(self, ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        click.Command.format_options(self, ctx, formatter)
        if (path := ctx.meta.get(_PIPELINE)) is not None:
            with formatter.section(f"Options of {path.name}"):
                formatter.write_dl(options_of(pipeline_of(path)) or [("none", "")])
