r"""Finite chains in continuous time: a state that is one of K, and jumps from i to j at a rate q_ij.

With Q the matrix of the rates, whose diagonal makes rows sum to 0, the state t later has the law

    P(t) = exp(Q t) = sum_n e^{-u t} (u t)^n / n! (I + Q / u)^n,   u >= max_i |q_ii|,

the sum over how many jumps there were (uniformisation): all its terms are positive, so that it loses no digit. It is
taken over t / 2^s, short enough for 25 terms to be exact in float64, and squared s times.

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

_TERMS = 25  # of mean 1: what is left out is below 1e-25


class FiniteStates(StateSpace, ABC):
    """A chain of finitely many states.

    The state (row, 1) holds the number of the state, 0 to K - 1. A subclass also defines `observe`, and `log_observe`
    where its likelihood is wanted.

    Attributes:
        states: What each of the K is called.
        latent: The name of the one column.
    """

    states: Sequence[str]
    latent: Mapping[str, str] = MappingProxyType({"state": ""})

    @abstractmethod
    def start(self, theta: Theta) -> Float[Tensor, "#row state"]:
        """Probability of each state at the beginning, (row or 1, K)."""

    @abstractmethod
    def rates(self, theta: Theta) -> Float[Tensor, "#row state state"]:
        """Rates q_ij of jumps from i to j, (row or 1, K, K), in 1 / the unit of time; the diagonal is not read."""

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
        """Probability of each state at `stop`, given each at `start`, float64 (row or 1, K, K)."""
        rates = self.rates(theta).double()
        return transitions(rates, duration(start, stop, rates))


def transitions(rates: Float[Tensor, "#row k k"], time: Float[Tensor, "#row"]) -> Float[Tensor, "#row k k"]:
    """exp(Q t), by uniformisation.

    Args:
        rates: Of jumps from i to j, (row or 1, K, K), float64; the diagonal is not read.
        time: How much later, (row or 1,), at least 0.

    Returns:
        Rows of probabilities, (row, K, K).

    Raises:
        ValueError: If a rate is negative or not finite, or a time is negative.
    """
    count = rates.shape[-1]
    eye = torch.eye(count, dtype=rates.dtype, device=rates.device)
    jumps = rates * (1 - eye)
    if bool((jumps < 0).any()) or not bool(jumps.isfinite().all()):
        raise ValueError(f"a rate is {float(jumps.min()):.3g}; rates of jumps are at least 0, and finite")
    if bool((time < 0).any()):
        raise ValueError(f"time goes back by {-float(time.min()):.3g}; times are to increase")
    leaving = jumps.sum(-1)
    fastest = leaving.amax(-1).clamp_min(1e-300)
    expected = fastest * time  # jumps of the uniform clock
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
    """One number of each row, drawn by its probabilities, (row,) int64; these need not sum to 1."""
    total = probabilities.cumsum(-1)
    uniform = torch.rand(len(total), 1, generator=generator, dtype=total.dtype, device=total.device)
    found = torch.searchsorted(total, uniform * total[:, -1:], right=True)[:, 0]
    return found.clamp_max(total.shape[-1] - 1)


def _dtype(theta: Theta) -> torch.dtype:
    return next((value.dtype for value in theta.values()), torch.float64)
