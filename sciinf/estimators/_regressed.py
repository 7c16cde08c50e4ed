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
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core import Observable
from sciinf.estimators._gaussian import moments
from sciinf.summaries.standardise import squash
from sciinf.summaries.statistics import statistics

_ROWS, _NUMBERS = 65_536, 2**24  # rows that least squares look at, and numbers of them, at most
_PIECE = 8_192  # rows in double precision at once
_FREE = 50  # rows for each degree of freedom
_MOST = 1_024  # numbers of an observable that enter by themselves
_PRODUCTS = 6  # parameters, beyond which only their squares count
_CLAMP = 4.0

Rows = Callable[[], Iterator[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]]]
"""A pass over training rows, the same in each: z (batch, D), standardised data, masks of their shape by name."""


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

    @property
    def rows(self) -> int:
        """How many rows `fit` looks at, at most."""
        return min(_ROWS, _NUMBERS // len(self.second))

    @torch.no_grad()
    def fit(self, rows: Rows) -> None:
        """Set the maps: five passes over at most `rows` rows. Of their data no more than a batch is kept.

        Raises:
            ValueError: If the rows of a pass are not those of the first.
        """
        names = list(self.specs)
        gathered = zip(*((z, self._statistics(u, masks, names)) for z, u, masks in rows()), strict=True)
        z, plain = map(torch.cat, gathered)
        self._set("plain", plain)

        def again() -> Iterator[tuple[slice, Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]]:
            start = 0
            for part, u, masks in rows():
                some = slice(start, start + len(part))
                start = some.stop
                if not torch.equal(part, z[some]):
                    raise ValueError("least squares need the same rows, in the same order, in each pass over them")
                yield some, self._beside(self._flat(u, part), plain[some]), u, masks

        self.first.copy_(_least_squares((known, z[some]) for some, known, _, _ in again()))
        if not self.linear:
            self.second.copy_(self.first)
            return
        self.back.copy_(_least_squares((self._basis(known), self._flat(u, known)) for _, known, u, _ in again()))
        left = torch.cat([self._residual_statistics(u, masks, known) for _, known, u, masks in again()])
        self._set("left", left)
        squashed = self._squashed("left", left)
        both = ((torch.cat([known, squashed[some]], dim=1), z[some]) for some, known, _, _ in again())
        self.second.copy_(_least_squares(both))

    @property
    def _numbers(self) -> int:
        return self.back.shape[1]

    def _set(self, name: str, found: Tensor) -> None:
        """Mean and sd of statistics, (rows, S); an sd of 1 where one does not vary."""
        found = found.cpu().double()
        mean, sd = found.mean(0), found.std(0, correction=0)
        self.get_buffer(f"{name}_mean").copy_(mean)
        self.get_buffer(f"{name}_sd").copy_(torch.where(sd > 1e-6 * mean.abs() + 1e-9, sd, 1.0))

    def _statistics(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor], names: list[str]) -> Tensor:
        parts = [statistics(u[name], masks.get(name), self.specs[name]) for name in names]
        first = next(iter(u.values()))
        return torch.cat([first.new_zeros(len(first), 0), *parts], dim=1)

    def _told(self, u: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """One, the numbers, and t(u)."""
        raw = self._statistics(u, masks, list(self.specs))
        return self._beside(self._flat(u, raw), raw)

    def _beside(self, flat: Tensor, raw: Tensor) -> Tensor:
        return torch.cat([flat.new_ones(len(flat), 1), flat, self._squashed("plain", raw)], dim=1)

    def _squashed(self, name: str, raw: Tensor) -> Tensor:
        return squash((raw - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_sd"))

    def _flat(self, u: Mapping[str, Tensor], like: Tensor) -> Tensor:
        return torch.cat([like.new_zeros(len(like), 0), *(u[name].flatten(1) for name in self.linear)], dim=1)

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
        return self._squashed("left", self._residual_statistics(u, masks, told))


def _least_squares(pieces: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Coefficients (K, D) of y (rows, D) on x (rows, K), of which the first column is one and has no ridge.

    Args:
        pieces: x and y, some rows at a time.
    """
    parts = (part for x, y in pieces for part in zip(x[:, 1:].split(_PIECE), y.split(_PIECE), strict=True))
    first = next(parts)
    size = first[0].shape[1]
    both = (torch.cat(part, dim=1) for part in chain([first], parts))
    count, mean, covariance = moments(both, size + first[1].shape[1])
    scale, axes = torch.linalg.eigh(covariance[:size, :size])
    scale = scale.clamp_min(0)
    inner = (axes.T @ covariance[:size, size:]) / (scale + _ridge(scale, count / _FREE))[:, None]
    slopes = axes @ inner
    return torch.cat([(mean[size:] - mean[:size] @ slopes)[None], slopes])


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
