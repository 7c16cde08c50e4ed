r"""A space-time Fourier operator, and the refinement of its last layer by the equation alone.

Time is one more direction of the grid. Layers over (t, *x) lead to channels v, and the last layer is a spectral
convolution. So the solution is a Fourier series in time,

    u(t, x) = u_0(x) + d (c(t, x) - c(0, x)),      c(t, x) = sum_{|j| < m} sum_k e^{i (2 pi j t / P + k x)} y_jk,
    y_jk = W_jk vhat_jk + b_jk.

u_0 is the start, and d is a scale. The period P is longer than the time T of the solution, which need not be periodic:
frames are padded with zeros. The series can be evaluated at any time. A training of a few epochs finds all weights with
a few waves, and b = 0.

For one observation, W and b of the last layer have an effect through the coefficients y only, and u is linear in y.
`refine` takes y as the unknowns, for all waves of the grid and for more waves in time. It minimises the residual of
du/dt = rate(u),

    R(y) = 1/T int_0^T |du/dt - rate(u)|_-1^2 dt,        |r|_-1^2 = sum_k |rhat(k)|^2 / (1 + |k|^2),

in double precision, k in waves per box. The sum is exact (Parseval), and the integral is a sum over many evenly spaced
times. du/dt is the derivative of the series itself. (A derivative from a solver's step that starts at a predicted frame
would not do: it satisfies the equation whatever the frame.)

Two transformations make the problem well-conditioned. First, the time derivatives of the waves are far from independent
on [0, T], so they are made orthogonal there (by singular values; those below 1e-8 of the largest are left out). The
unknowns are then derivatives, and u is their integral. Second, the equation, linearised around the mean of the
trajectory, is diagonal in k, dv_k/dt = s_k v_k, where s is the transform of its response to a disturbance of one point.
So for every k the matrix of d/dt - s_k is inverted. The remaining operator is of order one, except for transport.
Gauss-Newton rounds of conjugate gradients solve it; each conjugate-gradient iteration counts as one step.

Good values: frames that start smoothly, and a period of 1.5 to 2 T. Flows of 64 x 64 points to t = 8 were predicted
with errors of 8 to 21 % after ten epochs on 200 of them. Then at most 50 steps divided the root of R by 258 to 5,700
and left errors of 7e-6 to 1.4e-3, each in 4 to 10 % of the CPU time of an epoch (benchmarks/refinement.py). Where fine
structures decay within the first frame, as from the usual random starts, a series cannot follow: the root of R fell 9-
to 250-fold, errors 70-fold or more. More waves give smaller errors, after more steps. There are two limits. A solver of
that equation takes a thirtieth of the time of a refinement. And refinement reached nearly the same errors from a
network that was never trained, except for the least viscous flows, where errors were up to eight times as large.

**Least squares** are solved by Gauss-Newton rounds of conjugate gradients.

A round linearises the residual r(z) around z. It minimises |r + J d|^2 over the step d by conjugate gradients on J^T J
d = -J^T r. J and its transpose are only applied to vectors, by automatic differentiation. A round ends when the
gradient is 3 % of its initial size, or after 25 iterations. If a step makes a row's |r| larger, it is halved up to four
times, and then discarded. Rounds end when |r| of no row falls by 1 % any more.

References:
    | Spectral-Refiner: Accurate Fine-Tuning of Spatiotemporal Fourier Neural Operator for Turbulent Flows (Cao et al.,
      2025), https://arxiv.org/abs/2405.17211
    | On the Fourier Extension of Nonperiodic Functions (Huybrechs, 2010), https://doi.org/10.1137/090752456
    | Methods of Conjugate Gradients for Solving Linear Systems, section 10 (Hestenes & Stiefel, 1952),
      https://doi.org/10.6028/jres.049.044
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core import Batch, Observable, Prior, Surrogate, X
from sciinf.core.checks import check_positive, check_whole
from sciinf.core.prior import global_seed
from sciinf.emulators._errors import Predicting
from sciinf.emulators.losses import FieldLoss, RelativeL2, squared_modes
from sciinf.networks.spectral import FourierLayer, Pointwise, SpectralConv, around
from sciinf.simulators.dynamics.field_equation import Evolution
from sciinf.simulators.dynamics.frames import spacing

_SPAN = 1e-8  # Least singular value of the time derivatives, relative to the largest.
_PER_WAVE = 3  # Number of times at which the residual is evaluated, per wave in time.


@final
class SpectralRefiner(Predicting):
    """A neural operator from a field to its trajectory, over space and time at once.

    Args:
        prior: The simulator's prior.
        observables: The simulator's observables; frames of the target are evenly spaced and the first is the start
            itself.
        width: Channels of the layers.
        modes: Waves with numbers below this are kept in each direction of space.
        modes_time: Number m of waves kept in time.
        layers: Number of layers before the last.
        padding: Zeros after the last frame, as a fraction of the frames.
        coordinates: Whether the network knows the place of a point, by a sine and a cosine around each direction. Set
            this to False where the equation is the same everywhere.
        target: Name of the observable that is predicted.
        start: Name of the field that it starts from, with the target's channels.
        stays: Names of constant fields.
        loss: Distance of fields; `RelativeL2()` if None.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If names or layouts do not go together, a number is not positive, or there is no second frame.
    """

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        width: int = 16,
        modes: int = 12,
        modes_time: int = 5,
        layers: int = 3,
        padding: float = 0.5,
        coordinates: bool = True,
        target: str = "u",
        start: str = "initial",
        stays: Sequence[str] = (),
        loss: FieldLoss | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, target, (start, *stays), seed)
        check_positive(width=width, modes=modes, layers=layers)
        check_whole("modes_time", modes_time, 2)
        if not 0 < padding < math.inf:
            raise ValueError(f"padding is a fraction of the frames, above 0 as time is not periodic, got {padding}")
        if self.observables[start].shape[0] != self.channels:
            raise ValueError(f"{start!r} has {self.observables[start].shape[0]} channels, {target!r} {self.channels}")
        if self.frames < 2 or not self.space:
            raise ValueError(f"{target!r} has shape {self.observables[target].shape}: a trajectory of fields is needed")
        self.padded, self.distance = math.ceil(self.frames * (1 + padding)), loss or RelativeL2()
        kept = (modes_time, *[modes] * len(self.space))
        self.register_buffer(
            "places", around(self.space, self.target_mean) if coordinates else torch.zeros(0, *self.space), False
        )
        with global_seed(torch.Generator().manual_seed(seed)):
            self.enter = Pointwise(self.channels_given + len(self.places) + 1, width)
            self.layers = nn.ModuleList(FourierLayer(width, kept, len(prior.names)) for _ in range(layers))
            self.last = SpectralConv((width, self.channels), kept)

    places: Tensor

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        true = batch.x[self.target].to(self.target_mean)[:, 1:]  # The start is exact and has no error.
        _, sd = self.level()
        found = self.predict(batch.theta, batch.x)[:, 1:]
        return self.distance(found / sd, true / sd, directions=len(self.space))

    def predict(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch time channel *space"]:
        waves = self.scaled(theta, given)[:, : self.frames]
        return given[self.given[0]].to(waves)[:, None] + (waves - waves[:, :1])

    def scaled(self, theta: Float[Tensor, "batch theta"], given: X) -> Float[Tensor, "batch frame channel *space"]:
        """The scaled series d c at frames, and beyond them to the end of the period."""
        known = (self.stacked(given).to(self.given_mean) - self.given_mean) / self.given_sd
        known = torch.cat([known, self.places.expand(len(known), *self.places.shape)], 1)
        known = known[:, :, None].expand(-1, -1, self.frames, *self.space)
        clock = torch.linspace(-1.0, 1.0, self.frames, dtype=known.dtype, device=known.device)
        clock = clock.reshape(-1, *[1] * len(self.space)).expand(len(known), 1, -1, *self.space)
        hidden, z = self.enter(torch.cat([known, clock], 1)), self.z(theta)
        hidden = F.pad(hidden, [0, 0] * len(self.space) + [0, self.padded - self.frames])
        for layer in self.layers:
            hidden = layer(hidden, z)
        return self.target_sd.square().mean(0).sqrt() * self.last(hidden).transpose(1, 2)

    def path(self, theta: Float[Tensor, "batch theta"], given: X, spacing: float = 1.0) -> FourierPath:
        """The prediction as a series that can be evaluated at any time.

        Args:
            theta: Parameters, in the prior's order and units.
            given: Name -> (batch, channel, *space) of the fields that the prediction starts from.
            spacing: Time between frames.
        """
        waves, frames = self.scaled(theta, given), self.padded
        count = min(self.last.modes[0], (frames + 1) // 2) - 1
        angle = 2 * math.pi / frames * torch.outer(torch.arange(1, count + 1), torch.arange(frames)).double()
        transform = (2 / frames * torch.cat([angle.cos(), angle.sin()])).to(waves)
        found = torch.einsum("jt,bt...->bj...", transform, waves)
        return FourierPath(given[self.given[0]].to(waves), found.unflatten(1, (2, count)), frames * spacing)


@dataclass(frozen=True)
class FourierPath:
    """A trajectory as a Fourier series in time, sum_j (cos w_j t - 1) a_j + sin w_j t b_j from its start.

    Attributes:
        start: The start, (batch, channel, *space).
        waves: Coefficients a and b, (batch, 2, count, channel, *space), with w_j = 2 pi j / period for j = 1..count.
        period: Period of the series, in units of time.
    """

    start: Tensor
    waves: Tensor
    period: float

    def at(self, times: Float[Tensor, " time"]) -> Float[Tensor, "batch time channel *space"]:
        """Fields at times from 0 on."""
        return self.start[:, None] + self._summed(times, 0)

    def slope(self, times: Float[Tensor, " time"]) -> Float[Tensor, "batch time channel *space"]:
        """Time derivatives of the fields."""
        return self._summed(times, 1)

    def _summed(self, times: Tensor, order: int) -> Tensor:
        basis = _basis(times, self.waves.shape[2], self.period, order).to(self.waves)
        return torch.einsum("tj,bj...->bt...", basis, self.waves.flatten(1, 2))


@dataclass(frozen=True)
class RefinedFields:
    """Refined predictions, with their residuals.

    Attributes:
        solution: Fields at the equation's times, (batch, time, channel, *space), float64.
        path: The same solution as a series in time.
        before: Root of R of the prediction, (batch,), at times between those that were used.
        after: Root of R of the refined solution, at the same times.
        steps: Number of conjugate-gradient iterations.
    """

    solution: Tensor
    path: FourierPath
    before: Tensor
    after: Tensor
    steps: int


def refine(
    surrogate: Surrogate,
    equation: Evolution,
    theta: Float[Tensor, "batch theta"],
    given: X,
    *,
    steps: int = 50,
    waves: int | None = None,
) -> RefinedFields:
    """Make predictions satisfy the equation, by a change of the last layer's coefficients alone.

    The surrogate itself is not changed.

    Args:
        surrogate: A `SpectralRefiner`, for which a short training is enough.
        equation: The equation of its frames, on a periodic grid; the equation's own solver is not used.
        theta: Parameters, in the prior's order and units.
        given: Name -> (batch, channel, *space) of the fields that solutions start from.
        steps: Largest number of conjugate-gradient iterations.
        waves: Number of waves in time. If None, half the padded frames, which is the most that these can represent.
            More waves need more steps, but solutions with fast changes need them.

    Raises:
        TypeError: If the surrogate is of another kind.
        ValueError: If the equation's frames or grid are not the surrogate's, or frames are not evenly spaced from 0.
    """
    if not isinstance(surrogate, SpectralRefiner):
        raise TypeError(f"only a SpectralRefiner has a last layer to refine, got {type(surrogate).__name__}")
    times, layout = equation.times, (surrogate.channels, *surrogate.space)
    if len(times) != surrogate.frames or times[0] != 0:
        raise ValueError(f"frames at {times}: expected {surrogate.frames}, the first at 0")
    apart = spacing(times)
    if equation.observables[surrogate.target].shape[1:] != layout:
        raise ValueError(f"the equation's fields are {equation.observables[surrogate.target].shape[1:]}, not {layout}")
    with torch.no_grad():
        path = copy.deepcopy(surrogate).double().path(theta.double(), given, apart)
    return correct(path, equation, theta, steps=steps, waves=surrogate.padded // 2 if waves is None else waves)


@torch.no_grad()
def correct(
    path: FourierPath, equation: Evolution, theta: Float[Tensor, "batch theta"], *, waves: int, steps: int = 50
) -> RefinedFields:
    """Make a trajectory from any source satisfy an equation.

    Args:
        path: The trajectory, float64.
        equation: The equation du/dt = rate(u), on a periodic grid.
        theta: Parameters of the equation.
        waves: Number of waves in time, at least as many as in the path.
        steps: Largest number of conjugate-gradient iterations.

    Raises:
        ValueError: If the grid is not periodic, waves are fewer than the path's, or a number is not positive.
    """
    check_whole("steps", steps, 1)
    check_whole("waves", waves, max(1, path.waves.shape[2]))
    if not equation.grid.periodic or not equation.grid.shape:
        raise ValueError(
            f"a refinement needs a Fourier series in space, but the grid of {equation.name!r} is not periodic"
        )
    theta, ends = theta.double(), equation.times[-1]
    device, count = path.start.device, _PER_WAVE * waves
    grid_of_times = torch.linspace(0.0, ends, count, dtype=torch.float64, device=device)
    between = grid_of_times[:-1] + ends / (count - 1) / 2
    squares = _Squares(path, equation, theta, waves, grid_of_times)
    z, taken = gauss_newton(squares.residual, torch.zeros(squares.shape, dtype=torch.float64, device=device), steps)
    found = squares.path(z)
    before, after = (residual_norm(p, equation, theta, between) for p in (path, found))
    solution = found.at(torch.tensor(equation.times, dtype=torch.float64, device=device))
    return RefinedFields(solution, found, before, after, taken)


@torch.no_grad()
def residual_norm(
    path: FourierPath, equation: Evolution, theta: Float[Tensor, "batch theta"], times: Float[Tensor, " time"]
) -> Float[Tensor, " batch"]:
    """Root of the mean, over times, of |du/dt - rate(u)|_-1^2."""
    left = path.slope(times) - equation.rate(path.at(times), theta)
    return squared_modes(left, len(equation.grid.shape), -1.0).flatten(2).sum(2).mean(1).sqrt()


@final
class _Squares:
    """The least-squares problem R, in coordinates z in which R is nearly |z|^2."""

    def __init__(self, path: FourierPath, equation: Evolution, theta: Tensor, waves: int, times: Tensor) -> None:
        grid, self.start = equation.grid, path
        self.equation, self.theta, self.waves = equation, theta, waves
        share = torch.full_like(times, 1 / (len(times) - 1))
        share[[0, -1]] /= 2
        values, slopes = (_basis(times, waves, path.period, order) for order in (0, 1))
        _, size, back = torch.linalg.svd(share.sqrt()[:, None] * slopes, full_matrices=False)
        self.span = (back.mT / size)[:, size > _SPAN * size[0]]  # This maps orthogonal derivatives to waves.
        self.both = torch.cat([values, slopes]) @ self.span
        self.base, self.base_slope = path.at(times), path.slope(times)
        point = torch.zeros(grid.shape, dtype=torch.float64, device=times.device)
        point[(0,) * point.ndim] = 1.0
        norm = squared_modes(point, point.ndim, -1.0).sqrt()
        self.weight = share.sqrt().reshape(-1, *[1] * (1 + norm.ndim)) * norm
        symbol = _symbol(equation, theta, self.base, point)
        scaled = (share.sqrt()[:, None] * self.both.unflatten(0, (2, -1))).to(symbol)
        linear = scaled[1] - symbol[..., None, None] * scaled[0]
        factor = torch.linalg.cholesky(linear.mH @ linear)
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        self.undo = torch.linalg.solve_triangular(factor.mH, eye, upper=True) / norm[..., None, None]
        self.shape = (*symbol.shape, self.span.shape[1], 2)

    def path(self, z: Tensor) -> FourierPath:
        """The trajectory with coordinates z."""
        change = self._summed(self.span, z).unflatten(1, (2, self.waves))
        change[:, :, : self.start.waves.shape[2]] += self.start.waves
        return FourierPath(self.start.start, change, self.start.period)

    def residual(self, z: Tensor) -> Tensor:
        """Residual numbers, whose sum of squares is R."""
        value, slope = self._summed(self.both, z).chunk(2, 1)
        left = self.base_slope + slope - self.equation.rate(self.base + value, self.theta)
        return torch.view_as_real(self.equation.grid.transformed(left) * self.weight)

    def _summed(self, basis: Tensor, z: Tensor) -> Tensor:
        modes = (self.undo @ torch.view_as_complex(z)[..., None])[..., 0]
        return self.equation.grid.back(torch.einsum("tj,b...j->bt...", basis.to(modes), modes))


def _symbol(equation: Evolution, theta: Tensor, base: Tensor, point: Tensor) -> Tensor:
    """Growth rates s of waves on the trajectory's mean, for every row, channel and mode, (batch, channel, *modes).

    Positive growth rates are set to 0.
    """
    axes = (1, *range(3, base.ndim))
    mean, found = base.mean(axes, keepdim=True).expand(-1, 1, -1, *point.shape).clone(), []
    for channel in range(base.shape[2]):
        push = torch.zeros_like(mean)
        push[:, :, channel] = point
        response = torch.func.jvp(lambda field: equation.rate(field, theta), (mean,), (push,))[1]
        found.append(equation.grid.transformed(response[:, 0, channel]))
    symbol = torch.stack(found, 1)
    return torch.complex(symbol.real.clamp_max(0.0), symbol.imag)


def _basis(times: Tensor, count: int, period: float, order: int) -> Float[Tensor, "time wave"]:
    """Basis functions cos w t - 1 for every w, then sin w t; or their time derivatives if `order` is 1."""
    w = 2 * math.pi / period * torch.arange(1, count + 1, dtype=torch.float64, device=times.device)
    angle = times.double()[:, None] * w
    return torch.cat([-w * angle.sin(), w * angle.cos()] if order else [angle.cos() - 1, angle.sin()], 1)


_ROUND = 25  # Conjugate-gradient iterations before the residual is linearised again.
_CLOSE = 0.03  # A round ends when the gradient is this fraction of its initial size.
_STALLED = 0.99  # Rounds end when |r| is still at least this fraction of its size before the round.

Residual = Callable[[Tensor], Tensor]
"""r; differentiable."""


def gauss_newton(residual: Residual, z: Tensor, steps: int) -> tuple[Tensor, int]:
    """Minimise |r|^2 for each row.

    Args:
        residual: r, from (batch, ...) to (batch, ...), whose rows are independent of each other.
        z: Initial value.
        steps: Largest number of conjugate-gradient iterations.

    Returns:
        The minimising z, and the number of iterations.
    """
    size, taken = _dot(residual(z)), 0
    while taken < steps:
        move, count = _conjugate_gradients(residual, z, min(_ROUND, steps - taken))
        taken += count
        new = _dot(residual(z + move))
        for _ in range(4):
            worse = ~(new <= size)
            if not worse.any():
                break
            move = torch.where(_rows(worse, move), move / 2, move)
            new = _dot(residual(z + move))
        better = new < size
        z = torch.where(_rows(better, move), z + move, z)
        if not (new < _STALLED**2 * size).any():
            break
        size = torch.where(better, new, size)
    return z, taken


def _conjugate_gradients(residual: Residual, z: Tensor, steps: int) -> tuple[Tensor, int]:
    """The step from z that solves the linearised least-squares problem, and the number of iterations."""
    left, back, *_ = torch.func.vjp(residual, z)
    left, move = -left, torch.zeros_like(z)
    down = back(left)[0]
    along, power = down, _dot(down)
    enough, taken = _CLOSE**2 * power, 0
    while taken < steps and bool((power > enough).any()):
        image = torch.func.jvp(residual, (z,), (along,))[1]
        far = power / _dot(image).clamp_min(1e-300)
        move = move + _rows(far, along) * along
        left = left - _rows(far, image) * image
        down = back(left)[0]
        new = _dot(down)
        along, power, taken = down + _rows(new / power.clamp_min(1e-300), along) * along, new, taken + 1
    return move, max(taken, 1)


def _dot(a: Tensor) -> Tensor:
    return a.square().flatten(1).sum(1)


def _rows(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (like.ndim - 1))
