"""Likelihood and hidden paths of a state-space model, by the best filter for the model.

| model | filter | likelihood |
|---|---|---|
| `LinearStates` | Kalman filter | exact |
| `FiniteStates` with `log_observe` | sums over states | exact |
| any other with `log_observe` | particle filter | an unbiased estimate, which is valid as a weight |
| without `log_observe` | none | unknown |

The noise of a particle filter comes from a seed that is hashed from theta and x. Therefore equal arguments give equal
results, and different theta have independent noise.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.core import Observable, X
from sciinf.simulators.dynamics.finite_states import FiniteStates
from sciinf.simulators.dynamics.linear_states import LinearStates
from sciinf.simulators.dynamics.state_space import Record, StateSpace, Theta, log_seen
from sciinf.simulators.samplers import forward, kalman
from sciinf.simulators.samplers.particles import (
    Particles,
    ancestral_paths,
    backward_paths,
    chosen_particles,
    in_pieces,
    particle_filter,
)

_ROWS = 4_096  # Number of rows that an exact filter processes at once.
_PAIRS, _AGAIN, _SHARE = 16, 16, 0.75  # Pilot rows, runs of each, and share of rows whose sd must be small enough.
_NATS = 1.5  # Largest accepted median difference in nats between the two states of a pair.
_SMOOTHER = 4  # A path given theta takes this many times more particles than the likelihood.


@final
class Filters:
    """Likelihood and hidden paths of a state-space model, given its parameters and data.

    Args:
        model: State-space model.
        names: Names of the model's parameters, in the order of theta's columns.
        record: Function from theta (batch, D) and data to the record of each row's observations.
        pilot: Function from a number and a generator to that many draws of theta from the prior, with simulated data.
        particles: Number of particles for each theta. If None, the number is chosen when it is first needed.
    """

    def __init__(
        self,
        model: StateSpace,
        names: Sequence[str],
        record: Callable[[Tensor, X], Record],
        pilot: Callable[[int, torch.Generator], tuple[Tensor, X]],
        particles: int | None,
    ) -> None:
        self.model, self.names, self.record, self.pilot, self._given = model, names, record, pilot, particles
        finite = isinstance(model, FiniteStates) and model.log_observe is not None
        self.exact = isinstance(model, LinearStates) or finite

    def log_likelihood(self, theta: Tensor, x: X) -> Float[Tensor, " batch"]:
        """Log likelihood log p(x | theta), or the logarithm of an unbiased estimate, float64.

        Warns:
            UserWarning: If all particles have weight 0 for every theta. The message names the time.
        """
        if not len(theta):
            return torch.zeros(0, dtype=torch.float64)
        if self.exact:
            every = [each for each, _ in self._exactly(theta, x, None)]
            return torch.cat(every)
        found = self._estimated(theta, x, self.particles, noise_of(theta, x))
        if bool((found.died >= 0).all()):
            warnings.warn(self._died(found.died, self.record(theta, x), self.particles), stacklevel=3)
        return found.log_likelihood

    def weighed_paths(
        self, theta: Tensor, x: X, generator: torch.Generator
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch time state"]]:
        """Log likelihood, and a hidden path of each row from the same run of the filter.

        Raises:
            TypeError: If the model has no `log_observe`.
        """
        if not len(theta):
            self._check_density()
            times = self.record(theta, x).times.shape[-1]
            return torch.zeros(0, dtype=torch.float64), theta.new_zeros(0, times, len(self.model.latent))
        if self.exact:
            parts = list(self._exactly(theta, x, generator))
            return torch.cat([each for each, _ in parts]), torch.cat([paths for _, paths in parts])
        self._check_density()
        found, paths = self._with_particles(theta, x, self.particles, noise_of(theta, x), generator)
        return found.log_likelihood, paths

    def smooth(self, theta: Tensor, x: X, generator: torch.Generator) -> Float[Tensor, "batch time state"]:
        """Draw a hidden path of each row given its theta and data.

        Raises:
            TypeError: If the model has no `log_observe`.
            ValueError: If a row has no path, because all its particles have weight 0 (the message names the time) or
                the model cannot give the data.
        """
        paths, died = self.some_paths(theta, x, generator)
        if bool((gone := died >= 0).any()):
            raise ValueError(self.no_path(int(gone.nonzero()[0]), died, theta, x))
        return paths

    def some_paths(
        self, theta: Tensor, x: X, generator: torch.Generator
    ) -> tuple[Float[Tensor, "batch time state"], Int[Tensor, " batch"]]:
        """Draw a hidden path of each row given its theta and data, and say which rows have none.

        Returns:
            The paths, and for each row the number of the time at which all particles had weight 0, or -1 if the row has
            a path. An exact filter gives 0 for a row whose data are impossible.

        Raises:
            TypeError: If the model has no `log_observe`.
        """
        if self.exact or not len(theta):
            log_likelihood, paths = self.weighed_paths(theta, x, generator)
            return paths, log_likelihood.isfinite().long().neg()
        self._check_density()
        found, paths = self._with_particles(theta, x, _SMOOTHER * self.particles, generator, generator)
        return paths, found.died

    def no_path(self, row: int, died: Int[Tensor, " batch"], theta: Tensor, x: X) -> str:
        """Message that says why a row has no path.

        Args:
            row: Number of the row.
            died: Second result of `some_paths`.
            theta: Parameters that were given to `some_paths`.
            x: Data that were given to `some_paths`.
        """
        if self.exact:
            return f"there is no path for row {row}: the model cannot give these data at its theta"
        one = self.record(theta, x).some(slice(row, row + 1))
        return f"there is no path for row {row}: {self._died(died[row : row + 1], one, _SMOOTHER * self.particles)}"

    @cached_property
    def particles(self) -> int:
        """Number of particles for each theta: the given number, or a number chosen at the first use.

        Warns:
            UserWarning: If the log-likelihood has too large an sd even with the largest number.
        """
        if self._given is not None or self.exact:
            return self._given or 0
        theta, x = self.pilot(_PAIRS, torch.Generator().manual_seed(0))
        theta = theta.repeat_interleave(_AGAIN, 0)
        x = {name: value.repeat_interleave(_AGAIN, 0) for name, value in x.items()}

        def spread(count: int) -> float:
            found = self._estimated(theta, x, count, torch.Generator().manual_seed(count)).log_likelihood
            each = found.reshape(_PAIRS, _AGAIN).std(-1).nan_to_num(math.inf)
            return float(each.sort().values[int(_SHARE * _PAIRS) - 1])

        return chosen_particles(spread)

    def _exactly(self, theta: Tensor, x: X, generator: torch.Generator | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Exact log likelihood and, if a generator is given, paths, for one block of rows after another."""
        whole, none = self.record(theta, x), torch.zeros(0)
        for i in range(0, len(theta), _ROWS):
            rows = slice(i, i + _ROWS)
            named, record = self._named(theta[rows]), whole.some(rows)
            if isinstance(self.model, LinearStates):
                found = kalman.filtered(self.model, named, record, keep=generator is not None)
                yield found.log_likelihood, none if generator is None else kalman.paths(found, generator=generator)
            elif isinstance(self.model, FiniteStates):
                chain = forward.forward(self.model, named, record)
                yield chain.log_likelihood, none if generator is None else forward.paths(chain, generator=generator)

    def _estimated(self, theta: Tensor, x: X, count: int, noise: torch.Generator) -> Particles:
        whole, parts = self.record(theta, x), []
        for rows in self._pieces(whole, count):
            named = self._named(theta[rows])
            parts.append(particle_filter(self.model, named, whole.some(rows), count, generator=noise))
        return _joined(parts)

    def _with_particles(
        self, theta: Tensor, x: X, count: int, noise: torch.Generator, generator: torch.Generator
    ) -> tuple[Particles, Tensor]:
        whole, parts, paths = self.record(theta, x), [], []
        for rows in self._pieces(whole, count):
            named, record = self._named(theta[rows]), whole.some(rows)
            found = particle_filter(self.model, named, record, count, generator=noise, keep=True)
            if self.model.log_advance is None:
                paths.append(ancestral_paths(found, generator=generator))
            else:
                paths.append(backward_paths(self.model, named, record, found, generator=generator))
            parts.append(Particles(found.log_likelihood, found.died))  # The particles are dropped to save memory.
        return _joined(parts), torch.cat(paths)

    def _pieces(self, whole: Record, count: int) -> list[slice]:
        """Slices of rows that the particle filter processes together.

        The slices are the same with and without paths, so that the noise is the same.
        """
        return in_pieces(whole.rows, count, whole.times.shape[-1] * (len(self.model.latent) + 3))

    def _named(self, theta: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.names, theta.unbind(-1), strict=True))

    def _died(self, died: Tensor, record: Record, count: int) -> str:
        """Message that says at which time all particles had weight 0, and what to do."""
        row = int(died.argmin())
        k = int(died[row])
        times = record.times[0 if len(record.times) == 1 else row]
        whose = f"of each of {len(died):,} parameters" if len(died) > 1 else "of the parameters that were asked for"
        return (
            f"all {count:,} particles {whose} died out, first at time {float(times[k]):g} (number {k}): no "
            "state that the model reaches can have given what was seen there. Give the observation more noise or "
            "heavier tails in log_observe, look at the data and their units, or give particles= a larger number"
        )

    def _check_density(self) -> None:
        if self.model.log_observe is None and not self.exact:
            kind = type(self.model).__name__
            raise TypeError(f"{kind} has no log_observe, so its paths cannot be weighted by the data; define it")


def pairs_of_states(
    model: StateSpace,
    seen: Mapping[str, Observable],
    states: Iterable[tuple[Theta, Tensor]],
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log likelihood differences of pairs of states, for the check of `log_observe` in `campaigns.densities`.

    A difference says by how many nats data are likelier given their own state than given the other state of the pair.

    Args:
        model: State-space model of the states and their data.
        seen: Observables of the model.
        states: For each of some times: theta with controls, and the state of each row.
        generator: Source of randomness for the data.

    Returns:
        Differences for data of the first states, differences for data of the second states, and a column of ones.
    """
    own, others, rows = list[Tensor](), list[Tensor](), 0
    for theta, state in states:
        rows = len(state)
        alike = next(iter(model.observe(theta, state, generator=generator).values())).reshape(rows, -1)[:, 0]
        order, shift = alike.argsort(), rows
        mine, other = torch.full((rows,), math.inf), state
        while shift > 1 and float(mine.nan_to_num(math.inf).abs().median()) > _NATS:
            shift //= 2  # A smaller shift pairs states whose observations are more alike.
            other = state[order.roll(-shift)[order.argsort()]]
            mine = _likelier(model, seen, theta, (state, other), generator)
        own.append(mine)
        others.append(_likelier(model, seen, theta, (other, state), generator))
    return torch.cat(own), torch.cat(others), torch.ones(len(own) * rows, 1, dtype=torch.float64)


def _likelier(
    model: StateSpace,
    seen: Mapping[str, Observable],
    theta: Theta,
    states: tuple[Tensor, Tensor],
    generator: torch.Generator,
) -> Tensor:
    """Simulate data of the first states, and compute by how many nats the data favour these over the second states."""
    state, other = states
    x = model.observe(theta, state, generator=generator)
    kept = {n: x[n].reshape(len(state), 1, *o.shape[1:]).to(o.torch_dtype).double() for n, o in seen.items()}
    record = Record(torch.zeros(1, 1, dtype=torch.float64), kept, {})
    return (log_seen(model, theta, state, record, 0) - log_seen(model, theta, other, record, 0)).double()


def noise_of(theta: Tensor, x: X) -> torch.Generator:
    """Random generator whose seed is a hash of theta and x.

    Data that are the same in all rows give the same seed as a single observation.
    """
    hashed = hashlib.sha256(theta.detach().double().contiguous().numpy().tobytes())
    for name in sorted(x):
        value = x[name][:1] if bool((x[name] == x[name][:1]).all()) else x[name]
        hashed.update(name.encode() + value.detach().double().contiguous().numpy().tobytes())
    return torch.Generator().manual_seed(int.from_bytes(hashed.digest()[:8], "big") >> 1)


def _joined(parts: Sequence[Particles]) -> Particles:
    if not parts:
        return Particles(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.long))
    return Particles(torch.cat([p.log_likelihood for p in parts]), torch.cat([p.died for p in parts]))
