r"""Innovations: the part of a frame that known tokens do not predict linearly, in uncorrelated units of sd 1.

Fields are smooth and change slowly: neighbouring points are nearly alike, and so are consecutive frames. If noise is
added to the points themselves, fine or new features vanish in it first. A denoiser would hardly be trained on such
features. So distributions are learned of innovations. For tokens t with known tokens k at the same places (the frame
before, and constant fields), the innovation is

    z = A (t - m - B (k - m_k)),    B the least squares of t on k,    A = S^{-1/2},

m, m_k the means and S the covariance of the residual of B. For pieces of a grid, all of these are taken to be the same
everywhere. With T_q, K_q the Fourier coefficients of tokens over places, B_q and S_q are matrices of a token's width
for each wave q,

    B_q = E[T_q K_q^H] E[K_q K_q^H]^{-1},    S_q = E[T_q T_q^H] - B_q E[K_q T_q^H],

so that few training fields are enough. A and B are then local, and are translated with the field. Tokens that are no
pieces are treated as one token at one place, with all their numbers. S^{-1/2} then mixes tokens of all scales. If they
are to be drawn from coarse to fine, A is the inverse of the Cholesky factor of S instead, so that z of a scale does not
depend on finer scales. For a linear equation with random forcing on a ring, z is white noise, whatever the frames
before.

Least squares on K numbers of N fields reduce the residual variance on these fields to 1 - K/N of its right value, and
increase it on others. With fewer than 20 fields for each number, B is not fitted: the frame before stays as it is, and
other fields have no effect.

References:
    | Optimal Whitening and Decorrelation (Kessy et al., 2018), https://doi.org/10.1080/00031305.2016.1277159 (ZCA)
    | A New Approach to Linear Filtering and Prediction Problems (Kalman, 1960), https://doi.org/10.1115/1.3662552
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.emulators.tokens.code import FieldTokens

_LEAST = 1e-10  # Smallest variance, as a fraction of the largest.
_STILL = 1e-12  # A variance of standardised fields below this is rounding.
_RIDGE = 1e-9  # Ridge of the least squares, as a fraction of the mean variance of known tokens.
_FIELDS_EACH = 20  # Least squares need so many fields for each known number.


class Innovations(nn.Module):
    """A change of units for a code's tokens, and its inverse. Before it has seen tokens, it is the identity.

    Args:
        code: The code of the tokens.
        known: Width of the known tokens at each place.
        follows: Whether the first of the known tokens are those of the frame before.
        nested: Whether z of a scale must not depend on finer scales. For pieces, and where each scale is one token, as
            in Pod, this makes no difference.
    """

    mean: Tensor
    known_mean: Tensor
    there: Tensor
    back: Tensor
    guess: Tensor
    stays: Tensor

    def __init__(self, code: FieldTokens, known: int = 0, *, follows: bool = False, nested: bool = False) -> None:
        super().__init__()
        several = not code.counts and len(set(code.scales)) < len(code.scales)
        self.scales = code.scales if nested and several else ()
        own, self.follows = code.width, follows
        self.pieces, self.places, self.width = bool(code.counts), len(code.places), code.width
        self.counts = code.counts or (1,)
        count, together = (self.places, 1) if self.pieces else (1, self.places)
        width, known = together * code.width, together * known
        self.register_buffer("mean", torch.zeros(1, width))
        self.register_buffer("known_mean", torch.zeros(1, known))
        unit = torch.eye(width, dtype=torch.complex64).expand(count, -1, -1)
        self.register_buffer("there", torch.view_as_real(unit).clone())
        self.register_buffer("back", torch.view_as_real(unit).clone())
        self.register_buffer("guess", torch.zeros(count, width, known, 2))
        stays = torch.eye(own, known // together) if follows else torch.zeros(own, known // together)
        self.register_buffer("stays", torch.kron(torch.eye(together), stays), persistent=False)
        self._begin()

    def _begin(self) -> None:
        self.count, self.total, self.products = 0, torch.zeros(()), torch.zeros(())

    def see(
        self, tokens: Float[Tensor, "batch token width"], known: Float[Tensor, "batch token known"] | None = None
    ) -> None:
        """Add tokens, and known tokens at the same places, to the statistics."""
        both = torch.cat([self._grouped(tokens), self._grouped(self._or_nothing(tokens, known))], -1).double()
        waves = self._waves(both)
        self.count += len(both)
        self.total = self.total + both.sum(0)
        self.products = self.products + torch.einsum("bqi,bqj->qij", waves, waves.conj())

    def settle(self) -> None:
        """Compute the units from the statistics."""
        mean, products, width = (self.total / self.count).mean(0), self.products / self.count, self.mean.shape[-1]
        products[0] -= len(products) * mean[:, None] * mean  # Only the constant wave contains the mean.
        own, cross, known = products[:, :width, :width], products[:, width:, :width], products[:, width:, width:]
        variances = known.diagonal(dim1=-2, dim2=-1).real
        ridge = _RIDGE * variances.sum() / max(variances.numel(), 1) + 1e-30
        guess = torch.linalg.solve(known + ridge * torch.eye(known.shape[-1], device=known.device), cross).mH
        if self.count < _FIELDS_EACH * known.shape[-1]:
            guess = self.stays.to(guess).expand_as(guess)
        left = own - guess @ cross - (guess @ cross).mH + guess @ known @ guess.mH
        values, vectors = torch.linalg.eigh((left + left.mH) / 2)
        most = values.max()
        root = torch.where(most > _STILL, values.clamp_min(_LEAST * most).sqrt(), torch.ones_like(values))
        there, back = (vectors / root[:, None]) @ vectors.mH, (vectors * root[:, None]) @ vectors.mH
        if self.scales:
            there, back = self._apart_by_scale(back)
        for buffer, value in ((self.guess, guess), (self.there, there), (self.back, back)):
            buffer.copy_(torch.view_as_real(value.resolve_conj()))
        self.mean.copy_(mean[:width])
        self.known_mean.copy_(mean[width:])
        self._begin()

    def _apart_by_scale(self, root: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse L^{-1} and L of S = L L^T, from its root S^{1/2}, with numbers from coarse to fine."""
        order = torch.tensor(self.scales, device=root.device).repeat_interleave(self.width).argsort(stable=True)
        sorted_rows = root.real[:, order]
        factor = torch.linalg.qr(sorted_rows.mT).R.mT  # A QR factorisation of S^{1/2} does not square small values.
        factor = factor * torch.where(factor.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[:, None]
        one = torch.eye(len(order), dtype=factor.dtype, device=factor.device).expand_as(factor)
        apart = torch.linalg.solve_triangular(factor, one, upper=False)
        back = order.argsort()
        return tuple(part[:, back][:, :, back].to(root) for part in (apart, factor))

    def forward(
        self, tokens: Float[Tensor, "*batch token width"], known: Float[Tensor, "*batch token known"] | None = None
    ) -> Float[Tensor, "*batch token width"]:
        """Innovations z of tokens, given the known tokens."""
        value = self._grouped(tokens)
        return self._apart(self._applied(self.there, value - self._guessed(self._or_nothing(tokens, known))))

    def inverse(
        self, z: Float[Tensor, "*batch token width"], known: Float[Tensor, "*batch token known"] | None = None
    ) -> Float[Tensor, "*batch token width"]:
        """Tokens from innovations z, given the known tokens."""
        return self._apart(self._applied(self.back, self._grouped(z)) + self._guessed(self._or_nothing(z, known)))

    def _or_nothing(self, tokens: Tensor, known: Tensor | None) -> Tensor:
        return tokens[..., :0] if known is None else known

    def _guessed(self, known: Tensor) -> Tensor:
        if not known.shape[-1]:
            return self.mean.to(known)
        return self.mean + self._applied(self.guess, self._grouped(known) - self.known_mean.to(known))

    def _grouped(self, tokens: Tensor) -> Tensor:
        """Tokens as they are for pieces; all tokens joined to one, if they are no pieces."""
        return tokens if self.pieces else tokens.flatten(-2)[..., None, :]

    def _apart(self, tokens: Tensor) -> Tensor:
        return tokens if self.pieces else tokens[..., 0, :].unflatten(-1, (self.places, self.width))

    def _applied(self, matrix: Tensor, tokens: Tensor) -> Tensor:
        waves = self._waves(tokens)
        waves = torch.einsum("qij,...qj->...qi", torch.view_as_complex(matrix).to(waves), waves)
        found = torch.fft.ifftn(waves.unflatten(-2, self.counts), dim=self._axes(), norm="ortho").real
        return found.flatten(-1 - len(self.counts), -2)

    def _waves(self, tokens: Tensor) -> Tensor:
        """Fourier coefficients over places, by a unitary transform."""
        found = torch.fft.fftn(tokens.unflatten(-2, self.counts), dim=self._axes(), norm="ortho")
        return found.flatten(-1 - len(self.counts), -2)

    def _axes(self) -> list[int]:
        return list(range(-1 - len(self.counts), -1))


class FrameChain:
    """A sequence of frames, represented by the innovations of each.

    Args:
        first: Units of a frame without a known frame before.
        follows: Units of a frame that follows another.
    """

    def __init__(self, first: Innovations, follows: Innovations) -> None:
        self.first, self.follows = first, follows

    def brought(self, before: Tensor | None, after: Sequence[Tensor], fixed: Tensor | None) -> list[Tensor]:
        """Innovations of consecutive frames.

        Args:
            before: Tokens of the frame before them; None if there is none.
            after: Tokens of the frames.
            fixed: Tokens of constant fields; None if there are none.
        """
        found = []
        for one in after:
            found.append(self.first(one, fixed) if before is None else self.follows(one, beside(before, fixed)))
            before = one
        return found

    def continued(self, before: Tensor | None, brought: Sequence[Tensor], fixed: Tensor | None) -> list[Tensor]:
        """Tokens of consecutive frames, from their innovations.

        Args:
            before: Tokens of the frame before them; None if there is none.
            brought: Innovations of the frames.
            fixed: Tokens of constant fields; None if there are none.
        """
        found: list[Tensor] = []
        for z in brought:
            before = self.first.inverse(z, fixed) if before is None else self.follows.inverse(z, beside(before, fixed))
            found.append(before)
        return found


def beside(before: Tensor, stays: Tensor | None) -> Tensor:
    """Known tokens at the places of a frame: the frame before, and constant fields."""
    return before if stays is None else torch.cat([before, stays], -1)
