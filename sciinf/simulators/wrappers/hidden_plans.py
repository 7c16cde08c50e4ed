"""Plans of records: when a hidden state is looked at, what is done to it meanwhile, and what of it is measured.

What is the same in all records is given as it is: a list of times, controls along them. What differs is drawn for each
simulation by a function, so that a network learns of records like those that will come:

    def plans(rows, generator):  # a dose of 20 at first, 3 every 12 h; a sample now and then
        times = 12.0 * torch.arange(10.0).expand(rows, 10)
        dose = torch.where(times == 0, 20.0, 3.0)
        return Plan(times, {"dose": dose}, torch.rand(rows, 10, generator=generator) < 0.3)

Controls that are drawn are data, as times are that are drawn: beside an observable NAME stand NAME_times and the
controls by their names. They are known, so that nothing is learned of their own law, and no checks ask whether they
look like data that were predicted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sciinf.core import Observable
from sciinf.core.checks import check_unit, check_whole
from sciinf.networks.summaries.timed import TIMES
from sciinf.simulators.dynamics.field_equation import said
from sciinf.simulators.dynamics.state_space import StateSpace, check_times


@dataclass(frozen=True)
class Plan:
    """What is known of records before anything was seen.

    Args:
        times: When each is looked at, (row or 1, T), none before the one before it, in the model's unit. A record that
            is shorter repeats its last time, where nothing is measured.
        controls: Name of each that differs from record to record -> (row or 1, T, *event), in force from each time on.
        there: True where something is measured, (row or 1, T): of all observables, or of each by its name. All of it
            where left out.

    Raises:
        ValueError: If times have no axis of rows.

    Examples:
        >>> Plan(torch.tensor([[0.0, 2.0, 12.0]]), {"dose": torch.tensor([[20.0, 0.0, 0.0]])}).controls["dose"].shape
        torch.Size([1, 3])
    """

    times: Float[Tensor, "#row time"]
    controls: Mapping[str, Tensor] = field(default_factory=dict)
    there: Bool[Tensor, "#row time"] | Mapping[str, Tensor] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", torch.as_tensor(self.times))
        object.__setattr__(self, "controls", {name: torch.as_tensor(value) for name, value in self.controls.items()})
        if self.times.ndim != 2:
            raise ValueError(f"times of a plan are (row, T), got shape {tuple(self.times.shape)}")

    def of(self, rows: int) -> Plan:
        """This plan, of one record, for so many."""
        controls = {name: value.expand(rows, *value.shape[1:]) for name, value in self.controls.items()}
        return Plan(self.times.expand(rows, -1), controls, self.there)

    def masks(self, names: Sequence[str], rows: int) -> dict[str, Tensor]:
        """Where each of the observables is measured, (rows, T); none where all are throughout.

        Raises:
            ValueError: If one has another shape, or is of no observable.
        """
        if self.there is None:
            return {}
        found = dict(self.there) if isinstance(self.there, Mapping) else dict.fromkeys(names, self.there)
        count = self.times.shape[-1]
        for name, each in found.items():
            if name not in names or each.shape not in ((1, count), (rows, count)):
                raise ValueError(
                    f"a plan says where {name!r} is measured by {tuple(each.shape)} values; the observables are "
                    f"{', '.join(names)}, each with {(rows, count)}"
                )
        return {name: each.bool().expand(rows, -1) for name, each in found.items()}

    def digest(self) -> str:
        """What the plan of one record is known by."""
        found = hashlib.sha256(self.times.double().contiguous().numpy().tobytes())
        there = self.there if isinstance(self.there, Mapping) else {} if self.there is None else {"": self.there}
        for part in (self.controls, there):
            for name in sorted(part):
                found.update(name.encode() + part[name].contiguous().numpy().tobytes())
        return found.hexdigest()[:16]


DrawTimes = Callable[[int, torch.Generator], Tensor | Plan]
"""A number of rows and a generator -> times of each row, (row, T), none before the one before it; or whole plans."""

DrawControls = Callable[[int, torch.Generator], Mapping[str, Tensor]]
"""A number of rows and a generator -> name of each control -> its values of each row, (row, T, *event)."""

Controls = Mapping[str, Tensor] | DrawControls


def fixed_times(times: Any, begin: float | None) -> Float[Tensor, " time"]:
    """Times that are the same in all records.

    Raises:
        ValueError: If there is none, they are no list of numbers, or go backwards.
    """
    found = torch.as_tensor(times if isinstance(times, Tensor) else list(times), dtype=torch.float64)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"times are a list of numbers, at least one, got shape {tuple(found.shape)}")
    check_times(found[None], begin)
    return found


def with_times(spec: Observable, times: Float[Tensor, " time"], unit: str) -> Observable:
    """An observable whose coordinates along time are those times, where it names the axis and says nothing else."""
    axis = spec.dims[0] if spec.dims else ""
    if not axis or axis in spec.coords:
        return spec
    units = {**spec.coord_units, **({axis: unit} if unit else {})}
    return replace(spec, coords={**spec.coords, axis: times.tolist()}, coord_units=units)


def fixed_controls(controls: Mapping[str, Any] | DrawControls) -> Controls:
    """Controls that are the same in all records as tensors (1, T, *event), float64; functions as they are."""
    if isinstance(controls, Callable):
        return controls
    return {name: torch.as_tensor(value, dtype=torch.float64)[None] for name, value in controls.items()}


def drawn_plan(
    times: Tensor | DrawTimes, controls: Controls, count: int, rows: int, generator: torch.Generator
) -> Plan:
    """A plan for each row, with all its controls.

    Args:
        times: (T,) of all rows, or a function that draws them or whole plans.
        controls: Those that are in no plan: fixed, (1, T, *event), or a function.
        count: T.
        rows: How many.
        generator: Of what is drawn.

    Raises:
        ValueError: If what was drawn has another shape, or a control comes from both.
    """
    found = times[None] if isinstance(times, Tensor) else times(rows, generator)
    plan = found if isinstance(found, Plan) else Plan(found)
    if not isinstance(times, Tensor):
        if plan.times.shape not in ((1, count), (rows, count)):
            raise ValueError(f"times were drawn of shape {tuple(plan.times.shape)}, expected {(rows, count)}")
        plan = replace(plan, times=plan.times.expand(rows, -1))
    more = controls(rows, generator) if isinstance(controls, Callable) else controls
    if not isinstance(more, Mapping):
        raise ValueError(f"controls were drawn as {type(more).__name__}; give a mapping, name -> (rows, T, *event)")
    if twice := sorted(set(more) & set(plan.controls)):
        raise ValueError(
            f"{', '.join(twice)}: plans have these controls, and controls= gives them as well; leave one out"
        )
    every = {name: torch.as_tensor(value).double() for name, value in {**plan.controls, **more}.items()}
    for name, value in every.items():
        if value.shape[:1] not in ((1,), (rows,)):
            raise ValueError(f"the control {name!r} was drawn of shape {tuple(value.shape)} for {rows} rows")
    return Plan(plan.times.double(), every, plan.there)


def check_named(
    model: StateSpace, controls: Mapping[str, Tensor], parameters: Sequence[str], seen: Iterable[str]
) -> None:
    """Refuse controls that are not those of the model.

    Args:
        model: Whose `controls` they are to be.
        controls: Those that there are.
        parameters: Names of the prior's.
        seen: Names of the observables.

    Raises:
        ValueError: If one is missing or unknown, or has the name of something else; or a unit is unknown.
    """
    for name, unit in {**model.latent, **model.controls}.items():
        check_unit(unit, f"the hidden {name!r}" if name in model.latent else f"the control {name!r}")
    kind, wanted = type(model).__name__, list(model.controls)
    if isinstance(model.impulses, str) or (unknown := [name for name in model.impulses if name not in wanted]):
        got = model.impulses if isinstance(model.impulses, str) else ", ".join(unknown)
        raise ValueError(f"{kind}.impulses names {got!r}: give names of its controls in brackets, ({got!r},)")
    if missing := [name for name in wanted if name not in controls]:
        raise ValueError(
            f"{kind} has controls of which no values are given: {', '.join(map(repr, missing))}. Give "
            f"state_space(..., controls={{{missing[0]!r}: ...}}) with one value for each time, or let the function of "
            "the times return a Plan with them"
        )
    if unknown := [name for name in controls if name not in wanted]:
        raise ValueError(
            f"{', '.join(map(repr, unknown))} are given as controls, and {kind}.controls names "
            f'{", ".join(map(repr, wanted)) or "none"}: write `controls = {{"{unknown[0]}": "unit"}}` into the class'
        )
    taken = [*model.latent, *(f"{name}{end}" for name in seen for end in ("", "_mask", TIMES))]
    if twice := [name for name in wanted if name in parameters or name in taken]:
        raise ValueError(
            f"{', '.join(map(repr, twice))}: controls that have the name of a parameter, an observable or a part of "
            "the state; call them differently"
        )


def control_specs(model: StateSpace, plan: Plan, known: Mapping[str, Any], like: Observable) -> dict[str, Observable]:
    """What controls are as data: those that differ from record to record.

    Args:
        model: Which tells their units.
        plan: One that was drawn.
        known: Those that are the same in all records.
        like: An observable, of the same times.
    """
    found, axis = {}, like.dims[0] if like.dims else "time"
    about: dict[str, Any] = {}
    if axis in like.coords:
        about = {"coords": {axis: like.coords[axis]}}
        about["coord_units"] = {n: u for n, u in like.coord_units.items() if n == axis}
    for name in model.controls:
        if name not in known:
            shape = tuple(plan.controls[name].shape[1:])
            dims = (axis, *(f"part{i or ''}" for i in range(len(shape) - 1)))
            found[name] = Observable(shape, model.controls[name], dims, "float64", control=True, **about)
    return found


def settings_of(controls: Controls) -> dict[str, str]:
    """What a simulator is known by of its controls; nothing where there are none."""
    if isinstance(controls, Callable):
        return {"controls": said(controls)}
    return {"controls": ", ".join(f"{n} {said(v)}" for n, v in sorted(controls.items()))} if controls else {}


def check_shortest(shortest: int | None, times: Tensor | DrawTimes, count: int) -> None:
    """Refuse a least number of times where there are not as many, or where all records have the same.

    Raises:
        ValueError: If so.
    """
    if shortest is None:
        return
    check_whole("shortest", shortest, 1)
    if isinstance(times, Tensor) or shortest > count:
        why = "is for times that a function draws" if isinstance(times, Tensor) else f"is at most {count}, the times"
        raise ValueError(f"`shortest`, the least number of times of a record, {why}; got {shortest}")


def shortened(plan: Plan, shortest: int | None, generator: torch.Generator) -> Plan:
    """Records of fewer times: of each row as many as are drawn, at random; behind them the last is repeated.

    Args:
        plan: With times of each row, and neither controls nor gaps.
        shortest: The least number; each from it to T is as likely as another. None leaves the plan as it is.
        generator: Source of randomness.

    Returns:
        Times of the same shape, and which of them are the record's, the first ones.

    Raises:
        ValueError: If the plan has controls or says itself where something is measured.
    """
    if shortest is None:
        return plan
    if plan.controls or plan.there is not None:
        raise ValueError(
            "`shortest` leaves out times at random, and controls would be left out with them: let the function of the "
            "times return a Plan that says of each record how long it is (a shorter one repeats its last time)"
        )
    times, (rows, count) = plan.times, plan.times.shape
    options: dict[str, Any] = {"generator": generator, "device": generator.device}
    length = torch.randint(shortest, count + 1, (rows, 1), **options)
    place = torch.rand(rows, count, **options).argsort(-1)
    kept = torch.where(torch.arange(count) < length, place, count).sort(-1).values  # the record's, and then T
    there = kept < count
    last = kept.masked_fill(~there, -1).amax(-1, keepdim=True)
    return Plan(times.gather(-1, torch.where(there, kept, last)), {}, there)


def masked(
    x: Mapping[str, Tensor], names: Sequence[str], plan: Plan, missing: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Data in which values are missing, with the masks that say where: (rows, T), True where one was seen.

    Args:
        x: Of which it is about the observables that are named, (rows, T, *event).
        names: Of the observables.
        plan: Where something is measured at all.
        missing: Largest share of values that are missing of these, at random; each row has its own, uniform up to it.
        generator: Of what is missing.
    """
    found, options = dict[str, Tensor](), {"generator": generator, "device": generator.device}
    planned = plan.masks(names, len(x[names[0]]))
    for name in names:
        rows, count = x[name].shape[:2]
        there = planned.get(name, torch.ones(rows, count, dtype=torch.bool, device=generator.device))
        if missing:
            share = missing * torch.rand(rows, 1, **options)
            there = there & (torch.rand(rows, count, **options) >= share)
        wide = there.reshape(*there.shape, *[1] * (x[name].ndim - 2))
        found |= {name: torch.where(wide, x[name], torch.zeros_like(x[name])), f"{name}_mask": there}
    return found
