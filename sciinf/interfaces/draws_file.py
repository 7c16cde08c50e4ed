"""Draws on disk: `draws.h5`, one dataset per parameter with its unit, and `log_weight`.

The root of the file has these attributes:

* `format` and `schema`: kind of the file, and version of its layout.
* `names`: names of the parameters, in order.
* `content`: hash of the content, checked on reading.
* `log_evidence`, `log_evidence_error` and `pareto_k`, if they are known.
* `verdict` and `sentence` of the answer, if the file was exported.

Each parameter is a dataset (n,) with its name. A name with a slash, as in scopes of numpyro, is an HDF5 path,
so `file[name]` finds the dataset. NaN means that the parameter does not exist in a draw. A dataset has these
attributes:

* `unit`: "" for a dimensionless parameter.
* `derived`: true for a derived parameter, absent for others.
* `label`, if the parameter has one.
* `absent`: the meaning of NaN, if the parameter does not exist in some draws.
* `values`, `labels` and `prior` of a discrete parameter: the values, their names, and their prior
  probabilities.
* `exact`: posterior probabilities of the values, if they are known exactly.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciinf.core.categories import ABSENT, Categories
from sciinf.core.draws import Draws
from sciinf.core.files import write_bytes
from sciinf.core.within import own_dataset

FORMAT = "sciinf draws"
SCHEMA = 1
_SCALARS = ("log_evidence", "log_evidence_error", "pareto_k")


def write_draws_h5(draws: Draws, path: str | Path, about: Mapping[str, str] | None = None) -> Path:
    """Write draws durably, in the dtype they have.

    Args:
        draws: Names, units, theta (n, D) and log_weight (n,).
        path: The file; it is replaced whole or not at all.
        about: Further attributes of the file, texts, for whoever reads it elsewhere.

    Returns:
        The path.

    Raises:
        ValueError: If a parameter's name cannot name a dataset beside the others.
        OSError: If the file cannot be written; an older one stays as it was.
    """
    import h5py

    path = Path(path)
    image = io.BytesIO()
    theta = draws.theta.detach().cpu().numpy()
    with h5py.File(image, "w") as file:
        file.attrs.update({"format": FORMAT, "schema": SCHEMA, "content": content_hash(draws)})
        file.attrs.create("names", list(draws.names), dtype=h5py.string_dtype())
        file.attrs.update(about or {})
        for name in _SCALARS:
            value = getattr(draws, name)
            if value is not None:
                file.attrs[name] = float(value)
        file["log_weight"] = draws.log_weight.detach().cpu().numpy()
        for column, (name, unit) in enumerate(zip(draws.names, draws.units, strict=True)):
            try:
                file[name] = theta[:, column]
            except (ValueError, OSError, RuntimeError) as error:
                raise ValueError(
                    f"the parameter name {name!r} cannot name a dataset beside 'log_weight' and {draws.names}; "
                    f"rename it in the prior ({error})"
                ) from error
            file[name].attrs["unit"] = unit
            file[name].attrs.update({"derived": True} if name in draws.derived else {})
            file[name].attrs.update({"label": draws.labels[name]} if name in draws.labels else {})
            file[name].attrs.update({"absent": ABSENT} if draws.exists(name) < 1 else {})
            for key, found in draws.categories[name].to_json().items() if name in draws.categories else ():
                file[name].attrs.create(key, found, dtype=h5py.string_dtype() if key == "labels" else None)
    write_bytes(path, image.getvalue())
    return path


def read_draws_h5(path: str | Path) -> Draws:
    """Read what `write_draws_h5` wrote, bit for bit.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds no draws or draws that lie in other files, or a newer version wrote it.

    Warns:
        UserWarning: If it carries no hash of its content, as files of older versions.
    """
    import h5py

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no draws at {path}")
    try:
        with h5py.File(path, "r") as opened:
            file: Any = opened
            if file.attrs.get("format") != FORMAT:
                raise ValueError(f"{path} holds no draws of sciinf (its attribute `format` is not {FORMAT!r})")
            if file.attrs.get("schema") != SCHEMA:
                found = file.attrs.get("schema")
                raise ValueError(f"{path} has format {found}, this version reads format {SCHEMA}: update sciinf")
            names = tuple(str(name) for name in file.attrs["names"])
            scalars: dict[str, Any] = {name: float(file.attrs[name]) for name in _SCALARS if name in file.attrs}
            own = {name: own_dataset(file, name) for name in names}
            theta = np.stack([own[name][()] for name in names], axis=1)
            said = {name: column.attrs for name, column in own.items()}
            units = tuple(str(said[name]["unit"]) for name in names)
            scalars["derived"] = tuple(name for name in names if said[name].get("derived", False))
            scalars["labels"] = {name: str(said[name]["label"]) for name in names if "label" in said[name]}
            scalars["categories"] = {name: _categories(said[name]) for name in names if "values" in said[name]}
            log_weight = torch.from_numpy(own_dataset(file, "log_weight")[()])
            content = file.attrs.get("content")
        draws = Draws(names, units, torch.from_numpy(theta), log_weight, **scalars)
    except (OSError, KeyError, TypeError, AttributeError, RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged, or not an HDF5 file of draws: {error}") from error
    if content is None:
        warnings.warn(
            f"{path} carries no hash of its content, as files of older versions: whether it was changed cannot be told",
            stacklevel=1,
        )
    elif content != content_hash(draws):
        raise ValueError(f"{path} is damaged: its draws do not have the hash written in it; ask again")
    return draws


def _categories(attributes: Any) -> Categories:
    """What the attributes of a discrete parameter say of it."""
    found = {key: attributes[key].tolist() for key in ("values", "labels", "prior", "exact") if key in attributes}
    return Categories.from_json(found)


def content_hash(draws: Draws) -> str:
    """SHA-256 over names, units, what is derived, labels, what is known of the weights, log weights and each column."""
    known = {name: float(value) for name in _SCALARS if (value := getattr(draws, name)) is not None}
    about = [list(draws.derived), dict(draws.labels)] if draws.derived or draws.labels else []
    about += [{name: one.to_json() for name, one in draws.categories.items()}] if draws.categories else []
    digest = hashlib.sha256(json.dumps([list(draws.names), list(draws.units), known, *about], sort_keys=True).encode())
    arrays = [draws.log_weight, *draws.theta.unbind(1)]
    for name, value in zip(["log_weight", *draws.names], arrays, strict=True):
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode() + array.tobytes())
    return digest.hexdigest()
