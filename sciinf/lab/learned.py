r"""A linear diffusion with auxiliary variables that is learned together with the denoising network.

All linear diffusions of u = (data, auxiliaries) with the stationary distribution N(0, I) are
(`auxiliary.resting`)

    du = -(Q + R) u dt + sqrt(2 R) dW,    Q = -Q^T,    R = R^T positive definite,    e_k ~ N(0, c_k) at time
    0.

Q, R and c are learned by the bound of `bound`, in terms of unconstrained numbers q, l and g:

    Q = (q - q^T) / n,    R = l l^T / n + r I,    c = c_0 exp(g),    l lower triangular.

**Fixed numbers.** The stationary distribution is fixed, as in the paper: data have unit sd, and the
stationary variances of auxiliaries only set their units. A common factor of Q and R is a unit of time. The
bound does not depend on this factor, because its limits are levels instead of times. The norm n therefore
makes |q - q^T + l l^T| / n = 1. r = 0.01 ensures that noise reaches the data, however small l is. The
critically damped diffusion has l l^T = diag(0, 2) and q - q^T = ((0, -1), (1, 0)), up to r.

**Gradients.** The bound is evaluated at given levels s, whose times t depend on the numbers. A time t_0 is
found by a table and two secant steps, without gradients. The time is then t = t_0 + d with

    d = (log s - log s(t_0)) / (log s)'(t_0),    (log s)' = s^2 |B^T S^{-1} a|^2 / 2.

The value of d is almost 0. Its gradient is that of the implicit function t(s) if (log s)' is treated as a
constant. Then a and S at t are a + d a' and S + d S', with a' = A a and S' = A S + S A^T + 2 R, up to errors
of order d^2.

One of these diffusions can be better than another in only two ways: the task is easier for the network, or
the KL term of the bound is smaller (`bound`).

References:
    | Where to Diffuse, How to Diffuse, and How to Get Back: Automated Learning for Multivariate Diffusions
      (Singhal et al., 2023), https://arxiv.org/abs/2302.07261
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_whole
from sciinf.core.component import Component
from sciinf.lab.auxiliary import LinearDiffusion, Times, moved, resting, series
from sciinf.networks.diffusion.schedule import NoiseSchedule

LEAST = 0.01  # The number r of the formula above.
_TERMS = 8  # Terms of the Taylor series. Few terms with more halvings are fewer steps to differentiate.
_NODES = 8  # Nodes of the table of times, for each doubling of time.


class LearnedDiffusion(Component):
    """The settings of a linear diffusion that is learned.

    Before training the diffusion is almost critically damped, with a little noise on the data as well.

    Args:
        auxiliaries: Number K - 1 of auxiliaries, at least 1.
        start: Variance c_0 of auxiliaries at time 0 before training, in units of their stationary variance.

    Raises:
        ValueError: If auxiliaries is no int of at least 1, or start is not above 0.
    """

    def __init__(self, auxiliaries: int = 1, start: float = 0.04) -> None:
        check_whole("auxiliaries", auxiliaries, 1)
        if not 0 < start < math.inf:
            raise ValueError(f"auxiliaries begin with a finite variance above 0, got {start}")
        self.auxiliaries, self.start = auxiliaries, float(start)

    def build(self, path: NoiseSchedule) -> FreeDiffusion:
        """The learnable diffusion, for the noise levels of a path."""
        return FreeDiffusion(self.auxiliaries + 1, self.start, path)


class FreeDiffusion(nn.Module):
    """A linear diffusion with learnable numbers q, l and g.

    The parameter `free` has the differences of these numbers from their initial values, in this order.

    Args:
        size: Number K of coordinates.
        start: Initial variance c_0 of auxiliaries at time 0.
        path: Path whose `least` and `most` bound all noise levels of the diffusion.
    """

    turns: Tensor
    lowers: Tensor
    first: Tensor

    def __init__(self, size: int, start: float, path: NoiseSchedule) -> None:
        super().__init__()
        self.size, self.start = size, start
        self.span = (path.least**2 / 16, (math.log(path.most) + 1) / LEAST)  # Range of times.
        eye = torch.eye(size * size).reshape(size, size, size, size)
        above = [eye[j, i] - eye[i, j] for i in range(size) for j in range(i + 1, size)]
        below = [(i, j) for i in range(size) for j in range(i + 1)]
        self.register_buffer("turns", torch.stack(above), persistent=False)
        self.register_buffer("lowers", torch.stack([eye[i, j] for i, j in below]), persistent=False)
        chain = [float(j == i + 1) for i in range(size) for j in range(i + 1, size)]
        roots = [(0.5 if i == 0 else math.sqrt(2.0)) * (i == j) for i, j in below]
        self.register_buffer("first", torch.tensor([*chain, *roots, *[0.0] * (size - 1)]), persistent=False)
        self.free = nn.Parameter(torch.zeros(len(self.first)))

    def matrices(self) -> tuple[Float[Tensor, "K K"], Float[Tensor, "K K"], Float[Tensor, " auxiliary"]]:
        """The matrices Q and R, and the variances c; float64."""
        numbers = (self.first + self.free).double()
        few, many = len(self.turns), len(self.turns) + len(self.lowers)
        swirl = (numbers[:few, None, None] * self.turns).sum(0)
        lower = (numbers[few:many, None, None] * self.lowers).sum(0)
        damping = lower @ lower.mT
        size = (swirl.square().sum() + damping.square().sum()).sqrt()
        least = LEAST * torch.eye(self.size, dtype=torch.float64, device=size.device)
        return swirl / size, 0.5 * (damping + damping.mT) / size + least, self.start * numbers[many:].exp()

    def rest(self) -> Float[Tensor, "K K"]:
        """The stationary covariance, which is the identity."""
        return torch.eye(self.size, dtype=torch.float64, device=self.free.device)

    def moments(self, level: Times) -> tuple[Float[Tensor, "*time K"], Float[Tensor, "*time K K"]]:
        """The factor a and covariance S of u_t given x_0 at the time of a level, with gradients."""
        swirl, damping, start = self.matrices()
        drift, wanted = -(swirl + damping), level.double().log()
        parts = (*series(drift, 2 * damping, _TERMS), torch.cat([start.new_zeros(1), start]))
        with torch.no_grad():
            time = self._found(parts, wanted.reshape(-1)).reshape(wanted.shape)
        mean, covariance = self._law(parts, time)
        pull = torch.linalg.solve(covariance, mean[..., None])[..., 0]
        known = (mean * pull).sum(-1)  # This is s^{-2}.
        rate = ((pull @ damping) * pull).sum(-1) / known
        ahead = ((wanted + 0.5 * known.log()) / rate.detach())[..., None]
        across = drift @ covariance
        covariance = covariance + ahead[..., None] * (across + across.mT + 2 * damping)
        return mean + ahead * (mean @ drift.mT), covariance

    def fixed(self) -> LinearDiffusion:
        """The diffusion with the current numbers, without gradients."""
        with torch.no_grad():
            swirl, damping, start = self.matrices()
        return resting([1.0] * self.size, swirl.tolist(), damping.tolist(), start.tolist())

    def _law(self, parts: tuple[Tensor, Tensor, Tensor], time: Tensor) -> tuple[Tensor, Tensor]:
        powers, rises, start = parts
        halvings = math.ceil(math.log2(16 * self.span[1] * (1 + LEAST * math.sqrt(self.size))))
        forward, covariance = moved(powers, rises, time, halvings)
        return forward[..., 0], covariance + (forward * start) @ forward.mT

    def _logs(self, parts: tuple[Tensor, Tensor, Tensor], time: Tensor) -> Tensor:
        """The log of the noise level at each time."""
        mean, covariance = self._law(parts, time)
        return -0.5 * (mean * torch.linalg.solve(covariance, mean[..., None])[..., 0]).sum(-1).log()

    def _found(self, parts: tuple[Tensor, Tensor, Tensor], wanted: Float[Tensor, " level"]) -> Tensor:
        """The times at which log s has the wanted values."""
        first, last = (math.log(time) for time in self.span)
        count = math.ceil((last - first) / math.log(2) * _NODES)
        times = torch.linspace(first, last, count, dtype=torch.float64, device=wanted.device)
        logs = self._logs(parts, times.exp())
        cell = (logs[:, None] <= wanted).sum(0).clamp(1, count - 1)
        slope = (times[cell] - times[cell - 1]) / (logs[cell] - logs[cell - 1])
        found = times[cell - 1] + slope * (wanted - logs[cell - 1])
        for _ in range(2):
            found = found + slope * (wanted - self._logs(parts, found.exp()))
        return found.exp()
