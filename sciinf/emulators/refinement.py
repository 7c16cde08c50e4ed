r"""What a process's posterior misses of a row, made up for by gradients when the row is asked about.

A network that reads series gives each row a posterior in one pass, and is a little wrong for each, more so for rows
unlike those it was trained on. An `offset` o, numbers for each row and time that are added to what the process reads,
is moved uphill on the row's own lower bound,

    o <- o + step of Adam along the slope of (E_q [log p(x seen | z)] - KL(q || p))(o),

weights staying as they are ("error regression" of the reference; its vectors a are read and offset here). So q comes
nearer to the exact posterior of the row, and only the values that the row's mask shows are used. Of each row the offset
is kept only if it raised the bound, by draws of their own; else it is 0. It serves any process whose posterior reads
the series.

The answer stays an approximation: the bound is higher, and q still one of the process's family. The values that are
forecast follow the process, right or wrong. A process whose training weighs its KL
(`processes.PredictiveCoding(weight=...)`) is refined along its weighted slopes; whether an offset is kept, the bound
says.

References:
    | A novel predictive-coding-inspired variational RNN model for online prediction and recognition (Ahmadi, Tani,
      2019), https://arxiv.org/abs/1811.01339
    | Semi-amortized variational autoencoders (Kim et al., 2018), https://arxiv.org/abs/1802.02550
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import X
from sciinf.core.checks import check_positive
from sciinf.emulators.latent_dynamics import LatentDynamics

_MOMENTS = (0.9, 0.99)  # of Adam
_JUDGED, _ERRORS = 16, 2.0  # draws that say whether an offset is kept, and standard errors that it has to gain


@dataclass(frozen=True)
class Refinement:
    """What was found for each row.

    Args:
        offset: To hand on to `bound`, `series`, `latent` and `complete` of the surrogate, (row, T, F); 0 where nothing
            was gained.
        before: Lower bound of log p(x seen) without it, nats, (row,).
        after: With it. Both by draws that had no say in which offsets were kept.
    """

    offset: Tensor
    before: Tensor
    after: Tensor

    @property
    def gained(self) -> Float[Tensor, " row"]:
        """Nats of each row."""
        return self.after - self.before


def refined(
    surrogate: LatentDynamics,
    theta: Float[Tensor, "row theta"],
    x: X,
    *,
    steps: int = 100,
    rate: float = 0.05,
    draws: int = 8,
    generator: torch.Generator,
) -> Refinement:
    """Fit an offset to each row.

    Args:
        surrogate: A trained one.
        theta: Parameters, in the prior's order and units.
        x: As for `LatentDynamics.bound`.
        steps: Of Adam.
        rate: Its step; it falls to a tenth along the way.
        draws: Paths of each row at each step.
        generator: For the paths.

    Raises:
        TypeError: If the surrogate is none of latent dynamics.
        ValueError: If a number is out of its range, or the process's posterior does not read what was seen.
    """
    if not isinstance(surrogate, LatentDynamics):
        raise TypeError(f"refined improves the posteriors of LatentDynamics, got {type(surrogate).__name__}")
    check_positive(steps=steps, draws=draws)
    if not 0 < rate < 10:
        raise ValueError(f"rate is {rate!r}, expected a step above 0, such as 0.05")
    with torch.no_grad():
        plain = surrogate.series(theta, x)
    offset = torch.zeros_like(plain.seen)
    adam = torch.optim.Adam([offset], betas=_MOMENTS)
    for k in range(steps):
        adam.param_groups[0]["lr"] = rate * 0.1 ** (k / steps)
        offset.grad = _slope(surrogate, theta, x, offset, draws, generator).neg()
        adam.step()
    gains = torch.diff(_judged(surrogate, theta, x, offset, generator), dim=0)[0]
    sure = gains.mean(0) > _ERRORS * gains.std(0) / math.sqrt(_JUDGED)
    kept = torch.where(sure[:, None, None], offset, 0.0)
    return Refinement(kept, *_judged(surrogate, theta, x, kept, generator).mean(1))


def _slope(
    surrogate: LatentDynamics, theta: Tensor, x: X, offset: Tensor, draws: int, generator: torch.Generator
) -> Tensor:
    with torch.enable_grad():
        here = offset.detach().requires_grad_()
        bounds = _bounds(surrogate, theta, x, here, draws, generator)
        (slope,) = torch.autograd.grad(bounds.mean(0).sum(), here, allow_unused=True)
    if slope is None:
        raise ValueError("the posterior of this process does not read what was seen: there is nothing to refine")
    return slope.nan_to_num(0.0, 0.0, 0.0)


@torch.no_grad()
def _judged(
    surrogate: LatentDynamics, theta: Tensor, x: X, offset: Tensor, generator: torch.Generator
) -> Float[Tensor, "way draw row"]:
    """The bound of each row without and with its offset, by paths of the same noise."""
    state = generator.get_state()
    plain = _bounds(surrogate, theta, x, torch.zeros_like(offset), _JUDGED, generator)
    generator.set_state(state)
    return torch.stack([plain, _bounds(surrogate, theta, x, offset, _JUDGED, generator)])


def _bounds(
    surrogate: LatentDynamics, theta: Tensor, x: X, offset: Tensor, draws: int, generator: torch.Generator
) -> Float[Tensor, "draw row"]:
    """Of several paths of each row, side by side."""
    many = {name: torch.cat([value] * draws) for name, value in x.items()}
    found = surrogate.bound(torch.cat([theta] * draws), many, generator=generator, offset=torch.cat([offset] * draws))
    return found.unflatten(0, (draws, len(theta)))
