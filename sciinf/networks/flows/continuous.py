r"""A continuous normalizing flow: the map is the solution of a differential equation whose field a network gives.

With z(0) = z, the number described, and z(1) = e ~ N(0, I),

    dz/dt = v(z, t; c),      d/dt log |det dz(t)/dz(0)| = tr dv/dz,

so that `encode` solves both from t = 0 to 1 and `decode` the first from 1 to 0, and

    log q(z | c) = log N(z(1); 0, I) + int_0^1 tr dv/dz dt.

**Field.** A network of hidden layers h_i = tanh(W_i h_{i-1} + s_i(c) + t u_i), h_0 = z, and what is linear in z:

    v(z, t; c) = V h_K + A(c) z + m(c).

s_i, A and m are a second network's, linear in c and in one hidden layer of c, evaluated once per solve and not once per
evaluation of v. With V = 0 the flow is every Gaussian whose mean and covariance depend on c, and V starts at 0.

**Trace.** Of two hidden layers with slopes a_i = 1 - h_i^2, (..., H_i), it has a closed form that costs no more than
one further layer, whatever D is:

    tr dv/dz = a_2^T M a_1 + tr A(c),      M = W_2 * (W_1 V)^T      (entry by entry, once per solve).

Of any other number of layers, tr V diag(a_K) W_K ... diag(a_1) W_1 is the sum of e_d^T J e_d over the D unit vectors,
exactly and at D times the cost, or Hutchinson's estimate n^T J n with E[n n^T] = I. There n is drawn once per solve, so
that the solver sees a smooth field and the estimate of the integral has no bias; tr A(c) is never estimated.

**Training** solves with RK4 on a grid of equal steps and differentiates through it. Densities and draws are solved with
Dormand-Prince 5(4), whose steps adapt until the local error of the worst row is within the tolerance; its cost is
therefore decided by what was learned. The penalty makes it learn what is cheap, by one of `networks.solver_cost`:
"local", the local error of one step at random, from a state y_j that is held constant; "sum", R_E over all steps; or
"stiffness", R_S. j is drawn for each row, uniformly from the J equal steps; the rms runs over the D + 1 numbers of
y = (z, log det) and the batch, as a solver of the whole batch would see it.

References:
    | FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models (Grathwohl et al., 2019),
      https://arxiv.org/abs/1810.01367
    | Opening the Blackbox: Accelerating Neural Differential Equations by Regularizing Internal Solver Heuristics
      (Pal et al., 2021), https://arxiv.org/abs/2105.03918
    | Locally Regularized Neural Differential Equations: Some Black Boxes Were Meant to Remain Closed!
      (Pal, Edelman & Rackauckas, 2023), https://arxiv.org/abs/2303.02262
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.component import called_without
from sciinf.networks.flows.conditional import (
    Architecture,
    ConditionalFlow,
    Context,
    Logs,
    Points,
    Row,
    RowContext,
    log_normal,
    single_precision,
)
from sciinf.networks.solver_cost import COSTS, local_error, rms

TRACES = ("exact", "rademacher", "gaussian")
"""How training may find tr dv/dz: exactly, or by Hutchinson's estimate with noise of this law."""

PENALISED = ("local", *COSTS)
"""What of a solve training may penalise."""

State = Float[Tensor, "n batch state"]
"""z, of width D, or z and log |det|, of width D + 1."""


class Continuous(Architecture):
    """A continuous normalizing flow (FFJORD) whose field is learned to be cheap to solve.

    `log_prob`, `encode` and `decode` are deterministic and have the exact trace for every D. A row's own result moves
    within the tolerance with what else is in its batch, for all rows share the solver's steps.

    Args:
        hidden: Widths of the field's hidden layers; with two of them the exact trace costs one layer more.
        steps: Steps of the fixed grid in training, four evaluations of the field each. Validation has twice as many.
        trace: How training finds the trace. Left out, it is exact with two hidden layers or up to D = 32, and
            "rademacher" beyond. Densities are exact whatever is chosen.
        penalty: Weight of what a solve costs; 0 leaves it out and makes a training step a fifth cheaper.
        penalised: What is penalised: "local" (the local error of one step), "sum" (of all steps) or "stiffness", whose
            size is another: a weight of 0.01 was tried.
        tolerance: Relative and absolute local error of a row, of densities and draws alike. In single precision
            rounding sets in below 1e-6.

    Raises:
        ValueError: If one of them is out of range.

    Examples:
        >>> flow = Continuous(hidden=(32, 32)).build(dim=2, context=3)
        >>> flow.log_prob(torch.zeros(5, 2), torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64, 64),
        steps: int = 4,
        trace: str | None = None,
        penalty: float = 10.0,
        tolerance: float = 1e-5,
        *,
        penalised: str = "local",
    ) -> None:
        if not hidden or min(hidden) < 1 or steps < 1:
            raise ValueError(
                f"Continuous needs positive hidden widths and steps >= 1; got hidden={tuple(hidden)}, steps={steps}"
            )
        if trace is not None and trace not in TRACES:
            raise ValueError(f"Continuous(trace=...) is None or one of {TRACES}; got {trace!r}")
        if not (0 <= penalty < math.inf and 0 < tolerance < 1):
            raise ValueError(
                "Continuous needs a finite penalty >= 0 and a tolerance between 0 and 1; "
                f"got penalty={penalty}, tolerance={tolerance}"
            )
        if penalised not in PENALISED:
            raise ValueError(f"Continuous(penalised=...) is one of {PENALISED}; got {penalised!r}")
        self.penalised = penalised
        if penalised == "local":
            called_without(self, "penalised")
        self.hidden, self.steps, self.trace = tuple(hidden), steps, trace
        self.penalty, self.tolerance = penalty, tolerance

    def build(self, dim: int, context: int) -> ConditionalFlow:
        return _ContinuousFlow(self, dim, context)


@dataclass(frozen=True)
class _Given:
    """What a solve needs of the context and of the weights, computed once for it.

    Args:
        shifts: s_i(c), (batch, H_i) for each layer.
        offset: m(c), (batch, D).
        matrix: A(c), (batch, D, D).
        trace: tr A(c), (batch,).
        paths: M, (H_2, H_1), where there are two layers and the trace is exact.
        probes: Vectors n whose n^T J n are added up, each (D,) or (n, batch, D), where there is no M.
    """

    shifts: Sequence[Tensor]
    offset: Tensor
    matrix: Tensor
    trace: Tensor
    paths: Tensor | None
    probes: Sequence[Tensor]


class _Field(nn.Module):
    """v(z, t; c) and its trace."""

    def __init__(self, dim: int, context: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.hidden = dim, list(hidden)
        sizes = itertools.pairwise([dim, *hidden])
        self.layers = nn.ModuleList([nn.Linear(before, after, bias=False) for before, after in sizes])
        self.clock = nn.Parameter(torch.empty(sum(hidden)).uniform_(-1, 1))
        self.last = nn.Linear(hidden[-1], dim, bias=False)
        self.widths = [*hidden, dim, dim * dim]
        self.first_given = nn.Linear(context, max(hidden))
        self.last_given = nn.Linear(max(hidden) + context, sum(self.widths))
        with torch.no_grad():
            self.last.weight.zero_()
            self.last_given.weight[sum(hidden) :] = 0
            self.last_given.bias[sum(hidden) :] = 0

    def prepare(self, context: Tensor, noise: Tensor | None = None) -> _Given:
        """Everything that stays the same during a solve; the trace is exact unless there is noise, (n, batch, D)."""
        features = torch.cat([nn.functional.silu(self.first_given(context)), context], dim=-1)
        parts = self.last_given(features)
        *shifts, offset, matrix = parts.split(self.widths, dim=-1)
        matrix = matrix.unflatten(-1, (self.dim, self.dim))
        paths, probes = None, ()
        if noise is not None:
            probes = (noise,)
        elif len(self.layers) == 2:
            first, second = (cast(nn.Linear, layer).weight for layer in self.layers)
            paths = second * (first @ self.last.weight).T
        else:
            probes = torch.eye(self.dim, dtype=context.dtype, device=context.device).unbind()
        trace = matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
        return _Given(shifts, offset, matrix, trace, paths, probes)

    def forward(self, t: Tensor, state: State, given: _Given) -> State:
        """Rate of change of z, and of log |det| where the state has it; t broadcasts against (n, batch, 1)."""
        z = hidden = state[..., : self.dim]
        slopes = []
        for layer, shift, clock in zip(self.layers, given.shifts, self.clock.split(self.hidden), strict=True):
            hidden = torch.tanh(layer(hidden) + (shift + t * clock))
            slopes.append(1 - hidden.square())
        linear = (given.matrix @ z.movedim(0, -1)).movedim(-1, 0)
        velocity = self.last(hidden) + linear + given.offset
        if state.shape[-1] == self.dim:
            return velocity.to(state.dtype)
        trace = self._trace(slopes, given) + given.trace
        return torch.cat([velocity, trace[..., None]], dim=-1).to(state.dtype)

    def _trace(self, slopes: Sequence[Tensor], given: _Given) -> Tensor:
        if given.paths is not None:
            return (nn.functional.linear(slopes[0], given.paths) * slopes[1]).sum(-1)
        total = torch.zeros_like(slopes[0][..., 0])
        for probe in given.probes:
            tangent = probe
            for layer, slope in zip(self.layers, slopes, strict=True):
                tangent = slope * layer(tangent)
            total = total + (probe * self.last(tangent)).sum(-1)
        return total


class _ContinuousFlow(ConditionalFlow):
    def __init__(self, plan: Continuous, dim: int, context: int) -> None:
        super().__init__(dim, context)
        self.steps, self.penalty, self.tolerance = plan.steps, plan.penalty, plan.tolerance
        self.penalised = plan.penalised
        self.trace = plan.trace or ("exact" if len(plan.hidden) == 2 or dim <= 32 else "rademacher")
        self.field = _Field(dim, context, plan.hidden)

    def encode(self, z: Points, context: Context) -> tuple[Points, Logs]:
        """Noise e = f(z; c) and log |det df/dz|, to the tolerance, differentiable through the solver's steps.

        Raises:
            ValueError: If the equation has no finite solution: z, the context or the weights are not finite.
        """
        end = self._solve(_with_log_det(z), context, 0.0, 1.0)
        if end is None:
            raise ValueError(
                "the continuous flow's equation has no finite solution; look for values that are not finite in z "
                f"(the largest is {float(z.abs().max()):.3g}), in the context or in the weights"
            )
        return end[..., :-1], end[..., -1]

    def decode(self, noise: Points, context: Context) -> Points:
        """z = f^{-1}(noise; c), to the tolerance; NaN where the equation has no finite solution."""
        end = self._solve(noise, context, 1.0, 0.0)
        return torch.full_like(noise, torch.nan) if end is None else end

    def loss(self, z: Row, context: RowContext, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """-log q(z | c) on the fixed grid, plus the penalty; in evaluation mode on a grid twice as fine, without it.

        What is kept after training is chosen by the latter, so that no field wins by the error of its grid.
        """
        from torchdiffeq import odeint  # brings scipy

        self._check("z", z, context)
        steps = self.steps if self.training else 2 * self.steps
        given = self.field.prepare(context, self._noise(z, generator))

        def rate(t: Tensor, state: Tensor) -> Tensor:
            return self.field(t, state, given)

        grid = torch.linspace(0.0, 1.0, steps + 1, dtype=z.dtype, device=z.device)
        states = cast(Tensor, odeint(rate, _with_log_det(z[None]), grid, method="rk4"))
        noise, log_det = states[-1, 0, :, :-1], states[-1, 0, :, -1]
        loss = -log_normal(noise) - log_det
        if not self.training or self.penalty == 0:
            return loss
        if self.penalised != "local":
            times = [k / steps for k in range(steps + 1)]
            return loss + self.penalty * COSTS[self.penalised](rate, times, states)
        j = torch.randint(steps, (len(z),), generator=generator, device=generator.device).to(z.device)
        start = states.detach()[j, 0, torch.arange(len(z), device=z.device)][None]
        return loss + self.penalty * rms(local_error(rate, grid[j][:, None], start, 1.0 / steps))

    def _noise(self, z: Tensor, generator: torch.Generator) -> Tensor | None:
        """Hutchinson's n, (1, batch, D), one for each row and solve."""
        shape, where = (1, *z.shape), {"generator": generator, "device": generator.device}
        if self.trace == "exact":
            return None
        if self.trace == "gaussian":
            return torch.randn(shape, dtype=z.dtype, **where).to(z.device)
        return 2 * torch.randint(2, shape, **where).to(z) - 1

    def _solve(self, state: State, context: Tensor, begin: float, end: float) -> State | None:
        """The state at the end, or None where the solver meets a value that is not finite.

        Never under autocast, whose rounding the solver would take for a field that needs ever smaller steps.
        """
        from torchdiffeq import odeint

        times = torch.linspace(begin, end, 2, dtype=state.dtype, device=state.device)
        control = {"rtol": self.tolerance, "atol": self.tolerance, "options": {"norm": _worst_row}}
        with single_precision(state):
            given = self.field.prepare(context.to(state.dtype))
            try:
                states = odeint(lambda t, y: self.field(t, y, given), state, times, method="dopri5", **control)
            except AssertionError:  # how torchdiffeq says so
                return None
        return cast(Tensor, states)[-1]


def _with_log_det(z: Tensor) -> Tensor:
    return torch.cat([z, z.new_zeros(*z.shape[:-1], 1)], dim=-1)


def _worst_row(error: Tensor) -> Tensor:
    """The largest of the rows' root mean squares: no row's error hides among those of the others."""
    return error.square().mean(-1).amax().sqrt()
