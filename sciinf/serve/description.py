"""A model in words and numbers: what it is asked about, what it tells of, and how it was checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import distributions as td

from sciinf.core import Observable, Prior
from sciinf.core.levels import Levels
from sciinf.core.records import Calibration, calibration_finding, said_of
from sciinf.figures.prior_curves import prior_marginals
from sciinf.serve.models import Model, NotReady, Served
from sciinf.summaries.timed import set_names

_DRAWS, _ENDS, _POINTS = 50_000, (0.001, 0.999), 64


def unready(source: Served, why: NotReady | None = None) -> dict[str, Any]:
    """What is known of a run that has learned nothing yet."""
    words = str(why) if why else f"{source.name} is not trained yet"
    return {"name": source.name, "ready": False, "reason": words}


def describe(model: Model) -> dict[str, Any]:
    """All that a page or a program needs to know of a model before it asks."""
    posterior, simulator = model.first.posterior, model.simulator
    store, as_set = model.fit.record["store"], set_names(model.observables)
    return {
        "name": model.name,
        "ready": True,
        "parameters": _parameters(model),
        "observables": [{**_observable(name, spec), "set": name in as_set} for name, spec in model.observables.items()],
        "calibration": _calibration(model.first.calibration),
        "posterior": posterior.name,
        "scope": posterior.scope,
        "estimator": type(model.fit.estimator).__name__,
        "simulations": int(store.get("used", 0)),
        "simulator": simulator is not None,
        "as_seen": simulator is not None and simulator.like is not None,
        "without": "" if simulator else model.source.without,
        "derived": list(simulator.derived) if simulator else [],
        "observations": list(model.known),
        "digest": model.digest,
    }


def _parameters(model: Model) -> list[dict[str, Any]]:
    prior, labels = model.prior, dict(model.simulator.labels) if model.simulator else {}
    drawn = prior.sample(_DRAWS, generator=torch.Generator().manual_seed(0)).double().numpy()
    low, high = np.nanquantile(drawn, _ENDS, axis=0)
    ranges, discrete, when = list(zip(low.tolist(), high.tolist(), strict=True)), prior.discrete(), _when(prior)
    smooth = [k for k, name in enumerate(prior.names) if name not in discrete]
    curves = prior_marginals(prior, [prior.names[k] for k in smooth], [ranges[k] for k in smooth])
    laws = {name: _law(law) for law, place in prior.places() for name in prior.names[place]}
    in_order = {name for group in prior.existence.each.values() if group.increasing for name in group.columns}
    laws |= {name: f"{laws[name]}, in increasing order" for name in in_order}
    found = []
    for k, (name, unit) in enumerate(zip(prior.names, prior.units, strict=True)):
        curve = curves.get(name)
        grid = np.linspace(*ranges[k], _POINTS)
        density = [] if curve is None else np.interp(grid, *curve).tolist()
        about = {
            "law": laws[name],
            "low": ranges[k][0],
            "high": ranges[k][1],
            "grid": grid.tolist(),
            "density": density,
        }
        found.append({"name": name, "label": labels.get(name, ""), "unit": unit, "prior": about})
        if (levels := discrete.get(name)) is not None:
            about["values"], about["probabilities"] = list(levels.labels), levels.log_probs.exp().tolist()
        if name in when:
            about["exists"] = when[name]
    return found


def _when(prior: Prior) -> dict[str, dict[str, list[str]]]:
    """Each parameter that need not exist -> discrete parameter -> the labels of the values for which it does."""
    laws = {prior.names[place.start]: (law, prior.names[place]) for law, place in prior.places()}
    conditions = prior.existence.conditions(prior.names, {name: law for name, (law, _) in laws.items()})
    found = {}
    for head, of in conditions.items():
        labels = {
            parent: [label for label, flag in zip(prior.discrete()[parent].labels, flags, strict=True) if flag]
            for parent, flags in of.items()
        }
        found |= dict.fromkeys(laws[head][1], labels)
    return found


def _law(law: td.Distribution) -> str:
    """A law as it is written: "LogNormal(0, 0.5)"."""
    if isinstance(law, Levels):
        return repr(law)
    numbers = []
    for name in law.arg_constraints:
        value = getattr(law, name, None)
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            numbers.append(f"{float(value):.6g}")
    inside = ", ".join(numbers)
    return f"{type(law).__name__}({inside})" if numbers else type(law).__name__


def _observable(name: str, spec: Observable) -> dict[str, Any]:
    coordinates: Mapping[str, Any] | None = None
    if spec.coords:
        coordinates = {
            axis: {"values": list(values), "unit": spec.coord_units.get(axis, "")}
            for axis, values in spec.coords.items()
        }
    about = {"shape": list(spec.shape), "unit": spec.unit, "dims": list(spec.dims), "dtype": spec.dtype}
    return {"name": name, **about, "scale": spec.scale, "label": "", "coordinates": coordinates}


def _calibration(found: Calibration | None) -> dict[str, Any]:
    said = said_of(found)
    known = {key: said[key] for key in ("state", "reasons", "fit")}
    return {**known, "sentence": calibration_finding(said).line}
