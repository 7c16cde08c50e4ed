r"""Refinement of an approximate posterior for single rows, by gradient steps when the row is queried.

A network that reads series gives each row a posterior in one pass. It has an error for each row, larger for rows unlike
those of the training. An `offset` o is added to the features that the process reads, for each row and time. It is
optimised for the row's own lower bound,

    o <- o + step of Adam along the gradient of (E_q [log p(x seen | z)] - KL(q || p))(o).

The weights stay unchanged. (The reference calls this "error regression" of its vectors a. Here a network computes the
features from the series, and the offset is added to them.) So q comes nearer to the exact posterior of the row, and
only the values that the row's mask shows are used. The offset of a row is kept only if it raises the bound in a test
with separate draws; otherwise it is 0. This works for any process whose posterior reads the series.

The answer stays an approximation: the bound is higher, but q is still in the family of the process. Forecast values
follow the process, right or wrong. For a process whose training weighs its KL (`lab.PredictiveCoding(weight=...)`), the
gradient is that of the weighted bound. Whether an offset is kept is decided by `bound`.

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

_MOMENTS = (0.9, 0.99)  # Decay rates of Adam's moments.
_JUDGED, _ERRORS = 16, 2.0  # Draws that test an offset, and the standard errors by which it must raise the bound.


@dataclass(frozen=True)
class Refinement:
    """Offsets of the rows, and the lower bounds without and with them.

    Args:
        offset: Argument of `bound`, `series`, `latent` and `complete` of the surrogate, (row, T, F); 0 where the bound
            did not rise.
        before: Lower bound of log p(x seen) without the offset, nats, (row,).
        after: Lower bound with the offset. Both bounds use draws that had no part in the choice of the offsets.
    """

    offset: Tensor
    before: Tensor
    after: Tensor

    @property
    def gained(self) -> Float[Tensor, " row"]:
        """Rise of the lower bound of each row, in nats."""
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
    """Fit an offset to each row, which raises the row's lower bound.

    Args:
        surrogate: A trained surrogate.
        theta: Parameters, in the prior's order and units.
        x: Observables, as for `LatentDynamics.bound`.
        steps: Number of steps of Adam.
        rate: Step size of Adam at first; it falls to a tenth along the way.
        draws: Paths of each row at each step.
        generator: Source of the paths' noise.

    Raises:
        TypeError: If the surrogate is no `LatentDynamics`.
        ValueError: If a number is out of its range, or the process's posterior does not read the observations.
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
        raise ValueError("the posterior of this process does not read the observations: there is nothing to refine")
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
    """Bounds of several paths of each row, computed side by side."""
    many = {name: torch.cat([value] * draws) for name, value in x.items()}
    found = surrogate.bound(torch.cat([theta] * draws), many, generator=generator, offset=torch.cat([offset] * draws))
    return found.unflatten(0, (draws, len(theta)))
