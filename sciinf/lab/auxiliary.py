r"""Linear diffusions of data and auxiliary variables, through which noise can reach the data.

A number x_0 of the data and K - 1 auxiliaries form u in R^K. All D numbers of the data are treated alike, so
that u has shape (K, D). The diffusion is

    du = A u dt + B dW,    u_0 = (x_0, e_1, ..., e_{K-1}),    e_k ~ N(0, c_k) independent of x_0.

A rate beta(t) would only change the unit of time; t here is the integral of beta. With F = e^{A t}, a = the
first column of F, and Q = B B^T,

    Cov(u_t | u_0) = int_0^t e^{A v} Q e^{A^T v} dv =: S_0,        the solution of S' = A S + S A^T + Q, S(0) = 0,
    u_t | x_0 ~ N(a x_0, S),    S = F diag(0, c) F^T + S_0.

F and S_0 are computed by Taylor series at a short time, t halved often enough:
S_0 = sum_n C_n t^{n+1} / (n+1)! with C_0 = Q and C_{n+1} = A C_n + C_n A^T. Then the time is doubled again by
S_0(2t) = S_0 + F S_0 F^T. No terms cancel, so that the smallest entry of S_0 (t^3 for data behind one
auxiliary) is precise relative to itself. The block exponential of Van Loan is precise only relative to the
largest entry.

Hybrid score matching draws u_t given x_0, with the auxiliaries integrated out. With S = L L^T, where the
coordinates that receive noise stand last, u = a x_0 + L e and

    grad_u log p(u_t | x_0) = -S^{-1} (u - a x_0) = -L^{-T} e,

The reverse process needs only the entries of this gradient at coordinates that receive noise. These entries
depend on e at the same coordinates alone; for K = 2 the entry is -e_v / L_vv.

**What is to be learned.** Given x_0 everything is Gaussian. A sufficient statistic for x_0 is therefore
y = s^2 a^T S^{-1} u with s^{-2} = a^T S^{-1} a, for which y = x_0 + s e', and

    E[x_0 | u_t] = D(y, s),    grad log p(u_t) = -S^{-1} (u - a D(y, s)),    (s^{-2})' = -|B^T S^{-1} a|^2,

where D is the denoiser of any path of `schedule`. A denoiser that was trained without auxiliaries can
therefore be used with each of these diffusions (`joint_solver`). By the last equation, the bound on the
likelihood,

    1/2 int |B^T S^{-1} a|^2 E|D - x_0|^2 dt = int E|D - x_0|^2 s^{-3} ds,

is the same for all of them. Auxiliaries change the reverse process, and how easy the task is for a network
whose input is u. `hybrid` trains such a network.

References:
    | Where to Diffuse, How to Diffuse, and How to Get Back: Automated Learning for Multivariate Diffusions
      (Singhal et al., 2023), https://arxiv.org/abs/2302.07261
    | Score-Based Generative Modeling with Critically-Damped Langevin Diffusion (Dockhorn et al., 2022),
      https://arxiv.org/abs/2112.07068
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core.component import Component
from sciinf.networks.diffusion.solver import Denoiser, noise_like

_TERMS = 15

Times = Float[Tensor, "*time"]
JointDenoiser = Callable[[Tensor, Tensor], Tensor]
"""D(u, t): u (*rows, K, D) and the time, of shape () or (*rows), to E[x_0 | u_t] (*rows, D)."""


@dataclass(frozen=True)
class Kernel:
    """The distribution N(a x_0, S) of u_t given x_0, at one or several times; float64.

    Attributes:
        mean: Factor a of x_0 in the mean, (*time, K).
        covariance: Covariance S, (*time, K, K).
        receives: Whether each coordinate receives noise, (K).
        factor: Lower Cholesky factor of S, (*time, K, K).
        pull: Vector S^{-1} a, (*time, K).
        level: Noise level s, (*time).
    """

    mean: Tensor
    covariance: Tensor
    receives: Tensor
    factor: Tensor = field(init=False)
    pull: Tensor = field(init=False)
    level: Tensor = field(init=False)

    def __post_init__(self) -> None:
        factor, _ = torch.linalg.cholesky_ex(self.covariance)
        pull = torch.cholesky_solve(self.mean[..., None], factor)[..., 0]
        object.__setattr__(self, "factor", factor)
        object.__setattr__(self, "pull", pull)
        object.__setattr__(self, "level", (self.mean * pull).sum(-1).rsqrt())

    def draw(self, data: Float[Tensor, "*rows dim"], generator: torch.Generator) -> Float[Tensor, "*rows K dim"]:
        """Draw u_t given x_0."""
        return self._around(data, self.factor, generator)

    def lift(self, y: Float[Tensor, "*rows dim"], generator: torch.Generator) -> Float[Tensor, "*rows K dim"]:
        """Draw u_t given y from N(a y, S - s^2 a a^T), which does not depend on x_0."""
        along = torch.linalg.solve_triangular(self.factor, self.mean[..., None], upper=False)
        along = along * self.level[..., None, None]  # This vector has length 1.
        return self._around(y, self.factor - (self.factor @ along) @ along.mT, generator)

    def project(self, u: Float[Tensor, "*rows K dim"]) -> Float[Tensor, "*rows dim"]:
        """The sufficient statistic y = s^2 a^T S^{-1} u of u_t for x_0."""
        return ((self.pull * self.level[..., None] ** 2).to(u)[..., None] * u).sum(-2)

    def score(
        self, u: Float[Tensor, "*rows K dim"], denoised: Float[Tensor, "*rows dim"]
    ) -> Float[Tensor, "*rows K dim"]:
        """The score grad log p(u_t), given E[x_0 | u_t].

        If `denoised` is x_0 itself, the result is grad log p(u_t | x_0).
        """
        return -torch.cholesky_inverse(self.factor).to(u) @ self._off(u, denoised)

    def share(self) -> Float[Tensor, "*time"]:
        """The factor |[L^{-1} a]_r|^2 that converts a squared error of x_0 to a squared error of e_r.

        e_r is the noise e at the coordinates that receive noise.
        """
        factor, order = self._ordered()
        along = torch.linalg.solve_triangular(factor, self.mean[..., order, None], upper=False)
        return along[..., int((~self.receives).sum()) :, 0].square().sum(-1)

    def _around(self, centre: Tensor, factor: Tensor, generator: torch.Generator) -> Tensor:
        noise = noise_like(centre[..., None, :].expand(*centre.shape[:-1], len(self.receives), -1), generator)
        return self.mean.to(centre)[..., None] * centre[..., None, :] + factor.to(centre) @ noise

    def _off(self, u: Tensor, denoised: Tensor) -> Tensor:
        return u - self.mean.to(u)[..., None] * denoised[..., None, :]

    def _ordered(self) -> tuple[Tensor, Tensor]:
        """The Cholesky factor L of S with coordinates that receive noise last, and their order."""
        order = torch.argsort(self.receives.int(), stable=True)
        return torch.linalg.cholesky(self.covariance[..., order, :][..., :, order]), order


class LinearDiffusion(Component):
    """A linear diffusion of data and auxiliaries.

    Args:
        drift: Drift matrix A, (K, K).
        noise: Noise matrix B, (K, M).
        start: Variances c_k of the auxiliaries at time 0, (K - 1). Empty without auxiliaries.

    Raises:
        ValueError: If shapes do not agree, a variance is negative, a number is not finite, or noise does not
            reach the data.
    """

    def __init__(
        self, drift: Sequence[Sequence[float]], noise: Sequence[Sequence[float]], start: Sequence[float] = ()
    ) -> None:
        self.drift, self.noise = _matrix("drift", drift), _matrix("noise", noise)
        self.size = len(self.drift)
        self._start = torch.diag(torch.tensor([0.0, *start], dtype=torch.float64))
        if self.drift.shape[1] != self.size or len(self.noise) != self.size or len(self._start) != self.size:
            raise ValueError(
                f"a diffusion with {len(self._start) - 1} auxiliaries needs a square drift and a row of noise "
                f"for each coordinate; got a drift of shape {tuple(self.drift.shape)} and noise of "
                f"{tuple(self.noise.shape)}"
            )
        if not bool((self._start >= 0).all() and self._start.isfinite().all()):
            raise ValueError(f"variances of the auxiliaries must be finite and at least 0, got {list(start)}")
        self._powers, self._rises = series(self.drift, self.noise @ self.noise.T)
        self._times, self._levels = self._tabulate()

    def transition(self, time: Times) -> tuple[Float[Tensor, "*time K K"], Float[Tensor, "*time K K"]]:
        """The matrix F and the covariance S_0 of u_t given u_0; float64."""
        time = time.double()
        longest = float(self.drift.norm() * time.max()) if time.numel() else 0.0
        halvings = max(0, math.ceil(math.log2(4 * longest))) if longest > 0 else 0
        return moved(self._powers, self._rises, time, halvings)

    def kernel(self, time: Times) -> Kernel:
        """The distribution of u_t given x_0, with the auxiliaries integrated out."""
        mean, covariance = self.transition(time)
        covariance = covariance + mean @ self._start.to(mean.device) @ mean.mT
        return Kernel(mean[..., 0], covariance, (self.noise != 0).any(1))

    def moments(self, level: Times) -> tuple[Float[Tensor, "*time K"], Float[Tensor, "*time K K"]]:
        """The factor a and covariance S of u_t given x_0, at the time of a noise level.

        Raises:
            ValueError: If the diffusion does not reach the level.
        """
        kernel = self.kernel(self.time(level))
        return kernel.mean, kernel.covariance

    def rest(self) -> Float[Tensor, "K K"]:
        """The stationary covariance P of u, which solves A P + P A^T + B B^T = 0.

        Raises:
            ValueError: If the diffusion has no stationary distribution.
        """
        eye, gain = torch.eye(self.size, dtype=torch.float64), self.noise @ self.noise.T
        if not bool((torch.linalg.eigvals(self.drift).real < 0).all()):
            raise ValueError(
                f"a diffusion with the drift {self.drift.tolist()} does not come to rest: use a drift "
                "whose eigenvalues all have negative real parts"
            )
        both = torch.kron(self.drift, eye) + torch.kron(eye, self.drift)
        found = torch.linalg.solve(both, -gain.flatten()).reshape(self.size, self.size)
        return 0.5 * (found + found.T)

    def level(self, time: Times) -> Times:
        """The noise level s at each time, which is the sd of y given x_0. The level grows with time."""
        return self.kernel(time).level.to(time)

    def time(self, level: Times) -> Float[Tensor, "*time"]:
        """The time at which the noise level is s, up to a relative error of 1e-5 in s; float64.

        Raises:
            ValueError: If the diffusion does not reach the level.
        """
        wanted = level.double().log()
        times, levels = self._times.to(wanted.device), self._levels.to(wanted.device)
        if wanted.numel() and not bool((wanted.min() >= levels[0]) and (wanted.max() <= levels[-1])):
            raise ValueError(
                f"this diffusion goes from noise level {float(levels[0].exp()):.2g} to {float(levels[-1].exp()):.2g}, "
                f"not from {float(level.min()):.2g} to {float(level.max()):.2g}; choose a path within its levels"
            )
        cell = torch.searchsorted(levels, wanted.contiguous()).clamp(1, len(levels) - 1)
        slope = (times[cell] - times[cell - 1]) / (levels[cell] - levels[cell - 1])
        found = times[cell - 1] + slope * (wanted - levels[cell - 1])
        # The table alone is right to about 1e-5. These steps keep its slopes, as Newton's method would fail:
        # in some diffusions the level pauses, and its derivative is near 0 there.
        for _ in range(2):
            found = found + slope * (wanted - self.kernel(found.exp()).level.log())
        return found.exp()

    def joint(self, denoise: Denoiser) -> JointDenoiser:
        """A function that computes E[x_0 | u_t] by the denoiser D(y, s) of a path without auxiliaries."""

        def call(u: Tensor, time: Tensor) -> Tensor:
            kernel = self.kernel(time)
            return denoise(kernel.project(u), kernel.level.to(u))

        return call

    def _tabulate(self) -> tuple[Tensor, Tensor]:
        """A table of log t and log s, both increasing, over the times at which s is precise.

        Raises:
            ValueError: If noise does not reach the data.
        """
        rate = max(float(self.drift.norm()), 1e-3)
        times = torch.exp2(torch.arange(-40.0, 40.0, 1 / 64, dtype=torch.float64)) / rate
        levels = self.kernel(times).level
        good = levels.isfinite() & (levels > 1e-5) & (levels < 1e6)
        rising = good[1:] & good[:-1] & (levels[1:] > levels[:-1])
        if not bool(rising.any()):
            raise ValueError(
                f"noise does not get to the data by drift {self.drift.tolist()} and noise {self.noise.tolist()}; every "
                "coordinate must receive noise, directly or through other coordinates"
            )
        start = int(rising.int().argmax())
        stops = torch.nonzero(~rising[start:])
        stop = start + (int(stops[0]) if len(stops) else len(rising) - start)
        return times[start : stop + 1].log(), levels[start : stop + 1].log()


def variance_preserving() -> LinearDiffusion:
    """The diffusion dx = -x/2 dt + dW without auxiliaries.

    It is `schedule.VariancePreserving` with b(t) as the time.
    """
    return LinearDiffusion([[-0.5]], [[1.0]])


def critically_damped(mass: float = 0.25, start: float = 0.04) -> LinearDiffusion:
    """Critically damped Langevin dynamics of x and a velocity v; only v receives noise.

    dx = v / m dt, dv = -x dt - 2 v / sqrt(m) dt + 2 m^{1/4} dW. The stationary distribution is N(0, 1) x N(0,
    m). With this damping x and v do not oscillate.

    Args:
        mass: Mass m.
        start: Variance of v at time 0, in units of m.

    Raises:
        ValueError: Unless the mass is above 0 and start at least 0.
    """
    if not (mass > 0 and start >= 0):
        raise ValueError(f"critically_damped needs a mass above 0 and a start of at least 0, got {mass} and {start}")
    damping = 2 * math.sqrt(mass)
    return resting([1.0, mass], [[0.0, -1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, damping]], [start * mass])


def resting(
    variances: Sequence[float],
    swirl: Sequence[Sequence[float]],
    damping: Sequence[Sequence[float]],
    start: Sequence[float] = (),
) -> LinearDiffusion:
    """The linear diffusion with swirl Q, damping R and the stationary distribution N(0, diag(variances)).

    A = -(Q + R) diag(variances)^{-1} and B B^T = 2 R. All linear diffusions with this stationary distribution
    have this form.

    Args:
        variances: Stationary variance of each coordinate, above 0, (K).
        swirl: Antisymmetric matrix Q, (K, K).
        damping: Symmetric, positive semidefinite matrix R, (K, K).
        start: Variances of the auxiliaries at time 0, (K - 1); see `LinearDiffusion`.

    Raises:
        ValueError: If a matrix has another shape or lacks its symmetry, R has a negative eigenvalue, or a
            variance is not above 0.
    """
    rest, q, r = torch.tensor(variances, dtype=torch.float64), _matrix("swirl", swirl), _matrix("damping", damping)
    size = len(variances)
    if not bool((rest > 0).all()) or q.shape != (size, size) or r.shape != (size, size):
        raise ValueError(
            f"resting needs {size} variances above 0 and square matrices of that size, got {list(variances)}, swirl of "
            f"shape {tuple(q.shape)} and damping of {tuple(r.shape)}"
        )
    values, axes = torch.linalg.eigh(r)
    if not torch.equal(q, -q.T) or not torch.equal(r, r.T) or float(values[0]) < -1e-12 * float(values[-1].abs()):
        raise ValueError("swirl must be antisymmetric, and damping symmetric without negative eigenvalues")
    root = axes * (2 * values.clamp_min(0)).sqrt()
    root = torch.where(r.diagonal()[:, None] > 0, root, torch.zeros_like(root))  # No noise without damping.
    return LinearDiffusion((0.0 - (q + r) / rest).tolist(), root.tolist(), start)


def series(drift: Tensor, gain: Tensor, terms: int = _TERMS) -> tuple[Tensor, Tensor]:
    """The Taylor coefficients A^n / n! of F and C_n / (n + 1)! of S_0 / t, each (terms, K, K).

    The default number of terms is enough for |A| t <= 1/4; 8 terms are enough for |A| t <= 1/16.
    """
    power, rise = torch.eye(len(drift), dtype=torch.float64, device=drift.device), gain
    powers, rises = [power], [rise]
    for n in range(1, terms):
        power, rise = drift @ power / n, (drift @ rise + rise @ drift.T) / (n + 1)
        powers.append(power)
        rises.append(rise)
    return torch.stack(powers), torch.stack(rises)


def moved(powers: Tensor, rises: Tensor, time: Times, halvings: int) -> tuple[Tensor, Tensor]:
    """The matrix F and the covariance S_0 of u_t given u_0, from the Taylor coefficients of `series`.

    Args:
        powers: Coefficients of F, (terms, K, K).
        rises: Coefficients of S_0 / t, (terms, K, K).
        time: Times t.
        halvings: How often the times are halved. The series must be precise at the halved times.
    """
    short = time[..., None, None] / 2**halvings
    mean, covariance = (_polynomial(part.to(time.device), short) for part in (powers, rises))
    covariance = short * covariance
    for _ in range(halvings):
        covariance = covariance + mean @ covariance @ mean.mT
        mean = mean @ mean
    return mean, 0.5 * (covariance + covariance.mT)


def _polynomial(coefficients: Tensor, at: Tensor) -> Tensor:
    """The polynomial sum_n coefficients[n] at^n, by Horner's rule."""
    total = coefficients[-1]
    for coefficient in coefficients[:-1].flip(0):
        total = coefficient + at * total
    return total


def _matrix(name: str, value: Sequence[Sequence[float]]) -> Tensor:
    """The rows of numbers as a float64 matrix.

    Args:
        name: Name of the argument, for messages.
        value: Rows of numbers.

    Raises:
        ValueError: If the rows do not form a matrix of finite numbers.
    """
    if not value or len({len(row) for row in value}) != 1 or not value[0]:
        raise ValueError(f"{name} must be rows of numbers, all of one length and not empty, got {value!r}")
    found = torch.tensor([[float(x) for x in row] for row in value], dtype=torch.float64)
    if not bool(found.isfinite().all()):
        raise ValueError(f"{name} has numbers that are not finite: {value!r}")
    return found
