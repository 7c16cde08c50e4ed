"""Draws and estimates converted to dicts of arrays, pandas data frames and xarray datasets, with their units.

The columns are the parameters, the derived quantities and `log_weight`, as in all files of draws. The weight
of a draw is exp(log_weight); `log_weight` is 0 for unweighted draws. In pandas, units are in
`attrs["units"]`. A parameter that does not exist in a draw is NaN there. A parameter with labels is a column
of text, with None where it does not exist.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from sciinf.core.categories import ABSENT

if TYPE_CHECKING:
    import pandas
    import xarray

    from sciinf.core.answer import Answer
    from sciinf.core.draws import Draws


def dict_of(draws: Draws) -> dict[str, Any]:
    """The draws as a dict of arrays; see `Draws.to_dict`."""
    columns = columns_of(draws)
    return {
        "parameters": {name: values for name, values in columns.items() if name not in draws.derived},
        "derived": {name: columns[name] for name in draws.derived},
        "units": dict(zip(draws.names, draws.units, strict=True)),
        "labels": dict(draws.labels),
        "log_weight": draws.log_weight.detach().cpu().numpy().copy(),
    }


def columns_of(draws: Draws) -> dict[str, np.ndarray]:
    """Name -> values, (n,), of each parameter and derived quantity; text for parameters with labels."""
    theta = draws.theta.detach().cpu().numpy()
    columns = {name: theta[:, column].copy() for column, name in enumerate(draws.names)}
    return columns | {name: one.shown(columns[name]) for name, one in draws.categories.items()}


def absent_in(column: np.ndarray) -> np.ndarray:
    """Whether each value of a column of `columns_of` is missing, (n,): None in text, NaN in numbers."""
    return np.array([value is None for value in column]) if column.dtype == object else np.isnan(column)


def dataframe_of(draws: Draws) -> pandas.DataFrame:
    """The draws as a pandas data frame; see `Draws.to_dataframe`."""
    frame = _needed("pandas").DataFrame(_columns(draws))
    frame.attrs["units"] = dict(zip(draws.names, draws.units, strict=True))
    frame.attrs |= {"derived": list(draws.derived)} if draws.derived else {}
    frame.attrs |= {"labels": dict(draws.labels)} if draws.labels else {}
    return frame


def dataset_of(draws: Draws) -> xarray.Dataset:
    """The draws as an xarray dataset; see `Draws.to_xarray`."""
    numbers = dict(zip(draws.names, draws.theta.detach().cpu().numpy().T, strict=True))
    shown = {name: numbers.get(name, values) for name, values in _columns(draws).items()}
    columns = {name: ("draw", values.copy(), said_of(draws, name)) for name, values in shown.items()}
    found = {"effective_sample_size": draws.ess, "log_evidence": draws.log_evidence}
    attributes = {name: value for name, value in found.items() if value is not None}
    return _needed("xarray").Dataset(columns, coords={"draw": np.arange(len(draws))}, attrs=attributes)


def said_of(draws: Draws, name: str) -> dict[str, Any]:
    """The attributes of a variable: `units`, `derived` if it is derived, and its label as `long_name`.

    Plots use `long_name`. A variable that exists in some draws only has the meaning of NaN in `absent`. A
    discrete variable has `flag_values` and `flag_meanings`, by the CF conventions for netCDF. It also has the
    unchanged labels in `labels`, and the prior probabilities of its values in `prior`.
    """
    units = dict(zip(draws.names, draws.units, strict=True))
    about: dict[str, Any] = {"derived": 1} if name in draws.derived else {}
    about |= {"long_name": draws.labels[name]} if name in draws.labels else {}
    if name in units and draws.exists(name) < 1:
        about["absent"] = ABSENT
    if (found := draws.categories.get(name)) is not None:
        meanings = " ".join(label.replace(" ", "_") for label in found.labels)
        about |= {"flag_values": list(found.values), "flag_meanings": meanings, "labels": list(found.labels)}
        about["prior"] = list(found.prior)
    return {"units": units.get(name, ""), **about}


def estimates_of(answer: Answer) -> pandas.DataFrame:
    """The estimates of an answer as a pandas data frame; see `Answer.to_dataframe`."""
    rows = {}
    labels, derived = (any(getattr(e, key) for e in answer.parameters.values()) for key in ("label", "derived"))
    sometimes = any(e.exists < 1 for e in answer.parameters.values())
    for name, e in answer.parameters.items():
        rows[name] = {"unit": e.unit, **e.columns()}
        rows[name] |= {"exists": e.exists} if sometimes else {}
        rows[name] |= {"label": e.label} if labels else {}
        rows[name] |= {"derived": e.derived} if derived else {}
        if answer.amortised:
            rows[name] |= answer.amortised[name].columns("uncorrected_")
        if e.corrected:
            low, high = e.corrected.interval
            rows[name] |= {"corrected_low": low, "corrected_high": high}
    frame = _needed("pandas").DataFrame.from_dict(rows, orient="index").rename_axis("parameter")
    state = answer.to_json()["calibration"]["state"]
    level = next(iter(answer.parameters.values())).level
    frame.attrs.update(level=level, calibration=state, trust=str(answer.trust.level), **answer.verdict.to_json())
    return frame


def _columns(draws: Draws) -> dict[str, np.ndarray]:
    """Name -> values, (n,), of each parameter, derived quantity and `log_weight`.

    Raises:
        ValueError: If a parameter has the name `log_weight`.
    """
    if "log_weight" in draws.names:
        raise ValueError("a parameter is called 'log_weight', the name of the weights' column; rename it in the prior")
    found = dict_of(draws)
    return {**found["parameters"], **found["derived"], "log_weight": found["log_weight"]}


def _needed(package: str) -> Any:
    """An optional package, imported.

    Raises:
        ImportError: If the package is not installed. The message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this needs {package}, which is not installed: pip install {package}") from error
