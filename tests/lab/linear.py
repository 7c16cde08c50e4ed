"""Linear diffusions that tests share, with the joint density of a noised mixture written out."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from sciinf.lab.auxiliary import LinearDiffusion, critically_damped, resting, variance_preserving

DAMPED = critically_damped()
BOTH = resting([1.0, 0.25], [[0.0, -1.0], [1.0, 0.0]], [[0.5, 0.0], [0.0, 1.0]], [0.01])  # noise on both
THREE = resting(
    [1.0, 1.0, 1.0],
    [[0.0, -1.0, 0.0], [1.0, 0.0, -1.5], [0.0, 1.5, 0.0]],
    [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 2.0]],
    [0.1, 0.1],
)
DRIFTING = LinearDiffusion([[-0.2, 1.0], [0.3, -1.0]], [[0.0], [0.7]], [0.5])  # rests nowhere in particular
PROCESSES = {
    "preserving": variance_preserving(),
    "damped": DAMPED,
    "both": BOTH,
    "three": THREE,
    "drifting": DRIFTING,
}

# Planted faults beside DAMPED, whose drift is [[0, 4], [-1, -4]] and whose noise [[0], [1.41]].
FLIPPED = LinearDiffusion([[0.0, -4.0], [-1.0, -4.0]], DAMPED.noise.tolist(), [0.01])
NOISY = LinearDiffusion(DAMPED.drift.tolist(), [[0.7, 0.0], [0.0, 2**0.5]], [0.01])


def joint_log_prob(mixture, process: LinearDiffusion, u: Tensor, time: Tensor) -> Tensor:
    """log p(u_t) of (n, K, D): each component and each dimension is N(a mean, S + sd^2 a a^T)."""
    forward, covariance = process.transition(time)
    start = torch.zeros(process.size, dtype=torch.float64)
    start[1:] = torch.tensor([float(v) for v in process._call["start"]], dtype=torch.float64)
    a = forward[:, 0]
    covariance = covariance + forward @ torch.diag(start) @ forward.T
    each = []
    for weight, mean, sd in zip(mixture.weight, mixture.mean, mixture.sd, strict=True):
        log = weight.log()
        for d in range(len(mean)):
            log = log + MultivariateNormal(a * mean[d], covariance + sd[d] ** 2 * torch.outer(a, a)).log_prob(u[..., d])
        each.append(log)
    return torch.logsumexp(torch.stack(each), dim=0)
