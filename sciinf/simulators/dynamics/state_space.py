r"""State-space models: a hidden state that moves randomly in continuous time, and observations at some times.

    z(t_0) ~ p(z | theta),    z(t_k) ~ p(z | z(t_{k-1}), theta),    x_k ~ p(x | z(t_k), theta).

A `StateSpace` draws from each of the three distributions for a batch, which is enough to simulate. If the density of
the data given the state is known as well (`log_observe`), a particle filter estimates the likelihood p(x | theta) and
draws hidden paths. Two kinds of model have an exact likelihood: `linear_states.LinearStates` (Kalman filter) and
`finite_states.FiniteStates` (sums over finitely many states). `wrappers.state_space` makes a simulator of a model.

**Conventions.** theta maps the name of each parameter to its values (row,), in the prior's units. A state is (row, S)
with one column for each name in `latent`, in that order. It is floating point, in theta's dtype; counts and codes are
whole numbers in this dtype. Rows are independent of each other. A filter passes rows x particles as rows, so that no
method may depend on the number of rows. Times are floats, or tensors (row,) if rows have different times. All times
are in one unit of time, which the model chooses. All randomness comes from the generator.

**Controls** are known inputs over time that drive the state or the observation: doses, a temperature, a stimulus.
A model names its controls in `controls`, and gets their values in theta beside the parameters, (row, *event). The
control u_k of the time t_k is in force from t_k until the next time:

    z(t_0) ~ p(z | theta, u_0),   z(t_k) ~ p(z | z(t_{k-1}), theta, u_{k-1}),   x_k ~ p(x | z(t_k), theta, u_k).

So a level, such as a temperature, is constant over each step. An impulse, such as a dose, comes at the beginning of its
step: an observation at the time of a dose is made before the dose. Impulses are also named in `impulses`. An impulse is
0 unless a value is given, for example after the end of a record, whereas a level keeps its last value. Times may be
equal: an impulse also acts over a step of length 0. Controls are not random, and all distributions are conditional on
the controls.

Reference:
    | An introduction to sequential Monte Carlo (Chopin, Papaspiliopoulos, 2020),
      https://doi.org/10.1007/978-3-030-47845-2
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, as_tensor, float64


def moments(state: Tensor, start: Time, stop: Time) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Start time and stop time of each row of a state, both (row,), float64.

    Raises:
        ValueError: If the times are neither numbers nor (row,), are not finite, or run backwards.
    """
    both = []
    for name, given in (("start", start), ("stop", stop)):
        time = as_tensor(given, dtype=float64, device=state.device)
        if time.ndim > 1 or (time.ndim == 1 and len(time) not in (1, len(state))):
            raise ValueError(
                f"{name} is {tuple(time.shape)}, expected a number or a time for each of {len(state)} rows"
            )
        both.append(time.expand(len(state)))
    wrong = ~((both[0] <= both[1]) & both[0].isfinite() & both[1].isfinite())
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"row {row} goes from time {float(both[0][row])} to {float(both[1][row])}: times must be finite and not "
            "run backwards"
        )
    return both[0], both[1]


Theta = Mapping[str, Tensor]
"""Name of a parameter -> its values (row,), in the prior's units; of a control -> its values (row, *event)."""

Time = float | Tensor
"""A time for all rows, or one for each, (row,)."""

State = Float[Tensor, "row state"]


class StateSpace(ABC):
    """A state-space model: the dynamics of a hidden state in continuous time, and its observation.

    A subclass sets `latent` and defines the three methods `initial`, `advance` and `observe`. It also defines the
    following two methods if their densities are known.

    `log_observe(theta, state, x)`: log p(x | state, theta) at one time. x is name -> (row, *event), in the form that
    `observe` returns. The result is name -> log density of that observable. The log density is (row,) for all numbers
    of the observable together, or (row, *event) for each number, if the numbers are independent given the state. Single
    numbers may be missing only in the second form. Observables are independent of each other given the state. The
    density of each observable must be normalised in x.
    `log_advance(theta, state, later, start, stop)`: log density of `advance`, (row,). With this density, smoothed paths
    are drawn backwards, so that the early parts of different paths do not coincide.

    Attributes:
        latent: Name of each column of the state -> its unit.
        controls: Name of each known input -> its unit; none by default.
        impulses: Names of the controls that act at one moment only, such as doses.
    """

    latent: Mapping[str, str]
    controls: Mapping[str, str] = MappingProxyType({})
    impulses: Sequence[str] = ()
    log_observe: Callable[[Theta, Tensor, Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None
    log_advance: Callable[[Theta, Tensor, Tensor, Time, Time], Tensor] | None = None

    @abstractmethod
    def initial(self, theta: Theta, rows: int, *, generator: torch.Generator) -> State:
        """Draw states at the initial time."""

    @abstractmethod
    def advance(self, theta: Theta, state: State, start: Time, stop: Time, *, generator: torch.Generator) -> State:
        """Draw states at `stop`, given the states at `start`.

        A column may count events since `start`, such as new cases. The method then first sets the column to 0. If
        `stop` equals `start`, all other columns must stay unchanged.
        """

    @abstractmethod
    def observe(self, theta: Theta, state: State, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Draw the observation at one time, name -> (row, *event)."""


@dataclass(frozen=True)
class Record:
    """Observations of each row over time, with their times and the controls.

    Args:
        times: Times of the observations, (row or 1, T), float64, not decreasing.
        x: Name of an observable -> its values, (row, T, *event).
        there: Name of an observable -> True where a value was observed, (row, T) or (row, T, *event). All values of an
            observable that is not named were observed.
        begin: Time of `StateSpace.initial`; by default the first of `times`.
        controls: Name of a control -> its values, (row or 1, T, *event), finite. A value is in force from its time on.

    Raises:
        ValueError: If times go backwards, `begin` is after the first time, or a control is not finite, has another
            number of times, or has no value for the step from `begin`.
    """

    times: Float[Tensor, "#row time"]
    x: Mapping[str, Tensor]
    there: Mapping[str, Tensor]
    begin: float | None = None
    controls: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_times(self.times, self.begin)
        check_controls(self.controls, self.times, self.begin)

    @property
    def rows(self) -> int:
        return len(next(iter(self.x.values())))

    def step(self, k: int) -> tuple[Time, Time]:
        """Start and stop of the step that leads to the k-th time."""
        start = self.times[:, k - 1] if k else self.times[:, 0] if self.begin is None else self.begin
        return _plain(start), _plain(self.times[:, k])

    def some(self, rows: slice) -> Record:
        """The record of some of the rows."""
        times = self.times if len(self.times) == 1 else self.times[rows]
        x, there = ({name: value[rows] for name, value in part.items()} for part in (self.x, self.there))
        controls = {name: value if len(value) == 1 else value[rows] for name, value in self.controls.items()}
        return Record(times, x, there, self.begin, controls)

    def beside(self, theta: Theta, k: int, copies: int = 1) -> Theta:
        """Parameters theta together with the controls of the k-th time; theta itself if there are no controls.

        Args:
            theta: Parameters, each (row x copies,).
            k: Number of the time, counted from 0.
            copies: Number of copies of each row of the record. The copies of a row follow each other.
        """
        if not self.controls:
            return theta
        like, found = next(iter(theta.values())), dict(theta)
        for name, value in self.controls.items():
            now = value[:, k].to(like)
            found[name] = now.expand(len(like), *now.shape[1:]) if len(now) == 1 else now.repeat_interleave(copies, 0)
        return found


def check_times(times: Float[Tensor, "#row time"], begin: float | None) -> None:
    """Raise an error if the times of a record are out of order or not finite.

    Raises:
        ValueError: If a time is not finite or times go backwards (the message says where), or `begin` is after the
            first time.
    """
    if not bool(times.isfinite().all()):
        raise ValueError("a time is not finite; where nothing was seen, give a time all the same and mask the value")
    if bool((back := times.diff(dim=-1) < 0).any()):
        row, k = (int(i) for i in back.nonzero()[0])
        one, other = float(times[row, k]), float(times[row, k + 1])
        raise ValueError(
            f"times go backwards: {one:g} is followed by {other:g} (number {k + 1}); sort them, with the data"
        )
    if begin is not None and bool((times[:, 0] < begin).any()):
        raise ValueError(f"the state begins at {begin:g}, after the first time {float(times[:, 0].min()):g}")


def check_controls(
    controls: Mapping[str, Tensor], times: Float[Tensor, "#row time"], begin: float | None = None
) -> None:
    """Raise an error if a control is not known at every time of a record.

    Raises:
        ValueError: If a control is not finite, has another number of times, or `begin` is given although there are
            controls, which have no value for the step from `begin`.
    """
    for name, value in controls.items():
        if value.ndim < 2 or value.shape[1] != times.shape[-1]:
            got = f"{value.shape[1]} values" if value.ndim > 1 else "no axis of times"
            raise ValueError(
                f"the control {name!r} has {got}, and there are {times.shape[-1]} times: give one for each"
            )
        if not bool(value.isfinite().all()):
            row, k, *_ = (int(i) for i in value.isfinite().logical_not().nonzero()[0])
            at, got = float(times[min(row, len(times) - 1), k]), float(value[row, k].sum())
            raise ValueError(
                f"the control {name!r} is not known at time {at:g} (number {k}): it is {got:g} "
                "there. What is done to the state must be known at each time; a dose that was not given is 0"
            )
    if controls and begin is not None:
        raise ValueError(
            f"the state begins at {begin:g}, and controls ({', '.join(controls)}) are known from the first time on: "
            "leave begin= out, and add the initial time as the first time, with missing values"
        )


def checked(model: StateSpace, state: Tensor, rows: int, method: str) -> Tensor:
    """States that a method of a model returned, after a check of their shape.

    Args:
        model: Model whose method returned the states.
        state: Returned states.
        rows: Expected number of rows.
        method: Name of the method, for the error message.

    Raises:
        ValueError: If the states are not (rows, S), for example because parameters (row,) broadcast with (row, S).
    """
    if state.shape != (rows, len(model.latent)):
        raise ValueError(
            f"{type(model).__name__}.{method} gave {tuple(state.shape)} for {rows} rows; `latent` names "
            f"{list(model.latent)}: expected ({rows}, {len(model.latent)}). A parameter is (row,): "
            'theta["name"][:, None] goes with states'
        )
    return state


def log_seen(model: StateSpace, theta: Theta, state: Tensor, record: Record, k: int) -> Float[Tensor, " row"]:
    """Log density log p(x_k | state, theta) of the observation at the k-th time; 0 if all its values are missing.

    Args:
        model: Model that has `log_observe`.
        theta: Parameters of each row of the state.
        state: States, (row x copies, S). The copies of each row of the record follow each other.
        record: Observations of each row.
        k: Number of the time, counted from 0.

    Raises:
        TypeError: If the model's `log_observe` is missing or leaves an observable out.
        ValueError: If a log density has a wrong shape, or some numbers of an observable are missing and the model gives
            only the joint density of all its numbers.
    """
    if model.log_observe is None:
        raise TypeError(f"{type(model).__name__} has no log_observe, so the likelihood of its data is not known")
    copies = len(state) // record.rows
    x = repeated({name: value[:, k] for name, value in record.x.items()}, copies)
    found = model.log_observe(record.beside(theta, k, copies), state, x)
    if not isinstance(found, Mapping) or set(found) != set(x):
        said = sorted(found) if isinstance(found, Mapping) else type(found).__name__
        raise TypeError(f"log_observe gave {said}; it is to give a mapping with the log density of each of {sorted(x)}")
    total = None
    for name, each in found.items():
        if each.shape not in ((len(state),), x[name].shape):
            raise ValueError(
                f"log_observe gave {tuple(each.shape)} for {name!r}; it is to give one log density for each row, "
                f"({len(state)},), or for each number, {tuple(x[name].shape)}: a column (row, 1) broadcasts with "
                "numbers (row,), so take state[:, 0]"
            )
        if name in record.there:
            there = record.there[name][:, k].repeat_interleave(copies, dim=0)
            each = _where(name, each, there)
        each = each.reshape(len(state), -1)
        each = each[:, 0] if each.shape[1] == 1 else each.sum(-1)
        total = each if total is None else total + each
    if total is None:
        raise TypeError("nothing is observed")
    return total


def _where(name: str, each: Tensor, there: Tensor) -> Tensor:
    """Log densities where values were observed, and 0 elsewhere."""
    if each.ndim < there.ndim:
        part = there.flatten(1).any(-1) != there.flatten(1).all(-1)
        if bool(part.any()):
            raise ValueError(
                f"some numbers of {name!r} are missing at a time at which others are there, and log_observe tells the "
                "density of all of them together; let it give that of each number, (row, *event)"
            )
        there = there.flatten(1).all(-1)
    there = there.reshape(*there.shape, *[1] * (each.ndim - there.ndim))
    return torch.where(there, each, torch.zeros((), dtype=each.dtype, device=each.device))


def _plain(time: Tensor | float) -> Time:
    """The time as one float if all rows share it; otherwise the tensor (row,) unchanged."""
    return float(time[0]) if isinstance(time, Tensor) and len(time) == 1 else time


def duration(start: Time, stop: Time, like: Tensor) -> Float[Tensor, "#row"]:
    """Duration stop - start, (row,) or (1,), in the dtype and on the device of the tensor `like`."""
    start, stop = (torch.as_tensor(t, dtype=torch.float64, device=like.device) for t in (start, stop))
    return (stop - start).reshape(-1).to(like.dtype)


def repeated(values: Mapping[str, Tensor], times: int) -> dict[str, Any]:
    """Named tensors with each row repeated `times` times; the copies of a row follow each other."""
    return {name: value.repeat_interleave(times, dim=0) for name, value in values.items()}
