r"""Kalman's filter and smoother: the exact likelihood and path of a linear Gaussian model, for many parameters at once.

With m, P the mean and covariance of the state before the k-th time, the filter takes in what was seen, x = H z + d + e:

    v = x - H m - d,   F = H P H^T + R,   K = P H^T F^{-1},   log p(x_k | x_1..k-1) = log N(v; 0, F),
    m <- m + K v,      P <- (I - K H) P (I - K H)^T + K R K^T   (Joseph's form: never an indefinite covariance),

and moves on, m <- A m + b, P <- A P A^T + Q, over whatever time there is to the next one. A number that is missing has
a row of zeros in H. The smoother (Rauch, Tung, Striebel) goes back with G = P A^T (A P A^T + Q)^{-1}:

    m^s = m + G (m^s_next - m_next),   P^s = (I - G A) P (I - G A)^T + G (Q + P^s_next) G^T,

and a path is drawn backwards from N(m + G (z_next - m_next), (I - G A) P (I - G A)^T + G Q G^T). All in float64.

What is seen without noise, and seen again before anything moved, has no variance left but for rounding. So where R is
singular, what rounding of (I - K H) can leave goes along, in units of its square: E <- (I - K H) E (I - K H)^T + P at
each time, E <- A E A^T from one to the next. A variance that is not far above it is no variance.

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

_ROUNDING = 1e-24  # square of the relative error of I - K H, with room for matrices that are nearly singular
_ALIKE = 1e-12  # of its variance, what is left of a number once those beside it are known


@dataclass(frozen=True)
class Filtered:
    """What the filter found.

    Args:
        log_likelihood: log p(x | theta), (row,), float64.
        mean: Of the state at each time given what was seen until then, (row, time, S).
        covariance: Its covariance, (row, time, S, S).
        steps: How the state moved to each time but the first.
    """

    log_likelihood: Tensor
    mean: Tensor
    covariance: Tensor
    steps: tuple[Affine, ...]


def filtered(model: LinearStates, theta: Theta, record: Record, *, keep: bool = True) -> Filtered:
    """The likelihood, and the law of the state at each time given what was seen until then.

    Args:
        model: The model.
        theta: Name -> (row,).
        record: What was seen.
        keep: Whether means and covariances are wanted; without, there are none (of time 0).

    Raises:
        ValueError: If a covariance of the model is none, or what is seen at a time is known before it is seen.
    """
    theta = {name: value.double() for name, value in theta.items()}
    rows = record.rows
    view = _stacked(model, record.beside(theta, 0), record)
    mean, covariance = (part.double() for part in model.start(record.beside(theta, 0)))
    check_covariance(covariance, "P_0, of the start,")
    mean, covariance = mean.expand(rows, -1), covariance.expand(rows, -1, -1)
    log_likelihood = torch.zeros(rows, dtype=torch.float64, device=mean.device)
    means, covariances, steps = [], [], []
    some = bool(record.controls) or bool(_singular(view[2]).any())  # with controls, another R at each time
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
    """Mean and covariance of the state at each time, given all that was seen."""
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
    """A path of each row, drawn given all that was seen."""
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
    """The law of the state after the numbers (row, M) of one time, their log density, and what rounding can leave."""
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
            f"what is seen at time {time} has no variance, as it is seen without noise and known before: give the "
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
    """Whether something is seen without noise, (row or 1,)."""
    chol, wrong = torch.linalg.cholesky_ex(noise)
    left, scale = chol.diagonal(dim1=-2, dim2=-1).square(), noise.diagonal(dim1=-2, dim2=-1)
    return (wrong > 0) | (left < _ALIKE * scale).any(-1)


def _stacked(model: LinearStates, theta: Theta, record: Record) -> tuple[Tensor, Tensor, Tensor]:
    """The matrices of all observables together."""
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
    """Numbers of one time, (row, M), and which are there."""
    values = [value[:, k].reshape(record.rows, -1).double() for value in record.x.values()]
    flags = [_flag(record.there, name, k, each) for name, each in zip(record.x, values, strict=True)]
    return torch.cat(values, -1), torch.cat(flags, -1)


def _flag(there: Mapping[str, Tensor], name: str, k: int, like: Tensor) -> Tensor:
    if name not in there:
        return torch.ones_like(like, dtype=torch.bool)
    return there[name][:, k].reshape(len(like), -1).expand(-1, like.shape[-1])


def _back(found: Filtered, k: int) -> tuple[Affine, Tensor, Tensor]:
    """How the state moved on from the k-th time, the gain G back, and what is unknown of it given the next state."""
    law, before = found.steps[k], found.covariance[:, k]
    ahead = law.matrix @ before @ law.matrix.mT + law.covariance
    across = law.matrix @ before
    chol, wrong = torch.linalg.cholesky_ex(ahead)
    if bool((wrong > 0).any()):  # a part of the state moves without noise, and is known
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
