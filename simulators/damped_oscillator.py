r"""A damped oscillator that is struck at an unknown time: the toy of group equivariant estimation, with its posterior.

From a blow at time tau on, with natural frequency w and damping ratio b,

    x(t) = exp(-b w (t - tau)) sin(sqrt(1 - b^2) w (t - tau)) / (sqrt(1 - b^2) w)    for t > tau, and 0 before,

at 200 times from -5 to 5 s. There is no noise but in the parameters: x is that of theta + d, d ~ N(0, S). The curve
tells theta + d exactly, so that the posterior is N(f^{-1}(x), S) within the bounds of the prior. Moved in time, x is
that of another tau: what it says of w and b, and of tau beside where it lies, does not change.

References:
    | Group equivariant neural posterior estimation, section 5.1 (Dax et al., 2022), https://arxiv.org/abs/2111.13139
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Prior, Simulator, X
from sciinf.simulators.poses import Pose, TimeShift

S = ((0.25, 0.0, 0.05), (0.0, 0.0009, 0.0), (0.05, 0.0, 0.04))  # (rad/s)^2, 1 and s^2 on its diagonal
LOW, HIGH = (3.0, 0.2, -5.0), (10.0, 0.5, 0.0)
STEPS, FIRST, STEP = 200, -5.0, 0.05  # s
TIMES = [FIRST + STEP * k for k in range(STEPS)]
POSES = (Pose("tau", TimeShift(STEP), td.Normal(0.0, 0.1)),)


class DampedOscillator(Simulator):
    """Deflection of a damped oscillator after a blow."""

    name = "damped_oscillator"
    prior = Prior(
        omega_0=(td.Uniform(LOW[0], HIGH[0]), "rad/s"),
        beta=td.Uniform(LOW[1], HIGH[1]),
        tau=(td.Uniform(LOW[2], HIGH[2]), "s"),
    )
    observables: Mapping[str, Observable] = {
        "x": Observable((STEPS,), "", ("time",), coords={"time": TIMES}, coord_units={"time": "s"})
    }
    block = 8192

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        root = torch.linalg.cholesky(torch.tensor(S, dtype=torch.float64)).to(theta)
        noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype, device=theta.device)
        return {"x": deflection(theta + noise @ root.mT)}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        """Density of f^{-1}(x), which tells as much as x."""
        law = td.MultivariateNormal(torch.zeros(3, dtype=torch.float64), torch.tensor(S, dtype=torch.float64))
        data = x["x"].cpu()
        found = struck(data[:1] if bool((data == data[:1]).all()) else data)
        return law.log_prob(found - theta.double().cpu()).to(theta.device)

    def reference(self, x: X, n: int, generator: torch.Generator) -> Tensor:
        centre, root = struck(x["x"].reshape(1, STEPS)), torch.linalg.cholesky(torch.tensor(S, dtype=torch.float64))
        low, high = (torch.tensor(end, dtype=torch.float64) for end in (LOW, HIGH))
        draws = torch.empty(0, 3, dtype=torch.float64)
        for _ in range(1_000):
            if len(draws) >= n:
                return draws[:n].float()
            new = centre + torch.randn(2 * n, 3, generator=generator, dtype=torch.float64) @ root.mT
            draws = torch.cat([draws, new[((new > low) & (new < high)).all(-1)]])
        raise ValueError(f"the prior leaves next to nothing of the posterior around {centre[0].tolist()}")


def log_evidence(x: X) -> Tensor:
    """Of f^{-1}(x), of curves (batch, 200): the prior's density times the mass of N(f^{-1}(x), S) within its bounds."""
    centre, generator = struck(x["x"]), torch.Generator().manual_seed(0)
    root = torch.linalg.cholesky(torch.tensor(S, dtype=torch.float64))
    draws = centre[:, None] + torch.randn(200_000, 3, generator=generator, dtype=torch.float64) @ root.mT
    low, high = (torch.tensor(end, dtype=torch.float64) for end in (LOW, HIGH))
    return ((draws > low) & (draws < high)).all(-1).double().mean(1).log() - (high - low).log().sum()


def deflection(theta: Tensor) -> Tensor:
    """f, for theta (batch, 3): (batch, 200)."""
    omega, beta, tau = theta[:, :1], theta[:, 1:2], theta[:, 2:]
    t = FIRST + STEP * torch.arange(STEPS, dtype=theta.dtype, device=theta.device) - tau
    t, root = t.clamp_min(0.0), (1 - beta**2).sqrt()
    return (-beta * omega * t).exp() * (root * omega * t).sin() / (root * omega)


def struck(x: Tensor) -> Tensor:
    """f^{-1} of curves (batch, 200), float64: the best of a grid, then Levenberg and Marquardt's least squares."""
    x = x.double()
    omega, beta = torch.linspace(1.5, 12.0, 28).double(), torch.linspace(0.12, 0.6, 4).double()
    began = FIRST + STEP * ((x.abs() > 1e-6).double().argmax(1, keepdim=True) - 1)
    late = torch.linspace(0.0, STEP, 2).double()
    grid = torch.cartesian_prod(omega, beta, late)
    theta = torch.empty(len(x), 3, dtype=torch.float64)
    for k in range(len(x)):
        tried = grid + torch.tensor([0.0, 0.0, float(began[k])]).double()
        if float(began[k]) < FIRST:  # it began before
            tried = torch.cat([tried - torch.tensor([0.0, 0.0, 0.1 * j]).double() for j in range(12)])
        theta[k] = tried[(deflection(tried) - x[k]).square().sum(1).argmin()]
    damping = torch.full((len(x), 1, 1), 1e-3, dtype=torch.float64)
    slope = torch.func.vmap(torch.func.jacfwd(lambda value: deflection(value[None])[0]))
    for _ in range(25):
        off, a = x - deflection(theta), slope(theta)
        normal = a.mT @ a
        step = torch.linalg.solve(
            normal + damping * torch.diag_embed(normal.diagonal(dim1=1, dim2=2) + 1e-12), a.mT @ off[..., None]
        )
        tried = theta + step[..., 0]
        tried[:, 1] = tried[:, 1].clamp(1e-3, 0.99)
        better = (x - deflection(tried)).square().sum(1) <= off.square().sum(1)
        theta = torch.where(better[:, None], tried, theta)
        damping = torch.where(better[:, None, None], damping / 5, (damping * 5).clamp_max(1e6))
    return theta


simulator = DampedOscillator()
