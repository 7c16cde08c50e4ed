r"""State-space models: a hidden state that moves at random in continuous time, and what is seen of it at some times.

    z(t_0) ~ p(z | theta),    z(t_k) ~ p(z | z(t_{k-1}), theta),    x_k ~ p(x | z(t_k), theta).

A `StateSpace` says each of the three for a batch. That is enough to simulate. Where the density of the data given the
state is known as well (`log_observe`), a particle filter estimates the likelihood p(x | theta), and draws the hidden
path. Two kinds of model have an exact likelihood: `linear_states.LinearStates` (Kalman's filter) and
`finite_states.FiniteStates` (sums over finitely many states). `wrappers.state_space` makes a simulator of a model.

**Conventions.** theta maps the name of each parameter to its values (row,), in the prior's units. A state is
(row, S), one column for each name of `latent`, in that order, floating point, of theta's dtype; counts and codes are
whole numbers in it. Rows know nothing of each other, and a filter puts rows x particles into them: no method may depend
on how many rows there are. Times are floats, or tensors (row,) where each row has its own; they are in the model's one
unit of time. All randomness comes from the generator.

**Controls** are known inputs along time that drive the state or what is seen of it: doses, a temperature, a stimulus.
A model names them in `controls`, and finds them in theta beside the parameters, (row, *event). u_k, that of the time
t_k, is in force from t_k on, until the next time:

    z(t_0) ~ p(z | theta, u_0),   z(t_k) ~ p(z | z(t_{k-1}), theta, u_{k-1}),   x_k ~ p(x | z(t_k), theta, u_k).

So a level, such as a temperature, is a constant over each step, and an impulse, such as a dose, comes at the beginning
of its step: what is measured at the time of a dose is measured before it. Impulses are named in `impulses`, too: they
are 0 where nobody says otherwise, as after the end of a record, where a level stays as it is. Times may be equal; an
impulse works over a step of length 0 as well. Controls are no random quantities: what follows holds given them.

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
    """Start and stop of each row of a state, (row,), float64.

    Raises:
        ValueError: If they are neither numbers nor (row,), not finite, or run backwards.
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
    """A hidden state in continuous time, and what is seen of it.

    A subclass sets `latent`, defines the three methods, and what it can of the rest:

    `log_observe(theta, state, x)`: log p(x | state, theta) at one time. x is name -> (row, *event), as `observe` gives
    it. Returns name -> log density of that observable: (row,) of all its numbers together, or (row, *event) number by
    number, where these are independent given the state; then single numbers may be missing. Observables are
    independent of each other given the state. Density of each must be normalised in x.
    `log_advance(theta, state, later, start, stop)`: log density of `advance`, (row,): with it, smoothed paths are drawn
    backwards, which keeps early parts of a path from being all alike.

    Attributes:
        latent: Name of each column of the state -> its unit.
        controls: Name of each known input -> its unit; none where left out.
        impulses: Which of them come and are over, such as doses.
    """

    latent: Mapping[str, str]
    controls: Mapping[str, str] = MappingProxyType({})
    impulses: Sequence[str] = ()
    log_observe: Callable[[Theta, Tensor, Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None
    log_advance: Callable[[Theta, Tensor, Tensor, Time, Time], Tensor] | None = None

    @abstractmethod
    def initial(self, theta: Theta, rows: int, *, generator: torch.Generator) -> State:
        """States at the time at which everything begins."""

    @abstractmethod
    def advance(self, theta: Theta, state: State, start: Time, stop: Time, *, generator: torch.Generator) -> State:
        """States at `stop`, given those at `start`.

        A column may count what has happened since `start`, such as new cases: it is then set to 0 first. Where `stop`
        is `start`, the state is to stay as it is, but for such columns.
        """

    @abstractmethod
    def observe(self, theta: Theta, state: State, *, generator: torch.Generator) -> Mapping[str, Tensor]:
        """What is seen at one time, name -> (row, *event)."""


@dataclass(frozen=True)
class Record:
    """What was seen of each row, and when.

    Args:
        times: (row or 1, T), float64, each not before the one before it.
        x: Observable -> (row, T, *event).
        there: Observable -> True where a value was seen: (row, T), or (row, T, *event). One that is not named was seen
            throughout.
        begin: The time of `StateSpace.initial`; the first of `times` where left out.
        controls: Name of each -> (row or 1, T, *event), finite: in force from each time on.

    Raises:
        ValueError: If times go backwards, or begin after the first; or a control is not finite, has another number of
            times, or none for the step from `begin`.
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
        """From when to when the state moves before the k-th time."""
        start = self.times[:, k - 1] if k else self.times[:, 0] if self.begin is None else self.begin
        return _plain(start), _plain(self.times[:, k])

    def some(self, rows: slice) -> Record:
        """Those rows of it."""
        times = self.times if len(self.times) == 1 else self.times[rows]
        x, there = ({name: value[rows] for name, value in part.items()} for part in (self.x, self.there))
        controls = {name: value if len(value) == 1 else value[rows] for name, value in self.controls.items()}
        return Record(times, x, there, self.begin, controls)

    def beside(self, theta: Theta, k: int, copies: int = 1) -> Theta:
        """theta and the controls of the k-th time; theta itself where there are none.

        Args:
            theta: (row x copies,).
            k: Number of the time.
            copies: How many of each row there are, one after the other.
        """
        if not self.controls:
            return theta
        like, found = next(iter(theta.values())), dict(theta)
        for name, value in self.controls.items():
            now = value[:, k].to(like)
            found[name] = now.expand(len(like), *now.shape[1:]) if len(now) == 1 else now.repeat_interleave(copies, 0)
        return found


def check_times(times: Float[Tensor, "#row time"], begin: float | None) -> None:
    """Refuse times that are not in their order.

    Raises:
        ValueError: If they are not; it says where.
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
    """Refuse controls that do not say what was done throughout.

    Raises:
        ValueError: If one is not finite, has another number of times, or begins after the state does.
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
            "leave begin= out, and let the first time be the beginning, with values that are missing"
        )


def checked(model: StateSpace, state: Tensor, rows: int, method: str) -> Tensor:
    """The states that a model gave.

    Raises:
        ValueError: If they are not (rows, S), as when parameters (row,) broadcast with states (row, S).
    """
    if state.shape != (rows, len(model.latent)):
        raise ValueError(
            f"{type(model).__name__}.{method} gave {tuple(state.shape)} for {rows} rows; `latent` names "
            f"{list(model.latent)}: expected ({rows}, {len(model.latent)}). A parameter is (row,): "
            'theta["name"][:, None] goes with states'
        )
    return state


def log_seen(model: StateSpace, theta: Theta, state: Tensor, record: Record, k: int) -> Float[Tensor, " row"]:
    """log p(x_k | state, theta) of what was seen at the k-th time; 0 where nothing was.

    Args:
        model: Which has `log_observe`.
        theta: Of each row of the state.
        state: (row x copies, S): each row of the record, copies of it one after the other.
        record: What was seen.
        k: Number of the time.

    Raises:
        TypeError: If the model's `log_observe` is missing or leaves an observable out.
        ValueError: If a single number of several is missing, of which the model tells only the density of all.
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
                f"({len(state)},), or for each number, {tuple(x[name].shape)}: a column (row, 1) beside numbers (row,) "
                "broadcasts, take state[:, 0]"
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
    """Log densities where values were seen, 0 elsewhere."""
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
    """One number where all rows have the same time."""
    return float(time[0]) if isinstance(time, Tensor) and len(time) == 1 else time


def duration(start: Time, stop: Time, like: Tensor) -> Float[Tensor, "#row"]:
    """stop - start, (row,) or (1,), of the dtype and device of a tensor."""
    start, stop = (torch.as_tensor(t, dtype=torch.float64, device=like.device) for t in (start, stop))
    return (stop - start).reshape(-1).to(like.dtype)


def repeated(values: Mapping[str, Tensor], times: int) -> dict[str, Any]:
    """Each row of named tensors that many times, one after the other: what rows x particles are given."""
    return {name: value.repeat_interleave(times, dim=0) for name, value in values.items()}
