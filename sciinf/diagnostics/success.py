r"""Classifier for the probability that a simulation succeeds, as a function of its parameters.

With z in R^D the parameters under the prior's bijection, u their standardised form, and features phi(u),

    log P(fails | theta) / P(ok | theta) = b + w . phi(u),

where w has a normal prior (a ridge) and b is free. Three sets of features are tried. The first is u. The second adds
its squares and products. The third adds waves along each parameter and in random directions (random Fourier features
of a Gaussian kernel). Features and ridge are those that predict held-out rows best. If nothing predicts better than
a constant rate, there are no features. The fit is Newton's method on a convex function: no network, no seed that
matters, and the same result for the same rows.

References:
    | Random features for large-scale kernel machines (Rahimi & Recht, 2007)
    | Flexible statistical inference for mechanistic models of neural dynamics (Lueckmann et al., 2017), whose section
      on simulations that fail learns such a classifier, https://arxiv.org/abs/1711.01861
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

KINDS = ("constant", "linear", "quadratic", "waves")
_RIDGES = (0.001, 0.1, 10.0)
_RANDOM = 32
_ALONG = (1, 2, 4, 8)  # Angular frequencies of the waves along each parameter.
_MOST = 20  # Largest number of parameters with products, and with waves along each.
_FAR = 6.0  # Standardised parameters are clamped here, because there were no rows beyond.
_NEWTON = 40


@dataclass(frozen=True)
class Success:
    """log P(ok | theta), fitted to rows that succeeded or failed.

    Args:
        kind: Index in `KINDS` of the features used.
        centre: Mean and sd of z, (2, D).
        scale: Mean and sd of the features, (2, F).
        weight: w, then b, (F + 1,).
        off: Largest difference of predicted and observed failure rate, over fifths of held-out rows.
    """

    kind: Tensor
    centre: Tensor
    scale: Tensor
    weight: Tensor
    off: Tensor

    def log_prob(self, z: Tensor) -> Tensor:
        """log P(ok | theta) for z (n, D): (n,), float64."""
        return logsigmoid(-self.logit(z))

    def logit(self, z: Tensor) -> Tensor:
        """Log odds of failing, (n,)."""
        found = _features(_standardised(z, self.centre), KINDS[int(self.kind)])
        return (found - self.scale[0]) / self.scale[1] @ self.weight[:-1] + self.weight[-1]

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Success:
        return cls(**{name: tensors[name] for name in cls.__dataclass_fields__})


def fit_success(z: Tensor, failed: Tensor) -> Success:
    """Fit the classifier that predicts held-out rows best.

    Args:
        z: Parameters of all rows, (n, D).
        failed: Whether each row failed, bool (n,).
    """
    even = torch.arange(len(z)) % 2 == 0
    scored: dict[tuple[str, float], tuple[float, Tensor]] = {}
    for kind in KINDS:
        for ridge in _RIDGES if kind != "constant" else _RIDGES[:1]:
            logit = torch.zeros(len(z), dtype=torch.float64)
            for fold in (even, ~even):
                logit[~fold] = fitted(z[fold], failed[fold], kind, ridge).logit(z[~fold])
            scored[kind, ridge] = float(_loss(logit, failed).mean()), logit
    kind, ridge = min(scored, key=lambda known: scored[known][0])
    best = fitted(z, failed, kind, ridge)
    return Success(best.kind, best.centre, best.scale, best.weight, _off(scored[kind, ridge][1], failed))


def fitted(z: Tensor, failed: Tensor, kind: str, ridge: float) -> Success:
    """Fit a classifier with given features and ridge."""
    z = z.double()
    centre = torch.stack([z.mean(dim=0), z.std(dim=0).clamp_min(1e-12)])
    found = _features(_standardised(z, centre), kind)
    mean = found.mean(dim=0)
    scale = torch.stack([mean, (found - mean).square().mean(dim=0).sqrt().clamp_min(1e-12)])
    inputs = torch.cat([(found - scale[0]) / scale[1], torch.ones(len(z), 1, dtype=torch.float64)], dim=1)
    weight = _newton(inputs, failed.double(), ridge)
    return Success(torch.tensor(KINDS.index(kind)), centre, scale, weight, torch.tensor(math.nan, dtype=torch.float64))


def _standardised(z: Tensor, centre: Tensor) -> Tensor:
    return ((z.double() - centre[0]) / centre[1]).nan_to_num(nan=0.0).clamp(-_FAR, _FAR)


def _features(u: Tensor, kind: str) -> Tensor:
    """Features (n, F) of u (n, D)."""
    if kind == "constant":
        return u[:, :0]
    parts, d = [u], u.shape[1]
    if kind != "linear":
        parts.append(u.square())
    if kind != "linear" and d <= _MOST:
        row, column = torch.triu_indices(d, d, offset=1)
        parts.append(u[:, row] * u[:, column])
    if kind == "waves" and d <= _MOST:
        parts += [wave(k * u) for k in _ALONG for wave in (torch.sin, torch.cos)]
    if kind == "waves":
        generator = torch.Generator().manual_seed(0)
        direction = torch.randn(d, _RANDOM, generator=generator, dtype=torch.float64)
        phase = 2 * math.pi * torch.rand(_RANDOM, generator=generator, dtype=torch.float64)
        # Half of them vary on the scale of the prior, half on a scale three times smaller.
        width = torch.where(torch.arange(_RANDOM) % 2 == 0, 1.0, 3.0) / math.sqrt(d)
        parts.append((u @ (direction * width) + phase).cos())
    return torch.cat(parts, dim=1)


def _loss(logit: Tensor, failed: Tensor) -> Tensor:
    """Negative log probability of the observed success or failure, per row."""
    return softplus(logit) - failed * logit


def _newton(inputs: Tensor, failed: Tensor, ridge: float) -> Tensor:
    """Minimiser of the summed loss plus ridge / 2 |w|^2; the last input is constant, and its weight is free."""
    rate = ((failed.sum() + 0.5) / (len(failed) + 1)).clamp(1e-6, 1 - 1e-6)
    weight = torch.zeros(inputs.shape[1], dtype=torch.float64)
    weight[-1] = rate.log() - (-rate).log1p()
    penalty = torch.full_like(weight, ridge)
    penalty[-1] = 1e-6

    def objective(w: Tensor) -> float:
        return float(_loss(inputs @ w, failed).sum() + 0.5 * (penalty * w.square()).sum())

    value = objective(weight)
    for _ in range(_NEWTON):
        p = torch.sigmoid(inputs @ weight)
        gradient = inputs.T @ (p - failed) + penalty * weight
        curvature = inputs.T @ (inputs * (p * (1 - p))[:, None]) + torch.diag(penalty)
        step = torch.linalg.solve(curvature, gradient)
        if float(gradient @ step) < 1e-6:
            break
        size = 1.0
        while size > 1e-6 and (new := objective(weight - size * step)) > value:
            size /= 2
        if size <= 1e-6:
            break
        weight, value = weight - size * step, new
    return weight


def _off(logit: Tensor, failed: Tensor) -> Tensor:
    """Largest difference of predicted and observed failure rate, over fifths of the rows sorted by prediction."""
    parts = torch.tensor_split(logit.argsort(), 5)
    p = torch.sigmoid(logit)
    return torch.stack([(p[i].mean() - failed[i].double().mean()).abs() for i in parts]).max()
