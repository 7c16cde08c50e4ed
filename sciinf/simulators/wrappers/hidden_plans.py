"""Plans of records: observation times of a hidden state, controls over time, and which values are measured.

If all records share times or controls, these are given as fixed values. If times or controls differ between records, a
function draws them for each simulation. So a network is trained on records like the future ones:

    def plans(rows, generator):  # a dose of 20 at first, 3 every 12 h; a sample now and then
        times = 12.0 * torch.arange(10.0).expand(rows, 10)
        dose = torch.where(times == 0, 20.0, 3.0)
        return Plan(times, {"dose": dose}, torch.rand(rows, 10, generator=generator) < 0.3)

Drawn controls are data, and so are drawn times: an observable NAME has additional observables NAME_times and the
controls under their own names. Times and controls are known inputs. Therefore their distribution is not learned, and no
check compares them with predicted data.
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
    """Plan of records: their times, their controls, and which values are measured.

    Args:
        times: Observation times of each record, (row or 1, T), not decreasing, in the model's unit. A shorter record
            repeats its last time, without measurements.
        controls: Name of each control that differs between records -> its values, (row or 1, T, *event). A value is in
            force from its time on.
        there: True where a value is measured, (row or 1, T): one mask for all observables, or a mapping name of the
            observable -> mask. Everything is measured by default.

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
        """The plan of one record, repeated for a number of rows."""
        controls = {name: value.expand(rows, *value.shape[1:]) for name, value in self.controls.items()}
        return Plan(self.times.expand(rows, -1), controls, self.there)

    def masks(self, names: Sequence[str], rows: int) -> dict[str, Tensor]:
        """Masks of the measured values, observable -> (rows, T); empty if everything is measured.

        Args:
            names: Names of the observables.
            rows: Number of rows.

        Raises:
            ValueError: If a mask has another shape, or the name of no observable.
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
        """Hash that identifies the plan of one record, 16 hexadecimal digits."""
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
    """Times that are the same in all records, as a tensor, after a check.

    Raises:
        ValueError: If there are no times, they are not a list of numbers, or they go backwards.
    """
    found = torch.as_tensor(times if isinstance(times, Tensor) else list(times), dtype=torch.float64)
    if found.ndim != 1 or not len(found):
        raise ValueError(f"times are a list of numbers, at least one, got shape {tuple(found.shape)}")
    check_times(found[None], begin)
    return found


def with_times(spec: Observable, times: Float[Tensor, " time"], unit: str) -> Observable:
    """Observable with the times as coordinates of its first axis.

    The observable is unchanged if its first axis has no name or already has coordinates.
    """
    axis = spec.dims[0] if spec.dims else ""
    if not axis or axis in spec.coords:
        return spec
    units = {**spec.coord_units, **({axis: unit} if unit else {})}
    return replace(spec, coords={**spec.coords, axis: times.tolist()}, coord_units=units)


def fixed_controls(controls: Mapping[str, Any] | DrawControls) -> Controls:
    """Fixed controls as tensors (1, T, *event), float64. A function that draws controls is returned unchanged."""
    if isinstance(controls, Callable):
        return controls
    return {name: torch.as_tensor(value, dtype=torch.float64)[None] for name, value in controls.items()}


def drawn_plan(
    times: Tensor | DrawTimes, controls: Controls, count: int, rows: int, generator: torch.Generator
) -> Plan:
    """Draw a plan for each row, with all controls.

    Args:
        times: Times of all rows, (T,), or a function that draws times or whole plans.
        controls: Controls that are in no plan: fixed, (1, T, *event), or a function that draws them.
        count: Number T of times.
        rows: Number of rows.
        generator: Source of randomness.

    Raises:
        ValueError: If drawn times or controls have a wrong shape, or a control comes from both a plan and `controls`.
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
    """Raise an error if the given controls are not the model's controls.

    Args:
        model: Model that names its `controls`.
        controls: Given controls, name -> values.
        parameters: Names of the prior's parameters.
        seen: Names of the observables.

    Raises:
        ValueError: If a control is missing or unknown, or has the name of a parameter, an observable or a part of the
            state; or a unit is unknown.
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
    """Specifications of the controls that differ between records, which are data: name -> `Observable`.

    Args:
        model: Model that gives the units of the controls.
        plan: A drawn plan, which gives the shapes.
        known: Controls that are the same in all records.
        like: An observable with the same axis of times.
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
    """Settings that identify a simulator's controls: name -> text; empty if there are no controls."""
    if isinstance(controls, Callable):
        return {"controls": said(controls)}
    return {"controls": ", ".join(f"{n} {said(v)}" for n, v in sorted(controls.items()))} if controls else {}


def check_shortest(shortest: int | None, times: Tensor | DrawTimes, count: int) -> None:
    """Raise an error if `shortest` is larger than the number of times, or if all records have the same fixed times.

    Raises:
        ValueError: If `shortest` is not an int of at least 1, is above the number of times, or times are fixed.
    """
    if shortest is None:
        return
    check_whole("shortest", shortest, 1)
    if isinstance(times, Tensor) or shortest > count:
        why = "is for times that a function draws" if isinstance(times, Tensor) else f"is at most {count}, the times"
        raise ValueError(f"`shortest`, the least number of times of a record, {why}; got {shortest}")


def shortened(plan: Plan, shortest: int | None, generator: torch.Generator) -> Plan:
    """Shorten the record of each row to a random number of its times, chosen at random.

    The last kept time is repeated at the end.

    Args:
        plan: Plan with times of each row, and with neither controls nor gaps.
        shortest: Smallest number of times. Every number from `shortest` to T is equally likely. None leaves the plan
            unchanged.
        generator: Source of randomness.

    Returns:
        Plan with times of the same shape, and a mask that is True for the kept times, which come first.

    Raises:
        ValueError: If the plan has controls, or has masks of its own.
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
    # The numbers of the kept times come first, in order, and the number T fills up the rest.
    kept = torch.where(torch.arange(count) < length, place, count).sort(-1).values
    there = kept < count
    last = kept.masked_fill(~there, -1).amax(-1, keepdim=True)
    return Plan(times.gather(-1, torch.where(there, kept, last)), {}, there)


def masked(
    x: Mapping[str, Tensor], names: Sequence[str], plan: Plan, missing: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Data with missing values set to 0, and masks (rows, T) that are True where a value was observed.

    Args:
        x: Simulated data, name -> (rows, T, *event).
        names: Names of the observables.
        plan: Plan of the records, which says which values are measured.
        missing: Largest share of the measured values that are missing at random. Each row has its own share, uniform up
            to this one.
        generator: Source of randomness.
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
