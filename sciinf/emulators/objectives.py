r"""Training objectives of a code: losses of an encoder's distribution and a decoder.

A row x has n components, its code z has d. The encoder gives q(z | x) = N(m, diag(s_1^2 .. s_d^2)), the decoder p(x |
z) = N(f(z), sigma^2 I_n), and p(z) = N(0, I_d). With w = p(x | z) p(z) / q(z | x) the losses are, in nats of a row,

    Plain       -log p(x | m)                                                                (1)
    KL          -E_q log p(x | z) + beta sum_j KL_j,  KL_j = (m_j^2 + s_j^2 - 1) / 2 - log s_j   (2)
    Mmd         -E_q log p(x | z) + keep sum_j KL_j + weight MMD^2(q(z), p(z))               (3)
    Importance  -(1/M) sum_m log (1/k) sum_i w_mi                                            (4)
     mix        mix (-mean log w) + (1 - mix) (4)                                            (5)
     apart      the encoder's gradient is that of (4), the decoder's of -log (1/Mk) sum w    (6)
    Unscented   -(1/2d) sum_j [log p(x | m + sqrt(d) s_j e_j) + log p(x | m - sqrt(d) s_j e_j)]
                + weight (|m|^2 + sum_j (s_j - 1)^2)                                         (7)

`adversarial` has an objective with a discriminator in place of MMD; `quantised` has one for rounded codes.

(2) with beta = 1 and (4) to (6) are bounds: on average they are at least -log p(x). The gap of (2) is the divergence of
q from p(z | x). The gap of (4) goes to 0 as k grows, whatever q is. But the gradient of the encoder then becomes
noisier. Its ratio of mean to sd goes with (M/k)^(1/2); that of the decoder goes with (M k)^(1/2). So (5) and (6) give
the encoder few draws within a logarithm, and the decoder many. (4) with M = k = 1 is (2) with beta = 1 and a Monte
Carlo estimate of the divergence.

(3) is InfoVAE with alpha = 1 - keep and lambda = weight + keep, and WAE where keep = 0. MMD^2 is the unbiased estimate
from a batch with the kernel sum_c C / (C + |z - z'|^2), C = 2 d c; each row has its share. The penalty of (7) is the
squared Wasserstein distance of q and p(z). Sigma points are exact for errors that are quadratic in z. So for linear
decoders (7) has no noise.

**Linear decoders.** Where f(z) = W z, the columns of W are orthogonal and v_j = |w_j|^2 / sigma^2, the best encoder has

    s_j = (1 + v_j)^(-1/2) by (2) and (4) to (6), the posterior's;    s_j = 1 / (1 + v_j) by (7) at weight 1/2,

and the posterior's m by each of them. `field_code` describes the W that (2) leads to. By (7) W has no best size. With
the best encoder, the loss of column j is, up to constants, weight (lambda_j / sigma^2 + v_j) / (2 weight + v_j), where
lambda_j is the rows' variance along the column. So v_j grows without limit if lambda_j > 2 weight sigma^2, and goes to
0 otherwise. Regularise the decoder's weights (`Recipe.weight_decay`), as the authors regularise the decoder's gradient.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114: (2)
    | beta-VAE (Higgins et al., 2017), https://openreview.net/forum?id=Sy2fzU9gl: (2)
    | InfoVAE (Zhao et al., 2019), https://arxiv.org/abs/1706.02262: (3)
    | Wasserstein Auto-Encoders (Tolstikhin et al., 2018), https://arxiv.org/abs/1711.01558: (3), and the kernel
    | Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519: (4)
    | Tighter Variational Bounds are Not Necessarily Better (Rainforth et al., 2018), https://arxiv.org/abs/1802.04537:
      theorem 1 for the ratios, MIWAE (4), CIWAE (5), PIWAE (6)
    | Unscented Autoencoder (Janjos et al., 2023), https://arxiv.org/abs/2306.05256: (7)
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core.checks import check_positive, check_whole
from sciinf.core.component import Component
from sciinf.networks.diffusion.solver import noise_like

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_TOGETHER = 512  # Rows in a group, within which MMD compares all pairs.
_AT_ONCE = 2**22  # Limit of the numbers that are decoded at once when a bound is evaluated.


@dataclass(frozen=True)
class Coded:
    """The encoder's distribution q(z | x) of some rows.

    Args:
        mean: Mean m of q, (batch, d).
        log_sd: Logarithm of the sd s of q, (batch, d).
        judge: Discriminator network of z, for objectives that have one (`Objective.judged`).
        levels: Number of levels to which each component is rounded, for objectives that round (`Objective.levels`).
    """

    mean: Float[Tensor, "batch latent"]
    log_sd: Float[Tensor, "batch latent"]
    judge: nn.Module | None = None
    levels: int = 0

    def draw(self, count: int, *, generator: torch.Generator) -> Float[Tensor, "count batch latent"]:
        """Draws of z, through which gradients go."""
        noise = noise_like(self.mean.expand(count, *self.mean.shape), generator)
        return self.mean + self.log_sd.exp() * noise

    def log_prob(self, z: Float[Tensor, "count batch latent"]) -> Float[Tensor, "count batch"]:
        """Log density log q(z | x)."""
        return standard((z - self.mean) * (-self.log_sd).exp()) - self.log_sd.sum(-1)

    def kl(self) -> Float[Tensor, "batch latent"]:
        """KL of q from N(0, 1) for each component of z, in nats."""
        return (self.mean.square() + (2 * self.log_sd).exp() - 1) / 2 - self.log_sd


@dataclass(frozen=True)
class Reconstruction:
    """The decoder's distribution p(x | z) for some rows.

    Args:
        x: Rows, (batch, n).
        decode: The decoder f, from z (count, batch, d) to (count, batch, n), each row separately.
        noise: Sd sigma of the decoder's noise, in units of x.
    """

    x: Float[Tensor, "batch number"]
    decode: Callable[[Tensor], Tensor]
    noise: Tensor

    def log_prob(self, z: Float[Tensor, "count batch latent"]) -> Float[Tensor, "count batch"]:
        """Log likelihood log p(x | z)."""
        return self.of(self.decode(z))

    def of(self, decoded: Float[Tensor, "*count batch number"]) -> Float[Tensor, "*count batch"]:
        """Log likelihood log p(x | z), from decoded values f(z)."""
        return standard((self.x - decoded) / self.noise) - self.x.shape[-1] * self.noise.log()


def standard(z: Float[Tensor, "*batch number"]) -> Float[Tensor, "*batch"]:
    """Log density of N(0, I)."""
    return -z.square().sum(-1) / 2 - z.shape[-1] * math.log(2 * math.pi) / 2


class Objective(Component, ABC):
    """A training objective of an encoder and a decoder.

    Attributes:
        judged: Width of a discriminator network that is trained beside them (`adversarial.Discriminator`); 0 for none.
        levels: Number of levels to which each component of a code is rounded (`quantised`); 0 for no rounding.
    """

    judged: int = 0
    levels: int = 0

    @abstractmethod
    def loss(self, rows: Reconstruction, coded: Coded, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """The loss of each row, in nats; training minimises its mean over the batch."""


class Plain(Objective):
    """The reconstruction error alone, equation (1). The encoder's sds are not trained."""

    def loss(self, rows: Reconstruction, coded: Coded, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        return -rows.log_prob(coded.mean[None])[0]


class KL(Objective):
    """The bound of variational autoencoders, equation (2).

    Args:
        beta: Weight of the divergence; 1 for a bound.
        draws: Number of draws of z for each row.

    Raises:
        ValueError: If beta is negative or not finite, or draws no int of at least 1.
    """

    def __init__(self, beta: float = 1.0, *, draws: int = 1) -> None:
        check_weight("beta", beta)
        check_whole("draws", draws, 1)
        self.beta, self.draws = beta, draws

    def loss(self, rows: Reconstruction, coded: Coded, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        error = -rows.log_prob(coded.draw(self.draws, generator=generator)).mean(0)
        return error + self.beta * coded.kl().sum(-1)


class Mmd(Objective):
    """Reconstruction error, with a penalty that makes the distribution of all codes the prior, equation (3).

    Args:
        weight: Weight of MMD^2; a batch of 64 rows or more estimates it well.
        keep: Weight of the divergence of each row's distribution.
        scales: Scales c of the kernel.

    Raises:
        ValueError: If a weight is negative or not finite, or a scale not positive.
    """

    def __init__(self, weight: float = 10.0, keep: float = 0.0, *, scales: Sequence[float] = SCALES) -> None:
        check_weight("weight", weight)
        check_weight("keep", keep)
        if not scales or min(scales) <= 0:
            raise ValueError(f"scales of the kernel are positive numbers, got {scales}")
        self.weight, self.keep, self.scales = weight, keep, tuple(scales)

    def loss(self, rows: Reconstruction, coded: Coded, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        z = coded.draw(1, generator=generator)
        prior = noise_like(z[0], generator)
        error = -rows.log_prob(z)[0]
        return error + self.keep * coded.kl().sum(-1) + self.weight * mmd(z[0], prior, self.scales)


class Importance(Objective):
    """Tighter bounds by importance weights, equations (4) to (6).

    Args:
        k: Draws within a logarithm (IWAE).
        sets: M, the number of sets of k draws (MIWAE).
        mix: Weight of the bound with one draw (CIWAE).
        apart: Whether the decoder is trained by the bound of all M k draws (PIWAE).

    Raises:
        ValueError: If a number is no int of at least 1, `mix` not between 0 and 1, or `mix` and `apart` come together.
    """

    def __init__(self, k: int = 8, sets: int = 1, mix: float = 0.0, *, apart: bool = False) -> None:
        check_positive(k=k, sets=sets)
        if not 0 <= mix <= 1 or (apart and mix):
            raise ValueError(f"mix is between 0 and 1, and 0 with apart=True, got {mix}")
        self.k, self.sets, self.mix, self.apart = k, sets, mix, apart

    def loss(self, rows: Reconstruction, coded: Coded, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        z = coded.draw(self.k * self.sets, generator=generator)
        if self.apart:
            return self._apart(rows, coded, z)
        weights = log_weights(rows, coded, z).unflatten(0, (self.sets, self.k))
        found = -(weights.logsumexp(1) - math.log(self.k)).mean(0)
        return found if not self.mix else (1 - self.mix) * found - self.mix * weights.mean((0, 1))

    def _apart(self, rows: Reconstruction, coded: Coded, z: Tensor) -> Float[Tensor, " batch"]:
        """The decoder's loss, combined with the encoder's own gradient; one decoding serves both."""
        at = z.detach().requires_grad_(torch.is_grad_enabled())
        fit, rest = rows.log_prob(at), standard(z) - coded.log_prob(z)
        weights = fit + rest.detach()
        decoder = -(weights.logsumexp(0) - math.log(len(z)))
        if not torch.is_grad_enabled():
            return decoder
        (slope,) = torch.autograd.grad(fit.sum(), at, retain_graph=True)
        share = weights.detach().unflatten(0, (self.sets, self.k)).softmax(1).flatten(0, 1) / self.sets
        encoder = -(share * ((slope * z).sum(-1) + rest)).sum(0)
        return decoder + encoder - encoder.detach()


class Unscented(Objective):
    """Sigma points in place of draws, and a Wasserstein distance in place of a divergence, equation (7).

    Args:
        weight: Weight of the distance.
        pairs: Number of pairs of sigma points, on axes that are drawn anew for each row; all d axes if None.
        together: Whether the error is that of the mean of the decoded points, not the mean of their errors. It then
            hardly depends on s, which goes to 1.

    Raises:
        ValueError: If the weight is negative or not finite, or `pairs` no int of at least 1.
    """

    def __init__(self, weight: float = 0.5, *, pairs: int | None = None, together: bool = False) -> None:
        check_weight("weight", weight)
        if pairs is not None:
            check_whole("pairs", pairs, 1)
        self.weight, self.pairs, self.together = weight, pairs, together

    def loss(self, rows: Reconstruction, coded: Coded, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        decoded = rows.decode(self.points(coded, generator=generator))
        fit = rows.of(decoded.mean(0)) if self.together else rows.of(decoded).mean(0)
        distance = coded.mean.square().sum(-1) + (coded.log_sd.exp() - 1).square().sum(-1)
        return self.weight * distance - fit

    def points(self, coded: Coded, *, generator: torch.Generator) -> Float[Tensor, "count batch latent"]:
        """Sigma points, first those at m + sqrt(d) s_j e_j, then those on the other side."""
        rows, width = coded.mean.shape
        # The distances have the shape (axis, batch, latent).
        away = math.sqrt(width) * torch.diag_embed(coded.log_sd.exp()).movedim(1, 0)
        if self.pairs is not None and self.pairs < width:
            order = torch.rand(width, rows, generator=generator, device=generator.device).argsort(0)[: self.pairs]
            away = away.gather(0, order.to(away.device)[..., None].expand(-1, -1, width))
        return torch.cat([coded.mean + away, coded.mean - away])


def log_weights(
    rows: Reconstruction, coded: Coded, z: Float[Tensor, "count batch latent"]
) -> Float[Tensor, "count batch"]:
    """Log importance weights log w = log p(x | z) + log p(z) - log q(z | x)."""
    return rows.log_prob(z) + standard(z) - coded.log_prob(z)


@torch.no_grad()
def evidence(rows: Reconstruction, coded: Coded, k: int, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
    """A lower bound of log p(x), log (1/k) sum w with k draws.

    It is at most log p(x) on average, and closer for larger k.

    Raises:
        ValueError: If k is no int of at least 1.
    """
    check_whole("k", k, 1)
    most = max(1, _AT_ONCE // max(rows.x.numel(), coded.mean.numel()))
    parts = []
    for start in range(0, k, most):
        z = coded.draw(min(most, k - start), generator=generator)
        parts.append(log_weights(rows, coded, z).logsumexp(0))
    return torch.stack(parts).logsumexp(0) - math.log(k)


def mmd(
    z: Float[Tensor, "batch latent"], other: Float[Tensor, "batch latent"], scales: Sequence[float] = SCALES
) -> Float[Tensor, " batch"]:
    """Each row's share of an unbiased estimate of MMD^2 between two distributions; the estimate is their mean.

    Args:
        z: Draws of one distribution.
        other: As many draws of the other distribution.
        scales: Scales c of the kernel sum_c C / (C + |z - z'|^2), C = 2 d c.
    """
    parts = math.ceil(len(z) / _TOGETHER)
    return torch.cat(
        [_shares(a, b, scales) for a, b in zip(z.tensor_split(parts), other.tensor_split(parts), strict=True)]
    )


def _shares(z: Tensor, other: Tensor, scales: Sequence[float]) -> Tensor:
    """Shares of rows in one group, in which all pairs are compared.

    A single row has no pair within its distribution.
    """
    own, theirs, across = (_kernel(a, b, scales) for a, b in ((z, z), (other, other), (z, other)))
    apart = (own + theirs).sum(1) - 2 * len(scales)  # The pairs of a row with itself are left out.
    return apart / max(len(z) - 1, 1) - (across.sum(0) + across.sum(1)) / len(z)


def _kernel(a: Tensor, b: Tensor, scales: Sequence[float]) -> Tensor:
    squared = (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.mT).clamp_min(0.0)
    width = 2.0 * a.shape[1]
    return sum((width * c / (width * c + squared) for c in scales), torch.zeros_like(squared))


def check_weight(name: str, value: float) -> None:
    """Check a weight of an objective.

    Raises:
        ValueError: If the weight is negative or not finite.
    """
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} is a finite number of at least 0, got {value!r}")
