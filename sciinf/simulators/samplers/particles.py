r"""Particle filter: an unbiased estimate of the likelihood of a hidden process, and draws of its path.

N copies of the state (particles) move by the model and are weighted by the observations (bootstrap filter):

    z_k^i ~ p(z_k | z_{k-1}^{a_i}, theta),   w_k^i = W_{k-1}^i p(x_k | z_k^i),   estimate = prod_k sum_i w_k^i,

where the weights W before a step sum to 1. If the share of effective particles, 1 / (N sum W^2), is below a half,
ancestors a_i are drawn with the weights (systematic resampling), and the weights become equal. The product is an
unbiased estimate of p(x | theta) for any N. As an importance weight of theta, the estimate leaves draws and evidence
exact. The logarithm of the estimate is biased by about -1/2 of its variance, and is not a log density.

A path is the ancestry of one particle that is drawn at the last time with its weight. If the estimate of the same run
is the weight of theta, (theta, path) is drawn from the exact joint posterior, for any N (Andrieu et al., section 2.2).
Backward simulation needs the density of a step. It draws each earlier state again with probabilities proportional to
W_k^i p(z_{k+1} | z_k^i), so that the early parts of different paths do not coincide. Over a step of length 0 it takes
the ancestor.

Rows x particles are the rows of one batch. `chosen_particles` chooses the number of particles.

References:
    | Novel approach to nonlinear/non-Gaussian Bayesian state estimation (Gordon, Salmond, Smith, 1993),
      https://doi.org/10.1049/ip-f-2.1993.0015
    | Particle Markov chain Monte Carlo methods (Andrieu, Doucet, Holenstein, 2010),
      https://doi.org/10.1111/j.1467-9868.2009.00736.x
    | Monte Carlo smoothing for nonlinear time series (Godsill, Doucet, West, 2004),
      https://doi.org/10.1198/016214504000000151
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciinf.simulators.dynamics.finite_states import picked
from sciinf.simulators.dynamics.state_space import Record, StateSpace, Theta, checked, log_seen, repeated

AT_ONCE = 131_072  # Largest number of particles of all rows that move in one call: more do not fit into a cache.
KEPT = 2**27  # Largest number of floats of particles that are kept in memory at once.
_SHARE = 0.5


@dataclass(frozen=True)
class Particles:
    """Result of a particle filter.

    Args:
        log_likelihood: Logarithm of an unbiased estimate of p(x | theta), (row,), float64; -inf for a row in which all
            particles had weight 0 at some time.
        died: Number of the first time at which all particles of a row had weight 0, (row,); -1 if there was none.
        states: Particles at each time, each (row, N, S); empty unless they were kept.
        log_weights: Log weights of the particles at each time, each (row, N), up to a constant; empty unless kept.
        ancestors: Numbers of the particles' ancestors at the time before, for each time, each (row, N). None stands for
            a step without resampling.
    """

    log_likelihood: Tensor
    died: Tensor
    states: tuple[Tensor, ...] = ()
    log_weights: tuple[Tensor, ...] = ()
    ancestors: tuple[Tensor | None, ...] = ()


def particle_filter(
    model: StateSpace, theta: Theta, record: Record, particles: int, *, generator: torch.Generator, keep: bool = False
) -> Particles:
    """Run the particle filter for every row.

    Args:
        model: State-space model that has `log_observe`.
        theta: Parameters, name -> (row,).
        record: Observations of each row.
        particles: Number N of particles for each row.
        generator: Source of all randomness.
        keep: Whether to keep the particles of all times, which paths need.

    Raises:
        TypeError: If the model has no `log_observe`, or it returns other observables than the record has.
        ValueError: If states or log densities of the model have a wrong shape.
    """
    rows = record.rows
    every = repeated(theta, particles)
    state = model.initial(record.beside(every, 0, particles), rows * particles, generator=generator)
    state = checked(model, state, rows * particles, "initial")
    log_likelihood = torch.zeros(rows, dtype=torch.float64, device=state.device)
    died = torch.full((rows,), -1, device=state.device)
    log_w = weight = state.new_zeros(())
    states, weights, ancestors = [], [], []
    for k in range(record.times.shape[-1]):
        chosen = None
        if k:
            state, log_w, chosen = _resampled(state, log_w, weight, generator, keep=keep)
        if k or record.begin is not None:
            start, stop = (_each(t, particles) for t in record.step(k))
            given = record.beside(every, k - 1, particles)
            state = model.advance(given, state, start, stop, generator=generator)
            state = checked(model, state, rows * particles, "advance")
        log_w = log_seen(model, every, state, record, k).reshape(rows, particles) + log_w
        highest = log_w.amax(-1, keepdim=True)
        if not bool(highest.isfinite().all()):
            log_w = log_w.masked_fill(log_w.isnan(), -math.inf)
            lost = log_w.amax(-1) == -math.inf
            died = torch.where(lost & (died < 0), k, died)
            log_w = torch.where(lost[:, None], 0.0, log_w)  # A lost row runs on, but its result becomes -inf below.
            highest = log_w.amax(-1, keepdim=True)
        log_w = log_w.sub_(highest)
        weight = log_w.exp()
        mean = weight.mean(-1, keepdim=True)
        log_likelihood += (highest + mean.log())[:, 0]
        log_w, weight = log_w.sub_(mean.log()), weight.div_(mean)  # The weights now have mean 1.
        if keep:
            states.append(state.reshape(rows, particles, -1))
            weights.append(log_w)
            ancestors.append(chosen)
    log_likelihood = torch.where(died < 0, log_likelihood, -math.inf)
    return Particles(log_likelihood, died, tuple(states), tuple(weights), tuple(ancestors))


def ancestral_paths(found: Particles, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
    """Path of each row: the ancestry of one particle that is drawn at the last time with its weight."""
    each = torch.arange(len(found.died), device=found.died.device)
    at = picked(found.log_weights[-1].double().exp(), generator)
    states = [found.states[-1][each, at]]
    for k in range(len(found.states) - 2, -1, -1):
        before = found.ancestors[k + 1]
        at = at if before is None else before[each, at]
        states.append(found.states[k][each, at])
    return torch.stack(states[::-1], 1)


def backward_paths(
    model: StateSpace, theta: Theta, record: Record, found: Particles, *, generator: torch.Generator
) -> Float[Tensor, "row time state"]:
    """Draw a path of each row by backward simulation: each earlier state is drawn among all particles of its time.

    Raises:
        TypeError: If the model has no `log_advance`.
        ValueError: If `log_advance` is -inf for every particle although `advance` made this step.
    """
    if model.log_advance is None:
        raise TypeError(f"{type(model).__name__} has no log_advance; take ancestral_paths")
    rows, count = found.log_weights[-1].shape
    each, every = torch.arange(rows, device=found.died.device), repeated(theta, count)
    at = picked(found.log_weights[-1].double().exp(), generator)
    state = found.states[-1][each, at]
    states = [state]
    for k in range(len(found.states) - 2, -1, -1):
        here, before = found.states[k], found.ancestors[k + 1]
        own = at if before is None else before[each, at]
        still = (record.times[:, k + 1] == record.times[:, k]).expand(rows)
        if bool(still.all()):  # A step of length 0 has no density, so the particle's ancestor is taken.
            at, state = own, here[each, own]
            states.append(state)
            continue
        start, stop = (_each(t, count) for t in record.step(k + 1))
        later = state.repeat_interleave(count, dim=0)
        given = record.beside(every, k, count)
        log = model.log_advance(given, here.flatten(0, 1), later, start, stop).reshape(rows, count)
        log = (log + found.log_weights[k]).double()
        log = log.masked_fill(still[:, None], 0.0)
        weight = (log - log.amax(-1, keepdim=True).clamp_min(-1e300)).exp()
        if bool((lost := ~(weight.sum(-1) > 0) & (found.died < 0)).any()):  # Rows that died have no valid path anyway.
            raise ValueError(
                f"log_advance of {type(model).__name__} contradicts advance: by its density none of the {count:,} "
                f"particles of row {int(lost.nonzero()[0])} at time number {k} can have moved to the state from "
                "advance; correct log_advance, or leave it out"
            )
        at = torch.where(still, own, picked(weight, generator))
        state = here[each, at]
        states.append(state)
    return torch.stack(states[::-1], 1)


def in_pieces(rows: int, particles: int, numbers: int = 1) -> list[slice]:
    """Slices of rows, each so short that its particles fit into a cache, and into memory if particles are kept.

    Args:
        rows: Number of rows.
        particles: Number of particles of each row.
        numbers: Number of floats kept for each particle: times x columns of the state.
    """
    size = max(1, min(AT_ONCE, KEPT // numbers) // particles)
    return [slice(i, min(rows, i + size)) for i in range(0, rows, size)]


def chosen_particles(spread: Callable[[int], float], *, least: int = 64, most: int = 4_096, sd: float = 1.0) -> int:
    """Smallest number of particles at which the log-likelihood has an sd of at most `sd`, by doubling from `least`.

    Args:
        spread: Function from a number of particles to the sd of the log-likelihood, for one theta and data.
        least: First number to try.
        most: Largest number to try.
        sd: Largest accepted sd. Importance weights then keep at least about exp(-sd^2) of their effective sample size.

    Warns:
        UserWarning: If the sd is still larger at the last number up to `most`. This number is then returned.
    """
    count = least
    while not (found := spread(count)) <= sd:
        if 2 * count > most:
            warnings.warn(
                f"the log-likelihood scatters by {found:.3g} (sd) even with {count:,} particles, and at most {sd:g} is "
                "wanted: observations with little noise determine the state nearly exactly, and few particles are near "
                "this state. Answers stay right, with fewer effective draws. Give particles= another number, or give "
                "the model more observation noise",
                stacklevel=3,
            )
            return count
        count *= 2
    return count


def _resampled(
    state: Tensor, log_w: Tensor, weight: Float[Tensor, "row n"], generator: torch.Generator, *, keep: bool
) -> tuple[Tensor, Tensor, Int[Tensor, "row n"] | None]:
    """Resample the rows whose share of effective particles is below a half.

    Returns:
        States, log weights (the weights have mean 1), and the numbers of the ancestors. The ancestors are None if no
        row was resampled, or if they are not kept.
    """
    rows, count = weight.shape
    some = (weight.square().sum(-1) * _SHARE > count).nonzero()[:, 0]
    uniform = torch.rand(rows, 1, generator=generator, dtype=torch.float64, device=weight.device)
    if not len(some):
        return state, log_w, None
    whole = len(some) == rows
    children = systematic(weight, uniform) if whole else systematic(weight[some], uniform[some])
    flat = (children + count * some[:, None]).flatten()
    columns = [column.index_select(0, flat) for column in state.unbind(-1)]
    moved = columns[0][:, None] if len(columns) == 1 else torch.stack(columns, -1)
    if whole:
        return moved, torch.zeros_like(log_w), children
    parts = state.reshape(rows, count, -1).index_copy(0, some, moved.reshape(len(some), count, -1))
    chosen = None
    if keep:
        chosen = torch.arange(count, device=weight.device).expand(rows, -1).index_copy(0, some, children)
    return parts.reshape(state.shape), log_w.index_fill(0, some, 0.0), chosen


def systematic(weight: Float[Tensor, "row n"], uniform: Float[Tensor, "row one"]) -> Int[Tensor, "row n"]:
    """Parents of n particles by systematic resampling: particle i gets n W_i children, rounded down or up.

    The parent of child j is the first particle whose cumulative weight exceeds (j + uniform) / n.
    """
    total = weight.cumsum(-1, dtype=torch.float64)
    count = weight.shape[-1]
    ends = (total * (count / total[:, -1:]) - uniform).ceil().clamp_(0, count).long()
    ends[:, -1] = count
    marks = torch.zeros(len(weight), count + 1, dtype=torch.int32, device=weight.device)
    marks.scatter_add_(1, ends, torch.ones((), dtype=torch.int32, device=weight.device).expand_as(ends))
    return marks[:, :count].cumsum(-1)


def _each(time: float | Tensor, particles: int) -> float | Tensor:
    return time.repeat_interleave(particles) if isinstance(time, Tensor) else time
