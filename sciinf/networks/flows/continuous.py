r"""A continuous normalizing flow: the map is the solution of a differential equation whose field is a network.

With the data z(0) = z and the noise z(1) = e ~ N(0, I),

    dz/dt = v(z, t; c),      d/dt log |det dz(t)/dz(0)| = tr dv/dz,

`encode` solves both equations from t = 0 to 1. `decode` solves the first one from t = 1 to 0. The log density is

    log q(z | c) = log N(z(1); 0, I) + int_0^1 tr dv/dz dt.

**Field.** The field is a network of hidden layers h_i = tanh(W_i h_{i-1} + s_i(c) + t u_i), h_0 = z, plus a part that
is linear in z:

    v(z, t; c) = V h_K + A(c) z + m(c).

A second network computes s_i, A and m. They are linear in c and in one hidden layer of c. The second network is
evaluated once per solve, not once per evaluation of v. With V = 0 the flow can represent every Gaussian whose mean and
covariance depend on c. V starts at 0.

**Trace.** With two hidden layers and derivatives a_i = 1 - h_i^2, (..., H_i), the trace has a closed form. It costs no
more than one further layer, for any D:

    tr dv/dz = a_2^T M a_1 + tr A(c),      M = W_2 * (W_1 V)^T      (entry by entry, once per solve).

With any other number of layers, tr J = tr V diag(a_K) W_K ... diag(a_1) W_1 is computed in one of two ways. The sum of
e_d^T J e_d over the D unit vectors is exact, at D times the cost. Hutchinson's estimate is n^T J n with random n, E[n
n^T] = I. There n is drawn once per solve, so the solver integrates a smooth field. The estimated integral has no bias.
tr A(c) is always exact.

**Training** solves the equation with RK4 on a grid of equal steps, and differentiates through the solver. Densities and
samples are solved with Dormand-Prince 5(4). Its adaptive steps keep the local error of the worst row within the
tolerance, so the cost depends on the learned field. A penalty makes training prefer fields that are cheap to solve. The
penalty is one of the costs of `networks.solver_cost`: "local" is the local error of one random step, from a state y_j
that is held constant. "sum" is R_E, over all steps. "stiffness" is R_S. The index j is drawn for each row, uniformly
from the J equal steps. The rms runs over the D + 1 numbers of y = (z, log det) and over the batch, as in the error norm
of a solver for the whole batch.

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

    `log_prob`, `encode` and `decode` are deterministic and use the exact trace for every D. All rows of a batch share
    the solver's steps. So the result of a row depends on the other rows, within the tolerance.

    Args:
        hidden: Widths of the field's hidden layers. With two layers the exact trace costs one more layer.
        steps: Number of steps of the fixed grid in training, with four evaluations of the field each. Validation uses
            twice as many.
        trace: How training computes the trace: "exact", or estimated with "rademacher" or "gaussian" noise. None is
            "exact" with two hidden layers or up to D = 32, and else "rademacher". Densities always use the exact trace.
        penalty: Weight of the solver cost in the loss. 0 leaves the cost out, which makes a training step a fifth
            cheaper.
        penalised: Solver cost that is penalised: "local" (local error of one step), "sum" (local errors of all steps)
            or "stiffness". "stiffness" has another scale; a weight of 0.01 was tried.
        tolerance: Relative and absolute local error of a row, for densities and samples. In single precision, rounding
            limits the accuracy below 1e-6.

    Raises:
        ValueError: If an argument is out of range.

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
    """Quantities that depend on context and weights alone, computed once per solve.

    Args:
        shifts: s_i(c), (batch, H_i) for each layer.
        offset: m(c), (batch, D).
        matrix: A(c), (batch, D, D).
        trace: tr A(c), (batch,).
        paths: M, (H_2, H_1), if there are two layers and the trace is exact; else None.
        probes: Vectors n whose products n^T J n are summed, each (D,) or (n, batch, D), if `paths` is None; else empty.
    """

    shifts: Sequence[Tensor]
    offset: Tensor
    matrix: Tensor
    trace: Tensor
    paths: Tensor | None
    probes: Sequence[Tensor]


class _Field(nn.Module):
    """The field v(z, t; c) and its trace."""

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
        """Quantities that stay constant during a solve.

        The trace is exact if `noise` is None. Otherwise it is estimated with `noise`, (n, batch, D).
        """
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
        """Time derivative of z, and of log |det| if the state contains it.

        Args:
            t: Time, which broadcasts against (n, batch, 1).
            state: z, or z and log |det|.
            given: Result of `prepare`.
        """
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
        """Noise e = f(z; c) and log |det df/dz|, within the tolerance, differentiable through the solver's steps.

        Raises:
            ValueError: If the equation has no finite solution, because z, the context or the weights are not finite.
        """
        end = self._solve(_with_log_det(z), context, 0.0, 1.0)
        if end is None:
            raise ValueError(
                "the continuous flow's equation has no finite solution; look for values that are not finite in z "
                f"(the largest is {float(z.abs().max()):.3g}), in the context or in the weights"
            )
        return end[..., :-1], end[..., -1]

    def decode(self, noise: Points, context: Context) -> Points:
        """Data z = f^{-1}(noise; c), within the tolerance; NaN if the equation has no finite solution."""
        end = self._solve(noise, context, 1.0, 0.0)
        return torch.full_like(noise, torch.nan) if end is None else end

    def loss(self, z: Row, context: RowContext, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """-log q(z | c) on the fixed grid, plus the penalty in training mode.

        Evaluation mode uses a grid twice as fine and no penalty. The best weights of a training are chosen by this
        loss, so a field cannot win by the error of its grid.
        """
        from torchdiffeq import odeint  # Imported here because torchdiffeq loads scipy.

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
        """Hutchinson's noise n, (1, batch, D), drawn for each row and solve; None if the trace is exact."""
        shape, where = (1, *z.shape), {"generator": generator, "device": generator.device}
        if self.trace == "exact":
            return None
        if self.trace == "gaussian":
            return torch.randn(shape, dtype=z.dtype, **where).to(z.device)
        return 2 * torch.randint(2, shape, **where).to(z) - 1

    def _solve(self, state: State, context: Tensor, begin: float, end: float) -> State | None:
        """The state at time `end`, or None if the solver meets a value that is not finite.

        The solver never runs under autocast. It would mistake the rounding for a field that needs ever smaller steps.
        """
        from torchdiffeq import odeint

        times = torch.linspace(begin, end, 2, dtype=state.dtype, device=state.device)
        control = {"rtol": self.tolerance, "atol": self.tolerance, "options": {"norm": _worst_row}}
        with single_precision(state):
            given = self.field.prepare(context.to(state.dtype))
            try:
                states = odeint(lambda t, y: self.field(t, y, given), state, times, method="dopri5", **control)
            except AssertionError:  # torchdiffeq raises this error for values that are not finite.
                return None
        return cast(Tensor, states)[-1]


def _with_log_det(z: Tensor) -> Tensor:
    return torch.cat([z, z.new_zeros(*z.shape[:-1], 1)], dim=-1)


def _worst_row(error: Tensor) -> Tensor:
    """Error norm of the solver: the largest root mean square of any row, so that no row's error is averaged away."""
    return error.square().mean(-1).amax().sqrt()
