r"""A normalised density of simulated data that can be sampled: a likelihood is compared with it
(`campaigns.densities`).

The numbers x_1, ..., x_d of a simulation are modelled one after the other, given g (parameters, controls, times):

    x_i = a_i + b_i . g + sum_{j<i} c_ij e_j + e_i,     e_i ~ k_i,

by least squares on n simulations. A c_ij whose correlation is below 3 / sqrt(n) is left out. k_i is a kernel density of
the residuals with logistic kernels, cut off where x_i would leave the range of its simulated values, so that no support
is left. A number that is always an integer has the probability of [x - 1/2, x + 1/2] instead of a density.

Reference: Density Estimation for Statistics and Data Analysis (Silverman, 1986), section 3.4,
https://doi.org/10.1201/9781315140919
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

_CORRELATED = 3.0  # over sqrt(n): smaller correlations may be chance
_MOST_EQUAL = 0.02  # share of equal values of a number that is no integer, from which on it has no density
_DETERMINED = 1e-5  # sd of what the others and squares leave of a number, over its own: data have no density
_SEPARATE = 0.05  # share of draws in which two numbers are ordered as in no simulation: their order is a support's
_TINY = 1e-300


class FittedDensity:
    """q(x | g), fitted to simulations.

    Args:
        x: Simulated numbers, (n, d), float64; each must vary.
        given: What they are conditioned on, (n, g), float64.

    Raises:
        ValueError: If the numbers have no joint density that it can fit: values that are no integers recur, or a number
            follows from the others, linearly or from their squares.
    """

    def __init__(self, x: Float[Tensor, "n d"], given: Float[Tensor, "n g"]) -> None:
        n, d = x.shape
        self.whole = (x == x.round()).all(0)
        for column in x[:, ~self.whole].unbind(1):
            if int(column.unique(return_counts=True)[1].max()) > max(2, _MOST_EQUAL * n):
                raise ValueError("values that are no integers recur")
        self.ordered = (x[:, :, None] <= x[:, None]).all(0)
        half = torch.where(self.whole, 0.5, 0.0)
        self.low, self.high = x.min(0).values - half, x.max(0).values + half
        self.centre, self.spread = given.mean(0), given.std(0).clamp_min(_TINY)
        self.slopes = torch.linalg.pinv(self._design(given)) @ x
        _check_determined(self._design(given), x)
        left = x - self._design(given) @ self.slopes
        self.residuals, self.links = torch.zeros_like(x), torch.zeros(d, d, dtype=torch.float64)
        for i in range(d):
            along, scale = self.residuals[:, :i].T @ left[:, i], self.residuals[:, :i].square().sum(0).clamp_min(_TINY)
            correlated = along.abs() > _CORRELATED / math.sqrt(n) * (scale * left[:, i].square().sum()).sqrt()
            self.links[i, :i] = torch.where(correlated, along / scale, 0.0)
            self.residuals[:, i] = left[:, i] - self.residuals[:, :i] @ self.links[i, :i]
        sd = self.residuals.std(0)
        quartiles = self.residuals.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64), dim=0)
        robust = torch.minimum(sd, (quartiles[1] - quartiles[0]) / 1.34)
        width = 0.9 * torch.where(robust > 0, robust, sd) * n**-0.2
        self.width = width * math.sqrt(3) / math.pi  # a logistic law of scale 1 has an sd of pi / sqrt(3)

    def log_prob(self, x: Float[Tensor, "m d"], given: Float[Tensor, "m g"]) -> Float[Tensor, " m"]:
        """log q(x | given); -inf outside the range of the simulations that it was fitted to."""
        middle, residuals, total = self._design(given) @ self.slopes, torch.zeros_like(x), torch.zeros(len(x)).double()
        for i, column in enumerate(x.unbind(1)):
            mean = middle[:, i] + residuals[:, :i] @ self.links[i, :i]
            residuals[:, i] = column - mean
            low, high = self._cdfs(i, self.low[i] - mean), self._cdfs(i, self.high[i] - mean)
            if self.whole[i]:
                here = self._cdfs(i, residuals[:, i] + 0.5) - self._cdfs(i, residuals[:, i] - 0.5)
            else:
                cdf = self._cdfs(i, residuals[:, i])
                here = cdf * (1 - cdf) / self.width[i]
            inside = (column >= self.low[i]) & (column <= self.high[i])
            inside &= (column == column.round()) | ~self.whole[i]
            found = here.sum(1).clamp_min(_TINY).log() - (high - low).sum(1).clamp_min(_TINY).log()
            total = total + torch.where(inside, found, -math.inf)
        return total

    def sample(self, given: Float[Tensor, "m g"], *, generator: torch.Generator) -> Float[Tensor, "m d"]:
        """A draw of x for each row of conditioning values.

        Raises:
            ValueError: If two numbers come in an order in which none of the simulations has them: these are sorted.
        """
        middle = self._design(given) @ self.slopes
        x, residuals = torch.zeros_like(middle), torch.zeros_like(middle)
        for i in range(middle.shape[1]):
            mean = middle[:, i] + residuals[:, :i] @ self.links[i, :i]
            low, high = self._cdfs(i, self.low[i] - mean), self._cdfs(i, self.high[i] - mean)
            kernel = torch.multinomial((high - low).clamp_min(_TINY), 1, generator=generator)
            low, high = low.gather(1, kernel)[:, 0], high.gather(1, kernel)[:, 0]
            u = low + (high - low) * torch.rand(len(mean), generator=generator, dtype=torch.float64)
            value = mean + self.residuals[kernel[:, 0], i] + self.width[i] * u.logit(1e-15)
            value = value.round() if self.whole[i] else value
            half = 0.5 if self.whole[i] else 0.0
            x[:, i] = value.clamp(float(self.low[i]) + half, float(self.high[i]) - half)
            residuals[:, i] = x[:, i] - mean
        otherwise = (x[:, :, None] > x[:, None]) & self.ordered
        if float(otherwise.double().mean(0).max()) > _SEPARATE:
            raise ValueError("the numbers are sorted")
        return x

    def _design(self, given: Tensor) -> Tensor:
        return torch.cat([torch.ones(len(given), 1, dtype=torch.float64), (given - self.centre) / self.spread], dim=1)

    def _cdfs(self, i: int, residual: Tensor) -> Tensor:
        """That of each kernel of a number at some residuals, (m, n)."""
        return ((residual[:, None] - self.residuals[:, i]) / self.width[i]).sigmoid()


def _check_determined(design: Tensor, x: Tensor) -> None:
    """Refuse numbers of which one follows from the others, as parts of a whole do, or a cosine from a sine.

    Raises:
        ValueError: If one does.
    """
    scaled = (x - x.mean(0)) / x.std(0)
    squares = scaled[:, [len(column.unique()) > 2 for column in x.unbind(1)]].square()
    left = torch.linalg.qr(torch.cat([design, scaled, squares], dim=1)).R.diagonal()[design.shape[1] :]
    if bool((left.abs() < _DETERMINED * math.sqrt(len(x))).any()):
        raise ValueError("a number follows from the others")
