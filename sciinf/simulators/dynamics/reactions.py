r"""Reaction networks and populations as jump processes of counts: exact simulation, and tau leaping.

The state n is a vector of counts. Reaction r has the rate a_r(theta, n, t) and changes the state by v_r. The state is
constant between reactions, so that an exact path is simulated jump by jump (Gillespie's direct method),

    tau ~ Exponential(sum_r a_r),     P(r) = a_r / sum_s a_s,     n <- n + v_r,     t <- t + tau.

Rates that depend on time need a bound B >= sum_r a_r(theta, n, t) until the stop (thinning). Candidate times come at
the rate B. A candidate at time t is reaction r with probability a_r(t) / B, and is otherwise rejected. With
B = sum_r a_r, thinning is the direct method. The exponential distribution has no memory, so that a path may be stopped
and continued at any time.

A leap of length h takes the rates as constant during the leap, and draws the number of each reaction at once,

    k_r ~ Poisson(h a_r(theta, n, t)),     n <- n + sum_r k_r v_r.

The distribution of the leaped state has an error of first order in h, which is large if h is long. The numbers k_r are
reduced, in the order of the reactions, where a count would become negative.

All rows of a batch take their next jump together, and rows that have reached their stop are set aside. Leaps are
counted from each row's own start, so that the distribution of a row does not depend on the other rows.

References:
    | Exact stochastic simulation of coupled chemical reactions (Gillespie, 1977),
      https://doi.org/10.1021/j100540a008
    | Approximate accelerated stochastic simulation of chemically reacting systems (Gillespie, 2001),
      https://doi.org/10.1063/1.1378322
    | Simulation of nonhomogeneous Poisson processes by thinning (Lewis & Shedler, 1979),
      https://doi.org/10.1002/nav.3800260304
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.simulators.dynamics.state_space import Theta, Time, moments

_HANDFUL = 10  # A leap may use up a count below this number by chance, so such counts are not checked.
_BLOCK = 16_384  # Rows that are simulated together: their arrays fit in the processor's cache.
_LOOK = 8  # Number of jumps between two checks of which rows are done.
_CROWDED = 0.85  # Done rows are set aside only if at most this share of the rows is unfinished.


class Reactions:
    """A reaction network: counts of species that change by reactions at given rates.

    Args:
        change: Change of each species' count by each reaction: a mapping name of the reaction -> changes, or a table
            (reaction, species). The changes are whole numbers.
        rates: Rate of each reaction per unit of time, (row, reaction): `rates(theta, state)`, or
            `rates(theta, state, time)` if there is a bound. theta is a mapping name -> (row,), the state is
            (row, species), and time is (row,).
        bound: Upper bound of the sum of the rates, (row,): `bound(theta, state, start, stop)`. It holds at all times
            from start to stop (both (row,)) while the state is unchanged. It is needed if rates depend on time.

    Raises:
        ValueError: If there is no reaction or no species, changes are not whole numbers, or their lengths differ.

    Examples:
        >>> birth_death = Reactions(
        ...     {"birth": [1], "death": [-1]},
        ...     lambda theta, n: torch.stack([theta["birth"], theta["death"] * n[:, 0]], -1),
        ... )
        >>> theta = {"birth": torch.tensor([5.0, 20.0]), "death": torch.ones(2)}
        >>> g = torch.Generator().manual_seed(0)
        >>> birth_death.exact(theta, torch.zeros(2, 1), 0.0, 10.0, generator=g).shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        change: Mapping[str, Sequence[int]] | Sequence[Sequence[int]] | Tensor,
        rates: Callable[..., Tensor],
        *,
        bound: Callable[[Theta, Tensor, Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        rows = change.tolist() if isinstance(change, Tensor) else change
        named = dict(rows) if isinstance(rows, Mapping) else {f"reaction {r}": row for r, row in enumerate(rows)}
        if len({len(row) for row in named.values()}) != 1 or not all(named.values()):
            raise ValueError(f"changes are {named}, expected reactions, each with a number for each of the species")
        if not all(float(number) == int(number) for row in named.values() for number in row):
            raise ValueError(f"changes are {named}, expected whole numbers: what a reaction adds to each count")
        self.names = tuple(named)
        self.change = torch.tensor([[int(number) for number in row] for row in named.values()])
        self.rates, self.bound = rates, bound

    def exact(
        self,
        theta: Theta,
        state: Tensor,
        start: Time,
        stop: Time,
        *,
        generator: torch.Generator,
        most: int = 10_000_000,
    ) -> Float[Tensor, "row species"]:
        """Draw the counts at the stop from their exact distribution.

        Args:
            theta: Parameters, each (row,).
            state: Counts at the start, (row, species), whole numbers in a floating dtype. The result has the same
                dtype.
            start: Time of `state`, one number for all rows or (row,).
            stop: Time of the result, not before the start; one number for all rows or (row,).
            generator: Source of randomness.
            most: Largest number of jumps (or candidates) of a row. Beyond this number an error is raised.

        Raises:
            TypeError: If the state is not floating point.
            ValueError: If times run backwards, a count or a rate is negative or not finite (the reaction is named), the
                sum of the rates is above its bound, or a row takes more jumps than `most`.
        """
        begin, end = moments(state, start, stop)
        self._look(state)
        _of_rows(theta, state)
        parts = []
        for at in range(0, max(len(state), 1), _BLOCK):
            rows = slice(at, at + _BLOCK)
            walk = _Walk({k: v[rows] for k, v in theta.items()}, state[rows], begin[rows], (end - begin)[rows])
            parts.append(self._walked(walk, generator, most))
        return torch.cat(parts)

    def leap(
        self,
        theta: Theta,
        state: Tensor,
        start: Time,
        stop: Time,
        *,
        leap: float,
        generator: torch.Generator,
    ) -> Float[Tensor, "row species"]:
        """Draw the counts at the stop approximately, by leaps of a fixed length; the last leap may be shorter.

        Args:
            theta: Parameters, each (row,).
            state: Counts at the start, (row, species), whole numbers in a floating dtype. The result has the same
                dtype.
            start: Time of `state`, one number for all rows or (row,).
            stop: Time of the result, not before the start; one number for all rows or (row,).
            leap: Length of a leap, in the unit of time. The error of the distribution is proportional to this length:
                halve the length until the results no longer change.
            generator: Source of randomness.

        Raises:
            TypeError: If the state is not floating point.
            ValueError: If the leap is not positive, times run backwards, or a count or a rate is negative or not
                finite (the reaction is named).

        Warns:
            UserWarning: If leaps are so long that one leap uses up most of a count, or a rate doubles or halves in one
                leap.
        """
        if not (leap > 0 and math.isfinite(leap)):
            raise ValueError(f"a leap of length {leap}, expected a positive number")
        begin, end = moments(state, start, stop)
        self._look(state)
        _of_rows(theta, state)
        longest, too_long, coarse = float((end - begin).max()) if len(state) else 0.0, False, False
        for step in range(math.ceil(longest / leap - 1e-9)):
            time = begin + step * leap
            length = (end - time).clamp(0.0, leap)
            rates = self._rates(theta, state, torch.minimum(time, end))
            expected = rates * length.to(rates)[:, None]
            too_long = too_long or self._empties(state, expected)
            state = self._added(state, torch.poisson(expected, generator=generator))
            self._look(state)
            coarse = coarse or self._turns(theta, state, torch.minimum(time, end), expected, length)
        if too_long:
            warnings.warn(
                f"leaps of {leap:g} take more than half of what there is at once, in more than one row of a hundred: "
                "counts are cut at zero, and their distribution is wrong. Take shorter leaps, or exact()",
                stacklevel=2,
            )
        elif coarse:
            warnings.warn(
                f"leaps of {leap:g} are too long: within one, a rate more than doubles or halves in more than one row "
                "of a hundred. A leap takes rates as constant, so the distribution of counts is wrong. Take shorter "
                "leaps, or exact()",
                stacklevel=2,
            )
        return state

    def _empties(self, state: Tensor, expected: Float[Tensor, "row reaction"]) -> bool:
        """Whether a leap uses up over half of a count of at least `_HANDFUL`, in more than 1 % of the rows."""
        taken = expected @ (-self.change).clamp_min(0).to(expected)
        return bool(((state >= _HANDFUL) & (taken > 0.5 * state)).any(-1).double().mean() > 0.01)

    def _turns(self, theta: Theta, state: Tensor, time: Tensor, expected: Tensor, length: Tensor) -> bool:
        """Whether the leap doubled or halved a rate, in more than 1 % of the rows.

        Rates of few expected reactions are ignored, because they may double or halve by chance.
        """
        if float(expected.max() if expected.numel() else 0.0) < _HANDFUL:
            return False
        after = self._rates(theta, state, time) * length.to(expected)[:, None]
        more, less = torch.maximum(after, expected), torch.minimum(after, expected)
        return bool(((more >= 2 * _HANDFUL) & (more > 2 * less)).any(-1).double().mean() > 0.01)

    def at(
        self,
        theta: Theta,
        state: Float[Tensor, "row species"],
        times: Sequence[float] | Tensor,
        *,
        generator: torch.Generator,
        leap: float | None = None,
    ) -> Float[Tensor, "row time species"]:
        """Counts at each of several increasing times.

        Args:
            theta: Parameters, each (row,).
            state: Counts at `times[0]`, which the result repeats.
            times: Increasing times, the same for all rows.
            generator: Source of randomness.
            leap: Length of leaps, in the unit of time. If omitted, the counts follow their exact distribution.
        """
        states = [state]
        for start, stop in itertools.pairwise(float(time) for time in times):
            if leap is None:
                state = self.exact(theta, state, start, stop, generator=generator)
            else:
                state = self.leap(theta, state, start, stop, leap=leap, generator=generator)
            states.append(state)
        return torch.stack(states, 1)

    def _walked(self, walk: _Walk, generator: torch.Generator, most: int) -> Tensor:
        """Simulate jumps until every row is at its stop, and return the counts of all rows."""
        change = self.change.to(walk.state).T.contiguous()
        for jump in range(most):
            if jump % _LOOK == 0:
                self._look(walk.state)
                if not walk.aside():
                    return walk.found
            self._jump(walk, change, generator)
        late = walk.elapsed[walk.on].min() + walk.start[walk.on].min()
        raise ValueError(
            f"a row has not reached its stop after {most:,} jumps (it is near time {float(late):.6g}): its rates are "
            "too high for exact paths; narrow the prior, use leaps, or raise `most`"
        )

    def _jump(self, walk: _Walk, change: Tensor, generator: torch.Generator) -> None:
        """Simulate the next jump of each row, unless the jump comes after the row's stop."""
        u = torch.rand(2, len(walk.state), generator=generator, dtype=torch.float64, device=generator.device)
        u = u.to(walk.state.device)
        if self.bound is None:
            rates = self._rates(walk.theta, walk.state, None)
            sums = _sums(rates)
            total = sums[-1]
            walk.elapsed -= (1 - u[0]).log_() / total
        else:
            now = walk.start + walk.elapsed.clamp(max=walk.span)
            total = self.bound(walk.theta, walk.state, now, walk.start + walk.span)
            walk.elapsed -= (1 - u[0]).log_() / total
            rates = self._rates(walk.theta, walk.state, walk.start + walk.elapsed.clamp(max=walk.span).nan_to_num(0.0))
            sums = _sums(rates)
            self._below(sums[-1], total)
        happens = walk.elapsed < walk.span
        mark = u[1] * total
        if self.bound is not None:
            happens &= mark < sums[-1]
        # The chosen reaction is the last r whose sum of earlier rates is at most the mark. Changes add up to change[r].
        step = change[:, :1] * happens
        for r in range(1, len(self.names)):
            step = torch.addcmul(step, (change[:, r] - change[:, r - 1])[:, None], (happens & (mark >= sums[r - 1])))
        walk.state = walk.state + step.T

    def _rates(self, theta: Theta, state: Tensor, time: Tensor | None) -> Tensor:
        """Rates of all reactions, (row, reaction), after a check.

        Raises:
            ValueError: If the rates are not (row, reaction), or a rate is negative or not finite.
        """
        rates = self.rates(theta, state) if self.bound is None else self.rates(theta, state, time)
        if rates.shape != (len(state), len(self.names)):
            raise ValueError(
                f"rates are {tuple(rates.shape)}, expected {(len(state), len(self.names))}: (row, reaction), with the "
                f"reactions {', '.join(self.names)}; stack them on the last axis"
            )
        if len(state):
            low, high = torch.aminmax(rates.detach())
            if not (float(low) >= 0 and float(high) < math.inf):
                self._complain(rates, theta, state)
        return rates

    def _complain(self, rates: Tensor, theta: Theta, state: Tensor) -> None:
        row, reaction = (~((rates >= 0) & (rates < math.inf))).nonzero()[0].tolist()
        given = ", ".join(f"{name}={float(value[row]):.6g}" for name, value in theta.items())
        raise ValueError(
            f"the rate of {self.names[reaction]} is {float(rates[row, reaction]):.6g} at the state "
            f"{state[row].tolist()} and {given}; rates must be finite and not negative"
        )

    def _below(self, total: Tensor, bound: Tensor) -> None:
        above = total > bound * (1 + 1e-6)
        if bool(above.any()):
            row = int(above.nonzero()[0])
            raise ValueError(
                f"the rates sum to {float(total[row]):.6g}, above their bound of {float(bound[row]):.6g}: `bound` must "
                "hold at any time from start to stop"
            )

    def _look(self, state: Tensor) -> None:
        """Raise an error if the state is not (row, species) in floating point with counts of 0 or more."""
        if not state.is_floating_point():
            raise TypeError(f"the state has dtype {state.dtype}, expected floating point: pass state.float()")
        species = self.change.shape[1]
        if state.ndim != 2 or state.shape[1] != species:
            raise ValueError(f"the state is {tuple(state.shape)}, expected (row, {species}), a count for each species")
        if not len(state):
            return
        low, high = torch.aminmax(state)
        exact = 1 / torch.finfo(state.dtype).eps
        if float(low) >= 0 and float(high) <= exact:
            return
        row = int((~((state >= 0) & (state <= exact)).all(-1)).nonzero()[0])
        raise ValueError(
            f"a state has the counts {state[row].tolist()}, expected 0 to {exact:.6g} (above which {state.dtype} does "
            f"not tell whole numbers apart). A negative count: the rate of one of {', '.join(self.names)} is not 0 "
            "where what it takes is used up"
        )

    def _added(self, state: Tensor, counts: Tensor) -> Tensor:
        """State after `counts` reactions of each kind, (row, reaction).

        A number of reactions is reduced where a count would become negative.
        """
        for r in range(len(self.names)):
            change, number = self.change[r].to(state), counts[:, r]
            for s in (change < 0).nonzero().flatten().tolist():
                number = torch.minimum(number, (state[:, s] / -change[s]).floor())
            state = state + number[:, None] * change
        return state


class _Walk:
    """Rows of a batch during an exact simulation, each with its state and elapsed time.

    Args:
        theta: Parameters, each (row,).
        state: Counts at the start, (row, species).
        start: Start time of each row, float64.
        span: Duration from the start to the stop of each row, float64.
    """

    def __init__(self, theta: Theta, state: Tensor, start: Tensor, span: Tensor) -> None:
        self.theta, self.start, self.span = dict(theta), start, span
        self.state = state.T.contiguous().T  # The counts of one species are contiguous in memory.
        self.found = state.clone()
        self.elapsed = torch.zeros_like(span)
        self.which = torch.arange(len(state), device=state.device)

    @property
    def on(self) -> Tensor:
        """True for rows that have not reached their stop, (row,)."""
        return self.elapsed < self.span

    def aside(self) -> bool:
        """Set finished rows aside if there are many, and return whether any rows are unfinished."""
        on = self.on
        left = int(on.sum())
        if left > _CROWDED * len(on):
            return True
        done = (~on).nonzero().flatten()
        self.found[self.which[done]] = self.state[done]
        keep = on.nonzero().flatten()
        self.theta = {name: value[keep] for name, value in self.theta.items()}
        self.state = self.state.T[:, keep].T
        self.start, self.span = self.start[keep], self.span[keep]
        self.elapsed, self.which = self.elapsed[keep], self.which[keep]
        return left > 0


def _of_rows(theta: Theta, state: Tensor) -> None:
    for name, value in theta.items():
        if value.shape != (len(state),):
            raise ValueError(
                f"parameter {name!r} is {tuple(value.shape)}, and the state has {len(state)} rows: expected "
                f"({len(state)},), a value for each row"
            )


def _sums(rates: Tensor) -> list[Tensor]:
    """Cumulative sums of the rates over reactions: one tensor (row,), float64, for each reaction."""
    first, *others = rates.double().unbind(-1)
    sums = [first]
    for other in others:
        sums.append(sums[-1] + other)
    return sums
