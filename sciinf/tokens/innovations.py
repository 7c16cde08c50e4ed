r"""What a frame brings that the one before does not tell linearly, in units in which it is uncorrelated and of sd 1.

Fields are smooth and change slowly: neighbouring points are nearly alike, and so are frames that follow each other.
Noise that is added to points as they are would drown first what is fine or new, and what learns to remove it would
hardly be asked for that. So laws are learned of innovations: of tokens t after a frame of tokens k,

    z = A (t - m - B (k - m_k)),    B the least squares of t on k,    A = S^{-1/2},

m, m_k the means and S the covariance of what B leaves. Of pieces of a grid all of that is taken to be the same
everywhere: with T_q, K_q the Fourier coefficients of tokens over places, B_q and S_q are matrices of a token's width
for each wave q,

    B_q = E[T_q K_q^H] E[K_q K_q^H]^{-1},    S_q = E[T_q T_q^H] - B_q E[K_q T_q^H],

so that few training fields suffice; A and B are then local, and move with the field. Of other tokens B and S are taken
to be diagonal. Of a linear equation with random forcing on a ring z is white noise, whatever came before.

References:
    | Optimal Whitening and Decorrelation (Kessy et al., 2018), https://doi.org/10.1080/00031305.2016.1277159 (ZCA)
    | A New Approach to Linear Filtering and Prediction Problems (Kalman, 1960), https://doi.org/10.1115/1.3662552
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.tokens.code import FieldTokens

_LEAST = 1e-10  # variance, of the largest, that is taken for none
_STILL = 1e-12  # variance of standardised fields that is rounding
_RIDGE = 1e-9  # of the mean variance of what is known


class Innovations(nn.Module):
    """A change of units for a code's tokens, and back. It changes nothing until it has seen tokens.

    Args:
        code: Theirs.
    """

    means: Tensor
    there: Tensor
    back: Tensor
    guess: Tensor

    def __init__(self, code: FieldTokens) -> None:
        super().__init__()
        self.counts, places, width = code.counts, len(code.places), code.width
        self.register_buffer("means", torch.zeros(2, 1 if self.counts else places, width))
        unit = torch.ones(places, width)
        if self.counts:
            unit = torch.view_as_real(torch.eye(width, dtype=torch.complex64).expand(places, -1, -1))
        self.register_buffer("there", unit.clone())
        self.register_buffer("back", unit.clone())
        self.register_buffer("guess", torch.zeros_like(unit))
        self._begin()

    def _begin(self) -> None:
        self.count, self.totals, self.products = 0, torch.zeros(()), torch.zeros(())

    def see(
        self, tokens: Float[Tensor, "batch token width"], before: Float[Tensor, "batch token width"] | None = None
    ) -> None:
        """Count tokens in, and those of the frames before them."""
        both = torch.stack([tokens, torch.zeros_like(tokens) if before is None else before]).double()
        self.count += both.shape[1]
        self.totals = self.totals + both.sum(1)
        if self.counts:
            waves = self._waves(both)
            self.products = self.products + torch.einsum("abqi,cbqj->acqij", waves, waves.conj())
        else:
            self.products = self.products + torch.einsum("abpi,cbpi->acpi", both, both)

    def settle(self) -> None:
        """Take the units from what was seen."""
        means, products = self.totals / self.count, self.products / self.count
        if self.counts:
            means = means.mean(1, keepdim=True)
            waves = len(self.there) ** 0.5 * means[:, 0]  # the mean is in the longest wave alone
            products[:, :, 0] -= waves[:, None, :, None] * waves[None, :, None, :]
            known = products[1, 1] + _ridge(products[1, 1].diagonal(dim1=-2, dim2=-1).real.mean()) * torch.eye(
                waves.shape[-1], device=waves.device
            )
            guess = torch.linalg.solve(known, products[1, 0]).mH
            left = products[0, 0] - guess @ products[1, 0]
            values, vectors = torch.linalg.eigh((left + left.mH) / 2)
            root = _sds(values)
            parts = guess, (vectors / root[:, None]) @ vectors.mH, (vectors * root[:, None]) @ vectors.mH
            guess, there, back = (torch.view_as_real(part.resolve_conj()) for part in parts)
        else:
            products = products - means[:, None] * means[None]
            guess = products[0, 1] / (products[1, 1] + _ridge(products[1, 1].mean()))
            left = products[0, 0] - guess * products[0, 1]
            back = _sds(left)
            there = 1 / back
        for buffer, value in ((self.means, means), (self.guess, guess), (self.there, there), (self.back, back)):
            buffer.copy_(value)
        self._begin()

    def forward(
        self, tokens: Float[Tensor, "*batch token width"], before: Float[Tensor, "*batch token width"] | None = None
    ) -> Float[Tensor, "*batch token width"]:
        """z of tokens after others."""
        return self._applied(self.there, tokens - self._guessed(before))

    def inverse(
        self, z: Float[Tensor, "*batch token width"], before: Float[Tensor, "*batch token width"] | None = None
    ) -> Float[Tensor, "*batch token width"]:
        """Tokens of z after others."""
        return self._applied(self.back, z) + self._guessed(before)

    def _guessed(self, before: Tensor | None) -> Tensor:
        guess = 0 if before is None else self._applied(self.guess, before - self.means[1].to(before))
        return self.means[0] + guess

    def _applied(self, matrix: Tensor, tokens: Tensor) -> Tensor:
        if not self.counts:
            return matrix * tokens
        waves = self._waves(tokens)
        waves = torch.einsum("qij,...qj->...qi", torch.view_as_complex(matrix).to(waves), waves)
        found = torch.fft.ifftn(waves.unflatten(-2, self.counts), dim=self._axes(), norm="ortho").real
        return found.flatten(-1 - len(self.counts), -2)

    def _waves(self, tokens: Tensor) -> Tensor:
        """Fourier coefficients over places, unitary."""
        found = torch.fft.fftn(tokens.unflatten(-2, self.counts), dim=self._axes(), norm="ortho")
        return found.flatten(-1 - len(self.counts), -2)

    def _axes(self) -> list[int]:
        return list(range(-1 - len(self.counts), -1))


def _sds(variances: Tensor) -> Tensor:
    """Roots; 1 where nothing varies at all."""
    most = variances.max()
    return torch.where(most > _STILL, variances.clamp_min(_LEAST * most).sqrt(), torch.ones_like(variances))


def _ridge(variance: Tensor) -> Tensor:
    return _RIDGE * variance + 1e-30
