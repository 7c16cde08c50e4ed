"""The posterior as the network gives it: one pass per question, for any observation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Fit, PairedDensity, Posterior, X
from sciinf.core.estimator import PushedDensity
from sciinf.core.fit import failed_of, trained_on
from sciinf.posteriors.learned import LearnedPosterior

_FEW = 0.005  # share of simulations that may fail without leaving a part of the prior unlearned


class Amortised(LearnedPosterior):
    """The fitted density itself.

    Args:
        fit: What `train` returned or `load_fit` read.
    """

    def __init__(self, fit: Fit) -> None:
        self.name = "amortised"
        self.digest = fit.digest
        store = fit.record["store"]
        self.under = store.get("proposal")
        self.scope = (
            "learned from simulations of a proposal, it is not the posterior under the prior" if self.under else ""
        )
        self.failed = failed_of(fit)
        # Where simulations fail, nothing was learned: weights must be given draws from there by another law.
        self.whole = self.failed <= _FEW * (store.get("used", 0) + self.failed)
        self.trained_on = trained_on(fit)
        self.estimator = fit.estimator
        self.prior, self.observables = fit.estimator.prior, fit.estimator.observables

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        return self.estimator.density(x).sample(n, generator=generator).cpu()

    def draw_within(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        return self.estimator.density(x).sample_within(n, generator=generator).cpu()

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        return self.estimator.density(x).log_prob(theta).cpu()

    @torch.no_grad()
    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        device = next(self.estimator.buffers()).device
        return self.estimator.features({name: value.to(device) for name, value in x.items()}).cpu()


def pushed(posterior: Posterior, x: X) -> PushedDensity | None:
    """The density that the draws of an answer are pushed by, for a batch of observations; None where they are not.

    Args:
        posterior: What answers.
        x: The observations, name -> (batch, *event).
    """
    if not isinstance(posterior, Amortised):
        return None
    density = posterior.estimator.density(x)
    return density if isinstance(density, PushedDensity) else None


def draw_to_weigh(
    posterior: Posterior, x: X, n: int, *, generator: torch.Generator
) -> tuple[Float[Tensor, "n theta"], Float[Tensor, " n"]]:
    """Draws for one observation, and the log density to weight each by (see `PairedDensity`), float64."""
    density = _paired(posterior, x)
    if density is not None:
        theta, log_r = density.sample_to_weigh(n, generator=generator)
        return theta[:, 0].cpu(), log_r[:, 0].cpu().double()
    theta = posterior.draw_batched(x, n, generator=generator)
    return theta[:, 0], posterior.log_prob_batched(theta, x)[:, 0].double()


def log_prob_to_weigh(
    posterior: Posterior, theta: Float[Tensor, "n theta"], x: X, *, generator: torch.Generator
) -> Float[Tensor, " n"]:
    """The same log density of theta drawn elsewhere."""
    density = _paired(posterior, x)
    if density is not None:
        return density.log_prob_to_weigh(theta[:, None], generator=generator)[:, 0].cpu().double()
    return posterior.log_prob_batched(theta[:, None], x)[:, 0].double()


def _paired(posterior: Posterior, x: X) -> PairedDensity | None:
    if not isinstance(posterior, Amortised):
        return None
    density = posterior.estimator.density(x)
    return density if isinstance(density, PairedDensity) else None
