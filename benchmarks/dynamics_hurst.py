"""How rough a motion is: H by the exact filter of a few Markov processes, beside the exact Gaussian process.

Used by `dynamics_processes.py`. The motion is Riemann and Liouville's on (0, 1], seen at 32 times with a little noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sciinf.simulators.dynamics.linear_states import Affine, LinearStates
from sciinf.simulators.dynamics.noise import MarkovFractional
from sciinf.simulators.dynamics.state_space import Record, Theta, Time, duration
from sciinf.simulators.samplers.kalman import filtered

ERROR = 0.01  # sd of what is seen
TERMS = 6


class Motion(LinearStates):
    """Markov processes, of which the weighted sum is seen."""

    latent: Mapping[str, str] = {f"y{k}": "" for k in range(TERMS)}

    def start(self, theta: Theta) -> tuple[Tensor, Tensor]:
        return torch.zeros(1, TERMS, dtype=torch.float64), torch.zeros(1, TERMS, TERMS, dtype=torch.float64)

    def step(self, theta: Theta, start: Time, stop: Time) -> Affine:
        decay, covariance = _motion(theta).step(duration(start, stop, theta["hurst"].double()))
        return Affine(torch.diag_embed(decay), 0.0, covariance)

    def view(self, theta: Theta) -> Mapping[str, Affine]:
        return {"b": Affine(_motion(theta).weights[:, None], 0.0, torch.full((1, 1, 1), ERROR**2, dtype=torch.float64))}


def _motion(theta: Theta) -> MarkovFractional:
    return MarkovFractional(theta["hurst"].double(), 1.0, terms=TERMS)


def covariance(times: Tensor, hurst: float) -> Tensor:
    """Of Riemann and Liouville's motion, exactly, (time, time)."""
    from scipy.special import hyp2f1

    a = hurst - 0.5
    s, gap = torch.minimum(times[:, None], times), (times[:, None] - times).abs()
    apart = torch.where(gap > 0, gap, 1.0)
    # int_0^s (v (v + gap))^a dv
    off = s ** (a + 1) * apart**a / (a + 1) * torch.as_tensor(hyp2f1(-a, a + 1, a + 2, -(s / apart).numpy()))
    return torch.where(gap > 0, off, s ** (2 * hurst) / (2 * hurst)) / math.gamma(hurst + 0.5) ** 2


def posteriors(hurst: float, seed: int, count: int = 32) -> dict[str, tuple[float, float]]:
    """Mean and sd of H under a uniform prior, from one path: by the filter, and exactly."""
    times = torch.arange(1, count + 1, dtype=torch.float64) / count
    grid = torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
    noise = ERROR**2 * torch.eye(count, dtype=torch.float64)
    white = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    path = torch.linalg.cholesky(covariance(times, hurst) + noise) @ white
    record = Record(times[None], {"b": path.expand(len(grid), -1)}, {}, begin=0.0)
    by_filter = filtered(Motion(), {"hurst": grid}, record, keep=False).log_likelihood
    exact = []
    for h in grid.tolist():
        law = torch.distributions.MultivariateNormal(
            torch.zeros(count, dtype=torch.float64), covariance(times, h) + noise
        )
        exact.append(law.log_prob(path))
    return {"filter": _moments(grid, by_filter), "exact": _moments(grid, torch.stack(exact))}


def _moments(grid: Tensor, log_density: Tensor) -> tuple[float, float]:
    weight = log_density.softmax(0)
    mean = (weight * grid).sum()
    return float(mean), float((weight * (grid - mean).square()).sum().sqrt())
