"""One simulator for several models of the same data, with the model itself as a discrete parameter.

    simulator = wrappers.models({"SIR": sir, "SEIR": seir})

If several models have a parameter with the same name, distribution and unit, it is one parameter and keeps its name.
Any other parameter carries the name of its model, as in `SEIR.sigma`, and exists only in this model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from sciinf.core import Choice, Observable, Outcome, Prior, Simulator, Status, X
from sciinf.core.existence import Existence, Family
from sciinf.core.law_json import law_to_json
from sciinf.core.observable import event_of
from sciinf.core.simulator import as_seen


def models(
    simulators: Mapping[str, Simulator],
    *,
    probabilities: Mapping[str, float] | None = None,
    parameter: str = "model",
    name: str | None = None,
    block: int | None = None,
) -> SeveralModels:
    """Make one simulator of several models, which have different priors and the same observables.

    Args:
        simulators: Name of each model -> its simulator. The first simulator reads the real data.
        probabilities: Name of each model -> its prior probability; equal by default.
        parameter: Name of the discrete parameter that says which model it is.
        name: Name of the simulator; by default the models' names, joined.
        block: Number of rows per block of a store; by default the smallest number among the models.

    Raises:
        TypeError: If a model is not a simulator, or its name is not a text.
        ValueError: If there are fewer than two models, their observables differ, a model has a parameter with the name
            `parameter`, a model has derived quantities, or probabilities have other names than the models.

    Examples:
        >>> from sciinf import Normal, wrappers
        >>> a, b = Normal(0, 1), Normal(0, 2)
        >>> flat = wrappers.numpy(lambda a, rng: a + rng.normal(size=3), Prior(a=a), {"y": (3,)})
        >>> steep = wrappers.numpy(lambda a, b, rng: a + b * rng.normal(size=3), Prior(a=a, b=b), {"y": (3,)})
        >>> models({"flat": flat, "steep": steep}).prior.names
        ('model', 'a', 'steep.b')
    """
    if not isinstance(simulators, Mapping) or len(simulators) < 2:
        raise ValueError(f"give two models or more, {{'SIR': sir, 'SEIR': seir}}, got {simulators!r}")
    for label, simulator in simulators.items():
        if not isinstance(label, str):
            raise TypeError(f"a model is called {label!r}; give it a name of text")
        if not isinstance(simulator, Simulator):
            raise TypeError(f"the model {label!r} is {type(simulator).__name__}, expected a Simulator")
        if parameter in simulator.prior.names:
            raise ValueError(
                f"the model {label!r} has a parameter {parameter!r}, and so is called the parameter that says which "
                "model it is; give the latter another name: models(..., parameter='which')"
            )
        if simulator.derived:
            raise ValueError(
                f"the model {label!r} has derived quantities, which depend on its own parameters alone: leave them "
                "out, and define derived quantities of the simulator of all models"
            )
    _check_observables(simulators)
    if probabilities is not None and set(probabilities) != set(simulators):
        raise ValueError(f"probabilities are given for {sorted(probabilities)}, the models are {list(simulators)}")
    shares = {} if probabilities is None else {label: probabilities[label] for label in simulators}
    which = Choice(**shares) if shares else Choice(*simulators)
    return SeveralModels(simulators, which, parameter, name or "_or_".join(simulators), block)


@final
class SeveralModels(Simulator):
    """The simulator of several models that `models` makes."""

    def __init__(
        self, simulators: Mapping[str, Simulator], which: Choice, parameter: str, name: str, block: int | None
    ) -> None:
        self.simulators, self.name = dict(simulators), name
        first = next(iter(simulators.values()))
        self.observables, self.reader = first.observables, first.reader
        self.block = block or min(simulator.block for simulator in simulators.values())
        self.prior, called = _joined({label: s.prior for label, s in simulators.items()}, which, parameter)
        self.columns = {
            label: torch.tensor([self.prior.names.index(n) for n in names], dtype=torch.long)
            for label, names in called.items()
        }
        self.labels = {
            name: s.labels[before]
            for label, s in simulators.items()
            for before, name in zip(s.prior.names, called[label], strict=True)
            if before in s.labels
        }
        own = [s.source for s in simulators.values() if s.source is not None]
        self.files = tuple(dict.fromkeys([*own, *(Path(f) for s in simulators.values() for f in s.files)]))
        self.settings = self._settings
        if any(simulator.like is not None for simulator in simulators.values()):
            self.like = self._like
        self._built = (which, parameter, block)
        if all(simulator.log_likelihood is not None for simulator in simulators.values()):
            self.log_likelihood = self._log_likelihood
            self.random_likelihood = any(simulator.random_likelihood for simulator in simulators.values())
        if all(simulator.rescaled is not None for simulator in simulators.values()):
            self.rescaled = self._rescaled

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> Outcome:
        """Simulate a batch, each row with its model."""
        n = len(theta)
        x = {k: torch.zeros(n, *o.shape, dtype=o.torch_dtype, device=theta.device) for k, o in self.observables.items()}
        status, messages = torch.full((n,), int(Status.OK), dtype=torch.uint8), dict[int, str]()
        for label, rows, own in self._rows(theta):
            found = self.simulators[label](own, generator=generator)
            outcome = found if isinstance(found, Outcome) else Outcome(found)
            self._check(label, outcome.x)
            for k, values in x.items():
                values[rows] = torch.as_tensor(outcome.x[k]).to(values)
            if outcome.status is not None:
                status[rows.cpu()] = outcome.status.to("cpu", torch.uint8)
            messages |= {int(rows[i]): f"{label}: {text}" for i, text in outcome.messages.items()}
        return Outcome(x, status, messages)

    def _like(self, x: X) -> Simulator:
        which, parameter, block = self._built
        seen = {label: as_seen(simulator, x) for label, simulator in self.simulators.items()}
        return SeveralModels(seen, which, parameter, self.name, block)

    def observe(self, *paths: str | Path, columns: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """Read real data from files with the first model's simulator."""
        return next(iter(self.simulators.values())).observe(*paths, columns=columns)

    def _rows(self, theta: Tensor) -> list[tuple[str, Tensor, Tensor]]:
        """Name of each model that occurs in theta, with the numbers of its rows and their parameters."""
        found = []
        for code, (label, simulator) in enumerate(self.simulators.items()):
            rows = (theta[:, 0] == code).nonzero().flatten()
            if len(rows):
                own = theta[rows][:, self.columns[label].to(theta.device)].to(simulator.prior.dtype)
                found.append((label, rows, own))
        return found

    def _check(self, label: str, x: X) -> None:
        if set(x) != set(self.observables):
            raise ValueError(
                f"the model {label!r} returned {sorted(x)}, expected {event_of(self.observables)}, as its observables "
                "say"
            )

    def _log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        total = torch.zeros(len(theta), dtype=torch.float64, device=theta.device)
        for label, rows, own in self._rows(theta):
            some = {name: value if len(value) == 1 else value[rows] for name, value in x.items()}
            likelihood: Any = self.simulators[label].log_likelihood
            total[rows] = likelihood(own, some).to(total)
        return total

    def _rescaled(self, theta: Tensor, x: X) -> Tensor:
        """Rescaled intervals of each row, by its model. Rows with fewer intervals than others end with NaN."""
        parts = list[tuple[Tensor, Tensor]]()
        for label, rows, own in self._rows(theta):
            rescaled: Any = self.simulators[label].rescaled
            parts.append((rows, rescaled(own, {name: v if len(v) == 1 else v[rows] for name, v in x.items()})))
        wide = max((found.shape[1] for _, found in parts), default=0)
        total = torch.full((len(theta), wide), math.nan, dtype=torch.float64, device=theta.device)
        for rows, found in parts:
            total[rows, : found.shape[1]] = found.to(total)
        return total

    def _settings(self) -> dict[str, str]:
        found = {"models": ", ".join(f"{label} = {s.name}" for label, s in self.simulators.items())}
        for label, simulator in self.simulators.items():
            found |= {f"{label}.{k}": v for k, v in (simulator.settings() if simulator.settings else {}).items()}
        return found


def _check_observables(simulators: Mapping[str, Simulator]) -> None:
    (first, simulator), *others = simulators.items()
    for label, other in others:
        before: Mapping[str, Observable] = simulator.observables
        if dict(before) != dict(other.observables):
            raise ValueError(
                f"the models must simulate the same data: {first!r} has {event_of(before)}, {label!r} has "
                f"{event_of(other.observables)}; names, shapes, units, dims, dtypes and scales must agree"
            )
        for name, spec in before.items():
            if (spec.coords, spec.coord_units) != (other.observables[name].coords, other.observables[name].coord_units):
                raise ValueError(
                    f"the models must simulate the same data: {name!r} of {first!r} and of {label!r} stand at other "
                    "coordinates; give both the same coords"
                )


def _joined(priors: Mapping[str, Prior], which: Choice, parameter: str) -> tuple[Prior, dict[str, list[str]]]:
    """Prior of all models together, and for each model the names of its parameters in this prior."""
    keys = {label: _keys(prior) for label, prior in priors.items()}
    shared, taken = dict[str, list[str]](), set[str]()
    for label, own in keys.items():
        for key, names in own.items():
            among = [other for other in keys if key in keys[other]]
            if key in shared or not key or len(among) < 2 or taken & set(names) or label != among[0]:
                continue
            shared[key] = among
            taken |= set(names)
    names, units, laws = [parameter], [""], [which]
    when, each, called = dict[str, dict[str, tuple[str | int, ...]]](), dict[str, Family](), dict[str, list[str]]()
    for label, prior in priors.items():
        as_called = dict[str, str]()
        for law, place in prior.places():
            own, key = prior.names[place], _key(prior, place.start)
            common = key in shared
            new = own if common else tuple(f"{label}.{n}" for n in own)
            as_called |= dict(zip(own, new, strict=True))
            if common and shared[key][0] != label:
                continue
            names, units, laws = [*names, *new], [*units, *prior.units[place]], [*laws, law]
            exists_for = shared[key] if common else [label]
            if len(exists_for) < len(priors):
                when[new[0]] = {parameter: tuple(exists_for)}
        for head, conditions in prior.existence.when.items():
            when[as_called[head]] |= {as_called[parent]: tuple(v) for parent, v in conditions.items()}
        for group_name, group in prior.existence.each.items():
            columns = tuple(as_called[c] for c in group.columns)
            count = as_called[group.count] if group.count else ""
            each[f"{label}.{group_name}"] = Family(columns, count, group.more, group.increasing)
        called[label] = [as_called[n] for n in prior.names]
    return Prior.of_laws(names, units, laws, Existence(when, each)), called


def _keys(prior: Prior) -> dict[str, tuple[str, ...]]:
    """Identifying keys of a prior's parameters that models may share: key -> names of the parameters."""
    found = {_key(prior, place.start): prior.names[place] for _, place in prior.places()}
    return {key: names for key, names in found.items() if key}


def _key(prior: Prior, start: int) -> str:
    """Identifying key of the parameters at a column: their names, units and distribution as JSON.

    The key is empty for parameters that models may not share, because they do not always exist.
    """
    law, place = next((law, place) for law, place in prior.places() if place.start == start)
    names = prior.names[place]
    if names[0] in prior.existence.when or any(names[0] in g.columns for g in prior.existence.each.values()):
        return ""
    return json.dumps([names, prior.units[place], law_to_json(law)])
