r"""Which numbers of a code say nothing, and which were bound to.

A number z_j is dead where q(z_j | x) is the prior, whatever x is: its divergence from the prior is 0, and its mean does
not vary. For a linear decoder with noise sigma the best of

    -E_q log p(x | z) + beta KL(q | p)

is probabilistic PCA with noise beta^(1/2) sigma. With lambda_1 >= lambda_2 >= ... the eigenvalues of the rows'
covariance, column j of W has |w_j|^2 = lambda_j - beta sigma^2, and KL_j is log(lambda_j / (beta sigma^2)) / 2 on
average; both are 0 if lambda_j <= beta sigma^2. No longer training brings such a number back; a smaller beta or sigma
does. For networks it is what a linear code could keep alive: one that folds more into fewer numbers may leave others
dead.

Of numbers that are rounded (`quantised`) z_j says of x the entropy of its levels over all rows, log L at most, and the
number is dead where it is always on one level.

References:
    | Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse (Lucas et al., 2019),
      https://arxiv.org/abs/1911.02469
    | Beyond Vanilla Variational Autoencoders: Detecting Posterior Collapse in Conditional and Hierarchical Variational
      Autoencoders (Dang et al., 2024), https://arxiv.org/abs/2306.05023
    | Probabilistic Principal Component Analysis (Tipping & Bishop, 1999), https://doi.org/10.1111/1467-9868.00196
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from sciinf.emulators.objectives import Coded
from sciinf.emulators.quantised import level_of, rounded

ALIVE = 0.01  # nats that a number says of a row at least, on average, and variance of its mean


@dataclass(frozen=True)
class Collapse:
    """What the numbers of a code say.

    Args:
        kl: Nats of each, on average over rows, (latent).
        variance: Of the mean of each over rows, (latent); 1 and below for codes that follow their prior.
        levels: That each has; 0 where it is not rounded.
        in_use: Levels of each that occur, (latent); None where it is not rounded.
    """

    kl: Float[Tensor, " latent"]
    variance: Float[Tensor, " latent"]
    levels: int = 0
    in_use: Int[Tensor, " latent"] | None = None

    @property
    def alive(self) -> Tensor:
        """Whether each says something, (latent)."""
        return (self.kl > ALIVE) & (self.variance > ALIVE)

    def __str__(self) -> str:
        found = (
            f"{int(self.alive.sum())} of {len(self.kl)} numbers say something, {float(self.kl.sum()):.3g} nats in all"
        )
        if self.in_use is None:
            return found
        return f"{found}; {int(self.in_use.sum())} of {self.levels * len(self.kl)} levels are in use"


def collapsed(coded: Coded) -> Collapse:
    """Which numbers are dead, from the laws of some hundred rows."""
    levels = coded.levels
    if not levels:
        return Collapse(coded.kl().mean(0).detach(), coded.mean.var(0).detach())
    counts = F.one_hot(level_of(coded.mean, levels), levels).sum(0)
    share = counts / len(coded.mean)
    entropy = -torch.xlogy(share, share).sum(1)
    return Collapse(entropy, rounded(coded.mean, levels).var(0).detach(), levels, (counts > 0).sum(1))


def expected_nats(
    rows: Float[Tensor, "batch number"], latents: int, noise: float, beta: float = 1.0
) -> Float[Tensor, " latent"]:
    """Nats of each number of the best linear code of rows, the largest first; 0 for those that are bound to die.

    Args:
        rows: Training rows; fields flattened.
        latents: How many numbers.
        noise: sigma of the decoder, in units of the rows.
        beta: Weight of the divergence.
    """
    centred = (rows - rows.mean(0)).double()
    few = len(rows) < rows.shape[1]
    eigenvalues = torch.linalg.eigvalsh((centred @ centred.mT if few else centred.mT @ centred) / len(rows)).flip(0)
    found = torch.zeros(latents, dtype=torch.float64)
    kept = eigenvalues[:latents].clamp_min(0.0)
    found[: len(kept)] = (kept / (beta * noise**2)).clamp_min(1.0).log() / 2
    return found
