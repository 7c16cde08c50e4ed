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

Reference:
    | An introduction to sequential Monte Carlo (Chopin, Papaspiliopoulos, 2020),
      https://doi.org/10.1007/978-3-030-47845-2
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Theta = Mapping[str, Tensor]
"""Name of a parameter -> its values (row,), in the prior's units."""

Time = float | Tensor
"""A time for all rows, or one for each, (row,)."""


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
    """

    latent: Mapping[str, str]
    log_observe: Callable[[Theta, Tensor, Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None
    log_advance: Callable[[Theta, Tensor, Tensor, Time, Time], Tensor] | None = None

    @abstractmethod
    def initial(self, theta: Theta, rows: int, *, generator: torch.Generator) -> Float[Tensor, "row state"]:
        """States at the time at which everything begins."""

    @abstractmethod
    def advance(
        self, theta: Theta, state: Float[Tensor, "row state"], start: Time, stop: Time, *, generator: torch.Generator
    ) -> Float[Tensor, "row state"]:
        """States at `stop`, given those at `start`.

        A column may count what has happened since `start`, such as new cases: it is then set to 0 first. Where `stop`
        is `start`, the state is to stay as it is, but for such columns.
        """

    @abstractmethod
    def observe(
        self, theta: Theta, state: Float[Tensor, "row state"], *, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """What is seen at one time, name -> (row, *event)."""


def duration(start: Time, stop: Time, like: Tensor) -> Float[Tensor, "#row"]:
    """stop - start, (row,) or (1,), of the dtype and device of a tensor."""
    start, stop = (torch.as_tensor(t, dtype=torch.float64, device=like.device) for t in (start, stop))
    return (stop - start).reshape(-1).to(like.dtype)


def repeated(values: Mapping[str, Tensor], times: int) -> dict[str, Any]:
    """Each row of named tensors that many times, one after the other: what rows x particles are given."""
    return {name: value.repeat_interleave(times, dim=0) for name, value in values.items()}
