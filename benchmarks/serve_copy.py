"""A copy of what `serve.py` serves: a Gaussian network of the logarithms of parameters, trained on answers alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sciinf.posteriors.changes import SHIFT, WIDTH


@dataclass(frozen=True)
class Answers:
    """Observations, (n, d), and draws of the answers to them, (n, draws, parameters), all above zero."""

    x: np.ndarray
    draws: np.ndarray

    def moments(self) -> tuple[Tensor, Tensor]:
        """Means, (n, parameters), and covariances of the logarithms of the draws."""
        logs = torch.from_numpy(np.log(self.draws)).float()
        away = logs - logs.mean(1, keepdim=True)
        return logs.mean(1), away.mT @ away / logs.shape[1]


def distances(given: Answers, fresh: Answers, seed: int) -> dict[str, float]:
    """How far a copy that was trained on some answers is from fresh ones, by means and widths.

    Args:
        given: What the copy is trained on; a tenth of it tells when to stop.
        fresh: Answers of many draws to other observations.
        seed: Of its weights.
    """
    means, covariances = given.moments()
    centre, scale = means.mean(0), means.std(0)
    copy = _trained(torch.from_numpy(given.x), (means - centre) / scale, covariances / torch.outer(scale, scale), seed)
    true, wide = fresh.moments()
    with torch.no_grad():
        mean, factor = _gaussian(copy(torch.from_numpy(fresh.x)))
    sd = wide.diagonal(dim1=1, dim2=2).sqrt()
    shift = ((mean * scale + centre - true) / sd).abs().amax(1)
    own = torch.linalg.inv(factor @ factor.mT).diagonal(dim1=1, dim2=2).sqrt() * scale
    width = (own / sd - 1).abs().amax(1)
    same = (shift <= SHIFT) & (width <= WIDTH)
    return {"shift sds": float(shift.median()), "width": float(width.median()), "same": float(same.float().mean())}


def _trained(x: Tensor, mean: Tensor, covariance: Tensor, seed: int, steps: int = 3_000) -> nn.Module:
    """A network of the mean and the precision's Cholesky factor, at the step that was best on a tenth of the data."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        size, count = mean.shape[1], mean.shape[1] * (mean.shape[1] + 1) // 2
        network = nn.Sequential(
            nn.Linear(x.shape[1], 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, size + count)
        )
        optimiser = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        held, best, state = max(10, len(x) // 10), float("inf"), network.state_dict()
        for step in range(steps):
            rows = held + torch.randint(len(x) - held, (128,))
            loss = _loss(network(x[rows]), mean[rows], covariance[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if step % 50 == 49:
                with torch.no_grad():
                    found = float(_loss(network(x[:held]), mean[:held], covariance[:held]))
                if found < best:
                    best, state = found, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(state)
    return network


def _gaussian(out: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and the lower Cholesky factor of the precision."""
    size = int(((9 + 8 * out.shape[1]) ** 0.5 - 3) / 2)
    lower = torch.zeros(len(out), size, size)
    rows, columns = torch.tril_indices(size, size)
    lower[:, rows, columns] = out[:, size:]
    diagonal = torch.diag_embed(lower.diagonal(dim1=1, dim2=2))
    return out[:, :size], lower - diagonal + torch.diag_embed(diagonal.diagonal(dim1=1, dim2=2).exp())


def _loss(out: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Minus the mean log-density of draws with a mean and a covariance, but for a constant."""
    middle, factor = _gaussian(out)
    away = (mean - middle)[..., None]
    spread = factor.mT @ (covariance + away @ away.mT) @ factor
    return (spread.diagonal(dim1=1, dim2=2).sum(1) / 2 - factor.diagonal(dim1=1, dim2=2).log().sum(1)).mean()
