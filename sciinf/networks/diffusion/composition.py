r"""One denoiser for many observations, from those of each alone.

For n observations of the same z, independent given z,

    p(z | x_1, ..., x_n)  ~  p(z)^{1-n} prod_j p(z | x_j).

Without noise the scores of the factors add up; at a noise level s they do not, but for Gaussians they do after
weighting. With N(m_j, S_j) the moments of p(z | x_j), N(m_0, S_0) those of the prior, and D_j, D_0 their denoisers, the
composed score of GAUSS (Linhart et al.) is

    (D - y) / s^2 = (1/s^2) L(s)^{-1} [ sum_j P_j(s) (D_j - y) + (1 - n) P_0(s) (D_0 - y) ],
    P_j(s) = S_j^{-1} + I/s^2,    L(s) = sum_j P_j(s) + (1 - n) P_0(s) = Q + I/s^2,

exact at every s where all are Gaussian, and for any factors as s -> 0. Written with what each factor has beside its
Gaussian, G_j = m_j + S_j (S_j + s^2)^{-1} (y - m_j),

    R_j(y, s) = P_j(s) (D_j - G_j),

all powers of 1/s^2 that would cancel are gone:

    D = y + L(s)^{-1} [ h - Q y + sum_j R_j - (n - 1) R_0 ],
    h = sum_j S_j^{-1} m_j - (n - 1) S_0^{-1} m_0,    Q = sum_j S_j^{-1} - (n - 1) S_0^{-1}.

The bracket is the composed score itself as s -> 0: `score` gives it to the steps that correct what composition leaves
where factors are not Gaussian. Covariances are centred. Where Q is not above S_0^{-1}, as it must be unless some
factors are wider than the prior, L is built from Q with its eigenvalues (relative to S_0^{-1}) raised to 1; the bracket
stays as it is.

**Steps that cannot run away.** Whatever the law of z, D lies where the prior has z, and D - y is -s times a vector of
about standard normal numbers. Of factors with several modes Q is that of all together, and the bracket's slope within
one mode far above it, so that D would overshoot by more at each step; and errors of scores far out, where no z was
seen, add up. D is therefore held within sqrt(D) + 5 sds of the prior, and within (sqrt(D) + 5) s of y (`limited`),
which exact scores never reach.

**Some at a time.** The sum over R_j is the only one that takes a network; of n in the thousands a few are drawn anew at
each step and their sum scaled up. The Gaussian parts are summed over all of them.

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

PAIRS = 20_000  # of a draw and an observation, in one pass of a network

Remainder = Callable[[Tensor, Tensor, Tensor], Tensor]
"""R: y (draws, D), a level of shape () and indices of observations (some,) to (draws, D), the sum over them."""
Scores = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Scores of some observations: y (draws, some, D), a level of shape () and their indices to (draws, some, D)."""


@dataclass(frozen=True)
class MultivariateNormals:
    """N(m, S), of one or of many: m (*many, D), S (*many, D, D); float64."""

    mean: Tensor
    covariance: Tensor

    def natural(self) -> tuple[Tensor, Tensor]:
        """S^{-1} m and S^{-1}."""
        precision = torch.linalg.inv(self.covariance)
        return (precision @ self.mean[..., None])[..., 0], precision


class Composition:
    """The composed denoiser of one set of n observations.

    Args:
        single: Moments of the posterior of each observation, (n, D).
        prior: Moments of the prior, (D).
        remainder: Sum of R_j over some observations; None where all are Gaussian.
        prior_remainder: R_0(y, s); None where the prior is Gaussian.

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
        """Of the composed Gaussian: the posterior itself where all factors are Gaussian."""
        covariance = torch.linalg.inv(self._raised)
        return MultivariateNormals(covariance @ self.h, covariance)

    def score(self, y: Float[Tensor, "*rows dim"], level: Tensor, some: Tensor | None = None) -> Tensor:
        """The bracket: the composed score as the level falls to 0.

        Args:
            y: Points.
            level: s, of shape ().
            some: Indices of the observations that the remainder is taken of; all where left out.
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
        """D, at a level of shape ()."""
        eye = torch.eye(y.shape[-1], dtype=torch.float64)
        spread = torch.linalg.inv(self._raised + eye / float(level) ** 2).to(y)
        return limited(y + self.score(y, level, some) @ spread, y, level, self._prior)


def limited(
    found: Float[Tensor, "*rows dim"], y: Float[Tensor, "*rows dim"], level: Tensor, prior: MultivariateNormals
) -> Float[Tensor, "*rows dim"]:
    """D, no further from the prior's mean than sqrt(D) + 5 of its sds, and from y than as many s."""
    most = found.shape[-1] ** 0.5 + 5
    root = torch.linalg.cholesky(prior.covariance).to(y)
    centre = prior.mean.to(y)
    white = torch.linalg.solve_triangular(root, (found - centre).mT, upper=False).mT
    near = centre + (found - centre) * (most / white.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)
    off = near - y
    return y + off * (most * level.to(y) / off.norm(dim=-1, keepdim=True).clamp_min(1e-30)).clamp_max(1.0)


def raised(precision: Float[Tensor, "*n dim dim"], least: Float[Tensor, "*n dim dim"]) -> Float[Tensor, "*n dim dim"]:
    """A precision matrix with its eigenvalues, relative to another one, raised to 1 where they are below."""
    root = torch.linalg.cholesky(least)
    inner = torch.linalg.solve_triangular(root, precision, upper=False)
    inner = torch.linalg.solve_triangular(root, inner.mT, upper=False)
    relative, axes = torch.linalg.eigh(0.5 * (inner + inner.mT))
    grown = root @ axes
    return (grown * relative.clamp_min(1.0)[..., None, :]) @ grown.mT


def remainder_of(score: Scores, single: MultivariateNormals, *, pairs: int = PAIRS) -> Remainder:
    r"""R from scores,

        R_j = (I + s^2 S_j^{-1}) grad log p_s(y | x_j) + S_j^{-1} (y - m_j),

    in which nothing is divided by s.

    Args:
        score: Scores of some observations.
        single: Moments of the posterior of each observation, (n, D).
        pairs: Of a draw and an observation at once.
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
    r"""Moments of many densities from few draws of each, (many, D), the covariances drawn towards their mean.

    Sample covariances C_j of k draws are whitened by their mean and their matrix logarithms L_j taken, which scatter by
    D (D + 1) / (k - 1) (squared norm) whatever the true ones are, and are too low by (D + 1) / 2 (k - 1) in each
    direction. The share w of their scatter about their mean that is beyond it is kept of each: w L_j + (1 - w) mean(L),
    the best linear guess of all together. Densities that are alike share their draws so; one density keeps its own.

    Args:
        draws: At least D + 2 of each.

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
    """A function of symmetric matrices, by their eigenvalues."""
    values, axes = torch.linalg.eigh(0.5 * (matrices + matrices.mT))
    return (axes * function(values)[..., None, :]) @ axes.mT
