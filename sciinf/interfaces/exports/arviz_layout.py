"""Answers in arviz's InferenceData layout, as an xarray DataTree or a netCDF file. arviz itself is not needed.

Groups:

    posterior             dims (chain, draw), one variable per parameter and derived quantity; draws of equal weight,
                          dealt into four chains, because arviz compares chains (r_hat); the attributes are `units`,
                          `derived` = 1 for a derived quantity, and the label as `long_name`; a discrete parameter holds
                          numbers, with `flag_values`, `labels` and `flag_meanings`; NaN means that a parameter does not
                          exist in a draw, and the attribute `absent` then says so
    weighted_posterior    the original draws, with the variable `log_weight`; only if the weights differ
    observed_data         one variable per observable, of its event shape
    constant_data         one variable per observable that was set, not measured: times of the data (`NAME_times`) and
                          controls
    posterior_predictive  dims (chain, draw, *event); only if the answer holds predictive draws; times and controls
                          only if they differ from those of the observation
    hidden_paths          dims (draw, time), one variable per hidden quantity; only if the answer holds hidden paths

arviz has no weights, so a weighted posterior is resampled by its weights. The number of draws is the largest at which
hardly any draw is repeated; then arviz's statements about precision hold. The weighted draws stay beside the resampled
ones. Evidence, the answer's verdict (its level as `verdict`, and `sentence`) and its findings are attributes of the
posterior. A slash in a name becomes a dot, because netCDF reserves slashes for groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciinf.core.answer import Answer
from sciinf.core.containers import said_of
from sciinf.core.draws import Draws
from sciinf.core.files import write_through
from sciinf.core.observable import Observable
from sciinf.interfaces.exports.contents import draws_of, facts
from sciinf.networks.summaries.timed import set_names

if TYPE_CHECKING:
    import xarray

CHAINS = 4  # The smallest number that arviz's diagnostics are made for.


def to_datatree(
    source: Answer | Draws,
    *,
    observables: Mapping[str, Observable] | None = None,
    n: int | None = None,
    generator: torch.Generator | None = None,
) -> xarray.DataTree:
    """Convert an answer to InferenceData layout.

    Args:
        source: An answer, or draws. With draws, the tree holds only the posterior.
        observables: The simulator's observables, for units and names of axes; by default those of the answer.
        n: Number of draws in `posterior`. By default all draws, or, if they are weighted, as many as can be resampled
            almost without repeats. Draws that cannot be shared evenly among four chains are left out.
        generator: Random generator of the resampling; by default a generator with seed 0.

    Raises:
        TypeError: If the source is neither an answer nor draws.
        ValueError: If n is not positive, or two names differ only by a slash and a dot.
    """
    import xarray

    draws = draws_of(source)
    theta = draws.alike(n, generator=generator).theta.detach().cpu().numpy()
    groups = {"posterior": _parameters(draws, theta, CHAINS if len(theta) >= CHAINS else 1)}
    groups["posterior"].attrs.update(_attributes(source))
    if draws.weighted:
        weighted = _parameters(draws, draws.theta.detach().cpu().numpy(), 1)
        weighted["log_weight"] = ("chain", "draw"), draws.log_weight.detach().cpu().numpy()[None]
        groups["weighted_posterior"] = weighted.assign_attrs(_attributes(source))
    if isinstance(source, Answer):
        groups |= _all_data(source, source.observables if observables is None else observables)
        if source.paths:
            groups["hidden_paths"] = source.paths.to_xarray()
    return xarray.DataTree.from_dict({f"/{name}": dataset for name, dataset in groups.items()})


def write_netcdf(
    source: Answer | Draws,
    path: str | Path,
    *,
    observables: Mapping[str, Observable] | None = None,
    n: int | None = None,
    generator: torch.Generator | None = None,
) -> Path:
    """Write an answer, as `to_datatree` returns it, to a netCDF4 file, which `arviz.from_netcdf` reads.

    Returns:
        The path.

    Raises:
        OSError: If the file cannot be written; an older one stays as it was.
    """
    path = Path(path)
    tree = to_datatree(source, observables=observables, n=n, generator=generator)
    write_through(path, lambda temporary: tree.to_netcdf(temporary, mode="w", engine="h5netcdf"))
    return path


def _parameters(draws: Draws, theta: np.ndarray, chains: int) -> xarray.Dataset:
    """Dataset of draws (n, D), with one variable (chain, draw) per column.

    Because the draws are independent, they may be cut into chains at any place.
    """
    import xarray

    each = len(theta) // chains
    dealt = theta[: each * chains].reshape(chains, each, theta.shape[1])
    names = _variables(draws.names)
    variables = {
        name: (("chain", "draw"), dealt[..., column], said_of(draws, key))
        for column, (name, key) in enumerate(zip(names, draws.names, strict=True))
    }
    return xarray.Dataset(variables, coords={"chain": np.arange(chains), "draw": np.arange(each)})


def _all_data(answer: Answer, specs: Mapping[str, Observable]) -> dict[str, xarray.Dataset]:
    """The groups of the tree with observed, constant and predicted data.

    Times and controls equal to the observation's are left out of the predictions, where they would look like perfect
    predictions.
    """
    given, names = answer.observation, set_names(specs)
    constant = {name: value for name, value in given.items() if name in names}
    same = [n for n, v in constant.items() if n in answer.predictive and (answer.predictive[n] == v).all()]
    batch = {name: np.asarray(value)[None] for name, value in answer.predictive.items() if name not in same}
    of = {
        "observed_data": ({name: value for name, value in given.items() if name not in names}, ()),
        "constant_data": (constant, ()),
        "posterior_predictive": (batch, ("chain", "draw")),
    }
    return {group: _data(values, specs, leading) for group, (values, leading) in of.items() if values}


def _data(
    values: Mapping[str, np.ndarray], specs: Mapping[str, Observable], leading: tuple[str, ...]
) -> xarray.Dataset:
    """Dataset of observables as variables (*leading, *event), with units and axes if the observable is in `specs`."""
    import xarray

    variables, coords = {}, {}
    for name, (key, value) in zip(_variables(values), values.items(), strict=True):
        array = np.asarray(value)
        labels = specs[key].dims if key in specs else ()
        axes = labels or tuple(str(i) for i in range(array.ndim - len(leading)))
        dims = (*leading, *(f"{name}_{axis}" if labels else f"{name}_dim_{axis}" for axis in axes))
        variables[name] = (dims, array, {"units": specs[key].unit} if key in specs else {})
        for axis, along in specs[key].coords.items() if key in specs else ():
            about = {"units": specs[key].coord_units.get(axis, "")}
            coords[f"{name}_{axis}"] = (f"{name}_{axis}", list(along), about)
    shape = next(iter(variables.values()))[1].shape
    coords |= {axis: np.arange(shape[i]) for i, axis in enumerate(leading)}
    return xarray.Dataset(variables, coords=coords)


def _variables(names: Iterable[str]) -> list[str]:
    names = list(names)
    out = [name.replace("/", ".") for name in names]
    if len(set(out)) < len(out):
        raise ValueError(f"netCDF has no slashes in names, and with dots instead these are not unique: {names}")
    return out


def _attributes(source: Answer | Draws) -> dict[str, Any]:
    """Attributes of the posterior's groups, with booleans as integers, because netCDF attributes have no booleans."""
    found = {key: int(value) if isinstance(value, bool) else value for key, value in facts(source).items()}
    return {"inference_library": "sciinf", "inference_library_version": version("sciinf"), **found}
