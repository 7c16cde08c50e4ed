r"""Continuous-time Markov chains with K states, which jump from state i to state j at a rate q_ij.

Q is the matrix of the rates, and its diagonal makes each row sum to 0. The transition probabilities over a time t are

    P(t) = exp(Q t) = sum_n e^{-u t} (u t)^n / n! (I + Q / u)^n,   u >= max_i |q_ii|,

where n counts the jumps (uniformisation). All terms of the sum are positive, so that no digit is lost. The sum is
computed for the time t / 2^s, which is so short that 25 terms are exact in float64. The result is squared s times.

Reference:
    | Markov chains (Norris, 1997), chapter 2, https://doi.org/10.1017/CBO9780511810633
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.simulators.dynamics.state_space import StateSpace, Theta, Time, duration

_TERMS = 25  # Terms of a Poisson sum of mean at most 1. The omitted terms sum to less than 1e-25.


class FiniteStates(StateSpace, ABC):
    """A state-space model whose hidden state is a continuous-time Markov chain with finitely many states.

    The state tensor (row, 1) holds the number of the chain's state, 0 to K - 1. A subclass also defines `observe`, and
    `log_observe` if its likelihood is needed.

    Attributes:
        states: Names of the K states.
        latent: Name of the only column of the state -> its unit.
    """

    states: Sequence[str]
    latent: Mapping[str, str] = MappingProxyType({"state": ""})

    @abstractmethod
    def start(self, theta: Theta) -> Float[Tensor, "#row state"]:
        """Probability of each state at the initial time, (row or 1, K)."""

    @abstractmethod
    def rates(self, theta: Theta) -> Float[Tensor, "#row state state"]:
        """Rates q_ij of jumps from i to j, (row or 1, K, K), in 1 / the unit of time. The diagonal is ignored."""

    @final
    def initial(self, theta: Theta, rows: int, *, generator: torch.Generator) -> Float[Tensor, "row one"]:
        return picked(self.start(theta).expand(rows, -1), generator).to(_dtype(theta))[:, None]

    @final
    def advance(
        self, theta: Theta, state: Float[Tensor, "row one"], start: Time, stop: Time, *, generator: torch.Generator
    ) -> Float[Tensor, "row one"]:
        law = self.transition(theta, start, stop)
        now = state[:, 0].long()
        row = law.expand(len(state), -1, -1)[torch.arange(len(state), device=state.device), now]
        return picked(row, generator).to(state)[:, None]

    @final
    def log_advance(self, theta: Theta, state: Tensor, later: Tensor, start: Time, stop: Time) -> Tensor:  # type: ignore[override]
        law = self.transition(theta, start, stop).expand(len(state), -1, -1)
        each = torch.arange(len(state), device=state.device)
        return law[each, state[:, 0].long(), later[:, 0].long()].log()

    @final
    def transition(self, theta: Theta, start: Time, stop: Time) -> Float[Tensor, "#row state state"]:
        """Probability of each state at `stop` given each state at `start`, (row or 1, K, K), float64."""
        rates = self.rates(theta).double()
        return transitions(rates, duration(start, stop, rates))


def transitions(rates: Float[Tensor, "#row k k"], time: Float[Tensor, "#row"]) -> Float[Tensor, "#row k k"]:
    """Transition matrix exp(Q t) of a continuous-time Markov chain, computed by uniformisation.

    Args:
        rates: Rates of jumps from i to j, (row or 1, K, K), float64. The diagonal is ignored.
        time: Duration of the transition, (row or 1,), at least 0.

    Returns:
        Probabilities of the final state (last axis) given the initial state, (row, K, K).

    Raises:
        ValueError: If a rate is negative or not finite, or a time is negative.
    """
    count = rates.shape[-1]
    eye = torch.eye(count, dtype=rates.dtype, device=rates.device)
    jumps = rates * (1 - eye)
    if bool((jumps < 0).any()) or not bool(jumps.isfinite().all()):
        raise ValueError(f"a rate of jumps is {float(jumps.min()):.3g}, expected at least 0 and finite")
    if bool((time < 0).any()):
        raise ValueError(f"time goes back by {-float(time.min()):.3g}; times must not decrease")
    leaving = jumps.sum(-1)
    fastest = leaving.amax(-1).clamp_min(1e-300)
    expected = fastest * time  # Expected number of jumps of the uniform clock.
    halvings = max(0, math.ceil(math.log2(max(float(expected.max()), 1e-300)))) if expected.numel() else 0
    mean = (expected / 2**halvings)[:, None, None]
    one = eye + (jumps - torch.diag_embed(leaving)) / fastest[:, None, None]
    term = torch.exp(-mean) * eye
    total = term
    for n in range(1, _TERMS):
        term = term @ one * (mean / n)
        total = total + term
    for _ in range(halvings):
        total = total @ total
    return total / total.sum(-1, keepdim=True)


def picked(probabilities: Float[Tensor, "row k"], generator: torch.Generator) -> Tensor:
    """Column index drawn at random for each row, (row,) int64. The probabilities of a row need not sum to 1."""
    total = probabilities.cumsum(-1)
    uniform = torch.rand(len(total), 1, generator=generator, dtype=total.dtype, device=total.device)
    found = torch.searchsorted(total, uniform * total[:, -1:], right=True)[:, 0]
    return found.clamp_max(total.shape[-1] - 1)


def _dtype(theta: Theta) -> torch.dtype:
    return next((value.dtype for value in theta.values()), torch.float64)
