r"""Forward-backward algorithm for a finite chain: exact likelihood and posterior of paths, for many parameters at once.

P_k is the transition matrix of the step to the k-th observation (`simulators.dynamics.finite_states.transitions`), and
l_k(j) = p(x_k | state j),

    a_k(j) = l_k(j) sum_i a_{k-1}(i) P_k(i, j) / c_k,    log p(x | theta) = sum_k log c_k,
    b_k(i) = sum_j P_{k+1}(i, j) l_{k+1}(j) b_{k+1}(j),   p(state_k = i | x) ~ a_k(i) b_k(i),

where c_k makes a_k sum to 1. A path is drawn backwards: the last state with the probabilities a_T, and each earlier
state with probabilities proportional to a_k(i) P_{k+1}(i, next). All computations are in float64.

Reference:
    | A tutorial on hidden Markov models and selected applications in speech recognition (Rabiner, 1989),
      https://doi.org/10.1109/5.18626
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.simulators.dynamics.finite_states import FiniteStates, picked
from sciinf.simulators.dynamics.state_space import Record, Theta, log_seen, repeated


@dataclass(frozen=True)
class Forward:
    """Result of the forward pass.

    Args:
        log_likelihood: Log likelihood log p(x | theta), (row,), float64; -inf if no path can give the data.
        probabilities: Probability of each state at each time given the observations up to that time, (row, time, K).
        seen: Likelihood p(x_k | state), up to a factor for each row and time, (row, time, K).
        steps: Transition matrices from each time to the next, each (row or 1, K, K).
    """

    log_likelihood: Tensor
    probabilities: Tensor
    seen: Tensor
    steps: tuple[Tensor, ...]


def forward(model: FiniteStates, theta: Theta, record: Record) -> Forward:
    """Run the forward pass: exact likelihood, and probabilities of the states given the observations up to each time.

    Args:
        model: Finite chain that has `log_observe`.
        theta: Parameters, name -> (row,).
        record: Observations of each row.

    Raises:
        ValueError: If the initial probabilities are invalid, rates are negative or times go backwards.
        TypeError: If the model has no `log_observe`.
    """
    theta = {name: value.double() for name, value in theta.items()}
    rows, count = record.rows, len(model.states)
    law = model.start(record.beside(theta, 0)).double().expand(rows, -1)
    _check_start(law, count)
    law = law / law.sum(-1, keepdim=True)
    every = repeated(theta, count)
    codes = torch.arange(count, dtype=torch.float64, device=law.device).repeat(rows)[:, None]
    log_likelihood = torch.zeros(rows, dtype=torch.float64, device=law.device)
    probabilities, seen, steps = [], [], []
    for k in range(record.times.shape[-1]):
        if k or record.begin is not None:
            step = model.transition(record.beside(theta, k - 1), *record.step(k))
            law = (law[:, None] @ step)[:, 0]
            steps += [step] if k else []
        log = log_seen(model, every, codes, record, k).double().reshape(rows, count)
        log = log.masked_fill(law <= 0, -math.inf)  # An impossible state must not count, even if it fits the data.
        highest = log.amax(-1, keepdim=True).clamp_min(-1e300)
        likely = (log - highest).exp()
        law = law * likely
        total = law.sum(-1, keepdim=True)
        log_likelihood = log_likelihood + total[:, 0].log() + highest[:, 0]
        # If no state fits, the row's likelihood stays -inf, and the row continues as if nothing had been observed.
        law = torch.where(total > 0, law / total.clamp_min(1e-300), torch.full_like(law, 1 / count))
        probabilities.append(law)
        seen.append(likely)
    log_likelihood = torch.where(log_likelihood <= -1e299, -math.inf, log_likelihood)
    return Forward(log_likelihood, torch.stack(probabilities, 1), torch.stack(seen, 1), tuple(steps))


def smoothed(found: Forward) -> Float[Tensor, "row time state"]:
    """Probability of each state at each time, given all observations."""
    later = torch.ones_like(found.probabilities[:, -1])
    laws = [found.probabilities[:, -1]]
    for k in range(len(found.steps) - 1, -1, -1):
        later = (found.steps[k] @ (found.seen[:, k + 1] * later)[..., None])[..., 0]
        later = later / later.sum(-1, keepdim=True).clamp_min(1e-300)
        law = found.probabilities[:, k] * later
        laws.append(law / law.sum(-1, keepdim=True).clamp_min(1e-300))
    return torch.stack(laws[::-1], 1)


def paths(found: Forward, *, generator: torch.Generator) -> Float[Tensor, "row time one"]:
    """Draw a path for each row, given all observations. A path is the number of the state at each time."""
    state = picked(found.probabilities[:, -1], generator)
    states = [state]
    each = torch.arange(len(state), device=state.device)
    for k in range(len(found.steps) - 1, -1, -1):
        law = found.probabilities[:, k] * found.steps[k].expand(len(state), -1, -1)[each, :, state]
        state = picked(law, generator)
        states.append(state)
    return torch.stack(states[::-1], 1)[..., None].double()


def _check_start(law: Tensor, count: int) -> None:
    if law.shape[-1] != count:
        raise ValueError(f"the start has {law.shape[-1]} probabilities, the chain {count} states")
    if bool((law < 0).any()) or not torch.allclose(law.sum(-1), law.new_ones(()), atol=1e-6):
        raise ValueError("the probabilities of the start must be at least 0 and sum to 1; check the model's `start`")
