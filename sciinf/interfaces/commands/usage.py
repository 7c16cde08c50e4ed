"""Words that a command does not know or misses: what was meant, and what to write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path

import click

from sciinf.interfaces.commands.estimators import estimators_told

_SIMULATIONS = "n simulations num number n-simulations num-simulations sims rows train samples"
_MEANT = {
    "--observation": "data obs observations observed observable x x-obs x-o file files input",
    "-n": _SIMULATIONS,
    "--simulations": _SIMULATIONS,
    "--out": "output output-dir out-dir outdir folder dir run o",
    "--simulator": "sim model",
    "--estimator": "method network net density-estimator inference",
    "--workers": "jobs j processes cores cpus threads num-workers",
    "--scheduler": "dask cluster address engine",
    "--slurm": "sbatch queue array partition",
    "--device": "gpu cuda",
    "--level": "confidence credible ci interval",
    "--draws": "samples posterior save",
    "--seed": "random-state random-seed rng",
    "--column": "columns rename map key",
}
_MISSING = {
    "n": "10,000 are a good beginning: -n 10000",
    "observation": "Give a file with a column for each observable: --observation data.csv",
    "out": "A new folder does: --out runs/first",
    "simulator": "It is the Python file that defines `simulator`: decay.py",
    "store": "It is the folder that `sciinf simulate` wrote with --out",
    "folder": "It is the run folder, which `sciinf infer` or `sciinf train` wrote with --out",
    "pipeline": "It is a Python file that defines `run(out, *, seed, ...)`",
    "path": "It is the Python file that defines `simulator`, or a folder of simulations",
}
_PIPELINE = "sciinf.pipeline"
_FLAGS = ("-q", "--quiet", "-v", "--verbose", "-h", "--help")


def explained(error: click.ClickException) -> click.ClickException:
    """An error of usage with the way out, as far as it can be told."""
    if isinstance(error, click.NoSuchOption):
        return unknown(error.option_name, error.ctx)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        parameter, words = error.param, error.format_message().rstrip(".")
        what = parameter.help if isinstance(parameter, click.Option) else None
        way_out = _MISSING.get(parameter.name or "")
        return click.UsageError(". ".join(part.rstrip(".") for part in (words, what, way_out) if part) + ".", error.ctx)
    if isinstance(error, click.BadOptionUsage) and error.option_name == "--estimator":
        return click.UsageError(f"{error.message} There is\n{estimators_told()}", error.ctx)
    return error


def meant(word: str, known: Iterable[str]) -> str | None:
    """The option that a word may stand for: by its meaning, or else by its letters."""
    options, bare = list(known), word.lstrip("-").replace("_", "-").lower()
    by_meaning = [option for option, words in _MEANT.items() if option in options and bare in words.split()]
    letters = {option.lstrip("-"): option for option in options}
    by_letters = [letters[found] for found in get_close_matches(bare, letters, n=1)]
    return next(iter(by_meaning + by_letters), None)


def unknown(word: str, ctx: click.Context | None, more: Iterable[str] = ()) -> click.UsageError:
    """The error that a command does not know an option, nor does what takes `more`."""
    known = [*_options(ctx), *more]
    option = meant(word, known)
    way_out = f"did you mean {option}?" if option else f"there is {', '.join(known)}"
    return click.UsageError(f"there is no option {word}; {way_out}", ctx)


def _options(ctx: click.Context | None) -> list[str]:
    parameters = ctx.command.get_params(ctx) if ctx is not None else []
    return [parameter.opts[-1] for parameter in parameters if isinstance(parameter, click.Option)]


def _pipeline(args: Sequence[str]) -> int | None:
    """Which word names the pipeline: the first that ends in .py and is no option's value."""
    for place, word in enumerate(args):
        before = args[place - 1] if place else ""
        value = re.match("--?[A-Za-z]", before) and "=" not in before and before not in _FLAGS
        if word.endswith(".py") and not word.startswith("-") and not value:
            return place
    return None


class PipelineCommand(click.Command):
    """A command whose help lists the options of the pipeline that is named, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        place = _pipeline(args)
        if place is not None:  # it comes first, or an option's value would be taken for it
            args = [args[place], *args[:place], *args[place + 1 :]]
        file = None if place is None else Path(args[0])
        ctx.meta[_PIPELINE] = file if file is not None and file.is_file() else None
        return click.Command.parse_args(self, ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        click.Command.format_options(self, ctx, formatter)
        if (path := ctx.meta.get(_PIPELINE)) is not None:
            from sciinf.interfaces.commands.keywords import options_of, pipeline_of

            with formatter.section(f"Options of {path.name}"):
                formatter.write_dl(options_of(pipeline_of(path)) or [("none", "")])
