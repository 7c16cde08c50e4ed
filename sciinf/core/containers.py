"""Draws and estimates in the containers of everyday work: dicts of arrays, pandas, xarray, always with their units.

The columns are the parameters, derived quantities and `log_weight`, as in all files of draws: zero throughout for plain
draws, else draws count by the exponential of it. pandas has no place for units but `attrs["units"]`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas
    import xarray

    from sciinf.core.answer import Answer, Estimate
    from sciinf.core.draws import Draws


def dict_of(draws: Draws) -> dict[str, Any]:
    """See `Draws.to_dict`."""
    theta = draws.theta.detach().cpu().numpy()
    columns = {name: theta[:, column].copy() for column, name in enumerate(draws.names)}
    return {
        "parameters": {name: values for name, values in columns.items() if name not in draws.derived},
        "derived": {name: columns[name] for name in draws.derived},
        "units": dict(zip(draws.names, draws.units, strict=True)),
        "labels": dict(draws.labels),
        "log_weight": draws.log_weight.detach().cpu().numpy().copy(),
    }


def dataframe_of(draws: Draws) -> pandas.DataFrame:
    """See `Draws.to_dataframe`."""
    frame = _needed("pandas").DataFrame(_columns(draws))
    frame.attrs["units"] = dict(zip(draws.names, draws.units, strict=True))
    frame.attrs |= {"derived": list(draws.derived)} if draws.derived else {}
    frame.attrs |= {"labels": dict(draws.labels)} if draws.labels else {}
    return frame


def dataset_of(draws: Draws) -> xarray.Dataset:
    """See `Draws.to_xarray`."""
    columns = {name: ("draw", values, said_of(draws, name)) for name, values in _columns(draws).items()}
    found = {"effective_sample_size": draws.ess, "log_evidence": draws.log_evidence}
    attributes = {name: value for name, value in found.items() if value is not None}
    return _needed("xarray").Dataset(columns, coords={"draw": np.arange(len(draws))}, attrs=attributes)


def said_of(draws: Draws, name: str) -> dict[str, Any]:
    """The attributes of a variable: its unit, whether it is derived, its label under the name that plots look for."""
    units = dict(zip(draws.names, draws.units, strict=True))
    about: dict[str, Any] = {"derived": 1} if name in draws.derived else {}
    about |= {"long_name": draws.labels[name]} if name in draws.labels else {}
    return {"units": units.get(name, ""), **about}


def estimates_of(answer: Answer) -> pandas.DataFrame:
    """See `Answer.to_dataframe`."""
    rows = {}
    labels, derived = (any(getattr(e, key) for e in answer.parameters.values()) for key in ("label", "derived"))
    for name, e in answer.parameters.items():
        rows[name] = {"unit": e.unit, **_ends("", e), "mean": e.mean, "sd": e.sd}
        rows[name] |= {"label": e.label} if labels else {}
        rows[name] |= {"derived": e.derived} if derived else {}
        if answer.amortised:
            rows[name] |= _ends("uncorrected_", answer.amortised[name])
        if e.corrected:
            low, high = e.corrected.interval
            rows[name] |= {"corrected_low": low, "corrected_high": high}
    frame = _needed("pandas").DataFrame.from_dict(rows, orient="index").rename_axis("parameter")
    state = answer.to_json()["calibration"]["state"]
    level = next(iter(answer.parameters.values())).level
    frame.attrs.update(level=level, calibration=state, trust=answer.trust.level)
    return frame


def _ends(prefix: str, e: Estimate) -> dict[str, float]:
    low, high = e.interval
    return {f"{prefix}median": e.median, f"{prefix}low": low, f"{prefix}high": high}


def _columns(draws: Draws) -> dict[str, np.ndarray]:
    """The parameters, derived quantities and `log_weight`.

    Raises:
        ValueError: If a parameter has that name.
    """
    if "log_weight" in draws.names:
        raise ValueError("a parameter is called 'log_weight', the name of the weights' column; rename it in the prior")
    found = dict_of(draws)
    return {**found["parameters"], **found["derived"], "log_weight": found["log_weight"]}


def _needed(package: str) -> Any:
    """A package that only some users have.

    Raises:
        ImportError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this needs {package}, which is not installed: pip install {package}") from error
