r"""A way to learn in one file. Copy it to `sciinf/training/estimators/NAME.py` and change it; `--estimator NAME` then
finds it.

This one is the simplest there is: amortized posterior estimation with a single Gaussian,

    q(z | x) = N(z; m(s(x)), L(s(x)) L(s(x))^T),

whose mean m (batch, D) and lower triangular L (batch, D, D) are linear in the features s(x) (batch, F), the
diagonal of L through an exponential. z = z(theta) (batch, D) is the prior's bijection to R^D, so in the parameters'
own units

    log q(theta | x) = log q(z | x) + log |det dz / dtheta|.

Begin yours like this: the formula, its symbols with their shapes, and the paper.

References:
    | Fast epsilon-free inference of simulation models with Bayesian conditional density estimation
      (Papamakarios & Murray, 2016), https://arxiv.org/abs/1605.06376
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sciinf.core import Batch, Density, Estimator, Observable, Prior, X
from sciinf.core.prior import global_seed
from sciinf.core.summary import SummaryNetwork
from sciinf.networks.summaries.choice import choose
from sciinf.networks.summaries.standardise import Standardise


class Gaussian(Estimator):
    """Amortized posterior estimation with one Gaussian in R^D.

    Args:
        prior: The prior.
        observables: What the simulator produces.
        seed: Seeds the initial weights.
    """

    # 1. Arguments are plain values, priors, observables or other components: they are what `fit.json` writes down.
    def __init__(self, prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> None:
        super().__init__()
        self.prior, self.observables = prior, dict(observables)
        masks = {f"{name}_mask" for name in self.observables}
        self.names = [name for name in self.observables if name not in masks]
        self.standardise_x = Standardise(self.observables)
        with global_seed(torch.Generator().manual_seed(seed)):
            networks = [self._summary(name) for name in self.names]
            width = sum(network.features for network in networks)
            self.summaries = nn.ModuleList(networks)
            self.head = nn.Linear(width, len(prior) + len(prior) ** 2)

    def _summary(self, name: str) -> SummaryNetwork:
        spec, masked = self.observables[name], f"{name}_mask" in self.observables
        return choose(spec, masked).build(spec, masked=masked)

    # 2. One pass over the training rows before training; what it finds goes into buffers, so that it is saved.
    def standardise(self, batches: Callable[[], Iterator[Batch]]) -> None:
        self.standardise_x.fit(batches)

    # 3. The learned summary of x. The check of an observation looks at it too.
    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        values = self.standardise_x(x)
        pairs = zip(self.names, self.summaries, strict=True)
        return torch.cat([network(values[name], x.get(f"{name}_mask")) for name, network in pairs], dim=-1)

    # 4. The loss, one number a row. Whatever noise it needs comes from `generator`.
    def loss(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, " batch"]:
        return -_log_normal(self.prior.bijection.forward(batch.theta), *self._law(self.features(batch.x)))

    # 5. The density of theta given x. x is embedded here, once, however many draws are asked for.
    def condition(self, x: X) -> Density:
        with torch.no_grad():
            device = self.head.weight.device
            return _GaussianDensity(self.prior, *self._law(self.features({k: v.to(device) for k, v in x.items()})))

    def _law(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """m (batch, D) and L (batch, D, D)."""
        d = len(self.prior)
        mean, entries = self.head(features).split([d, d * d], dim=-1)
        entries = entries.unflatten(-1, (d, d))
        return mean, entries.tril(-1) + torch.diag_embed(entries.diagonal(dim1=-2, dim2=-1).exp())


class _GaussianDensity(Density):
    """q(theta | x) for a batch of observations: m (batch, D), L (batch, D, D)."""

    def __init__(self, prior: Prior, mean: Tensor, root: Tensor) -> None:
        self.prior, self.mean, self.root = prior, mean, root

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        noise = torch.randn(n, *self.mean.shape, generator=generator, device=generator.device).to(self.mean.device)
        return self.prior.bijection.inverse(self.mean + (self.root @ noise[..., None])[..., 0])

    @torch.no_grad()
    def log_prob(self, theta: Float[Tensor, "*n batch theta"]) -> Float[Tensor, "*n batch"]:
        theta = theta.to(self.mean.device)
        inside = torch.isfinite(self.prior.log_prob(theta))
        safe = torch.where(inside[..., None], theta, self.prior.bijection.inverse(torch.zeros_like(theta)))
        bijection = self.prior.bijection
        log_q = _log_normal(bijection.forward(safe), self.mean, self.root) + bijection.log_abs_det_jacobian(safe)
        return torch.where(inside, log_q, -math.inf)


def _log_normal(z: Tensor, mean: Tensor, root: Tensor) -> Tensor:
    noise = torch.linalg.solve_triangular(root, (z.to(mean.dtype) - mean)[..., None], upper=False)[..., 0]
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * noise.square().sum(-1) - log_det - 0.5 * z.shape[-1] * math.log(2 * math.pi)


# 6. What `--estimator NAME` calls.
def build(prior: Prior, observables: Mapping[str, Observable], *, seed: int = 0) -> Gaussian:
    """The estimator with its defaults."""
    return Gaussian(prior, observables, seed=seed)
