"""A simulator of a state-space model: what is seen of a hidden state, with the likelihood by the best filter.

    simulator = wrappers.state_space(Nile(), prior, times, {"volume": Observable((100,), "1e8 m3", ("time",))})

`simulators.wrappers.hidden_likelihood` says which filter that is. Where each record has times of its own, these are
data as well: beside an observable NAME stands NAME_times, as NAME_mask does where values are missing. So are controls
that differ from record to record (`simulators.wrappers.hidden_plans`), by their own names. `like` gives the simulator
of data with the times, controls and missing values of one record: predictions are made by it.
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

_TRIED, _TIMES = 3, 8  # rows, and times, that are tried


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
    """A simulator of what is seen of a hidden state.

    Args:
        model: Moves the state and observes it: a `StateSpace`, `LinearStates` or `FiniteStates` of
            `sciinf.simulators.dynamics`.
        prior: Of the parameters that the model calls by name.
        times: When it is seen, T of them, none before the one before it, in the model's unit of time. Where records
            have times of their own, a function that draws them, (rows, generator) -> (rows, T), or that draws whole
            plans (`hidden_plans.Plan`): beside each observable then stands `NAME_times`. A record that is shorter
            repeats its last time, with values that are missing; give `shortest` where records may be, or simulations
            have none that are.
        observables: What is seen: name -> `Observable`, or its shape, (T, *event). Fixed times become its coordinates.
        begin: The time at which the state is the model's `initial`; the first of `times` where left out.
        particles: For each theta, where a particle filter is needed. Left out, the smallest number, doubling from 64,
            with which the log-likelihood has an sd of at most 1 at three quarters of parameters and data that are
            drawn from the prior (with a fixed seed: it does not depend on what is asked).
        missing: Largest share of values that may be missing. Above 0, each simulation has its own share, uniform up to
            it, values are missing at random, and beside each observable stands `NAME_mask`, True where it was seen.
            The likelihood holds for whatever is missing.
        name: What the simulator is called; the model's class in small letters when left out.
        block: Rows per block of a store.
        time_unit: Of times, for records and paths; that of the first axis's coordinates where left out.
        controls: The known inputs that the model names in its `controls`, each (T, *event), the same in all records; or
            a function that draws them, (rows, generator) -> name -> (rows, T, *event), which makes them data. Those
            of a `Plan` need not stand here.
        shortest: Least number of times of a record, where they are drawn. Each simulation then keeps some of its T
            times, chosen at random: k of them, where each k from `shortest` to T is as likely as another. It is put
            together as `HiddenStates.record` does it, with `NAME_mask`. A `Plan` says itself how long a record is.

    Raises:
        TypeError: If `model` is no object of such a class.
        ValueError: If times go backwards, an observable has another number of times than there are, or is not what the
            model observes, or `missing` is no share; a control is missing, unknown, of another length or not finite; or
            `shortest` is more than there are times, or these are fixed, or there are controls.

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
    """What `state_space` makes.

    Attributes:
        particles: How many a particle filter takes for each theta; 0 where none is needed.
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
                # named "time", so that standardising takes one span for all of them, and none for each
                self.observables[f"{key}{TIMES}"] = Observable((self.count,), self.time_unit, ("time",), "float64")
        self.known = {} if isinstance(controls, Callable) else dict(controls)  # the same in all records
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
        """Data, and the hidden path behind them."""
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
        """A hidden path of each row, given its theta and the data: columns are those of the model's `latent`.

        Exact where the likelihood is; else by four times as many particles as the likelihood takes, and off by what
        particles are off, which falls as 1 / their number. `weighed_paths` is exact for draws with weights.

        Args:
            theta: (batch, D).
            x: Data with the same batch, or a batch of one.
            generator: Of the paths.

        Raises:
            TypeError: If the model has no `log_observe`.
            ValueError: If all particles of a row die out; it says when.
        """
        return self.filters.smooth(theta, x, generator)

    def weighed_paths(
        self, theta: Tensor, x: X, *, generator: torch.Generator
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch time state"]]:
        """`log_likelihood(theta, x)`, and a hidden path of each row from the very same run of the filter.

        Where theta is weighted by that likelihood, theta and path together are draws of the exact joint posterior, for
        any number of particles. A row whose particles all die out has no weight, and its path means nothing.

        Raises:
            TypeError: If the model has no `log_observe`.
        """
        return self.filters.weighed_paths(theta, x, generator)

    def _paths(self, theta: Tensor, x: X, generator: torch.Generator) -> HiddenPaths:
        """For one record; see `Simulator.paths`. Rows whose particles all die out have none.

        Raises:
            ValueError: If there is a path for less than half of the rows; it says why.
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
        """A record with times of its own as this simulator's observation.

        Args:
            times: (k,), at most as many as simulations have, none before the one before it; plain numbers in the
                model's unit, or with a unit, as of astropy, where the simulator has a `time_unit`.
            values: Observable -> (k, *event), NaN where a value is missing; with a unit, as of astropy, in any that
                converts. All numbers of a time at which one is missing count as missing.
            controls: Each that differs from record to record -> (k, *event), likewise with a unit, and never missing.
                Impulses, such as doses, that came at times of their own: a pair (times, values). These times are merged
                with those of the record, each of them twice: before the impulse, and right after it. Of equal times
                what was measured comes first.

        Raises:
            ValueError: If the simulator has fixed times, observables or controls are missing or unknown, there are more
                times than in simulations, or fewer than the least that these have, or a value is missing, and `missing`
                is 0; times go backwards; or a control has another number of values, or one that is not finite.
        """
        if isinstance(self.times, Tensor):
            raise ValueError(f"{self.name!r} has fixed times: give its data as they are, one value for each time")
        how: dict[str, Any] = {"time_unit": self.time_unit, "impulses": self.model.impulses}
        times, values, given = merged(self.seen, self.given, times, dict(values), dict(controls or {}), **how)
        how = {"begin": self.begin, "missing": self.gaps, "shortest": self.shortest}
        found = padded(self.seen, times, values, self.time_unit, **how)
        return found | set_through(self.given, given, found, len(times), self.model.impulses)

    def observe(self, *paths: str | Path, columns: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """Real data from files; where times are drawn also a record, with as many rows as it has times, as `record`.

        Its columns are `time`, or NAME_times, the observables, NAME_mask where values may be missing, and controls that
        differ from record to record.

        Raises:
            FileNotFoundError: If a file does not exist.
            ValueError: As `Simulator.observe` and `record`; and if a file has a column that is none of these.
        """
        if isinstance(self.times, Tensor):
            return super().observe(*paths, columns=columns)
        return read_record(self.observables, self.seen, self.given, self.record, paths, columns or {})

    def data_of_pairs(self, rows: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Data of pairs of states: by how many nats each is likelier given its own, see `campaigns.densities`.

        States of a pair are of the same time, reached from parameters of the prior, and data of them are alike.
        """
        theta = self.prior.sample(rows, generator=generator)
        x, path = self.simulated(theta, generator=generator)
        named, record = dict(zip(self.prior.names, theta.T, strict=True)), self._record(theta, x)
        places = range(0, self.count, max(1, self.count // _TIMES))
        states = ((record.beside(named, k), path[:, k]) for k in places)
        return pairs_of_states(self.model, self.seen, states, generator)

    def with_paths(self) -> HiddenStatesAndPaths:
        """The simulator that also gives the hidden path: what emulates, imputes or smooths is trained on it."""
        return HiddenStatesAndPaths(self)

    def _plan(self, rows: int, generator: torch.Generator) -> Plan:
        if self.own is not None:
            return self.own.of(rows)
        return shortened(drawn_plan(self.times, self.controls, self.count, rows, generator), self.shortest, generator)

    def _tried(self) -> Plan:
        """A plan of a few rows, whose controls are those of the model."""
        plan = self._plan(_TRIED, torch.Generator().manual_seed(0))
        check_named(self.model, plan.controls, self.prior.names, self.seen)
        return plan

    def _like(self, x: X) -> HiddenStates:
        """This simulator with the plan of one record in all its rows; see `Simulator.like`."""
        times = (self.times[None] if isinstance(self.times, Tensor) else shared_times(self.seen, x)).cpu()
        there = {name: x[f"{name}_mask"].bool().cpu() for name in self.seen if self.masked}
        check_times(times, self.begin)
        one = copy.copy(self)
        one.missing, one.shortest = 0.0, None
        one.own = Plan(times, {**self.known, **{name: x[name].double().cpu() for name in self.given}}, there or None)
        one.settings = one._settings
        return one

    def _record(self, theta: Tensor, x: X) -> Record:
        """What was seen of each row of theta."""
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
        """Whether the model observes what is asked for, tried at the first time with some rows."""
        generator, kind = torch.Generator().manual_seed(0), type(self.model).__name__
        theta = dict(zip(self.prior.names, self.prior.sample(_TRIED, generator=generator).unbind(-1), strict=True))
        theta = Record(plan.times, {}, {}, self.begin, plan.controls).beside(theta, 0)
        try:
            state = checked(self.model, self.model.initial(theta, _TRIED, generator=generator), _TRIED, "initial")
            found = self.model.observe(theta, state, generator=generator)
        except KeyError as error:
            names = ", ".join(map(repr, [*self.prior.names, *self.model.controls]))
            raise ValueError(f"{kind} asks for a parameter {error}; the prior has {names}: call both alike") from error
        if set(found) != set(self.seen):
            raise ValueError(f"{kind} observes {sorted(found)}, and the observables are {event_of(self.seen)}")
        for name in self.seen:
            self._observed(name, found[name], _TRIED)

    def _observed(self, name: str, value: Tensor, rows: int) -> Tensor:
        """What the model observed at one time."""
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
    """What `HiddenStates.with_paths` gives: each column of the hidden state as an observable beside the data."""

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
