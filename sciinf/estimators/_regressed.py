r"""Least squares of parameters on data and plain statistics, whose guess networks are given beside what they learn.

With u the standardised numbers of x, t(u) their plain statistics (`summaries.statistics`) and z the parameters,

    h_1 = A_1 (u, t(u)),    r = u - B b(h_1),    h = A_2 (u, t(u), t(r)),

b(h) = (1, h, squares and products), each map by least squares over the training rows: A_1 and A_2 with a ridge that
leaves them at most a fiftieth as many degrees of freedom as there are rows. A network gets (h, t(u), t(r)): where the
posterior is near normal h is nearly its mean, and t(r) tells the noise that the fit leaves, for neither of which it
then needs simulations. Numbers of a set are alike, so they enter by t alone.

Shapes: u name -> (batch, *event), z (batch, D), features (batch, F).

References:
    | Constructing summary statistics for approximate Bayesian computation (Fearnhead & Prangle, 2012),
      https://arxiv.org/abs/1004.1112
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core import Observable
from sciinf.summaries.standardise import squash
from sciinf.summaries.statistics import statistics

ROWS, PIECE = 65_536, 8_192  # that least squares look at; at once
_FREE = 50  # rows for each degree of freedom
_MOST = 1_024  # numbers of an observable that enter by themselves
_PRODUCTS = 6  # parameters, beyond which only their squares count
_CLAMP = 4.0

Rows = Callable[[], Iterator[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]]]
"""Passes over training rows: z (batch, D), standardised data, and masks of their shape by name."""


class Regressed(nn.Module):
    """The guess and the statistics.

    Args:
        observables: Name -> specification, of those that are not masks.
        masked: Names of those that come with a mask.
        dim: D.
    """

    first: Tensor
    second: Tensor
    back: Tensor
    plain_mean: Tensor
    plain_sd: Tensor
    left_mean: Tensor
    left_sd: Tensor

    def __init__(self, observables: Mapping[str, Observable], masked: frozenset[str], dim: int) -> None:
        super().__init__()
        self.specs = dict(observables)
        self.linear = [
            name for name, spec in self.specs.items() if "item" not in spec.dims and math.prod(spec.shape) <= _MOST
        ]
        numbers = sum(math.prod(self.specs[name].shape) for name in self.linear)
        blank = {name: torch.zeros(2, *spec.shape) for name, spec in self.specs.items()}
        masks = {name: blank[name] == 0 for name in masked}
        plain = self._statistics(blank, masks, list(self.specs)).shape[1]
        left = self._statistics(blank, masks, self.linear).shape[1]
        self.features = dim + plain + left
        products = dim * (dim + 1) // 2 if dim <= _PRODUCTS else dim
        for name, shape in (
            ("first", (1 + numbers + plain, dim)),
            ("second", (1 + numbers + plain + left, dim)),
            ("back", (1 + dim + products, numbers)),
            ("plain_mean", (plain,)),
            ("left_mean", (left,)),
        ):
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("plain_sd", torch.ones(plain))
        self.register_buffer("left_sd", torch.ones(left))

    def forward(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Float[Tensor, "batch feature"]:
        """h, t(u), t(r), each brought to order one."""
        told = self._told(u, masks)
        left = self._left(u, masks, told)
        return torch.cat([torch.cat([told, left], dim=1) @ self.second, told[:, 1 + self._numbers :], left], dim=1)

    @torch.no_grad()
    def fit(self, rows: Rows) -> None:
        """Set the maps: three passes over at most `ROWS` rows."""
        moments = _moments(self._statistics(u, masks, list(self.specs)) for _, u, masks in rows())
        self._set("plain", moments)
        self.first.copy_(_least_squares((self._told(u, m), z) for z, u, m in rows()))
        if not self.linear:
            self.second.copy_(self.first)
            return
        found = ((self._basis(self._told(u, m)), self._flat(u)) for _, u, m in rows())
        self.back.copy_(_least_squares(found))
        self._set("left", _moments(self._residual_statistics(u, m, self._told(u, m)) for _, u, m in rows()))
        both = ((self._told(u, m), z, u, m) for z, u, m in rows())
        pairs = ((torch.cat([told, self._left(u, m, told)], dim=1), z) for told, z, u, m in both)
        self.second.copy_(_least_squares(pairs))

    @property
    def _numbers(self) -> int:
        return self.back.shape[1]

    def _set(self, name: str, moments: tuple[Tensor, Tensor]) -> None:
        self.get_buffer(f"{name}_mean").copy_(moments[0])
        self.get_buffer(f"{name}_sd").copy_(moments[1])

    def _statistics(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor], names: list[str]) -> Tensor:
        parts = [statistics(u[name], masks.get(name), self.specs[name]) for name in names]
        first = next(iter(u.values()))
        return torch.cat([first.new_zeros(len(first), 0), *parts], dim=1)

    def _told(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """One, the numbers, and t(u)."""
        plain = squash((self._statistics(u, masks, list(self.specs)) - self.plain_mean) / self.plain_sd)
        return torch.cat(
            [torch.ones_like(plain[:, :1]) if plain.shape[1] else plain.new_ones(len(plain), 1), self._flat(u), plain],
            dim=1,
        )

    def _flat(self, u: Mapping[str, Tensor]) -> Tensor:
        first = next(iter(u.values()))
        return torch.cat([first.new_zeros(len(first), 0), *(u[name].flatten(1) for name in self.linear)], dim=1)

    def _basis(self, told: Tensor) -> Tensor:
        h = (told @ self.first).clamp(-_CLAMP, _CLAMP)
        size = h.shape[1]
        if size <= _PRODUCTS:
            first, second = torch.triu_indices(size, size, device=h.device)
            products = h[:, first] * h[:, second]
        else:
            products = h.square()
        return torch.cat([torch.ones_like(h[:, :1]), h, products], dim=1)

    def _residual_statistics(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor], told: Tensor) -> Tensor:
        fitted = (self._basis(told) @ self.back).split([math.prod(self.specs[n].shape) for n in self.linear], dim=1)
        left = {
            name: (u[name] - part.reshape(u[name].shape)) * masks.get(name, 1.0)
            for name, part in zip(self.linear, fitted, strict=True)
        }
        return self._statistics(left, masks, self.linear) if self.linear else told.new_zeros(len(told), 0)

    def _left(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor], told: Tensor) -> Tensor:
        return squash((self._residual_statistics(u, masks, told) - self.left_mean) / self.left_sd)


def _moments(parts: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and sd of each column; an sd of 1 where a column does not vary."""
    count, total, squares = 0, 0.0, 0.0
    for part in parts:
        part = part.double()
        count, total, squares = count + len(part), total + part.sum(0), squares + part.square().sum(0)
    mean = torch.as_tensor(total) / max(1, count)
    sd = (torch.as_tensor(squares) / max(1, count) - mean.square()).clamp_min(0).sqrt()
    return mean, torch.where(sd > 1e-6 * mean.abs() + 1e-9, sd, 1.0)


def _least_squares(pairs: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """Coefficients (K, D) of y on columns of which the first is one and has no ridge."""
    count, gram, cross = 0, 0.0, 0.0
    for x, y in pairs:
        x, y = x.double(), y.double()
        count, gram, cross = count + len(x), gram + x.T @ x, cross + x.T @ y
    gram, cross = torch.as_tensor(gram) / count, torch.as_tensor(cross) / count
    middle = gram[0, 1:]
    covariance = gram[1:, 1:] - torch.outer(middle, middle)
    scale, axes = torch.linalg.eigh(covariance)
    scale = scale.clamp_min(0)
    ridge = _ridge(scale, count / _FREE)
    inner = (axes.T @ (cross[1:] - torch.outer(middle, cross[0]))) / (scale + ridge)[:, None]
    slopes = axes @ inner
    return torch.cat([(cross[0] - middle @ slopes)[None], slopes])


def _ridge(scale: Tensor, free: float) -> float:
    """The least ridge that leaves at most so many degrees of freedom."""
    top = float(scale.max()) if len(scale) else 1.0
    low, high = 1e-7 * top + 1e-12, 1e3 * top * (len(scale) + 1) / max(free, 1e-3) + 1e-12
    if float((scale / (scale + low)).sum()) <= free:
        return low
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if float((scale / (scale + middle)).sum()) > free else (low, middle)
    return high
