r"""A linear diffusion whose numbers are learned with the network that denoises.

With the law at rest N(0, I), all linear diffusions of u = (data, auxiliaries) are (`auxiliary.resting`)

    du = -(Q + R) u dt + sqrt(2 R) dW,    Q = -Q^T,    R = R^T positive definite,    e_k ~ N(0, c_k) at time 0,

and what is learned is Q, R and c, by the bound of `bound`, in numbers without constraint:

    Q = (q - q^T) / n,    R = l l^T / n + r I,    c = c_0 exp(g),    l lower triangular.

**What is kept fixed.** The law at rest, as in the paper: data have unit sd, and the variances of auxiliaries at rest
are units to measure them in. A factor of Q and R is one of time, which the bound does not see, for its ends are levels
and no times: n is the norm that makes |q - q^T + l l^T| / n = 1. r = 0.01 keeps noise coming to the data, however
small the rest. The critically damped diffusion is l l^T = diag(0, 2), q - q^T = ((0, -1), (1, 0)) but for r.

**The slope.** The bound is taken at given levels s, and their times t follow the numbers. With t_0 found by a table and
two steps of a secant, without slopes, the time is t = t_0 + d with

    d = (log s - log s(t_0)) / (log s)'(t_0),    (log s)' = s^2 |B^T S^{-1} a|^2 / 2,

all but 0 in value; its slope is that of the implicit function t(s) if (log s)' is held. Then a and S at t are
a + d a' and S + d S', a' = A a and S' = A S + S A^T + 2 R, right to d^2.

Only what the network finds easier, and the end, can make one of these diffusions better than another (`bound`).

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

LEAST = 0.01  # r
_TERMS = 8  # of the series, after more halvings: fewer steps to differentiate
_NODES = 8  # of the table for each doubling of time


class LearnedDiffusion(Component):
    """A diffusion to be learned. It begins all but critically damped, with a little noise on the data, too.

    Args:
        auxiliaries: K - 1, at least 1.
        start: c_0, the variance of auxiliaries at time 0 to begin with, in units of that at rest.

    Raises:
        ValueError: If auxiliaries is no int of at least 1, or start is not above 0.
    """

    def __init__(self, auxiliaries: int = 1, start: float = 0.04) -> None:
        check_whole("auxiliaries", auxiliaries, 1)
        if not 0 < start < math.inf:
            raise ValueError(f"auxiliaries begin with a variance above 0, got {start}")
        self.auxiliaries, self.start = auxiliaries, float(start)

    def build(self, path: NoiseSchedule) -> FreeDiffusion:
        """Its numbers, for the levels of a path."""
        return FreeDiffusion(self.auxiliaries + 1, self.start, path)


class FreeDiffusion(nn.Module):
    """The numbers of a diffusion: `free` is how far they are from where they began, in the order q, l, g.

    Args:
        size: K.
        start: c_0.
        path: Levels that it is asked for lie between its `least` and `most`.
    """

    turns: Tensor
    lowers: Tensor
    first: Tensor

    def __init__(self, size: int, start: float, path: NoiseSchedule) -> None:
        super().__init__()
        self.size, self.start = size, start
        self.span = (path.least**2 / 16, (math.log(path.most) + 1) / LEAST)  # of times; levels lie within
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
        """Q, R and c; float64."""
        numbers = (self.first + self.free).double()
        few, many = len(self.turns), len(self.turns) + len(self.lowers)
        swirl = (numbers[:few, None, None] * self.turns).sum(0)
        lower = (numbers[few:many, None, None] * self.lowers).sum(0)
        damping = lower @ lower.mT
        size = (swirl.square().sum() + damping.square().sum()).sqrt()
        least = LEAST * torch.eye(self.size, dtype=torch.float64, device=size.device)
        return swirl / size, 0.5 * (damping + damping.mT) / size + least, self.start * numbers[many:].exp()

    def rest(self) -> Float[Tensor, "K K"]:
        """I."""
        return torch.eye(self.size, dtype=torch.float64, device=self.free.device)

    def moments(self, level: Times) -> tuple[Float[Tensor, "*time K"], Float[Tensor, "*time K K"]]:
        """a and S at the time of a level, with their slopes by the numbers."""
        swirl, damping, start = self.matrices()
        drift, wanted = -(swirl + damping), level.double().log()
        parts = (*series(drift, 2 * damping, _TERMS), torch.cat([start.new_zeros(1), start]))
        with torch.no_grad():
            time = self._found(parts, wanted.reshape(-1)).reshape(wanted.shape)
        mean, covariance = self._law(parts, time)
        pull = torch.linalg.solve(covariance, mean[..., None])[..., 0]
        known = (mean * pull).sum(-1)  # s^{-2}
        rate = ((pull @ damping) * pull).sum(-1) / known
        ahead = ((wanted + 0.5 * known.log()) / rate.detach())[..., None]
        across = drift @ covariance
        covariance = covariance + ahead[..., None] * (across + across.mT + 2 * damping)
        return mean + ahead * (mean @ drift.mT), covariance

    def fixed(self) -> LinearDiffusion:
        """As it is now."""
        with torch.no_grad():
            swirl, damping, start = self.matrices()
        return resting([1.0] * self.size, swirl.tolist(), damping.tolist(), start.tolist())

    def _law(self, parts: tuple[Tensor, Tensor, Tensor], time: Tensor) -> tuple[Tensor, Tensor]:
        powers, rises, start = parts
        halvings = math.ceil(math.log2(16 * self.span[1] * (1 + LEAST * math.sqrt(self.size))))
        forward, covariance = moved(powers, rises, time, halvings)
        return forward[..., 0], covariance + (forward * start) @ forward.mT

    def _logs(self, parts: tuple[Tensor, Tensor, Tensor], time: Tensor) -> Tensor:
        """log s."""
        mean, covariance = self._law(parts, time)
        return -0.5 * (mean * torch.linalg.solve(covariance, mean[..., None])[..., 0]).sum(-1).log()

    def _found(self, parts: tuple[Tensor, Tensor, Tensor], wanted: Float[Tensor, " level"]) -> Tensor:
        """Times at which log s is as wanted."""
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
