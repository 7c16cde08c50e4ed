r"""Neural ratio estimation: the likelihood-to-evidence ratio, from a classifier that tells real pairs from mixed ones.

A network f(theta, x) looks at x beside K parameters theta_1..K. Either all of them are draws of p(theta) that have
nothing to do with x (class 0), or exactly one is the theta that x was simulated from, theta_k (class k). With odds
gamma of "one of them" to "none", and all of the K equally likely,

    p(class = 0) = 1 / (1 + gamma),    p(class = k) = gamma / (K (1 + gamma)),

the network's probabilities of the classes are, with s = sum_j exp f(theta_j, x),

    q_0 = 1 / (1 + (gamma / K) s),    q_k = (gamma / K) exp f(theta_k, x) / (1 + (gamma / K) s),

and contrastive ratio estimation (NRE-C) minimises their cross-entropy,

    L = 1 / (1 + gamma)  E_{p(x) p(theta_1) .. p(theta_K)} [-log q_0]
      + gamma / (1 + gamma)  E_{p(theta_1, x) p(theta_2) .. p(theta_K)} [-log q_1],

whose minimum is f = log r,

    r(theta, x) = p(x | theta) / p(x) = p(theta, x) / (p(theta) p(x)),    E_{p(theta)} r(theta, x) = 1.

The posterior is r p(theta), and r p'(theta) up to a constant under another prior p' within the first prior's support.
K = 1 and gamma = 1 is binary ratio estimation (NRE-B, AALR). Because of class 0 the normalisation of r is learned with
any K; without it (gamma -> infinity, as in NRE-A) r is learned up to a factor c(x).

Balanced estimation (BNRE) adds

    lambda (E_{p(theta, x)}[d] + E_{p(theta) p(x)}[d] - 1)^2,    d = r / (1 + r),

with d the binary classifier that r makes. The term is zero for the exact r. With few simulations it favours posteriors
that are too wide over posteriors that are too narrow.

With z: support -> R^D the prior's bijection, standardised, and s(x) a summary network trained jointly,

    f(theta, x) = log N(z; m(s), S(s)) - log N(z; 0, I) + g(z, s).

The first part is all of log r if the posterior is Gaussian in z. It provides location, scale and correlation, which
move with the observation, so that the residual network g need only learn the rest. Both are trained by L alone,
starting from m = 0, S = I. In a batch of B simulations, row i takes the theta_j of the K rows after it, which shuffling
makes a draw of K others. Shapes: theta, z (batch, D); s(x) (batch, F).

References:
    | Contrastive neural ratio estimation (Miller, Weniger & Forre, 2022), https://arxiv.org/abs/2210.06170
    | Likelihood-free MCMC with amortized approximate ratio estimators (Hermans, Begy & Louppe, 2020),
      https://arxiv.org/abs/1903.04057
    | On contrastive learning for likelihood-free inference (Durkan, Murray & Papamakarios, 2020),
      https://arxiv.org/abs/2002.03712
    | Towards reliable simulation-based inference with balanced neural ratio estimation (Delaunoy et al., 2022),
      https://arxiv.org/abs/2208.13624
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from sciinf.core import Batch, Observable, Potential, Prior, X
from sciinf.core.checks import check_positive
from sciinf.core.prior import global_seed
from sciinf.core.summary import Summary
from sciinf.networks.flows.conditional import single_precision
from sciinf.networks.flows.conditional_gaussian import ConditionalGaussian
from sciinf.training.estimators._embedded import Embedded
from sciinf.training.estimators._standardised import check_rows
from sciinf.training.memory import retain_freed


class Ratio(Embedded):
    """The likelihood-to-evidence ratio p(x | theta) / p(x). `posteriors.mcmc` samples its posterior.

    Args:
        prior: Prior of the parameters.
        observables: Observables of the simulator, name -> specification.
        summary: One summary network for every observable, or one per name. Default: chosen from the observables'
            specification.
        contrasts: K, the number of parameters that the classifier tells apart at once; 1 with gamma=1 is NRE-B.
        gamma: Odds that one of them belongs to x.
        balance: lambda of the balanced loss; the paper takes 100. 0 leaves it out.
        gaussian: Whether f has the Gaussian part.
        hidden: Width of the networks.
        blocks: Residual blocks of g.
        together: Whether observables that are columns of one table share a summary network
            (`networks.summaries.columns`).
        seed: Seeds the initial weights.

    Raises:
        TypeError: If `summary` has the wrong type, for example a class or a name instead of an object.
        ValueError: If a summary is for no observable, contrasts, hidden or blocks is no int of at least 1, gamma is not
            positive, balance is negative, or the seed is no int of at least 0.

    Examples:
        >>> from sciinf import Normal
        >>> ratio = Ratio(Prior(mu=Normal(0.0, 1.0)), {"x": Observable((3,))})
        >>> ratio.condition({"x": torch.zeros(2, 3)}).log_likelihood(torch.zeros(5, 2, 1)).shape
        torch.Size([5, 2])
    """

    normalised: ClassVar[bool] = False

    def __init__(
        self,
        prior: Prior,
        observables: Mapping[str, Observable],
        *,
        summary: Summary | Mapping[str, Summary] | None = None,
        contrasts: int = 10,
        gamma: float | int = 1.0,
        balance: float | int = 0.0,
        gaussian: bool = True,
        hidden: int = 64,
        blocks: int = 2,
        together: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(prior, observables, summary, seed, together=together)
        _check_settings(contrasts, gamma, balance, hidden, blocks)
        self.contrasts, self.gamma, self.balance = contrasts, float(gamma), float(balance)
        with global_seed(torch.Generator().manual_seed(seed)):
            width = self.build_summaries()
            self.left = _Left(prior.bijection.size, width, hidden, blocks)
            self.gaussian = ConditionalGaussian(prior.bijection.size, width, hidden) if gaussian else None

    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.standardise_both(batches)

    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """NRE-C's loss per row, plus the balance term of the whole batch; nothing is drawn at random.

        In a batch of at most K rows, some theta_j occur twice. The only row of a batch is its own contrast.
        """
        k, rows = self.contrasts, len(batch.theta)
        shifts = [0, *(1 + j % max(rows - 1, 1) for j in range(k))]
        features = self.features(batch.x)
        with single_precision(features):
            z = self.to_z(batch.theta)
            log_r = self.log_ratio(torch.stack([z.roll(-shift, 0) for shift in shifts]), self.embed(features))
            log_odds = math.log(self.gamma / k)
            none = F.softplus(log_odds + log_r[1:].logsumexp(0))
            one = F.softplus(log_odds + log_r[:k].logsumexp(0)) - log_odds - log_r[0]
            loss = (none + self.gamma * one) / (1.0 + self.gamma)
            if self.balance > 0.0:
                found = log_r[0].sigmoid().mean() + log_r[1:].sigmoid().mean()
                loss = loss + self.balance * (found - 1.0).square()
        return loss

    def condition(self, x: X) -> Potential:
        retain_freed()
        with torch.no_grad():
            device = self.z_mean.device
            features = self.features({name: value.to(device) for name, value in x.items()})
            return _RatioPotential(self, self.embed(features))

    def embed(self, features: Float[Tensor, "batch feature"]) -> tuple[Tensor, ...]:
        """Quantities of s(x) that f needs: the input of g, (batch, H), and mean, factor and scales of the Gaussian."""
        features = features.float()
        moments = () if self.gaussian is None else self.gaussian.moments(features)
        return self.left.from_x(features), *moments

    def log_ratio(self, z: Float[Tensor, "*n batch theta"], given: tuple[Tensor, ...]) -> Float[Tensor, "*n batch"]:
        """f of standardised z, and of the output of `embed`."""
        log_r = self.left(z, given[0])
        if self.gaussian is None:
            return log_r
        mean, factor, log_scale = given[1:]
        moved = torch.einsum("bij,...bj->...bi", factor, z - mean)
        return log_r + 0.5 * (z.square() - moved.square()).sum(-1) + log_scale.sum(-1)


class _RatioPotential(Potential):
    """log r given a batch of embedded observations."""

    def __init__(self, estimator: Ratio, given: tuple[Tensor, ...]) -> None:
        self.estimator, self.given = estimator, given

    def log_likelihood(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        """The learned approximation of log p(x | theta) - log p(x)."""
        entered = self.given[0]
        check_rows(theta, len(entered), self.estimator.prior)
        return self.estimator.log_ratio(self.estimator.to_z(theta.to(entered.device)), self.given)


class _Left(nn.Module):
    """g(z, s): a residual network whose first layer is a sum of a term in z and a term in s.

    h_0 = A z + B s + b,  h_k = h_{k-1} + V_k silu(U_k silu(h_{k-1}) + u_k) + v_k,  g = w . silu(h) + c.
    """

    def __init__(self, dim: int, features: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.from_theta = nn.Linear(dim, hidden, bias=False)
        self.from_x = nn.Linear(features, hidden)
        self.first = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks))
        self.second = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(blocks))
        self.last = nn.Linear(hidden, 1)

    def forward(self, z: Tensor, entered: Tensor) -> Tensor:
        """g of z (*n, batch, D) and of B s + b (batch, H): (*n, batch)."""
        h = self.from_theta(z) + entered
        for first, second in zip(self.first, self.second, strict=True):
            h = h + second(F.silu(first(F.silu(h))))
        return self.last(F.silu(h)).squeeze(-1)


def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Ratio:
    """Ratio estimator with its default settings."""
    return Ratio(prior, observables, seed=seed)


def _check_settings(contrasts: int, gamma: float | int, balance: float | int, hidden: int, blocks: int) -> None:
    check_positive(contrasts=contrasts, hidden=hidden, blocks=blocks)
    for name, value, good in (("gamma", gamma, 0 < gamma < math.inf), ("balance", balance, 0 <= balance < math.inf)):
        if not good:
            raise ValueError(
                f"{name} must be a {'positive' if name == 'gamma' else 'non-negative'} number, got {value}"
            )
