r"""Reaction networks and populations as jumps of whole numbers: exact paths, and leaps through time.

A state n of counts changes by v_r when reaction r happens, and that has the rate a_r(theta, n, t). While no reaction
happens the state stays as it is, so that an exact path is made jump by jump (Gillespie's direct method),

    tau ~ Exponential(sum_r a_r),     P(r) = a_r / sum_s a_s,     n <- n + v_r,     t <- t + tau.

Rates that depend on time need a bound B >= sum_r a_r(theta, n, t) until the stop: candidates come at the rate B, and
one at time t is reaction r with probability a_r(t) / B, and nothing with the rest (thinning). With B = sum_r a_r this
is the direct method. An exponential law has no memory, so a path may be stopped and taken up at any time.

A leap of length h takes rates as constant in it, and all numbers of reactions at once,

    k_r ~ Poisson(h a_r(theta, n, t)),     n <- n + sum_r k_r v_r.

Its law is wrong in first order of h, and where h is long it is badly wrong. Numbers are cut where a count would become
negative, in the order of the reactions.

All rows of a batch take their next jump together; rows at their stop are put aside. Steps of a leap are counted from
each row's own start, so that the law of a row does not depend on the others.

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

_HANDFUL = 10  # counts below which a leap may well take all
_BLOCK = 16_384  # rows at a time: what a jump works on stays near the processor
_LOOK = 8  # jumps between looks at which rows are done
_CROWDED = 0.85  # share of rows still on their way, above which none are put aside


class Reactions:
    """Counts of species that jump.

    Args:
        change: For each reaction, by its name or in a table (reaction, species), what it adds to each count.
        rates: `rates(theta, state)`, or `rates(theta, state, time)` where there is a bound: the rate of each reaction,
            (row, reaction), per unit of time. theta is a mapping name -> (row,), the state (row, species), time (row,).
        bound: `bound(theta, state, start, stop)`, (row,): at least the sum of the rates at any time from start to stop
            (both (row,)) while the state is as given. Needed where rates depend on time.

    Raises:
        ValueError: If there is no reaction or no species, changes are no whole numbers, or their lengths differ.

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
        """Counts at the stop, exactly by their law.

        Args:
            theta: Parameters, each (row,).
            state: Counts at the start, (row, species), whole numbers in a floating dtype, which the result has, too.
            start: Time of the state, for all rows or (row,).
            stop: Time asked for, not before the start.
            generator: Source of randomness.
            most: Jumps (and candidates) of a row, after which it is given up.

        Raises:
            TypeError: If the state is not floating point.
            ValueError: If times run backwards, a count or a rate is negative or not finite (the reaction is named), a
                rate is above its bound, or a row takes more jumps than `most`.
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
        """Counts at the stop by leaps of a fixed length, the last one shorter.

        Args:
            theta: Parameters, each (row,).
            state: Counts at the start, (row, species), whole numbers in a floating dtype, which the result has, too.
            start: Time of the state, for all rows or (row,).
            stop: Time asked for, not before the start.
            leap: Length of a leap, in the unit of time. The error of the law is proportional to it: halve it until
                nothing changes any more.
            generator: Source of randomness.

        Raises:
            TypeError: If the state is not floating point.
            ValueError: If the leap is not positive, times run backwards, or a count or a rate is negative or not
                finite (the reaction is named).

        Warns:
            UserWarning: If leaps are so long that they take most of a count at once, or rates double or halve in one.
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
                "counts are cut at zero, and their law is wrong. Take shorter leaps, or exact()",
                stacklevel=2,
            )
        elif coarse:
            warnings.warn(
                f"leaps of {leap:g} are too long: within one, a rate more than doubles or halves in more than one row "
                "of a hundred, and it is held still meanwhile, so the law of counts is wrong. Take shorter leaps, or "
                "exact()",
                stacklevel=2,
            )
        return state

    def _empties(self, state: Tensor, expected: Float[Tensor, "row reaction"]) -> bool:
        """Whether a leap takes most of a count that is no handful, in many rows."""
        taken = expected @ (-self.change).clamp_min(0).to(expected)
        return bool(((state >= _HANDFUL) & (taken > 0.5 * state)).any(-1).double().mean() > 0.01)

    def _turns(self, theta: Theta, state: Tensor, time: Tensor, expected: Tensor, length: Tensor) -> bool:
        """Whether what the leap did to counts doubles or halves a rate, in many rows; of handfuls that is chance."""
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
        """Counts at times in order, of which the first is that of the state.

        Args:
            theta: Parameters, each (row,).
            state: Counts at `times[0]`.
            times: For all rows.
            generator: Source of randomness.
            leap: Length of leaps; exact where left out.
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
        """Jump until every row is at its stop."""
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
        """The next jump of each row, unless that comes after its stop."""
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
        # what all reactions from r on have in common is added where the mark lies above the sums before r
        step = change[:, :1] * happens
        for r in range(1, len(self.names)):
            step = torch.addcmul(step, (change[:, r] - change[:, r - 1])[:, None], (happens & (mark >= sums[r - 1])))
        walk.state = walk.state + step.T

    def _rates(self, theta: Theta, state: Tensor, time: Tensor | None) -> Tensor:
        """Rates, looked at.

        Raises:
            ValueError: If they have another shape than (row, reaction), or one is negative or not finite.
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
        """Raises where counts are none."""
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
        """The state after so many reactions of each kind, cut where there is not enough for them."""
        for r in range(len(self.names)):
            change, number = self.change[r].to(state), counts[:, r]
            for s in (change < 0).nonzero().flatten().tolist():
                number = torch.minimum(number, (state[:, s] / -change[s]).floor())
            state = state + number[:, None] * change
        return state


class _Walk:
    """Rows on their way.

    Args:
        theta: Parameters.
        state: Counts.
        start: Times of these, float64.
        span: How long it goes on, float64.
    """

    def __init__(self, theta: Theta, state: Tensor, start: Tensor, span: Tensor) -> None:
        self.theta, self.start, self.span = dict(theta), start, span
        self.state = state.T.contiguous().T  # a count of all rows lies together
        self.found = state.clone()
        self.elapsed = torch.zeros_like(span)
        self.which = torch.arange(len(state), device=state.device)

    @property
    def on(self) -> Tensor:
        """Rows that have not reached their stop."""
        return self.elapsed < self.span

    def aside(self) -> bool:
        """Put rows that are done aside, where they are many; whether any are left."""
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
    """Of the first rates, of the first two, ..., of all, each (row,), float64."""
    first, *others = rates.double().unbind(-1)
    sums = [first]
    for other in others:
        sums.append(sums[-1] + other)
    return sums
