"""Simulators of state-space models: observations of a hidden state, with the likelihood by the best filter.

    simulator = wrappers.state_space(Nile(), prior, times, {"volume": Observable((100,), "1e8 m3", ("time",))})

`simulators.wrappers.hidden_likelihood` lists the filters. If records have different times, the times are data as well:
an observable NAME has an additional observable NAME_times. If values may be missing, it also has NAME_mask. Controls
that differ between records (`simulators.wrappers.hidden_plans`) are data too, under their own names. `like` gives the
simulator of data with the times, controls and missing values of one record, for predictions of this record.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Observable, Prior, Simulator, X
from sciinf.core.checks import check_unit, check_whole
from sciinf.core.observable import event_of
from sciinf.core.paths import HiddenPaths
from sciinf.networks.summaries.timed import TIMES, lines_of
from sciinf.simulators.dynamics.field_equation import said
from sciinf.simulators.dynamics.state_space import Record, StateSpace, check_times, checked
from sciinf.simulators.wrappers.hidden_likelihood import Filters, pairs_of_states
from sciinf.simulators.wrappers.hidden_plans import (
    Controls,
    DrawControls,
    DrawTimes,
    Plan,
    check_named,
    check_shortest,
    control_specs,
    drawn_plan,
    fixed_controls,
    fixed_times,
    masked,
    settings_of,
    shortened,
    with_times,
)
from sciinf.simulators.wrappers.hidden_records import (
    merged,
    padded,
    read_record,
    set_through,
    shared_times,
    values_and_masks,
)
from sciinf.simulators.wrappers.row_arguments import check_plain

_TRIED, _TIMES = 3, 8  # Rows of a first test of the model, and times at which `data_of_pairs` compares states.


def state_space(
    model: StateSpace,
    prior: Prior,
    times: Sequence[float] | Tensor | DrawTimes,
    observables: Mapping[str, Observable | tuple[int, ...]],
    *,
    begin: float | None = None,
    particles: int | None = None,
    missing: float = 0.0,
    name: str | None = None,
    block: int = 4096,
    time_unit: str = "",
    controls: Mapping[str, Any] | DrawControls | None = None,
    shortest: int | None = None,
) -> HiddenStates:
    """Make a simulator of the observations of a hidden state.

    Args:
        model: Model of the hidden state and its observation: a `StateSpace`, `LinearStates` or `FiniteStates` of
            `sciinf.simulators.dynamics`.
        prior: Prior of the parameters, under the names that the model uses.
        times: Observation times: T numbers, not decreasing, in the model's unit of time. If records have different
            times, a function that draws times, (rows, generator) -> (rows, T), or whole plans (`hidden_plans.Plan`).
            Each observable then has an additional observable `NAME_times`. A shorter record repeats its last time, with
            missing values. If records may be shorter, also give `shortest`. Otherwise all simulations have T times.
        observables: Observables of the model: name -> `Observable`, or its shape, (T, *event). Fixed times become the
            coordinates of the first axis.
        begin: Time of the model's `initial`; by default the first of `times`.
        particles: Number of particles for each theta, if a particle filter is needed. By default, the number is doubled
            from 64 until the log-likelihood has an sd of at most 1. This must hold for three quarters of pilot draws of
            parameters and data from the prior. The pilot draws have a fixed seed, so that the number does not depend on
            real data.
        missing: Largest share of values that may be missing. If above 0, each simulation has its own share, uniform
            up to this one, and values are missing at random. Each observable then has an additional observable
            `NAME_mask`, True where a value was observed. The likelihood holds for any pattern of missing values.
        name: Name of the simulator; by default the name of the model's class in lower case.
        block: Number of rows per block of a store.
        time_unit: Unit of times, for records and paths; by default the unit of the first axis's coordinates.
        controls: Known inputs that the model names in its `controls`, each (T, *event), the same in all records; or a
            function that draws them, (rows, generator) -> name -> (rows, T, *event), so that they are data. Leave out
            controls that a `Plan` gives.
        shortest: Smallest number of times of a record, if times are drawn. Each simulation then keeps k of its T times,
            chosen at random, and every k from `shortest` to T is equally likely. The kept times are stored in the same
            way as by `HiddenStates.record`, with `NAME_mask`. Leave it out if a `Plan` gives the lengths of records.

    Raises:
        TypeError: If `model` is not an object of one of these classes.
        ValueError: If times go backwards; an observable has another number of times, or is not what the model observes;
            `missing` is not a share; a control is missing, unknown, of another length or not finite; or `shortest` is
            larger than the number of times, or given with fixed times or with controls.

    Examples:
        >>> import torch
        >>> from sciinf import HalfNormal, Observable, Prior
        >>> from sciinf.simulators.dynamics.state_space import StateSpace
        >>> class Walk(StateSpace):
        ...     latent = {"place": "m"}
        ...     def initial(self, theta, rows, *, generator):
        ...         return torch.zeros(rows, 1)
        ...     def advance(self, theta, state, start, stop, *, generator):
        ...         return state + theta["step"][:, None] * torch.randn(state.shape, generator=generator)
        ...     def observe(self, theta, state, *, generator):
        ...         return {"y": state[:, 0] + torch.randn(len(state), generator=generator)}
        >>> state_space(Walk(), Prior(step=HalfNormal(1.0)), range(5), {"y": Observable((5,), "m", ("time",))})
        simulator 'walk' of Prior(step): 'y' (5,) [m]
    """
    if not isinstance(model, StateSpace):
        got = f"the class {model.__name__}; call it" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"expected a model of sciinf.simulators.dynamics.state_space.StateSpace, got {got}")
    check_plain(prior, "a state-space model")
    if particles is not None:
        check_whole("particles", particles, 2)
    if not 0 <= missing < 1:
        raise ValueError(f"`missing` is a share, at least 0 and below 1, got {missing}")
    specs = {n: o if isinstance(o, Observable) else Observable(tuple(o)) for n, o in observables.items()}
    if not specs or not all(spec.shape for spec in specs.values()):
        raise ValueError(f"each observable has the times as its first axis, got {event_of(specs) or 'none'}")
    count = next(iter(specs.values())).shape[0]
    drawn: Tensor | DrawTimes
    if isinstance(times, Callable):
        drawn, there = times, f"{next(iter(specs))!r} has {count}"
    else:
        drawn = fixed_times(times, begin)
        count, there = len(drawn), f"there are {len(drawn)} times"
    for key, spec in specs.items():
        if spec.shape[0] != count:
            raise ValueError(f"{key!r} has shape {spec.shape}, and {there}: its first axis is that of the times")
    check_unit(time_unit, "the times of a hidden state")
    check_shortest(shortest, drawn, count)
    known = fixed_controls(controls or {})
    specs = {n: with_times(o, drawn, time_unit) if isinstance(drawn, Tensor) else o for n, o in specs.items()}
    return HiddenStates(model, prior, drawn, specs, begin, particles, missing, name, block, time_unit, known, shortest)


@final
class HiddenStates(Simulator):
    """The simulator of a state-space model that `state_space` makes.

    Attributes:
        particles: Number of particles for each theta; 0 if no particle filter is needed.
    """

    def __init__(
        self,
        model: StateSpace,
        prior: Prior,
        times: Tensor | DrawTimes,
        seen: Mapping[str, Observable],
        begin: float | None = None,
        particles: int | None = None,
        missing: float = 0.0,
        name: str | None = None,
        block: int = 4096,
        time_unit: str = "",
        controls: Controls = MappingProxyType({}),
        shortest: int | None = None,
    ) -> None:
        first = next(iter(seen.values()))
        self.time_unit = time_unit or (first.coord_units.get(first.dims[0], "") if first.dims else "")
        self.model, self.prior, self.times, self.begin = model, prior, times, begin
        self.name, self.block, self.missing, self.seen = name or type(model).__name__.lower(), block, missing, seen
        self.count, self.controls, self.shortest = first.shape[0], controls, shortest
        self.own: Plan | None = None
        tried = self._tried()
        self.gaps = missing > 0 or (tried.there is not None and shortest is None)
        self.masked = self.gaps or shortest is not None
        self.observables = dict(seen)
        for key, spec in seen.items():
            if self.masked:
                self.observables[f"{key}_mask"] = Observable((self.count,), "", spec.dims[:1], "bool")
            if not isinstance(times, Tensor):
                # All times share the axis name "time", so that they are standardised by one common span.
                self.observables[f"{key}{TIMES}"] = Observable((self.count,), self.time_unit, ("time",), "float64")
        self.known = {} if isinstance(controls, Callable) else dict(controls)  # Controls that all records share.
        self.given = control_specs(model, tried, self.known, first)
        self.observables |= self.given
        self.settings = self._settings
        self.filters = Filters(model, prior.names, self._record, self._pilot, particles)
        self.random_likelihood = not self.filters.exact and model.log_observe is not None
        self._check(tried)
        self.like = None if self.observables.keys() == seen.keys() else self._like
        if model.log_observe is not None:
            self.log_likelihood = self.filters.log_likelihood
            self.paths = self._paths

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        return self.simulated(theta, generator=generator)[0]

    @property
    def particles(self) -> int:
        return self.filters.particles

    def simulated(self, theta: Tensor, *, generator: torch.Generator) -> tuple[X, Float[Tensor, "batch time state"]]:
        """Simulate data, and return them with the hidden paths from which they were observed."""
        named, rows = dict(zip(self.prior.names, theta.unbind(-1), strict=True)), len(theta)
        plan = self._plan(rows, generator)
        record = Record(plan.times, {}, {}, self.begin, plan.controls)
        state = self.model.initial(record.beside(named, 0), rows, generator=generator)
        state = checked(self.model, state, rows, "initial")
        states, seen = [], {name: [] for name in self.seen}
        for k in range(self.count):
            if k or self.begin is not None:
                state = self.model.advance(record.beside(named, k - 1), state, *record.step(k), generator=generator)
                state = checked(self.model, state, rows, "advance")
            states.append(state)
            for name, value in self.model.observe(record.beside(named, k), state, generator=generator).items():
                seen[name].append(self._observed(name, value, rows))
        x: dict[str, Tensor] = {}
        for name, spec in self.seen.items():
            x[name] = torch.stack(seen[name], 1).reshape(rows, *spec.shape).to(spec.torch_dtype)
            if not isinstance(self.times, Tensor):
                x[f"{name}{TIMES}"] = record.times.expand(rows, -1).contiguous()
        if self.masked:
            x |= masked(x, list(self.seen), plan, self.missing, generator)
        x |= {name: record.controls[name].expand(rows, *spec.shape) for name, spec in self.given.items()}
        return x, torch.stack(states, 1)

    def smooth(self, theta: Tensor, x: X, *, generator: torch.Generator) -> Float[Tensor, "batch time state"]:
        """Draw a hidden path of each row given its theta and the data, with the columns of the model's `latent`.

        The draws are exact if the likelihood is exact. Otherwise they come from a particle filter with four times as
        many particles as for the likelihood. Their error falls as 1 / the number of particles. `weighed_paths` is exact
        for draws with weights.

        Args:
            theta: Parameters, (batch, D).
            x: Data of each row, or of one row for all.
            generator: Source of randomness for the paths.

        Raises:
            TypeError: If the model has no `log_observe`.
            ValueError: If a row has no path, because all its particles have weight 0 (the message names the time) or
                the model cannot give the data.
        """
        return self.filters.smooth(theta, x, generator)

    def weighed_paths(
        self, theta: Tensor, x: X, *, generator: torch.Generator
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch time state"]]:
        """`log_likelihood(theta, x)`, and a hidden path of each row from the same run of the filter.

        If theta is weighted by this likelihood, theta and path together are draws from the exact joint posterior, for
        any number of particles. A row in which all particles have weight 0 has the weight 0, and its path is
        meaningless.

        Raises:
            TypeError: If the model has no `log_observe`.
        """
        return self.filters.weighed_paths(theta, x, generator)

    def _paths(self, theta: Tensor, x: X, generator: torch.Generator) -> HiddenPaths:
        """Hidden paths of one record for many theta; see `Simulator.paths`.

        Rows in which all particles have weight 0 are left out.

        Raises:
            ValueError: If there is a path for less than half of the rows. The message says why.
        """
        found, died = self.filters.some_paths(theta, x, generator)
        there = died < 0
        if int(there.sum()) < 0.5 * len(theta):
            raise ValueError(self.filters.no_path(int((~there).nonzero()[0]), died, theta, x))
        own = self.times if isinstance(self.times, Tensor) else shared_times(self.seen, x)[0]
        count = len(own) if isinstance(self.times, Tensor) else lines_of(own, [x[n][0] for n in self.given])
        values, latent = found[there, :count].double().cpu().numpy(), self.model.latent
        return HiddenPaths(tuple(latent), values, own[:count].numpy(), tuple(latent.values()), self.time_unit)

    def record(
        self, times: Any, values: Mapping[str, Any], controls: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Observation of this simulator from a real record with its own times.

        Args:
            times: Times of the record, (k,), not decreasing, at most as many as simulations have. They are plain
                numbers in the model's unit, or have a unit, as of astropy, if the simulator has a `time_unit`.
            values: Name of an observable -> its values, (k, *event), NaN where a value is missing. Values with a unit,
                as of astropy, are converted. If one number of a time is missing, all numbers of this time count as
                missing.
            controls: Name of each control that differs between records -> its values, (k, *event), without gaps.
                Values with a unit are converted. Impulses, such as doses, may come at their own times, given as a pair
                (times, values). These times are merged with the times of the record. Each of them occurs twice: before
                the impulse, and right after it. If an impulse and a measurement have equal times, the measurement comes
                first.

        Raises:
            ValueError: If the simulator has fixed times; observables or controls are missing or unknown; there are more
                times than in simulations, or fewer than `shortest`; a value is missing although `missing` is 0; times
                go backwards; or a control has another number of values, or a value that is not finite.
        """
        if isinstance(self.times, Tensor):
            raise ValueError(f"{self.name!r} has fixed times: give its data as they are, one value for each time")
        how: dict[str, Any] = {"time_unit": self.time_unit, "impulses": self.model.impulses}
        times, values, given = merged(self.seen, self.given, times, dict(values), dict(controls or {}), **how)
        how = {"begin": self.begin, "missing": self.gaps, "shortest": self.shortest}
        found = padded(self.seen, times, values, self.time_unit, **how)
        return found | set_through(self.given, given, found, len(times), self.model.impulses)

    def observe(self, *paths: str | Path, columns: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """Read real data from files. If times are drawn, a file may hold a record with one row for each of its times.

        The columns of a record are `time` or NAME_times, the observables, NAME_mask if values may be missing, and the
        controls that differ between records. The record is completed by `record`.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: As in `Simulator.observe` and `record`; and if a file of a record has another column.
        """
        if isinstance(self.times, Tensor):
            return super().observe(*paths, columns=columns)
        return read_record(self.observables, self.seen, self.given, self.record, paths, columns or {})

    def data_of_pairs(self, rows: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Log likelihood differences of pairs of states, for the check of `log_observe` in `campaigns.densities`.

        The two states of a pair have the same time and similar data, and are simulated with parameters from the prior.
        """
        theta = self.prior.sample(rows, generator=generator)
        x, path = self.simulated(theta, generator=generator)
        named, record = dict(zip(self.prior.names, theta.T, strict=True)), self._record(theta, x)
        places = range(0, self.count, max(1, self.count // _TIMES))
        states = ((record.beside(named, k), path[:, k]) for k in places)
        return pairs_of_states(self.model, self.seen, states, generator)

    def with_paths(self) -> HiddenStatesAndPaths:
        """Simulator that also returns the hidden path, for training of emulation, imputation or smoothing."""
        return HiddenStatesAndPaths(self)

    def _plan(self, rows: int, generator: torch.Generator) -> Plan:
        if self.own is not None:
            return self.own.of(rows)
        return shortened(drawn_plan(self.times, self.controls, self.count, rows, generator), self.shortest, generator)

    def _tried(self) -> Plan:
        """Plan of a few rows, after a check that its controls are those of the model."""
        plan = self._plan(_TRIED, torch.Generator().manual_seed(0))
        check_named(self.model, plan.controls, self.prior.names, self.seen)
        return plan

    def _like(self, x: X) -> HiddenStates:
        """This simulator with the times, controls and gaps of one record in all rows; see `Simulator.like`."""
        times = (self.times[None] if isinstance(self.times, Tensor) else shared_times(self.seen, x)).cpu()
        there = {name: x[f"{name}_mask"].bool().cpu() for name in self.seen if self.masked}
        check_times(times, self.begin)
        one = copy.copy(self)
        one.missing, one.shortest = 0.0, None
        one.own = Plan(times, {**self.known, **{name: x[name].double().cpu() for name in self.given}}, there or None)
        one.settings = one._settings
        return one

    def _record(self, theta: Tensor, x: X) -> Record:
        """Record of the observations x for each row of theta."""
        if missing := sorted(set(self.observables) - set(x)):
            raise ValueError(f"the data have {sorted(x)}, and {missing} are missing: {event_of(self.observables)}")
        values, there = values_and_masks(self.seen, x, theta)
        controls = self.known | {n: x[n].to(theta.device, torch.float64) for n in self.given}
        if isinstance(self.times, Tensor):
            return Record(self.times[None], values, there, self.begin, controls)
        return Record(shared_times(self.seen, x), values, there, self.begin, controls)

    def _pilot(self, count: int, generator: torch.Generator) -> tuple[Tensor, X]:
        return (theta := self.prior.sample(count, generator=generator)), self(theta, generator=generator)

    def _check(self, plan: Plan) -> None:
        """Check that the model observes the observables, by a trial at the first time with a few rows."""
        generator, kind = torch.Generator().manual_seed(0), type(self.model).__name__
        theta = dict(zip(self.prior.names, self.prior.sample(_TRIED, generator=generator).unbind(-1), strict=True))
        theta = Record(plan.times, {}, {}, self.begin, plan.controls).beside(theta, 0)
        try:
            state = checked(self.model, self.model.initial(theta, _TRIED, generator=generator), _TRIED, "initial")
            found = self.model.observe(theta, state, generator=generator)
        except KeyError as error:
            names = ", ".join(map(repr, [*self.prior.names, *self.model.controls]))
            raise ValueError(f"{kind} asks for a parameter {error}; the prior has {names}: use equal names") from error
        if set(found) != set(self.seen):
            raise ValueError(f"{kind} observes {sorted(found)}, and the observables are {event_of(self.seen)}")
        for name in self.seen:
            self._observed(name, found[name], _TRIED)

    def _observed(self, name: str, value: Tensor, rows: int) -> Tensor:
        """Values that the model observed at one time, after a check of their shape."""
        shape = self.seen[name].shape[1:]
        if len(value) != rows or value.numel() != rows * math.prod(shape):
            raise ValueError(
                f"{type(self.model).__name__} observes {tuple(value.shape)} as {name!r} at one time, of {rows} rows, "
                f"and the observable has {shape} after its axis of times: expected {(rows, *shape)}"
            )
        return value

    def _settings(self) -> dict[str, str]:
        own = {f"model.{n}": said(v) for n, v in sorted(vars(self.model).items()) if not n.startswith("_")}
        times = {"times": said(self.times), "begin": str(self.begin), "missing": f"{self.missing:g}"}
        times |= {} if self.shortest is None else {"shortest": str(self.shortest)}
        times |= {} if self.own is None else {"like": self.own.digest()}
        return {"model": type(self.model).__qualname__, **own, **times, **settings_of(self.controls)}


@final
class HiddenStatesAndPaths(Simulator):
    """The simulator that `HiddenStates.with_paths` gives: each column of the hidden state is also an observable."""

    def __init__(self, of: HiddenStates) -> None:
        self.of, self.name, self.prior, self.block = of, f"{of.name}_with_paths", of.prior, of.block
        self.source, self.files, self.settings = of.source, of.files, of.settings
        first = next(iter(of.seen.values()))
        axis: dict[str, Any] = {"dims": first.dims[:1]}
        if first.dims and first.dims[0] in first.coords:
            axis["coords"] = {first.dims[0]: first.coords[first.dims[0]]}
            axis["coord_units"] = {n: u for n, u in first.coord_units.items() if n == first.dims[0]}
        paths = {n: Observable((of.count,), unit, **axis) for n, unit in of.model.latent.items()}
        if twice := sorted(set(paths) & set(of.observables)):
            raise ValueError(f"{twice} are both observables and parts of the hidden state; give one another name")
        self.observables = {**paths, **of.observables}

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        x, path = self.of.simulated(theta, generator=generator)
        return {**{n: path[..., i].float() for i, n in enumerate(self.of.model.latent)}, **x}
