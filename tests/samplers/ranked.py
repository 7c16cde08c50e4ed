"""Where truths stand among weighted draws of parameters and path."""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor

from sciinf.simulators.wrappers.hidden_states import HiddenStates


def ranks(simulator: HiddenStates, judge: HiddenStates, rows: int, draws: int) -> Tensor:
    """Where the truth stands among draws given the data, by importance weights of the prior: (rows, D + 3).

    Parameters, then the state at the first, middle and last time; ties at random. Theta and path of a row are from one
    run of `judge`, so that its paths are weighed by its likelihood.
    """
    theta = simulator.prior.sample(rows, generator=generator(1))
    x, path = simulator.simulated(theta, generator=generator(2))
    other = simulator.prior.sample(rows * draws, generator=generator(3))
    many = {name: value.repeat_interleave(draws, 0) for name, value in x.items()}
    log, paths = judge.weighed_paths(other, many, generator=generator(4))
    weight = log.reshape(rows, draws).softmax(-1)
    at = [0, simulator.count // 2, simulator.count - 1]
    truth = torch.cat([theta.double(), path[:, at, 0].double()], -1)
    found = torch.cat([other.double(), paths[:, at, 0].double()], -1).reshape(rows, draws, -1)
    below = (weight[..., None] * (found < truth[:, None])).sum(1)
    tied = (weight[..., None] * (found == truth[:, None])).sum(1)
    return below + tied * torch.rand(below.shape, generator=generator(5), dtype=torch.float64)


def worst(rank: Tensor) -> float:
    """Smallest p-value of the ranks' uniformity (KS), times their number (Bonferroni)."""
    return rank.shape[1] * min(float(stats.kstest(column.numpy(), "uniform").pvalue) for column in rank.T)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
