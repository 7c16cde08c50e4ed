"""Draws and estimates in the containers of everyday work: dicts of arrays, pandas, xarray, always with their units.

The columns are the parameters and `log_weight`, as in all files of draws: zero throughout for plain draws, else draws
count by the exponential of it. pandas has no place for units but `attrs["units"]`.
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
    return {
        "parameters": {name: theta[:, column].copy() for column, name in enumerate(draws.names)},
        "units": dict(zip(draws.names, draws.units, strict=True)),
        "log_weight": draws.log_weight.detach().cpu().numpy().copy(),
    }


def dataframe_of(draws: Draws) -> pandas.DataFrame:
    """See `Draws.to_dataframe`."""
    frame = _needed("pandas").DataFrame(_columns(draws))
    frame.attrs["units"] = dict(zip(draws.names, draws.units, strict=True))
    return frame


def dataset_of(draws: Draws) -> xarray.Dataset:
    """See `Draws.to_xarray`."""
    units = dict(zip(draws.names, draws.units, strict=True))
    columns = {name: ("draw", values, {"units": units.get(name, "")}) for name, values in _columns(draws).items()}
    found = {"effective_sample_size": draws.ess, "log_evidence": draws.log_evidence}
    attributes = {name: value for name, value in found.items() if value is not None}
    return _needed("xarray").Dataset(columns, coords={"draw": np.arange(len(draws))}, attrs=attributes)


def estimates_of(answer: Answer) -> pandas.DataFrame:
    """See `Answer.to_dataframe`."""
    rows = {}
    for name, e in answer.parameters.items():
        rows[name] = {"unit": e.unit, **_ends("", e), "mean": e.mean, "sd": e.sd}
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
    """The parameters and `log_weight`.

    Raises:
        ValueError: If a parameter has that name.
    """
    if "log_weight" in draws.names:
        raise ValueError("a parameter is called 'log_weight', the name of the weights' column; rename it in the prior")
    found = dict_of(draws)
    return {**found["parameters"], "log_weight": found["log_weight"]}


def _needed(package: str) -> Any:
    """A package that only some users have.

    Raises:
        ImportError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this needs {package}, which is not installed: pip install {package}") from error
