r"""A posterior times a factor of the parameters: draws take weights, and nothing is learned again.

The use of it is P(ok | theta), the probability that a simulation succeeds (`diagnostics.failures` says which of the two
is wanted, and when neither). A network that was trained on the successes of theta ~ p(theta) has learned

    p(theta | x, ok)  ~  p(theta) P(ok | theta) p(x | theta, ok),

and the posterior under the prior as written is that times 1 / P(ok | theta). A posterior by a likelihood is without
the factor, and takes P(ok | theta) where success is a part of what was observed.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from sciinf.core import Draws, Posterior, X
from sciinf.posteriors.ensemble import Ensemble
from sciinf.posteriors.learned import LearnedPosterior, holds_for
from sciinf.posteriors.mcmc import MCMC
from sciinf.posteriors.reweighted import Reweighted, pareto_k

_MOST = 10  # times the draws asked for
_RELIABLE_K = 0.7


class Tilted(Posterior):
    """Draws of a posterior, weighted by a factor that is bounded.

    Args:
        proposal: The posterior.
        log_factor: theta (n, D) -> log of the factor, (n,), up to a constant.
        words: What the factor is, as in "weighted by ...".
        digest: Of what the factor was made from.
    """

    def __init__(self, proposal: Posterior, log_factor: Callable[[Tensor], Tensor], words: str, digest: str) -> None:
        self.proposal, self.log_factor = proposal, log_factor
        self.name = f"{proposal.name}, weighted by {words}"
        self.digest = hashlib.sha256(f"{proposal.digest} {words} {digest}".encode()).hexdigest()
        self.trained_on, self.under = proposal.trained_on, proposal.under
        self.scope, self.observation = holds_for(proposal), proposal.observation
        self.prior, self.observables = proposal.prior, proposal.observables

    def draw(self, x: X, n: int, *, generator: torch.Generator) -> Draws:
        """Weighted draws whose effective number is n, if ten times as many draws are enough for that.

        Raises:
            ValueError: If the factor is 0 at every draw.

        Warns:
            UserWarning: If k-hat says not to rely on the weights.
        """
        found = self._weighted(self._drawn(x, n, generator))
        if found.ess < n:
            more = min(_MOST * n, math.ceil(1.1 * n * len(found) / found.ess))
            found = self._weighted(self._drawn(x, more, generator))
        if found.pareto_k is not None and found.pareto_k > _RELIABLE_K:
            words = f"Pareto k = {found.pareto_k:.2f} > {_RELIABLE_K}: the weights of the factor cannot be relied on"
            warnings.warn(words, stacklevel=3)
        return found

    def _drawn(self, x: X, n: int, generator: torch.Generator) -> Draws:
        draw = self.proposal.draw_all if isinstance(self.proposal, LearnedPosterior) else self.proposal.draw
        return draw(x, n, generator=generator)

    def _weighted(self, draws: Draws) -> Draws:
        factor = self.log_factor(draws.theta).double()
        log_weight = draws.log_weight + factor
        if not bool((log_weight > -math.inf).any()):
            raise ValueError(
                f"{self.name}: all {len(draws):,} draws have weight 0, for next to no simulation succeeds where they "
                "are; mend the simulator, or narrow the prior"
            )
        evidence = draws.log_evidence
        if evidence is not None:
            evidence += float(torch.logsumexp(draws.weights.log() + factor, dim=0))
        k = pareto_k(log_weight)
        return replace(draws, log_weight=log_weight, log_evidence=evidence, pareto_k=k)

    def draw_batched(self, x: X, n: int, *, generator: torch.Generator) -> Float[Tensor, "n batch theta"]:
        """Resampled from four times as many."""
        draws = self.proposal.draw_batched(x, 4 * n, generator=generator)
        each = []
        for theta in draws.unbind(dim=1):
            one = self._weighted(Draws(self.prior.names, self.prior.units, theta, torch.zeros(len(theta)).double()))
            each.append(one.resample(n, generator=generator))
        return torch.stack(each, dim=1)

    def log_prob_batched(self, theta: Float[Tensor, "n batch theta"], x: X) -> Float[Tensor, "n batch"]:
        """With the constant estimated from draws of the proposal (a fixed seed: the same each time)."""
        generator = torch.Generator().manual_seed(0)
        draws = self.proposal.draw_batched(x, 4_000, generator=generator)
        flat = draws.reshape(-1, draws.shape[-1])
        mean = self.log_factor(flat).reshape(draws.shape[:-1]).logsumexp(dim=0) - math.log(len(draws))
        factor = self.log_factor(theta.reshape(-1, theta.shape[-1])).reshape(theta.shape[:-1])
        return self.proposal.log_prob_batched(theta, x) + factor - mean

    def features(self, x: X) -> Float[Tensor, "batch feature"]:
        return self.proposal.features(x)


def layers(posterior: Posterior) -> list[Posterior]:
    """A posterior, what it weights, and so on down to what was learned."""
    found = [posterior]
    while isinstance(found[-1], Reweighted | Tilted):
        found.append(found[-1].proposal)
    return found


def by_likelihood(posterior: Posterior) -> bool:
    """Whether a posterior is the prior as written times a likelihood, and not what a network makes of the successes."""
    learned = layers(posterior)[-1]
    first = learned.members[0] if isinstance(learned, Ensemble) else learned
    return judged_by_simulator(posterior) or isinstance(first, MCMC)


def judged_by_simulator(posterior: Posterior) -> bool:
    """Whether the likelihood is the simulator's own, which holds also where nothing was learned."""
    return any(isinstance(layer, Reweighted) for layer in layers(posterior))


def learned_without(posterior: Posterior) -> int:
    """How many simulations failed, and are missing from what was learned."""
    learned = layers(posterior)[-1]
    return learned.failed if isinstance(learned, LearnedPosterior) else 0
