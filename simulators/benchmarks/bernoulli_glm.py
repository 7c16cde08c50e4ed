r"""Bernoulli GLM: a neuron driven by white noise, seen through sufficient statistics.

    y_t ~ Bernoulli(1 / (1 + exp(-(V theta)_t))),   t = 1..100,     x = V^T y,

where V (100, 10) holds ones in its first column (the offset) and the stimulus, delayed by 0 to 8 steps, in the others
(the filter). x is the number of spikes and the spike-triggered sum. The prior is Gaussian with an offset of variance 2
and a smooth filter:

    theta ~ N(0, B),     B^-1 = diag(1/2, F^T F),     F = D D + diag(sqrt(i/9)), i = 0..8,     D = bidiagonal (1, -1).

The stimulus is the benchmark's: 100 standard normal numbers of numpy's legacy generator with seed 42, whose stream is
frozen. `log_likelihood`, x . theta - sum_t log(1 + exp((V theta)_t)), differs from log p(x | theta) by a number that
depends on x alone (the logarithm of how many spike trains share the statistics), so posteriors are the same.

References: Training deep neural density estimators to identify mechanistic models of neural dynamics (Goncalves et al.,
2020), https://doi.org/10.7554/eLife.56261; Benchmarking simulation-based inference, task T.5 (Lueckmann et al., 2021),
https://arxiv.org/abs/2101.04653; constants as in https://github.com/sbi-benchmark/sbibm
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from sciinf.core import Observable, Observation, Prior, Simulator, X, read_observation

DURATION, LAGS, SEED = 100, 9, 42


class BernoulliGLM(Simulator):
    """Sufficient statistics of a spike train."""

    name = "bernoulli_glm"
    observables: Mapping[str, Observable] = {"x": Observable((LAGS + 1,), "", ("feature",))}
    block = 4096

    def __init__(self) -> None:
        names = [f"theta_{i}" for i in range(1, LAGS + 2)]
        law = td.MultivariateNormal(torch.zeros(LAGS + 1), precision_matrix=precision())
        self.prior = Prior.joint(names, law)
        self.design = design()

    def __call__(self, theta: Tensor, *, generator: torch.Generator) -> X:
        design = self.design.to(theta)
        chance = torch.sigmoid(theta @ design.T)
        uniform = torch.rand(chance.shape, generator=generator, dtype=theta.dtype, device=theta.device)
        return {"x": (uniform < chance).to(theta) @ design}

    def log_likelihood(self, theta: Tensor, x: X) -> Tensor:
        """Logarithm of p(x | theta), up to a number that depends on x alone."""
        drive = theta @ self.design.to(theta).T
        return (x["x"].to(theta) * theta).sum(-1) - torch.nn.functional.softplus(drive).sum(-1)

    def observe(self, *paths: str | Path) -> dict[str, Tensor]:
        """The benchmark's `observation.csv`, columns data_1 to data_10."""
        found = read_observation({"data": self.observables["x"]}, *paths)
        return Observation({"x": found["data"]}, found.read)


def precision() -> Tensor:
    """The prior's precision matrix B^-1, (10, 10)."""
    difference = torch.eye(LAGS) - torch.diag(torch.ones(LAGS - 1), -1)
    smooth = difference @ difference + torch.diag(torch.sqrt(torch.arange(LAGS) / LAGS))
    return torch.block_diag(torch.tensor([[0.5]]), smooth.T @ smooth)


def design() -> Tensor:
    """The matrix V, float32, (100, 10)."""
    stimulus = np.random.RandomState(SEED).randn(DURATION).astype(np.float32)
    columns = [np.ones(DURATION, np.float32)]
    columns += [np.concatenate([np.zeros(lag, np.float32), stimulus[: DURATION - lag]]) for lag in range(LAGS)]
    return torch.from_numpy(np.stack(columns, axis=-1))


simulator = BernoulliGLM()
