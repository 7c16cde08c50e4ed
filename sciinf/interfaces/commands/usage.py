"""Explain errors of usage: an option that a command does not know, or a parameter that is missing."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

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


def explained(error: click.ClickException) -> click.ClickException:
    """An error of usage with a hint on what to write instead, if there is one."""
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
    """The option that a word may stand for, by its meaning or else by similar letters; None if there is none."""
    options, bare = list(known), word.lstrip("-").replace("_", "-").lower()
    by_meaning = [option for option, words in _MEANT.items() if option in options and bare in words.split()]
    letters = {option.lstrip("-"): option for option in options}
    by_letters = [letters[found] for found in get_close_matches(bare, letters, n=1)]
    return next(iter(by_meaning + by_letters), None)


def unknown(word: str, ctx: click.Context | None, more: Iterable[str] = ()) -> click.UsageError:
    """The error that an option is unknown; it suggests an option of the command, or one of `more`."""
    known = [*_options(ctx), *more]
    option = meant(word, known)
    way_out = f"did you mean {option}?" if option else f"there is {', '.join(known)}"
    return click.UsageError(f"there is no option {word}; {way_out}", ctx)


def _options(ctx: click.Context | None) -> list[str]:
    parameters = ctx.command.get_params(ctx) if ctx is not None else []
    return [parameter.opts[-1] for parameter in parameters if isinstance(parameter, click.Option)]
