r"""One denoiser for the joint posterior of many observations, composed from denoisers for single observations.

For n observations of the same z, independent given z,

    p(z | x_1, ..., x_n)  ~  p(z)^{1-n} prod_j p(z | x_j).

Without noise, the scores of the factors add up. At a noise level s they do not, but for Gaussians they add up after
weighting. Let N(m_j, S_j) have the moments of p(z | x_j), and N(m_0, S_0) those of the prior, with denoisers D_j and
D_0. The composed score of GAUSS (Linhart et al.) is

    (D - y) / s^2 = (1/s^2) L(s)^{-1} [ sum_j P_j(s) (D_j - y) + (1 - n) P_0(s) (D_0 - y) ],
    P_j(s) = S_j^{-1} + I/s^2,    L(s) = sum_j P_j(s) + (1 - n) P_0(s) = Q + I/s^2,

which is exact at every s if all factors are Gaussian, and for any factors as s -> 0. G_j = m_j + S_j (S_j + s^2)^{-1}
(y - m_j) is the denoiser of the Gaussian with these moments. With the remainders beyond these Gaussians,

    R_j(y, s) = P_j(s) (D_j - G_j),

all powers of 1/s^2 that would cancel disappear:

    D = y + L(s)^{-1} [ h - Q y + sum_j R_j - (n - 1) R_0 ],
    h = sum_j S_j^{-1} m_j - (n - 1) S_0^{-1} m_0,    Q = sum_j S_j^{-1} - (n - 1) S_0^{-1}.

The bracket is the composed score itself as s -> 0. `score` returns the bracket, for steps that correct the error of
composition for factors that are not Gaussian. Covariances are centred. Q must be at least S_0^{-1}, unless some factors
are wider than the prior. If Q is smaller, L uses Q with its eigenvalues (relative to S_0^{-1}) raised to 1. The bracket
does not change.

**Limited steps.** For any distribution of z, D lies in the range of the prior. D - y is -s times a vector of about
standard normal numbers. If factors have several modes, Q describes all modes together. Within one mode, the gradient of
the bracket is then far larger than Q, and D would overshoot more at each step. In addition, errors of scores add up far
out, where there were no training inputs z. Therefore D is limited to sqrt(d) + 5 sds of the prior in d dimensions, and
to a distance of (sqrt(d) + 5) s from y (`limited`). Exact scores never reach these limits.

**Subsets of observations.** Only the sum over R_j needs a network. For n in the thousands, each step draws a new small
subset and scales its sum up. The Gaussian parts are summed over all observations.

References:
    | Compositional Score Modeling for Simulation-Based Inference (Geffner et al., 2023),
      https://arxiv.org/abs/2209.14249
    | Diffusion posterior sampling for simulation-based inference in tall data settings (Linhart et al., 2024),
      https://arxiv.org/abs/2404.07593
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

PAIRS = 20_000  # Largest number of pairs (sample, observation) in one pass of a network.

Remainder = Callable[[Tensor, Tensor, Tensor], Tensor]
"""R: y (draws, D), a level of shape () and indices of observations (some,) to (draws, D), the sum over them."""
Scores = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Scores of some observations: y (draws, some, D), a level of shape () and their indices to (draws, some, D)."""


@dataclass(frozen=True)
class MultivariateNormals:
    """One or many normal distributions N(m, S), with m (*many, D) and S (*many, D, D), in float64."""

    mean: Tensor
    covariance: Tensor

    def natural(self) -> tuple[Tensor, Tensor]:
        """The natural parameters S^{-1} m and S^{-1}."""
        precision = torch.linalg.inv(self.covariance)
        return (precision @ self.mean[..., None])[..., 0], precision


class Composition:
    """The composed denoiser of one set of n observations.

    Args:
        single: Moments of the posterior of each single observation, (n, D).
        prior: Moments of the prior, (D).
        remainder: Sum of R_j over a subset of observations. None if all posteriors are Gaussian.
        prior_remainder: R_0(y, s). None if the prior is Gaussian.

    Raises:
        ValueError: If a covariance is not positive definite.
    """

    def __init__(
        self,
        single: MultivariateNormals,
        prior: MultivariateNormals,
        remainder: Remainder | None = None,
        prior_remainder: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        if not bool((torch.linalg.eigvalsh(single.covariance) > 0).all()):
            raise ValueError("the covariance of a single observation's posterior is not positive definite")
        self.count = len(single.mean)
        pulls, precisions = single.natural()
        pull, precision = prior.natural()
        self.h = pulls.sum(0) - (self.count - 1) * pull
        self.q = precisions.sum(0) - (self.count - 1) * precision
        self._raised, self._prior = raised(self.q, precision), prior
        self.remainder, self.prior_remainder = remainder, prior_remainder

    def moments(self) -> MultivariateNormals:
        """Moments of the composed Gaussian, which is the joint posterior if all factors are Gaussian."""
        covariance = torch.linalg.inv(self._raised)
        return MultivariateNormals(covariance @ self.h, covariance)

    def score(self, y: Float[Tensor, "*rows dim"], level: Tensor, some: Tensor | None = None) -> Tensor:
        """The bracket of the module's formula, which is the composed score as the noise level falls to 0.

        Args:
            y: Points.
            level: Noise level s, of shape ().
            some: Indices of the observations whose remainders are evaluated. None evaluates all.
        """
        flat = y.reshape(-1, y.shape[-1])
        total = self.h.to(y) - flat @ self.q.to(y)
        if self.remainder is not None:
            chosen = torch.arange(self.count, device=y.device) if some is None else some
            total = total + self.remainder(flat, level, chosen) * (self.count / len(chosen))
        if self.prior_remainder is not None:
            total = total - (self.count - 1) * self.prior_remainder(flat, level)
        return total.reshape(y.shape)

    def denoise(
        self, y: Float[Tensor, "*rows dim"], level: Tensor, *, some: Tensor | None = None
    ) -> Float[Tensor, "*rows dim"]:
        """The composed denoiser D at points y, for a level of shape (); `some` as for `score`."""
        eye = torch.eye(y.shape[-1], dtype=torch.float64)
        spread = torch.linalg.inv(self._raised + eye / float(level) ** 2).to(y)
        return limited(y + self.score(y, level, some) @ spread, y, level, self._prior)


def limited(
    found: Float[Tensor, "*rows dim"], y: Float[Tensor, "*rows dim"], level: Tensor, prior: MultivariateNormals
) -> Float[Tensor, "*rows dim"]:
    """The denoiser's value, moved to within sqrt(d) + 5 sds of the prior's mean and (sqrt(d) + 5) s of y.

    d is the number of dimensions.
    """
    most = found.shape[-1] ** 0.5 + 5
    root = torch.linalg.cholesky(prior.covariance).to(y)
    centre = prior.mean.to(y)
    white = torch.linalg.solve_triangular(root, (found - centre).mT, upper=False).mT
    near = centre + (found - centre) * (most / white.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)
    off = near - y
    return y + off * (most * level.to(y) / off.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)


def raised(precision: Float[Tensor, "*n dim dim"], least: Float[Tensor, "*n dim dim"]) -> Float[Tensor, "*n dim dim"]:
    """A precision matrix whose eigenvalues, relative to the matrix `least`, are raised to 1 if they are lower."""
    root = torch.linalg.cholesky(least)
    inner = torch.linalg.solve_triangular(root, precision, upper=False)
    inner = torch.linalg.solve_triangular(root, inner.mT, upper=False)
    relative, axes = torch.linalg.eigh(0.5 * (inner + inner.mT))
    grown = root @ axes
    return (grown * relative.clamp_min(1.0)[..., None, :]) @ grown.mT


def remainder_of(score: Scores, single: MultivariateNormals, *, pairs: int = PAIRS) -> Remainder:
    r"""The function that computes the sum of the remainders R_j from scores.

        R_j = (I + s^2 S_j^{-1}) grad log p_s(y | x_j) + S_j^{-1} (y - m_j)

    This formula contains no division by s.

    Args:
        score: Scores for a subset of observations.
        single: Moments of the posterior of each single observation, (n, D).
        pairs: Largest number of pairs (sample, observation) that are evaluated at once.
    """
    pulls, precisions = single.natural()

    def total(y: Tensor, level: Tensor, some: Tensor) -> Tensor:
        out, square = torch.zeros_like(y), float(level) ** 2
        for part in some.split(max(1, pairs // max(1, len(y)))):
            found = score(y[:, None].expand(-1, len(part), -1), level.to(y), part)
            precision = precisions[part.cpu()].to(y)
            inner = found.sum(1) + torch.einsum("jab,njb->na", precision, square * found)
            out = out + inner + y @ precision.sum(0) - pulls[part.cpu()].sum(0).to(y)
        return out

    return total


def shrunk(draws: Float[Tensor, "draws many dim"]) -> MultivariateNormals:
    r"""Moments (many, D) of many densities, from few samples of each, with covariances shrunk towards their mean.

    The sample covariances C_j of k samples are whitened by their mean. Their matrix logarithms L_j scatter by D (D + 1)
    / (k - 1) (squared norm), for any true covariances. L_j are too low by (D + 1) / 2 (k - 1) in each direction. Let w
    be the fraction of their total scatter that exceeds this noise. The estimate is w L_j + (1 - w) mean(L), the best
    linear estimate of all matrices together. So similar densities share their samples. A single density keeps its own
    sample covariance.

    Args:
        draws: At least D + 2 samples of each density.

    References:
        | A well-conditioned estimator for large-dimensional covariance matrices (Ledoit & Wolf, 2004)
    """
    count, many, dim = draws.shape
    values = draws.double().cpu()
    mean = values.mean(0)
    off = values - mean
    own = torch.einsum("kja,kjb->jab", off, off) / (count - 1)
    if many == 1:
        return MultivariateNormals(mean, own)
    root = torch.linalg.cholesky(own.mean(0))
    half = torch.linalg.solve_triangular(root, own, upper=False)
    log = _through(torch.linalg.solve_triangular(root, half.mT, upper=False), torch.log)
    centre, noise = log.mean(0), dim * (dim + 1) / (count - 1)
    scatter = float((log - centre).square().sum((1, 2)).mean()) * many / (many - 1)
    keep = max(0.0, 1 - noise / max(scatter, noise))
    eye = torch.eye(dim, dtype=torch.float64)
    grown = _through(keep * log + (1 - keep) * centre + 0.5 * noise / dim * eye, torch.exp)
    return MultivariateNormals(mean, root @ grown @ root.mT)


def _through(matrices: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function applied to the eigenvalues of symmetric matrices."""
    values, axes = torch.linalg.eigh(0.5 * (matrices + matrices.mT))
    return (axes * function(values)[..., None, :]) @ axes.mT
