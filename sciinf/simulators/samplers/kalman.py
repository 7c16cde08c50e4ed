r"""Kalman filter and smoother: exact likelihood and paths of a linear Gaussian model, for many parameters at once.

m and P are the mean and covariance of the state before the k-th observation, x = H z + d + e. The filter updates them,

    v = x - H m - d,   F = H P H^T + R,   K = P H^T F^{-1},   log p(x_k | x_1..k-1) = log N(v; 0, F),
    m <- m + K v,      P <- (I - K H) P (I - K H)^T + K R K^T   (Joseph's form: never an indefinite covariance),

and predicts the state at the next time, m <- A m + b, P <- A P A^T + Q. A missing number has a row of zeros in H. The
smoother (Rauch, Tung, Striebel) goes backwards with G = P A^T (A P A^T + Q)^{-1}:

    m^s = m + G (m^s_next - m_next),   P^s = (I - G A) P (I - G A)^T + G (Q + P^s_next) G^T,

and a path is drawn backwards from N(m + G (z_next - m_next), (I - G A) P (I - G A)^T + G Q G^T). All computations are
in float64.

A number that is observed without noise, and observed again before the state has moved, has no variance except from
rounding. So if R is singular, the filter also computes the variance E that rounding of (I - K H) can cause. E is in
units of the squared rounding error: E <- (I - K H) E (I - K H)^T + P at each time, and E <- A E A^T between times. A
variance that is not far above E is treated as zero.

References:
    | A new approach to linear filtering and prediction problems (Kalman, 1960), https://doi.org/10.1115/1.3662552
    | Maximum likelihood estimates of linear dynamic systems (Rauch, Tung, Striebel, 1965),
      https://doi.org/10.2514/3.3166
    | On Gibbs sampling for state space models (Carter, Kohn, 1994), https://doi.org/10.1093/biomet/81.3.541
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.simulators.dynamics.linear_states import Affine, LinearStates, check_covariance, root
from sciinf.simulators.dynamics.state_space import Record, Theta

_ROUNDING = 1e-24  # Squared relative error of I - K H, with a margin for nearly singular matrices.
_ALIKE = 1e-12  # Smallest share of a number's variance that must remain once the numbers beside it are known.


@dataclass(frozen=True)
class Filtered:
    """Result of a Kalman filter.

    Args:
        log_likelihood: Log likelihood log p(x | theta), (row,), float64.
        mean: Mean of the state at each time given the observations up to that time, (row, time, S).
        covariance: Covariance of the state given the same observations, (row, time, S, S).
        steps: Linear map from each time to the next.
    """

    log_likelihood: Tensor
    mean: Tensor
    covariance: Tensor
    steps: tuple[Affine, ...]


def filtered(model: LinearStates, theta: Theta, record: Record, *, keep: bool = True) -> Filtered:
    """Run the Kalman filter: exact likelihood, and distribution of the state given the observations up to each time.

    Args:
        model: Linear Gaussian state-space model.
        theta: Parameters, name -> (row,).
        record: Observations of each row.
        keep: Whether to keep means and covariances of all times. If False, their axis of time has length 0.

    Raises:
        ValueError: If a covariance of the model is invalid, or an observation without noise is already known from
            earlier observations.
    """
    theta = {name: value.double() for name, value in theta.items()}
    rows = record.rows
    view = _stacked(model, record.beside(theta, 0), record)
    mean, covariance = (part.double() for part in model.start(record.beside(theta, 0)))
    check_covariance(covariance, "P_0, of the start,")
    mean, covariance = mean.expand(rows, -1), covariance.expand(rows, -1, -1)
    log_likelihood = torch.zeros(rows, dtype=torch.float64, device=mean.device)
    means, covariances, steps = [], [], []
    some = bool(record.controls) or bool(_singular(view[2]).any())  # With controls, R may differ at each time.
    rounding = torch.zeros_like(covariance) if some else None
    for k in range(record.times.shape[-1]):
        if k or record.begin is not None:
            law = _double(model.step(record.beside(theta, k - 1), *record.step(k)))
            check_covariance(law.covariance, f"Q, of the step to time {_time(record, k)},")
            mean = (law.matrix @ mean[..., None])[..., 0] + law.offset
            covariance = law.matrix @ covariance @ law.matrix.mT + law.covariance
            rounding = rounding if rounding is None else law.matrix @ rounding @ law.matrix.mT
            steps += [law] if k and keep else []
            view = _stacked(model, record.beside(theta, k), record) if record.controls else view
        seen, time = _seen(record, k), _time(record, k)
        mean, covariance, log_density, rounding = _taken(mean, covariance, view, seen, time, rounding)
        log_likelihood = log_likelihood + log_density
        if keep:
            means.append(mean)
            covariances.append(covariance)
    size = mean.shape[-1]
    kept = torch.stack(means, 1) if keep else mean.new_zeros(rows, 0, size)
    spread = torch.stack(covariances, 1) if keep else mean.new_zeros(rows, 0, size, size)
    return Filtered(log_likelihood, kept, spread, tuple(steps))


def smoothed(found: Filtered) -> tuple[Float[Tensor, "row time state"], Float[Tensor, "row time state state"]]:
    """Mean and covariance of the state at each time, given all observations (smoother)."""
    mean, covariance = found.mean[:, -1], found.covariance[:, -1]
    means, covariances = [mean], [covariance]
    for k in range(len(found.steps) - 1, -1, -1):
        law, gain, left = _back(found, k)
        before = found.mean[:, k]
        mean = before + (gain @ (mean - _moved(law, before))[..., None])[..., 0]
        covariance = left + gain @ covariance @ gain.mT
        means.append(mean)
        covariances.append(covariance)
    return torch.stack(means[::-1], 1), torch.stack(covariances[::-1], 1)


def paths(found: Filtered, *, generator: torch.Generator) -> Float[Tensor, "row time state"]:
    """Draw a path of the state for each row, given all observations."""
    state = _drawn(found.mean[:, -1], found.covariance[:, -1], generator)
    states = [state]
    for k in range(len(found.steps) - 1, -1, -1):
        law, gain, left = _back(found, k)
        before = found.mean[:, k]
        mean = before + (gain @ (state - _moved(law, before))[..., None])[..., 0]
        state = _drawn(mean, left, generator)
        states.append(state)
    return torch.stack(states[::-1], 1)


def _taken(
    mean: Tensor,
    covariance: Tensor,
    view: tuple[Tensor, Tensor, Tensor],
    numbers: tuple[Tensor, Tensor],
    time: str,
    rounding: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Update the distribution of the state by the observation of one time.

    Args:
        mean: Mean of the state before the update, (row, S).
        covariance: Covariance of the state before the update, (row, S, S).
        view: Matrices H, d and R of the observation.
        numbers: Observed numbers, (row, M), and whether each was observed.
        time: Text of the time, for the error message.
        rounding: Variance E that rounding can cause, or None if R is not singular.

    Returns:
        Mean and covariance of the state after the update, log density of the numbers, and the updated E.
    """
    (matrix, offset, noise), (x, there) = view, numbers
    singular = None if rounding is None else _singular(noise)
    seen = there.to(mean)
    matrix = matrix * seen[..., None]
    noise = noise * seen[..., None] * seen[..., None, :] + torch.diag_embed(1 - seen)
    v = torch.where(there, x - (matrix @ mean[..., None])[..., 0] - offset, 0.0)
    across = covariance @ matrix.mT
    spread = matrix @ across + noise
    chol, wrong = torch.linalg.cholesky_ex(spread)
    bad = (wrong > 0) & spread.isfinite().flatten(1).all(-1)
    if rounding is not None:
        left, scale = chol.diagonal(dim1=-2, dim2=-1).square(), spread.diagonal(dim1=-2, dim2=-1)
        doubt = (matrix @ rounding @ matrix.mT).diagonal(dim1=-2, dim2=-1)
        bad |= singular & ((left < _ALIKE * scale) | (left < _ROUNDING * doubt)).any(-1)
    if bool(bad.any()):
        raise ValueError(
            f"the observation at time {time} has no variance, as it is seen without noise and known before: give the "
            "observation some noise, or leave one of two equal times out"
        )
    gain = torch.cholesky_solve(across.mT, chol).mT
    eye = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
    keep = eye - gain @ matrix
    rounding = rounding if rounding is None else keep @ rounding @ keep.mT + covariance
    covariance = keep @ covariance @ keep.mT + gain @ noise @ gain.mT
    whitened = torch.linalg.solve_triangular(chol, v[..., None], upper=False)[..., 0]
    log = -0.5 * whitened.square().sum(-1) - chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log = log - 0.5 * math.log(2 * math.pi) * seen.sum(-1)
    log = torch.where(wrong > 0, math.nan, log)
    return mean + (gain @ v[..., None])[..., 0], covariance, log, rounding


def _singular(noise: Tensor) -> Tensor:
    """Whether the noise covariance R is singular, so that some number is observed without noise, (row or 1,)."""
    chol, wrong = torch.linalg.cholesky_ex(noise)
    left, scale = chol.diagonal(dim1=-2, dim2=-1).square(), noise.diagonal(dim1=-2, dim2=-1)
    return (wrong > 0) | (left < _ALIKE * scale).any(-1)


def _stacked(model: LinearStates, theta: Theta, record: Record) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices H, d and R of all observables together."""
    views = model.view(theta)
    if set(views) != set(record.x):
        raise ValueError(f"the model sees {sorted(views)}, the data have {sorted(record.x)}; call both the same")
    laws = [_double(views[name]) for name in record.x]
    for name, law in zip(record.x, laws, strict=True):
        check_covariance(law.covariance, f"R, of {name!r},")
        numbers = record.x[name][0, 0].numel()
        if law.matrix.shape[-2] != numbers:
            raise ValueError(f"{name!r} has {numbers} numbers at a time, and the model's view {law.matrix.shape[-2]}")
    offsets = [torch.as_tensor(law.offset) for law in laws]
    rows = max(len(part) for part in (*offsets, *(law.matrix for law in laws), *(law.covariance for law in laws)))
    matrix = torch.cat([law.matrix.expand(rows, -1, -1) for law in laws], -2)
    offset = torch.cat([offset.expand(rows, -1) for offset in offsets], -1)
    sizes = [law.matrix.shape[-2] for law in laws]
    noise = matrix.new_zeros(rows, sum(sizes), sum(sizes))
    place = 0
    for law, size in zip(laws, sizes, strict=True):
        noise[:, place : place + size, place : place + size] = law.covariance
        place += size
    return matrix, offset, noise


def _seen(record: Record, k: int) -> tuple[Tensor, Tensor]:
    """Observed numbers of one time, (row, M), and a mask that is False for missing numbers."""
    values = [value[:, k].reshape(record.rows, -1).double() for value in record.x.values()]
    flags = [_flag(record.there, name, k, each) for name, each in zip(record.x, values, strict=True)]
    return torch.cat(values, -1), torch.cat(flags, -1)


def _flag(there: Mapping[str, Tensor], name: str, k: int, like: Tensor) -> Tensor:
    if name not in there:
        return torch.ones_like(like, dtype=torch.bool)
    return there[name][:, k].reshape(len(like), -1).expand(-1, like.shape[-1])


def _back(found: Filtered, k: int) -> tuple[Affine, Tensor, Tensor]:
    """Quantities of the backward step from time k + 1 to time k.

    Returns:
        The linear map of the step, the gain G, and the covariance of the state at time k given the next state.
    """
    law, before = found.steps[k], found.covariance[:, k]
    ahead = law.matrix @ before @ law.matrix.mT + law.covariance
    across = law.matrix @ before
    chol, wrong = torch.linalg.cholesky_ex(ahead)
    if bool((wrong > 0).any()):  # A part of the state is known exactly and moves without noise.
        scale = ahead.diagonal(dim1=-2, dim2=-1).clamp_min(1e-300).sqrt()
        one = ahead / (scale[..., None] * scale[..., None, :])
        gain = (torch.linalg.pinv(one, rtol=1e-13, hermitian=True) @ (across / scale[..., None])).mT
        gain = gain / scale[..., None, :]
    else:
        gain = torch.cholesky_solve(across, chol).mT
    keep = torch.eye(before.shape[-1], dtype=before.dtype, device=before.device) - gain @ law.matrix
    return law, gain, keep @ before @ keep.mT + gain @ law.covariance @ gain.mT


def _drawn(mean: Tensor, covariance: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
    symmetric = 0.5 * (covariance + covariance.mT)
    return mean + (root(symmetric, "of a path") @ noise[..., None])[..., 0]


def _moved(law: Affine, mean: Tensor) -> Tensor:
    return (law.matrix @ mean[..., None])[..., 0] + law.offset


def _double(law: Affine) -> Affine:
    offset = torch.as_tensor(law.offset, dtype=torch.float64, device=law.matrix.device)
    offset = offset if offset.ndim == 2 else offset.expand(1, law.matrix.shape[-2])
    return Affine(law.matrix.double(), offset, law.covariance.double())


def _time(record: Record, k: int) -> str:
    return f"{float(record.times[0, k]):g}"
